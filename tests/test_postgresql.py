"""Searches whose database is on PostgreSQL: the same trials, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import run
from images import read_trials
from postgresql import PASSWORD, Server

from autotl import engine, study
from autotl.errors import StoreError
from autotl.events import EpochCompleted, Event
from autotl.store import Store, TrialRow, waiting

Make = Callable[..., study.StudyConfig]
SECRET = "an0ther"


@pytest.fixture
def url(postgresql_server: Server, request: pytest.FixtureRequest) -> str:
    """The URL of an empty database."""
    return postgresql_server.create(request.node.name[:60])


@pytest.fixture
def stopping(postgresql_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that the test stops, and that is waited for for a second; it runs afterwards."""
    monkeypatch.setattr(waiting, "LOCK_SECONDS", 1.0)
    yield postgresql_server
    postgresql_server.restart()


def results(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(row.number, row.status, row.config, row.score) for row in rows]


def trials(url: str) -> list[TrialRow]:
    with closing(Store(url)) as store:
        return store.trials("photos")


def test_a_search_has_the_same_trials_as_on_sqlite(
    settings: Make, url: str, tmp_path: Path
) -> None:
    engine.run(settings(out=tmp_path / "sqlite", trials=7))
    expected = results(read_trials(settings(out=tmp_path / "sqlite")))
    engine.run(settings(storage=url, trials=4))
    assert results(trials(url)) == expected[:4]
    result = engine.run(settings(storage=url, trials=7))  # it continues
    rows = trials(url)
    assert results(rows) == expected
    complete = [row for row in rows if row.status == "complete"]
    assert complete
    with closing(Store(url)) as store:
        for row in complete:
            assert len(store.epochs("photos", row.number)) == row.epochs
            predictions = store.predictions("photos", row.number)
            assert predictions is not None
            assert predictions.shape[1] == 3
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["test"]["score"] > 0.8
    for file in ("report.html", "summary.json", "recipe.toml", "model/README.md"):
        assert PASSWORD not in (result.folder / file).read_text()


def test_a_study_is_listed_and_deleted(settings: Make, url: str) -> None:
    engine.run(settings(storage=url, trials=2))
    assert "photos" in run("studies", "list", "--storage", url).output
    run("studies", "delete", "photos", "--storage", url, "--yes")
    with closing(Store(url)) as store:
        assert store.studies() == []


def test_a_wrong_password_is_not_in_the_message(postgresql_server: Server) -> None:
    with pytest.raises(StoreError) as error:
        Store(postgresql_server.url(password=SECRET))
    assert "password authentication failed" in str(error.value)
    assert "check --storage" in str(error.value)
    assert SECRET not in str(error.value)
    assert PASSWORD not in str(error.value)


def test_a_search_whose_server_stops_ends_with_an_error_and_continues(
    settings: Make, url: str, stopping: Server
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, EpochCompleted) and (event.number, event.epoch) == (1, 2):
            stopping.stop()

    with pytest.raises(StoreError) as error:
        engine.run(settings(storage=url, trials=4), stop)
    assert PASSWORD not in str(error.value)
    advice = "run the command again when it runs", "start the database server"
    assert any(each in str(error.value) for each in advice), error.value
    stopping.restart()
    engine.run(settings(storage=url, trials=4))
    statuses = [row.status for row in trials(url)]
    assert statuses.count("interrupted") == 1
    assert len(statuses) == 5


def test_an_open_store_works_again_after_its_server_restarted(url: str, stopping: Server) -> None:
    with closing(Store(url)) as store:
        store.begin_study("photos")
        stopping.stop()
        for _ in range(2):
            with pytest.raises(StoreError, match=r"refused.*start the database server"):
                store.studies()
        stopping.restart()
        assert store.studies() == ["photos"]
