"""The leaderboard: the trials of a study, ranked by their score."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from autotl.scoring import comparison
from autotl.scoring.comparison import Scores
from autotl.scoring.intervals import wilson_interval
from autotl.scoring.metrics import Metric
from autotl.store import (
    Contender,
    Interval,
    Role,
    Standing,
    Store,
    StudyFacts,
    TrialRow,
    single,
)

UNFINISHED = ("running", "interrupted")
"""The statuses of trials that have no result."""

PASSING = ("failed", "out_of_memory", "out_of_time")
"""The statuses of trials that may complete in a later run: with a plugin that was mended, say."""

FINALISTS = 5
"""The maximum number of best distinct trials that are compared."""

LARGEST_HEAD = 0.1
"""The fraction of a model's parameters that a head usually has at most."""

Key = tuple[int, float, float, float, int]


def rank_key(row: TrialRow, direction: str) -> Key:
    """Return the sort key of a complete trial: folds, score, costs, number.

    A trial with all its folds comes before one that there was no time for, then the better score,
    then the smaller model, then the one with fewer trained parameters.
    """
    assert row.score is not None
    sign = -1.0 if direction == "maximize" else 1.0
    return -(row.facts.folds or 0), sign * row.score, *model_cost(row), row.number


def model_cost(row: TrialRow) -> tuple[float, float]:
    """Return the numbers of parameters and of trained parameters; infinite if unknown."""
    sizes = row.parameters, row.trained_parameters
    parameters, trained = (math.inf if n is None else n for n in sizes)
    return parameters, trained


def is_fine_tuned(row: TrialRow) -> bool:
    """Whether a trial trained more than the head.

    Of a trial of a version that did not store it, whether it trained more than a head usually has.
    """
    if row.facts.backbone_frozen is not None:
        return not row.facts.backbone_frozen
    return (row.trained_parameters or 0) > LARGEST_HEAD * (row.parameters or math.inf)


def is_ranked(row: TrialRow) -> bool:
    """Whether a trial is complete and not excluded by the limits of the last run."""
    return row.status == "complete" and row.score is not None and not row.facts.excluded


def rank(rows: Iterable[TrialRow], direction: str) -> list[TrialRow]:
    """Return the complete trials that are not excluded, best first."""
    return sorted(filter(is_ranked, rows), key=lambda row: rank_key(row, direction))


def distinct(rows: Iterable[TrialRow], count: int | None = None) -> list[TrialRow]:
    """Return the first ``count`` rows with different configurations; None for all."""

    def unseen() -> Iterable[TrialRow]:
        configs: list[object] = []
        for row in rows:
            if row.config not in configs:
                configs.append(row.config)
                yield row

    return list(islice(unseen(), count))


def contender(row: TrialRow, role: Role = "finalist") -> Contender:
    """Convert a complete trial to a contender, with its score on the validation split."""
    return single(
        row.number,
        role=role,
        config=row.config,
        parameters=row.parameters,
        ms_per_item=row.facts.ms_per_item,
        seconds=row.seconds,
        scores=() if row.score is None else (row.score,),
    )


def baselines(ranked: Sequence[TrialRow]) -> dict[int, Role]:
    """Return the roles of the best linear probe and the best default recipe, by trial number."""
    default = next((r for r in ranked if r.facts.is_default and not r.facts.is_probe), None)
    probe = next((r for r in ranked if r.facts.is_probe), None)
    roles: dict[int, Role] = {}
    if default:
        roles[default.number] = "default_recipe"
    if probe:
        roles[probe.number] = "linear_probe"
    return roles


def finalists(
    ranked: Sequence[TrialRow],
    count: int,
    *,
    default: bool = True,
    recipes: Sequence[TrialRow] | None = None,
) -> list[Contender]:
    """Return the best distinct configurations, then the baselines that are not among them.

    Args:
        ranked: Complete trials, best first.
        count: The number of best configurations.
        default: Whether the default recipe is one of the baselines.
        recipes: Those of ``ranked`` that may be baselines; None for all.
    """
    recipes = ranked if recipes is None else recipes
    roles = baselines(recipes)
    best = distinct(ranked, count)
    configs = [row.config for row in best]
    wanted = [n for n, role in roles.items() if default or role != "default_recipe"]
    others = [r for r in recipes if r.number in wanted and r.config not in configs]
    return [
        contender(row, "linear_probe" if row.facts.is_probe else roles.get(row.number, "finalist"))
        for row in (*best, *others)
    ]


