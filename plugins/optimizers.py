"""Optimizers for the groups that learn, each with a warm-up and a cosine to zero.

Norms and biases are not decayed: shrinking them regularises nothing and slows learning
(He et al. 2018, arXiv:1812.01187).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler

from autotl import Range, optimizer

if TYPE_CHECKING:
    from autotl.model import Group

Answer = tuple[torch.optim.Optimizer, CosineLRScheduler]
Warmup = Annotated[float, Range(0.0, 0.3)]


@optimizer(order=1)
def adamw(
    groups: list[Group],
    steps: int,
    *,
    weight_decay: Annotated[float, Range(1e-4, 0.3, log=True)] = 0.02,
    warmup: Warmup = 0.1,
) -> Answer:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101)."""
    chosen = torch.optim.AdamW(_decayed(groups, weight_decay))
    return chosen, _cosine(chosen, steps, warmup)


@optimizer
def sgd(
    groups: list[Group],
    steps: int,
    *,
    scale: Annotated[float, Range(3.0, 100.0, log=True)] = 20.0,
    momentum: Annotated[float, Range(0.8, 0.98)] = 0.9,
    weight_decay: Annotated[float, Range(1e-6, 1e-2, log=True)] = 1e-4,
    warmup: Warmup = 0.1,
) -> Answer:
    """SGD with Nesterov's momentum (Sutskever et al. 2013, PMLR 28).

    Strategies give learning rates for Adam; ``scale`` makes them SGD's.
    """
    faster = [{**g, "lr": scale * g["lr"]} for g in _decayed(groups, weight_decay)]
    chosen = torch.optim.SGD(faster, momentum=momentum, nesterov=True)
    return chosen, _cosine(chosen, steps, warmup)


def _decayed(groups: list[Group], weight_decay: float) -> list[Group]:
    """Each group in two: matrices with weight decay, norms and biases without."""
    split = []
    for group in groups:
        for decay, flat in ((weight_decay, False), (0.0, True)):
            some = [p for p in group["params"] if (p.ndim <= 1) == flat]
            split += [{**group, "params": some, "weight_decay": decay}] if some else []
    return split


def _cosine(chosen: torch.optim.Optimizer, steps: int, warmup: float) -> CosineLRScheduler:
    return CosineLRScheduler(
        chosen,
        t_initial=steps,
        warmup_t=round(warmup * steps),
        warmup_prefix=False,
        t_in_epochs=False,
    )
