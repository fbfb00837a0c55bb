"""The loop of trials: what is drawn, how trials are filed, pruned and repeated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from filelock import FileLock
from images import FAST, read_trials
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from autotl import engine, report, study, training
from autotl.errors import OutOfTime, StoreError, StudyError
from autotl.events import EpochCompleted, Event, TrialFinished, TrialStarted
from autotl.search import pruner, trial_queue, trial_training
from autotl.search.context import TrainingContext
from autotl.search.progress import Progress
from autotl.search.ranking import rank
from autotl.search.resume import PROBED_WITH, RECIPE, optuna_state
from autotl.search.trial_budget import TrialPlan, plan_trial
from autotl.search.trial_queue import TrialQueue
from autotl.search.trials import GIVE_UP, quiet_optuna
from autotl.store import QUEUE, EpochRow, Store, TrialRow, Worker
from autotl.store.migrations.tables import LEASE
from autotl.store.optuna_storage import TrialStorage

Make = Callable[..., study.StudyConfig]
Run = Callable[..., engine.Result]

BROKEN = """
from torch import nn
from autotl import head, freeze, Incompatible

@head
def explodes(features: int, classes: int):
    '''Fails.'''
    raise RuntimeError("boom")

@head
def refuses(features: int, classes: int):
    '''Does not fit.'''
    raise Incompatible("needs more features")

@head
def diverges(features: int, classes: int):
    '''Has weights that are not numbers.'''
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.weight, float("nan"))
    return layer

@head
def greedy(features: int, classes: int):
    '''Needs more memory than there is.'''
    import torch
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(features, classes)
        def forward(self, x):
            if torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.layer(x)
    return Greedy()
"""


@pytest.fixture
def broken(images: Path, tmp_path: Path) -> list[Path]:
    """Plugin files with heads that fail."""
    (tmp_path / "broken.py").write_text(BROKEN)
    return [images / "tiny_plugin.py", tmp_path / "broken.py"]


def store_of(settings: study.StudyConfig) -> closing[Store]:
    return closing(Store(f"sqlite:///{settings.out}/autotl.db"))


def optuna_study(settings: study.StudyConfig) -> optuna.Study:
    url = f"sqlite:///{settings.out}/autotl.db"
    return optuna.load_study(study_name=settings.name, storage=url)


def optuna_trials(settings: study.StudyConfig) -> list[optuna.trial.FrozenTrial]:
    return optuna_study(settings).trials


def best(settings: study.StudyConfig) -> TrialRow:
    return rank(read_trials(settings), "maximize")[0]


def results(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(row.config, row.score, row.status) for row in rows]


# ---------------------------------------------------------------- what is drawn


@pytest.fixture(scope="module")
def plain_trials(
    configure: Make, run_trials: Run, tmp_path_factory: pytest.TempPathFactory
) -> list[TrialRow]:
    """The seven trials of an ordinary search."""
    chosen = configure(tmp_path_factory.mktemp("plain"), trials=7)
    run_trials(chosen)
    return read_trials(chosen)


def test_two_runs_with_one_seed_give_the_same_trials(
    settings: Make, run_trials: Run, plain_trials: list[TrialRow]
) -> None:
    run_trials(settings(trials=7))
    assert results(read_trials(settings())) == results(plain_trials)


def test_another_seed_gives_other_trials(
    settings: Make, run_trials: Run, plain_trials: list[TrialRow]
) -> None:
    run_trials(settings(trials=7, seed=2**31 - 1))
    other = read_trials(settings())
    assert len(other) == 7
    assert results(other) != results(plain_trials)


def test_an_interrupted_trial_is_run_again_and_the_search_continues_as_planned(
    settings: Make, run_trials: Run, plain_trials: list[TrialRow]
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, EpochCompleted) and event.number == 4 and event.epoch == 2:
            raise KeyboardInterrupt

    assert run_trials(settings(trials=7), interrupt).interrupted
    rows = read_trials(settings())
    # The backbone has no maps of its stages, which the head of trial 3 takes.
    statuses = ["complete"] * 3 + ["incompatible", "interrupted"]
    assert [row.status for row in rows] == statuses
    assert (rows[4].score, rows[4].reason) == (None, "Ctrl-C")
    assert not run_trials(settings(trials=7)).interrupted
    rows = read_trials(settings())
    assert rows[5].config == rows[4].config
    done = [row for row in rows if row.status not in ("interrupted", "running")]
    assert len(done) == 7
    assert results(done) == results(plain_trials)


def test_an_interrupted_trial_is_stored_and_enqueued_while_no_other_worker_may_choose(
    settings: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker that chooses in between would enqueue the same recipe once more."""
    statuses: list[str] = []
    leases = sa.select(LEASE.c.name)

    def interrupt(event: Event) -> None:
        if isinstance(event, EpochCompleted) and event.number == 1:
            raise KeyboardInterrupt

    def see_release(self: Worker, name: str) -> None:
        with self.store.read() as connection:
            assert name in connection.scalars(leases).all()
        if name == QUEUE:
            rows = self.store.trials(self.study)
            statuses.append(rows[-1].status if rows else "")
            waiting = optuna_study(settings()).get_trials(states=(TrialState.WAITING,))
            assert ("interrupted" in statuses) == bool(waiting)
        release(self, name)

    release = Worker.release
    monkeypatch.setattr(Worker, "release", see_release)
    assert run_trials(settings(), interrupt).interrupted
    assert statuses == ["running", "running", "interrupted"]


