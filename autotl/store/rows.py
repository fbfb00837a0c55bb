"""What the tables give: one row of each as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

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
    """One trial: what was tried and how it ended."""

    number: int
    status: str  # one of ENDS
    reason: str  # why it ended so; empty for complete
    config: dict[str, Any]
    score: float | None
    epochs: int  # how many were planned
    parameters: int | None
    trained_parameters: int | None
    seconds: float
    started: datetime
    facts: dict[str, Any] = field(default_factory=dict)  # what it measured beside the score


@dataclass(frozen=True)
class EpochRow:
    """One epoch of a trial; loss and score are None where they were not finite."""

    epoch: int
    loss: float | None
    score: float | None
    seconds: float


@dataclass(frozen=True)
class FinalRow:
    """One run of a candidate in the finals; runs of one number share their split and seed."""

    candidate: str  # a trial's number, or what is made of several, such as "ensemble"
    run: int
    trial: int | None
    score: float | None
    seconds: float
    facts: dict[str, Any]


@dataclass(frozen=True)
class TestRow:
    """One opening of the sealed test part; ``facts`` has who is tested, and then the result."""

    __test__ = False  # by its name pytest would take it for a class of tests

    id: int
    trial: int
    opened: datetime
    config: dict[str, Any]
    facts: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether its result is known; not where the test was cut off."""
        return "score" in self.facts

    @property
    def candidate(self) -> str:
        """The name of the winner that was tested."""
        return str(self.facts.get("candidate") or f"trial {self.trial}")

    def is_of(self, name: str, members: dict[str, float] | None) -> bool:
        """Whether it is of the winner of that name, made of ``members`` if it is of several."""
        return (self.candidate, self.facts.get("members")) == (name, members)
