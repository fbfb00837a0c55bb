"""The contract of plugins, for authors' own tests.

::

    from autotl.testing import check

    def test_my_head():
        assert check(my_head) >= 1

``check`` tries a plugin on a toy backbone and pictures made in memory: at its defaults, at both
ends of every range, at every choice, and each keyword that has a condition with the condition met.
It takes a few seconds and needs no file, no network and no GPU.

``toy`` has what plugins are tried on, ``bench`` builds and trains, ``contract`` has what holds
for every kind, ``kinds`` what holds for one, ``network`` what holds for networks.
"""

from __future__ import annotations

from autotl.errors import PluginError
from autotl.space.registry import AnyPlugin
from autotl.testing.bench import configurations
from autotl.testing.contract import Examination, examine

__all__ = ["Examination", "check", "configurations", "examine"]


def check(plugin: AnyPlugin, *, backbone: AnyPlugin | None = None, source: str = "") -> int:
    """Refuse a plugin that breaks the contract of its kind.

    Args:
        plugin: Any plugin; of a family of backbones, its first default member is tried.
        backbone: What to try it on, if it cannot work with the toy ones (four convolutional
            blocks; a transformer of three).
        source: For a dataset plugin: a source to read. Without one only its declaration is
            checked.

    Returns:
        How many configurations were tried, 1 at least.

    Raises:
        PluginError: Something broke; the message has one sentence for each thing, on a line of
            its own, that says what to do.
    """
    found = examine(plugin, backbone=backbone, source=source)
    if found.broken:
        raise PluginError("\n".join(found.broken))
    return found.configurations
