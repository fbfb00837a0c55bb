"""Ending hopeless trials early, by the percentile rule.

Optuna's own `PercentilePruner` decides the same, but it reads all trials after every epoch.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence

from optuna import Study
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

PRUNED_PERCENT = 10
"""Percentage of the completed trials below which a trial is pruned."""

WARMUP_FRACTION = 0.5
"""Fraction of a search's epochs before which no trial is pruned.

The first epochs of full fine-tuning are worse than those of a linear probe, whatever comes later.
"""

MIN_TRIALS = 10
"""Number of completed trials that reported the same epoch, before which no trial is pruned."""

DESCRIPTION = (
    f"PercentilePruner(pruned_percent={PRUNED_PERCENT}, warmup_fraction={WARMUP_FRACTION:g}, "
    f"min_trials={MIN_TRIALS})"
)
"""The pruner and its settings, as recorded with a study."""


def warmup_epochs(epochs: int) -> int:
    """Return the number of the first epoch after which a trial can be pruned.

    Args:
        epochs: Largest number of epochs of a trial.
    """
    return round(WARMUP_FRACTION * epochs)


def make_pruner(epochs: int) -> BasePruner:
    """Make the pruner of a search.

    A trial is pruned if its best epoch so far is worse than what 90 % of the completed trials
    reported at the same epoch number. Pruned trials are not among these, so a random search of 60
    trials prunes about a third. In `studies/benchmarks/replay.py` this costs no regret, whereas
    pruning more trials, or earlier, loses good ones.

    Args:
        epochs: Largest number of epochs of a trial.
    """
    return WorstTrialsPruner(warmup_epochs(epochs))


class WorstTrialsPruner(BasePruner):
    """Prunes trials whose best epoch is among the worst ``PRUNED_PERCENT`` at the same epoch.

    It reads the study once for each trial, and of that only the trials that completed since. What
    other processes complete while the trial is running does not count.

    Args:
        warmup: Number of the first epoch after which a trial can be pruned.
    """

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self._scores: defaultdict[int, list[float]] = defaultdict(list)  # sorted, by epoch
        self._counted: set[int] = set()  # the completed trials whose scores are among these
        self._trial: int | None = None

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial should be pruned after the last epoch that it has reported."""
        if (epoch := trial.last_step) is None or epoch < self._warmup:
            return False
        if trial.number != self._trial:
            self._count_completed(study)
            self._trial = trial.number
        scores = self._scores[epoch]
        if len(scores) < MIN_TRIALS:
            return False
        reported = trial.intermediate_values.values()
        if study.direction == StudyDirection.MAXIMIZE:
            return max(reported) < _percentile(scores, PRUNED_PERCENT)
        return min(reported) > _percentile(scores, 100 - PRUNED_PERCENT)

    def _count_completed(self, study: Study) -> None:
        """Add the scores of trials that have completed since the last call."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if trial.number not in self._counted:
                self._counted.add(trial.number)
                for epoch, score in trial.intermediate_values.items():
                    if math.isfinite(score):
                        insort(self._scores[epoch], score)


def _percentile(values: Sequence[float], percent: float) -> float:
    """A percentile of sorted values, by linear interpolation as in ``numpy.percentile``."""
    position = (len(values) - 1) * percent / 100
    lower = values[math.floor(position)]
    upper = values[math.ceil(position)]
    return lower + (upper - lower) * (position % 1)