def test_an_interrupted_search_keeps_its_best_model(settings: Make) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, EpochCompleted) and event.number == 2:
            raise KeyboardInterrupt

    result = engine.run(settings(), interrupt)
    assert result.interrupted
    assert result.summary["test"] is None
    assert result.summary["best"]["trial"] in (0, 1)
    assert (result.folder / "model" / "model.safetensors").exists()


def test_a_killed_run_is_recovered(settings: Make, run_trials: Run) -> None:
    run_trials(settings(trials=2))
    killed = optuna_study(settings()).ask()
    with store_of(settings()) as store:
        store.begin_trial("photos", killed.number, {}, 3)
    run_trials(settings(trials=3))
    rows = read_trials(settings())
    assert [row.status for row in rows][:3] == ["complete", "complete", "interrupted"]
    assert rows[2].reason == "its process ended"


def test_a_trial_of_another_worker_that_finishes_last_is_told_of(
    settings: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may finish just before this worker looks whether any still runs."""
    calls: list[str] = []

    def spy(owner: Any, name: str) -> None:
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self: (calls.append(name), function(self))[1])

    spy(TrialQueue, "others_run")
    spy(Progress, "tell_others")
    run_trials(settings(trials=1))
    assert calls[-2:] == ["others_run", "tell_others"]


def test_a_study_that_another_process_runs_is_not_disturbed(
    settings: Make, run_trials: Run
) -> None:
    chosen = settings(trials=1, prefer="accuracy")
    run_trials(chosen)
    running = optuna_study(chosen).ask()
    with store_of(chosen) as store:
        store.update_study("photos", state="running")
        before = store.study("photos")
        lock = FileLock(store.lock_file("photos", chosen.folder), timeout=0)
        message = "is being run by another process"
        with lock, pytest.raises(StudyError, match=message):
            engine.run(settings(trials=2, prefer="cheap"))
        assert store.study("photos") == before
    state = optuna_trials(chosen)[running.number].state
    assert state == optuna.trial.TrialState.RUNNING


def delete_optuna_study(store: Store, name: str) -> None:
    optuna.delete_study(study_name=name, storage=store.storage)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("owner", [optuna.Study, Store])
def test_a_kill_between_the_two_books_loses_and_doubles_no_trial(
    settings: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch, owner: type[Any]
) -> None:
    step = "tell" if owner is optuna.Study else "finish_trial"
    write, writes = getattr(owner, step), []

    def kill_before_the_third(*args: Any, **options: Any) -> Any:
        writes.append(1)
        if len(writes) == 3:
            raise Killed
        return write(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, kill_before_the_third)
        with pytest.raises(Killed):
            run_trials(settings(trials=5, head=["linear", "mlp"]))
    run_trials(settings(trials=5, head=["linear", "mlp"]))
    rows, told = read_trials(settings()), optuna_trials(settings())
    assert [row.number for row in rows] == [trial.number for trial in told]
    for row, trial in zip(rows, told, strict=True):
        assert trial.state == optuna_state(row.status, trial.constraints)
        assert trial.value == row.score or row.status == "pruned"
    assert sum(row.status == "complete" for row in rows) == 5
    whole = settings(trials=5, head=["linear", "mlp"], study="whole")
    run_trials(whole)
    complete = [(row.config, row.score) for row in rows if row.status == "complete"]
    assert complete == [(row.config, row.score) for row in read_trials(whole)]


@pytest.mark.parametrize("delete", [delete_optuna_study, Store.delete])
def test_a_study_that_vanishes_ends_the_search_in_one_sentence(
    settings: Make, run_trials: Run, delete: Callable[[Store, str], None]
) -> None:
    """Optuna Dashboard has a button that deletes a study."""

    def delete_after_trial_1(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.number == 1:
            with store_of(settings()) as store:
                delete(store, "photos")

    message = "'photos' was deleted while it ran; the files in its run folder stay"
    with pytest.raises(StudyError, match=message):
        run_trials(settings(trials=5), delete_after_trial_1)
    assert (settings().folder / "splits.csv").exists()


def test_the_last_trial_leaves_none_waiting(
    settings: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(model: Any, config: Any, *rest: Any, **options: Any) -> Any:
        if config["freeze"].name != "linear_probe":
            raise OutOfTime("too slow")
        return plan_trial(model, config, *rest, **options)

    monkeypatch.setattr(trial_training, "plan_trial", plan)
    run_trials(settings(trials=3))
    states = [trial.state.name for trial in optuna_trials(settings())]
    assert "FAIL" in states
    assert "WAITING" not in states


def test_optuna_is_quiet_only_while_a_search_runs() -> None:
    before = optuna.logging.get_verbosity()
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.WARNING
    assert optuna.logging.get_verbosity() == before


# ---------------------------------------------------------------- limits

WIDE = """
from autotl import backbone
from tiny_plugin import Tiny, torch, nn

@backbone
def wide():
    '''Four times as wide at the top.'''
    made = Tiny()
    made.num_features = 64
    made.top = nn.Sequential(nn.Conv2d(8, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU())
    return made
"""


@pytest.fixture
def two_backbones(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Plugin files with the backbones ``tiny`` and ``wide``."""
    monkeypatch.syspath_prepend(images)  # where tiny_plugin.py is
    (tmp_path / "wide_plugin.py").write_text(WIDE)
    return [images / "tiny_plugin.py", tmp_path / "wide_plugin.py"]


def test_limits_apply_to_the_trials_of_earlier_runs(
    settings: Make, run_trials: Run, two_backbones: list[Path], tmp_path: Path
) -> None:
    options = {"plugin": two_backbones, "freeze": ["linear_probe"], "head": ["linear"], "trials": 3}

    def both(**limits: Any) -> study.StudyConfig:
        return settings(**{**options, "backbone": ["tiny", "wide"], **limits})

    def summary() -> dict[str, Any]:
        with store_of(both()) as store:
            return report.write(store, "photos", tmp_path / "report")

    run_trials(both())
    names = {row.number: next(iter(row.config["backbone"])) for row in read_trials(both())}
    assert set(names.values()) == {"tiny", "wide"}
    first = summary()
    run_trials(both(max_parameters=3000))
    limited = summary()
    assert "tiny" in limited["best"]["config"]["backbone"]
    assert {names[point["trial"]] for point in limited["pareto"]} == {"tiny"}
    excluded = {row.number for row in read_trials(both()) if row.facts.excluded}
    assert excluded == {number for number, name in names.items() if name == "wide"}
    assert "parameters, more than 3,000" in (tmp_path / "report/report.html").read_text()
    with pytest.raises(StudyError, match="limits exclude every trial"):
        run_trials(both(max_parameters=10, backbone=["tiny"]))
    run_trials(both(max_parameters=10**9))  # with a higher limit they count again
    assert summary()["pareto"] == first["pareto"]
    assert not any(row.facts.excluded for row in read_trials(both()))


def test_a_limit_is_a_constraint_that_the_sampler_learns_from(
    settings: Make, run_trials: Run
) -> None:
    with pytest.raises(StudyError, match="more than 10"):
        run_trials(settings(max_parameters=10, trials=2))
    first = optuna_trials(settings())[0]
    assert first.constraints["parameters"] > 0
    assert first.state == optuna.trial.TrialState.PRUNED
    assert read_trials(settings())[0].status == "incompatible"
    chosen = settings(study="b", max_parameters=10**6, trials=1)
    run_trials(chosen)
    assert optuna_trials(chosen)[0].constraints["parameters"] < 0


OWN = """
from torch import nn
from autotl import head

@head
def own(features: int, classes: int):
    '''Whose file is not loaded in the next run.'''
    return nn.Linear(features, classes)
"""


def test_a_trial_whose_plugin_is_not_loaded_does_not_win(
    settings: Make, run_trials: Run, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    files = [images / "tiny_plugin.py", tmp_path / "own.py"]
    run_trials(settings(head=["own"], plugin=files, trials=1))
    assert best(settings()).config["head"] == {"own": {}}
    run_trials(settings(head=["linear"], trials=2))
    assert "linear" in best(settings()).config["head"]
    excluded = [row.facts.excluded for row in read_trials(settings())]
    assert excluded == ["the head plugin 'own' is not loaded in this run", ""]
    run_trials(settings(head=["own"], plugin=files, trials=3))
    assert not any(row.facts.excluded for row in read_trials(settings()))
    assert best(settings())


# ---------------------------------------------------------------- failures


def test_a_database_that_fails_in_a_trial_is_explained_in_one_line(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageInternalError("disk is full")

    monkeypatch.setattr(TrialStorage, "set_trial_intermediate_value", full)
    monkeypatch.setattr(TrialStorage, "set_trial_state_values", full)
    with pytest.raises(StoreError, match=r"autotl\.db: disk is full; free some"):
        engine.run(settings(trials=2))


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        ("explodes", "failed", "RuntimeError: boom"),
        ("refuses", "incompatible", "needs more features"),
        ("diverges", "diverged", "nan in epoch 1"),
        ("greedy", "out_of_memory", "a single image"),
    ],
)
def test_trials_are_filed_with_their_status_and_reason(
    settings: Make, run_trials: Run, broken: list[Path], head: str, status: str, reason: str
) -> None:
    with pytest.raises(StudyError, match="no trial completed") as error:
        run_trials(settings(head=[head], plugin=broken))
    assert reason in str(error.value)
    first = read_trials(settings())[0]
    assert first.status == status
    assert reason in first.reason
    trial = optuna_trials(settings())[0]
    assert trial.state == optuna.trial.TrialState.FAIL
    assert trial.user_attrs["status"] == status


def test_one_broken_candidate_does_not_end_the_search(
    settings: Make, run_trials: Run, broken: list[Path]
) -> None:
    run_trials(settings(head=["linear", "explodes"], plugin=broken, trials=12))
    rows = read_trials(settings())
    assert len([row for row in rows if row.status == "failed"]) >= 1
    assert "linear" in best(settings()).config["head"]


# ---------------------------------------------------------------- probes


GROUP = range(2, 8)
"""The numbers of the trials of ``Probes`` that are trained in one pass."""


@dataclass(frozen=True)
class Probes:
    """A search that ends after the trials that are trained in one pass."""

    settings: Make
    events: list[Event]

    @property
    def rows(self) -> list[TrialRow]:
        return read_trials(self.settings())


@pytest.fixture(scope="module")
def probes(configure: Make, run_trials: Run, tmp_path_factory: pytest.TempPathFactory) -> Probes:
    """Of 24 trials, of which a quarter is trained in one pass."""
    out = tmp_path_factory.mktemp("probes")
    options: dict[str, Any] = {"trials": 24, "freeze": ["linear_probe", "last_blocks"]}
    options["head"] = ["linear", "logistic_regression", "mlp", "cosine"]
    events: list[Event] = []

    def listener(event: Event) -> None:
        events.append(event)
        if isinstance(event, TrialStarted) and event.number == GROUP.stop:
            raise KeyboardInterrupt

    assert run_trials(configure(out, **options), listener).interrupted
    return Probes(lambda **more: configure(out, **{**options, **more}), events)


def test_a_linear_probe_is_trained_alone_before_the_default_recipe(probes: Probes) -> None:
    rows = probes.rows
    recipes = [row.facts.recipe for row in rows[:3]]
    assert recipes == [
        ["tiny", "linear_probe", "linear"],
        ["tiny", "last_blocks", "linear"],
        ["tiny", "linear_probe", "logistic_regression"],
    ]
    assert [list(row.config["freeze"]) for row in rows[:2]] == [["linear_probe"], ["last_blocks"]]
    assert isinstance(rows[0].facts.logme, float)
    assert [row.facts.is_probe for row in rows] == [True] + [False] * (len(rows) - 1)
    assert [row.number for row in rows if row.facts.is_default] == [1]
    assert [row.facts.backbone_frozen for row in rows[:3]] == [True, False, True]


def test_heads_are_trained_in_one_pass_with_the_second_head(probes: Probes) -> None:
    rows = probes.rows[GROUP.start : GROUP.stop]
    assert len(rows) == 24 // 4
    heads = [next(iter(row.config["head"])) for row in rows]
    assert heads == [
        "logistic_regression", "cosine", "linear", "logistic_regression", "mlp", "cosine",
    ]  # fmt: skip
    assert {next(iter(row.config["freeze"])) for row in rows} == {"linear_probe"}
    assert len({row.config["freeze"]["linear_probe"]["lr"] for row in rows}) == 6
    counts = [1 if head == "logistic_regression" else 3 for head in heads]
    assert [(row.status, row.epochs) for row in rows] == [("complete", n) for n in counts]
    with store_of(probes.settings()) as store:
        epochs = [store.epochs("photos", row.number) for row in rows]
    assert [[row.epoch for row in one] for one in epochs] == [[*range(1, n + 1)] for n in counts]
    trials = optuna_trials(probes.settings())[GROUP.start : GROUP.stop]
    for row, trial, one in zip(rows, trials, epochs, strict=True):
        assert trial.value == row.score == trial.intermediate_values[row.epochs] == one[-1].score
        assert isinstance(one[-1], EpochRow)
        assert row.trained_parameters
        assert trial.user_attrs["epochs"] == row.epochs
        first = GROUP.start
        assert trial.user_attrs.get(PROBED_WITH) == (None if row.number == first else first)
    assert [row.facts.recipe for row in rows[1:]] == [[]] * 5
    assert optuna_trials(probes.settings())[1].user_attrs.get(PROBED_WITH) is None


def test_every_probe_is_shown_to_start_to_train_and_to_finish(probes: Probes) -> None:
    for row in probes.rows[: GROUP.stop]:
        mine = [type(e) for e in probes.events if getattr(e, "number", None) == row.number]
        assert mine == [TrialStarted, *[EpochCompleted] * row.epochs, TrialFinished]


def test_a_probe_scores_what_it_would_alone(
    probes: Probes, settings: Make, run_trials: Run
) -> None:
    row = next(row for row in probes.rows[GROUP.start :] if "mlp" in row.config["head"])
    alone = settings(
        trials=1,
        head=list(row.config["head"]),
        space=row.config,
        freeze=list(row.config["freeze"]),
    )
    run_trials(alone)
    assert read_trials(alone)[0].score == row.score


def test_an_interrupted_group_of_heads_is_run_again(settings: Make, run_trials: Run) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, EpochCompleted) and event.number == 2:
            raise KeyboardInterrupt

    def stop(event: Event) -> None:
        if isinstance(event, TrialStarted) and event.number == 8:
            raise KeyboardInterrupt

    options = {"trials": 12, "head": ["linear", "logistic_regression", "mlp"]}
    assert run_trials(settings(**options), interrupt).interrupted
    assert [row.status for row in read_trials(settings())][2:] == ["interrupted"] * 3
    run_trials(settings(**options), stop)
    rows = read_trials(settings())
    assert [row.status for row in rows[5:8]] == ["complete"] * 3
    assert rows[5].config == rows[2].config
    beside = [trial.user_attrs.get(PROBED_WITH) for trial in optuna_trials(settings())[5:8]]
    assert beside == [None, 5, 5]


def test_a_broken_head_beside_others_fails_alone(
    settings: Make, run_trials: Run, broken: list[Path]
) -> None:
    """The trials before have the default recipe, which is also tried with heads of the user."""

    def stop(event: Event) -> None:
        if isinstance(event, TrialStarted) and event.number == 8:
            raise KeyboardInterrupt

    heads = ["explodes", "linear", "diverges", "logistic_regression"]
    chosen = settings(head=heads, plugin=broken, trials=16)
    run_trials(chosen, stop)
    rows = read_trials(chosen)[:8]
    with_own = [row.facts.recipe for row in rows[2:4]]
    assert with_own == [["tiny", "last_blocks", name] for name in ("diverges", "explodes")]
    statuses = [row.status for row in rows]
    assert statuses[:4] == ["complete", "complete", "diverged", "failed"]
    assert statuses[4:] == ["complete", "diverged", "failed", "complete"]
    assert "boom" in rows[6].reason
    assert "boom" in read_trials(chosen)[6].facts.traceback


def test_heads_beside_a_closed_form_head_have_all_their_epochs(
    settings: Make, run_trials: Run
) -> None:
    heads = ["linear", "logistic_regression", "mlp"]
    run_trials(settings(freeze=["linear_probe"], head=heads, trials=12))
    epochs: dict[str, set[int]] = {}
    trials = optuna_trials(settings())
    for row in read_trials(settings()):
        epochs.setdefault(next(iter(row.config["head"])), set()).add(row.epochs)
        assert trials[row.number].user_attrs["epochs"] == row.epochs
    every = FAST["epochs"]
    assert epochs == {"linear": {every}, "logistic_regression": {1}, "mlp": {every}}


# ---------------------------------------------------------------- earlier studies


@pytest.fixture
def earlier(settings: Make, run_trials: Run) -> study.StudyConfig:
    """A study of the same data, without a configuration of defaults."""
    pinned = {"optimizer": {"adamw": {"weight_decay": 0.01}}}
    chosen = settings(study="past", trials=5, space=pinned)
    run_trials(chosen)
    return chosen


def test_a_study_learns_from_earlier_ones(
    settings: Make, run_trials: Run, earlier: study.StudyConfig, tmp_path: Path
) -> None:
    chosen = settings(history=True, trials=4)
    run_trials(chosen)
    assert read_trials(chosen)[2].config == best(earlier).config
    assert optuna_trials(chosen)[2].user_attrs[RECIPE] == ["learned from", "past"]
    # What was learned stays, whatever other studies do meanwhile.
    run_trials(settings(study="other", trials=5, seed=1))
    run_trials(chosen.model_copy(update={"trials": 5}))
    learned = [trial.user_attrs.get(RECIPE, [""])[0] for trial in optuna_trials(chosen)]
    assert learned.count("learned from") == 1
    # From another database:
    place = f"{earlier.out}/autotl.db"
    elsewhere = settings(out=tmp_path / "else", history=True, learn_from=place, trials=3)
    run_trials(elsewhere)
    assert optuna_trials(elsewhere)[2].user_attrs[RECIPE][0] == "learned from"


def test_a_study_without_history_learns_from_none(
    settings: Make, run_trials: Run, earlier: study.StudyConfig
) -> None:
    without = settings(study="without", trials=3)
    run_trials(without)
    recipes = [trial.user_attrs.get(RECIPE) for trial in optuna_trials(without)]
    assert "learned from" not in str(recipes)


def test_a_database_to_learn_from_must_exist(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "past.db").touch()
    for place in (f"{tmp_path}/pst.db", f"sqlite:///{tmp_path}/pst.db"):
        with pytest.raises(StoreError, match=r"no database .*pst.db; did you mean 'past.db'\?"):
            engine.run(settings(learn_from=place))
    assert [file.name for file in tmp_path.glob("*.db")] == ["past.db"]


# ---------------------------------------------------------------- pruning


def test_pruned_trials_are_filed(
    settings: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruner, "MIN_TRIALS", 2)  # to be pruned after a few trials
    monkeypatch.setattr(pruner, "PRUNED_PERCENT", 50)
    strong = {"freeze": {"linear_probe": {"lr": [3e-4, 3e-2]}}}
    options = {"space": strong, "freeze": ["linear_probe"], "head": ["linear"], "epochs": 6}
    run_trials(settings(**options, metric="log_loss", trials=12))  # whose values all differ
    trials = optuna_trials(settings())
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert pruned
    assert all(3 <= len(trial.intermediate_values) < 6 for trial in pruned)
    rows = {row.number: row for row in read_trials(settings())}
    for trial in pruned:
        row, epochs = rows[trial.number], len(trial.intermediate_values)
        assert (row.status, row.reason) == ("pruned", f"pruned after epoch {epochs} of 6")
        assert row.score is None
        assert RECIPE not in trial.user_attrs
        with store_of(settings()) as store:
            scores = {e.epoch: e.score for e in store.epochs("photos", row.number)}
        assert scores == trial.intermediate_values


# ---------------------------------------------------------------- out of time

SLOW = {"freeze": ["linear_probe", "last_blocks", "full"], "head": ["linear", "mlp"]}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """All strategies but linear probes take too long."""
    measure = training.measure_cost

    def measured(model: Any, config: Any, job: Any) -> Any:
        cost = measure(model, config, job)
        long = config["freeze"].name != "linear_probe"
        return replace(cost, epoch_seconds=1e9, backbone_epoch_fraction=1.0) if long else cost

    monkeypatch.setattr(training, "measure_cost", measured)


@pytest.mark.usefixtures("slow")
def test_a_trial_that_does_not_fit_is_followed_by_the_cheapest(
    settings: Make, run_trials: Run
) -> None:
    run_trials(settings(budget=300.0, trials=9, **SLOW))
    rows = read_trials(settings())
    ends = [(row.status, next(iter(row.config["freeze"]))) for row in rows]
    late = [i for i, (status, _) in enumerate(ends[:-1]) if status == "out_of_time"]
    assert late
    assert all(ends[i + 1][1] == "linear_probe" for i in late)
    assert all((status == "out_of_time") == (name != "linear_probe") for status, name in ends)
    for row, trial in zip(rows, optuna_trials(settings()), strict=True):
        failed = trial.state == optuna.trial.TrialState.FAIL
        assert failed == (row.status == "out_of_time")


@pytest.mark.usefixtures("slow")
def test_the_search_ends_where_there_is_time_for_cheap_trials_only(
    settings: Make, run_trials: Run
) -> None:
    """It would continue for hours with trials that are not what was asked for."""
    run_trials(settings(budget=9999.0, trials=None, **SLOW))
    ends = [row.status for row in read_trials(settings())]
    assert ends[-1] == "out_of_time"
    assert GIVE_UP <= ends.count("out_of_time") <= 4 * GIVE_UP  # the first cheap ones may lead


def test_a_trial_that_is_far_too_slow_is_refused_before_its_model_is_built(
    settings: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    build = TrainingContext.build

    def spied(self: TrainingContext, config: Any, *more: Any) -> Any:
        built.append(config["freeze"].name)
        return build(self, config, *more)

    def refuse(config: Any, rows: list[TrialRow], *_: object) -> None:
        assert any(row.facts.backbone_frozen is False for row in rows)
        if "lp_ft" in config["freeze"]:
            raise OutOfTime("far too slow")

    monkeypatch.setattr(TrainingContext, "build", spied)
    monkeypatch.setattr(trial_training, "refuse_too_slow", refuse)
    options = {"freeze": ["linear_probe", "last_blocks", "lp_ft"], "head": ["linear"]}
    events: list[Event] = []
    run_trials(settings(budget=300.0, trials=5, **options), events.append)
    refused = [row for row in read_trials(settings()) if "lp_ft" in row.config["freeze"]]
    assert refused
    assert "last_blocks" in built
    assert "lp_ft" not in built
    for row in refused:
        assert (row.status, row.reason, row.parameters) == ("out_of_time", "far too slow", None)
        trial = optuna_trials(settings())[row.number]
        assert trial.state == optuna.trial.TrialState.FAIL
        assert trial.user_attrs["status"] == "out_of_time"
        started, finished = (e for e in events if getattr(e, "number", None) == row.number)
        assert isinstance(started, TrialStarted)
        assert isinstance(finished, TrialFinished)
        assert started.config == row.config  # for the line in the terminal


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_trial_that_the_deadline_ends_is_complete_with_the_epochs_before(
    settings: Make, run_trials: Run, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """``last`` is the number of the epoch after which the deadline passes."""
    plans: list[TrialPlan] = []

    def plan(*args: Any, **options: Any) -> TrialPlan:
        plans.append(plan_trial(*args, **options))
        if len(plans) == 2 and not last:
            plans[1].job.deadline = 0.0
        return plans[-1]

    def pass_deadline(event: Event) -> None:
        if isinstance(event, EpochCompleted) and (event.number, event.epoch) == (1, last):
            plans[1].job.deadline = 0.0

    monkeypatch.setattr(trial_training, "plan_trial", plan)
    options = {"freeze": ["linear_probe", "last_blocks"], "head": ["linear"], "trials": 2}
    run_trials(settings(budget=300.0, **options), pass_deadline)
    row, trial = read_trials(settings())[1], optuna_trials(settings())[1]
    assert "last_blocks" in row.config["freeze"]
    assert plans[1].job.epochs == FAST["epochs"]
    if not last:
        assert (row.status, row.score) == ("out_of_time", None)
        assert trial.state == optuna.trial.TrialState.FAIL
        return
    with store_of(settings()) as store:
        epochs = store.epochs("photos", 1)
    assert (row.status, row.epochs, len(epochs)) == ("complete", last, last)
    assert trial.user_attrs["epochs"] == last
    assert row.score == epochs[-1].score == trial.value


def test_backbones_are_probed_early_if_there_is_time_for_it(
    settings: Make,
    run_trials: Run,
    two_backbones: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {
        "plugin": two_backbones,
        "backbone": ["tiny", "wide"],
        "head": ["linear"],
        "trials": 8,
    }

    def probes(**more: Any) -> list[int]:
        chosen = settings(**options, freeze=["linear_probe", "last_blocks", "lp_ft"], **more)
        run_trials(chosen)
        return [row.number for row in read_trials(chosen) if row.facts.is_probe]

    early = probes(study="early", budget=300.0)
    assert probes(study="unlimited") == early
    monkeypatch.setattr(trial_queue, "PROBING_FRACTION", 1e-9)
    late = probes(study="late", budget=300.0)
    assert early[0] == late[0] == 0
    assert len(early) == len(late) == 2
    assert late[1] > early[1]