def compare_on_validation(
    ranked: Sequence[TrialRow],
    facts: StudyFacts,
    count: int = FINALISTS,
    including: int | None = None,
) -> list[Contender]:
    """Return the best distinct trials with their standings on the validation split.

    They are compared by their predictions, as in the final selection, with a single run each, or
    with folds as the runs. A trial of a version that did not store these is tied if the 95 %
    interval of its score contains the best score.

    Args:
        ranked: Complete trials, best first.
        facts: The facts of the study.
        count: The maximum number of trials.
        including: The number of a trial to include, whatever its rank.
    """
    rows = distinct(ranked, count)
    if including not in (None, *(row.number for row in rows)):
        rows = [*rows[:-1], *(row for row in ranked if row.number == including)]
    scores = [validation_interval(row, facts) for row in rows]
    return [
        contender(row).model_copy(
            update={"standing": Standing(score=score, difference=gap, tied=tied)}
        )
        for row, score, (gap, tied) in zip(rows, scores, _gaps(rows, scores, facts), strict=True)
    ]


def measure_gain(row: TrialRow, over: TrialRow, facts: StudyFacts) -> Interval:
    """Return by how much one complete trial is better than another one on the validation split.

    The trials are compared example by example, by their stored predictions.

    Args:
        row: The trial.
        over: The other trial.
        facts: The facts of the study.

    Returns:
        The gain with its 95 % interval; it is positive if ``row`` is the better one.
    """
    rows = [over, row]
    scores = [validation_interval(each, facts) for each in rows]
    gap = _gaps(rows, scores, facts, reference=0)[1][0]
    if facts.direction == "maximize":
        return gap
    return Interval(mean=-gap.mean, low=-gap.high, high=-gap.low)


def _gaps(
    rows: Sequence[TrialRow],
    scores: Sequence[Interval],
    facts: StudyFacts,
    reference: int | None = None,
) -> list[tuple[Interval, bool]]:
    """The difference of each trial to the first, and whether the two are tied.

    The first trial is the best one, unless it is a ``reference`` whatever its score.
    """
    values = [row.contribution_of_units for row in rows]
    if len(rows) > 1 and values[0].size and len({each.size for each in values}) == 1:
        contributions = np.array(values)
        count = contributions.shape[1]
        by_run, runs = np.array([[score.mean] for score in scores]), np.zeros(count, np.int64)
        if len(facts.unit_folds) == count:
            runs = np.array(facts.unit_folds)
            by_run = _scores_by_run(by_run, contributions, runs)
        results = comparison.Results(by_run, contributions, runs, np.arange(count), _unit(facts))
        higher = facts.direction == "maximize"
        compared = comparison.compare(results, higher_is_better=higher, reference=reference)
        return [(Interval(**vars(s.difference)), s.tied) for s in compared.standings]
    gaps = []
    for s in scores:
        best = scores[0].mean
        gap = Interval(mean=s.mean - best, low=s.low - best, high=s.high - best)
        gaps.append((gap, s.low <= best <= s.high))
    return gaps


def _unit(facts: StudyFacts) -> float:
    """A large difference between two contributions, see ``comparison.Results``."""
    constant = facts.data.majority.validation if facts.data.majority else None
    return comparison.difference_unit(facts.metric_has_unit, constant)


def _scores_by_run(scores: Scores, contributions: Scores, runs: NDArray[np.int64]) -> Scores:
    """The score of each trial in each run ``[k, S]``, whose mean is the score of the trial.

    Args:
        scores: The score of each trial, ``[k, 1]``.
        contributions: What each sampling unit contributes to it, ``[k, U]``.
        runs: The run of each unit, ``[U]``.
    """
    count = int(runs.max()) + 1
    deviations = contributions - contributions.mean(1, keepdims=True)
    by_run = np.array([np.bincount(runs, row, count) for row in deviations])
    result: Scores = scores + by_run * (count / len(runs))
    return result


