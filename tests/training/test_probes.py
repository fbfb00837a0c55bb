"""Heads trained side by side: each exactly as it would be alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import toy
from torch import nn

from autotl import freeze, head
from autotl.errors import Diverged, OutOfTime
from autotl.models import Model
from autotl.space.space import Config
from autotl.training import (
    ProbeEpoch,
    extract_backbone_features,
    fine_tune,
    keeps_backbone_frozen,
    train_probes,
)

HEADS: list[dict[str, Any]] = [
    {},
    {"freeze": ("linear_probe", {"lr": 0.03})},
    {"head": ("mlp", {"dropout": 0.5})},
    {"head": ("linear", {"dropout": 0.5}), "optimizer": ("adamw", {"weight_decay": 0.3})},
    {"head": "logistic_regression"},
]
CONFIGS = [toy.config(**chosen) for chosen in HEADS]


@head
def explodes(features: int, classes: int) -> nn.Module:
    """Fails in its second epoch of three steps."""

    class Explodes(nn.Linear):
        steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += torch.is_grad_enabled()
            if self.steps > 3:
                raise RuntimeError("boom")
            return super().forward(x)

    return Explodes(features, classes)


@head
def spoils(features: int, classes: int) -> nn.Module:
    """Works in place on what it is fed."""

    class Spoils(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mul_(0.0))

    return Spoils(features, classes)


@head
def unbuildable(features: int, classes: int) -> nn.Module:
    """Fails to be made."""
    raise ValueError("no such head")


@head
def diverges(features: int, classes: int) -> nn.Module:
    """Loses its numbers."""
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.weight, math.nan)
    return layer


@freeze
def thaws(model: Model, epochs: int, *, lr: float = 1e-3) -> Any:
    """All of the backbone in the last epoch."""
    for epoch in range(epochs):
        learning = model if epoch == epochs - 1 else model.head
        yield [{"params": list(learning.parameters()), "lr": lr}]


def run(configs: list[Config], **changes: Any) -> list[list[ProbeEpoch | Exception | None]]:
    network = toy.model(**HEADS[0])
    return list(train_probes(network, configs, toy.task(3, **changes)))


def states(model: Model) -> dict[str, torch.Tensor]:
    return dict(model.head.state_dict())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_each_is_trained_as_if_it_were_alone(ema: float) -> None:
    together = run(CONFIGS, ema=ema)
    assert len(together) == 3
    for i, chosen in enumerate(HEADS):
        network = toy.model(**chosen)
        alone = list(fine_tune(network, CONFIGS[i], toy.task(3, ema=ema)))
        solved = chosen.get("head") == "logistic_regression"
        beside = [epoch[i] for epoch in together if not (solved and epoch is not together[0])]
        assert solved == (together[1][i] is None)  # more epochs would change nothing
        for one, other in zip(alone[: len(beside)], beside, strict=True):
            assert isinstance(other, ProbeEpoch)
            assert (one.number, one.loss, one.score, one.trained_parameters) == (
                other.epoch.number,
                other.epoch.loss,
                other.epoch.score,
                other.epoch.trained_parameters,
            )
        assert isinstance(beside[-1], ProbeEpoch)
        assert beside[-1].last
        trained = states(beside[-1].model)
        assert all(torch.equal(trained[k], v) for k, v in states(network).items())


def test_what_the_backbone_makes_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    forward = toy.Backbone.forward

    def counted(self: Any, images: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += len(images)
        return forward(self, images)

    monkeypatch.setattr(toy.Backbone, "forward", counted)
    run(CONFIGS[:1])
    alone, count = count, 0
    run(CONFIGS)
    assert count == alone


def test_one_that_fails_leaves_the_others_as_they_are() -> None:
    broken = [toy.config(head=h) for h in (explodes, unbuildable, diverges, spoils)]
    found = run([CONFIGS[0], *broken, CONFIGS[2]])
    clean = run([CONFIGS[0], CONFIGS[2]])
    for epoch, expected in zip(found, clean, strict=True):
        for i, j in ((0, 0), (5, 1)):
            one, other = epoch[i], expected[j]
            assert isinstance(one, ProbeEpoch)
            assert isinstance(other, ProbeEpoch)
            assert (one.epoch.loss, one.epoch.score) == (other.epoch.loss, other.epoch.score)
    first, second, third = found
    assert isinstance(first[1], ProbeEpoch)
    assert str(second[1]) == "boom"
    assert third[1] is None
    assert str(first[2]) == "no such head"
    assert isinstance(first[3], Diverged)
    assert second[2] is second[3] is third[2] is None


def test_heads_that_are_solved_for_have_one_epoch() -> None:
    solved = toy.config(head="logistic_regression")
    network = toy.model(head="logistic_regression")
    [[one, other]] = list(train_probes(network, [solved, toy.config(head="lda")], toy.task(3)))
    assert isinstance(one, ProbeEpoch)
    assert isinstance(other, ProbeEpoch)
    assert one.last
    assert other.last
    # one that is solved for does not keep another from seeing augmented pictures
    chosen = {"head": ("linear", {"dropout": 0.0}), "augment": "flip_crop"}
    network = toy.model(head="logistic_regression")
    configs = [toy.config(head="logistic_regression", augment="flip_crop"), toy.config(**chosen)]
    beside = [epoch[1] for epoch in train_probes(network, configs, toy.task(3))]
    alone = list(fine_tune(toy.model(**chosen), configs[1], toy.task(3)))
    assert [e.epoch.loss for e in beside if isinstance(e, ProbeEpoch)] == [e.loss for e in alone]


def test_an_error_of_the_first_before_its_first_step_is_everybodys() -> None:
    @freeze
    def refuses(model: Model) -> Any:
        """Does not want to."""
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run([toy.config(freeze=refuses), CONFIGS[1]])


def test_the_deadline_is_everybodys() -> None:
    with pytest.raises(OutOfTime):
        run(CONFIGS, deadline=0.0)


def test_the_features_are_the_backbones() -> None:
    network, task = toy.model(), toy.task(1)
    images = torch.cat([images for images, _ in task.train])
    found = extract_backbone_features(network, toy.config(augment="flip_crop"), task)
    assert found.shape == (36, network.backbone.num_features)
    with torch.no_grad():
        expected = network.eval().features(images)
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "frozen"),
    [
        ("linear_probe", True),
        ("full", False),
        ("last_blocks", False),
        (thaws, False),
        ("lora", False),  # what it trains is not there before it is asked
        ("lp_ft", False),
    ],
)
def test_what_stays_frozen(strategy: Any, frozen: bool) -> None:
    network = toy.model()
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    assert keeps_backbone_frozen(network, toy.config(freeze=strategy), 3) == frozen
    assert {name: p.requires_grad for name, p in network.named_parameters()} == before
