"""How the trials of a study stand, what each would take again, and who is in the finals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autotl import report
from autotl.scoring.metrics import Metric
from autotl.search.budget import FINALS_SHARE, SLACK, Budget
from autotl.store import Store, TrialRow

FINALISTS, FINALISTS_UNHURRIED = 5, 3
"""How many of the best take part in the finals: with a budget, which says when to end, or none."""

FEWEST_RUNS, MOST_RUNS = 2, 10
"""Of the finals. From one run nothing is known of its noise; after ten more of them say little."""


@dataclass(frozen=True)
class Leaderboard:
    """The trials of one study as the database has them."""

    store: Store
    study: str
    metric: Metric
    budget: Budget

    def ranked(self) -> list[TrialRow]:
        """The complete trials of the study, best first."""
        return report.ranked(self.store.trials(self.study), self.metric.direction)

    @property
    def leader(self) -> TrialRow | None:
        """The winner if there were no finals; None without a complete trial."""
        ranked = self.ranked()
        return report.leader(ranked, self.store.require(self.study)) if ranked else None

    def baselines(self) -> dict[str, Any]:
        """Which trials are what everybody would try first, best first."""
        return _baselines(self.ranked())

    # what a trial would take again, in seconds

    def again(self, row: TrialRow) -> float:
        """To train as the trial did on another part of the data, what was kept being there."""
        known = row.facts.get("seconds_again")
        return row.seconds if known is None else float(known)  # None: nothing was measured

    def test_seconds(self, row: TrialRow) -> float:
        """To test its model."""
        return float(row.facts.get("seconds_test", 0.0))

    def finals_seconds(self, row: TrialRow) -> float:
        """For the finals, should the trial win them: the runs, its refit and its test."""
        return self.budget.finals(self.again(row), self.test_seconds(row))

    # the finals

    def finalists(self, count: int) -> list[TrialRow]:
        """The best distinct configurations, then the baselines that are not among them."""
        return _finalists(self.ranked(), count)

    def contest(self, seconds: float) -> tuple[list[TrialRow], int]:
        """Who takes part in finals that may take so long, and in how many runs at least.

        Rather fewer than ``FINALISTS`` in three runs than all of them in two, and rather the best
        and the linear probe without the default recipe than nobody; nobody where there is no time
        for two candidates in two runs.
        """
        rows = self.ranked()
        most = FINALISTS if self.budget.seconds is not None else FINALISTS_UNHURRIED
        fields = [_finalists(rows, count) for count in range(most, 0, -1)]
        without = [_finalists(rows, 1, default=False)]
        for runs, some in ((3, fields), (FEWEST_RUNS, fields), (FEWEST_RUNS, without)):
            for field in some:
                needed = runs * sum(self.again(row) for row in field)
                if len(field) >= 2 and needed <= seconds:
                    return field, runs
        return [], 0

    def for_finals(self, left: float) -> float:
        """Seconds for the runs of the finals, of ``left``; none where they cannot be held.

        What cannot be had for them any more is the search's.
        """
        if self.budget.seconds is None:
            return 0.0
        field, runs = self.contest(min(FINALS_SHARE * self.budget.seconds, left))
        # What else is left they take too.
        return SLACK * runs * sum(self.again(row) for row in field)

    def reserve(self) -> None:
        """Keep of the budget what the end will take, as the trials stand now."""
        best, budget = self.ranked()[:1], self.budget
        budget.leader = sum(
            budget.refitting(self.again(row), self.test_seconds(row)) for row in best
        )
        budget.runs = self.for_finals(budget.left - budget.leader - budget.fixed)


def _baselines(ranked: Sequence[TrialRow]) -> dict[str, Any]:
    probes = [row.number for row in ranked if row.facts.get("probe")]
    known = [row.number for row in ranked if row.facts.get("default")]
    defaults = [number for number in known if number not in probes]
    return {"linear_probes": probes, "default_trial": defaults[0] if defaults else None}


def _finalists(ranked: Sequence[TrialRow], count: int, *, default: bool = True) -> list[TrialRow]:
    known, best = _baselines(ranked), report.distinct(ranked)[:count]
    wanted = {*known["linear_probes"][:1], known["default_trial"] if default else None}
    configs = [row.config for row in best]
    return best + [r for r in ranked if r.number in wanted and r.config not in configs]
