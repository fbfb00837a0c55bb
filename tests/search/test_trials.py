"""The loop: what is drawn, filed as what it was, pruned, and gone on with."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from images import FAST, rows
from optuna.exceptions import StorageInternalError

from autotl import engine, study, training
from autotl.errors import StoreError, StudyError
from autotl.events import EpochCompleted, Event, TrialFinished, TrialStarted
from autotl.search.trials import GIVE_UP
from autotl.store import Store

Make = Callable[..., study.StudyConfig]


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
    '''Loses its numbers.'''
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.weight, float("nan"))
    return layer

@head
def greedy(features: int, classes: int):
    '''Never fits.'''
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


def test_two_runs_with_one_seed_give_the_same_trials(settings: Make, tmp_path: Path) -> None:
    first = engine.run(settings(out=tmp_path / "a", trials=7))
    second = engine.run(settings(out=tmp_path / "b", trials=7))
    other = engine.run(settings(out=tmp_path / "c", trials=7, seed=1))

    def trials(result: engine.Result) -> list[Any]:
        store = Store(f"sqlite:///{result.folder.parent}/autotl.db")
        return [(r.config, r.score, r.status) for r in store.trials("photos")]

    assert trials(first) == trials(second)
    assert first.summary["test"] == second.summary["test"]
    assert trials(first) != trials(other)


def test_ctrl_c_keeps_what_is_known_and_the_trial_is_done_again(
    settings: Make, tmp_path: Path
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, EpochCompleted) and event.number == 2 and event.epoch == 2:
            raise KeyboardInterrupt

    result = engine.run(settings(), interrupt)
    assert result.interrupted
    assert result.summary["test"] is None
    assert result.summary["best"]["trial"] in (0, 1)
    assert (result.folder / "model" / "model.safetensors").exists()
    made = rows(settings())
    assert [r.status for r in made] == ["complete", "complete", "interrupted"]
    assert made[2].score is None
    after = engine.run(settings())
    assert not after.interrupted
    made = rows(settings())
    assert made[3].config == made[2].config
    done = [r for r in made if r.status not in ("interrupted", "running")]
    assert len(done) == 6
    assert after.summary["test"] is not None
    # it goes on as if it had not been interrupted
    engine.run(settings(study="straight"))
    assert [r.config for r in rows(settings(study="straight"))] == [r.config for r in done]


def test_a_killed_run_is_cleared_away(settings: Make) -> None:
    engine.run(settings(trials=2))
    url = f"sqlite:///{settings().out}/autotl.db"
    loaded = optuna.load_study(study_name="photos", storage=url)
    zombie = loaded.ask()
    zombie.set_user_attr("process", ["elsewhere", 1])
    Store(url).begin_trial("photos", zombie.number, {}, 3)
    engine.run(settings(trials=3))
    made = rows(settings())
    assert [r.status for r in made][:3] == ["complete", "complete", "interrupted"]
    assert made[2].reason == "its process ended"


def test_a_trial_killed_before_it_drew_keeps_its_recipe(settings: Make) -> None:
    """It is in Optuna's tables alone, and what it was to draw in its attributes."""
    few = {"freeze": ["linear_probe", "last_blocks"], "head": ["linear"]}
    engine.run(settings(**few, trials=2))
    url = f"sqlite:///{settings().out}/autotl.db"
    loaded = optuna.load_study(study_name="photos", storage=url)
    recipe = next(t for t in loaded.trials if t.params["freeze"] == "last_blocks")
    loaded.enqueue_trial(recipe.params, user_attrs={"recipe": ["tiny", "last_blocks", "other"]})
    loaded.ask().set_user_attr("process", ["elsewhere", 1])
    engine.run(settings(**few, trials=3))
    again = optuna.load_study(study_name="photos", storage=url).trials
    assert again[3].params == recipe.params
    assert again[3].user_attrs["recipe"] == ["tiny", "last_blocks", "other"]


def test_heads_beside_one_that_is_solved_for_have_all_their_epochs(settings: Make) -> None:
    engine.run(settings(freeze=["linear_probe"], head=["logistic_regression", "mlp"], trials=12))
    epochs: dict[str, set[int]] = {}
    url = f"sqlite:///{settings().out}/autotl.db"
    trials = optuna.load_study(study_name="photos", storage=url).trials
    for row in rows(settings()):
        epochs.setdefault(next(iter(row.config["head"])), set()).add(row.epochs)
        assert trials[row.number].user_attrs["epochs"] == row.epochs  # for the pruner
    assert epochs == {"logistic_regression": {1}, "mlp": {FAST["epochs"]}}


