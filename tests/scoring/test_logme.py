"""LogME equals its definition and has the invariances that follow from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group

from autotl.scoring import logme as logme_module
from autotl.scoring.logme import logme

Data = tuple[NDArray[np.float64], NDArray[np.int64]]


def gaussian_clusters(seed: int, n: int, f: int, separation: float = 2.0, classes: int = 3) -> Data:
    """Features ``[n, f]``: standard normal around a centre for each class, and labels ``[n]``.

    The centres are normal with a standard deviation of ``separation``.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    noise = random.normal(size=(n, f))
    return noise + separation * random.normal(size=(classes, f))[labels], labels


def maximize_evidence(features: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The definition: the likelihood of ``y ~ N(0, F F' / a + I / b)``, maximized numerically."""
    n = len(labels)

    def negative_log_evidence(
        log_precisions: NDArray[np.float64], members: NDArray[np.bool_]
    ) -> float:
        a, b = np.exp(log_precisions)
        covariance = features @ features.T / a + np.eye(n) / b
        return -float(multivariate_normal.logpdf(members, cov=covariance)) / n

    def maximum(members: NDArray[np.bool_]) -> float:
        starts = [(a, b) for a in (-2.0, 2.0, 6.0) for b in (0.0, 4.0)]
        options = {"method": "Nelder-Mead", "bounds": [(-12, 12)] * 2}
        optima = [
            minimize(negative_log_evidence, start, args=(members,), **options) for start in starts
        ]
        return -min(optimum.fun for optimum in optima)

    return float(np.mean([maximum(labels == c) for c in np.unique(labels)]))


@pytest.mark.parametrize(("n", "f"), [(18, 4), (12, 12), (12, 20)])
def test_it_is_the_maximum_of_the_evidence(n: int, f: int) -> None:
    features, labels = gaussian_clusters(n + f, n, f, separation=0.7)
    assert logme(features, labels) == pytest.approx(maximize_evidence(features, labels), abs=1e-5)


@pytest.mark.parametrize(("n", "f"), [(90, 10), (40, 90)])
def test_it_is_invariant_to_order_rotation_scale_and_constant_features(n: int, f: int) -> None:
    features, labels = gaussian_clusters(0, n, f)
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
def test_features_that_separate_the_classes_score_higher_than_noise(n: int, f: int) -> None:
    for seed in range(20):
        features, labels = gaussian_clusters(seed, n, f, separation=0.5)
        shuffled = np.random.default_rng(seed).permutation(labels)
        assert logme(features, labels) > logme(features, shuffled) + 0.02


@pytest.mark.parametrize(("n", "f"), [(120, 20), (60, 200)])
def test_it_increases_with_the_separation_of_the_classes(n: int, f: int) -> None:
    for seed in range(10):
        scores = [
            logme(*gaussian_clusters(seed, n, f, separation=separation))
            for separation in (0.0, 0.3, 0.7, 1.5, 4.0)
        ]
        assert scores == sorted(scores)


def test_additional_features_of_noise_lower_it() -> None:
    for seed in range(10):
        features, labels = gaussian_clusters(seed, 60, 10, separation=0.7)
        noise = np.random.default_rng(seed).normal(size=(60, 300))
        assert logme(np.hstack([features, noise]), labels) < logme(features, labels)


def test_without_information_it_depends_only_on_the_class_frequencies() -> None:
    labels = np.array([0, 0, 0, 1])
    mean_square = np.array([0.75, 0.25])  # of y for each class, all of it unexplained
    expected = -0.5 * np.mean(np.log(2 * np.pi * mean_square) + 1)
    assert logme(np.zeros((4, 3)), labels) == pytest.approx(expected)


def test_extreme_features_give_finite_results() -> None:
    labels = np.arange(30) % 3
    exact = np.eye(3)[labels]  # the labels themselves: nothing is left to explain
    near = exact + 0.01 * np.random.default_rng(0).normal(size=exact.shape)
    assert np.isfinite(logme(exact, labels))
    assert logme(exact, labels) > logme(near, labels) > logme(near[::-1], labels)
    wide = np.random.default_rng(0).normal(size=(30, 3000)).astype(np.float16)
    assert np.isfinite(logme(wide, labels))
    assert np.isfinite(logme(np.ones((30, 5), np.uint8), labels))


def test_a_sample_of_many_examples_gives_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = gaussian_clusters(0, 1500, 8)
    of_all = logme(features, labels)
    monkeypatch.setattr(logme_module, "MAX_EXAMPLES", 500)
    of_sample = logme(features, labels)
    assert of_sample == logme(features, labels)  # always the same sample
    assert of_sample != of_all
    assert of_sample == pytest.approx(of_all, abs=0.05)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2), r"expected \[N, F\] and \[N\]"),
        (np.zeros(3), np.zeros(3), r"expected \[N, F\] and \[N\]"),
        (np.zeros((3, 2)), np.zeros(3), "of one class"),
        (np.full((2, 2), np.nan), np.arange(2), "not finite"),
    ],
)
def test_invalid_arguments_are_an_error(
    features: NDArray[np.float64], labels: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        logme(features, labels)


def test_of_very_many_classes_a_sample_is_regressed(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(240) % 60
    features = random.normal(size=(60, 8))[labels] + 0.5 * random.normal(size=(240, 8))
    whole = logme(features, labels)
    regressed = []
    original = logme_module._log_evidence

    def count(*arguments: Any) -> float:
        regressed.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(logme_module, "MAX_CLASSES", 20)
    monkeypatch.setattr(logme_module, "_log_evidence", count)
    assert logme(features, labels) == pytest.approx(whole, rel=0.1)
    assert len(regressed) == 20
