"""The wall-clock budget: the time left, and the time that a trial may use, in seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_TRIAL = 0.3
"""The maximum fraction of the budget for one trial; a longer trial gets fewer epochs.

It does not hold for the first trial that fine-tunes a backbone.
"""

PROBING_FRACTION = 0.15
"""The fraction of the budget after which no further backbone is probed."""

SELECTION_FRACTION = 0.3
"""The fraction of the budget that the repeats of the final selection may use."""

TEST_FRACTION = 0.2
"""The fraction of the budget that is reserved for the test at most; where it takes longer, a sample
of the test images is scored."""

PRETRAINING_FRACTION = 0.25
"""The fraction of the budget in which the training of a pretrained backbone may be continued."""

STUDENT_FRACTION = 0.25
"""The fraction of the budget that is reserved for a student, if there is to be one."""

SLACK = 1.1
"""The factor by which predicted times of repeats and of the refit are increased."""


class Budget:
    """A wall-clock budget, which begins when it is created.

    It covers everything from reading the data to the report. The time that is reserved for the
    repeats of the final selection, and for the refit and the test of the best trial so far, is not
    available to trials. A trial may only use so much time that it can still be refitted if it wins;
    the first trial that fine-tunes a backbone is an exception, because a fine-tuned model without a
    refit is worth more than none.

    Args:
        seconds: The length of the budget; None for no limit.
        refit: Cost of training on train + validation relative to that of training on train.
        fixed: Seconds to save the model and to write the report, which every search needs.
        began: The begin of the budget as a value of ``time.monotonic``; None for now.

    Attributes:
        reserved_student: Seconds at the end that are reserved for a student, see ``study.student``.
            They are not a part of what is left, before ``release_student``.
        reserved_pretraining: Seconds that are not left, because they are for continued pretraining.
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
        self.reserved_repeats = self.reserved_refit = self.reserved_student = 0.0
        self.reserved_pretraining = 0.0
        self.stages: dict[str, float] = {}
        self._nested = [0.0]

    def reserve_student(self) -> None:
        """Reserve time at the end to teach a student."""
        self.reserved_student = STUDENT_FRACTION * (self.seconds or 0.0)

    @contextmanager
    def reserving_pretraining(self) -> Iterator[None]:
        """Reserve time for continued pretraining while the inputs are planned for what is left."""
        self.reserved_pretraining = PRETRAINING_FRACTION * (self.seconds or 0.0)
        try:
            yield
        finally:
            self.reserved_pretraining = 0.0

    def release_student(self) -> None:
        """Let what is reserved for a student be used."""
        self.reserved_student = 0.0

    @property
    def end(self) -> float | None:
        """The end of the budget as a value of ``time.monotonic``; None without a limit."""
        return None if self.seconds is None else self.began + self.seconds

    @property
    def deadline(self) -> float | None:
        """The end, or before ``release_student`` the end of what is not reserved for a student."""
        return None if self.end is None else self.end - self.reserved_student

    @property
    def spent(self) -> float:
        """Seconds since the budget began."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds until the deadline; infinite without a limit."""
        if self.seconds is None:
            return float("inf")
        return self.seconds - self.reserved_student - self.reserved_pretraining - self.spent

    def test_seconds(self, predicted: float) -> float:
        """Return the seconds to reserve for a test that would take ``predicted`` seconds."""
        return predicted if self.seconds is None else min(predicted, TEST_FRACTION * self.seconds)

    def refit_seconds(self, repeat: float, test: float = 0.0) -> float:
        """Return the seconds to refit and test a model.

        Args:
            repeat: Seconds to retrain it on a resample.
            test: Seconds to predict the test split.
        """
        return SLACK * self.refit * repeat + test

    def finish_seconds(self, repeat: float, test: float = 0.0) -> float:
        """Return the seconds from the last trial to the report, if a model may win.

        Args:
            repeat: Seconds to retrain the model on a resample.
            test: Seconds to predict the test split with it.
        """
        refit = max(self.reserved_refit, self.refit_seconds(repeat, test))
        return self.reserved_repeats + refit + self.fixed

    def usable(self, test: float = 0.0) -> float:
        """Return the seconds that a trial may use now if it need not be refitted.

        Args:
            test: Seconds to predict the test split.
        """
        return self.left - test - self.fixed

    def available(self, repeat: float, test: float = 0.0) -> float:
        """Return the seconds that a trial may use now and still be refitted and tested.

        For the arguments see ``finish_seconds``.
        """
        return self.left - self.finish_seconds(repeat, test)

    def fair_share(self, repeat: float, test: float = 0.0) -> float:
        """Return the seconds that a trial may plan to use, so that others have time as well.

        For the arguments see ``finish_seconds``.
        """
        if self.seconds is None:
            return float("inf")
        return min(self.available(repeat, test), LONGEST_TRIAL * self.seconds)

    def refit_deadline(self, test: float = 0.0) -> float | None:
        """Return the latest end of the refit as a value of ``time.monotonic``, or None.

        Args:
            test: Seconds to predict the test split.
        """
        return None if self.deadline is None else self.deadline - test - self.fixed / 2

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside, except in nested stages, to the stage ``name``."""
        began = time.monotonic()
        self._nested.append(0.0)
        try:
            yield
        finally:
            took = time.monotonic() - began
            self.stages[name] = self.stages.get(name, 0.0) + took - self._nested.pop()
            self._nested[-1] += took
