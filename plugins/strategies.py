"""Freeze strategies: return the parameter groups that learn and how fast; all else is frozen.

Learning rates are those of an Adam-like optimizer. The defaults are tried in the order of their
cost, so that a short budget still sees several of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING, Annotated

from autotl import Incompatible, Range, freeze

if TYPE_CHECKING:
    from autotl.model import Group, Model

HeadRate = Annotated[float, Range(3e-4, 3e-2, log=True)]
Rate = Annotated[float, Range(3e-5, 3e-3, log=True)]


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


@freeze(order=4)
def full(
    model: Model, *, lr: Rate = 1e-3, decay: Annotated[float, Range(0.6, 1.0)] = 0.9
) -> list[Group]:
    """Train all, each block slower than the one above (Howard & Ruder 2018, arXiv:1801.06146)."""
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
    blocks = model.blocks
    if len(blocks) < 2:
        raise Incompatible("last_blocks needs a backbone of several blocks; this one has one")
    top = [p for block in blocks[-ceil(share * len(blocks)) :] for p in block]
    return [{"params": [*model.head.parameters(), *top], "lr": lr}]


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
