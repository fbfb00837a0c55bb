"""Optuna's storage with fewer statements: it stores what Optuna's own does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, nullcontext
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from postgresql import Server

from autotl.store import Store
from autotl.store.optuna_storage import IDLE_SECONDS, TrialStorage


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database of either kind."""
    fixture = {"sqlite": "url", "postgresql": "postgresql"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
def storage(url: str) -> Iterator[TrialStorage]:
    with closing(Store(url)) as store:
        yield store.storage


def run_trials(study: optuna.Study, storage: RDBStorage) -> list[dict[str, Any]]:
    """Run some trials; return what another process reads of them."""
    together = storage.together if isinstance(storage, TrialStorage) else nullcontext
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study.enqueue_trial({"kind": None, "x": 0.5}, user_attrs={"recipe": ["a", "b"]})
    for number in range(3):
        trial = study.ask()
        with together():
            trial.suggest_categorical("kind", [None, 3, "x"])
            trial.suggest_float("x", 0, 1)
            trial.suggest_float("lr", 1e-5, 1e-1, log=True)
            trial.suggest_int("depth", 1, 9, step=2)
        trial.set_constraint("parameters", -1.0)
        with together():
            trial.set_user_attr("epochs", 3)
            trial.set_user_attr("epochs", 2)
            trial.set_user_attr("name", "ü")
        for epoch in range(1, 4):
            trial.report(float("inf") if epoch == 2 else number / epoch, epoch)
        with together():
            trial.set_user_attr("epochs", 1)
        study.tell(trial, number)
    fresh = RDBStorage(storage.engine.url.render_as_string(False))
    stored = optuna.load_study(study_name=study.study_name, storage=fresh).trials
    fresh.engine.dispose()
    keys = ("number", "params", "distributions", "user_attrs", "system_attrs", "value")
    return [
        {**{key: getattr(t, key) for key in keys}, "epochs": t.intermediate_values} for t in stored
    ]


def test_it_stores_what_optunas_storage_does(database: str) -> None:
    with closing(Store(database)) as store:
        ours = run_trials(optuna.create_study(storage=store.storage), store.storage)
        optunas = RDBStorage(database)
        assert ours == run_trials(optuna.create_study(storage=optunas), optunas)
        optunas.engine.dispose()
    assert [trial["user_attrs"]["epochs"] for trial in ours] == [1, 1, 1]


def test_what_is_set_together_is_one_transaction(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage)
    space = {f"p{i}": FloatDistribution(0, 1) for i in range(20)}
    study.tell(study.ask(space), 0.0)  # the first reads the distributions
    commits = []
    sa.event.listen(storage.engine, "commit", commits.append)
    trial = study.ask()
    before = len(commits)
    with storage.together():
        for name in space:
            trial.suggest_float(name, 0, 1)
        trial.set_user_attr("epochs", 3)
        assert study.trials[1].params == {}
    assert len(commits) <= before + 4  # some of which only read
    assert len(study.trials[1].params) == 20
    assert trial.params == study.trials[1].params


def test_what_was_set_before_an_error_is_stored(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage)
    study.tell(study.ask({"x": FloatDistribution(0, 1)}), 0.0)
    trial = study.ask()

    def interrupt() -> None:
        trial.suggest_float("x", 0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), storage.together():
        interrupt()
    assert study.trials[1].params == trial.params
    trial.set_user_attr("status", "interrupted")  # afterwards everything is written at once again
    assert study.trials[1].user_attrs == {"status": "interrupted"}


def test_a_finished_trial_cannot_be_changed(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    study.tell(trial, 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_intermediate_value(trial._trial_id, 1, 0.5)
    with pytest.raises(UpdateFinishedTrialError), storage.together():
        trial.set_user_attr("a", 1)
    with pytest.raises(KeyError):
        storage.set_trial_intermediate_value(99, 1, 0.5)


def test_the_score_of_an_epoch_can_be_replaced(storage: TrialStorage) -> None:
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    for score in (0.5, 0.75):
        storage.set_trial_intermediate_value(trial._trial_id, 1, score)
    assert study.trials[0].intermediate_values == {1: 0.75}


@pytest.mark.parametrize(
    "other", [IntDistribution(0, 1), CategoricalDistribution([0, 1])], ids=["int", "categorical"]
)
def test_another_kind_of_parameter_is_refused(storage: TrialStorage, other: Any) -> None:
    study = optuna.create_study(storage=storage)
    study.tell(study.ask({"x": FloatDistribution(0, 1)}), 0.0)
    with pytest.raises(ValueError, match="distribution"), storage.together():
        study.ask({"x": other})


def test_a_connection_is_checked_after_a_while(
    postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a server that was restarted are replaced."""
    monkeypatch.setattr("autotl.store.optuna_storage.IDLE_SECONDS", 0.0)
    assert IDLE_SECONDS < 10
    with closing(Store(postgresql_server.create("idle"))) as store:
        assert store.studies() == []
        postgresql_server.restart()
        assert store.studies() == []


def read_by(cache: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return cache.get_trials(deepcopy=False)


def test_trials_that_go_on_running_are_not_read_again(database: str) -> None:
    space = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])}
    with closing(Store(database)) as own, closing(Store(database)) as other:
        study = optuna.create_study(storage=own.storage, study_name="photos")
        others = optuna.load_study(study_name="photos", storage=other.storage)
        read_by(others)
        begun = []
        for _ in range(3):
            with own.storage.together():
                begun.append(study.ask(space))
        with own.storage.together():  # it has no parameters yet
            bare = study.ask()
            first = read_by(others)
            bare.suggest_float("x", 0, 1)
        assert [t.params for t in first] == [*(t.params for t in begun), {}]
        statements = []
        sa.event.listen(
            other.storage.engine,
            "before_cursor_execute",
            lambda connection, cursor, statement, *rest: statements.append(statement),
        )
        second = read_by(others)
        assert second[:3] == first[:3]
        assert second[3].params == bare.params
        statements.clear()
        assert read_by(others) == second
        assert len([text for text in statements if "SELECT" in text]) == 1
        begun[1].report(0.5, 1)
        study.tell(begun[1], 0.75)
        third = read_by(others)
        assert [t.state.is_finished() for t in third] == [False, True, False, False]
        assert (third[1].value, third[1].intermediate_values) == (0.75, {1: 0.5})
        assert third[0] == first[0]
