"""The checks of losses: a mean over the batch that leads to right predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from autotl.space.plugin import AnyPlugin
from autotl.testing.configurations import Params
from autotl.testing.harness import PluginHarness
from autotl.testing.toy_tasks import ToyTask
from autotl.testing.violations import describe

Loss = Callable[[Tensor, Tensor], Tensor]

LARGE = 60.0
"""Logits of a network that is sure: their probabilities are 0 and 1 in float32."""


def check_loss(harness: PluginHarness, params: Params) -> bool:
    """Check the losses of all tasks that a plugin suits.

    Returns:
        Whether it can be trained with.
    """
    before = harness.violations.sentences
    for toy in harness.toy_tasks:
        with harness.violations.trying(f"for {toy.task.name}", params):
            for problem in _find_plugin_problems(harness.plugin, toy, params):
                harness.violations.add(problem, params)
    return harness.violations.sentences == before


def _find_plugin_problems(plugin: AnyPlugin, toy: ToyTask, params: Params) -> Iterator[str]:
    """Find what is wrong with the loss of one configuration, for one task."""
    weights = torch.arange(toy.task.num_logits) + 0.5
    usual = {"output_weights": None, "label_smoothing": 0.0}
    loss: Any = plugin.call(usual, params)
    if not callable(loss):
        yield f"returns {describe(loss)}; return a function of logits and targets"
        return
    if problems := list(find_loss_problems(loss, toy)):
        yield from problems
        return
    value = loss(toy.random_logits(), toy.expanded)
    for name, argument in (("output_weights", weights), ("label_smoothing", 0.2)):
        if not plugin.takes_argument(name):
            continue
        other = plugin.call({**usual, name: argument}, params)
        yield from (f"{problem} ({name}={argument})" for problem in find_loss_problems(other, toy))
        if torch.equal(other(toy.random_logits(), toy.expanded), value):
            yield f"takes {name} without using it; use it, or leave it out"


def find_loss_problems(loss: Loss, toy: ToyTask) -> Iterator[str]:
    """Find what is wrong with a loss ``[N, L], [N, L] -> []``; what follows an error is not tried.

    Args:
        loss: The loss.
        toy: The task whose targets it is for.
    """
    logits, targets = toy.random_logits(), toy.expanded
    value: Any = loss(logits.clone().requires_grad_(), targets)
    if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
        yield f"has the loss {describe(value)}; return the mean loss of the batch, float32 []"
        return
    if not value.requires_grad:
        yield "has a loss without gradient; compute it from the logits in torch, without detach"
        return
    doubled = loss(logits.repeat(2, 1), targets.repeat(2, 1))
    if not torch.isclose(doubled, value, 1e-3, 1e-4):
        yield (
            f"has the loss {value:.4g} for a batch and {doubled:.4g} for the same batch twice; "
            "return the mean over the examples"
        )
        return
    if not _is_finite(loss, logits, 0.7 * targets + 0.3 * targets.flip(0)):
        yield "has no finite loss for mixed targets; take any targets that are float32 [B, L]"
        return
    minimum = toy.fit_logits(loss)
    for sure in (logits.sign(), minimum / minimum.abs().max()):
        if not _is_finite(loss, LARGE * sure, targets):
            yield (
                f"has a loss or a gradient that is not finite for logits up to {LARGE:.0f}; clamp "
                "the arguments of log and pow, and what is divided by"
            )
            return
    if not toy.task.loss(minimum, targets) < toy.task.loss(toy.constant_logits(), targets):
        yield (
            "does not lead to right predictions: the logits that minimise it are no better than "
            "a constant prediction; check its sign, and the order of its arguments"
        )


def _is_finite(loss: Loss, logits: Tensor, targets: Tensor) -> bool:
    """Whether a loss and its gradient are finite."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets)
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]
    finite = logits.grad is None or bool(logits.grad.isfinite().all())
    return finite and bool(value.isfinite())
