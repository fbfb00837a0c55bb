"""Freeze strategies: return the parameter groups that learn and how fast; all else is frozen.

Learning rates are those of an Adam-like optimizer. The defaults are tried in the order of their
cost, so that a short budget still sees several of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

from autotl import Incompatible, Range, freeze

if TYPE_CHECKING:
    from torch import nn

    from autotl.models import Group, Model

HeadRate = Annotated[float, Range(3e-4, 3e-2, log=True)]
Rate = Annotated[float, Range(3e-5, 3e-3, log=True)]

NORM = re.compile("norm(?!free)", re.IGNORECASE)
"""What names a normalisation layer, and not a block that does without."""


@freeze(order=1)
def linear_probe(model: Model, *, lr: HeadRate = 3e-3) -> list[Group]:
    """Train the head alone on frozen features (Alain & Bengio 2016, arXiv:1610.01644)."""
    return [{"params": model.head.parameters(), "lr": lr}]


@freeze(order=3)
def lp_ft(
    model: Model,
    epochs: int,
    *,
    probe: Annotated[float, Range(0.1, 0.6)] = 0.3,
    probe_lr: HeadRate = 3e-3,
    lr: Rate = 5e-4,
) -> Iterator[list[Group]]:
    """Train the head first, then everything (LP-FT: Kumar et al. 2022, arXiv:2202.10054)."""
    for _ in range(ceil(probe * epochs)):
        yield [{"params": model.head.parameters(), "lr": probe_lr}]
    yield [{"params": model.parameters(), "lr": lr}]


@freeze
def full(model: Model, *, lr: Rate = 1e-3) -> list[Group]:
    """Train everything at one learning rate (Kornblith et al. 2018, arXiv:1805.08974)."""
    return [{"params": model.parameters(), "lr": lr}]


@freeze(order=4)
def layer_decay(
    model: Model, *, lr: Rate = 1e-3, decay: Annotated[float, Range(0.6, 1.0)] = 0.9
) -> list[Group]:
    """Train all, each block slower than the one above (Howard & Ruder 2018, arXiv:1801.06146).

    Transformers are fine-tuned like this as well (BEiT: Bao et al. 2021, arXiv:2106.08254).
    """
    groups: list[Group] = [{"params": model.head.parameters(), "lr": lr}]
    for height, block in enumerate(reversed(model.blocks), start=1):
        groups.append({"params": block, "lr": lr * decay**height})
    return groups


@freeze(order=2)
def last_blocks(
    model: Model, *, share: Annotated[float, Range(0.1, 0.9)] = 0.3, lr: Rate = 2e-3
) -> list[Group]:
    """Train the head and the top share of the blocks (Yosinski et al. 2014, arXiv:1411.1792).

    It is a share of the number of blocks; the top blocks hold most of the parameters.
    """
    return [{"params": [*model.head.parameters(), *top(model, share)], "lr": lr}]


@freeze
def gradual(
    model: Model,
    epochs: int,
    *,
    until: Annotated[float, Range(0.3, 1.0)] = 0.7,
    lr: Rate = 1e-3,
) -> Iterator[list[Group]]:
    """Unfreeze from the top, a few blocks an epoch (Howard & Ruder 2018, arXiv:1801.06146).

    Everything learns from the share ``until`` of the epochs on.
    """
    blocks = model.blocks
    last = max(1, round(until * epochs))
    for epoch in range(last + 1):
        first = len(blocks) - round(len(blocks) * epoch / last)
        learning = [p for block in blocks[first:] for p in block]
        yield [{"params": [*model.head.parameters(), *learning], "lr": lr}]


@freeze
def surgical(
    model: Model,
    *,
    place: Annotated[float, Range(0.0, 1.0)] = 0.5,
    lr: Rate = 1e-3,
    share: float = 0.25,
) -> list[Group]:
    """Train the head and blocks of one place only (Lee et al. 2022, arXiv:2210.11466).

    ``place`` 0 is the stem, 1 the top. The ``share`` of the blocks that learns there is about
    what a stage of a convolutional network has.
    """
    blocks = several_blocks(model)
    count = ceil(share * len(blocks))
    first = round(place * (len(blocks) - count))
    chosen = [p for block in blocks[first : first + count] for p in block]
    return [{"params": [*model.head.parameters(), *chosen], "lr": lr}]


@freeze
def norms(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Train the head and the normalisation layers (Frankle et al. 2020, arXiv:2003.00152)."""
    return _with_head(model, affine(model), lr)


@freeze
def biases(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Train the head and all biases (BitFit: Ben Zaken et al. 2021, arXiv:2106.10199)."""
    return _with_head(model, _biases(model), lr)


@freeze
def norms_and_biases(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Train the head, norms and biases (as part of TinyTL: Cai et al. 2020, arXiv:2007.11622)."""
    both = dict.fromkeys([*affine(model), *_biases(model)])  # the bias of a norm is in both
    return _with_head(model, list(both), lr)


# What strategies choose among.


def several_blocks(model: Model) -> list[list[nn.Parameter]]:
    """The blocks of a backbone, stem first; raises ``Incompatible`` where it has only one."""
    blocks = model.blocks
    if len(blocks) < 2:
        raise Incompatible("a part of the blocks was asked for, and this backbone has only one")
    return blocks


def top(model: Model, share: float) -> list[nn.Parameter]:
    """The parameters of the top ``share`` of the blocks; raises as ``several_blocks``."""
    blocks = several_blocks(model)
    return [p for block in blocks[-ceil(share * len(blocks)) :] for p in block]


def affine(model: Model) -> list[nn.Parameter]:
    """The scales and shifts of the backbone's normalisation layers.

    Such a layer is known by the name of its class: timm alone has 16 of them.
    """
    layers = [m for m in model.backbone.modules() if NORM.search(type(m).__name__)]
    return [p for layer in layers for p in layer.parameters(recurse=False)]


def rest_statistics(model: Model) -> None:
    """Let BatchNorm compute with the statistics it was trained with, while its scale learns.

    Where the weights stay, those of a small batch only disturb: with them, an EfficientNet-Lite0
    whose norms learned from 300 digits had 0.56 right instead of 0.91.
    """
    for layer in model.backbone.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.register_forward_pre_hook(_rest)


def _rest(layer: nn.Module, inputs: Any) -> None:
    layer.eval()  # each time, as every epoch begins in train mode


def _biases(model: Model) -> list[nn.Parameter]:
    return [p for name, p in model.backbone.named_parameters() if name.endswith("bias")]


def _with_head(model: Model, small: list[nn.Parameter], lr: float) -> list[Group]:
    if not small:
        raise Incompatible("this backbone has no parameters of the kind that was to learn")
    rest_statistics(model)
    return [{"params": [*model.head.parameters(), *small], "lr": lr}]
