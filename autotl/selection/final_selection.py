"""The final selection: contenders are compared on repeats, and the winner is chosen.

The best of fifty trials is best partly by chance: its score on the validation split, by which it
was selected, is biased upwards. The best distinct configurations, the default recipe and the linear
probe are therefore retrained on new resamples with new seeds, which are the same for all
(``repeats``), and ``comparison`` computes which are statistically indistinguishable from the best.

Two combinations are compared with them: the mean of their probabilities (an ensemble) and the mean
of their weights (a soup). A combination, which may cost more, wins only if it is better than the
best single contender by at least a standard error of the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autotl import events, training
from autotl.data import Indices
from autotl.events import Listener
from autotl.models import Model, ensemble
from autotl.scoring import comparison, majority
from autotl.scoring.metrics import Predictions
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.folds import predicted_indices
from autotl.search.outcome import TrialModel
from autotl.search.selection_budget import FEWEST_REPEATS, SelectionBudget
from autotl.selection.prediction_costs import add_latencies
from autotl.selection.refit import combine
from autotl.selection.repeats import Repeats
from autotl.selection.standings import Compared, Comparer
from autotl.selection.trial_ensemble import is_within_limits, stored_predictions
from autotl.space.task import Task
from autotl.store import (
    Baseline,
    Calibration,
    Contender,
    Member,
    OutOfSampleScores,
    Selection,
    with_costs,
)
from autotl.tasks import rescale


@dataclass(frozen=True)
class OutOfSample:
    """Predictions for examples that were not trained on.

    Attributes:
        indices: The indices of the examples in the data set, ``[N]``.
        folds: The number of the repeat that predicted each example, ``[N]``; without repeats, two
            halves.
        predictions: The predictions, ``[N, K]``.
        repeats: The number of repeats; 1 without any.
    """

    indices: Indices
    folds: Indices
    predictions: Predictions
    repeats: int = 1


class FinalSelection:
    """The final selection of one study.

    Args:
        repeats: The repeats, which ``run`` runs.
        context: The context of all trainings of the study.
        selection: Predicts how long the end of the search takes.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        best: The model of the best trial, if this run trained it.

    Attributes:
        result: The comparison so far; None before two contenders have completed two repeats.
    """

    def __init__(
        self,
        repeats: Repeats,
        context: TrainingContext,
        selection: SelectionBudget,
        budget: Budget,
        listener: Listener,
        best: TrialModel | None,
    ) -> None:
        self.repeats, self.context, self.selection = repeats, context, selection
        self.budget, self.listener, self.best = budget, listener, best
        self.settings, self.dataset = context.settings, context.dataset
        self.metric = context.metric
        self.result: Selection | None = None
        self._winner: Contender | None = None

    def run(self) -> None:
        """Run repeats while there is time, and compare the contenders.

        The result is updated after every repeat, because the user may interrupt.
        """
        for _ in self.repeats.run():
            self._compare(self.repeats.completed(), [])
        singles = self.repeats.completed()
        if self.repeats.count >= FEWEST_REPEATS and len(singles) > 1:
            singles = self._with_latencies(singles)
            rows, store = self.selection.leaderboard.rows, self.repeats.store
            combinations = self._combinations(singles)
            self._compare(
                singles,
                [c for c in combinations if is_within_limits(c, rows, store, self.settings)],
            )

    def _with_latencies(self, singles: Sequence[Contender]) -> list[Contender]:
        """Measure what a prediction takes, in turn for all contenders."""
        self.listener(events.Stage("timing predictions"))
        rows, models = self.selection.leaderboard.rows, self.repeats.models
        networks = [
            models.get(c.lead) or self.context.build(self.context.config(rows[c.lead]))
            for c in singles
        ]
        return add_latencies(singles, networks, self.context.device, self.budget)

    def winner(self, default: Contender) -> Contender:
        """Return the winner, or ``default`` if there was no time for a comparison."""
        return self._winner or default

    def model_of(self, contender: Contender) -> Model | None:
        """Return a model of a contender that was trained on a part of the data; None without one.

        It is the model of the last repeat, or, for a contender without repeats, that of its trial.
        """
        if not contender.predictions:
            return self.model_of_best(contender)
        if contender.kind == "soup" and not self.repeats.trained_in_same_repeat(contender.trials):
            return None  # heads of different repeats began with different weights
        models = [self.repeats.models.get(trial) for trial in contender.trials]
        available = [model for model in models if model is not None]
        if len(available) == len(models):
            return combine(contender, available)
        return self.model_of_best(contender)

    def model_of_best(self, contender: Contender) -> Model | None:
        """Return the model of the best trial of this run if it is the contender, else None."""
        if self.best and contender.id == ("trial", ((self.best.number, 1.0),)):
            return self.best.model
        return None

    # ---------------------------------------------------------------- comparison

    def _compare(self, singles: Sequence[Contender], combinations: Sequence[Contender]) -> None:
        """Compare the contenders and choose the winner.

        Args:
            singles: The contenders that are trials.
            combinations: The ensemble and the soup, if any.
        """
        if self.repeats.count < FEWEST_REPEATS or len(singles) < 2:
            return
        count = len(singles)
        contenders = [*singles, *combinations]
        numbers = range(max(len(c.scores) for c in contenders))
        comparer = Comparer(
            self.dataset, self.metric, [self.repeats.validation_indices(n) for n in numbers]
        )
        compared = comparer.compare(contenders, count)
        standings = compared.comparison.standings
        order = sorted(
            range(len(contenders)),
            key=lambda i: standings[i].mean,
            reverse=self.metric.higher_is_better,
        )
        best = next(i for i in order if i < count)  # of the single contenders
        tied = [i for i in order if standings[i].tied and i < count]
        ahead = [i for i in order[: order.index(best)] if _is_clearly_better(standings[i])]
        ahead = [i for i in ahead if self._is_feasible(contenders[i])]
        if ahead:
            compared = comparer.compare(contenders, count, reference=ahead[0])
            standings = compared.comparison.standings
            tied = [i for i in order if standings[i].tied and (i < count or i in ahead)]
        ranked = compared.contenders
        cheapest = tied[_cheapest([ranked[i] for i in tied])]
        winner = cheapest if self.settings.prefer == "cheap" else tied[0]
        self._winner = ranked[winner]
        self.result = self._selection(comparer, compared, order, ranked[cheapest])
        if ahead:
            self._notify_combination(ranked[winner], ranked[best])

    def _selection(
        self, comparer: Comparer, compared: Compared, order: Sequence[int], cheapest: Contender
    ) -> Selection:
        """Return the comparison as it is stored; ``order`` has the indices by score, best first."""
        assert self._winner is not None
        rows = self.selection.leaderboard.rows
        sign = 1 if self.metric.higher_is_better else -1
        singles = [c for c in compared.contenders if c.kind == "trial"]
        best = max(singles, key=lambda c: sign * (rows[c.lead].score or 0.0))
        interval = comparer.optimism(best, rows[best.lead], compared)
        winner, of_winner = self._winner, None
        if winner.kind == "trial":
            of_winner = comparer.optimism(winner, rows[winner.lead], compared)
        scores = [c.scores[: self.repeats.count] for c in singles]
        complete = [each for each in scores if len(each) == self.repeats.count]
        return Selection(
            repeats=self.repeats.count,
            contenders=[compared.contenders[i] for i in order],
            winner=winner,
            cheapest=cheapest,
            optimism=self.metric.gain(rows[best.lead].score or 0.0, _mean(best)),
            optimism_of=best.lead,
            optimism_interval=interval,
            winner_optimism=of_winner,
            detectable=compared.comparison.detectable,
            nested_score=comparison.nested_selection_score(
                np.array(complete), higher_is_better=self.metric.higher_is_better
            ),
            prefer=self.settings.prefer,
        )

    def _notify_combination(self, winner: Contender, best: Contender) -> None:
        members = ", ".join(f"trial {trial}" for trial in winner.trials)
        decimals = self.repeats.store.study(self.settings.name).score_decimals
        text = (
            f"the {winner.name} of {members} is better than each of them: its score is "
            f"{winner.mean:.{decimals}f}, that of {best.name} is {best.mean:.{decimals}f}"
        )
        self.listener(events.Note(text))

    def _is_feasible(self, contender: Contender) -> bool:
        """Whether there is a model of a contender, or time to train one."""
        if self.model_of(contender):
            return True
        return self.selection.finish_seconds(contender) <= self.budget.left

    # ---------------------------------------------------------------- combinations

    def _combinations(self, singles: Sequence[Contender]) -> list[Contender]:
        """Return the ensemble and the soup with their costs, if they have several members."""
        candidates = (self._ensemble(singles), self.repeats.soup())
        combined = [c for c in candidates if c and len(c.members) > 1]
        by_trial = {c.lead: c for c in singles}
        return [with_costs(c, [by_trial[trial] for trial in c.trials]) for c in combined]

    def _ensemble(self, singles: Sequence[Contender]) -> Contender | None:
        """Return an ensemble of the contenders that completed all repeats.

        Its score in a repeat is computed with weights that are selected on examples that are only
        in other repeats. The result is None if all repeats have the same examples.
        """
        count, rows = self.repeats.count, self.selection.leaderboard.rows
        complete = [c for c in singles if len(c.scores) >= count]
        members = [
            c.model_copy(update={"predictions": c.predictions[:count]})
            for c in complete
            if self.context.can_combine([rows[complete[0].lead], rows[c.lead]])
        ]
        repeats = range(count)
        indices = [self.repeats.validation_indices(number) for number in repeats]
        labels = [self.dataset.targets[of_repeat] for of_repeat in indices]
        units = [np.array(self.dataset.units)[of_repeat] for of_repeat in indices]
        all_labels, all_units = np.concatenate(labels), np.concatenate(units)
        all_predictions = [np.concatenate(c.predictions) for c in members]
        scores = []
        for number in repeats:
            # Weights must not be scored on sampling units on which they were selected.
            other = ~np.isin(all_units, units[number])
            if not other.any():
                return None  # in a small data set all repeats may have the same examples
            selected = ensemble.select_members(
                self.metric, all_labels[other], [p[other] for p in all_predictions]
            )
            mixed = ensemble.average_predictions([c.predictions[number] for c in members], selected)
            scores.append(self.metric.score(labels[number], mixed))
        weights = ensemble.select_members(self.metric, all_labels, all_predictions)
        order = [int(i) for i in np.argsort(weights)[::-1] if weights[i]]
        return Contender(
            kind="ensemble",
            role="ensemble",
            members=tuple(Member(trial=members[i].lead, weight=weights[i]) for i in order),
            scores=tuple(scores),
            predictions=tuple(
                ensemble.average_predictions([c.predictions[number] for c in members], weights)
                for number in repeats
            ),
            seconds=sum(members[i].seconds for i in order),
        )

    # ---------------------------------------------------------------- out-of-sample predictions

    def out_of_sample(self, winner: Contender) -> OutOfSample | None:
        """Return predictions of the winner for examples that it was not trained on, or None.

        They are the predictions of its repeats. Without repeats, they are the predictions of its
        trial for the validation split, or None if they were not stored and there is no time to
        compute them; with folds, those of its trial for all of them, or None if there are not all.
        """
        if winner.predictions:
            repeats = range(len(winner.predictions))
            indices = [self.repeats.validation_indices(number) for number in repeats]
            folds = [
                np.full(len(rows), number) for rows, number in zip(indices, repeats, strict=True)
            ]
            return OutOfSample(
                np.concatenate(indices),
                np.concatenate(folds),
                np.concatenate(winner.predictions),
                len(repeats),
            )
        rows, tested = predicted_indices(self.dataset), self.dataset.indices("test")
        probabilities = stored_predictions(self.repeats.store, self.settings.name, winner)
        if probabilities is None or len(probabilities) != len(rows):
            if self.dataset.folds is not None:  # every model has seen most of the images
                return None
            seconds = self.selection.whole_test_seconds(winner) * len(rows) / max(1, len(tested))
            model = self.model_of(winner)
            if model is None or self.budget.left < seconds + self.selection.finish_seconds(winner):
                return None
            device = self.context.device
            batches = self.context.batches(model, "validation")
            probabilities = training.predict(model.to(device.torch_device), batches, device)
        halves, own = np.arange(len(rows)) % 2, self.dataset.folds
        return OutOfSample(rows, halves if own is None else own[rows], probabilities)

    def calibrate(self, predictions: OutOfSample) -> Calibration | None:
        """Calibrate the winner on its out-of-sample predictions; None if these are too few."""
        targets, task = self.dataset.targets[predictions.indices], self.dataset.task
        result = task.calibrate(targets, predictions.predictions, predictions.folds)
        return Calibration.model_validate(result) if result else None

    def score_by_class(
        self, predictions: OutOfSample, calibration: Calibration | None
    ) -> OutOfSampleScores:
        """Compute the results of the winner by class, and compare it with a constant prediction."""
        task, split = self.dataset.task, self.dataset.indices("train")
        targets, units = self.dataset.targets, np.array(self.dataset.units)
        own = targets[predictions.indices]
        baseline = majority.compare_with_constant(
            self.metric,
            own,
            predictions.predictions,
            task.constant(targets[split]),
            units[predictions.indices],
            predictions.folds if predictions.repeats > 1 else None,
        )
        details = task.details(own, *apply_calibration(task, predictions.predictions, calibration))
        return OutOfSampleScores(
            n=len(own),
            per_class=details["per_class"],
            at_thresholds=details.get("at_thresholds", {}),
            majority=Baseline.model_validate(asdict(baseline)) if baseline else None,
        )


def apply_calibration(
    task: Task, predictions: Predictions, calibration: Calibration | None
) -> tuple[Predictions, dict[str, Any]]:
    """Return predictions ``[N, K]`` divided by the temperature, and the values of a calibration."""
    if calibration is None:
        return predictions, {}
    return rescale(task, predictions, calibration.temperature or 1.0), calibration.values


def _is_clearly_better(standing: comparison.Standing) -> bool:
    """Whether a combination that is ahead of the best is so by a standard error or more."""
    gap = standing.difference
    error = comparison.approximate_standard_error(gap.low, gap.high)
    return not standing.tied or abs(gap.mean) >= error > 0


def _cheapest(contenders: Sequence[Contender]) -> int:
    latencies = [c.latency for c in contenders]
    of_batch = all(each and each.batch for each in latencies)
    spreads = [(each.batch if of_batch else each.single) if each else None for each in latencies]
    times = [(each.median, each.low, each.high) if each else None for each in spreads]
    return comparison.index_of_cheapest(times, [c.parameters for c in contenders])


def _mean(contender: Contender) -> float:
    assert contender.standing is not None  # it was compared
    return contender.standing.score.mean
