"""Freeze strategies: they return the parameter groups to train; all other parameters are frozen.

Learning rates are those of an Adam-like optimizer. The defaults are tried in the order of their
cost, so that a short budget still covers several of them.
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
"""Matches the class names of normalisation layers, but not those of blocks without any."""


@freeze(order=1)
def linear_probe(model: Model, *, lr: HeadRate = 3e-3) -> list[Group]:
    """Train the head alone on frozen features (Alain & Bengio 2016, arXiv:1610.01644)."""
    return [{"params": model.head.parameters(), "lr": lr}]


@freeze(order=3)
def lp_ft(
    model: Model,
    epochs: int,
    *,
    probe_fraction: Annotated[float, Range(0.1, 0.6)] = 0.3,
    probe_lr: HeadRate = 3e-3,
    lr: Rate = 5e-4,
) -> Iterator[list[Group]]:
    """Train the head first, then everything (LP-FT: Kumar et al. 2022, arXiv:2202.10054).

    ``probe_fraction`` is the fraction of the epochs in which only the head is trained, rounded up.
    """
    for _ in range(ceil(probe_fraction * epochs)):
        yield [{"params": model.head.parameters(), "lr": probe_lr}]
    yield [{"params": model.parameters(), "lr": lr}]


@freeze(from_scratch=True)
def full(model: Model, *, lr: Rate = 1e-3) -> list[Group]:
    """Train everything at one learning rate (Kornblith et al. 2018, arXiv:1805.08974)."""
    return [{"params": model.parameters(), "lr": lr}]


@freeze(order=4)
def layer_decay(
    model: Model, *, lr: Rate = 1e-3, decay: Annotated[float, Range(0.6, 1.0)] = 0.9
) -> list[Group]:
    """Train all with layer-wise decayed rates (Howard & Ruder 2018, arXiv:1801.06146).

    The rate of each block is ``decay`` times that of the next one; the head has ``lr``. Also used
    to fine-tune transformers (BEiT: Bao et al. 2021, arXiv:2106.08254).
    """
    groups: list[Group] = [{"params": model.head.parameters(), "lr": lr}]
    for depth, block in enumerate(reversed(model.blocks), start=1):
        groups.append({"params": block, "lr": lr * decay**depth})
    return groups


@freeze(order=2)
def last_blocks(
    model: Model, *, fraction: Annotated[float, Range(0.1, 0.9)] = 0.3, lr: Rate = 2e-3
) -> list[Group]:
    """Train the head and the last blocks (Yosinski et al. 2014, arXiv:1411.1792).

    ``fraction`` is a fraction of the number of blocks, rounded up; the last blocks contain most of
    the parameters.
    """
    return [{"params": [*model.head.parameters(), *last_parameters(model, fraction)], "lr": lr}]


@freeze
def gradual(
    model: Model,
    epochs: int,
    *,
    unfreeze_fraction: Annotated[float, Range(0.3, 1.0)] = 0.7,
    lr: Rate = 1e-3,
) -> Iterator[list[Group]]:
    """Unfreeze a few more blocks in each epoch (Howard & Ruder 2018, arXiv:1801.06146).

    Unfreezing starts with the last block and takes ``unfreeze_fraction`` of the epochs; after that
    everything is trained.
    """
    blocks = model.blocks
    last_epoch = max(1, round(unfreeze_fraction * epochs))
    for epoch in range(last_epoch + 1):
        first = len(blocks) - round(len(blocks) * epoch / last_epoch)
        unfrozen = [p for block in blocks[first:] for p in block]
        yield [{"params": [*model.head.parameters(), *unfrozen], "lr": lr}]


@freeze
def surgical(
    model: Model,
    *,
    position: Annotated[float, Range(0.0, 1.0)] = 0.5,
    lr: Rate = 1e-3,
    fraction: float = 0.25,
) -> list[Group]:
    """Train the head and some consecutive blocks (Lee et al. 2022, arXiv:2210.11466).

    ``position`` 0 is the stem, 1 the last blocks. ``fraction`` is the fraction of the blocks that
    are trained; the default is about one stage of a convolutional network.
    """
    blocks = get_blocks(model)
    count = ceil(fraction * len(blocks))
    first = round(position * (len(blocks) - count))
    trained = [p for block in blocks[first : first + count] for p in block]
    return [{"params": [*model.head.parameters(), *trained], "lr": lr}]


@freeze
def norms(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Train the head and the normalisation layers (Frankle et al. 2020, arXiv:2003.00152)."""
    return _add_head(model, norm_parameters(model), lr)


@freeze
def biases(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Train the head and all biases (BitFit: Ben Zaken et al. 2021, arXiv:2106.10199)."""
    return _add_head(model, _bias_parameters(model), lr)


@freeze
def norms_and_biases(model: Model, *, lr: HeadRate = 5e-3) -> list[Group]:
    """Train the head, norms and biases (as part of TinyTL: Cai et al. 2020, arXiv:2007.11622)."""
    # The bias of a normalisation layer is in both lists.
    both = dict.fromkeys([*norm_parameters(model), *_bias_parameters(model)])
    return _add_head(model, list(both), lr)


# Subsets of parameters.


def get_blocks(model: Model) -> list[list[nn.Parameter]]:
    """The parameters of each block of a backbone, stem first.

    Raises:
        Incompatible: The backbone has only one block.
    """
    blocks = model.blocks
    if len(blocks) < 2:
        raise Incompatible("this strategy trains some of the blocks, but the backbone has only one")
    return blocks


def last_parameters(model: Model, fraction: float) -> list[nn.Parameter]:
    """The parameters of the last blocks.

    Args:
        model: The model, whose backbone must have several blocks.
        fraction: A fraction of the number of blocks, from 0 to 1; rounded up.

    Raises:
        Incompatible: The backbone has only one block.
    """
    blocks = get_blocks(model)
    return [p for block in blocks[-ceil(fraction * len(blocks)) :] for p in block]


def norm_parameters(model: Model) -> list[nn.Parameter]:
    """The scales and shifts of the backbone's normalisation layers.

    Such layers are recognised by the name of their class, because timm alone has 16 of them.
    """
    layers = [m for m in model.backbone.modules() if NORM.search(type(m).__name__)]
    return [p for layer in layers for p in layer.parameters(recurse=False)]


def freeze_statistics(model: Model) -> None:
    """Normalise with the pretrained running statistics, also while scale and shift are trained.

    If the weights are frozen, the statistics of a small batch only add noise: with them, an
    EfficientNet-Lite0 whose norms were trained on 300 digits had an accuracy of 0.56 instead of
    0.91.
    """
    for layer in model.backbone.modules():
        if getattr(layer, "running_mean", None) is not None:
            layer.register_forward_pre_hook(_set_eval)


def _set_eval(layer: nn.Module, inputs: Any) -> None:
    layer.eval()  # in every forward pass, because each epoch starts in train mode


def _bias_parameters(model: Model) -> list[nn.Parameter]:
    return [p for name, p in model.backbone.named_parameters() if name.endswith("bias")]


def _add_head(model: Model, small: list[nn.Parameter], lr: float) -> list[Group]:
    if not small:
        raise Incompatible("this backbone has no parameters of the kind to train")
    freeze_statistics(model)
    return [{"params": [*model.head.parameters(), *small], "lr": lr}]
