"""Rows of the tables as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from autotl.store.contender import Contender, Kind
from autotl.store.facts import RepeatFacts, TestResult, TrialFacts

STATUSES = (
    "running",
    "complete",
    "pruned",
    "failed",
    "out_of_memory",
    "diverged",
    "incompatible",
    "out_of_time",
    "interrupted",
)


@dataclass(frozen=True)
class TrialRow:
    """One trial: its configuration, its status and its results.

    ``epochs`` is the planned number of epochs, ``seconds`` the wall-clock time, ``reason`` why it
    ended with its status; empty for ``complete``.
    """

    number: int
    status: str  # one of STATUSES
    reason: str
    config: dict[str, Any]
    score: float | None
    epochs: int
    parameters: int | None
    trained_parameters: int | None
    seconds: float
    started: datetime
    facts: TrialFacts = field(default_factory=TrialFacts)


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a trial; loss and score are None where they were not finite."""

    epoch: int
    loss: float | None
    score: float | None
    seconds: float


@dataclass(frozen=True)
class RepeatRow:
    """One repeat of a contender in the final selection; equal numbers share resample and seed."""

    kind: Kind
    trial: int  # of several, that with the largest weight
    repeat: int
    score: float | None
    seconds: float
    facts: RepeatFacts


@dataclass(frozen=True)
class TestRow:
    """One opening of the test split, for one contender, and its result."""

    __test__ = False  # by its name pytest would take it for a class of tests

    id: int
    opened: datetime
    contender: Contender
    config: dict[str, Any]
    result: TestResult

    @property
    def done(self) -> bool:
        """Whether the result is known; False if the test was interrupted."""
        return self.result.score is not None


@dataclass(frozen=True)
class DataIssueRow:
    """A problem of the data: which example, class or group, what is wrong, what was done."""

    name: str
    problem: str
    action: str


@dataclass(frozen=True)
class ImageRow:
    """An image that a model misclassified or whose label may be wrong; previews are data URIs."""

    name: str
    truth: str
    guess: str
    probability: float
    thumbnail: str = ""
    saliency: str = ""
