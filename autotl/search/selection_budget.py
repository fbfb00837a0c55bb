"""How much of the budget the end of a search needs: the final selection, a refit and a test."""

from __future__ import annotations

from dataclasses import dataclass

from autotl.search.budget import SELECTION_FRACTION, SLACK, Budget
from autotl.search.leaderboard import Leaderboard
from autotl.store import Contender, TrialRow

FINALISTS, FINALISTS_WITHOUT_BUDGET = 5, 3
"""How many of the best trials take part in a final selection."""

FEWEST_REPEATS, MOST_REPEATS = 2, 10
"""One repeat tells nothing about its noise; after ten more of them add little."""


@dataclass(frozen=True)
class Field:
    """The contenders of a final selection and their least number of repeats; may be empty."""

    contenders: tuple[Contender, ...] = ()
    repeats: int = 0


def repeat_seconds(row: TrialRow) -> float:
    """Seconds to retrain as a trial did on another resample, with cached features."""
    measured = row.facts.seconds_repeat
    return row.seconds if measured is None else measured


@dataclass(frozen=True)
class SelectionBudget:
    """Plans the end of a search from the trials so far.

    Args:
        leaderboard: The trials.
        budget: The wall clock.
    """

    leaderboard: Leaderboard
    budget: Budget

    def seconds(self, contender: Contender) -> float:
        """Seconds to retrain the trials of a contender once."""
        return sum(repeat_seconds(self.leaderboard.rows[number]) for number in contender.trials)

    def test_seconds(self, contender: Contender) -> float:
        """Seconds to predict the test split with it."""
        rows = self.leaderboard.rows
        return sum(rows[number].facts.seconds_test for number in contender.trials)

    def finish_seconds(self, contender: Contender) -> float:
        """Seconds from the end of the search to the report, if this contender may win."""
        return self.budget.finish_seconds(self.seconds(contender), self.test_seconds(contender))

    def choose_field(self, seconds: float) -> Field:
        """The contenders that can be repeated within some time.

        Rather fewer than ``FINALISTS`` in three repeats than all of them in two, and rather the
        best trial and the linear probe without the default recipe than none; none where there is
        no time for two contenders in two repeats.
        """
        most = FINALISTS if self.budget.seconds is not None else FINALISTS_WITHOUT_BUDGET
        fields = [self.leaderboard.finalists(count) for count in range(most, 0, -1)]
        without_default = [self.leaderboard.finalists(1, default=False)]
        options = ((3, fields), (FEWEST_REPEATS, fields), (FEWEST_REPEATS, without_default))
        for repeats, sets in options:
            for contenders in sets:
                needed = repeats * sum(map(self.seconds, contenders))
                if len(contenders) >= 2 and needed <= seconds:
                    return Field(tuple(contenders), repeats)
        return Field()

    def repeats_seconds(self, left: float) -> float:
        """Seconds to reserve for the repeats, of ``left``; 0 where no selection can be held."""
        if self.budget.seconds is None:
            return 0.0
        field = self.choose_field(min(SELECTION_FRACTION * self.budget.seconds, left))
        return SLACK * field.repeats * sum(map(self.seconds, field.contenders))

    def reserve(self) -> None:
        """Reserve in the budget what the end will need, as the trials stand now."""
        budget, best = self.budget, self.leaderboard.finalists(1, default=False)[:1]
        budget.reserved_refit = sum(
            budget.refit_seconds(self.seconds(c), self.test_seconds(c)) for c in best
        )
        left = budget.left - budget.reserved_refit - budget.fixed
        budget.reserved_repeats = self.repeats_seconds(left)

    def is_over(self) -> bool:
        """Whether the search must end now, so that the end fits into the budget."""
        if self.budget.seconds is None:
            return False
        self.reserve()
        best = self.leaderboard.finalists(1, default=False)[:1]
        return self.budget.left <= sum(map(self.finish_seconds, best)) + 1.0
