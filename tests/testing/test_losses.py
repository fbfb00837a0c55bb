"""Losses that break their contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from broken_plugins import assert_reported
from torch import Tensor
from torch.nn import functional

from autotl import Range, loss
from autotl.space.plugin import AnyPlugin
from autotl.testing import check


def square(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits - targets).square().sum(1).mean()


def computing(make: Callable[[Tensor, Tensor], Any], *tasks: str) -> AnyPlugin:
    @loss(name="broken", tasks=tasks or ["regression"])
    def broken() -> Any:
        """Compute a loss, with a fault."""
        return make

    return broken


@loss(tasks=["regression"])
def no_function() -> Any:
    """A number in place of a function."""
    return 1.0


@loss(tasks=["regression"])
def unused_weights(output_weights: Tensor | None) -> Any:
    """Takes weights without using them."""
    return square


@loss(tasks=["regression"])
def wrong_weights(output_weights: Tensor | None) -> Any:
    """Is no number with weights."""
    return lambda logits, targets: (
        square(logits, targets)
        if output_weights is None
        else ((logits - targets).square() * output_weights).mean(1)
    )


@loss(tasks=["regression"])
def unused(*, power: Annotated[float, Range(1.0, 3.0)] = 2.0) -> Any:
    """Has a keyword that it does not use."""
    return square


def entropy_with_zeros(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * logits.softmax(1).log()).sum(1).mean()


def unmixed(logits: Tensor, targets: Tensor) -> Tensor:
    right = targets == 1
    return -((logits.log_softmax(1) * right).sum(1) / right.sum(1)).mean()


BROKEN = [
    (no_function, "returns float; return a function of logits and targets"),
    (computing(lambda x, t: (x - t).square()), "has the loss float32 [24, 1]; return the mean"),
    (computing(lambda x, t: 0.5), "has the loss float; return the mean loss"),
    (computing(lambda x, t: square(x.detach(), t)), "has a loss without gradient"),
    (computing(lambda x, t: (x - t).square().sum()), "for the same batch twice; return the mean"),
    (
        computing(lambda x, t: -(-(x - t).square()).exp().mean() * 0),
        "not lead to right predictions",
    ),
    (computing(lambda x, t: square(x, -t)), "does not lead to right predictions"),
    (computing(entropy_with_zeros, "classification"), "not finite for logits up to 60"),
    (
        computing(lambda x, t: functional.cross_entropy(x, t.long()), "classification"),
        "raises RuntimeError",
    ),
    (computing(unmixed, "classification"), "has no finite loss for mixed targets"),
    (unused_weights, "takes output_weights without using it"),
    (wrong_weights, "return the mean loss of the batch, float32 [] (output_weights=tensor"),
    (unused, "has a keyword 'power' without effect"),
    (computing(square, "regression", "multilable"), "the task 'multilable'; did you mean"),
    (computing(functional.cross_entropy, "classification", "regression"), "(for regression"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[w[:25] for _, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)


def test_a_loss_is_tried_on_every_task_that_it_suits() -> None:
    widths = set()

    def record(logits: Tensor, targets: Tensor) -> Tensor:
        widths.add(logits.shape[1])
        return functional.binary_cross_entropy_with_logits(logits, targets)

    assert check(computing(square)) == 1
    assert check(computing(record, "classification", "multilabel", "ordinal")) == 1
    assert widths == {3, 2}


def test_the_built_in_focal_loss_has_a_gradient_for_sure_logits() -> None:
    from autotl_plugins.losses import focal

    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    focal(None, gamma=0.5)(logits, torch.tensor([[1.0, 0.0]])).backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
