"""Balancing: the numbers that make up for classes of unequal size."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn import functional
from toy import COLOURS, REGISTRY, batches, config, model, squares, task

from autotl import Balance
from autotl.training import fine_tune
from autotl.training.inputs import Inputs
from autotl.training.task import Task

COUNTS = [100, 25, 4]
PLUGINS = [p for p in REGISTRY if p.kind == "balance"]


def give(name: str, counts: list[int] = COUNTS, **params: Any) -> Balance:
    plugin = REGISTRY.get("balance", name)
    found: Balance = plugin.call({"counts": counts}, {**plugin.defaults, **params})
    return found


def test_four_ways_are_there_and_none_is_first() -> None:
    orders = {p.name: p.order for p in PLUGINS}
    assert orders == {
        "none": 1,
        "class_weights": None,
        "balanced_sampling": None,
        "logit_adjustment": None,
    }


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_the_description_is_one_sentence(plugin: Any) -> None:
    assert plugin.summary[:1].isupper()
    assert plugin.summary.endswith(".")
    assert 15 < len(plugin.summary) <= 100
    assert ". " not in plugin.summary.partition("(")[0]


def test_none_changes_nothing() -> None:
    assert give("none") == Balance(None, None, None)


def test_class_weights_by_hand() -> None:
    # 1/10, 1/5 and 1/2; over 100, 25 and 4 pictures they make 17.
    found = give("class_weights", power=0.5)
    assert found.weights == pytest.approx([0.1 * 129 / 17, 0.2 * 129 / 17, 0.5 * 129 / 17])
    assert found == Balance(weights=found.weights)
    # Each class weighs a third in all.
    found = give("class_weights", power=1.0)
    assert found.weights == pytest.approx([43 / 100, 43 / 25, 43 / 4])


@pytest.mark.parametrize("power", [0.25, 0.5, 0.8, 1.0])
def test_the_mean_weight_of_a_picture_is_one(power: float) -> None:
    weights = give("class_weights", power=power).weights
    assert weights is not None
    total = sum(n * w for n, w in zip(COUNTS, weights, strict=True))
    assert total / 129 == pytest.approx(1.0)
    assert weights[0] / weights[2] == pytest.approx((4 / 100) ** power)


def test_balanced_sampling_by_hand() -> None:
    def shares(power: float) -> list[float]:
        found = give("balanced_sampling", power=power)
        assert found == Balance(sampling=found.sampling)
        assert found.sampling is not None
        chances = [n * s for n, s in zip(COUNTS, found.sampling, strict=True)]
        return [c / sum(chances) for c in chances]

    assert shares(1.0) == pytest.approx([1 / 3] * 3)
    assert shares(0.5) == pytest.approx([10 / 17, 5 / 17, 2 / 17])


def test_logit_adjustment_by_hand() -> None:
    found = give("logit_adjustment", tau=1.0)
    assert found.offsets == pytest.approx([math.log(n / 129) for n in COUNTS])
    assert found == Balance(offsets=found.offsets)
    half = give("logit_adjustment", tau=0.5).offsets
    assert half == pytest.approx([math.log(n / 129) / 2 for n in COUNTS])


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
@pytest.mark.parametrize("counts", [[7, 7, 7], [9, 0, 3], [1, 1]])
def test_equal_classes_are_treated_alike_and_empty_ones_are_no_trouble(
    plugin: Any, counts: list[int]
) -> None:
    found = give(plugin.name, counts)
    for values in (found.weights, found.offsets, found.sampling):
        if values is None:
            continue
        assert len(values) == len(counts)
        assert all(math.isfinite(v) for v in values)
        if len(set(counts)) == 1:
            assert list(values) == pytest.approx([values[0]] * len(counts))


def test_weights_and_sampling_of_equal_classes_are_one() -> None:
    assert give("class_weights", [5, 5]).weights == pytest.approx([1.0, 1.0])
    assert give("balanced_sampling", [5, 5]).sampling == pytest.approx([1.0, 1.0])


def test_listing_needs_no_heavy_library() -> None:
    code = "import autotl_plugins.balancing, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "autotl_plugins.balancing" in loaded
    assert not loaded & {"torch", "numpy", "timm"}


# Through training.


def unequal(**changes: Any) -> Task:
    """Of blue 24 pictures, of green 8, of red 4."""
    every = squares(each=24)
    labels = sorted(COLOURS)
    keep = dict(zip(labels, (24, 8, 4), strict=True))
    some = [e for e in every if int(e.name.partition("/")[2]) < keep[e.label]]
    return task(train=batches(some), **changes)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_the_loss_is_balanced(plugin: Any) -> None:
    network, run = model(), unequal()
    inputs = Inputs(network, config(balance=plugin), run)
    images, labels = next(iter(run.train))
    logits = network.eval()(images)
    counts = [24, 8, 4]
    plain = functional.cross_entropy(logits, labels, reduction="none")
    shares = torch.tensor(counts) / 36
    weights = shares**-0.5 / (shares**0.5).sum()
    adjusted = functional.cross_entropy(logits + shares.log(), labels)
    expected = {"class_weights": (weights[labels] * plain).mean(), "logit_adjustment": adjusted}
    found = inputs.loss(images, inputs.targets(labels))
    torch.testing.assert_close(found, expected.get(plugin.name, plain.mean()))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_every_value_changes_the_training(plugin: Any) -> None:
    def trained(params: dict[str, float]) -> torch.Tensor:
        network = model()
        chosen = config(balance=(plugin, params))
        assert len(list(fine_tune(network, chosen, unequal()))) == 2
        return torch.cat([p.flatten() for p in network.head.parameters()])

    for h in plugin.hyperparameters:
        low, high = (trained({h.name: value}) for value in (h.range.low, h.range.high))
        assert not torch.equal(low, high)
    assert torch.equal(trained({}), trained({}))


def test_rare_classes_are_drawn_more_often() -> None:
    run = unequal()
    sampling = give("balanced_sampling", [24, 8, 4], power=1.0).sampling
    drawn = torch.zeros(3)
    for epoch in range(1, 31):
        for _, labels in run.train.epoch(epoch, sampling):
            drawn += labels.bincount(minlength=3)
    assert drawn.sum() == 30 * 36
    assert (drawn / drawn.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.06)
