"""A temperature is found again, changes no answer, and is judged on other pictures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from autotl.scoring import calibration
from autotl.scoring.calibration import Labels, Probabilities


def answers(
    n: int, sharpness: float, seed: int = 0, classes: int = 4
) -> tuple[Labels, Probabilities]:
    """Labels drawn from probabilities, and these with their logits ``sharpness`` times as large."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2.0, size=(n, classes))
    truth = softmax(logits, axis=1)
    labels = np.array([random.choice(classes, p=p) for p in truth])
    return labels, softmax(sharpness * logits, axis=1).astype(np.float32)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 3.0])
def test_the_temperature_is_found_again(sharpness: float) -> None:
    found = [calibration.fit_temperature(*answers(800, sharpness, seed)) for seed in range(5)]
    assert np.mean(found) == pytest.approx(sharpness, rel=0.08)


def test_a_temperature_changes_no_answer_and_may_be_undone() -> None:
    _, p = answers(200, 2.0)
    cooler = calibration.apply_temperature(p, 2.0)
    assert (cooler.argmax(1) == p.argmax(1)).all()
    assert cooler.sum(1) == pytest.approx(1, abs=1e-5)
    assert (cooler.max(1) < p.max(1)).all()
    assert calibration.apply_temperature(cooler, 0.5) == pytest.approx(p, abs=1e-4)
    assert calibration.apply_temperature(p, 1.0) == pytest.approx(p, abs=1e-5)


def test_certainty_is_survived() -> None:
    """A probability of 0 has no logarithm."""
    p = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    found = calibration.fit_temperature(np.array([0, 1, 2, 1]), p)
    assert np.isfinite(found)
    assert np.isfinite(calibration.apply_temperature(p, found)).all()


def test_the_calibration_error_by_hand() -> None:
    """Two bins: 0.9 sure and right half the time, 0.6 sure and always right; 4 and 2 pictures."""
    p = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2, dtype=np.float32)
    labels = np.array([0, 0, 1, 1, 1, 1])
    expected = (4 * abs(0.9 - 0.5) + 2 * abs(0.6 - 1.0)) / 6
    assert calibration.expected_calibration_error(labels, p) == pytest.approx(expected, abs=1e-6)
    assert (
        calibration.expected_calibration_error(np.array([0]), np.array([[1.0, 0.0]], np.float32))
        == 0.0
    )


def test_calibrating_helps_on_pictures_that_it_was_not_fitted_to() -> None:
    labels, p = answers(900, 3.0)
    found = calibration.calibrate(labels, p, np.arange(900) % 3)
    assert found["temperature"] == pytest.approx(3.0, rel=0.15)
    assert found["ece_after"] < found["ece_before"] / 3
    assert (found["n"], found["bins"]) == (900, 15)


def test_a_temperature_that_does_not_hold_for_other_pictures_is_not_taken() -> None:
    """One half is overconfident and the other underconfident: neither's temperature suits both."""
    (a, sharp), (b, blunt) = answers(400, 4.0, seed=1), answers(400, 0.25, seed=2)
    labels, p = np.concatenate([a, b]), np.concatenate([sharp, blunt])
    parts = np.repeat([0, 1], 400)
    found = calibration.calibrate(labels, p, parts)
    assert found["temperature"] == 1.0
    assert (
        found["ece_after"]
        == found["ece_before"]
        == calibration.expected_calibration_error(labels, p)
    )


def test_the_error_after_is_not_measured_where_the_temperature_was_fitted() -> None:
    """Each part under the temperature of the others."""
    labels, p = answers(60, 3.0)
    parts = np.arange(60) % 2
    found = calibration.calibrate(labels, p, parts)
    after = np.empty_like(p)
    for part in (0, 1):
        other = calibration.fit_temperature(labels[parts != part], p[parts != part])
        after[parts == part] = calibration.apply_temperature(p[parts == part], other)
    assert found["ece_after"] == calibration.expected_calibration_error(labels, after)
    flattering = calibration.apply_temperature(p, found["temperature"])
    assert found["ece_after"] != calibration.expected_calibration_error(labels, flattering)
