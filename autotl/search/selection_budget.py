"""The time that the end of a search needs: the final selection, the refit and the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from autotl.search.budget import SELECTION_FRACTION, SLACK, Budget
from autotl.search.leaderboard import Leaderboard
from autotl.search.ranking import is_fine_tuned
from autotl.store import Contender, TrialRow

MOST_CONTENDERS = 4
"""The maximum number of contenders: many repeats of few tell them apart better than the reverse."""

PREFERRED_REPEATS = (5, 3)
"""The minimum number of repeats, best first: usually there are five folds, else often three."""

MAX_MEMBERS = 4
"""The maximum number of members of an ensemble, which all have to be run for a prediction."""

MEMBER_FRACTION = 0.03
"""The fraction of the budget up to which time is reserved for the refit of a further member."""

FEWEST_REPEATS, MOST_REPEATS = 2, 10
"""The minimum and maximum number of repeats: a variance needs two, and more than ten add little."""


@dataclass(frozen=True)
class Field:
    """The contenders of a final selection and their minimum number of repeats."""

    contenders: tuple[Contender, ...] = ()
    repeats: int = 0


def repeat_seconds(row: TrialRow) -> float:
    """Return the seconds to retrain a trial on another resample, with cached features."""
    measured = row.facts.seconds_repeat
    return row.seconds if measured is None else measured


@dataclass(frozen=True)
class SelectionBudget:
    """Predicts how long the end of a search takes, from the trials so far.

    Args:
        leaderboard: The trials.
        budget: The wall-clock budget.
        fine_tunes: Whether a trial of the search can train the backbone. No time is then reserved
            for a final selection before one has.
    """

    leaderboard: Leaderboard
    budget: Budget
    fine_tunes: bool = True
    _refits: dict[int, bool] = field(default_factory=dict)

    def seconds(self, contender: Contender) -> float:
        """Return the seconds to retrain all trials of a contender once."""
        return sum(repeat_seconds(self.leaderboard.rows[number]) for number in contender.trials)

    def test_seconds(self, contender: Contender) -> float:
        """Return the seconds to reserve for predicting the test split with a contender."""
        return self.budget.test_seconds(self.whole_test_seconds(contender))

    def whole_test_seconds(self, contender: Contender) -> float:
        """Return the seconds to predict all test images with a contender."""
        rows = self.leaderboard.rows
        return sum(rows[number].facts.seconds_test for number in contender.trials)

    def finish_seconds(self, contender: Contender) -> float:
        """Return the seconds from the last trial to the report, if ``contender`` may win."""
        return self.budget.finish_seconds(self.seconds(contender), self.test_seconds(contender))

    def choose_field(self, seconds: float) -> Field:
        """Choose the contenders that can be repeated within ``seconds``.

        Five repeats of fewer contenders are preferred to three of more, and these to two. If
        necessary the default recipe is left out, so that only the best trial and the linear probe
        remain. The result is empty if there is no time for two repeats of two contenders.

        It is empty too if the data are divided into folds, which are the repeats then: every trial
        was trained on all of them, and more trainings would score the same images.
        """
        if self.leaderboard.facts.data.folds:
            return Field()
        for sets in (self._sets(), [self.leaderboard.finalists(1, default=False)]):
            for repeats in (*PREFERRED_REPEATS, FEWEST_REPEATS):
                for contenders in sets:
                    needed = repeats * sum(map(self.seconds, contenders))
                    if len(contenders) >= 2 and needed <= seconds:
                        return Field(tuple(contenders), repeats)
        return Field()

    def _sets(self) -> list[list[Contender]]:
        """Return sets of contenders, the largest first.

        They are the best trial and the baselines, and in larger sets the next best trials, as far
        as they may still be the best, or if there is no other contender.
        """
        board, sets = self.leaderboard, [self.leaderboard.finalists(1)]
        tied, core = board.tied(), [c.lead for c in sets[0]]
        for contender in board.finalists(MOST_CONTENDERS):
            larger = [*sets[0], contender]
            wanted = len(larger) == 2 or (contender.lead in tied and len(larger) <= MOST_CONTENDERS)
            if contender.lead not in core and wanted:
                sets.insert(0, larger)
        return sets

    def repeats_seconds(self, left: float) -> float:
        """Return the seconds to reserve for the repeats; 0 if there is no time for three of them.

        Two repeats tell little, so they get only time that no trial can use.

        Args:
            left: The seconds that are available.
        """
        if self.budget.seconds is None:
            return 0.0
        if self.fine_tunes and not any(map(is_fine_tuned, self.leaderboard.representatives)):
            return 0.0
        field = self.choose_field(min(SELECTION_FRACTION * self.budget.seconds, left))
        if field.repeats < min(PREFERRED_REPEATS):
            return 0.0
        return SLACK * field.repeats * sum(map(self.seconds, field.contenders))

    def reserve(self) -> None:
        """Reserve time in the budget for the end of the search, according to the current trials."""
        budget, winners = self.budget, self.leaderboard.likely_winners()
        budget.reserved_refit = max(map(self._reserved_refit_seconds, winners), default=0.0)
        left = budget.usable() - budget.reserved_refit
        budget.reserved_repeats = self.repeats_seconds(left)

    def _reserved_refit_seconds(self, contender: Contender) -> float:
        """Return the seconds to refit and test a trial that may be the winner.

        If there was no time for a refit when it was first reserved, its own model will be used, and
        the time that is left is for other trials.
        """
        seconds = self._refit_seconds(self.leaderboard.rows[contender.lead])
        in_time = seconds <= self.budget.usable()
        if not self._refits.setdefault(contender.lead, in_time):
            return self.test_seconds(contender)
        return seconds + self._member_seconds(contender)

    def _refit_seconds(self, row: TrialRow) -> float:
        test = self.budget.test_seconds(row.facts.seconds_test)
        return self.budget.refit_seconds(repeat_seconds(row), test)

    def _member_seconds(self, lead: Contender) -> float:
        """Return the seconds to refit and test further members of an ensemble with ``lead``.

        They are the best trials that are cheap to refit, as those with cached features are.
        """
        if self.leaderboard.facts.prefer != "accuracy":
            return 0.0
        most = MEMBER_FRACTION * (self.budget.seconds or 0.0)
        others = (row for row in self.leaderboard.ranked if row.number != lead.lead)
        cheap = (s for s in map(self._refit_seconds, others) if s <= most)
        return sum(islice(cheap, MAX_MEMBERS - 1))

    def is_over(self) -> bool:
        """Whether no more trials may begin, so that the end of the search fits into the budget."""
        if self.budget.seconds is None:
            return False
        self.reserve()
        reserved = self.budget.reserved_refit + self.budget.reserved_repeats
        return self.budget.left <= reserved + self.budget.fixed + 1.0
