"""What a study keeps from earlier runs, and that only one process runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import optuna
import pytest
from optuna.trial import TrialState

from autotl import Range, backbone, freeze, head
from autotl.events import Event, Note, ignore
from autotl.search import resume
from autotl.search.pruner import make_pruner
from autotl.search.resume import PROBED_WITH, RECIPE
from autotl.space.registry import Excluded, Registry
from autotl.space.space import Space, to_json
from autotl.store import Store
from autotl.study import StudyConfig, configure


@backbone
def large() -> Any: ...


@backbone
def small() -> Any: ...


@freeze
def full(model: Any, *, lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-4) -> Any: ...


@head
def linear(features: int, classes: int) -> Any: ...


PLUGINS = Registry([large, small, full, linear])
SPACE = Space({"backbone": (large, small), "freeze": (full,), "head": (linear,)})
SMALL = replace(SPACE, plugins={**SPACE.plugins, "backbone": (small,)})
LARGE = {"backbone": "large", "freeze": "full", "freeze.full.lr": 1e-3, "head": "linear"}

Settings = Callable[..., StudyConfig]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    def make(**options: Any) -> StudyConfig:
        return configure("photos", {"study": "s", "out": tmp_path / "runs", **options})

    return make


@pytest.fixture
def store() -> Store:
    store = Store("sqlite://")
    store.begin_study("s")
    return store


def open_study(
    store: Store, settings: StudyConfig, space: Space = SPACE, plugins: Registry = PLUGINS
) -> optuna.Study:
    return resume.resume(store, settings, space, plugins, ignore)


def run_trial(
    store: Store,
    study: optuna.Study,
    params: dict[str, Any],
    status: str = "complete",
    parameters: int = 1000,
    **attributes: Any,
) -> optuna.Trial:
    """A trial as the search writes it down; one that is ``running`` was killed."""
    study.enqueue_trial(params, user_attrs=attributes)
    trial = study.ask()
    store.begin_trial("s", trial.number, to_json(SPACE.suggest(trial)), 3)
    store.update_trial("s", trial.number, {"parameters": parameters})
    if status == "complete":
        study.tell(trial, 0.5)
        store.finish_trial("s", trial.number, status, score=0.5)
    return trial


# ---------------------------------------------------------------- killed runs


def test_a_new_study_is_made_once(store: Store, settings: Settings) -> None:
    store.update_study("s", metric="log_loss", direction="minimize")
    first = open_study(store, settings(metric="log_loss"))
    assert (first.direction.name, first.metric_names) == ("MINIMIZE", ["log_loss"])
    assert first.user_attrs["space"] == SPACE.fingerprint
    assert isinstance(first.pruner, type(make_pruner(3)))
    run_trial(store, first, LARGE)
    again = open_study(store, settings(metric="log_loss"))
    assert [trial.value for trial in again.trials] == [0.5]


def test_the_trials_of_a_killed_run_are_enqueued_again(store: Store, settings: Settings) -> None:
    study = open_study(store, settings())
    run_trial(store, study, LARGE)
    killed = run_trial(store, study, LARGE, "running", recipe=["large", "full", "linear"])
    beside = run_trial(store, study, LARGE, "running", **{PROBED_WITH: killed.number})
    study = open_study(store, settings())
    rows = store.trials("s")
    assert [row.status for row in rows] == ["complete", "interrupted", "interrupted"]
    assert rows[1].reason == "its process ended"
    states = [trial.state for trial in study.trials]
    assert states[1] == states[2] == TrialState.FAIL
    # The probe will be trained with others again, so the second is not enqueued by itself.
    assert [trial.number for trial in study.trials if trial.state == TrialState.WAITING] == [3]
    trial = study.ask()
    SPACE.suggest(trial)
    assert (trial.params, trial.user_attrs[RECIPE]) == (LARGE, ["large", "full", "linear"])
    assert beside.number == 2


def test_a_trial_killed_before_it_was_drawn_keeps_its_parameters(
    store: Store, settings: Settings
) -> None:
    """It is in Optuna's tables alone, with what it was to draw in its attributes."""
    study = open_study(store, settings())
    study.enqueue_trial(LARGE, user_attrs={RECIPE: ["a", "b", "c"]})
    study.ask()
    study = open_study(store, settings())
    assert store.trials("s") == []
    trial = study.ask()
    SPACE.suggest(trial)
    assert (trial.number, trial.params, trial.user_attrs[RECIPE]) == (1, LARGE, ["a", "b", "c"])


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("status", ["complete", "pruned", "out_of_memory", "interrupted"])
def test_a_result_that_only_the_store_has_is_told_to_optuna(
    store: Store, settings: Settings, status: str
) -> None:
    study = open_study(store, settings())
    trial = run_trial(store, study, LARGE, "running", recipe=["a"])
    trial.report(0.25, 1)
    score = 0.25 if status == "complete" else None
    store.finish_trial("s", trial.number, status, reason="why", score=score)
    before = store.trials("s")
    for _ in range(2):
        study = open_study(store, settings())
        assert store.trials("s") == before
        first, *waiting = study.trials
        assert first.state == resume.optuna_state(status, {})
        assert len(waiting) == (status == "interrupted")
    assert study.trials[0].value == (0.25 if status in ("complete", "pruned") else None)


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
def test_a_result_that_only_optuna_has_is_stored(
    store: Store, settings: Settings, state: TrialState
) -> None:
    study = open_study(store, settings())
    trial = run_trial(store, study, LARGE, "running")
    trial.report(0.125, 1)
    trial.report(0.25, 2)
    if state != TrialState.COMPLETE:
        trial.set_user_attr("status", "pruned" if state == TrialState.PRUNED else "diverged")
        trial.set_user_attr("reason", "why")
    study.tell(trial, 0.25 if state == TrialState.COMPLETE else None, state=state)
    open_study(store, settings())
    [row] = store.trials("s")
    expected = {"COMPLETE": ("complete", "", 0.25), "PRUNED": ("pruned", "why", None)}
    assert (row.status, row.reason, row.score) == expected.get(
        state.name, ("diverged", "why", None)
    )
    assert [epoch.score for epoch in store.epochs("s", 0)] == [0.125, 0.25]
    assert [trial.state for trial in study.trials] == [state]


