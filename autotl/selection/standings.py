"""The standings of contenders: their repeats, compared example by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autotl.data import Dataset, Indices
from autotl.scoring import comparison, influence, intervals, majority
from autotl.scoring.comparison import Comparison, Results, Scores
from autotl.scoring.metrics import Metric
from autotl.store import Contender, Interval, Standing, TrialRow


@dataclass(frozen=True)
class Compared:
    """Contenders with their standings, and what else the comparison says about all of them.

    Attributes:
        contenders: In the order in which they were given.
        comparison: The comparison; see ``comparison.Comparison``.
        repeats: The number of repeats of most contenders.
    """

    contenders: list[Contender]
    comparison: Comparison
    repeats: int


@dataclass(frozen=True)
class Comparer:
    """Compares contenders by their predictions in the repeats.

    Args:
        dataset: The examples with their labels and sampling units.
        metric: The metric of the study.
        validations: The indices of the validation examples of each repeat.
    """

    dataset: Dataset
    metric: Metric
    validations: Sequence[Indices]

    @cached_property
    def _units(self) -> Indices:
        return np.array(self.dataset.units)

    def compare(
        self, contenders: Sequence[Contender], singles: int, reference: int | None = None
    ) -> Compared:
        """Compare all contenders with one of them.

        Args:
            contenders: The contenders, each with scores and predictions of its first repeats.
            singles: The number of contenders that are trials; they come first.
            reference: The index of the contender to compare with; None for the best trial.
        """
        runs = max(len(c.scores) for c in contenders)
        indices = np.concatenate(self.validations[:runs])
        sizes = [len(rows) for rows in self.validations[:runs]]
        contributions = np.full((len(contenders), len(indices)), np.nan)
        scores = np.full((len(contenders), runs), np.nan)
        for i, contender in enumerate(contenders):
            own = self._contributions(contender)
            contributions[i, : len(own)] = own
            scores[i, : len(contender.scores)] = contender.scores
        results = Results(
            scores,
            contributions,
            np.repeat(np.arange(runs), sizes),
            self._units[indices],
            self._unit(),
        )
        compared = comparison.compare(
            results,
            higher_is_better=self.metric.higher_is_better,
            num_candidates=singles,
            reference=reference,
        )
        standings = [
            Standing(
                score=self._interval(contender, values, each.mean, each.training_variance),
                difference=Interval(**vars(each.difference)),
                tied=each.tied,
            )
            for contender, values, each in zip(
                contenders, contributions, compared.standings, strict=True
            )
        ]
        updated = [
            contender.model_copy(update={"standing": standing})
            for contender, standing in zip(contenders, standings, strict=True)
        ]
        return Compared(updated, compared, runs)

    def _unit(self) -> float:
        if not self.metric.has_unit:
            return 1.0  # without the score of a constant prediction
        targets = self.dataset.targets[self.dataset.indices("train", "validation")]
        constant = self.dataset.task.constant(targets)
        score = majority.constant_score(self.metric, targets, constant)
        return comparison.difference_unit(self.metric.has_unit, score)

    def optimism(self, contender: Contender, row: TrialRow, compared: Compared) -> Interval | None:
        """By how much a trial scored better in the search than in its repeats, with its interval.

        The search and the repeats score many of the same examples, so the variance is that of the
        differences of what a sampling unit contributes to both.

        Args:
            contender: The trial in the final selection, compared.
            row: The trial.
            compared: The comparison, in which the contender is.

        Returns:
            The optimism; None if the trial did not store what its examples contribute.
        """
        validation = np.unique(self._units[self.dataset.indices("validation")])
        in_search = row.contribution_of_units
        if row.score is None or contender.standing is None or len(in_search) != len(validation):
            return None
        runs = len(contender.scores)
        values = self._contributions(contender)
        units = self._units[np.concatenate(self.validations[:runs])]
        influences = np.zeros(max(self.dataset.units) + 1)
        influences[validation] += (in_search - in_search.mean()) / len(in_search)
        np.subtract.at(influences, units, (values - values.mean()) / len(values))
        # The variance of one training, of which the repeats average several.
        place = [c.id for c in compared.contenders].index(contender.id)
        training = compared.comparison.standings[place].training_variance * compared.repeats
        variance = float((influences**2).sum()) + training * (1 + 1 / runs)
        half_width = comparison.t_quantile() * variance**0.5
        mean = self.metric.gain(row.score, contender.standing.score.mean)
        return Interval(mean=mean, low=mean - half_width, high=mean + half_width)

    def _contributions(self, contender: Contender) -> Scores:
        """What each example contributes to the scores of a contender, repeat by repeat."""
        targets = [self.dataset.targets[rows] for rows in self.validations]
        return np.concatenate(
            [
                influence.contributions(self.metric, own, predicted)
                for own, predicted in zip(targets, contender.predictions, strict=False)
            ]
        )

    def _interval(
        self, contender: Contender, values: Scores, mean: float, training_variance: float
    ) -> Interval:
        runs = len(contender.scores)
        indices = np.concatenate(self.validations[:runs])
        own = values[: len(indices)]
        low, high = intervals.mean_interval(
            self.metric,
            own + (mean - own.mean()),  # an ensemble is scored with weights of other repeats
            self.dataset.targets[indices],
            self._units[indices],
            contender.predictions[0].shape[1],
            training_variance * len(self.validations) / runs,
        )
        return Interval(mean=mean, low=low, high=high)
