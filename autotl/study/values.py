"""The types of settings: durations, sizes, numbers and names, as users write them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
)

from autotl.errors import StudyError, shorten

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

MAX_SECONDS = 365 * SECONDS["d"]
"""The longest duration of a setting."""


def parse_duration(text: str | float) -> float:
    """Parse a duration in seconds: ``"90s"``, ``"10m"``, ``"1h30m"``, or a number of seconds.

    Text without a unit is refused, because ``--budget 4`` may mean minutes or hours. Pydantic's
    ``timedelta`` does not read these forms.

    Raises:
        StudyError: The text is not a duration, or is not in the range of 0 s to 365 days.

    >>> parse_duration("1h30m")
    5400.0
    """
    normalised = str(text).strip().lower()
    if isinstance(text, str) and re.fullmatch(r"\d+(\.\d+)?", normalised):
        examples = ", ".join(f"{normalised[:9]}{unit}" for unit in "smh")
        raise StudyError(f"{shorten(text)} is not a valid duration: expected a unit, {examples}")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", normalised)
    invalid = f"{shorten(text)} is not a valid duration: expected"
    if not parts or "".join(number + unit for number, unit in parts) != normalised:
        raise StudyError(f"{invalid} e.g. 90s, 10m, 1h30m or 2d")
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise StudyError(f"{invalid} more than 0, e.g. 90s, 10m, 1h30m or 2d")
    if seconds > MAX_SECONDS:
        raise StudyError(f"{invalid} at most 365d, e.g. 90s, 10m, 1h30m or 2d")
    return seconds


def _parse_seconds(value: Any) -> float:
    try:
        return parse_duration(value)
    except StudyError as error:
        raise ValueError(str(error)) from None


def _parse_number(value: Any, units: Mapping[str, float], example: str) -> float:
    """Parse a number with one of ``units``, whose factors are the values."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) *([a-z]*)", str(value).strip().lower())
    if not match or match[2] not in units or float(match[1]) == math.inf:
        raise ValueError(f"expected e.g. {example}")
    return float(match[1]) * units[match[2]]


def _parse_count(value: Any) -> float:
    units = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}
    number = _parse_number(value, units, "500k, 30M or 1.5B")
    return round(number) if number < MAX_PARAMETERS else number


def _parse_bytes(value: Any) -> Any:
    # ByteSize converts numbers of any length to an integer, and infinity is none.
    if isinstance(value, str) and len(value) > 40:
        raise ValueError("expected e.g. 500MB or 20GB")
    return value


def has_null(value: Any) -> bool:
    """Whether a text in a value has a null character, which no path can have."""
    if isinstance(value, dict):
        return any(has_null(part) for part in (*value, *value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_null, value))
    return "\0" in str(value)


def to_tuple(value: Any) -> Any:
    """A single text, path or number as a tuple; other values unchanged."""
    return (value,) if isinstance(value, str | Path | int) else value


def _to_text(value: Any) -> str:
    """A text, number or truth value as it is written in a TOML file, without quotes."""
    if not isinstance(value, str | int | float):
        raise ValueError("expected a text, a number, true or false")
    return str(value).lower() if isinstance(value, bool) else str(value)


MAX_PARAMETERS = 10**12
"""The largest limit of the number of parameters."""

Duration = Annotated[float, BeforeValidator(_parse_seconds)]  # seconds

Count = Annotated[int, Field(ge=1, le=1_000_000)]

ParameterCount = Annotated[int, BeforeValidator(_parse_count), Field(ge=1, le=MAX_PARAMETERS)]

Milliseconds = Annotated[
    float,
    BeforeValidator(
        partial(_parse_number, units={"": 1, "ms": 1, "s": 1000}, example="20ms or 0.5s")
    ),
    Field(gt=0, le=1000 * SECONDS["d"]),
]

Bytes = Annotated[ByteSize, BeforeValidator(_parse_bytes), Field(ge=0, le=10**18)]

Text = Annotated[str, BeforeValidator(_to_text)]

Names = Annotated[tuple[str, ...], BeforeValidator(to_tuple)]

Size = Annotated[int, Field(ge=16, le=2048)]
"""The side of an image in pixels, or the size of another input."""

ImageSizes = Annotated[
    tuple[Size, ...],
    BeforeValidator(to_tuple),
    Field(max_length=100),
]

DEVICES = r"^(auto|cpu|mps|cuda(:\d{1,4})?)$"
"""The names of devices. Whether this machine has one is checked when it is selected."""

DEVICE_EXPECTED = "is not a valid device; expected auto, cpu, cuda, cuda:1 or mps"

Fraction = Annotated[float, Field(gt=0, lt=0.9)]
