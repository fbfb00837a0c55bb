"""Methods for unlabelled examples that break their contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from broken_plugins import assert_reported
from torch import Tensor, nn

from autotl import Outputs, UnlabelledMethod, unlabelled
from autotl.space.plugin import AnyPlugin
from autotl.testing import check, examine


def returning(value: Any) -> AnyPlugin:
    @unlabelled(name="broken")
    def broken() -> Any:
        """Use unlabelled examples, with a fault."""
        return value

    return broken


def entropy(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
    logs = strong.logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()


def with_loss(loss: Any, **options: Any) -> AnyPlugin:
    return returning(UnlabelledMethod(loss, **options))


def mean_of_chosen(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
    chosen = strong.logits.softmax(1).amax(1) > 0.9
    return strong.logits[chosen].square().mean()


def in_place(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
    weak.logits.data.zero_()
    return entropy(labelled, weak, strong, progress)


class Counting:
    count = 0

    def __call__(self, *arguments: Any) -> Tensor:
        self.count += 1
        return self.count * entropy(*arguments)


class Growing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, *arguments: Any) -> Tensor:
        self.seen = torch.cat([self.seen, torch.ones(1)])
        return entropy(*arguments)


class Hidden(nn.Module):
    count = 0

    def forward(self, *arguments: Any) -> Tensor:
        self.count += 1
        return self.count * entropy(*arguments)


def indices(predictions: Tensor, number: int) -> Tensor:
    return predictions.amax(1).argsort()


BROKEN = [
    (returning(entropy), "return an autotl.UnlabelledMethod"),
    (with_loss(entropy, mu=0), "returns mu=0; it is a whole number, at least 1"),
    (with_loss(entropy, mu=1.5), "returns mu=1.5; it is a whole number"),
    (with_loss(entropy, teacher_decay=1.0), "returns teacher_decay=1.0; it is from 0"),
    (with_loss(None, teacher_decay=0.9), "a teacher_decay without a loss"),
    (with_loss(0.5), "returns loss=float; it is a function or None"),
    (with_loss(lambda *_: 0.5), "has the loss float; return a scalar"),
    (with_loss(lambda a, b, strong, p: strong.logits.exp()), "float32 [12, 3]; return a scalar"),
    (with_loss(lambda a, b, strong, p: strong.logits.detach().mean()), "has a loss without grad"),
    (with_loss(lambda a, b, strong, p: strong.targets.mean()), "raises AttributeError in line"),
    (with_loss(mean_of_chosen), "not finite for logits up to 0"),
    (with_loss(in_place), "changes the outputs that it is given"),
    (
        with_loss(lambda *own: 24 * len(own[2].logits) * entropy(*own)),
        "ones twice; return the mean",
    ),
    (with_loss(Counting()), "the second time; keep what it remembers in buffers"),
    (with_loss(Growing()), "cannot be saved and loaded again"),
    (with_loss(Hidden()), "has another loss after it is saved and loaded again"),
    (returning(UnlabelledMethod(select=indices)), "selects int64 [30] of 30 examples; return bool"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[w[:30] for _, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)


def test_a_method_that_only_selects_is_tried_with_a_head_in_closed_form() -> None:
    fitted: list[int] = []

    def select(predictions: Tensor, number: int) -> Tensor:
        fitted.append(number)
        return predictions.amax(1) > 0.5

    assert check(returning(UnlabelledMethod(select=select, rounds=2))) == 1
    assert fitted.count(1) > 3  # 3 calls are those of the check itself


def test_a_method_may_do_nothing() -> None:
    assert examine(returning(UnlabelledMethod())).broken == ()
