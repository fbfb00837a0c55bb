"""Rows of trials, as the database returns them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from autotl.store import TrialFacts, TrialRow
from autotl.store.rows import CONTRIBUTION_TYPE

NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def trial(number: int, score: float | None = 0.5, **changes: Any) -> TrialRow:
    """A complete trial with a configuration of its own; ``facts`` are those of ``TrialFacts``."""
    facts = TrialFacts(**changes.pop("facts", {}))
    row = TrialRow(
        number, "complete", "", {"head": {str(number): {}}}, score, 3, 100, 10, 7.5, NOW, facts
    )
    return replace(row, **changes)


def numbers(rows: list[TrialRow]) -> list[int]:
    return [row.number for row in rows]


def stored(values: Any) -> bytes:
    """Contributions as the store has them."""
    return np.asarray(values, CONTRIBUTION_TYPE).tobytes()
