"""The store: what is written can be read back, on every database and from several processes."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
from filelock import FileLock, Timeout
from postgresql import PASSWORD

from autotl.errors import StoreError, StudyError
from autotl.store import (
    FINISH,
    Contender,
    DataFacts,
    DataIssueRow,
    EpochRow,
    ImageRow,
    Member,
    RepeatFacts,
    RepeatRow,
    Store,
    StudyFacts,
    TestResult,
    TrialFacts,
    default_url,
    join,
    single,
)
from autotl.store.database import MAX_PREDICTION_BYTES
from autotl.store.migrations import tables

CONFIG = {"freeze": {"last_blocks": {"fraction": 0.25}}, "head": {"linear": {}}}
NAME = "é" * 512
ENSEMBLE = Contender(
    kind="ensemble",
    role="ensemble",
    members=(Member(trial=12, weight=0.75), Member(trial=0, weight=0.25)),
)


def use_studies(store: Store) -> None:
    store.begin_study(NAME, seed=0, space={"freeze": ["a", "b"]}, sampler="TPE")
    store.update_study(NAME, seed=1, stages={"search": 0.5}, command="nul \0, file \udcff.jpg")
    facts = {"seed": 1, "space": {"freeze": ["a", "b"]}, "sampler": "TPE"}
    facts |= {"stages": {"search": 0.5}, "command": "nul \0, file \udcff.jpg"}
    assert store.find_study(NAME) == store.study(NAME) == StudyFacts.model_validate(facts)
    store.begin_study(NAME, seed=2)  # a later run of the same study
    assert store.study(NAME) == StudyFacts.model_validate({**facts, "seed": 2})
    store.update_study(NAME)
    store.update_study(NAME, measured_costs={"worst": math.nan, "list": [math.inf, 0.5]})
    assert store.study(NAME).measured_costs == {"worst": None, "list": [None, 0.5]}
    store.update_study(NAME, identity={"seed": 2}, budget_seconds=math.inf)
    store.update_study(NAME, identity=None)
    assert (store.study(NAME).identity, store.study(NAME).budget_seconds) == (None, None)
    assert store.studies() == [NAME]


def use_data(store: Store) -> None:
    issues = [DataIssueRow("b.png", "broken", "skipped"), DataIssueRow("a.png", "copy", "kept")]
    store.set_data_issues(NAME, [DataIssueRow("old.png", "broken", "skipped")])
    store.set_data_issues(NAME, issues)
    assert store.data_issues(NAME) == issues
    unsure = [ImageRow("b.png", "cat", "dog", 0.9, "data:b"), ImageRow("a.png", "dog", "cat", 0.8)]
    wrong = [ImageRow("c.png", "cat", "dog", 0.7, "data:c", "data:saliency")]
    store.set_images(NAME, wrong)
    store.set_images(NAME, unsure)
    store.set_images(NAME, wrong, opening=3)
    assert (store.images(NAME), store.images(NAME, opening=3)) == (unsure, wrong)
    assert store.images(NAME, opening=4) == []
    odd = ImageRow("\udcff\0.png", "cat", "dog", 0.5)
    store.set_images(NAME, [odd], opening=5)
    assert store.images(NAME, opening=5) == [replace(odd, name="\\udcff.png")]
    store.add_latencies(NAME, {"resnet18": 3.0, "resnet34": 6.0})
    store.add_latencies(NAME, {"resnet34": 5.5})
    store.add_latencies(NAME, {})
    assert store.latencies(NAME) == {"resnet18": 3.0, "resnet34": 5.5}


def use_trials(store: Store) -> None:
    store.begin_trial(NAME, 1, CONFIG, 5)
    store.begin_trial(NAME, 0, CONFIG, 3, TrialFacts(recipe=["a", "b"], is_default=True))
    store.update_trial(NAME, 0, {"parameters": 5_000_000_000, "trained_parameters": 770})
    epochs = [EpochRow(1, 0.7, 0.6, 1.25), EpochRow(2, math.nan, 0.0, 1.5)]
    values: dict[str, Any] = {"reason": "loss \udcff\0", "score": math.inf, "seconds": 2.75}
    store.finish_trial(NAME, 0, "diverged", **values, epochs=[EpochRow(1, 9.0, 0.1, 9.0)])
    store.finish_trial(NAME, 0, "diverged", **values, epochs=epochs)
    first, second = store.trials(NAME)
    assert (first.number, first.status, first.reason) == (0, "diverged", "loss \\udcff")
    assert (first.config, first.epochs, first.seconds) == (CONFIG, 3, 2.75)
    assert (first.score, first.parameters, first.trained_parameters) == (None, 5_000_000_000, 770)
    assert first.facts == TrialFacts(recipe=["a", "b"], is_default=True)
    assert timedelta(0) <= datetime.now(UTC) - first.started < timedelta(minutes=1)
    assert (second.number, second.status, second.score) == (1, "running", None)
    assert (second.parameters, second.facts) == (None, TrialFacts())
    assert store.epochs(NAME, 0) == [EpochRow(1, 0.7, 0.6, 1.25), EpochRow(2, None, 0.0, 1.5)]

    store.update_trial(NAME, 1, logme=0.25, costs={"forward_ms": math.nan})
    store.update_trial(NAME, 1, logme=0.5)
    score = 0.123456789012345
    store.finish_trial(NAME, 1, "complete", score=score, trained_parameters=7, is_probe=True)
    second = store.trials(NAME)[1]
    assert (second.score, second.trained_parameters) == (score, 7)
    assert second.facts == TrialFacts(logme=0.5, costs={"forward_ms": None}, is_probe=True)
    for number in (2, 3):
        store.begin_trial(NAME, number, CONFIG, 1)
    assert [row.number for row in store.trials(NAME, after=1)] == [2, 3]
    assert [row.number for row in store.trials(NAME, after=2, numbers={0, 2})] == [0, 2, 3]
    use_predictions(store)


def use_predictions(store: Store) -> None:
    assert store.predictions(NAME, 1) is None
    probabilities = np.array([[0.9, 0.1, 0.0], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    store.add_predictions(NAME, 1, 1 - probabilities, np.zeros(2))
    store.add_predictions(NAME, 1, probabilities, np.array([1.0, 0.25]), low=0.4)
    stored, row = store.predictions(NAME, 1), store.trials(NAME)[1]
    assert stored is not None
    np.testing.assert_allclose(stored, probabilities, atol=1e-3)
    assert row.contribution_of_units.tolist() == [1.0, 0.25]
    assert (row.facts.low, row.facts.logme) == (0.4, 0.5)
    numbers = np.array([[1e6 + 1], [-1.2345e-5]], np.float32)
    errors = np.array([1234567.0, 1.2345e-9])
    store.add_predictions(NAME, 1, numbers, errors, are_probabilities=False)
    assert (store.predictions(NAME, 1) == numbers).all()
    np.testing.assert_allclose(store.trials(NAME)[1].contribution_of_units, errors, rtol=1e-6)
    large = np.zeros((MAX_PREDICTION_BYTES // 4 + 1, 2), np.float32)
    store.add_predictions(NAME, 0, large, np.ones(3))
    assert store.predictions(NAME, 0) is None  # the database must not grow by megabytes a trial
    assert store.trials(NAME)[0].contributions is not None
    store.begin_trial(NAME, 2, CONFIG, 1)
    store.add_predictions(NAME, 2, probabilities, np.ones(2))
    store.begin_trial(NAME, 2, CONFIG, 1)
    assert (store.predictions(NAME, 2), store.trials(NAME)[2].contributions) == (None, None)


def use_repeats(store: Store) -> None:
    facts = RepeatFacts(ms_per_item=0.5, confusion_matrix=[[5, 0], [1, 4]])
    soup = RepeatRow("soup", 12, 0, 0.9, 0.0, RepeatFacts(members=[12, 0]))
    first = RepeatRow("trial", 12, 0, 0.7, 1.0, facts)
    second = RepeatRow("trial", 12, 1, 0.5, 1.5, RepeatFacts())
    retrained = RepeatRow("trial", 12, 1, 0.8, 2.5, RepeatFacts())
    for row in (soup, second, first, retrained):
        store.add_repeat(NAME, row)
    assert store.repeats(NAME) == [soup, first, retrained]


def use_tests(store: Store) -> None:
    opening = store.open_test(NAME, ENSEMBLE, CONFIG)
    [row] = store.tests(NAME)
    assert (row.id, row.config, row.result, row.done) == (opening, CONFIG, TestResult(), False)
    assert row.contender.id == ENSEMBLE.id
    store.close_test(opening, TestResult(score=0.9, low=0.85, high=math.nan, n=100))
    later = store.open_test(NAME, single(0), CONFIG)
    first, second = store.tests(NAME)
    assert (first.id, second.id) == (opening, later)
    assert first.result == TestResult(score=0.9, low=0.85, high=None, n=100)
    assert (first.done, second.done) == (True, False)
    assert first.opened.tzinfo is UTC


def use_workers(store: Store) -> None:
    with tempfile.TemporaryDirectory() as folder, join(store, NAME, "cpu", Path(folder)) as worker:
        assert worker.try_lease(FINISH)
        assert abs(worker.holder(FINISH) or 0) == worker.number == 1


def use_everything(store: Store) -> None:
    """Write by every method and read it back; run on SQLite and on PostgreSQL."""
    use_studies(store)
    use_data(store)
    use_trials(store)
    use_repeats(store)
    use_tests(store)
    use_workers(store)
    counts = {name: count_rows(store, table) for name, table in tables.METADATA.tables.items()}
    # A worker that ends releases its leases.
    assert [name for name, count in counts.items() if not count] == ["autotl_lease"]
    study = optuna.create_study(study_name=NAME, storage=store.storage, direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    store.delete(NAME)
    assert (store.studies(), store.find_study(NAME), store.trials(NAME)) == ([], None, [])
    counts = {name: count_rows(store, table) for name, table in tables.METADATA.tables.items()}
    assert {name: count for name, count in counts.items() if count} == {}
    assert optuna.get_all_study_names(store.storage) == []


def count_rows(store: Store, table: sa.Table) -> int:
    with store.storage.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0


def test_what_is_written_can_be_read_back(store: Store) -> None:
    use_everything(store)


def test_a_store_in_memory() -> None:
    store = Store("sqlite://")
    use_everything(store)
    store.close()


def test_reopening_keeps_everything(url: str) -> None:
    store = Store(url)
    store.begin_study("s", seed=3, data=DataFacts(classes=["a", "b"]))
    store.begin_trial("s", 0, CONFIG, 2)
    store.open_test("s", ENSEMBLE, CONFIG)  # and then it crashed
    before = store.study("s"), store.trials("s"), store.tests("s")
    store.close()
    store = Store(url)
    assert (store.study("s"), store.trials("s"), store.tests("s")) == before
    [opened] = store.tests("s")
    assert (opened.contender.id, opened.done) == (ENSEMBLE.id, False)
    store.close()


def test_a_closed_store_can_be_used_again(store: Store) -> None:
    store.begin_study("s")
    store.close()
    store.update_study("s", seed=5)
    assert store.study("s").seed == 5


def test_deleting_a_study_leaves_the_others(store: Store) -> None:
    for name in ("a", "b"):
        store.begin_study(name, seed=1)
        store.begin_trial(name, 0, CONFIG, 1)
        store.set_images(name, [ImageRow("c.png", "cat", "dog", 0.7)])
    store.delete("a")
    assert store.studies() == ["b"]
    assert (len(store.trials("b")), len(store.images("b")), store.study("b").seed) == (1, 1, 1)


def test_a_trial_that_begins_again_begins_empty(store: Store) -> None:
    store.begin_trial("s", 0, CONFIG, 2)
    rows = [EpochRow(1, 1.0, 0.5, 1.0)]
    store.finish_trial("s", 0, "interrupted", seconds=1.0, epochs=rows, logme=0.5)
    store.begin_trial("s", 0, CONFIG, 2)
    assert [(row.status, row.facts) for row in store.trials("s")] == [("running", TrialFacts())]
    assert store.epochs("s", 0) == []


def test_optuna_reads_the_same_file(store: Store, url: str) -> None:
    store.begin_study("s")
    study = optuna.create_study(study_name="s", storage=store.storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(optuna.load_study(study_name="s", storage=url).trials) == 1


def test_a_study_that_only_optuna_has_is_not_deleted(store: Store) -> None:
    optuna.create_study(study_name="plain", storage=store.storage)
    assert store.studies() == []
    with pytest.raises(StudyError, match="no study 'plain'"):
        store.delete("plain")
    assert optuna.get_all_study_names(store.storage) == ["plain"]


def test_unknown_names_are_explained(store: Store) -> None:
    store.begin_study("flowers")
    for method in (store.study, store.update_study, store.delete):
        with pytest.raises(StudyError, match=r"'flower' in .*autotl\.db; did you mean 'flowers'"):
            method("flower")
    for change in (lambda: store.update_trial("flowers", 7, logme=0.5),
                   lambda: store.finish_trial("flowers", 7, "failed")):  # fmt: skip
        with pytest.raises(StudyError, match="'flowers' has no trial 7"):
            change()
    with pytest.raises(StudyError, match="no test 7"):
        store.close_test(7, TestResult(score=1.0))
    store.begin_trial("flowers", 0, CONFIG, 1)
    with pytest.raises(ValueError, match="did you mean 'complete'"):
        store.finish_trial("flowers", 0, "completed")


def test_a_trial_that_is_missing_leaves_no_epochs(store: Store) -> None:
    with pytest.raises(StudyError, match="no trial 7"):
        store.finish_trial("s", 7, "complete", epochs=[EpochRow(1, 1.0, 0.5, 1.0)])
    assert store.epochs("s", 7) == []


def test_the_options_with_which_a_command_finds_the_store(tmp_path: Path) -> None:
    out = tmp_path / "my runs"
    assert Store(default_url(out)).options(out) == f" --out '{out}'"
    other = Store(f"sqlite:///{tmp_path}/x.db")
    assert other.options(Path("runs")) == f" --storage sqlite:///{tmp_path}/x.db"


def test_a_study_has_one_lock_in_every_run_folder(store: Store, tmp_path: Path) -> None:
    """Two processes may use one database with different values of --out."""
    file = store.lock_file("s", tmp_path / "a")
    assert file == store.lock_file("s", tmp_path / "b")
    assert file.parent == tmp_path / "runs"
    assert file != store.lock_file("t", tmp_path / "a")
    long = store.lock_file("s" * 512, tmp_path)  # the name of a file is short
    with FileLock(long, timeout=0), pytest.raises(Timeout):
        FileLock(long, timeout=0).acquire()
    assert Store("sqlite://").lock_file("s", tmp_path / "a") == tmp_path / "a" / ".lock"


# ---------------------------------------------------------------- one file


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_a_closed_database_is_one_file(url: str, tmp_path: Path) -> None:
    store = Store(url)
    store.begin_study("s", seed=3)
    assert files(tmp_path / "runs") > {"autotl.db", "autotl.db-wal"}  # written fast
    store.close()
    assert files(tmp_path / "runs") == {"autotl.db"}
    shutil.copy(tmp_path / "runs" / "autotl.db", tmp_path / "copy.db")
    copied = Store(f"sqlite:///{tmp_path}/copy.db")
    assert copied.study("s").seed == 3
    copied.close()


def test_a_database_that_is_read_only_can_be_read(unprivileged: Path) -> None:
    url = default_url(unprivileged)
    store = Store(url)
    store.begin_study("s", seed=3)
    store.close()
    (unprivileged / "autotl.db").chmod(0o444)
    unprivileged.chmod(0o555)
    with pytest.raises(PermissionError):
        (unprivileged / "other").touch()
    store = Store(url)
    assert store.study("s").seed == 3
    store.close()
    assert files(unprivileged) == {"autotl.db"}


def test_closing_does_not_disturb_another_store_of_the_same_database(url: str) -> None:
    first, second = Store(url), Store(url)
    first.begin_study("s", seed=1)
    with sqlite3.connect(second.storage.engine.url.database or "") as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT COUNT(*) FROM autotl_study").fetchone() == (1,)
        first.close()
    reader.close()
    second.update_study("s", seed=2)
    assert second.study("s").seed == first.study("s").seed == 2
    first.close()
    second.close()


# ---------------------------------------------------------------- several processes

WORKER = """
import sys
from autotl.store import EpochRow, Store
url, worker = sys.argv[1], int(sys.argv[2])
store = Store(url)
store.begin_study("s")
for i in range(20):
    store.add_latencies("s", {f"backbone {worker} {i}": i})
    store.update_study("s", seed=i)
    store.begin_trial("s", 2 * i + worker, {}, 1)
    epochs = [EpochRow(1, 0.5, 0.5, 1.0)]
    store.finish_trial("s", 2 * i + worker, "complete", score=0.5, epochs=epochs)
