"""Ending hopeless trials early: Optuna's percentile pruner, with the settings of a search."""

from __future__ import annotations

from optuna.pruners import BasePruner, PercentilePruner

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
    return PercentilePruner(
        100 - PRUNED_PERCENT,  # what Optuna is given is the percentage of trials that is kept
        n_startup_trials=MIN_TRIALS,
        n_warmup_steps=warmup_epochs(epochs),
        n_min_trials=MIN_TRIALS,
    )
