"""Losses: known values, that of the task as a special case, and that a search chooses them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy import REGISTRY, config, job, model

from autotl.space import space
from autotl.tasks import find_task, numbered_classes
from autotl.training.inputs import Inputs
from autotl.training.loss import TrainingLoss

torch.manual_seed(0)
LOGITS = torch.randn(12, 3)
HARD = torch.eye(3)[torch.arange(12) % 3]
MIXED = 0.7 * HARD + 0.3 * HARD.roll(1, 0)
LABELS = (torch.rand(12, 3) < 0.4).float()
NUMBERS = torch.randn(12, 3)
WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


def make(name: str, smoothing: float = 0.0, weights: Tensor | None = None, **params: Any) -> Any:
    plugin = REGISTRY.get("loss", name)
    given = {"output_weights": weights, "label_smoothing": smoothing}
    return plugin.call(given, {**plugin.defaults, **params})


@pytest.mark.parametrize("targets", [HARD, MIXED])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("name", "params"),
    [("cross_entropy", {}), ("focal", {"gamma": 0.0}), ("poly1", {"epsilon": 0})],
)
def test_they_contain_the_cross_entropy(
    name: str, params: dict[str, Any], weights: Tensor | None, targets: Tensor
) -> None:
    expected = numbered_classes(3).loss(LOGITS, targets, weights=weights)
    assert make(name, weights=weights, **params)(LOGITS, targets) == pytest.approx(expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(
    ("name", "params"),
    [("binary_cross_entropy", {}), ("asymmetric", {"gamma": 0.0, "margin": 0.0})],
)
def test_they_contain_the_binary_cross_entropy(
    name: str, params: dict[str, Any], weights: Tensor | None
) -> None:
    expected = find_task("multilabel", REGISTRY).loss(LOGITS, LABELS, weights=weights)
    actual = make(name, weights=weights, **params)(LOGITS, LABELS)
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)


def test_focal_loss_of_a_known_probability() -> None:
    p = 0.8
    logits = torch.tensor([[p, 0.1, 0.1]]).log()
    loss = make("focal", gamma=2.0)(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    assert float(loss) == pytest.approx(-((1 - p) ** 2) * float(torch.tensor(p).log()), rel=1e-5)
    smoothed = make("poly1", smoothing=0.1, epsilon=2.0)(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    expected = numbered_classes(3).loss(logits, torch.tensor([[1.0, 0, 0]]), label_smoothing=0.1)
    assert float(smoothed) == pytest.approx(float(expected) + 2 * (1 - p), rel=1e-5)


def test_errors_of_numbers() -> None:
    errors = LOGITS - NUMBERS
    assert make("absolute_error")(LOGITS, NUMBERS) == pytest.approx(errors.abs().sum(1).mean())
    squared = make("squared_error")(LOGITS, NUMBERS)
    assert squared == pytest.approx(errors.square().sum(1).mean() / 2)
    assert make("huber", delta=100.0)(LOGITS, NUMBERS) == pytest.approx(squared)
    expected = find_task("regression", REGISTRY).loss(LOGITS, NUMBERS, weights=WEIGHTS)
    assert make("huber", weights=WEIGHTS)(LOGITS, NUMBERS) == pytest.approx(expected)


def test_the_loss_of_a_configuration_is_the_one_that_is_trained() -> None:
    built, chosen = model(), job()
    images, labels = next(iter(chosen.train))
    targets = built.task.expand(labels)
    plain = TrainingLoss(Inputs(built, config(), chosen)).compute(images, targets)
    chosen_loss = config(loss=("focal", {"gamma": 3.0}))
    focal = TrainingLoss(Inputs(built, chosen_loss, chosen)).compute(images, targets)
    assert focal.item() < plain.item()


def test_losses_are_searched_only_if_they_are_named() -> None:
    fitting = REGISTRY.for_task("classification")
    chosen = {"backbone": ["tf_efficientnet_lite0"]}
    assert "loss" not in space.build_space(fitting, chosen, {}).plugins
    named = space.build_space(fitting, {**chosen, "loss": ["focal", "cross_entropy"]}, {})
    assert [p.name for p in named.plugins["loss"]] == ["cross_entropy", "focal"]
    assert named.default_order("loss") == ["cross_entropy"]
    assert not fitting.has("loss", "huber")
