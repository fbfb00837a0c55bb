"""The events that a search reports. A listener is any function that takes one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BestTrial:
    """The best complete trial of a study; ``config`` is written as by ``space.to_json``."""

    number: int
    score: float
    config: dict[str, Any]


@dataclass(frozen=True)
class SearchStarted:
    """A search starts.

    Args:
        study: The name of the study.
        metric: The metric of all scores.
        device: The device, as text.
        budget: The budget in seconds; None without one.
        deadline: The end of the budget as a value of ``time.monotonic``; None without a budget.
        max_trials: The number of trials to which the search is limited; None without a limit.
        earlier_trials: The number of trials that the study already has.
        best: The best of them, if one is complete.
        direction: Which scores are better, in Optuna's terms.
    """

    study: str
    metric: str
    device: str
    budget: float | None
    deadline: float | None
    max_trials: int | None
    earlier_trials: int
    best: BestTrial | None = None
    direction: str = "maximize"


@dataclass(frozen=True)
class ScoreDecimals:
    """The data are read: scores from here on are shown with ``decimals`` decimals."""

    decimals: int


@dataclass(frozen=True)
class Stage:
    """A stage of the search: ``completed`` of ``total`` steps; ``total`` is 0 if it is unknown."""

    name: str
    completed: int = 0
    total: int = 0


@dataclass(frozen=True)
class Note:
    """A message of one line for the user; ``warning`` if something may need to be corrected."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class TrialStarted:
    """A trial starts.

    Args:
        number: The number of the trial.
        config: Its configuration, written as by ``space.to_json``.
        epochs: The number of epochs.
        worker: The number of the other worker that runs it; None for this process.
    """

    number: int
    config: dict[str, Any]
    epochs: int
    worker: int | None = None


@dataclass(frozen=True)
class OthersRunning:
    """The trials that other workers are running."""

    trials: tuple[TrialStarted, ...]


@dataclass(frozen=True)
class StepCompleted:
    """A step of training or of feature extraction is completed; interrupts take effect here."""


@dataclass(frozen=True)
class EpochCompleted:
    """An epoch of the current trial is completed.

    Args:
        number: The number of the trial.
        epoch: The number of the epoch, from 1.
        epochs: The number of epochs of the trial.
        loss: The mean training loss.
        score: The validation score.
        seconds: The duration of the epoch.
    """

    number: int
    epoch: int
    epochs: int
    loss: float
    score: float
    seconds: float


@dataclass(frozen=True)
class TrialFinished:
    """A trial ends.

    Args:
        number: The number of the trial.
        status: One of ``store.STATUSES``.
        reason: Why it has this status; empty if that is ``complete``.
        score: The score; None unless the trial is complete.
        seconds: The duration of the trial.
        worker: The number of the other worker that ran it; None for this process.
    """

    number: int
    status: str
    reason: str
    score: float | None
    seconds: float
    worker: int | None = None


Event = (
    SearchStarted
    | ScoreDecimals
    | Stage
    | Note
    | TrialStarted
    | OthersRunning
    | StepCompleted
    | EpochCompleted
    | TrialFinished
)
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore the event: the listener of a search without output."""