@pytest.mark.parametrize("step", ["enqueue_trial", "tell"])
def test_a_start_that_is_killed_too_enqueues_a_trial_once(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    study = open_study(store, settings())
    run_trial(store, study, LARGE, "running")

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, step, kill)
        with pytest.raises(Killed):
            open_study(store, settings())
    study = open_study(store, settings())
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]
    assert [row.status for row in store.trials("s")] == ["interrupted"]


def test_a_trial_is_enqueued_once_though_its_worker_is_killed_before_it_tells_optuna(
    store: Store, settings: Settings
) -> None:
    study = open_study(store, settings())
    trial = run_trial(store, study, LARGE, "running")
    store.finish_trial("s", trial.number, "interrupted", reason="Ctrl-C")
    resume.requeue(study, trial.number, trial.params, {})
    retried = study.ask()  # another worker begins it
    store.begin_trial("s", retried.number, to_json(SPACE.suggest(retried)), 3)
    killed = study.get_trials()[trial.number]
    resume.end_trial(study, store, killed, store.trials("s")[trial.number])
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING"]


def test_a_rebuild_that_was_killed_is_finished(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(store, settings())
    run_trial(store, study, LARGE)
    real = optuna.create_study

    def killed(*arguments: Any, **options: Any) -> Any:
        if options.get("load_if_exists"):
            return real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(optuna, "create_study", killed)
        with pytest.raises(KeyboardInterrupt):
            open_study(store, settings(), SMALL)
    study = open_study(store, settings(), SMALL)
    assert [trial.value for trial in study.trials] == [0.5]
    assert optuna.get_all_study_names(store.storage) == ["s"]


def test_a_study_continues_in_another_space(store: Store, settings: Settings) -> None:
    study = open_study(store, settings())
    run_trial(store, study, LARGE)
    run_trial(store, study, {**LARGE, "backbone": "small"})
    events: list[Event] = []
    study = resume.resume(store, settings(), SMALL, PLUGINS, events.append)
    [note] = events
    assert isinstance(note, Note)
    assert "the search space has changed; 2 trials were carried over" in note.text
    assert "backbone" not in study.trials[0].params
    assert study.trials[1].params["backbone"] == "small"
    assert study.user_attrs["space"] == SMALL.fingerprint
    resume.resume(store, settings(), SMALL, PLUGINS, events.append)
    assert len(events) == 1


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("options", "space", "reason"),
    [
        ({"max_parameters": 999}, SPACE, "1,000 parameters, more than 999"),
        ({"max_parameters": 1000}, SPACE, ""),
        ({}, SMALL, ""),
        ({"licence": ["MIT"]}, SMALL, "its licence was not checked"),
        ({"max_latency": 5.0}, SMALL, "its latency was not measured"),
        (
            {"max_latency": 5.0},
            replace(SMALL, excluded=(Excluded("backbone", "large", "9.0 ms per image"),)),
            "9.0 ms per image",
        ),
        (
            {},
            replace(SPACE, excluded=(Excluded("head", "large", "another kind"),)),
            "",
        ),
    ],
)
def test_trials_that_the_limits_exclude_are_marked(
    store: Store, settings: Settings, options: dict[str, Any], space: Space, reason: str
) -> None:
    run_trial(store, open_study(store, settings()), LARGE)
    open_study(store, settings(**options), space)
    [row] = store.trials("s")
    assert reason in row.facts.excluded
    assert bool(row.facts.excluded) == bool(reason)
    open_study(store, settings())  # without the limits it counts again
    assert store.trials("s")[0].facts.excluded == ""


def test_trials_whose_plugin_is_not_loaded_are_marked(store: Store, settings: Settings) -> None:
    run_trial(store, open_study(store, settings()), LARGE)
    fewer = Registry([small, full, linear])
    open_study(store, settings(), SMALL, fewer)
    [row] = store.trials("s")
    assert row.facts.excluded == "the backbone plugin 'large' is not loaded in this run"


def test_only_marks_that_change_are_written(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(store, settings())
    run_trial(store, study, LARGE)
    run_trial(store, study, {**LARGE, "backbone": "small"}, parameters=10)
    written: list[int] = []
    real = store.update_trial

    def update(study: str, number: int, **facts: Any) -> None:
        written.append(number)
        real(study, number, **facts)

    monkeypatch.setattr(store, "update_trial", update)
    open_study(store, settings(max_parameters=100))
    open_study(store, settings(max_parameters=100))
    assert written == [0]
