"""Scores of many examples and classes: in chunks, and without copies of all predictions."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from predictions import random_predictions

from autotl.evaluation.error_analysis import _average_repeated
from autotl.scoring import calibration, chunks, confident_learning, influence, majority, metrics
from autotl.scoring.metrics import METRICS, WITHOUT_LABELS, Labels, Probabilities
from autotl.tasks import numbered_classes, rescale

EXAMPLES, CLASSES = 8_000, 250


@pytest.fixture(scope="module")
def large() -> tuple[Labels, Probabilities]:
    return random_predictions(EXAMPLES, CLASSES)


def constant_baseline(labels: Labels, p: Probabilities, name: str = "accuracy") -> object:
    constant = majority.constant_probabilities(labels, p.shape[1])
    units = np.arange(len(labels))
    return majority.compare_with_constant(METRICS[name], labels, p, constant, units)


CALLS: dict[str, Callable[[Labels, Probabilities], object]] = {
    "auroc": METRICS["auroc"].score,
    "auroc of each example": lambda y, p: influence.contributions(METRICS["auroc"], y, p),
    "neighbourhood density": WITHOUT_LABELS["soft_neighbourhood_density"].score,
    "temperature": calibration.fit_temperature,
    "applied temperature": lambda y, p: calibration.apply_temperature(p, 1.5),
    "rescaled": lambda y, p: rescale(numbered_classes(p.shape[1]), p, 1.5),
    "doubtful labels": confident_learning.doubt_labels,
    "constant score": lambda y, p: majority.constant_score(METRICS["log_loss"], y, p[0]),
    "constant baseline": constant_baseline,
    "averaged": lambda y, p: _average_repeated(np.arange(len(y)) // 2, p),
}


def as_tuple(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize("name", CALLS)
def test_chunks_do_not_change_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, p = random_predictions(300, 12)
    whole = CALLS[name](labels, p)
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 900)
    parts = CALLS[name](labels, p)
    if isinstance(whole, majority.Baseline):
        assert parts == whole
    else:
        for one, two in zip(as_tuple(whole), as_tuple(parts), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3 if name == "temperature" else 1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_memory_is_that_of_a_chunk_and_of_what_is_returned(
    name: str, large: tuple[Labels, Probabilities], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, p = large
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", len(labels) * 4)
    monkeypatch.setattr(calibration, "MAX_FITTED_NUMBERS", 1 << 18)
    CALLS[name](labels[:100], p[:100])  # what is imported
    tracemalloc.start()
    try:
        CALLS[name](labels, p)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    returned = p.nbytes if name in ("applied temperature", "rescaled", "averaged") else 0
    assert peak < returned + 0.75 * p.nbytes


def test_the_temperature_of_many_images_is_that_of_a_sample(
    large: tuple[Labels, Probabilities], monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, p = large
    whole = calibration.fit_temperature(labels, p)
    monkeypatch.setattr(calibration, "MAX_FITTED_NUMBERS", 1)
    seen = []
    original = calibration.apply_temperature

    def apply(probabilities: Probabilities, temperature: float) -> Probabilities:
        seen.append(len(probabilities))
        return original(probabilities, temperature)

    monkeypatch.setattr(calibration, "apply_temperature", apply)
    assert calibration.fit_temperature(labels, p) == pytest.approx(whole, rel=0.1)
    assert set(seen) == {calibration.FEWEST_FITTED}


def test_predictions_of_a_plugins_metric_are_an_ordinary_array() -> None:
    received = []

    def score(targets: Labels, predictions: Probabilities) -> float:
        received.append(predictions)
        return 0.5

    metric = metrics.Metric("own", "maximize", score)
    majority.constant_score(metric, np.array([0, 1]), np.array([0.25, 0.75], np.float32))
    assert received[0].flags.writeable
