"""What the listener of a search is told of trials: of those of this worker, and of others."""

from __future__ import annotations

import time

from autotl import events
from autotl.events import Listener
from autotl.search.leaderboard import Leaderboard
from autotl.search.outcome import Outcome
from autotl.space import space
from autotl.space.space import Config
from autotl.store import Worker
from autotl.training import Epoch

OTHERS_SECONDS, OTHERS = 5.0, 8
"""The time between two reports of the trials of other workers during a trial. With more than this
number of running trials it grows in proportion, so that it takes the same part of the time."""


class Progress:
    """Tells a listener of the progress of trials.

    Args:
        listener: Called with the events.
        leaderboard: Has the trials of other workers.
        worker: This process as a worker of the study.
    """

    def __init__(self, listener: Listener, leaderboard: Leaderboard, worker: Worker) -> None:
        self.listener, self.leaderboard, self.worker = listener, leaderboard, worker
        self._begun: set[int] = set()
        self._read_others = time.monotonic()

    def note(self, text: str, *, warning: bool = False) -> None:
        """Tell something in words."""
        self.listener(events.Note(text, warning=warning))

    def begin(self, number: int, config: Config, epochs: int) -> None:
        """Tell that the training of a trial begins."""
        self._begun.add(number)
        self.listener(events.TrialStarted(number, space.to_json(config), epochs))

    def end_epoch(self, number: int, epoch: Epoch, epochs: int) -> None:
        """Tell the result of an epoch of a trial."""
        result = epoch.number, epochs, epoch.loss, epoch.score, epoch.seconds
        self.listener(events.EpochCompleted(number, *result))

    def finish(
        self, number: int, config: Config, outcome: Outcome, result: tuple[str, str], seconds: float
    ) -> None:
        """Tell the status of a trial and its reason, and before that all that was not told yet."""
        if number not in self._begun:  # trained with the first trial, or not begun
            self.begin(number, config, len(outcome.epochs))
            for epoch in outcome.epochs:
                self.end_epoch(number, epoch, len(outcome.epochs))
        self.listener(events.TrialFinished(number, *result, outcome.score, seconds))

    def refresh_others(self) -> None:
        """Read and tell of the trials of others, every ``OTHERS_SECONDS`` if they are few."""
        pause = OTHERS_SECONDS * max(1.0, len(self.leaderboard.running) / OTHERS)
        if time.monotonic() - self._read_others > pause:
            self.leaderboard.refresh()
            self.tell_others()

    def tell_others(self) -> None:
        """Tell of the finished and the running trials of other workers."""
        self._read_others = time.monotonic()
        for row in self.leaderboard.take_news():
            if row.worker not in (None, self.worker.number):
                began = events.TrialStarted(row.number, row.config, row.epochs, row.worker)
                self.listener(began)
                result = row.status, row.reason, row.score, row.seconds
                self.listener(events.TrialFinished(row.number, *result, row.worker))
        running = [
            events.TrialStarted(row.number, row.config, row.epochs, row.worker)
            for row in self.leaderboard.running.values()
            if row.worker != self.worker.number
        ]
        self.listener(events.OthersRunning(tuple(running)))
