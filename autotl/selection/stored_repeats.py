"""Repeats that are stored: scores in the database, and predictions in the cache folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotl import events, files
from autotl.data import Resample
from autotl.events import Listener
from autotl.scoring.metrics import Predictions
from autotl.store import Kind, RepeatFacts, RepeatRow, Store
from autotl.study import StudyConfig

Stored = Mapping[tuple[Kind, int, int], RepeatRow]
"""Repeats in the database, by the kind and the lead trial of the contender and by their number."""


@dataclass(frozen=True)
class Result:
    """One repeat of a contender: its score, its time, and its predictions ``[N, K]``."""

    score: float
    seconds: float
    predictions: Predictions


class StoredRepeats:
    """Stores the repeats of one study, and loads them.

    Args:
        store: The database.
        settings: Name the study and the cache folder.
        listener: Is told once if predictions cannot be stored.
    """

    def __init__(self, store: Store, settings: StudyConfig, listener: Listener) -> None:
        self.store, self.settings, self.listener = store, settings, listener
        self._folder = settings.out / "cache" / "repeats"
        self._warned = False

    def read(self) -> Stored:
        """Read which repeats are stored, by all workers."""
        return {(r.kind, r.trial, r.repeat): r for r in self.store.repeats(self.settings.name)}

    def add(self, kind: Kind, trial: int, number: int, result: Result, facts: RepeatFacts) -> None:
        """Store a repeat of the contender of a kind whose lead is a trial."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (
                files.write_beside(self._file(kind, trial, number)) as temporary,
                temporary.open("wb") as file,
            ):
                np.save(file, result.predictions)
        except OSError as error:  # they are needed only by a later run, which repeats the training
            if not self._warned:
                text = f"{self._folder}: predictions of repeats cannot be stored"
                reason = f"{error.strerror or error}; free some space"
                self.listener(events.Note(f"{text} ({reason})", warning=True))
            self._warned = True
        row = RepeatRow(kind, trial, number, result.score, result.seconds, facts)
        self.store.add_repeat(self.settings.name, row)

    def load(self, row: RepeatRow, resample: Resample) -> Result | None:
        """Load a repeat on a resample; None without a score, or if its predictions are missing."""
        if row.score is None:
            return None
        try:
            predictions: Predictions = np.load(self._file(row.kind, row.trial, resample.number))
        except (OSError, ValueError, EOFError):
            return None
        if len(predictions) != len(resample.validation):
            return None
        return Result(row.score, row.seconds, predictions)

    def _file(self, kind: Kind, trial: int, number: int) -> Path:
        """Return the file with the predictions ``float32 [N, C]`` of a repeat."""
        return self._folder / f"{self.settings.name}-{kind}-{trial}-{number}.npy"
