"""The leaderboard: the trials of a study while it runs, best first."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from functools import cached_property

from autotl.scoring.metrics import Metric
from autotl.search import ranking
from autotl.search.ranking import PASSING, UNFINISHED, Key, contender, is_fine_tuned, is_ranked
from autotl.store import Contender, Store, StudyFacts, TrialRow


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
        return ranking.rank_key(row, self.metric.direction)

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
        """Return the winner so far, see ``ranking.search_winner``; there must be a trial."""
        return ranking.search_winner(self.ranked, self.facts)

    def likely_winners(self) -> list[Contender]:
        """Return the best trial and the fine-tuned trial that is preferred to it, if any."""
        if not self.ranked:
            return []
        rows = {row.number: row for row in (self.ranked[0], self.winner())}
        return [contender(row) for row in rows.values()]

    def tied(self) -> set[int]:
        """Return the trials that may be the best, by their predictions for the validation split."""
        return ranking.tied_with_best(self.ranked, self.facts)

    def finalists(self, count: int, *, default: bool = True) -> list[Contender]:
        """Return the best distinct configurations and the baselines, see ``ranking.finalists``."""
        return ranking.finalists(self.ranked, count, default=default, recipes=self._baselines)
