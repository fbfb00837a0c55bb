"""Tasks: from labels to targets and back, losses and activations that fit, and calibrations.

Shapes and round trips of every task; what is particular to each, with known values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import REGISTRY

from autotl.data.labels import natural_key
from autotl.errors import DataError
from autotl.space.task import Label, Task
from autotl.tasks import choose_task, find_task, rescale, restore_task

LABELS: dict[str, list[Label]] = {
    "classification": ["b", "a", "c", "b"] * 20,
    "ordinal": ["2", "1", "10", "2"] * 20,
    "multilabel": [("x", "y"), (), ("z",), "y;x"] * 20,
    "regression": [float(i % 7) + 0.25 * (i % 3) for i in range(80)],
}
NAMES = sorted(LABELS)


def fit(name: str, labels: Sequence[Label] | None = None) -> tuple[Task, Any]:
    """The task, fitted, and the targets."""
    raw = LABELS[name] if labels is None else labels
    task = find_task(name, REGISTRY).prepare(raw)
    parsed = [task.parse(label) for label in raw]
    outputs = sorted({own for label in parsed for own in task.names(label)}, key=natural_key)
    task = task.fit(parsed, outputs)
    return task, task.encode(parsed)


def draw_logits(task: Task, count: int = 80, seed: int = 0) -> Tensor:
    return torch.randn(count, task.num_logits, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_labels_survive_the_way_to_targets_and_back(name: str) -> None:
    task, targets = fit(name)
    parsed = [task.parse(label) for label in LABELS[name]]
    assert [task.parse(label) for label in parsed] == parsed
    assert [task.parse(task.format(row)) for row in targets] == [
        task.parse(float(label)) if name == "regression" else label for label in parsed
    ]
    assert len(targets) == len(task.strata(targets)) == 80


@pytest.mark.parametrize("name", NAMES)
def test_activation_and_inversion_are_inverse(name: str) -> None:
    task, targets = fit(name)
    logits = draw_logits(task)
    predictions = task.activate(logits)
    assert torch.allclose(task.activate(task.invert(predictions)), predictions, atol=1e-5)
    assert task.expand(torch.as_tensor(targets)).shape == logits.shape
    assert predictions.shape[1] == len(task.constant(targets))
    if task.has_probabilities:
        assert predictions.min() >= 0
        assert predictions.max() <= 1
    if name in ("classification", "ordinal"):
        assert torch.allclose(predictions.sum(1), torch.ones(80), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_of_the_loss_predicts_the_targets(name: str) -> None:
    task, targets = fit(name)
    expanded = task.expand(torch.as_tensor(targets))
    logits = draw_logits(task).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    first = 0.0
    for _ in range(150):
        optimizer.zero_grad()
        loss = task.loss(logits, expanded)
        loss.backward()
        optimizer.step()
        first = first or loss.item()
    assert loss.item() < 0.2 * first
    predictions = task.activate(logits.detach()).numpy()
    if name == "regression":
        assert predictions == pytest.approx(targets, abs=0.2)
    elif name == "multilabel":
        assert ((predictions > 0.5) == (targets > 0.5)).all()
    else:
        assert (predictions.argmax(1) == targets).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_of_the_examples(name: str) -> None:
    task, targets = fit(name)
    expanded, logits = task.expand(torch.as_tensor(targets)), draw_logits(task)
    each = [float(task.loss(logits[i : i + 1], expanded[i : i + 1])) for i in range(80)]
    assert float(task.loss(logits, expanded)) == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_task_is_the_same(name: str) -> None:
    task, targets = fit(name)
    saved = json.loads(json.dumps(task.to_json()))
    restored = restore_task(saved, task.outputs, REGISTRY)
    assert (restored.name, restored.outputs) == (task.name, task.outputs)
    logits = draw_logits(task)
    assert torch.equal(restored.activate(logits), task.activate(logits))
    predictions = task.activate(logits).numpy()
    calibration = task.calibrate(targets, predictions, np.arange(80) % 2)
    described = json.loads(json.dumps(task.describe(predictions[0], calibration)))
    assert "prediction" in described
    json.dumps([calibration, task.details(targets, predictions, calibration)])


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (["cat", "dog"] * 5, "classification"),
        ([str(i % 10) for i in range(500)], "classification"),
        ([str(i % 200) for i in range(400)], "classification"),  # two images of each
        ([str(i) for i in range(300)], "regression"),
        ([f"{i / 7:.2f}" for i in range(40)], "regression"),
        ([i / 7 for i in range(40)], "regression"),
        (["1.0", "2.0", "2.5"] * 10, "classification"),  # three values
        (["1.5", "x"] * 20, "classification"),
        ([{"x": 1.0, "y": 2.0}] * 3, "regression"),
        ([["a"], ["a", "b"]], "multilabel"),
        (["a", "b", "a;b"], "multilabel"),
        (["a", "b", "a, b"], "multilabel"),
        (["black; shiny", "dog"], "classification"),
        (["", float("nan"), "a", "b"], "classification"),
    ],
)
def test_the_labels_tell_the_task(labels: list[Label], name: str) -> None:
    task, reason = choose_task("auto", labels, REGISTRY)
    assert task.name == name
    assert bool(reason) == (name != "classification")
    assert choose_task("ordinal", labels, REGISTRY)[0].name == "ordinal"


def test_texts_of_several_labels_have_one_form() -> None:
    task = find_task("multilabel", REGISTRY).prepare(["b, a", "a", "b"])
    assert task.parse("b, a") == task.parse(["a", "b", "a"]) == task.parse("a;b") == "a;b"
    assert task.parse([]) == "(none)"
    assert list(task.names("(none)")) == []
    with pytest.raises(ValueError, match=r"separators alone; write \(none\)"):
        task.parse(" ; ")
    with pytest.raises(ValueError, match=r"contains ';'"):
        task.parse(["a;b", "c"])
    with pytest.raises(ValueError, match="no list of labels"):
        task.parse(1.0)


def test_strata_of_several_labels_have_one_for_none() -> None:
    task, targets = fit("multilabel")
    assert task.strata(targets)[:4].tolist() == [
        [True, True, False, False],
        [False, False, False, True],
        [False, False, True, False],
        [True, True, False, False],
    ]


def test_thresholds_are_those_of_the_best_f1() -> None:
    task, _ = fit("multilabel", [("x",), ("y",)])
    random = np.random.default_rng(0)
    targets = (random.random((400, 2)) < 0.2).astype(np.float32)
    logits = np.where(targets > 0.5, -0.5, -2.5) + random.normal(0, 0.7, (400, 2))
    predictions = (1 / (1 + np.exp(-logits))).astype(np.float32)
    calibration = task.calibrate(targets, predictions, np.arange(400) % 5)
    scaled = rescale(task, predictions, calibration["temperature"])
    scores = [row["score"] for row in task.details(targets, scaled, calibration)["per_class"]]
    for i, score in enumerate(scores):
        actual = targets[:, i] > 0.5
        f1 = [
            2 * (actual & (scaled[:, i] >= t)).sum() / (actual.sum() + (scaled[:, i] >= t).sum())
            for t in np.unique(scaled[:, i])
        ]
        assert score == pytest.approx(max(f1))
        assert score > task.details(targets, scaled)["per_class"][i]["score"] + 0.1
    few, _ = fit("multilabel", [("x",), ("y",)])
    none = few.calibrate(targets[:20] * 0, predictions[:20], np.arange(20) % 2)
    assert none["thresholds"] == [0.5, 0.5]


def test_a_temperature_of_labels_is_fitted() -> None:
    """Logits that are three times too large get about their third."""
    task, _ = fit("multilabel", [("x",), ("y",)])
    random = np.random.default_rng(1)
    logits = random.normal(0, 1, (3000, 2))
    targets = (random.random((3000, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    predictions = (1 / (1 + np.exp(-3 * logits))).astype(np.float32)
    calibration = task.calibrate(targets, predictions, np.arange(3000) % 5)
    assert calibration["temperature"] == pytest.approx(3.0, rel=0.15)


def test_intervals_of_numbers_have_their_coverage() -> None:
    """Split conformal intervals: on average over samples, 95 % of new numbers are inside."""
    task, _ = fit("regression")
    random = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        errors = random.standard_t(3, (61, 1)).astype(np.float32)
        zeros = np.zeros_like(errors)
        known = task.calibrate(errors[:60], zeros[:60], np.arange(60) % 3)
        described = task.describe(zeros[60], known)
        covered.append(described["low"] <= errors[60, 0] <= described["high"])
        assert 0.8 < known["coverage"] <= 1
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)
    assert task.calibrate(errors[:10], zeros[:10], np.arange(10) % 2) == {}


def test_numbers_are_standardised_by_the_examples_that_were_fitted() -> None:
    task, targets = fit("regression", [{"x": float(i), "y": 100.0 * i} for i in range(11)])
    assert task.outputs == ("x", "y")
    standardised = task.expand(torch.as_tensor(targets))
    assert standardised.mean(0).tolist() == pytest.approx([0, 0], abs=1e-6)
    assert standardised.std(0, correction=0).tolist() == pytest.approx([1, 1])
    described = task.describe(targets[3], {})
    assert described == {"prediction": {"x": 3.0, "y": 300.0}}
    assert task.format(targets[3]) == "x=3;y=300"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, 1.0], "value is 1 for all examples"),
        ([{"x": 1.0}, {"x": 2.0, "y": 3.0}], "some examples have the numbers x, others x, y"),
    ],
)
def test_numbers_from_which_nothing_is_learned_are_an_error(
    labels: list[Label], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fit("regression", labels)


@pytest.mark.parametrize("label", ["abc", "inf", [1.0], "x=abc"])
def test_labels_that_are_no_numbers_are_refused(label: Label) -> None:
    with pytest.raises(ValueError, match="is not"):
        find_task("regression", REGISTRY).parse(label)


def test_strata_of_numbers_are_quantiles() -> None:
    task, targets = fit("regression", [float(i) for i in np.random.default_rng(0).permutation(200)])
    strata = task.strata(targets)
    assert np.bincount(strata).tolist() == [20] * 10
    smallest = set(targets[strata == strata[targets[:, 0].argmin()], 0])
    assert smallest == set(range(20))


def test_logits_of_ordered_classes_are_continuation_ratios() -> None:
    task, _ = fit("ordinal")
    assert task.outputs == ("1", "2", "10")
    assert task.expand(torch.tensor([0, 1, 2])).tolist() == [[0, 0], [1, 0], [1, 1]]
    logits = torch.tensor([[0.0, math.log(3)]])  # half is beyond 1, three quarters of it beyond 2
    assert task.activate(logits)[0].tolist() == pytest.approx([0.5, 0.125, 0.375])
    for target, p in enumerate([0.5, 0.125, 0.375]):
        loss = task.loss(logits, task.expand(torch.tensor([target])))
        assert float(loss) == pytest.approx(-math.log(p), rel=1e-5)
