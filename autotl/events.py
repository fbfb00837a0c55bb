"""What a search says while it runs. A listener is any function that takes one of these events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SearchStarted:
    """The search begins.

    ``deadline`` is a reading of ``time.monotonic`` (seconds) or None; ``trials`` the limit or None;
    ``metric`` what the scores are; ``device`` where it runs.
    """

    study: str
    metric: str
    device: str
    budget: float | None
    deadline: float | None
    trials: int | None
    done: int  # trials that the study had before


@dataclass(frozen=True)
class Stage:
    """A stage of the work, ``done`` of ``total`` steps of it; ``total`` is 0 where unknown."""

    name: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Note:
    """Something that the user should know, one line; ``warning`` for what may need mending."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class TrialStarted:
    """A trial begins; ``config`` as ``space.to_json`` writes it."""

    number: int
    config: dict[str, Any]
    epochs: int


@dataclass(frozen=True)
class StepCompleted:
    """A step of training or of computing features is over: nothing to show, a place to stop."""


@dataclass(frozen=True)
class EpochCompleted:
    """An epoch of the current trial is over; the fields are those of ``finetune.Epoch``."""

    number: int
    epoch: int
    epochs: int
    loss: float
    score: float
    seconds: float


@dataclass(frozen=True)
class TrialFinished:
    """A trial is over: ``status`` is what it was filed as, ``reason`` why, empty for ``complete``."""

    number: int
    status: str
    reason: str
    score: float | None
    seconds: float


Event = SearchStarted | Stage | Note | TrialStarted | StepCompleted | EpochCompleted | TrialFinished
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
