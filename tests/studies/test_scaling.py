"""What a trial costs besides training does not grow with the study."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

import scaling

from autotl.search import trials
from autotl.store import DataFacts, Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(scaling, "WARMUP", 2)
    monkeypatch.setattr(scaling, "TRIALS", 3)
    with closing(Store(f"sqlite:///{tmp_path}/autotl.db")) as store, trials.quiet_optuna():
        data = DataFacts(classes=["a"] * scaling.CLASSES, validation=scaling.VALIDATION)
        store.begin_study(scaling.NAME, data=data, identity={})
        yield store


def test_a_trial_reads_as_many_rows_in_a_larger_study(store: Store) -> None:
    read: list[int] = []

    @sa.event.listens_for(store.storage.engine, "after_cursor_execute")
    def count(*arguments: Any) -> None:
        read.append(1)

    statements, sections = [], []
    for size in (60, 160):
        measured = scaling.measure(store, size)
        assert set(measured.sections) == {*scaling.SECTIONS, "other"}
        sections.append(measured)
        finished = len(store.trials(scaling.NAME))
        read.clear()
        scaling.run_trials(store, finished, 1, scaling.Clock())
        one = len(read)
        read.clear()
        scaling.run_trials(store, finished + 1, 3, scaling.Clock())
        statements.append((len(read) - one) / 2)
    assert statements[1] <= 1.2 * statements[0], statements
    assert statements[1] < 150
