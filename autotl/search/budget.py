"""The wall-clock budget: what is left of it, and what a trial may take of it. All in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_TRIAL = 0.3
"""The share of the budget that a trial may plan for; longer ones get fewer epochs."""

FINALS_SHARE = 0.3
"""The share of the budget that the runs of the finals may take."""

SLACK = 1.1
"""What is kept for the runs of the finals and the refit over what they are thought to take."""

REPEATS = 2.7
"""How often a trial is to fit into it: for two runs, with a linear probe and a fifth of slack."""


class Budget:
    """A number of seconds that begins to run when it is made, or None for no end.

    It covers everything from the first look at the data to the report. A trial may take only so
    long that it can still be refitted if it wins, so a search ends early enough by itself. What the
    runs of the finals are to have, ``runs``, and what the refit and the test of the best so far
    take, ``leader``, it leaves alone too.

    Args:
        seconds: The budget, or None.
        refit: How many times the cost of a trial its refit takes.
        fixed: What the end takes whatever the winner: saving and the report.
        began: When it began, a reading of ``time.monotonic``; None for now.
    """

    def __init__(
        self,
        seconds: float | None,
        refit: float = 1.25,
        fixed: float = 5.0,
        began: float | None = None,
    ) -> None:
        self.seconds, self.refit, self.fixed = seconds, refit, fixed
        self.began = time.monotonic() if began is None else began
        self.runs = self.leader = 0.0
        self.stages: dict[str, float] = {}
        self._inner = [0.0]

    @property
    def deadline(self) -> float | None:
        """A reading of ``time.monotonic``; None without a budget."""
        return None if self.seconds is None else self.began + self.seconds

    @property
    def spent(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Until the deadline; infinite without a budget."""
        return float("inf") if self.seconds is None else self.seconds - self.spent

    def finals(self, again: float, test: float = 0.0) -> float:
        """What the end takes for a trial that takes ``again`` to be done again, and its test."""
        return self.runs + max(self.leader, self.refitting(again, test)) + self.fixed

    def refitting(self, again: float, test: float = 0.0) -> float:
        """To refit and test what takes ``again`` to be done again."""
        return SLACK * self.refit * again + test

    def longest_trial(self, again: float, test: float = 0.0) -> float:
        """What a trial may take from now on, if there is to be time for the end should it win.

        Args:
            again: What it takes to do it again, when what could be kept of it was.
            test: What it takes to test its model.
        """
        return self.left - self.finals(again, test)

    def fair_share(self, again: float, test: float = 0.0) -> float:
        """What a trial may plan for, so that one does not take the time of all others."""
        if self.seconds is None:
            return float("inf")
        return min(self.longest_trial(again, test), LONGEST_TRIAL * self.seconds)

    @property
    def repeatable(self) -> float:
        """What a trial should take to be done again, if finals are to be held with it."""
        return float("inf") if self.seconds is None else FINALS_SHARE * self.seconds / REPEATS

    def grace(self, test: float = 0.0) -> float | None:
        """A reading of ``time.monotonic`` by which the refit must be over at the latest."""
        return None if self.deadline is None else self.deadline - test - self.fixed / 2

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add up the time that is spent inside under ``name``, without that of stages within."""
        began = time.monotonic()
        self._inner.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - began
            self.stages[name] = self.stages.get(name, 0.0) + took - self._inner.pop()
            self._inner[-1] += took
