"""The wall-clock budget: what is left of it, and how much of it a trial may use. In seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_TRIAL = 0.3
"""The fraction of the budget that a trial may plan for; longer ones get fewer epochs."""

SELECTION_FRACTION = 0.3
"""The fraction of the budget that the repeats of the final selection may use."""

SLACK = 1.1
"""Factor on the predicted time of the repeats and of the refit."""

REPEATS = 2.7
"""How often a trial must fit into ``SELECTION_FRACTION``: two repeats, with a linear probe and a
fifth of slack."""


class Budget:
    """A number of seconds that starts to run when it is created, or None for no limit.

    It covers everything from the first look at the data to the report. A trial may use only so
    much that it can still be refitted if it wins. What is reserved for the repeats of the final
    selection and for the refit and test of the best trial so far is not available to trials.

    Args:
        seconds: The budget, or None.
        refit: Cost of a refit relative to that of a trial: it has train + validation.
        fixed: Seconds that the end takes whatever the winner: saving and the report.
        began: When it began, a reading of ``time.monotonic``; None for now.

    Attributes:
        reserved_repeats: Seconds reserved for the repeats of the final selection.
        reserved_refit: Seconds reserved for the refit and the test of the best trial so far.
        stages: Seconds spent in each stage so far.
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
        self.reserved_repeats = self.reserved_refit = 0.0
        self.stages: dict[str, float] = {}
        self._nested = [0.0]

    @property
    def deadline(self) -> float | None:
        """A reading of ``time.monotonic``; None without a budget."""
        return None if self.seconds is None else self.began + self.seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds until the deadline; infinite without a budget."""
        return float("inf") if self.seconds is None else self.seconds - self.spent

    @property
    def longest_repeat(self) -> float:
        """How long a retraining may take so that a final selection can still include it."""
        return float("inf") if self.seconds is None else SELECTION_FRACTION * self.seconds / REPEATS

    def refit_seconds(self, repeat: float, test: float = 0.0) -> float:
        """Seconds to refit and test a model whose retraining takes ``repeat`` seconds."""
        return SLACK * self.refit * repeat + test

    def finish_seconds(self, repeat: float, test: float = 0.0) -> float:
        """Seconds from the end of the search to the report, if such a model may win.

        Args:
            repeat: Seconds to retrain it.
            test: Seconds to test it.
        """
        refit = max(self.reserved_refit, self.refit_seconds(repeat, test))
        return self.reserved_repeats + refit + self.fixed

    def available(self, repeat: float, test: float = 0.0) -> float:
        """Seconds that a trial may use now and still be refitted and tested if it wins."""
        return self.left - self.finish_seconds(repeat, test)

    def fair_share(self, repeat: float, test: float = 0.0) -> float:
        """Seconds that a trial may plan for, so that it does not use the time of all others."""
        if self.seconds is None:
            return float("inf")
        return min(self.available(repeat, test), LONGEST_TRIAL * self.seconds)

    def refit_deadline(self, test: float = 0.0) -> float | None:
        """The latest end of the refit, a reading of ``time.monotonic``; None without a budget."""
        return None if self.deadline is None else self.deadline - test - self.fixed / 2

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the stage ``name``, without that of nested stages."""
        began = time.monotonic()
        self._nested.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - began
            self.stages[name] = self.stages.get(name, 0.0) + took - self._nested.pop()
            self._nested[-1] += took
