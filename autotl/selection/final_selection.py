"""The final selection: contenders are compared on repeats, and the winner is chosen.

The best of fifty trials is partly the luckiest of fifty, and its score on the validation split it
was selected by is biased upwards. So the best distinct configurations, the default recipe and the
linear probe are retrained on new resamples with new seeds, the same for all (``repeats``), and
``comparison`` tells which are statistically indistinguishable from the best.

Combinations are compared with them: the mean of their probabilities (an ensemble) and of their
weights (a soup). One wins only if it is better than every single contender beyond a tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotl import data, events, training
from autotl.data import Indices
from autotl.events import Listener
from autotl.models import Model, ensemble
from autotl.scoring import calibration, comparison, metrics
from autotl.scoring.comparison import Standing as Compared
from autotl.scoring.metrics import Probabilities
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.selection_budget import FEWEST_REPEATS, SelectionBudget
from autotl.search.trials import TrialModel
from autotl.selection.refit import combine
from autotl.selection.repeats import Repeats
from autotl.store import Calibration, Contender, Interval, Member, Selection, Standing


@dataclass(frozen=True)
class OutOfSample:
    """Predictions for examples that were not trained on.

    ``indices`` are their indices in the data set, ``folds`` tells which repeat predicted each, and
    ``probabilities`` are ``[N, C]``.
    """

    indices: Indices
    folds: Indices
    probabilities: Probabilities


class FinalSelection:
    """Chooses the winner among the repeated contenders.

    Args:
        repeats: The repeats; they need not have been run yet.
        context: What all trainings of the study share.
        selection: Plans the end of the search.
        budget: The wall clock.
        listener: Is notified of progress.
        best: The model of the best trial, if this run trained it.

    Attributes:
        result: The comparison so far; None without two contenders in two repeats.
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
        self.metric = metrics.get(self.settings.metric)
        self.result: Selection | None = None
        self._winner: Contender | None = None

    def run(self) -> None:
        """Run repeats while there is time, and compare the contenders.

        The result is up to date after every repeat, should the user interrupt.
        """
        for _ in self.repeats.run():
            self._compare(self.repeats.completed(), [])
        singles = self.repeats.completed()
        enough = self.repeats.count >= FEWEST_REPEATS and len(singles) > 1
        self._compare(singles, self._combinations(singles) if enough else [])

    def winner(self, otherwise: Contender) -> Contender:
        """The winner, or ``otherwise`` where there was no time for a comparison."""
        return self._winner or otherwise

    def model_of(self, contender: Contender) -> Model | None:
        """A model of a contender that was trained on a part of the data, if there is one.

        It is that of the last repeat, or of a contender that was not repeated that of its trial.
        """
        if not contender.predictions:
            return self._model_of_best(contender)
        if contender.kind == "soup" and not self.repeats.trained_in_same_repeat(contender.trials):
            return None  # the heads of different repeats cannot be averaged
        models = [self.repeats.models.get(trial) for trial in contender.trials]
        available = [model for model in models if model is not None]
        if len(available) == len(models):
            return combine(contender, available)
        return self._model_of_best(contender)

    def _model_of_best(self, contender: Contender) -> Model | None:
        """The model of the best trial of this run, if the contender is that trial."""
        if self.best and contender.id == ("trial", ((self.best.number, 1.0),)):
            return self.best.model
        return None

    # ---------------------------------------------------------------- comparison

    def _compare(self, singles: Sequence[Contender], combinations: Sequence[Contender]) -> None:
        """Compare the contenders and choose the winner."""
        if self.repeats.count < FEWEST_REPEATS or len(singles) < 2:
            return
        higher, count = self.metric.higher_is_better, len(singles)
        contenders = [*singles, *combinations]
        scores = np.array([contender.scores for contender in contenders])
        means = scores.mean(1)
        standings = self._standings(scores, count)
        order = sorted(range(len(contenders)), key=means.__getitem__, reverse=higher)
        best = next(i for i in order if i < count)  # of the single contenders
        tied = [i for i in order if standings[i].tied and i < count]
        ahead = [i for i in order[: order.index(best)] if not standings[i].tied]
        ahead = [i for i in ahead if self._is_feasible(contenders[i])]
        if ahead:
            standings = self._standings(scores, count, best=ahead[0])
            tied = [i for i in ahead if standings[i].tied]
        compared = [
            contender.model_copy(update={"standing": _bounded(standing, higher)})
            for contender, standing in zip(contenders, standings, strict=True)
        ]
        cheapest = tied[_cheapest([compared[i] for i in tied])]
        winner = cheapest if self.settings.prefer == "cheap" else tied[0]
        self._winner = compared[winner]
        self.result = self._selection(compared, order, compared[cheapest], scores[:count])
        if ahead:
            self._notify_combination(compared[winner], compared[best])

    def _selection(
        self,
        compared: Sequence[Contender],
        order: Sequence[int],
        cheapest: Contender,
        scores: comparison.Scores,
    ) -> Selection:
        """The comparison as it is stored; ``order`` has the indices of the best first."""
        assert self._winner is not None
        rows = self.selection.leaderboard.rows
        sign = 1 if self.metric.higher_is_better else -1
        singles = [c for c in compared if c.kind == "trial"]  # the best of the search first
        first = max(singles, key=lambda c: sign * (rows[c.lead].score or 0.0))
        return Selection(
            repeats=self.repeats.count,
            contenders=[compared[i] for i in order],
            winner=self._winner,
            cheapest=cheapest,
            optimism=self.metric.gain(rows[first.lead].score or 0.0, first.mean),
            optimism_of=first.lead,
            nested_score=comparison.nested_selection_score(
                scores, higher_is_better=self.metric.higher_is_better
            ),
            prefer=self.settings.prefer,
        )

    def _notify_combination(self, winner: Contender, best: Contender) -> None:
        members = ", ".join(f"trial {trial}" for trial in winner.trials)
        text = (
            f"the {winner.name} of {members} is better than each of them: {winner.mean:.4f}, and "
            f"{best.mean:.4f} of {best.name}"
        )
        self.listener(events.Note(text))

    def _standings(
        self, scores: comparison.Scores, singles: int, best: int | None = None
    ) -> list[Compared]:
        """Compare all with the best of the first ``singles``, or with the one at ``best``."""
        first = data.resample(self.dataset, 0, self.settings.seed)
        return comparison.compare_scores(
            scores,
            first.variance_factor(self.repeats.count),
            higher_is_better=self.metric.higher_is_better,
            resolution=1 / len(first.validation),
            num_candidates=singles,
            reference=best,
        )

    def _is_feasible(self, contender: Contender) -> bool:
        """Whether there is a model of it, or the time to train one."""
        if self.model_of(contender):
            return True
        return self.selection.finish_seconds(contender) <= self.budget.left

    # ---------------------------------------------------------------- combinations

    def _combinations(self, singles: Sequence[Contender]) -> list[Contender]:
        """The ensemble and the soup, where they have several members; with their costs."""
        candidates = (self._ensemble(singles), self.repeats.soup())
        combined = [c for c in candidates if c and len(c.members) > 1]
        by_trial = {c.lead: c for c in singles}
        return [_with_costs(c, [by_trial[trial] for trial in c.trials]) for c in combined]

    def _ensemble(self, singles: Sequence[Contender]) -> Contender | None:
        """An ensemble of contenders that have the same input as the best of them.

        The weights that score a repeat are selected on the examples that only other repeats have.
        """
        sign = 1 if self.metric.higher_is_better else -1
        best = max(singles, key=lambda c: sign * c.mean)
        inputs = self.repeats.inputs
        members = [c for c in singles if inputs[c.lead] == inputs[best.lead]]
        repeats = range(self.repeats.count)
        indices = [self.repeats.validation_indices(number) for number in repeats]
        labels = [self.dataset.labels[rows] for rows in indices]
        units = [np.array(self.dataset.units)[rows] for rows in indices]
        all_labels, all_units = np.concatenate(labels), np.concatenate(units)
        all_predictions = [np.concatenate(c.predictions) for c in members]
        scores = []
        for number in repeats:
            # Examples of one sampling unit may not select weights for each other.
            other = ~np.isin(all_units, units[number])
            if not other.any():
                return None  # a small data set has the same examples in all repeats
            selected = ensemble.select_members(
                self.metric, all_labels[other], [p[other] for p in all_predictions]
            )
            mixed = ensemble.average_probabilities(
                [c.predictions[number] for c in members], selected
            )
            scores.append(self.metric.score(labels[number], mixed))
        weights = ensemble.select_members(self.metric, all_labels, all_predictions)
        order = [int(i) for i in np.argsort(weights)[::-1] if weights[i]]
        return Contender(
            kind="ensemble",
            role="ensemble",
            members=tuple(Member(trial=members[i].lead, weight=weights[i]) for i in order),
            scores=tuple(scores),
            predictions=tuple(
                ensemble.average_probabilities([c.predictions[number] for c in members], weights)
                for number in repeats
            ),
            seconds=sum(members[i].seconds for i in order),
        )

    # ---------------------------------------------------------------- out-of-sample predictions

    def out_of_sample(self, winner: Contender) -> OutOfSample | None:
        """Predictions of the winner for examples that it was not trained on; None without any.

        They are those of its repeats, or without repeats those of its trial for the validation
        split, if there is time to compute them.
        """
        if winner.predictions:
            repeats = range(self.repeats.count)
            indices = [self.repeats.validation_indices(number) for number in repeats]
            folds = [
                np.full(len(rows), number) for rows, number in zip(indices, repeats, strict=True)
            ]
            return OutOfSample(
                np.concatenate(indices), np.concatenate(folds), np.concatenate(winner.predictions)
            )
        rows, tested = (self.dataset.indices(split) for split in ("validation", "test"))
        seconds = self.selection.test_seconds(winner) * len(rows) / max(1, len(tested))
        model = self.model_of(winner)
        if model is None or self.budget.left < seconds + self.selection.finish_seconds(winner):
            return None
        device = self.context.device
        batches = self.context.batches(model, "validation")
        probabilities = training.predict(model.to(device.torch_device), batches, device)
        return OutOfSample(rows, np.arange(len(rows)) % 2, probabilities)

    def calibrate(self, predictions: OutOfSample) -> Calibration:
        """The temperature of the winner, from its out-of-sample predictions."""
        labels = self.dataset.labels[predictions.indices]
        return Calibration.model_validate(
            calibration.calibrate(labels, predictions.probabilities, predictions.folds)
        )


def _cheapest(contenders: Sequence[Contender]) -> int:
    times = [c.ms_per_item for c in contenders]
    return comparison.index_of_cheapest(times, [c.parameters for c in contenders])


def _with_costs(contender: Contender, members: Sequence[Contender]) -> Contender:
    """A combination with its costs: an ensemble runs all its members, a soup is one model."""
    run = members if contender.kind == "ensemble" else members[:1]
    times = [c.ms_per_item for c in run if c.ms_per_item is not None]
    sizes = [c.parameters for c in run if c.parameters is not None]
    costs = {
        "ms_per_item": sum(times) if len(times) == len(run) else None,
        "parameters": sum(sizes) if len(sizes) == len(run) else None,
    }
    return contender.model_copy(update=costs)


def _bounded(standing: Compared, higher: bool) -> Standing:
    """A standing within the values that the metric can have: fractions or losses."""
    score, difference = standing.score, standing.difference
    high = min(1.0, score.high) if higher else score.high
    return Standing(
        score=Interval(mean=score.mean, low=max(0.0, score.low), high=high),
        difference=Interval(mean=difference.mean, low=difference.low, high=difference.high),
        tied=standing.tied,
    )