def validation_interval(row: TrialRow, facts: StudyFacts) -> Interval:
    """Return the score of a complete trial with its 95 % interval.

    If it was not stored, it is that of an accuracy; for other metrics both ends are the score.
    """
    assert row.score is not None
    low, high = row.facts.low, row.facts.high
    if low is None or high is None:
        low = high = row.score
        if facts.metric == "accuracy" and facts.data.independent_validation:
            low, high = wilson_interval(row.score, facts.data.independent_validation)
    return Interval(mean=row.score, low=low, high=high)


def standard_error(row: TrialRow) -> float:
    """Return the standard error of the score of a trial, in any metric.

    It is that of the mean of what the sampling units of the validation split contribute to the
    score; 0 if that was not stored.
    """
    values = row.contribution_of_units
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def search_winner(ranked: Sequence[TrialRow], facts: StudyFacts) -> TrialRow:
    """Return the winner of a search without a final selection.

    It is the best trial, or a fine-tuned trial within a standard error of it, or, if the study
    prefers cheap models, the smallest trial that is tied with the best.

    Args:
        ranked: Complete trials, best first; at least one.
        facts: The facts of the study.
    """
    if facts.prefer != "cheap":
        return _prefer_fine_tuned(ranked, facts)
    tied = _tied(ranked, facts)
    return min((row for row in ranked if row.number in tied), key=model_cost)


def _tied(ranked: Sequence[TrialRow], facts: StudyFacts) -> set[int]:
    """Return the numbers of the trials that are tied with the best on the validation split."""
    compared = compare_on_validation(ranked, facts)
    return {c.lead for c in compared if c.standing and c.standing.tied}


def _prefer_fine_tuned(ranked: Sequence[TrialRow], facts: StudyFacts) -> TrialRow:
    """Return the best trial, or the best fine-tuned one if it is within a standard error of it.

    A fine-tuned model gains more from the refit with more images than one with a frozen backbone:
    on photographs of waste 0.05 instead of 0.01 to 0.03 in accuracy, on photographs of hands half
    of the errors instead of a tenth (`studies/benchmarks/README.md`).
    """
    best, tuned = ranked[0], next(filter(is_fine_tuned, ranked), None)
    if tuned is None or is_fine_tuned(best) or tuned.config == best.config:
        return best
    standing = compare_on_validation([best, tuned], facts)[1].standing
    assert standing is not None
    gap = standing.difference
    error = comparison.approximate_standard_error(gap.low, gap.high)
    return tuned if abs(gap.mean) <= error else best


class Representatives:
    """The few complete trials on which it depends what is tried next, however many there are.

    They are, of each combination of a backbone, a strategy and a head, the best trial, the best one
    with LogME, the best one with a latency, and the one with the fastest backward pass.
    """

    def __init__(self, rank_key: Callable[[TrialRow], Key]) -> None:
        self._rank_key = rank_key
        self._rows: dict[tuple[str, ...], tuple[tuple[float, ...], TrialRow]] = {}
        self._ranked: list[TrialRow] | None = None

    def add(self, row: TrialRow) -> None:
        """Add a complete trial."""
        kinds = ("backbone", "freeze", "head")
        names = [name for kind in kinds for name in row.config.get(kind, {})]
        backward, latency = row.facts.costs.get("backward_ms"), row.facts.ms_per_item
        rank: tuple[float, ...] = self._rank_key(row)
        keys = {"score": rank}
        if row.facts.logme is not None:
            keys["LogME"] = rank
        if latency is not None:
            keys["latency"] = rank
        if is_fine_tuned(row) and backward and latency:
            keys["backward"] = (backward / latency, *rank)
        for purpose, key in keys.items():
            place = (purpose, *names)
            if place not in self._rows or key < self._rows[place][0]:
                self._rows[place] = key, row
                self._ranked = None

    def ranked(self) -> list[TrialRow]:
        """Return these trials, best first."""
        if self._ranked is None:
            rows = {row.number: row for _, row in self._rows.values()}
            self._ranked = sorted(rows.values(), key=self._rank_key)
        return self._ranked