def test_a_metric_that_needs_two_classes_says_so_at_once(settings: Make, tmp_path: Path) -> None:
    made = settings(metric="auroc", trials=1)
    for name, kept in (("red", 20), ("green", 2), ("blue", 0)):
        for i in range(kept, 20):
            (tmp_path / "photos" / name / f"{i}.png").unlink()
    (tmp_path / "photos" / "blue").rmdir()
    with pytest.raises(StudyError, match="auroc needs pictures of two classes to validate on"):
        engine.run(made)
    assert rows(made) == []


def test_a_metric_that_needs_two_classes_to_test_on_says_so_at_once(
    settings: Make, tmp_path: Path
) -> None:
    made = settings(metric="auroc", trials=1)
    lines = ["path,label,split"]
    for number, part in enumerate(["train"] * 10 + ["val"] * 5 + ["test"] * 5):
        for label in ("red",) if part == "test" else ("red", "green"):
            lines.append(f"photos/{label}/{number}.png,{label},{part}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    with pytest.raises(StudyError, match="auroc needs pictures of two classes to test on"):
        engine.run(made.model_copy(update={"data": str(tmp_path / "table.csv")}))


def test_a_seed_may_be_any(settings: Make) -> None:
    assert engine.run(settings(trials=1, seed=2**31 - 1)).best


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


def test_limits_bind_the_trials_of_earlier_runs_too(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = settings(freeze=["linear_probe"], head=["linear"], trials=3)
    monkeypatch.syspath_prepend(tmp_path)  # where the plugin of the fixture is
    (tmp_path / "wide_plugin.py").write_text(WIDE)
    plugins = (*made.plugin, tmp_path / "wide_plugin.py")
    both = made.model_copy(update={"backbone": ("tiny", "wide"), "plugin": plugins})
    first = engine.run(both)
    names = {row.number: next(iter(row.config["backbone"])) for row in rows(made)}
    assert set(names.values()) == {"tiny", "wide"}
    result = engine.run(both.model_copy(update={"max_parameters": 3000}))
    assert result.best
    assert "tiny" in result.best["config"]["backbone"]
    assert {names[point["trial"]] for point in result.summary["pareto"]} == {"tiny"}
    barred = {row.number for row in rows(made) if row.facts.get("barred")}
    assert barred == {number for number, name in names.items() if name == "wide"}
    assert "0.01 M parameters, more than 0.00 M" in (result.folder / "report.html").read_text()
    with pytest.raises(StudyError, match="limits leave out every trial"):
        engine.run(both.model_copy(update={"max_parameters": 10, "backbone": ("tiny",)}))
    again = engine.run(both)  # without the limit they are back
    assert again.summary["pareto"] == first.summary["pareto"]
    assert not any(row.facts.get("barred") for row in rows(made))


def test_a_living_run_is_not_disturbed(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.run(settings(trials=1))
    url = f"sqlite:///{settings().out}/autotl.db"
    running = optuna.load_study(study_name="photos", storage=url).ask()
    running.set_user_attr("process", [platform.node(), 1])
    monkeypatch.setattr("os.kill", lambda *_: None)  # process 1 is alive
    with pytest.raises(StudyError, match="is being run by process 1"):
        engine.run(settings(trials=2))


def test_a_run_that_is_in_its_finals_is_not_disturbed(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run(settings(trials=1, prefer="accuracy"))
    known = Store(f"sqlite:///{settings().out}/autotl.db")
    known.update("photos", state="running", process=[platform.node(), 1])

    def someone_elses(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.kill", someone_elses)
    with pytest.raises(StudyError, match="is being run by process 1"):
        engine.run(settings(trials=2, prefer="cheap"))
    assert known.require("photos")["prefer"] == "accuracy"


def test_a_database_that_fails_in_a_trial_is_one_line(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageInternalError("disk is full")

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_intermediate_value", full)
    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_state_values", full)
    with pytest.raises(StoreError, match=r"autotl\.db: disk is full; make room"):
        engine.run(settings(trials=2))


@pytest.mark.parametrize(
    ("head", "end", "reason"),
    [
        ("explodes", "failed", "RuntimeError: boom"),
        ("refuses", "incompatible", "needs more features"),
        ("diverges", "diverged", "nan in epoch 1"),
        ("greedy", "out_of_memory", "one picture alone"),
    ],
)
def test_trials_are_filed_as_what_they_are(
    settings: Make, tmp_path: Path, head: str, end: str, reason: str
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    files = [tmp_path / "tiny_plugin.py", tmp_path / "broken.py"]
    with pytest.raises(StudyError, match="no trial has come to its end") as error:
        engine.run(settings(head=[head], plugin=files))
    assert reason in str(error.value)
    first = rows(settings())[0]
    assert first.status == end
    assert reason in first.reason
    url = f"sqlite:///{settings().out}/autotl.db"
    trial = optuna.load_study(study_name="photos", storage=url).trials[0]
    assert trial.state == optuna.trial.TrialState.FAIL
    assert trial.user_attrs["status"] == end


def test_one_broken_candidate_does_not_end_the_search(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    files = [tmp_path / "tiny_plugin.py", tmp_path / "broken.py"]
    result = engine.run(settings(head=["linear", "explodes"], plugin=files, trials=12))
    assert result.summary["trials"]["failed"] >= 1
    assert "linear" in result.summary["best"]["config"]["head"]


OWN = """
from torch import nn
from autotl import head

@head
def own(features: int, classes: int):
    '''Whose file is not there in the next run.'''
    return nn.Linear(features, classes)
"""


def test_whose_plugin_is_no_longer_loaded_does_not_win(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    files = [tmp_path / "tiny_plugin.py", tmp_path / "own.py"]
    first = engine.run(settings(head=["own"], plugin=files, trials=1))
    assert first.summary["best"]["config"]["head"] == {"own": {}}
    other = engine.run(settings(head=["linear"], trials=2))
    assert "linear" in other.summary["best"]["config"]["head"]
    barred = [row.facts.get("barred", "") for row in rows(settings())]
    assert barred == ["the head plugin 'own' is not loaded in this run", ""]
    again = engine.run(settings(head=["own"], plugin=files, trials=3))
    assert not any(row.facts.get("barred") for row in rows(settings()))
    assert again.best


def optuna_trials(made: study.StudyConfig) -> list[optuna.trial.FrozenTrial]:
    url = f"sqlite:///{made.out}/autotl.db"
    return optuna.load_study(study_name=made.name, storage=url).trials


def test_a_probe_takes_other_heads_along(settings: Make) -> None:
    chosen = settings(trials=24, head=["linear", "mlp", "cosine"], freeze=["linear_probe", "full"])
    shown: list[Event] = []
    engine.run(chosen, shown.append)
    filed = rows(chosen)[:6]  # a quarter of the trials
    heads = [next(iter(r.config["head"])) for r in filed]
    assert heads == ["linear", "cosine", "linear", "mlp", "cosine", "linear"]
    assert {next(iter(r.config["freeze"])) for r in filed} == {"linear_probe"}
    assert len({r.config["freeze"]["linear_probe"]["lr"] for r in filed}) == 6
    assert all((r.status, r.epochs) == ("complete", 3) for r in filed)
    assert all(len(store_of(chosen).epochs("photos", r.number)) == 3 for r in filed)
    for row, trial in zip(filed, optuna_trials(chosen), strict=False):
        assert trial.value == row.score == trial.intermediate_values[3]
        assert row.trained_parameters
        assert trial.user_attrs.get("beside") == (0 if row.number else None)
    assert isinstance(filed[0].facts["logme"], float)
    assert "full" in rows(chosen)[6].config["freeze"]
    # each began, had its epochs and ended
    for number in range(6):
        mine = [type(e) for e in shown if getattr(e, "number", None) == number]
        assert mine == [TrialStarted, EpochCompleted, EpochCompleted, EpochCompleted, TrialFinished]


def test_what_rides_along_scores_what_it_would_alone(settings: Make) -> None:
    chosen = settings(trials=24, head=["linear", "mlp"], freeze=["linear_probe", "full"])
    engine.run(chosen)
    row = next(r for r in rows(chosen)[1:6] if "mlp" in r.config["head"])
    again = settings(
        study="again",
        trials=1,
        head=list(row.config["head"]),
        space=row.config,
        freeze=list(row.config["freeze"]),
    )
    engine.run(again)
    assert rows(again)[0].score == row.score


def test_an_interrupted_probe_is_done_again_with_its_company(settings: Make) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, EpochCompleted) and event.number == 0 and event.epoch == 2:
            raise KeyboardInterrupt

    options = {"trials": 12, "head": ["linear", "mlp"]}
    assert engine.run(settings(**options), interrupt).interrupted
    assert [r.status for r in rows(settings())] == ["interrupted"] * 3
    engine.run(settings(**options))
    made = rows(settings())
    assert [r.status for r in made[3:6]] == ["complete"] * 3
    assert made[3].config == made[0].config
    assert [t.user_attrs.get("beside") for t in optuna_trials(settings())[3:6]] == [None, 3, 3]


def test_a_broken_head_beside_a_probe_fails_alone(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    files = [tmp_path / "tiny_plugin.py", tmp_path / "broken.py"]
    chosen = settings(head=["explodes", "linear", "diverges"], plugin=files, trials=16)
    engine.run(chosen)
    filed = rows(chosen)[:4]
    assert [r.status for r in filed] == ["complete", "diverged", "failed", "complete"]
    assert "boom" in filed[2].reason
    assert "boom" in optuna_trials(chosen)[2].user_attrs["traceback"]


def test_a_limit_is_a_constraint_that_the_sampler_learns_from(settings: Make) -> None:
    with pytest.raises(StudyError, match="more than 0"):
        engine.run(settings(max_parameters=10, trials=2))
    first = optuna_trials(settings())[0]
    assert first.constraints["parameters"] > 0
    assert first.state == optuna.trial.TrialState.PRUNED
    assert rows(settings())[0].status == "incompatible"
    chosen = settings(study="b", max_parameters=10**6, trials=2)
    engine.run(chosen)
    assert optuna_trials(chosen)[0].constraints["parameters"] < 0


def test_a_study_learns_from_its_predecessors(settings: Make, tmp_path: Path) -> None:
    past = settings(study="past", trials=5)
    best = engine.run(past).best
    assert best
    chosen = settings(history=True, trials=3)
    engine.run(chosen)
    second = rows(chosen)[1]
    assert second.config == best["config"]
    assert optuna_trials(chosen)[1].user_attrs["recipe"] == ["learned from", "past"]
    # what was learned stands, whatever other studies do meanwhile
    engine.run(settings(study="other", trials=5, seed=1))
    engine.run(chosen.model_copy(update={"trials": 5}))
    learned = [t.user_attrs.get("recipe", [""])[0] for t in optuna_trials(chosen)]
    assert learned.count("learned from") == 1
    # from another database, and not at all
    there = settings(
        out=tmp_path / "else", history=True, learn_from=f"{past.out}/autotl.db", trials=2
    )
    engine.run(there)
    assert optuna_trials(there)[1].user_attrs["recipe"][0] == "learned from"
    without = settings(study="without", trials=3)
    engine.run(without)
    assert "learned from" not in str([t.user_attrs.get("recipe") for t in optuna_trials(without)])


def test_a_database_to_learn_from_must_be_there(settings: Make, tmp_path: Path) -> None:
    (tmp_path / "past.db").touch()
    for place in (f"{tmp_path}/pst.db", f"sqlite:///{tmp_path}/pst.db"):
        with pytest.raises(StoreError, match=r"no database .*pst.db; did you mean 'past.db'\?"):
            engine.run(settings(learn_from=place))
    assert [file.name for file in tmp_path.glob("*.db")] == ["past.db"]


def store_of(made: study.StudyConfig) -> Store:
    return Store(f"sqlite:///{made.out}/autotl.db")


def test_pruning_is_fed_and_filed(settings: Make) -> None:
    strong = {"freeze": {"linear_probe": {"lr": [3e-4, 3e-2]}}}
    options = {"space": strong, "freeze": ["linear_probe"], "trials": 25, "epochs": 6}
    engine.run(settings(**options))
    url = f"sqlite:///{settings().out}/autotl.db"
    trials = optuna.load_study(study_name="photos", storage=url).trials
    pruned = [t for t in trials if t.state == optuna.trial.TrialState.PRUNED]
    assert pruned
    assert all(0 < len(t.intermediate_values) < 6 for t in pruned)
    filed = {r.number: r for r in rows(settings())}
    assert all(filed[t.number].status == "pruned" for t in pruned)
    assert all("worst tenth" in filed[t.number].reason for t in pruned)


SLOW = {"freeze": ["linear_probe", "last_blocks", "full"], "head": ["linear", "mlp"]}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but linear probes take forever."""
    measure = training.measure

    def measured(network: Any, config: Any, task: Any) -> Any:
        cost = measure(network, config, task)
        long = config["freeze"].name != "linear_probe"
        return replace(cost, epoch=1e9, costly=1.0) if long else cost

    monkeypatch.setattr(training, "measure", measured)


@pytest.mark.usefixtures("slow")
def test_what_there_is_no_time_for_gives_way_to_what_is_cheapest(settings: Make) -> None:
    engine.run(settings(budget=300.0, trials=9, **SLOW))
    ends = [(r.status, next(iter(r.config["freeze"]))) for r in rows(settings())]
    late = [i for i, (end, _) in enumerate(ends[:-1]) if end == "out_of_time"]
    assert late
    assert all(ends[i + 1][1] == "linear_probe" for i in late)
    assert all((end == "out_of_time") == (name != "linear_probe") for end, name in ends)


@pytest.mark.usefixtures("slow")
def test_the_search_ends_where_there_is_time_for_cheap_trials_only(settings: Make) -> None:
    """It would go on for hours with trials that nobody asked for."""
    engine.run(settings(budget=9999.0, trials=None, **SLOW))
    ends = [r.status for r in rows(settings())]
    assert ends[-1] == "out_of_time"
    assert GIVE_UP <= ends.count("out_of_time") <= 4 * GIVE_UP  # the first few cheap ones may lead
