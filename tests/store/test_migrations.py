"""Migrations: a database of any earlier version opens with everything that is in it."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from autotl import report
from autotl.errors import StoreError
from autotl.store import (
    DataFacts,
    DataIssueRow,
    ExcludedPlugin,
    ImageRow,
    Store,
    StudyFacts,
    TrialFacts,
    migrations,
)
from autotl.store.migrations import tables

Query = Callable[[str, str], list[tuple[object, ...]]]

OLD = Path(__file__).with_name("schema_0002.sql")
"""A database that the version with schema 0002 wrote, with one complete study."""

TASK_WORDS = {"output_noun", "output_nouns", "constant_noun", "score_noun"}
TASK_WORDS |= {"has_classes", "has_probabilities"}
TASK_WORDS |= {"target", "unlabelled", "validation_has_labels"}
"""Facts that older versions did not store; they are those of a classification of one domain."""

THUMBNAIL = "data:image/jpeg;base64,/9j/"


def alembic(store: Store, do: Callable[[Config], None]) -> None:
    """Run a command of Alembic on the database of ``store``."""
    with tables.write_transaction(store.storage.engine) as connection:
        config = migrations.config()
        config.stdout = io.StringIO()
        config.attributes["connection"] = connection
        do(config)


def test_the_migrations_make_the_tables(store: Store) -> None:
    alembic(store, command.check)  # raises where tables.py and the database differ


def test_changed_columns_have_their_types() -> None:
    """MySQL, on which no test runs, changes a column only if it is told its type again."""
    folder = Path(migrations.__file__).parent / "versions"
    changes = [
        call
        for file in folder.glob("0*.py")
        for call in re.split(r"alter_column\(", file.read_text())[1:]
    ]
    assert len(changes) >= 3
    assert all("existing_type=" in call[:200] for call in changes)


def test_the_migrations_can_be_undone(store: Store) -> None:
    alembic(store, lambda config: command.downgrade(config, "base"))
    names = set(sa.inspect(store.storage.engine).get_table_names())
    assert not names & set(tables.METADATA.tables)


def test_a_newer_schema_is_refused_and_left_alone(url: str, query: Query) -> None:
    Store(url).close()
    query(url, "UPDATE autotl_alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=r"newer version of AutoTL.*9999.*pip install -U autotl"):
        Store(url)
    assert query(url, "SELECT version_num FROM autotl_alembic_version") == [("9999",)]


@pytest.mark.parametrize("version", ["0001", "0002"])
def test_trials_survive_going_back_and_forth(url: str, version: str) -> None:
    store = Store(url)
    store.begin_study("s")
    config = {"head": {"linear": {}}}
    store.begin_trial("s", 0, config, 3)
    store.finish_trial("s", 0, "complete", score=0.5, trained_parameters=7)
    alembic(store, lambda settings: command.downgrade(settings, version))
    store.close()
    store = Store(url)
    [trial] = store.trials("s")
    assert (trial.config, trial.status, trial.score) == (config, "complete", 0.5)
    assert (trial.trained_parameters, trial.facts) == (7, TrialFacts())
    store.update_trial("s", 0, logme=0.5)
    assert store.trials("s")[0].facts == TrialFacts(logme=0.5)
    store.close()


def test_predictions_survive_going_back_and_forth(url: str) -> None:
    store = Store(url)
    store.begin_study("s")
    probabilities, numbers = np.array([[0.25, 0.75]], np.float32), np.array([[1e6]], np.float32)
    for number, predictions in enumerate((probabilities, numbers)):
        store.begin_trial("s", number, {}, 1)
        store.add_predictions(
            "s", number, predictions, np.array([0.5, 2.0]), are_probabilities=number == 0
        )
    store.set_images("s", [ImageRow("a.png", "1", "2")])
    alembic(store, lambda settings: command.downgrade(settings, "0004"))
    store.close()
    store = Store(url)
    assert (store.predictions("s", 0) == probabilities).all()
    assert store.predictions("s", 1) is None  # the older schema has no type for numbers
    assert [t.contribution_of_units.tolist() for t in store.trials("s")] == [[0.5, 2.0]] * 2
    assert [image.probability for image in store.images("s")] == [0.0]
    store.close()


# ---------------------------------------------------------------- schema 0002


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("old") / "autotl.db"
    database = sqlite3.connect(file)
    database.executescript(OLD.read_text())
    database.close()
    return file


@pytest.fixture(scope="module")
def before(old_file: Path) -> Callable[[str], list[Any]]:
    """Runs SQL on the database as it was before; JSON comes parsed."""
    database = sqlite3.connect(f"file:{old_file}?immutable=1", uri=True)
    rows = {}
    for table in ("autotl_study", "autotl_trial", "autotl_final", "autotl_test", "autotl_epoch"):
        cursor = database.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        rows[table] = [dict(zip(names, row, strict=True)) for row in cursor]
    database.close()
    for row in (row for table in rows.values() for row in table):
        row |= {key: json.loads(row[key]) for key in ("facts", "config") if key in row}
    return rows.__getitem__


@pytest.fixture(scope="module")
def old(old_file: Path, before: object) -> Iterator[Store]:
    """That database, opened by this version."""
    store = Store(f"sqlite:///{old_file}")
    yield store
    store.close()


Before = Callable[[str], list[Any]]


def test_facts_of_an_old_study(old: Store, before: Before) -> None:
    facts, [row] = old.study("photos"), before("autotl_study")
    was = row["facts"]
    assert old.studies() == ["photos"]
    same = {"seed", "metric", "direction", "prefer", "identity", "space", "sampler", "pruner"}
    same |= {"device", "versions", "command", "budget_seconds", "state", "seconds"}
    for name in same:
        assert getattr(facts, name) == was[name], name
    data = {**was["data"], "independent_validation": was["validation_n"], "imbalance": 1.0}
    data |= {"folds": None, "majority": None, "options": {}}
    data |= {"kind": "image", "noun": "image", "nouns": "images", "task": "classification"}
    assert facts.data.model_dump(exclude=TASK_WORDS) == data
    assert facts.data.model_dump(include=TASK_WORDS) == DataFacts().model_dump(include=TASK_WORDS)
    assert facts.excluded == [ExcludedPlugin(kind="backbone", name="large", reason="too slow")]
    stages = {"selection" if k == "finals" else k: v for k, v in was["stages"].items()}
    assert facts.stages == stages
    assert facts.calibration
    assert facts.calibration.model_dump(include=set(was["calibration"])) == was["calibration"]
    assert facts.weights.model_dump() == was["weights"]
    assert facts.model
    assert facts.model.refitted
    assert (facts.model.contender.name, facts.model.contender.trials) == ("trial 4", (4,))


def test_the_final_selection_of_an_old_study(old: Store, before: Before) -> None:
    selection, [row] = old.study("photos").selection, before("autotl_study")
    finals = row["facts"]["finals"]
    assert selection
    assert selection.repeats == finals["runs"] == 3
    assert [c.name for c in selection.contenders] == [c["name"] for c in finals["candidates"]]
    for contender, was in zip(selection.contenders, finals["candidates"], strict=True):
        for name in ("role", "config", "parameters", "ms_per_item", "seconds"):
            assert getattr(contender, name) == was[name], name
        assert contender.scores == tuple(was["scores"])
        assert contender.standing
        score = {name: was[name] for name in ("mean", "low", "high")}
        assert contender.standing.score.model_dump() == score
        assert contender.standing.difference.model_dump() == was["difference"]
        assert contender.standing.tied == was["tied_with_best"]
        members = was.get("members") or {was["name"]: 1.0}
        weights = {f"trial {m.trial}": m.weight for m in contender.members}
        assert weights == members
    assert "soup" in {contender.kind for contender in selection.contenders}
    assert (selection.winner.name, selection.cheapest.name) == (
        finals["winner"], finals["cheapest_tied"])  # fmt: skip
    assert selection.winner in selection.contenders
    assert selection.optimism == finals["optimism"]
    assert f"trial {selection.optimism_of}" == finals["optimism_of"]
    assert (selection.nested_score, selection.prefer) == (finals["unselected"], finals["prefer"])


def test_repeats_of_an_old_study(old: Store, before: Before) -> None:
    rows = old.repeats("photos")
    assert len(rows) == len(before("autotl_final")) == 15
    stored = {(row.kind, row.trial, row.repeat): row for row in rows}
    for was in before("autotl_final"):
        soup = was["candidate"] == "soup"
        row = stored["soup" if soup else "trial", 4 if soup else was["trial"], was["run"]]
        assert (row.score, row.seconds) == (was["score"], was["seconds"])
        assert row.facts.confusion_matrix == was["facts"].get("confusion")
        assert row.facts.members == ([4, 10] if soup else [])


def test_the_test_of_an_old_study(old: Store, before: Before) -> None:
    [row], [was] = old.tests("photos"), before("autotl_test")
    assert row.done
    assert (row.id, row.config) == (was["id"], was["config"])
    assert row.opened.strftime("%Y-%m-%d %H:%M:%S.%f") == was["opened"]
    assert (row.contender.name, row.contender.trials) == ("trial 4", (4,))
    facts = was["facts"]
    for name in ("score", "low", "high", "n", "ece", "refit_seconds", "refitted", "per_class"):
        assert getattr(row.result, name) == facts[name], name
    assert row.result.confusion_matrix == facts["confusion"]
    wrong = ImageRow("red/3.png", "red", "blue", 0.9, THUMBNAIL, THUMBNAIL)
    assert old.images("photos", opening=row.id) == [wrong]


def test_the_data_of_an_old_study(old: Store) -> None:
    problem = "not a picture that Pillow can read"
    assert old.data_issues("photos") == [DataIssueRow("red/broken.png", problem, "left out")]
    assert old.images("photos") == [ImageRow("red/3.png", "red", "blue", 0.9, THUMBNAIL)]
    assert old.latencies("photos") == {"tiny": 1.5}


def test_trials_of_an_old_study(old: Store, before: Before) -> None:
    rows = old.trials("photos")
    assert len(rows) == 12
    for row, was in zip(rows, before("autotl_trial"), strict=True):
        for name in ("number", "reason", "config", "score", "epochs", "parameters", "seconds"):
            assert getattr(row, name) == was[name], name
        assert (row.status, row.trained_parameters) == (was["end"], was["learned_parameters"])
        assert row.started.strftime("%Y-%m-%d %H:%M:%S.%f") == was["started"]
        assert row.facts.seconds_repeat == was["facts"].get("seconds_again")
        assert (row.facts.views, row.facts.logme) == (4, was["facts"].get("logme"))
        epochs = [e for e in before("autotl_epoch") if e["number"] == row.number]
        assert [vars(epoch) for epoch in old.epochs("photos", row.number)] == [
            {name: epoch[name] for name in ("epoch", "loss", "score", "seconds")}
            for epoch in epochs
        ]
    first = rows[0].facts
    assert first.recipe == ["tiny", "linear_probe", "linear"]
    assert (first.is_probe, first.is_default) == (True, True)
    assert not any(row.facts.is_probe or row.facts.recipe for row in rows[1:])
    trials = optuna.load_study(study_name="photos", storage=old.storage).trials
    assert [trial.value for trial in trials] == [row.score for row in rows]


def test_an_old_study_can_be_reported_on(old: Store, tmp_path: Path) -> None:
    """This needs the room above: nothing else reads all that the migration moves."""
    summary = report.write(old, "photos", tmp_path)
    assert summary["trials"] == {
        "complete": 12,
        "pruned": 0,
        "out_of_time": 0,
        "duplicate": 0,
        "failed": 0,
    }
    names = [contender["name"] for contender in summary["contenders"]]
    assert names == ["trial 4", "trial 10", "soup", "trial 6", "trial 0"]
    assert [c["name"] for c in summary["contenders"] if c["is_winner"]] == ["trial 4"]
    assert [c["name"] for c in summary["contenders"] if c["is_cheapest"]] == ["trial 10"]
    assert summary["best"]["trial"] == 4
    validation = {"mean": 1.0, "low": 0.9265005452631498, "high": 1.0, "repeats": 3}
    assert validation.items() <= summary["best"]["validation"].items()
    assert (summary["test"]["score"], summary["test_openings"]) == (1.0, 1)
    page = (tmp_path / "report.html").read_text()
    assert "red/broken.png" in page
    assert THUMBNAIL in page


def test_an_old_study_can_be_changed_and_deleted(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "autotl.db")
    database.executescript(OLD.read_text())
    database.close()
    store = Store(f"sqlite:///{tmp_path}/autotl.db")
    store.update_study("photos", state="running")
    assert store.study("photos").state == "running"
    store.delete("photos")
    assert store.studies() == []
    store.close()


def test_other_studies_of_an_old_database(tmp_path: Path) -> None:
    """One that had barely begun, one interrupted in its test, and an ensemble."""
    database = sqlite3.connect(tmp_path / "autotl.db")
    database.executescript(OLD.read_text())
    now, insert = "2026-11-27 10:17:07.614481", "INSERT INTO autotl_{} VALUES ({})"

    def add(table: str, *values: Any) -> None:
        marks = ",".join("?" * len(values))
        plain = [json.dumps(v) if isinstance(v, dict | list) else v for v in values]
        database.execute(insert.format(table, marks), plain)

    [(facts,)] = database.execute("SELECT facts FROM autotl_study").fetchall()
    finals = json.loads(facts)["finals"]
    soup = next(c for c in finals["candidates"] if c["name"] == "soup")
    ensemble = {**soup, "name": "ensemble", "role": "ensemble", "ms_per_item": None}
    ensemble["members"] = {"trial 10": 0.75, "trial 4": 0.25}
    finals |= {"candidates": [ensemble, *finals["candidates"]], "winner": "ensemble"}
    winner = {"candidate": "ensemble", "members": ensemble["members"]}
    model = {"winner": winner, "trial": 10, "refitted": False, "found": {}}
    begun: dict[str, Any] = {"study": "begun", "seed": 3, "state": "running"}
    begun["issues"] = [{"name": "\udcff.png", "problem": "broken", "action": "left out"}]
    add("study", "begun", begun, now, now)
    add("study", "best", {"finals": finals, "model": model, "past": {"a": {"head": "x"}}}, now, now)
    members = {"candidate": "ensemble", "members": ensemble["members"]}
    add("test", 2, "best", 10, now, {}, members)
    add("test", 3, "best", 7, now, {}, {})
    add("test", 4, "best", 10, now, {}, {"candidate": "ensemble"})
    add("final", "best", "soup", 0, None, 0.5, 1.0, {"members": ["10", "4"]})
    add("trial", "begun", 0, "running", "", {}, None, 3, None, None, 0.0, now, None)
    costs = {"forward_ms": 1.5, "peak_bytes": None}
    setting = {"autocast": False}
    known = {"barred": "too large", "costs": costs, "setting": setting, "default": False}
    known["recipe"] = "learned from · past"
    add("trial", "best", 0, "complete", "", {}, 0.5, 3, None, None, 0.0, now, known)
    database.commit()
    database.close()

    store = Store(f"sqlite:///{tmp_path}/autotl.db")
    assert store.studies() == ["begun", "best", "photos"]
    assert store.study("begun") == StudyFacts(seed=3, state="running")
    assert store.data_issues("begun") == [DataIssueRow("\\udcff.png", "broken", "left out")]
    assert [(row.status, row.facts) for row in store.trials("begun")] == [("running", TrialFacts())]
    best = store.study("best")
    assert best.selection
    assert best.model
    assert best.selection.winner.trials == best.model.contender.trials == (10, 4)
    assert best.selection.winner.weights == (0.75, 0.25)
    assert best.selection.winner.id == best.model.contender.id
    assert best.warm_start == {"a": {"head": "x"}}
    tests = store.tests("best")
    assert [row.contender.name for row in tests] == ["ensemble", "trial 7", "ensemble"]
    assert tests[0].contender.id == best.model.contender.id
    assert not any(row.done for row in tests)
    assert [(row.kind, row.trial) for row in store.repeats("best")] == [("soup", 10)]
    [trial] = store.trials("best")
    assert (trial.facts.recipe, trial.facts.excluded) == (["learned from", "past"], "too large")
    assert (trial.facts.costs, trial.facts.compute) == (costs, setting)
    store.close()


def test_an_old_postgresql_database(postgresql: str, old: Store) -> None:
    """The rows of the same study, in the database of another kind."""
    store = Store(postgresql)
    alembic(store, lambda config: command.downgrade(config, "base"))
    alembic(store, lambda config: command.upgrade(config, "0002"))
    inserts = re.findall(r'^INSERT INTO "autotl_(?!alembic).*;$', OLD.read_text(), re.MULTILINE)
    with store.storage.engine.begin() as connection:
        for insert in inserts:
            connection.exec_driver_sql(insert.replace("%", "%%"))
    store.close()
    store = Store(postgresql)
    alembic(store, command.check)
    assert store.study("photos") == old.study("photos")
    assert store.trials("photos") == old.trials("photos")
    assert store.repeats("photos") == old.repeats("photos")
    assert store.tests("photos") == old.tests("photos")
    store.delete("photos")
    store.close()
