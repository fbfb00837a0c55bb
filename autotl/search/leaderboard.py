"""The trials of a study, ranked; only what is new is read from the database."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from itertools import islice

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
"""The statuses of trials that do not count as done."""

FINALISTS = 5
"""How many of the best distinct trials are compared on the validation split."""

Key = tuple[float, float, float, int]


def rank_key(row: TrialRow, direction: str) -> Key:
    """Sorts the better score first; of equals the smaller model, then the fewer it trained."""
    assert row.score is not None
    sign = -1.0 if direction == "maximize" else 1.0
    return sign * row.score, *model_cost(row), row.number


def model_cost(row: TrialRow) -> tuple[float, float]:
    """Parameters and trained parameters; infinite where they are unknown."""
    sizes = row.parameters, row.trained_parameters
    parameters, trained = (math.inf if n is None else n for n in sizes)
    return parameters, trained


def is_ranked(row: TrialRow) -> bool:
    """Whether a trial is complete and not excluded by the limits of the last run."""
    return row.status == "complete" and row.score is not None and not row.facts.excluded


def rank(rows: Iterable[TrialRow], direction: str) -> list[TrialRow]:
    """The ranked trials, best first."""
    return sorted(filter(is_ranked, rows), key=lambda row: rank_key(row, direction))


def distinct(rows: Iterable[TrialRow], count: int | None = None) -> list[TrialRow]:
    """The first ``count`` rows with different configurations; None for all."""

    def unseen() -> Iterable[TrialRow]:
        configs: list[object] = []
        for row in rows:
            if row.config not in configs:
                configs.append(row.config)
                yield row

    return list(islice(unseen(), count))


def contender(row: TrialRow, role: Role = "finalist") -> Contender:
    """A complete trial as a contender, with its score on the validation split."""
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
    """The roles of the best linear probe and of the best default recipe, by trial number."""
    default = next((r for r in ranked if r.facts.is_default and not r.facts.is_probe), None)
    probe = next((r for r in ranked if r.facts.is_probe), None)
    roles: dict[int, Role] = {}
    if default:
        roles[default.number] = "default_recipe"
    if probe:
        roles[probe.number] = "linear_probe"
    return roles


def finalists(ranked: Sequence[TrialRow], count: int, *, default: bool = True) -> list[Contender]:
    """The best distinct configurations, then the baselines that are not among them.

    Args:
        ranked: Complete trials, best first.
        count: How many of the best.
        default: Whether the default recipe takes part.
    """
    roles = baselines(ranked)
    best = distinct(ranked, count)
    configs = [row.config for row in best]
    wanted = [n for n, role in roles.items() if default or role != "default_recipe"]
    others = [r for r in ranked if r.number in wanted and r.config not in configs]
    return [
        contender(row, "linear_probe" if row.facts.is_probe else roles.get(row.number, "finalist"))
        for row in (*best, *others)
    ]


def compare_on_validation(
    ranked: Sequence[TrialRow], facts: StudyFacts, count: int = FINALISTS
) -> list[Contender]:
    """The best distinct trials with their standings on the one validation split.

    A trial counts as tied when the 95 % interval of its accuracy contains the accuracy of the best;
    that is cautious, because paired scores could tell more apart. Other metrics have no interval on
    one split.

    Args:
        ranked: Complete trials, best first.
        facts: Of the study.
        count: How many of the best.
    """
    rows = distinct(ranked, count)
    contenders = []
    for row in rows:
        score = validation_interval(row, facts)
        best = rows[0].score or 0.0
        away = Interval(mean=score.mean - best, low=score.low - best, high=score.high - best)
        standing = Standing(score=score, difference=away, tied=score.low <= best <= score.high)
        contenders.append(contender(row).model_copy(update={"standing": standing}))
    return contenders


def validation_interval(row: TrialRow, facts: StudyFacts) -> Interval:
    """The score of a complete trial with its 95 % interval; without width for other metrics."""
    assert row.score is not None
    low = high = row.score
    if facts.metric == "accuracy" and facts.data.independent_validation:
        low, high = wilson_interval(row.score, facts.data.independent_validation)
    return Interval(mean=row.score, low=low, high=high)


def search_winner(ranked: Sequence[TrialRow], facts: StudyFacts) -> TrialRow:
    """The winner of a search without a final selection, of at least one ranked trial.

    It is the best trial, or if the study prefers cheap models the smallest of those tied with it.
    """
    if facts.prefer != "cheap":
        return ranked[0]
    tied = {c.lead for c in compare_on_validation(ranked, facts) if c.standing and c.standing.tied}
    return min((row for row in ranked if row.number in tied), key=model_cost)


class Leaderboard:
    """The trials of one study, kept in step with the database.

    ``refresh`` reads the trials that began since the last time and those that were unfinished
    then; a finished trial does not change while the study runs.

    Attributes:
        rows: All trials by number.
        ranked: The ranked trials, best first.
        recipes: The latest trial of each recipe of the portfolio that was tried, by its names.
    """

    def __init__(self, store: Store, study: str, metric: Metric) -> None:
        self.store, self.study, self.metric = store, study, metric
        self.rows: dict[int, TrialRow] = {}
        self.ranked: list[TrialRow] = []
        self.recipes: dict[tuple[str, ...], TrialRow] = {}
        self.finished = self.interrupted = 0
        self._unfinished: set[int] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read what is new."""
        after = max(self.rows, default=-1)
        for row in self.store.trials(self.study, after, self._unfinished):
            self._add(row)

    def _add(self, row: TrialRow) -> None:
        self.rows[row.number] = row
        if row.facts.recipe:
            recipe = tuple(row.facts.recipe)
            if self.recipes.get(recipe, row).number <= row.number:
                self.recipes[recipe] = row
        if row.status == "running":
            self._unfinished.add(row.number)
            return
        self._unfinished.discard(row.number)
        self.interrupted += row.status == "interrupted"
        self.finished += row.status not in UNFINISHED
        if is_ranked(row):
            direction = self.metric.direction
            bisect.insort(self.ranked, row, key=lambda r: rank_key(r, direction))

    @property
    def best(self) -> TrialRow | None:
        """The best trial; None while none is complete."""
        return self.ranked[0] if self.ranked else None

    def finalists(self, count: int, *, default: bool = True) -> list[Contender]:
        """See the function of that name."""
        return finalists(self.ranked, count, default=default)
