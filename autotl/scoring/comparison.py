"""Which of several candidates is best, and which of them cannot be told from it.

Every candidate has been trained in the same runs; a run has a seed and a split of its own, so a
row of scores is paired with every other row. Two things make plain t tests on such scores find
differences that are not there. The runs share pictures, so their scores are not independent: the
variance of a mean is more than ``1/S`` of theirs, see ``data.Resplit.shrink``. And the best of k is
picked because it looks best: the differences to it are judged together, by the studentized range
(Tukey 1949, Biometrics 5) over the noise that is left when runs and candidates are taken out. So
equals are all called tied 95 times in 100, however many there are.

Shapes: k candidates, S runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
"""Of all intervals."""

ALIKE = 0.1
"""Times that differ by a smaller share are the same: measured again they may change places."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Standing:
    """Where one candidate stands.

    ``score`` is the mean of its runs with a t interval that knows nothing of the others; the best
    of several means is a little too good, whatever its interval. ``difference`` is to the best,
    candidate minus best, one of intervals that hold all at once. Those are ``tied`` with the best
    whose difference may be nothing.
    """

    score: Interval
    difference: Interval
    tied: bool


def compare_scores(
    scores: Scores,
    shrink: float,
    *,
    higher_is_better: bool = True,
    step: float = 0.0,
    rivals: int | None = None,
    to: int | None = None,
) -> list[Standing]:
    """How each of several candidates stands to the best of them.

    Args:
        scores: ``[k, S]``, at least two of each, all finite.
        shrink: The variance of the mean of S scores as a share of that of one, ``1/S`` or more.
        higher: Whether a higher score is the better one.
        step: The least that a score changes when one answer does, such as 1/n for the accuracy on
            n pictures. Noise smaller than its rounding is not believed.
        rivals: How many of the first rows the best is one of; None for all.
        to: The place of the row that counts as the best; None for the one that is.
    """
    k, runs = scores.shape
    means = scores.mean(1)
    best = _best(means[:rivals], higher_is_better) if to is None else to
    free = (k - 1) * (runs - 1)
    noise = scores - means[:, None] - scores.mean(0) + scores.mean()
    rounding = step**2 / 12
    variance = max(float((noise**2).sum()) / free, rounding)
    margin = _range(k, free) * (variance * shrink) ** 0.5

    own = np.maximum(scores.var(1, ddof=1), rounding)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, runs - 1)) * np.sqrt(own * shrink)
    found = []
    for mean, half in zip(means.tolist(), reach.tolist(), strict=True):
        away = mean - float(means[best])
        tied = abs(away) <= margin
        difference = Interval(away, away - margin, away + margin)
        found.append(Standing(Interval(mean, mean - half, mean + half), difference, tied))
    return found


def nested_selection_score(scores: Scores, *, higher_is_better: bool = True) -> float:
    """The mean score of what is chosen on the other runs: what the choice itself does not flatter.

    The winner's own mean is too good, because it was picked for it. Here each run scores the
    candidate that is best without it (Varma & Simon 2006, BMC Bioinformatics 7).

    Args:
        scores: ``[k, S]``, at least two runs.
        higher: Whether a higher score is the better one.
    """
    others = scores.sum(1, keepdims=True) - scores
    chosen = [_best(others[:, run], higher_is_better) for run in range(scores.shape[1])]
    return float(scores[chosen, np.arange(scores.shape[1])].mean())


def index_of_cheapest(
    milliseconds: Sequence[float | None], parameters: Sequence[float | None]
) -> int:
    """The place of the cheapest to run: fewest milliseconds a picture, then fewest parameters.

    What is not known counts as dear; of equals the first is taken.
    """
    times, sizes = (
        [float("inf") if value is None else value for value in values]
        for values in (milliseconds, parameters)
    )
    quick = [i for i, time in enumerate(times) if time <= min(times) * (1 + ALIKE)]
    return min(quick, key=sizes.__getitem__)


@cache
def _range(k: int, free: int) -> float:
    """How far the largest of k equal means lies above the smallest at most, in standard errors."""
    return float(stats.studentized_range.ppf(LEVEL, k, free))


def _best(values: Scores, higher_is_better: bool) -> int:
    return int(values.argmax() if higher_is_better else values.argmin())
