"""The rows of AutoTL's tables as dataclasses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.store.contender import Contender, Kind
from autotl.store.facts import RepeatFacts, TestResult, TrialFacts

STATUSES = (
    "running",
    "complete",
    "pruned",
    "failed",
    "crashed",
    "out_of_memory",
    "diverged",
    "incompatible",
    "out_of_time",
    "duplicate",
    "interrupted",
)


CONTRIBUTION_TYPE = "<f4"
"""Of stored contributions: their differences between trials count, and they may have any unit."""


@dataclass(frozen=True)
class TrialRow:
    """One trial: its configuration, its status and its results.

    ``epochs`` is the planned number of epochs and ``seconds`` the wall-clock time. ``reason`` says
    why the trial ended with its status; it is empty for ``complete``. ``contributions`` are those
    of the sampling units of the validation split to the score (``scoring.influence``)
    as ``CONTRIBUTION_TYPE``. ``worker`` is the number of the worker that ran it, if known.
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
    contributions: bytes | None = field(default=None, repr=False)
    worker: int | None = None

    @property
    def effective_config(self) -> dict[str, Any]:
        """The configuration without what had no effect."""
        stored: dict[str, Any] = json.loads(self.facts.effective_config or "{}")
        return stored or self.config

    @property
    def contribution_of_units(self) -> NDArray[np.float64]:
        """What each sampling unit contributes to the score, ``[U]``; empty if not stored."""
        return np.frombuffer(self.contributions or b"", CONTRIBUTION_TYPE).astype(np.float64)


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a trial; the loss and the score are None if they were not finite."""

    epoch: int
    loss: float | None
    score: float | None
    seconds: float


@dataclass(frozen=True)
class RepeatRow:
    """One repeat of a contender in the final selection.

    Repeats with the same number use the same resample and seed.
    """

    kind: Kind
    trial: int  # the trial with the largest weight
    repeat: int
    score: float | None
    seconds: float
    facts: RepeatFacts


@dataclass(frozen=True)
class TestRow:
    """One use of the test split, for one contender, and its result."""

    __test__ = False  # pytest would collect the class because of its name

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
    """A problem of an example, class or group, and what was done about it."""

    name: str
    problem: str
    action: str


@dataclass(frozen=True)
class ImageRow:
    """An example with a wrong prediction or a doubtful label; its previews are data URIs.

    ``probability`` is that of what was predicted; None where that has none.
    """

    name: str
    truth: str
    guess: str
    probability: float | None = None
    thumbnail: str = ""
    saliency: str = ""
