"""Hyperparameters of plugins: ``Range``, ``When`` and ``Mirrors``, by which they are declared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotl.errors import PluginError


@dataclass(frozen=True)
class Range:
    """A closed interval to search, sampled uniformly in the value or, with ``log``, its logarithm.

    Args:
        low: The smallest value.
        high: The largest value.
        log: Whether to sample uniformly in the logarithm.
        step: If given, only ``low``, ``low + step``, ... are sampled. Trials that sample the same
            value of an augmentation share the cached features of its images.

    Raises:
        PluginError: The interval is empty, or the options do not fit together.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if self.step is not None and (self.log or self.step <= 0):
            raise PluginError(f"{self}: step must be positive and cannot be combined with log")
        if not self.low < self.high:
            raise PluginError(f"{self} is empty: low must be less than high")
        if self.log and self.low <= 0:
            raise PluginError(f"{self}: with log, low must be positive")
        if self.step and not self.is_on_grid(self.high):
            raise PluginError(f"{self}: high must be low plus a whole number of steps")

    def is_on_grid(self, value: float) -> bool:
        """Whether ``value`` is ``low`` plus a whole number of steps; always true without a step."""
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-6)


class When:
    """A condition: the keyword is searched only if earlier ones have one of these values.

    ``When(depth=(1, 2), norm=True)`` requires both conditions.
    """

    def __init__(self, **conditions: Any) -> None:
        self.conditions = {
            name: tuple(values) if isinstance(values, tuple | list) else (values,)
            for name, values in conditions.items()
        }

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether every condition holds for ``values``, those of the earlier keywords."""
        return all(values.get(name) in allowed for name, allowed in self.conditions.items())


class Mirrors:
    """Declares that a ``bool`` of an augmentation mirrors images horizontally.

    ``flip: Annotated[bool, Mirrors()] = True``. The search pins the keyword to False if the classes
    do not survive mirroring, like those of letters or arrows, which is measured once.
    """


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword of a plugin that the search may choose, by ``choices`` or by ``range``.

    ``mirrors`` says that images are mirrored where its value is True, see ``Mirrors``.
    """

    name: str
    type: type
    default: Any
    choices: tuple[Any, ...] | None = None
    range: Range | None = None
    when: When | None = None
    mirrors: bool = False

    def allows(self, value: Any) -> bool:
        """Whether ``value`` has the right type and lies in the domain, on a step or not."""
        if self.choices is not None:
            return any(value == c and type(value) is type(c) for c in self.choices)
        number = isinstance(value, int if self.type is int else int | float)
        if self.range is None or isinstance(value, bool) or not number:
            return False
        return bool(self.range.low <= value <= self.range.high)

    def can_draw(self, value: Any) -> bool:
        """Whether the search itself could sample ``value``: it is allowed and lies on a step."""
        return self.allows(value) and (self.range is None or self.range.is_on_grid(value))

    @property
    def domain(self) -> str:
        """The searched values as text: ``1e-05 to 0.1 (log)`` or ``1 | 2``."""
        if self.range is None:
            return " | ".join(str(c) for c in self.choices or ())
        low, high = self.type(self.range.low), self.type(self.range.high)
        step = f" in steps of {self.range.step:g}" if self.range.step else ""
        return f"{low} to {high}{' (log)' if self.range.log else ''}{step}"
