"""LogME against its definition, and what it must and must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group

from autotl.scoring import logme as logme_module
from autotl.scoring.logme import logme

Data = tuple[NDArray[np.float64], NDArray[np.int64]]


def blobs(seed: int, n: int, f: int, apart: float = 2.0, classes: int = 3) -> Data:
    """``features [n, f]``: normal around a centre for each class, itself ``apart`` times normal."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    return random.normal(size=(n, f)) + apart * random.normal(size=(classes, f))[labels], labels


def brute_force(features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The definition, ``y ~ N(0, F F' / a + I / b)``, climbed over ``a`` and ``b``."""
    n = len(labels)

    def lost(logarithms: NDArray[np.float64], members: NDArray[np.bool_]) -> float:
        a, b = np.exp(logarithms)
        covariance = features @ features.T / a + np.eye(n) / b
        return -float(multivariate_normal.logpdf(members, cov=covariance)) / n

    def best(members: NDArray[np.bool_]) -> float:
        starts = [(a, b) for a in (-2.0, 2.0, 6.0) for b in (0.0, 4.0)]
        how = {"method": "Nelder-Mead", "bounds": [(-12, 12)] * 2}
        climbs = [minimize(lost, start, args=(members,), **how) for start in starts]
        return -min(climb.fun for climb in climbs)

    return float(np.mean([best(labels == c) for c in np.unique(labels)]))


@pytest.mark.parametrize(("n", "f"), [(18, 4), (12, 12), (12, 20)])
def test_it_is_the_largest_evidence_there_is(n: int, f: int) -> None:
    features, labels = blobs(n + f, n, f, apart=0.7)
    assert logme(features, labels) == pytest.approx(brute_force(features, labels), abs=1e-5)


@pytest.mark.parametrize(("n", "f"), [(90, 10), (40, 90)])
def test_it_depends_on_neither_order_nor_rotation_nor_scale(n: int, f: int) -> None:
    features, labels = blobs(0, n, f)
    expected = logme(features, labels)
    order = np.random.default_rng(0).permutation(n)
    assert logme(features[order], labels[order]) == pytest.approx(expected)
    assert logme(features @ ortho_group.rvs(f, random_state=0), labels) == pytest.approx(expected)
    for scale in (1e-30, 1e-3, 1e30):
        assert logme(features * scale, labels) == pytest.approx(expected)
    names = np.array(["cat", "ant", "bee"])[labels]
    assert logme(features, names) == pytest.approx(expected)
    padded = np.hstack([features, np.zeros((n, 5))])
    assert logme(padded, labels) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "f"), [(120, 20), (60, 200)])
def test_features_that_tell_the_classes_beat_noise(n: int, f: int) -> None:
    for seed in range(20):
        features, labels = blobs(seed, n, f, apart=0.5)
        shuffled = np.random.default_rng(seed).permutation(labels)
        assert logme(features, labels) > logme(features, shuffled) + 0.02


@pytest.mark.parametrize(("n", "f"), [(120, 20), (60, 200)])
def test_the_further_apart_the_classes_the_better(n: int, f: int) -> None:
    for seed in range(10):
        scores = [logme(*blobs(seed, n, f, apart=apart)) for apart in (0.0, 0.3, 0.7, 1.5, 4.0)]
        assert scores == sorted(scores)


def test_more_features_of_noise_gain_nothing() -> None:
    for seed in range(10):
        features, labels = blobs(seed, 60, 10, apart=0.7)
        noise = np.random.default_rng(seed).normal(size=(60, 300))
        assert logme(np.hstack([features, noise]), labels) < logme(features, labels)


def test_features_that_say_nothing_are_worth_the_frequencies_of_the_classes() -> None:
    labels = np.array([0, 0, 0, 1])
    square = np.array([0.75, 0.25])  # the mean square of y is all that is left to explain
    expected = -0.5 * np.mean(np.log(2 * np.pi * square) + 1)
    assert logme(np.zeros((4, 3)), labels) == pytest.approx(expected)


def test_what_is_extreme_stays_finite() -> None:
    labels = np.arange(30) % 3
    exact = np.eye(3)[labels]  # the labels themselves: nothing is left to explain
    near = exact + 0.01 * np.random.default_rng(0).normal(size=exact.shape)
    assert np.isfinite(logme(exact, labels))
    assert logme(exact, labels) > logme(near, labels) > logme(near[::-1], labels)
    wide = np.random.default_rng(0).normal(size=(30, 3000)).astype(np.float16)
    assert np.isfinite(logme(wide, labels))
    assert np.isfinite(logme(np.ones((30, 5), np.uint8), labels))


def test_of_many_examples_some_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(0, 1500, 8)
    whole = logme(features, labels)
    monkeypatch.setattr(logme_module, "MOST", 500)
    some = logme(features, labels)
    assert some == logme(features, labels)  # always the same ones
    assert some != whole
    assert some == pytest.approx(whole, abs=0.05)


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (np.zeros((3, 2)), np.zeros(2), r"give \[N, F\] and \[N\]"),
        (np.zeros(3), np.zeros(3), r"give \[N, F\] and \[N\]"),
        (np.zeros((3, 2)), np.zeros(3), "of one class"),
        (np.full((2, 2), np.nan), np.arange(2), "not finite"),
    ],
)
def test_what_cannot_be_rated_is_refused(
    features: NDArray[np.float64], labels: NDArray[np.float64], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        logme(features, labels)
