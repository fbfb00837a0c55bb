"""Contenders: the trials and combinations of trials that may become the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Kind = Literal["trial", "ensemble", "soup", "student"]
Role = Literal["finalist", "default_recipe", "linear_probe", "ensemble", "soup"]


Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A float; the database has null for one that is not finite."""


class Facts(BaseModel):
    """A record that is stored as JSON; unknown keys, e.g. of newer versions, are ignored."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, ser_json_inf_nan="null", arbitrary_types_allowed=True
    )


class Interval(Facts):
    """A mean with its 95 % interval."""

    mean: Number
    low: Number
    high: Number


class Standing(Facts):
    """How a contender compares with the best one.

    ``score`` is its mean score with a 95 % interval, ``difference`` the score minus that of the
    best contender, with an interval that holds for all contenders simultaneously. ``tied`` says
    that the two are statistically indistinguishable.
    """

    score: Interval
    difference: Interval
    tied: bool


class Spread(Facts):
    """Milliseconds per image: the median, and the quartiles between which measurements are."""

    median: float
    low: float
    high: float


class Latency(Facts):
    """What a prediction takes, see ``training.latency``: of one image, and of one of a batch."""

    single: Spread
    batch: Spread | None = None
    threads: int | None = None


class Member(Facts):
    """A trial and its weight in a contender; the weights of a contender sum to 1."""

    trial: int
    weight: float = 1.0


class Contender(Facts):
    """One configuration, or a combination of several, that may become the model.

    Attributes:
        kind: ``trial`` for a single configuration, ``ensemble`` for the weighted mean of the
            members' probabilities, ``soup`` for the mean of their weights; ``student`` for the
            model that the winner taught, which is only tested.
        members: Its trials, the largest weight first; of a student those of its teacher.
        role: The reason why it is compared.
        config: The configuration of a single trial, as ``config_to_json`` writes it.
        parameters: Number of parameters of all members; None if unknown.
        ms_per_item: Milliseconds to predict one example in a batch, estimated in the search; None
            if unknown.
        latency: The same, measured at the end of the search; None before.
        seconds: Training time of all repeats.
        scores: The score of each repeat of the final selection, or the one score of the trial.
        standing: The comparison with the best contender; None before the comparison.
        predictions: Probabilities ``[N, C]`` on the validation split of each repeat; not stored.
    """

    kind: Kind = "trial"
    members: tuple[Member, ...] = Field(min_length=1)
    role: Role = "finalist"
    config: dict[str, Any] | None = None
    parameters: int | None = None
    ms_per_item: float | None = None
    latency: Latency | None = None
    seconds: Number = 0.0
    scores: tuple[Number, ...] = ()
    standing: Standing | None = None
    predictions: tuple[NDArray[np.float32], ...] = Field(default=(), exclude=True, repr=False)

    @property
    def id(self) -> tuple[Kind, tuple[tuple[int, float], ...]]:
        """Its identity: ensembles with different members or weights are different contenders."""
        return self.kind, tuple(sorted((member.trial, member.weight) for member in self.members))

    @property
    def name(self) -> str:
        """The name that is displayed: ``trial 7``, ``ensemble`` or ``soup``."""
        return f"trial {self.lead}" if self.kind == "trial" else self.kind

    @property
    def lead(self) -> int:
        """The number of the trial with the largest weight."""
        return self.members[0].trial

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of its trials."""
        return tuple(member.trial for member in self.members)

    @property
    def weights(self) -> tuple[float, ...]:
        """The weights of its members."""
        return tuple(member.weight for member in self.members)

    @property
    def mean(self) -> float:
        """The mean of its scores."""
        return float(np.mean(self.scores))

    def reference(self) -> dict[str, Any]:
        """Return the kind and the members, which identify it, as JSON."""
        return self.model_dump(mode="json", include={"kind", "members"})


def single(trial: int, **fields: Any) -> Contender:
    """Return the contender that consists of one trial; ``fields`` are further fields of it."""
    return Contender(members=(Member(trial=trial),), **fields)


def with_costs(combination: Contender, members: Sequence[Contender]) -> Contender:
    """Add the costs to a combination: an ensemble runs all its members, a soup is one model."""
    run = members if combination.kind == "ensemble" else members[:1]
    times = [c.ms_per_item for c in run if c.ms_per_item is not None]
    sizes = [c.parameters for c in run if c.parameters is not None]
    measured = [c.latency for c in run if c.latency is not None]
    costs = {
        "latency": _sum_latencies(measured) if len(measured) == len(run) else None,
        "ms_per_item": sum(times) if len(times) == len(run) else None,
        "parameters": sum(sizes) if len(sizes) == len(run) else None,
    }
    return combination.model_copy(update=costs)


def _sum_latencies(latencies: Sequence[Latency]) -> Latency:
    """Add up what predictions with several models take."""
    batches = [each.batch for each in latencies if each.batch]
    return Latency(
        single=_sum_spreads([each.single for each in latencies]),
        batch=_sum_spreads(batches) if len(batches) == len(latencies) else None,
        threads=latencies[0].threads,
    )


def _sum_spreads(spreads: Sequence[Spread]) -> Spread:
    keys = ("median", "low", "high")
    return Spread(**{key: sum(getattr(spread, key) for spread in spreads) for key in keys})


def parse(reference: Mapping[str, Any]) -> Contender:
    """Return the contender that ``Contender.reference`` describes."""
    return Contender.model_validate(reference)
