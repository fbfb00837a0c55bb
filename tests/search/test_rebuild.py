"""A study whose space has changed: its trials are carried over as they were."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, Literal

import optuna
import optuna_dashboard
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autotl import Range, freeze, head
from autotl.search import rebuild
from autotl.space.narrowing import narrow_plugin
from autotl.space.space import Space


@freeze
def probe(model: Any, *, lr: Annotated[float, Range(1e-4, 1e-1, log=True)] = 1e-3) -> Any: ...


@freeze
def full(model: Any, *, lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-4) -> Any: ...


@freeze
def wide(model: Any, *, lr: Annotated[float, Range(1e-6, 1.0, log=True)] = 1e-3) -> Any: ...


@head
def linear(features: int, classes: int) -> Any: ...


@head
def mlp(features: int, classes: int, *, depth: Literal[1, 2] = 1) -> Any: ...


def space(*plugins: Any) -> Space:
    return Space({k: tuple(p for p in plugins if p.kind == k) for k in ("freeze", "head")})


OLD = space(full, probe, linear, mlp)


@pytest.fixture
def storage() -> RDBStorage:
    return RDBStorage("sqlite://")


def search(storage: RDBStorage) -> optuna.Study:
    """A study of every state, drawn from ``OLD``."""
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    study.set_user_attr("about", "flowers")
    for number in range(12):
        trial = study.ask()
        OLD.suggest(trial)
        trial.set_user_attr("status", str(number))
        trial.set_constraint("parameters", -1.0)
        trial.report(0.1 * number, 1)
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[number % 3]
        study.tell(trial, 0.1 * number if state == TrialState.COMPLETE else None, state=state)
    study.enqueue_trial({"freeze": "full", "head": "mlp"}, user_attrs={"default": ["x"]})
    return study


def unchanging(trial: FrozenTrial) -> tuple[Any, ...]:
    """Everything of a trial that a change of the space leaves alone."""
    times = trial.datetime_start, trial.datetime_complete
    attributes = {k: v for k, v in trial.user_attrs.items() if k != rebuild.ORIGINAL_PARAMS}
    results = trial.value, trial.intermediate_values, trial.constraints
    return trial.number, trial.state, *times, attributes, *results


GROWN = space(full, probe, wide, linear, mlp)
SMALLER = space(probe, linear, mlp)


@pytest.mark.parametrize("new", [GROWN, SMALLER, space(full, probe, linear)])
def test_trials_are_carried_over_as_they_were(storage: RDBStorage, new: Space) -> None:
    before = search(storage).trials
    assert rebuild.rebuild(storage, "s", new) == 13
    study = optuna.load_study(study_name="s", storage=storage)
    assert study.user_attrs == {"about": "flowers"}
    assert [unchanging(t) for t in study.trials] == [unchanging(t) for t in before]
    for old, now in zip(before, study.trials, strict=True):
        assert now.params.items() <= old.params.items()
        assert {**now.params, **now.system_attrs.get(rebuild.ORIGINAL_PARAMS, {})} == old.params
    assert optuna.get_all_study_names(storage) == ["s"]
    # the search continues, and every sampler can use the earlier trials
    study.sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=1)
    for _ in range(4):
        trial = study.ask()
        new.suggest(trial)
        study.tell(trial, 0.5)
    assert study.trials[12].user_attrs["default"] == ["x"]


def test_an_enqueued_trial_keeps_the_parameters_that_the_new_space_has(storage: RDBStorage) -> None:
    search(storage)
    rebuild.rebuild(storage, "s", SMALLER)
    trial = optuna.load_study(study_name="s", storage=storage).ask()
    assert trial.number == 12
    config = SMALLER.suggest(trial)
    assert (config["freeze"].name, config["head"].name) == ("probe", "mlp")


def test_parameters_are_restored_when_the_space_is(storage: RDBStorage) -> None:
    before = search(storage).trials
    rebuild.rebuild(storage, "s", SMALLER)
    rebuild.rebuild(storage, "s", OLD)
    after = optuna.load_study(study_name="s", storage=storage).trials
    assert [(t.params, t.user_attrs) for t in after] == [(t.params, t.user_attrs) for t in before]


def test_values_outside_a_narrower_range_are_moved_to_the_attributes(storage: RDBStorage) -> None:
    study = optuna.create_study(study_name="s", storage=storage)
    for lr in (1e-5, 1e-2):
        study.enqueue_trial({"freeze": "wide", "freeze.wide.lr": lr})
        trial = study.ask()
        space(wide, linear).suggest(trial)
        study.tell(trial, lr)
    rebuild.rebuild(storage, "s", space(narrow_plugin(wide, {"lr": [1e-3, 1e-1]}), linear))
    out, inside = optuna.load_study(study_name="s", storage=storage).trials
    assert "freeze.wide.lr" not in out.params
    assert out.system_attrs[rebuild.ORIGINAL_PARAMS]["freeze.wide.lr"] == 1e-5
    assert inside.params["freeze.wide.lr"] == 1e-2


def test_notes_of_the_dashboard_are_carried_over(storage: RDBStorage) -> None:
    def page(study: optuna.Study, number: int) -> Any:
        trial_id = study.trials[number]._trial_id
        return SimpleNamespace(storage=storage, study=study, _trial_id=trial_id)

    before = search(storage)
    optuna_dashboard.save_note(before, "of the study " * 500)  # it is stored in several pieces
    optuna_dashboard.save_note(page(before, 2), "of a trial")
    number = before.trials[2]._trial_id
    rebuild.rebuild(storage, "s", GROWN)
    after = optuna.load_study(study_name="s", storage=storage)
    assert after.trials[2]._trial_id != number
    assert optuna_dashboard.get_note(after) == "of the study " * 500
    assert optuna_dashboard.get_note(page(after, 2)) == "of a trial"
    assert optuna_dashboard.get_note(page(after, 0)) == ""


@pytest.mark.parametrize("moment", ["copy_study", "delete_study", "create_study"])
def test_a_rebuild_that_was_killed_half_way_is_finished(
    storage: RDBStorage, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = search(storage).trials
    real = getattr(optuna, moment)

    def killed(*arguments: Any, **options: Any) -> None:
        if moment == "copy_study":  # half of the copy is there
            optuna.create_study(study_name=rebuild.COPY.format("s"), storage=storage)
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna, moment, killed)
    with pytest.raises(KeyboardInterrupt):
        rebuild.rebuild(storage, "s", GROWN)
    monkeypatch.setattr(optuna, moment, real)
    rebuild.finish(storage, "s", GROWN)
    after = optuna.load_study(study_name="s", storage=storage).trials
    assert [unchanging(t) for t in after] == [unchanging(t) for t in before]
    assert optuna.get_all_study_names(storage) == ["s"]


def test_without_an_unfinished_rebuild_there_is_nothing_to_finish(storage: RDBStorage) -> None:
    before = search(storage).trials
    assert rebuild.finish(storage, "s", GROWN) == 0
    assert optuna.load_study(study_name="s", storage=storage).trials == before
