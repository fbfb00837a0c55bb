"""The contract of plugins, as checks for their authors' own tests.

::

    from autotl.testing import check

    def test_my_head():
        assert check(my_head) >= 1

``check`` tries a plugin on a toy backbone and on images made in memory: with its defaults, at both
ends of every range, with every choice, and with each conditional keyword's condition met. It takes
a few seconds and needs no file, no network and no GPU.

``configurations`` lists what is tried, ``harness`` builds and trains models with it, ``violations``
collects what is wrong, ``toy`` has the backbones, images and companions. ``contract`` checks what
holds for every kind of plugin, ``kinds``, ``augmentations`` and ``datasets`` what holds for one,
and ``network`` what holds for models with a plugin's backbone or head.

Shapes: B images in a batch, N in the validation split, S their side in pixels, C classes,
F features.
"""

from __future__ import annotations

from autotl.errors import PluginError
from autotl.space.registry import AnyPlugin
from autotl.testing.configurations import configurations
from autotl.testing.contract import Examination, examine

__all__ = ["Examination", "check", "configurations", "examine"]


def check(plugin: AnyPlugin, *, backbone: AnyPlugin | None = None, source: str = "") -> int:
    """Raise an error if a plugin breaks the contract of its kind.

    Args:
        plugin: Any plugin. Of a family of backbones, the first default member is tried.
        backbone: The backbone plugin to try it on, if it is incompatible with the toy backbones
            (a network of four convolutional blocks, and a transformer of three blocks).
        source: For a dataset plugin, a source to read. Without one only its declaration is
            checked.

    Returns:
        Number of configurations that were tried, at least 1.

    Raises:
        PluginError: The plugin breaks the contract. The message has one line for each violation,
            which says what to do.
    """
    examination = examine(plugin, backbone=backbone, source=source)
    if examination.broken:
        raise PluginError("\n".join(examination.broken))
    return examination.configurations
