"""Balancing: weights, offsets and sampling for class imbalance."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.nn import functional
from toy import COLOURS, REGISTRY, batches, config, job, model, squares

from autotl import Balance
from autotl.training import fine_tune
from autotl.training.inputs import Inputs
from autotl.training.job import Job
from autotl.training.loss import TrainingLoss

COUNTS = [100, 25, 4]
PLUGINS = [p for p in REGISTRY if p.kind == "balance"]


def compute_balance(name: str, counts: list[int] = COUNTS, **params: Any) -> Balance:
    plugin = REGISTRY.get("balance", name)
    result: Balance = plugin.call({"counts": counts}, {**plugin.defaults, **params})
    return result


def test_none_is_the_only_plugin_with_a_rank() -> None:
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
    assert compute_balance("none") == Balance(None, None, None)


def test_class_weights_agree_with_a_calculation_by_hand() -> None:
    # 1/10, 1/5 and 1/2; over 100, 25 and 4 images they sum to 17.
    balance = compute_balance("class_weights", power=0.5)
    assert balance.weights == pytest.approx([0.1 * 129 / 17, 0.2 * 129 / 17, 0.5 * 129 / 17])
    assert balance == Balance(weights=balance.weights)
    # Each class has a third of the total weight.
    balance = compute_balance("class_weights", power=1.0)
    assert balance.weights == pytest.approx([43 / 100, 43 / 25, 43 / 4])


@pytest.mark.parametrize("power", [0.25, 0.5, 0.8, 1.0])
def test_the_mean_weight_of_an_image_is_one(power: float) -> None:
    weights = compute_balance("class_weights", power=power).weights
    assert weights is not None
    total = sum(n * w for n, w in zip(COUNTS, weights, strict=True))
    assert total / 129 == pytest.approx(1.0)
    assert weights[0] / weights[2] == pytest.approx((4 / 100) ** power)


def test_balanced_sampling_agrees_with_a_calculation_by_hand() -> None:
    def frequencies(power: float) -> list[float]:
        balance = compute_balance("balanced_sampling", power=power)
        assert balance == Balance(sampling=balance.sampling)
        assert balance.sampling is not None
        totals = [n * s for n, s in zip(COUNTS, balance.sampling, strict=True)]
        return [t / sum(totals) for t in totals]

    assert frequencies(1.0) == pytest.approx([1 / 3] * 3)
    assert frequencies(0.5) == pytest.approx([10 / 17, 5 / 17, 2 / 17])


def test_logit_adjustment_agrees_with_a_calculation_by_hand() -> None:
    balance = compute_balance("logit_adjustment", tau=1.0)
    assert balance.offsets == pytest.approx([math.log(n / 129) for n in COUNTS])
    assert balance == Balance(offsets=balance.offsets)
    half = compute_balance("logit_adjustment", tau=0.5).offsets
    assert half == pytest.approx([math.log(n / 129) / 2 for n in COUNTS])


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
@pytest.mark.parametrize("counts", [[7, 7, 7], [9, 0, 3], [1, 1]])
def test_equal_classes_get_equal_values_and_empty_classes_finite_ones(
    plugin: Any, counts: list[int]
) -> None:
    balance = compute_balance(plugin.name, counts)
    for values in (balance.weights, balance.offsets, balance.sampling):
        if values is None:
            continue
        assert len(values) == len(counts)
        assert all(math.isfinite(v) for v in values)
        if len(set(counts)) == 1:
            assert list(values) == pytest.approx([values[0]] * len(counts))


def test_weights_and_sampling_of_equal_classes_are_one() -> None:
    assert compute_balance("class_weights", [5, 5]).weights == pytest.approx([1.0, 1.0])
    assert compute_balance("balanced_sampling", [5, 5]).sampling == pytest.approx([1.0, 1.0])


def test_importing_the_module_loads_no_heavy_library() -> None:
    code = "import autotl_plugins.balancing, sys; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(process.stdout.split())
    assert "autotl_plugins.balancing" in loaded
    assert not loaded & {"torch", "numpy", "timm"}


# In training.


def unequal(**changes: Any) -> Job:
    """A job with 24 blue, 8 green and 4 red images."""
    labels = sorted(COLOURS)
    counts = dict(zip(labels, (24, 8, 4), strict=True))
    examples = [e for e in squares(each=24) if int(e.name.partition("/")[2]) < counts[e.label]]
    return job(train=batches(examples), **changes)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_the_loss_is_balanced(plugin: Any) -> None:
    network, run = model(), unequal()
    inputs = Inputs(network, config(balance=plugin), run)
    images, labels = next(iter(run.train))
    logits = network.eval()(images)
    counts = [24, 8, 4]
    plain = functional.cross_entropy(logits, labels, reduction="none")
    frequencies = torch.tensor(counts) / 36
    weights = frequencies**-0.5 / (frequencies**0.5).sum()
    adjusted = functional.cross_entropy(logits + frequencies.log(), labels)
    expected = {"class_weights": (weights[labels] * plain).mean(), "logit_adjustment": adjusted}
    loss = TrainingLoss(inputs).compute(images, inputs.model.task.expand(labels))
    torch.testing.assert_close(loss, expected.get(plugin.name, plain.mean()))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: p.name)
def test_every_value_changes_the_training(plugin: Any) -> None:
    def trained_head(params: dict[str, float]) -> torch.Tensor:
        network = model()
        chosen = config(balance=(plugin, params))
        assert len(list(fine_tune(network, chosen, unequal()))) == 2
        return torch.cat([p.flatten() for p in network.head.parameters()])

    for h in plugin.hyperparameters:
        low, high = (trained_head({h.name: value}) for value in (h.range.low, h.range.high))
        assert not torch.equal(low, high)
    assert torch.equal(trained_head({}), trained_head({}))


def test_rare_classes_are_sampled_more_often() -> None:
    run = unequal()
    sampling = compute_balance("balanced_sampling", [24, 8, 4], power=1.0).sampling
    counts = torch.zeros(3)
    for epoch in range(1, 31):
        for _, labels in run.train.epoch(epoch, sampling):
            counts += labels.bincount(minlength=3)
    assert counts.sum() == 30 * 36
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.06)