class Leaderboard:
    """The trials of one study, which ``refresh`` updates from the database.

    ``refresh`` reads only trials that are new or were unfinished at the last call, because a
    finished trial does not change while the study runs. A trial may begin after one with a larger
    number, if it has waited to be retried.

    Attributes:
        rows: All trials by number.
        ranked: The complete trials that are not excluded, best first.
        by_effective_config: The same trials by their effective configuration.
        recipes: The latest trial of each recipe of the portfolio, by the name of the recipe.
        first_trial: Number of the first trial of this run.
        running: The running trials by number, of all workers.
        finished: Number of trials with a result, without those of earlier runs that may complete
            in this one.
        interrupted: Number of interrupted trials.
    """

    def __init__(
        self, store: Store, study: str, metric: Metric, first_trial: int | None = None
    ) -> None:
        self.store, self.study, self.metric = store, study, metric
        self.rows: dict[int, TrialRow] = {}
        self.ranked: list[TrialRow] = []
        self.by_effective_config: dict[str, list[TrialRow]] = {}
        self._baselines: list[TrialRow] = []  # default recipes and probes, best first
        self._representatives = Representatives(self._rank_key)
        self.recipes: dict[tuple[str, ...], TrialRow] = {}
        self.finished = self.interrupted = 0
        self.running: dict[int, TrialRow] = {}
        self._news: list[TrialRow] = []
        earlier = store.trials(study)
        self._last = -1
        self._gaps: set[int] = set()  # smaller numbers without a trial
        self.first_trial = max((row.number for row in earlier), default=-1) + 1
        if first_trial is not None:  # a worker that joins a run: another one began it
            self.first_trial = first_trial
        for row in earlier:
            self._add(row)
        self._news.clear()

    def refresh(self) -> None:
        """Read new and changed trials from the database."""
        for row in self.store.trials(self.study, self._last, {*self.running, *self._gaps}):
            self._add(row)

    def take_news(self) -> list[TrialRow]:
        """Return the trials that have finished since the last call, of all workers."""
        news, self._news = self._news, []
        return news

    def _add(self, row: TrialRow) -> None:
        self.rows[row.number] = row
        self._gaps.discard(row.number)
        self._gaps.update(range(self._last + 1, row.number))
        self._last = max(self._last, row.number)
        if row.facts.recipe:
            recipe = tuple(row.facts.recipe)
            if self.recipes.get(recipe, row).number <= row.number:
                self.recipes[recipe] = row
        if row.status == "running":
            self.running[row.number] = row
            return
        self.running.pop(row.number, None)
        self._news.append(row)
        self.interrupted += row.status == "interrupted"
        may_complete = row.status in PASSING and row.number < self.first_trial
        self.finished += row.status not in UNFINISHED and not may_complete
        if is_ranked(row):
            self._rank(row)

    def _rank(self, row: TrialRow) -> None:
        """Add a complete trial to the lists from which the next trial is chosen."""
        bisect.insort(self.ranked, row, key=self._rank_key)
        if row.facts.is_default or row.facts.is_probe:
            bisect.insort(self._baselines, row, key=self._rank_key)
        if config := row.facts.effective_config:
            self.by_effective_config.setdefault(config, []).append(row)
        self._representatives.add(row)

    def _rank_key(self, row: TrialRow) -> Key:
        return rank_key(row, self.metric.direction)

    @property
    def representatives(self) -> list[TrialRow]:
        """The complete trials on which it depends what is tried next, best first."""
        return self._representatives.ranked()

    @property
    def best(self) -> TrialRow | None:
        """The best trial; None if no trial is complete."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def facts(self) -> StudyFacts:
        """The facts of the study, read once: those that rankings depend on do not change."""
        return self.store.study(self.study)

    def winner(self) -> TrialRow:
        """Return the winner of the search so far, see ``search_winner``; there must be a trial."""
        return search_winner(self.ranked, self.facts)

    def likely_winners(self) -> list[Contender]:
        """Return the best trial and the fine-tuned trial that is preferred to it, if any."""
        if not self.ranked:
            return []
        rows = {row.number: row for row in (self.ranked[0], self.winner())}
        return [contender(row) for row in rows.values()]

    def tied(self) -> set[int]:
        """Return the trials that may be the best, by their predictions for the validation split."""
        return _tied(self.ranked, self.facts)

    def finalists(self, count: int, *, default: bool = True) -> list[Contender]:
        """Return the best distinct configurations and the baselines, see ``finalists``."""
        return finalists(self.ranked, count, default=default, recipes=self._baselines)
