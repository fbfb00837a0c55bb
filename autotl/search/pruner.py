"""When a trial is hopeless: compared at the same share of its schedule, and fair to slow kinds."""

from __future__ import annotations

import math

import numpy as np
from optuna import Study
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

EPOCHS = "epochs"
"""The user attribute of a trial with the number of epochs that it plans."""


class WorstTenthPruner(BasePruner):
    """Ends a trial that is among the worst tenth of all, unless it leads its own kind.

    The third of 6 epochs says nothing about the third of 12, so trials are compared at the same
    share of their own epochs, between epochs in a straight line. The first epoch of a linear probe
    says nothing about that of full fine-tuning either: a kind that starts slowly may lie below all
    others, so the best of a kind so far always goes on, and no kind is given up unseen.

    Trials that were pruned count as long as they lasted; later epochs are so compared with better
    ones. Nothing is drawn or remembered: the answer depends on the trials of the study alone. A
    step is an epoch, from 1. Values that are no number are passed over.

    Args:
        kind: The parameter whose value makes trials alike; all are, where trials lack it.
        worst: The share of trials, above 0 and below 1, that is the worst.
        fewest: How many trials there must be to compare with.
    """

    def __init__(self, kind: str = "freeze", worst: float = 0.1, fewest: int = 3) -> None:
        self.kind, self.worst, self.fewest = kind, worst, fewest

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to end after its last reported epoch.

        One that plans no known number of epochs, or has none left, is not pruned.
        """
        step, epochs = trial.last_step, trial.user_attrs.get(EPOCHS)
        if step is None or not epochs or step >= epochs:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        now = sign * trial.intermediate_values[step]
        everyone, alike = [], []
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        for other in study.get_trials(deepcopy=False, states=ended):
            then = sign * _value_at(other, step, epochs)
            if math.isnan(then):
                continue
            everyone.append(then)
            if other.params.get(self.kind) == trial.params.get(self.kind):
                alike.append(then)
        if len(everyone) < self.fewest or not alike:
            return False
        return bool(now < np.quantile(everyone, self.worst) and now < max(alike))


def _value_at(trial: FrozenTrial, step: int, epochs: int) -> float:
    """What a trial had reported when as far as another at ``step`` of ``epochs``.

    Not a number where it had reported nothing yet, or nothing more. Without the attribute, the
    last epoch of a complete trial is the number of its epochs.
    """
    planned = trial.user_attrs.get(EPOCHS)
    if planned is None and trial.state == TrialState.COMPLETE:
        planned = trial.last_step
    points = sorted((s, v) for s, v in trial.intermediate_values.items() if math.isfinite(v))
    if not points or not planned:
        return math.nan
    steps, values = zip(*points, strict=True)
    there = step * planned / epochs
    return float(np.interp(there, steps, values, left=math.nan, right=math.nan))
