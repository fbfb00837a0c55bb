"""The contract of plugins, as checks for their authors' own tests.

::

    from autotl.testing import check

    def test_my_head():
        assert check(my_head) >= 1

``check`` tries a plugin on a toy backbone and on images made in memory: with its defaults, at both
ends of every range, with every choice, and with each conditional keyword's condition met. It takes
a few seconds and needs no file, no network and no GPU. Plugins of another kind of input are tried
on the toy examples of that kind, which ``check_input_kind`` checks::

    def test_my_kind():
        check_input_kind(my_kind, backbone=my_backbone)
        assert check(my_backbone, kind=my_kind) >= 1

``configurations`` lists what is tried, ``harness`` builds and trains models with it, ``violations``
collects what is wrong, ``toy`` has the backbones, images and companions. ``contract`` checks what
holds for every kind of plugin, ``kinds``, ``augmentations``, ``datasets``, ``losses``, ``metrics``,
``unlabelled`` and ``tasks`` what holds for one, ``toy_tasks`` has the tasks that losses and metrics
are tried on, ``network`` what holds for models with a plugin's backbone or head, ``model_inputs``
what holds for the input of a backbone, and ``input_kinds`` what holds for a kind of input.

Shapes: B images in a batch, N in the validation split, S their side in pixels, C classes,
F features.
"""

from __future__ import annotations

from autotl.errors import PluginError
from autotl.space.input_kind import InputKind
from autotl.space.plugin import AnyPlugin
from autotl.testing.configurations import configurations
from autotl.testing.contract import Examination, examine, examine_input_kind

__all__ = [
    "Examination",
    "check",
    "check_input_kind",
    "configurations",
    "examine",
    "examine_input_kind",
]


def check(
    plugin: AnyPlugin,
    *,
    backbone: AnyPlugin | None = None,
    source: str = "",
    kind: InputKind | None = None,
) -> int:
    """Raise an error if a plugin breaks the contract of its kind.

    Args:
        plugin: Any plugin. Of a family of backbones, the first default member is tried.
        backbone: The backbone plugin to try it on, if it is incompatible with the toy backbones
            (a network of four convolutional blocks, and a transformer of three blocks), or if its
            inputs are no images.
        source: For a dataset plugin, a source to read. Without one only its declaration is
            checked.
        kind: What the examples are that it is tried on; images by default. It is needed for
            ``@backbone(input=...)``, ``@augment(input=...)`` and ``@dataset(input=...)``.

    Returns:
        Number of configurations that were tried, at least 1.

    Raises:
        PluginError: The plugin breaks the contract. The message has one line for each violation,
            which says what to do.
    """
    examination = examine(plugin, backbone=backbone, source=source, kind=kind)
    if examination.broken:
        raise PluginError("\n".join(examination.broken))
    return examination.configurations


def check_input_kind(kind: InputKind, *, backbone: AnyPlugin | None = None) -> None:
    """Raise an error if a kind of input breaks its contract.

    Args:
        kind: The kind, whose toy examples are used.
        backbone: A backbone that its items are encoded for; not needed by a kind that becomes
            images.

    Raises:
        PluginError: The kind breaks the contract. The message has one line for each violation,
            which says what to do.
    """
    examination = examine_input_kind(kind, backbone=backbone)
    if examination.broken:
        raise PluginError("\n".join(examination.broken))
