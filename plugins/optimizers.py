"""Optimizers for the groups that learn, each with a warm-up and a cosine to zero.

Norms and biases are not decayed: shrinking them regularises nothing and slows learning
(He et al. 2018, arXiv:1812.01187). A group that brings a ``weight_decay`` keeps its own.

``clip`` is the longest that the gradient of all that learns may be; a longer one is shortened.
Measured on EfficientNet-Lite0, 300 digits and all kinds of strategies: 5 changes nothing for AdamW,
and lets SGD train LoRA, which it blows up without; 1 holds SGD back.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import torch
from timm.optim.lion import Lion
from timm.scheduler.cosine_lr import CosineLRScheduler

from autotl import Range, optimizer

if TYPE_CHECKING:
    from autotl.models import Group

Answer = tuple[torch.optim.Optimizer, CosineLRScheduler]
Warmup = Annotated[float, Range(0.0, 0.3)]


@optimizer(order=1)
def adamw(
    groups: list[Group],
    steps: int,
    *,
    weight_decay: Annotated[float, Range(1e-4, 0.3, log=True)] = 0.02,
    warmup: Warmup = 0.1,
    clip: float = 5.0,
) -> Answer:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101)."""
    split = _decayed(groups, weight_decay)
    chosen = torch.optim.AdamW(split, fused=_can_be_fused(split))
    return _scheduled(chosen, steps, warmup, clip)


@optimizer
def sgd(
    groups: list[Group],
    steps: int,
    *,
    scale: Annotated[float, Range(3.0, 100.0, log=True)] = 20.0,
    momentum: Annotated[float, Range(0.8, 0.98)] = 0.9,
    weight_decay: Annotated[float, Range(1e-6, 1e-2, log=True)] = 1e-4,
    warmup: Warmup = 0.1,
    clip: float = 5.0,
) -> Answer:
    """SGD with Nesterov's momentum (Sutskever et al. 2013, PMLR 28).

    Strategies give learning rates for Adam; ``scale`` makes them SGD's.
    """
    scaled = _scaled(_decayed(groups, weight_decay), scale)
    chosen = torch.optim.SGD(scaled, momentum=momentum, nesterov=True)
    return _scheduled(chosen, steps, warmup, clip)


@optimizer
def lion(
    groups: list[Group],
    steps: int,
    *,
    scale: Annotated[float, Range(0.05, 1.0, log=True)] = 0.4,
    weight_decay: Annotated[float, Range(1e-3, 3.0, log=True)] = 0.1,
    warmup: Warmup = 0.1,
    clip: float = 5.0,
) -> Answer:
    """Lion, which steps by the sign of its momentum (Chen et al. 2023, arXiv:2302.06675).

    Every step is as long as the learning rate, so ``scale`` makes those of the strategies, which
    are Adam's, smaller. At their best rates it, Adan and Muon score alike; Lion keeps one number
    for each parameter and steps fastest, Muon took 10 times as long.
    """
    chosen = Lion(_scaled(_decayed(groups, weight_decay), scale))
    return _scheduled(chosen, steps, warmup, clip)


def _can_be_fused(groups: list[Group]) -> bool:
    """Whether one kernel can step all that learns.

    For EfficientNet-Lite0 on one core, AdamW's step takes 2.6 ms so and 13 ms otherwise. SGD's
    takes 4 ms anyway, and fused it cannot go on when more begins to learn.
    """
    learning = [p for group in groups for p in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in learning)


def _decayed(groups: list[Group], weight_decay: float) -> list[Group]:
    """Each group in two: matrices with weight decay, norms and biases without."""
    split = []
    for group in groups:
        if "weight_decay" in group:
            split.append(group)
            continue
        for decay, flat in ((weight_decay, False), (0.0, True)):
            some = [p for p in group["params"] if (p.ndim <= 1) == flat]
            split += [{**group, "params": some, "weight_decay": decay}] if some else []
    return split


def _scaled(groups: list[Group], scale: float) -> list[Group]:
    return [{**g, "lr": scale * g["lr"]} for g in groups]


def _scheduled(chosen: torch.optim.Optimizer, steps: int, warmup: float, clip: float) -> Answer:
    # The hook knows no parameters: it clips whatever the optimizer that steps has.
    chosen.register_step_pre_hook(partial(_shorten, longest=clip))
    schedule = CosineLRScheduler(
        chosen,
        t_initial=steps,
        warmup_t=round(warmup * steps),
        warmup_prefix=False,
        t_in_epochs=False,
    )
    return chosen, schedule


def _shorten(stepping: torch.optim.Optimizer, args: Any, kwargs: Any, longest: float) -> None:
    learning = [p for group in stepping.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(learning, longest)