store.close()
"""


def run_two_workers(url: str) -> None:
    """Both open a database that does not exist, and lose nothing that they write."""
    line = [sys.executable, "-W", "error", "-c", WORKER, url]
    workers = [subprocess.Popen([*line, str(i)]) for i in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    store = Store(url)
    rows = store.trials("s")
    assert [(row.number, row.status) for row in rows] == [(i, "complete") for i in range(40)]
    assert all(len(store.epochs("s", i)) == 1 for i in range(40))
    assert len(store.latencies("s")) == 40
    store.close()


def test_two_processes_write_at_the_same_time(url: str, tmp_path: Path) -> None:
    run_two_workers(url)
    assert files(tmp_path / "runs") == {"autotl.db"}


def merge_facts_of_two_writers(url: str) -> None:
    """Each updates another fact of one trial; neither undoes what the other wrote."""
    stores = Store(url), Store(url)
    stores[0].begin_study("merged")
    stores[0].begin_trial("merged", 0, {}, 1)
    facts = {"costs": [{str(i): 0.5} for i in range(20)], "logme": [float(i) for i in range(20)]}

    def update(store: Store, name: str) -> None:
        for value in facts[name]:
            store.update_trial("merged", 0, **{name: value})

    with ThreadPoolExecutor() as pool:
        list(pool.map(update, stores, facts))
    [row] = stores[0].trials("merged")
    assert row.facts == TrialFacts(costs={"19": 0.5}, logme=19.0)
    stores[0].delete("merged")
    for store in stores:
        store.close()


def test_two_writers_of_one_trial(url: str) -> None:
    merge_facts_of_two_writers(url)


def test_postgresql(postgresql: str) -> None:
    run_two_workers(postgresql)
    merge_facts_of_two_writers(postgresql)
    store = Store(postgresql)
    store.delete("s")
    use_everything(store)
    assert PASSWORD not in store.url
    store.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("update autotl_study_fact set value = 'no JSON' where name = 'seed'", "Expecting value"),
        ("update autotl_study_fact set value = '\"no number\"' where name = 'seed'", "seed"),
        ("update autotl_trial set facts = '{'", "Expecting property name"),
        ('update autotl_trial set facts = \'{"views": "many"}\'', "views"),
        ("update autotl_trial set config = 'x'", "Expecting value"),
    ],
)
def test_what_cannot_be_read_is_damage(store: Store, change: str, message: str) -> None:
    store.begin_study("s", seed=3)
    store.begin_trial("s", 0, {"head": {"linear": {}}}, 2, TrialFacts(views=2))
    with store.storage.engine.begin() as connection:
        connection.exec_driver_sql(change)
    read = store.study if "fact " in change else store.trials
    with pytest.raises(StoreError, match=f"is damaged: .*{message}.*backup") as caught:
        read("s")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "update trial_params set distribution_json = '{'",
        'update trial_params set distribution_json = \'{"name": "X", "attributes": {}}\'',
        "update trial_user_attributes set value_json = '['",
        "update trials set state = 'WHAT'",
    ],
)
def test_what_optuna_cannot_read_is_damage(store: Store, change: str) -> None:
    study = optuna.create_study(study_name="s", storage=store.storage)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("a", 1)
    with store.storage.engine.begin() as connection:
        connection.exec_driver_sql(change)
    fresh = Store(str(store.storage.engine.url))
    with (
        closing(fresh),
        pytest.raises(StoreError, match=r"is damaged: .*backup") as caught,
        fresh.convert_errors(),
    ):
        optuna.load_study(study_name="s", storage=fresh.storage).get_trials()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="other"), store.convert_errors():
        raise ValueError("other")
