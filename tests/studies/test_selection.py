"""The final selection reaches its goals in simulated studies, and so do intervals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

import selection

STUDIES = 300


def test_a_candidate_three_points_better_is_alone_at_equal_trainings() -> None:
    alone, _, wins = selection.rates(selection.tied_by_steps, 3, 5, 0.03, STUDIES)
    earlier, _, earlier_wins = selection.rates(selection.tied_by_run_scores, 5, 3, 0.03, STUDIES)
    assert alone > 0.89  # the goal is 0.85; measured over 1,000 studies: 0.943
    assert earlier < 0.1
    assert wins >= earlier_wins


@pytest.mark.parametrize(("k", "runs"), [(3, 5), (3, 2), (5, 3), (5, 1)])
def test_equals_are_all_tied(k: int, runs: int) -> None:
    tied, *_ = selection.rates(selection.tied_by_steps, k, runs, 0.0, STUDIES, best=k, seed=1)
    assert tied >= 0.93


@pytest.mark.parametrize("gain", [0.01, 0.02, 0.04])
def test_neither_of_the_two_best_is_left_out(gain: float) -> None:
    rates = selection.rates(selection.tied_by_steps, 4, 5, gain, STUDIES, best=2, seed=2)
    assert rates[1] >= 0.93


def test_the_better_one_wins_though_only_three_take_part() -> None:
    alone, wins = selection.funnel(0.03, STUDIES)
    assert alone > 0.87
    assert wins > 0.97


@pytest.mark.parametrize("runs", [2, 5])
def test_intervals_of_means_are_narrow_and_cover(runs: int) -> None:
    intervals = selection.mean_intervals(runs, STUDIES)
    pooled, earlier = intervals["pooled"], intervals["run scores"]
    covered = (pooled[:, 0] <= selection.ACCURACY) & (pooled[:, 1] >= selection.ACCURACY)
    assert 0.92 < covered.mean() < 0.99
    widths = [float(np.median(each[:, 1] - each[:, 0])) for each in (pooled, earlier)]
    assert widths[0] < 0.055 * (2 / runs) ** 0.5
    assert widths[0] < 0.5 * widths[1] or runs > 2


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "auroc", "log_loss"])
@pytest.mark.parametrize(("n", "classes"), [(30, 2), (100, 10)])
@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.99])
def test_intervals_of_scores_cover(name: str, n: int, classes: int, accuracy: float) -> None:
    covered, width = selection.coverage(name, n, classes, accuracy, 200)
    assert covered > 0.88  # the standard error of a coverage of 0.95 is 0.015
    assert width > 0
