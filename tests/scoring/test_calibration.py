"""Temperature scaling recovers a temperature, changes no prediction and is cross-validated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from autotl.scoring.calibration import (
    apply_temperature,
    calibrate,
    expected_calibration_error,
    fit_temperature,
)
from autotl.scoring.metrics import METRICS, Labels, Probabilities


def scaled_predictions(
    n: int, temperature: float, seed: int = 0, classes: int = 4
) -> tuple[Labels, Probabilities]:
    """Labels drawn from probabilities, and the probabilities of ``temperature`` times the logits.

    The given temperature is the one that corrects these probabilities.
    """
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2.0, size=(n, classes))
    labels = np.array([random.choice(classes, p=p) for p in softmax(logits, axis=1)])
    return labels, softmax(temperature * logits, axis=1).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_recovered(temperature: float) -> None:
    fitted = [fit_temperature(*scaled_predictions(800, temperature, seed)) for seed in range(5)]
    assert np.mean(fitted) == pytest.approx(temperature, rel=0.08)


def test_a_temperature_changes_no_prediction_and_is_invertible() -> None:
    _, p = scaled_predictions(200, 2.0)
    scaled = apply_temperature(p, 2.0)
    assert (scaled.argmax(1) == p.argmax(1)).all()
    assert scaled.sum(1) == pytest.approx(1, abs=1e-5)
    assert (scaled.max(1) < p.max(1)).all()
    assert apply_temperature(scaled, 0.5) == pytest.approx(p, abs=1e-4)
    assert apply_temperature(p, 1.0) == pytest.approx(p, abs=1e-5)


def test_probabilities_of_0_give_finite_results() -> None:
    p = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    temperature = fit_temperature(np.array([0, 1, 2, 1]), p)
    assert np.isfinite(temperature)
    assert np.isfinite(apply_temperature(p, temperature)).all()


def test_the_calibration_error_equals_one_computed_by_hand() -> None:
    """Two bins: confidence 0.9 and accuracy 0.5 on 4 images, 0.6 and 1.0 on 2 images."""
    p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2, dtype=np.float32)
    labels = np.array([0, 0, 1, 1, 1, 1])
    expected = (4 * abs(0.9 - 0.5) + 2 * abs(0.6 - 1.0)) / 6
    assert expected_calibration_error(labels, p) == pytest.approx(expected, abs=1e-6)
    assert expected_calibration_error(np.array([0]), np.array([[1.0, 0.0]], np.float32)) == 0.0


def test_calibration_reduces_the_error_on_images_that_it_was_not_fitted_to() -> None:
    labels, p = scaled_predictions(900, 3.0)
    result = calibrate(labels, p, np.arange(900) % 3)
    assert result["temperature"] == pytest.approx(3.0, rel=0.15)
    assert result["ece_after"] < result["ece_before"] / 3
    assert (result["n"], result["bins"]) == (900, 15)


def test_a_temperature_that_does_not_generalize_is_rejected() -> None:
    """One half is overconfident, the other underconfident: the folds contradict each other."""
    over, under = scaled_predictions(400, 4.0, seed=1), scaled_predictions(400, 0.25, seed=2)
    labels, p = (np.concatenate(pair) for pair in zip(over, under, strict=True))
    result = calibrate(labels, p, np.repeat([0, 1], 400))
    assert result["temperature"] == 1.0
    assert result["ece_after"] == result["ece_before"] == expected_calibration_error(labels, p)


def test_the_error_of_each_fold_is_measured_under_the_temperature_of_the_others() -> None:
    labels, p = scaled_predictions(60, 3.0)
    folds = np.arange(60) % 2
    result = calibrate(labels, p, folds)
    scaled = np.empty_like(p)
    for fold in (0, 1):
        fitted_outside = fit_temperature(labels[folds != fold], p[folds != fold])
        scaled[folds == fold] = apply_temperature(p[folds == fold], fitted_outside)
    assert result["ece_after"] == expected_calibration_error(labels, scaled)
    fitted_inside = apply_temperature(p, result["temperature"])
    assert result["ece_after"] != expected_calibration_error(labels, fitted_inside)


@pytest.mark.parametrize("n", [20, 300])
def test_predictions_that_are_all_right_do_not_become_certain(n: int) -> None:
    """One of 500 images is misclassified, so that a small sample has no error to learn from."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 20_000)
    noise = random.normal(size=(len(labels), 2))
    logits = 4.1 * (noise + 4.1 * np.eye(2)[labels])
    p = softmax(0.45 * logits, axis=1).astype(np.float32)
    right = np.flatnonzero(p.argmax(1) == labels)[:n]
    temperature = calibrate(labels[right], p[right], np.arange(n) % 5)["temperature"]
    assert 0.5 < temperature <= 1
    log_loss = METRICS["log_loss"].score
    assert log_loss(labels, apply_temperature(p, temperature)) <= log_loss(labels, p)
    assert 1 / 5 <= fit_temperature(labels[right], p[right]) <= 5
