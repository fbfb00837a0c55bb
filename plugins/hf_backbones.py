"""Backbones: image encoders of transformers, in a folder or of the hub, ``hf:NAME``.

torch and transformers are imported inside the functions, so that listing plugins stays fast.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autotl.errors import OtherFamily
from autotl.space.plugin import Weights, backbone

from .hub import HUB, find_source, find_weights, refuse_name

if TYPE_CHECKING:
    from torch import nn


def members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """List the models that are named, in their order; without patterns none.

    Args:
        patterns: ``hf:NAME`` for a model of the hub, ``hf:FOLDER`` for one in a folder, which
            begins with ``.``, ``/`` or ``~``.
        device: Not used.
        seconds: Not used.

    Raises:
        PluginError: A name is neither.
    """
    for pattern in patterns:
        refuse(pattern)
    return list(dict.fromkeys(patterns))


def refuse(pattern: str) -> None:
    """Refuse what is neither a valid name of the hub nor a folder.

    Raises:
        PluginError: It is neither.
    """
    if not pattern.startswith(HUB):
        raise OtherFamily(f"models of transformers are named {HUB}NAME, not {pattern!r}")
    refuse_name(pattern)


def locate(name: str, folder: Path | None) -> Weights:
    """Find the source of the weights of a model; downloads no weights.

    Looks in ``folder`` and in the cache of the hub, and asks the hub.

    Args:
        name: One of ``members``.
        folder: May contain a folder with the name of the model, without ``hf:``.

    Raises:
        WeightsError: They are found nowhere, or the files are not those of an image encoder.
    """
    weights = find_weights(name.removeprefix(HUB), folder)
    if weights.file is None:
        return weights  # its configuration is not here yet
    return replace(weights, parameters=_count_parameters(str(weights.file.parent)))


@functools.cache
def _count_parameters(source: str) -> int | None:
    """Count the parameters of a model; None without transformers, which is reported elsewhere."""
    try:
        from . import hf_network
    except ImportError:
        return None
    return hf_network.count_parameters(source)


@backbone(name="hf", members=members, locate=locate, refuse=refuse, requires=["transformers>=5.0"])
def hf_model(
    name: str,
    weights: Weights | None,
    size: int | None,
    saved: Path | None = None,
    in_chans: int = 3,
) -> nn.Module:
    """Any image encoder of transformers (Wolf et al. 2020, arXiv:1910.03771).

    Args:
        name: One of ``members``.
        weights: From ``locate``; None for random weights.
        size: Side of the input images in pixels; None for the model's own.
        saved: The folder of a saved model, from which it is built with random weights.
        in_chans: Number of channels of the images.

    Returns:
        ``images [B, in_chans, size, size] -> features [B, width]``, in training mode, with timm's
        interface. Features are what the model pools without a layer for it, else the class token,
        else the mean over the positions.

    Raises:
        Incompatible: The model does not accept images of that size.
        WeightsError: The model cannot be downloaded or read, or is no image encoder.
    """
    from . import hf_network

    source = str(saved) if saved else find_source(name.removeprefix(HUB), weights)
    is_pretrained = weights is not None and saved is None
    load = hf_network.load if is_pretrained else hf_network.load_untrained
    return hf_network.make_backbone(load(source), name, size, in_chans)
