"""Backbones: timm's models with random weights, ``scratch:NAME``, or a folder's, ``source:NAME``.

In a search with ``source:NAME``, ``NAME`` has the public weights, so that random, own and public
weights of one architecture can be compared. timm and torch are imported inside the functions, so
that listing plugins stays fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotl.errors import OtherFamily, PluginError, WeightsError, did_you_mean
from autotl.space.plugin import Weights, backbone

from . import backbones
from .weights_files import SUFFIXES, find_in_folder

if TYPE_CHECKING:
    from torch import nn

SCRATCH, SOURCE = "scratch:", "source:"

WITHOUT_LICENCE = "not needed"
"""The licence of random weights."""


def _list_members(prefix: str, patterns: Sequence[str]) -> list[str]:
    """List the models of timm that patterns with a prefix match; without patterns none.

    Raises:
        PluginError: timm has no such model, or there is no such set.
    """
    names: list[str] = []
    for pattern in patterns:
        _refuse(prefix, pattern)
        own = pattern.removeprefix(prefix)
        names += [prefix + name for name in backbones.list_models(own, pretrained=False)]
    return list(dict.fromkeys(names))


def _refuse(prefix: str, pattern: str) -> None:
    """Refuse a pattern without the prefix, or one that matches no model of timm.

    Raises:
        PluginError: timm has no such model, or there is no such set.
    """
    if not pattern.startswith(prefix):
        raise OtherFamily(f"{pattern!r} does not begin with {prefix}")
    own = pattern.removeprefix(prefix)
    if ":" in own:
        raise PluginError(
            f"{pattern!r} is not a valid backbone: expected {prefix}NAME, with timm's NAME"
        )
    backbones.refuse(own)


def scratch_members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """List the models that ``scratch:`` patterns match, see ``backbones.members``."""
    return _list_members(SCRATCH, patterns)


def refuse_scratch(pattern: str) -> None:
    """Refuse a pattern that matches nothing, see ``backbones.refuse``."""
    _refuse(SCRATCH, pattern)


def locate_random(name: str, folder: Path | None) -> Weights:
    """The description of random weights; the folder is not read."""
    weights = Weights("random weights", WITHOUT_LICENCE, is_random=True)
    return backbones.describe(name.removeprefix(SCRATCH), weights)


@backbone(
    name="scratch",
    members=scratch_members,
    locate=locate_random,
    refuse=refuse_scratch,
    variant_of="timm",
    requires=["timm>=1.0"],
)
def scratch_model(
    name: str, weights: Weights | None, size: int | None, in_chans: int = 3
) -> nn.Module:
    """Any image model of timm with random weights, as a baseline that is trained from scratch.

    Args:
        name: One of ``scratch_members``.
        weights: Not used.
        size: Side of the input images in pixels; None for the model's own.
        in_chans: Number of channels of the images.

    Returns:
        What ``backbones.timm_model`` returns.

    Raises:
        Incompatible: The model does not accept images of that size, or of so many channels.
    """
    return backbones.timm_model(name.removeprefix(SCRATCH), None, size, in_chans)


def source_members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """List the models that ``source:`` patterns match, see ``backbones.members``."""
    return _list_members(SOURCE, patterns)


def refuse_source(pattern: str) -> None:
    """Refuse a pattern that matches nothing, see ``backbones.refuse``."""
    _refuse(SOURCE, pattern)


def locate_source(name: str, folder: Path | None) -> Weights:
    """Find the weights of a model in a folder.

    Args:
        name: One of ``source_members``.
        folder: As in ``backbones.locate``.

    Raises:
        WeightsError: There is no folder, or it has no weights of the model.
    """
    plain = name.removeprefix(SOURCE)
    if folder is None:
        raise WeightsError(f"give the folder with the weights of {plain} with --weights")
    stems = backbones.list_stems(plain)
    if weights := find_in_folder(stems, folder, "unknown"):
        return backbones.describe(plain, weights)
    there = [file.stem for file in folder.iterdir() if file.suffix in SUFFIXES]
    raise WeightsError(f"no weights of {plain} in {folder}; {did_you_mean(plain, there)}")


@backbone(
    name="source",
    members=source_members,
    locate=locate_source,
    refuse=refuse_source,
    variant_of="timm",
    owns_folder=True,
    requires=["timm>=1.0"],
)
def source_model(
    name: str, weights: Weights | None, size: int | None, in_chans: int = 3
) -> nn.Module:
    """Any image model of timm with the weights in a folder, such as those of source training.

    Args:
        name: One of ``source_members``.
        weights: From ``locate_source``; None for random weights.
        size: Side of the input images in pixels; None for that of the weights.
        in_chans: Number of channels of the images.

    Returns:
        What ``backbones.timm_model`` returns.

    Raises:
        Incompatible: The model does not accept images of that size, or of so many channels.
        WeightsError: The weights cannot be read, or belong to another model.
    """
    return backbones.timm_model(name.removeprefix(SOURCE), weights, size, in_chans)
