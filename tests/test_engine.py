"""Whole searches on small pictures: what is found, kept and handed over."""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import optuna
import optuna_dashboard
import pytest
from command_line import run
from images import FAST, read_trials, write_images, write_plugin

import autotl
from autotl import data, engine, events, files, models, report, study, training
from autotl.artifact import model_folder
from autotl.data import packing
from autotl.errors import (
    DataError,
    Incompatible,
    OutOfTime,
    PluginError,
    SearchError,
    StoreError,
    StudyError,
)
from autotl.events import EpochCompleted, Event, Note, TrialFinished, TrialStarted
from autotl.models import Model
from autotl.report import page
from autotl.scoring.mirroring import Mirroring
from autotl.search import warm_start
from autotl.search.input_plan import InputPlan
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.search.trial_training import TrialTraining
from autotl.selection import final_selection, finish, sealed_test
from autotl.selection.repeats import Repeats
from autotl.space import registry, space
from autotl.store import Contender, Interval, Member, Standing, Store
from autotl.training import probes
from autotl.training.inputs import Inputs
from autotl.training.latency import Spread
from autotl.training.loop import Training
from autotl.training.loss import TrainingLoss
from autotl.training.unlabelled import UnlabelledInputs

Make = Callable[..., study.StudyConfig]


def test_a_search_selects_refits_tests_and_saves(settings: Make, tmp_path: Path) -> None:
    events: list[Event] = []
    heads = ["linear", "mlp", "logistic_regression"]
    result = engine.run(settings(head=heads), events.append)
    folder = tmp_path / "runs" / "photos"
    assert result.folder == folder
    assert sorted(p.name for p in folder.iterdir()) == [
        ".autotl", "issues.csv", "model", "recipe.toml", "report.html", "splits.csv",
        "summary.json",
    ]  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == result.summary
    assert sum(summary["trials"].values()) == 6
    assert summary["best"]["validation"]["mean"] > 0.8
    assert summary["test"]["score"] > 0.8
    assert summary["test"]["low"] < summary["test"]["score"] <= summary["test"]["high"]
    assert summary["test"]["n"] == summary["data"]["test"] == 12
    assert summary["baselines"]["linear_probe"]["trial"] == 0
    assert summary["baselines"]["default_recipe"]["trial"] in (1, 2, 3, 4)
    # the winner is the best of the complete trials
    scores = {r.number: r.score for r in read_trials(settings()) if r.status == "complete"}
    assert scores[summary["best"]["trial"]] == max(scores.values())
    # every epoch was shown, kept and reported to Optuna
    epochs = [e for e in events if isinstance(e, EpochCompleted)]
    loaded = optuna.load_study(study_name="photos", storage=f"sqlite:///{tmp_path}/runs/autotl.db")
    reported = [len(t.intermediate_values) for t in loaded.trials]
    assert sum(reported) == len(epochs) >= 6
    # Optuna Dashboard shows each attribute on one line, however wide the page gets.
    values = [len(str(value)) for trial in loaded.trials for value in trial.user_attrs.values()]
    assert max(values) < 100


def test_the_same_command_continues(settings: Make) -> None:
    whole = engine.run(settings(study="whole", trials=6))
    engine.run(settings(study="parts", trials=3))
    parts = engine.run(settings(study="parts", trials=6))
    made = {
        name: [r.config for r in read_trials(settings(study=name))] for name in ("whole", "parts")
    }
    assert made["whole"] == made["parts"]
    assert whole.summary["best"]["config"] == parts.summary["best"]["config"]
    notes: list[Event] = []
    again = engine.run(settings(study="parts", trials=6), notes.append)
    assert not [e for e in notes if isinstance(e, TrialFinished)]
    assert [e.text for e in notes if isinstance(e, Note)][-1].endswith("its model remains")
    assert again.summary["test"] == parts.summary["test"]
    assert len(Store(f"sqlite:///{settings().out}/autotl.db").tests("parts")) <= 2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"epochs": 4}, "epochs=3, not 4"),
        ({"metric": "macro_f1"}, "metric=accuracy, not macro_f1"),
    ],
)
def test_a_study_that_asks_something_else_is_refused(
    settings: Make, changed: dict[str, Any], says: str
) -> None:
    engine.run(settings(trials=1))
    with pytest.raises(StudyError, match="--study") as error:
        engine.run(settings(trials=2, **changed))
    assert says in str(error.value)


def test_what_is_not_given_is_what_the_study_has(settings: Make) -> None:
    engine.run(settings(trials=1, image_size=[24], epochs=2, seed=5))
    bare = study.StudyConfig.model_validate(
        settings(trials=2).model_dump(
            include={"data", "plugin", "out", "backbone", "trials", "device", "history"}
        )
    )
    notes: list[Event] = []
    engine.run(bare, notes.append)
    assert len(read_trials(settings())) == 2
    assert "image_size = 24" in (settings().folder / "recipe.toml").read_text()
    [text] = [e.text for e in notes if isinstance(e, Note) and "as in the earlier runs" in e.text]
    assert {"seed=5", "epochs=2", "image_size=24"} <= set(text.partition(": ")[2].split(", "))


def test_a_model_finds_its_data_from_any_folder(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = engine.run(settings(trials=1)).folder
    for name in ("model/config.json", "model/README.md", "recipe.toml"):
        assert str(tmp_path) not in (folder / name).read_text(), "no absolute path"
    moved = tmp_path / "elsewhere/project"
    moved.parent.mkdir()
    project = tmp_path / "project"
    project.mkdir()
    for name in ("photos", "runs"):
        (tmp_path / name).rename(project / name)
    project.rename(moved)
    monkeypatch.chdir("/")
    loaded = model_folder.load(moved / "runs/photos/model", registry.load(settings().plugin))
    assert loaded.was_trained_on(str(moved / "photos"))


def test_a_study_keeps_its_search_space(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    narrow = {"mlp": {"depth": 1}}
    options = {"head": ["mlp"], "space": {"head": narrow}, "plugin": [Path("tiny_plugin.py")]}
    engine.run(settings(trials=2, **options))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    keys = {"data", "out", "trials", "device", "history"}
    bare = study.StudyConfig.model_validate(settings(trials=4).model_dump(include=keys))
    notes: list[Event] = []
    engine.run(bare, notes.append)
    [text] = [e.text for e in notes if isinstance(e, Note) and "as in the earlier runs" in e.text]
    for part in ("backbone=tiny", "head=mlp", "space=head.mlp.depth=1", "plugin=/"):
        assert part in text
    rows = read_trials(settings())
    assert len(rows) == 4
    assert {(*row.config["backbone"], *row.config["head"]) for row in rows} == {("tiny", "mlp")}
    assert {row.config["head"]["mlp"]["depth"] for row in rows} == {1}
    wider = bare.model_copy(update={"head": ("linear",), "space": {}, "trials": 5})
    wider = study.StudyConfig.model_validate(wider.model_dump(include={*keys, "head", "space"}))
    engine.run(wider, notes.append)
    assert "linear" in read_trials(settings())[4].config["head"], "what is given comes first"


def test_a_study_keeps_the_options_of_its_data(settings: Make, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "warm").mkdir()
    (photos / "red").rename(photos / "warm/red")
    (photos / "blue").rename(photos / "warm/blue")
    with pytest.raises(StudyError, match=r"--data-option: .* did you mean 'classes'"):
        engine.run(settings(data_options={"clases": "deepest"}))
    first = engine.run(settings(trials=1, data_options={"classes": "deepest"}))
    classes = ["green", "warm/blue", "warm/red"]
    assert first.summary["data"]["classes"] == classes
    bare = settings(trials=2)
    assert engine.run(bare).summary["data"]["classes"] == classes
    assert len(read_trials(bare)) == 2
    with pytest.raises(StudyError, match="has data_options=classes=deepest, not classes=top"):
        engine.run(settings(data_options={"classes": "top"}))
    recipe = study.configure_recipe(first.folder / "recipe.toml", None, {})
    assert recipe.data_options == {"classes": "deepest"}
    words = ("evaluate", first.folder / "model", photos, "--plugin", tmp_path / "tiny_plugin.py")
    assert "60 images" in run(*words).output, "the model knows how its data were read"
    top = run(*words, "--data-option", "classes=top")
    assert "20 images" in top.output


def test_a_study_without_a_complete_trial_locks_nothing(settings: Make) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, TrialStarted):
            raise StudyError("no")

    with pytest.raises(StudyError):
        engine.run(settings(trials=1, epochs=2), fail)
    assert not any(row.status == "complete" for row in read_trials(settings()))
    result = engine.run(settings(trials=3, epochs=4, metric="macro_f1"))
    assert result.summary["metric"] == "macro_f1"


def test_a_study_grows_and_shrinks_with_all_its_trials(settings: Make) -> None:
    frozen = {"freeze": ["linear_probe"], "head": ["linear", "mlp"], "trials": 4}
    engine.run(settings(**frozen))
    before = read_trials(settings())
    notes: list[Event] = []
    more = {"freeze": ["linear_probe", "last_blocks"], "head": ["linear", "cosine"]}
    grown = engine.run(settings(**more, trials=12), notes.append)
    after = read_trials(settings())
    assert after[:4] == before
    assert len(after) == 12
    assert "the search space has changed; 4 trials were carried over" in [
        e.text for e in notes if isinstance(e, Note)
    ]
    study = optuna.load_study(study_name="photos", storage=f"sqlite:///{settings().out}/autotl.db")
    first: Any = SimpleNamespace(
        storage=study._storage, study=study, _trial_id=study.trials[0]._trial_id
    )
    assert "### Trial 0: " in optuna_dashboard.get_note(first)
    assert {name for r in after[4:] for name in r.config["freeze"]} == {
        "linear_probe",
        "last_blocks",
    }
    assert "mlp" not in {name for r in after[4:] for name in r.config["head"]}
    scores = {r.number: r.score for r in after if r.status == "complete"}
    assert grown.summary["best"]["validation"]["mean"] == max(scores.values())
    # a winner that the space no longer knows can still be refitted
    [head] = grown.summary["best"]["config"]["head"]
    other = "linear" if head != "linear" else "cosine"
    less = engine.run(settings(freeze=["linear_probe"], head=[other], trials=13, retest=True))
    assert less.summary["best"]["config"]
    assert len(read_trials(settings())) == 13


def test_other_pictures_under_the_same_name_are_refused(settings: Make, tmp_path: Path) -> None:
    engine.run(settings(trials=1))
    (tmp_path / "photos" / "red" / "0.png").unlink()
    with pytest.raises(StudyError, match="other images"):
        engine.run(settings(trials=2))


@pytest.mark.parametrize("budget", [20.0, 25.0])
def test_the_budget_holds_for_everything(
    settings: Make, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that advances when it is read, so that the machine's load does not matter."""
    readings = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: 0.01 * next(readings))
    result = engine.run(settings(budget=budget, trials=None, epochs=30))
    took = 0.01 * next(readings)
    assert took < budget + 1
    assert result.summary["test"] is not None
    # The database reads the clock too, also after this was stored.
    assert took - 4 < result.summary["seconds"] <= took


def test_a_budget_too_short_for_anything_says_so(settings: Make) -> None:
    message = r"the budget is too short: .*; give --budget \d+s or more"
    with pytest.raises(StudyError, match=message):
        engine.run(settings(budget=0.5, trials=None))


def test_packed_images_are_reused(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run(settings(trials=1))
    monkeypatch.setattr(packing._Writer, "__call__", lambda *_: pytest.fail("packed again"))
    engine.run(settings(trials=1, study="another"))


def test_errors_that_a_user_can_mend(settings: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean 'photos'"):
        engine.run(study.configure(str(tmp_path / "photo"), {"out": tmp_path / "runs"}))
    assert not (tmp_path / "runs").exists()  # a slip of the pen leaves nothing behind
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        engine.run(settings(out=tmp_path / "file"))
    with pytest.raises(PluginError, match="did you mean 'linear_probe'"):
        engine.run(settings(freeze=["linear_prob"]))
    with pytest.raises(StudyError, match="no metric is called 'acuracy'"):
        engine.run(settings(metric="acuracy"))


def test_search_from_python(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", count=8)
    result = autotl.search(
        tmp_path / "photos",
        trials=1,
        backbone="tiny",
        plugin=[write_plugin(tmp_path)],
        out=tmp_path / "runs",
        **FAST,
    )
    assert isinstance(result, engine.Result)
    assert result.best
    assert result.best["trial"] == 0
    assert events.ignore(Note("x")) is None


def test_backbones_that_are_too_slow_are_excluded_and_stay_excluded(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = settings().plugin[0]
    other = file.with_name("other.py")
    other.write_text(file.read_text().replace("def tiny", "def slow"))
    timed: list[str] = []
    times = {"tiny": 4.0, "slow": 40.0}

    def latency(backbone: Any, *_: Any) -> Spread:
        timed.append(backbone.name)
        return Spread(times[backbone.name], 0.0, math.inf)

    monkeypatch.setattr(training, "measure_latency", latency)
    options = {"backbone": ["tiny", "slow"], "plugin": [file, other], "max_latency": 20}
    notes: list[Event] = []
    engine.run(settings(**options, trials=1), notes.append)
    texts = [e.text for e in notes if isinstance(e, Note)]
    assert any("slow (40.0 ms per example, more than 20)" in text for text in texts)
    times["slow"] = 1.0  # it goes on with what was measured first
    engine.run(settings(**options, trials=2))
    assert sorted(timed) == ["slow", "tiny"]
    assert {name for r in read_trials(settings()) for name in r.config["backbone"]} == {"tiny"}
    times["slow"] = 40.0
    with pytest.raises(PluginError, match=r"no backbone is left .*40\.0 ms"):
        engine.run(settings(**{**options, "backbone": ["slow"], "study": "b"}))


def test_latency_is_measured() -> None:
    plugin = registry.load([]).get_untrained("backbone", "test_resnet")
    where = models.select_device("cpu", "float32")
    choice = space.Choice(plugin, {})
    small, large = (training.measure_latency(choice, size, where) for size in (64, 320))
    assert 0 < small.low <= small.median < large.median


def test_a_model_with_too_many_parameters_is_incompatible(settings: Make) -> None:
    with pytest.raises(StudyError, match=r"[\d,]+ parameters, more than 10"):
        engine.run(settings(max_parameters=10, trials=2))


def test_unequal_classes_are_balanced_and_equal_ones_are_not(
    settings: Make, tmp_path: Path
) -> None:
    engine.run(settings(trials=1))
    assert "balance" not in read_trials(settings())[0].config
    for i in range(10):
        (tmp_path / "photos" / "red" / f"{i}.png").unlink()
    unequal = settings(study="unequal", trials=8, metric="balanced_accuracy")
    result = engine.run(unequal)
    found = {name for r in read_trials(unequal) for name in r.config["balance"]}
    assert len(found) > 1
    assert result.summary["best"]["config"]["balance"]


def test_unlabelled_images_train_the_trial_and_the_refitted_model(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = write_images(tmp_path / "few", count=8)
    write_images(photos / "unlabelled", count=30, seed=1)
    jobs: list[tuple[int, int]] = []
    make = UnlabelledInputs.draw

    def draw(self: UnlabelledInputs, number: int, sizes: Any) -> Any:
        jobs.append((self.batches.num_examples, sum(sizes)))
        return make(self, number, sizes)

    monkeypatch.setattr(UnlabelledInputs, "draw", draw)
    only = settings(data=str(photos), study="only", trials=1, unlabelled=["information"])
    summary = engine.run(only).summary
    counts = [summary["data"][split] for split in ("train", "validation")]
    assert {labelled for _, labelled in jobs} >= {counts[0], sum(counts)}
    assert {unlabelled for unlabelled, _ in jobs} == {90}
    trained = autotl.load(only.folder / "model", only.plugin).training_images
    assert trained is not None
    assert len(trained) == 90 + sum(counts)
    assert summary["data"]["unlabelled"] == 90
    page = (only.folder / "report.html").read_text()
    assert "90 unlabelled ones" in page
    assert "information" in page


def test_a_few_unlabelled_images_are_not_searched(settings: Make, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "many")
    write_images(photos / "unlabelled", count=1, seed=1)
    notes: list[Event] = []
    chosen = settings(data=str(photos), study="many", trials=1)
    engine.run(chosen, notes.append)
    texts = [note.text for note in notes if isinstance(note, Note)]
    assert "3 unlabelled images are used by no plugin of this search" in texts
    assert "unlabelled" not in read_trials(chosen)[0].config
    with pytest.raises(StudyError, match="no unlabelled images for fixmatch; put some into a"):
        engine.run(settings(study="none", unlabelled=["fixmatch"], trials=1))


def test_several_sizes_are_searched(settings: Make) -> None:
    file = settings().plugin[0]
    file.write_text(
        file.read_text()
        .replace("def tiny():", "def tiny(size):")
        .replace("return Tiny()", "return Sized(size)")
        + "\n\nclass Sized(Tiny):\n    def __init__(self, size):\n        super().__init__()\n"
        "        self.pretrained_cfg = {**self.pretrained_cfg, 'input_size': (3, size, size)}\n"
    )
    result = engine.run(settings(image_size=[32, 48], trials=8, head=["linear"]))
    sizes = {r.config["backbone"]["tiny"]["image_size"] for r in read_trials(settings())}
    assert sizes == {32, 48}
    chosen = result.summary["best"]["config"]["backbone"]["tiny"]["image_size"]
    about = json.loads((result.folder / "model" / "config.json").read_text())
    assert about["input"]["size"] == chosen
    options = {"out": result.folder.parent, "plugin": [file], "device": "cpu"}
    again = engine.run(study.configure_recipe(result.folder / "recipe.toml", None, options))
    assert again.summary["best"]["config"] == result.summary["best"]["config"]


def test_a_study_that_goes_on_with_another_budget_keeps_its_backbones(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant: list[float | None] = []
    make = space.build_space

    def made(plugins: Any, wanted: Any, narrow: Any, terms: Any, **rest: Any) -> Any:
        meant.append(terms.seconds)
        return make(plugins, wanted, narrow, terms, **rest)

    monkeypatch.setattr(space, "build_space", made)
    for budget in (60.0, 90.0):
        engine.run(settings(budget=budget, trials=1))
    assert meant == [60.0, 60.0]


def test_the_recipe_knows_the_folder_of_weights(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    result = engine.run(settings(trials=1, weights=Path("mine")))
    recipe = result.folder / "recipe.toml"
    weights = study.configure_recipe(recipe, None, {}).weights
    assert weights is not None
    assert weights.resolve() == tmp_path / "mine"


def test_no_password_is_in_the_report(settings: Make) -> None:
    urls = "postgresql+psycopg://me:secret@host/db --learn-from=postgresql://h/x?password=secret"
    result = engine.run(settings(trials=1), command=f"autotl search photos --storage {urls}")
    page = (result.folder / "report.html").read_text()
    assert "secret" not in page
    assert "postgresql+psycopg://me:***@host/db" in page


def test_another_recipe_is_another_study(settings: Make) -> None:
    """One trial of one configuration: with another nothing would be trained."""
    result = engine.run(settings(freeze=["linear_probe"], head=["linear"], trials=1))
    options = {"out": settings().out, "plugin": settings().plugin, "device": "cpu"}
    recipe = result.folder / "recipe.toml"
    notes: list[Event] = []
    for _ in range(2):
        engine.run(study.configure_recipe(recipe, None, options), notes.append)
    assert any("its model remains" in e.text for e in notes if isinstance(e, Note))
    recipe.write_text(recipe.read_text().replace("lr = 0.003", "lr = 0.02"))
    with pytest.raises(
        StudyError, match=r"another recipe.*autotl studies delete photos-retrained --out"
    ):
        engine.run(study.configure_recipe(recipe, None, options))
    again = engine.run(study.configure_recipe(recipe, None, {**options, "study": "other"}))
    assert again.summary["best"]["config"]["freeze"] == {"linear_probe": {"lr": 0.02}}


def test_a_refused_search_leaves_the_files_of_the_study(settings: Make, tmp_path: Path) -> None:
    result = engine.run(settings(trials=1))
    splits = (result.folder / "splits.csv").read_bytes()
    write_images(tmp_path / "other" / "photos", count=22)
    with pytest.raises(StudyError, match="other images"):
        engine.run(settings(trials=1).model_copy(update={"data": str(tmp_path / "other/photos")}))
    assert (result.folder / "splits.csv").read_bytes() == splits


def test_a_name_that_is_wrong_is_found_before_the_pictures_are_opened(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(*_: Any, **__: Any) -> None:
        raise AssertionError("the pictures were opened")

    monkeypatch.setattr(data, "check", check)
    with pytest.raises(PluginError, match="'liner'; did you mean 'linear'"):
        engine.run(settings(head=["liner"]))
    assert not settings().folder.exists()


def test_an_error_in_a_search_loses_no_trial(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(*_: Any) -> None:
        raise StudyError("the past cannot be read")

    monkeypatch.setattr(warm_start, "learn", learn)
    with pytest.raises(StudyError, match="the past cannot be read"):
        engine.run(settings(history=True))
    summary = json.loads((settings().folder / "summary.json").read_text())
    assert summary["trials"]["complete"] >= 1
    assert (settings().folder / "model" / "model.safetensors").exists()
    assert "AutoTL · failed" in (settings().folder / "report.html").read_text()


FAULTS = [OSError(28, "No space left on device"), DataError("x.png: gone")]


@pytest.mark.parametrize("fault", FAULTS, ids=["disk", "image"])
def test_a_fault_of_the_machine_ends_the_search_and_is_no_trial(
    settings: Make, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    fine_tune, count = training.fine_tune, itertools.count()

    def fail_once(*args: Any) -> Any:
        if next(count) == 1:
            raise fault
        return fine_tune(*args)

    options = settings(trials=2, freeze=["linear_probe", "last_blocks"])
    with monkeypatch.context() as patch:
        patch.setattr(training, "fine_tune", fail_once)
        with pytest.raises((StoreError, DataError), match=r"No space left on device|x\.png: gone"):
            engine.run(options)
    assert [row.status for row in read_trials(options)] == ["complete", "interrupted"]
    summary = json.loads((options.folder / "summary.json").read_text())
    assert summary["state"] == "failed"
    assert summary["best"]["trial"] == 0
    assert (options.folder / "model/config.json").exists()
    engine.run(options)
    rows = read_trials(options)
    assert [row.status for row in rows] == ["complete", "interrupted", "complete"]
    assert rows[2].config == rows[1].config
    assert rows[2].facts.recipe == rows[1].facts.recipe
    assert not json.loads((options.folder / "summary.json").read_text())["reason"]


MINE = """
from torch import nn
from autotl import head

@head(takes="features")
def mine(features: int, classes: int):
    '''A linear layer.'''
    {}
    return nn.Linear(features, classes)
"""


def test_trials_of_a_plugin_that_is_mended_do_not_count(settings: Make, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    options = settings(head=["mine"], trials=2).model_copy(
        update={"plugin": (tmp_path / "tiny_plugin.py", plugin)}
    )
    plugin.write_text(MINE.format("raise RuntimeError('boom')"))
    for _ in range(2):
        with pytest.raises(StudyError, match=r"no trial completed.*boom"):
            engine.run(options)
    plugin.write_text(MINE.format("pass"))
    engine.run(options)
    assert [row.status for row in read_trials(options)] == ["failed"] * 4 + ["complete"] * 2


@pytest.mark.parametrize(
    ("place", "step"),
    [
        (final_selection.FinalSelection, "run"),
        (finish, "refit"),
        (sealed_test.SealedTest, "run"),
        (page, "_render"),
    ],
    ids=["final selection", "refit", "test", "report"],
)
def test_an_error_of_another_library_after_the_trials_loses_nothing(
    settings: Make, monkeypatch: pytest.MonkeyPatch, place: Any, step: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    options = settings(trials=2)
    with monkeypatch.context() as patch:
        patch.setattr(place, step, fail)
        with pytest.raises(SearchError, match=r"CUDA error.*error\.txt"):
            engine.run(options)
    summary = json.loads((options.folder / "summary.json").read_text())
    assert summary["best"]
    assert summary["trials"]["complete"] == 2
    assert (options.folder / "model/model.safetensors").exists()
    assert "in fail" in (options.folder / "error.txt").read_text()
    if place != page:
        assert (summary["state"], summary["reason"][:18]) == ("failed", "RuntimeError: CUDA")
        assert "RuntimeError: CUDA" in (options.folder / "report.html").read_text()
    assert engine.run(options).summary["test"]
    assert not (options.folder / "error.txt").exists()


def test_a_search_touches_no_folder_of_the_user(settings: Make, tmp_path: Path) -> None:
    options = settings()
    photos = tmp_path / "photos"
    (photos / "red").rename(photos / "model")
    foreign = tmp_path / "runs/photos/model"
    foreign.mkdir(parents=True)
    (foreign / "weights.bin").write_text("mine")
    table = tmp_path / "images.csv"
    table.write_text("path,label\n")
    before = sorted(tmp_path.rglob("*"))
    for refused, match in (
        (options.model_copy(update={"out": tmp_path}), "would be inside the data"),
        (options, "AutoTL did not write"),
    ):
        with pytest.raises(StudyError, match=match):
            engine.run(refused)
    assert sorted(tmp_path.rglob("*")) == before
    inside = tmp_path / "runs/images"
    write_images(inside / "photos", count=1)
    table.write_text(f"path,label\n{inside}/photos/red/0.png,red\n")
    with pytest.raises(StudyError, match=r"the images in .* are inside .*runs/images"):
        engine.run(options.model_copy(update={"data": str(table)}))


def test_what_a_killed_run_left_is_removed(settings: Make) -> None:
    options = settings(trials=1)
    left = options.out / "cache" / ".autotl-00000000-1-00000000.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    os.utime(left, (1, 1))
    engine.run(options)
    assert list(options.out.rglob("*.tmp")) == []


@pytest.mark.parametrize("fault", ["a file in its place", "full disk"])
def test_a_cache_may_be_missing(
    settings: Make, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    options = settings(trials=3, freeze=["linear_probe", "last_blocks"])
    cache = options.out / "cache"
    if fault == "full disk":
        temporary_path, write_bytes = files.temporary_path, Path.write_bytes

        def find_no_room(path: Path) -> Path:
            return refuse(path) if cache in path.parents else temporary_path(path)

        def write_nothing(path: Path, content: Any) -> int:
            return refuse(path) if cache in path.parents else write_bytes(path, content)

        monkeypatch.setattr(files, "temporary_path", find_no_room)
        monkeypatch.setattr(Path, "write_bytes", write_nothing)
        monkeypatch.setattr(packing, "_flush", lambda file: refuse(Path(file.name)))
    else:
        cache.parent.mkdir()
        cache.write_text("not a folder")
    notes: list[str] = []
    result = engine.run(options, lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert result.summary["trials"]["complete"] == 3
    assert result.summary["selection"]["repeats"] >= 2
    assert result.summary["test"]
    warnings = [note for note in notes if "free some space" in note]
    assert len(warnings) == 3  # packed images, features, predictions of repeats: each once
    assert cache.is_file() or not [p for p in cache.rglob("*") if p.is_file()]


def refuse(path: Path) -> NoReturn:
    raise OSError(28, "No space left on device", str(path))


def test_without_a_final_selection_the_cheapest_is_preferred_too(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    made = {"freeze": ["linear_probe"], "head": ["linear", "mlp"], "trials": 8}
    result = engine.run(settings(**made, prefer="cheap"))
    assert result.summary["selection"] is None
    assert result.best
    tied = {c["trial"] for c in result.summary["contenders"] if c["tied_with_best"]}
    sizes = {row.number: row.parameters for row in read_trials(settings())}
    assert len({sizes[number] for number in tied}) > 1
    assert sizes[result.best["trial"]] == min(sizes[n] or 0 for n in tied)
    about = json.loads((result.folder / "model" / "config.json").read_text())
    assert about["head"] == result.best["config"]["head"]
    sentences = report.describe_result(result.summary)
    assert any("it was preferred because it is the" in sentence for sentence in sentences)


def test_a_metric_needs_two_classes_in_the_validation_split(settings: Make, tmp_path: Path) -> None:
    chosen = settings(metric="auroc", trials=1)
    for name, count in (("red", 20), ("green", 2), ("blue", 0)):
        for i in range(count, 20):
            (tmp_path / "photos" / name / f"{i}.png").unlink()
    (tmp_path / "photos" / "blue").rmdir()
    with pytest.raises(StudyError, match="auroc needs images of two classes to validate on"):
        engine.run(chosen)
    assert read_trials(chosen) == []


def test_a_metric_needs_two_classes_in_the_test_split(settings: Make, tmp_path: Path) -> None:
    chosen = settings(metric="auroc", trials=1)
    lines = ["path,label,split"]
    for number, split in enumerate(["train"] * 10 + ["val"] * 5 + ["test"] * 5):
        for label in ("red",) if split == "test" else ("red", "green"):
            lines.append(f"photos/{label}/{number}.png,{label},{split}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    with pytest.raises(StudyError, match="auroc needs images of two classes to test on"):
        engine.run(chosen.model_copy(update={"data": str(tmp_path / "table.csv")}))


def test_images_are_not_mirrored_if_the_classes_do_not_survive(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measure(*_: object) -> Mirroring:
        calls.append(1)
        return Mirroring(300, 0.95, 0.5, 0.03)

    def flips() -> set[bool]:
        chosen = [c for r in read_trials(settings()) for c in r.config["augment"].values()]
        return {values["flip"] for values in chosen if "flip" in values}

    monkeypatch.setattr(engine.search_space, "measure_mirroring", measure)
    notes: list[Event] = []
    result = engine.run(settings(trials=6), notes.append)
    assert any(isinstance(n, Note) and "does not mirror images" in n.text for n in notes)
    assert result.summary["mirroring"]["survives"] is False
    assert "does not mirror images" in (result.folder / "report.html").read_text()
    engine.run(settings(trials=8), notes.append)
    assert len(calls) == 1
    assert flips() == {False}
    assert not any(isinstance(n, Note) and "has changed" in n.text for n in notes)
    pinned = {"augment": {"flip_crop": {"flip": True}}}
    engine.run(settings(study="pinned", trials=1, augment=["flip_crop"], space=pinned))
    assert len(calls) == 1


def test_a_study_keeps_the_inputs_of_its_first_run(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[InputPlan] = []

    def plan_inputs(*_: Any) -> InputPlan:
        plans.append(InputPlan(24, 45, ("a reason",)))
        return plans[-1]

    monkeypatch.setattr(engine.inputs, "plan_inputs", plan_inputs)
    notes: list[Event] = []
    first = engine.run(settings(trials=2), notes.append)
    assert any(isinstance(e, Note) and e.text == "a reason" for e in notes)
    second = engine.run(settings(trials=3))
    assert len(plans) == 1  # not even with another budget does it change
    assert first.summary["data"] == second.summary["data"]
    data_facts = first.summary["data"]
    assert data_facts["train"] + data_facts["validation"] + data_facts["test"] == 45
    model = json.loads((first.folder / "model" / "config.json").read_text())
    assert model["input"]["size"] == 24
    recipe = (first.folder / "recipe.toml").read_text()
    assert "image_size = 24" in recipe


def test_an_interrupted_trial_continues_after_its_last_epoch(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotl.training.checkpoint.SAVE_FRACTION", 1e9)

    def interrupt(event: Event) -> None:
        if isinstance(event, EpochCompleted) and (event.number, event.epoch) == (1, 2):
            raise KeyboardInterrupt

    whole = engine.run(settings(study="whole", trials=2))
    assert engine.run(settings(trials=2), interrupt).interrupted
    events: list[Event] = []
    continued = engine.run(settings(trials=2), events.append)
    texts = [e.text for e in events if isinstance(e, Note)]
    assert "trial 2 continues after epoch 2 of 3" in texts
    assert continued.summary["test"] == whole.summary["test"]
    assert not list((settings().out / "cache" / "checkpoints").iterdir())


def test_an_unused_budget_is_reported(settings: Make) -> None:
    notes: list[Event] = []
    engine.run(settings(trials=1, budget=600.0), notes.append)
    [note] = [e.text for e in notes if isinstance(e, Note) and "unused" in e.text]
    assert 500 < int(note.split()[0]) <= 600
    notes.clear()
    engine.run(settings(trials=1), notes.append)
    assert not [e for e in notes if isinstance(e, Note) and "unused" in e.text]


def test_a_configuration_without_a_difference_is_not_trained_twice(settings: Make) -> None:
    """Of a head in closed form on a frozen backbone, the optimizer has no effect."""
    pinned = {"head": {"lda": {"shrinkage": 0.1}}}
    options = {"head": ["lda"], "freeze": ["linear_probe"], "space": pinned}
    summary = engine.run(settings(trials=4, **options)).summary
    assert summary["trials"]["complete"] == 1
    assert summary["trials"]["duplicate"] == 3
    rows = read_trials(settings())
    assert {row.status for row in rows[1:]} == {"duplicate"}
    assert rows[1].reason == "it would be trained as trial 0 was"
    assert len({json.dumps(row.config["optimizer"]) for row in rows}) > 1


def test_a_trial_without_progress_ends_early(settings: Make) -> None:
    result = engine.run(settings(trials=1, epochs=30, patience=2, freeze=["linear_probe"]))
    [row] = read_trials(settings())
    assert row.status == "complete"
    assert 3 <= row.epochs < 30
    assert f"epochs = {row.epochs}" in (result.folder / "recipe.toml").read_text()
    with pytest.raises(StudyError, match=r"has patience=2, not 3"):
        engine.run(settings(trials=2, epochs=30, patience=3, freeze=["linear_probe"]))


def test_an_ensemble_of_trials_is_refitted_tested_and_stays(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    score = Interval(mean=0.99, low=0.95, high=1.0)
    combined = Contender(
        kind="ensemble",
        role="ensemble",
        members=(Member(trial=1, weight=0.75), Member(trial=0, weight=0.25)),
        scores=(0.99,),
        standing=Standing(score=score, difference=score, tied=True),
    )
    monkeypatch.setattr(finish, "choose_ensemble", lambda *_: combined)
    options = {"head": ["linear"], "freeze": ["linear_probe", "last_blocks"]}
    result = engine.run(settings(trials=2, **options))
    best = result.summary["best"]
    assert (best["kind"], best["validation"]["mean"]) == ("ensemble", 0.99)
    assert [m["trial"] for m in best["members"]] == [1, 0]
    assert result.summary["selection"] is None
    assert result.summary["contenders"][0]["name"] == "ensemble"
    assert result.summary["test"]["n"] == 12
    assert result.summary["calibration"]
    assert (result.folder / "recipe-2.toml").exists()
    page = (result.folder / "report.html").read_text()
    assert "The winner is the ensemble of trial 1 (0.75) and trial 0 (0.25)" in page
    image = next((settings().out.parent / "photos").rglob("*.png"))
    assert sum(result.predict([image])[0].values()) == pytest.approx(1.0)
    # Without a better contender it stays.
    monkeypatch.setattr(finish, "choose_ensemble", lambda *_: None)
    notes: list[Event] = []
    later = engine.run(settings(trials=3, **options), notes.append)
    assert "the ensemble of an earlier run is still the best" in [
        e.text for e in notes if isinstance(e, Note)
    ]
    assert later.summary["best"] == best
    assert later.summary["test"] == result.summary["test"]


def test_without_time_to_refit_an_ensemble_the_best_trial_is_the_winner(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    members = (Member(trial=1, weight=0.5), Member(trial=0, weight=0.5))
    combined = Contender(kind="ensemble", members=members, scores=(0.99,))
    monkeypatch.setattr(finish, "choose_ensemble", lambda *_: combined)
    refit = finish.refit

    def refit_in_time(winner: Contender, *args: Any, **options: Any) -> Any:
        if winner.kind == "ensemble":
            raise OutOfTime("it would take 9 s, and 5 s are left")
        return refit(winner, *args, **options)

    monkeypatch.setattr(finish, "refit", refit_in_time)
    notes: list[Event] = []
    result = engine.run(settings(trials=2, head=["linear"]), notes.append)
    assert result.summary["best"]["kind"] == "trial"
    assert result.summary["test"]["n"] == 12
    text = "the ensemble was not refitted (it would take 9 s, and 5 s are left); the best trial is"
    assert any(isinstance(e, Note) and e.warning and text in e.text for e in notes)


# Faults of a GPU.


class Gpu:
    """A GPU that fails at one place in the second trial, and can be used no more from then on.

    Args:
        patch: Replaces the functions that use the GPU.
        place: The object and the name of the function in which it fails.
        error: The message.

    Attributes:
        late_calls: The names of the functions that used it after it had failed.
    """

    def __init__(self, patch: pytest.MonkeyPatch, place: tuple[Any, str], error: str) -> None:
        self.late_calls: list[str] = []
        self._error, self._armed, self._failed = error, False, False
        for owner, name in (
            (models, "build_model"),
            (training, "predict"),
            (training, "train_probes"),
            (training, "measure_latencies"),
            (Training, "begin_epoch"),
            (Model, "to"),
            (Model, "cuda"),
        ):
            patch.setattr(owner, name, self._fail_if_failed(name, getattr(owner, name)))
        patch.setattr(*place, self._fail_if_armed(getattr(*place)))

    def listen(self, event: Event) -> None:
        """Let the next call of the place fail once a trial has finished."""
        self._armed = self._armed or isinstance(event, TrialFinished)

    def _fail_if_armed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._armed:
                self._failed = True
                raise RuntimeError(self._error)
            return function(*args, **kwargs)

        return call

    def _fail_if_failed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._failed:
                self.late_calls.append(name)
                raise RuntimeError(self._error)
            return function(*args, **kwargs)

        return call


ILLEGAL = (
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be "
    "asynchronously reported at some other API call, so the stacktrace below might be incorrect."
)
PLACES: dict[str, tuple[Any, str]] = {
    "building": (models, "build_model"),
    "first step": (Training, "step"),
    "backward pass": (TrainingLoss, "backward"),
    "validation": (Inputs, "predict_validation"),
    "checkpoint": (Training, "save_checkpoint"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_a_gpu_that_fails_in_a_trial_ends_the_search_with_what_is_known(
    settings: Make, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, str]
) -> None:
    options = settings(trials=2, freeze=["linear_probe", "last_blocks"])
    notes: list[str] = []
    with monkeypatch.context() as patch:
        gpu = Gpu(patch, place, ILLEGAL)

        def listen(event: Event) -> None:
            gpu.listen(event)
            if isinstance(event, Note):
                notes.append(event.text)

        with pytest.raises(SearchError, match=r"the GPU failed in trial 1 \(CUDA error: ") as why:
            engine.run(options, listen)
    assert gpu.late_calls == []
    assert not [text for text in notes if "saved" in text]
    message = str(why.value)
    assert "\n" not in message
    for part in ("CUDA_LAUNCH_BLOCKING=1", str(options.folder / "error.txt"), "repeat the command"):
        assert part in message
    assert "illegal memory access" in (options.folder / "error.txt").read_text()
    rows = read_trials(options)
    assert [row.status for row in rows] == ["complete", "interrupted"]
    assert rows[1].reason == f"the GPU failed: {ILLEGAL.splitlines()[0]}"
    summary = json.loads((options.folder / "summary.json").read_text())
    assert (summary["state"], summary["best"]["trial"]) == ("failed", 0)
    assert (options.folder / "model/model.safetensors").exists()
    assert "the GPU failed in trial 1" in (options.folder / "report.html").read_text()
    engine.run(options)
    rows = read_trials(options)
    assert [row.status for row in rows] == ["complete", "interrupted", "complete"]
    assert rows[2].config == rows[1].config


def test_a_fault_of_the_gpu_is_recognised_behind_another_error(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise Incompatible("tiny gives its head no map") from RuntimeError(ILLEGAL)

    monkeypatch.setattr(TrialTraining, "_plan", fail)
    with pytest.raises(SearchError, match=r"the GPU failed in trial 0 \(CUDA error: "):
        engine.run(settings())
    assert [row.status for row in read_trials(settings())] == ["interrupted"]


def test_a_trial_in_which_the_gpu_fails_twice_is_not_tried_again(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = settings(trials=3, freeze=["linear_probe", "last_blocks"])
    asserted = "CUDA error: device-side assert triggered"
    for armed in (False, True):
        with monkeypatch.context() as patch:
            gpu = Gpu(patch, (Training, "step"), asserted)
            gpu._armed = armed
            with pytest.raises(SearchError, match=r"trial (\d) itself may be the cause"):
                engine.run(options, gpu.listen)
    assert [row.status for row in read_trials(options)] == [
        "complete", "interrupted", "crashed",
    ]  # fmt: skip
    engine.run(options)
    rows = read_trials(options)
    assert {row.status for row in rows[3:]} == {"complete"}
    assert rows[2].config == rows[1].config
    assert rows[1].config not in [row.config for row in rows[3:]]


@pytest.mark.parametrize("part", ["one of several heads", "a repeat", "latencies"])
def test_a_gpu_that_fails_elsewhere_ends_the_search_too(
    settings: Make, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(ILLEGAL)

    places: dict[str, tuple[Any, str]] = {
        "one of several heads": (probes, "replace_head"),
        "a repeat": (Repeats, "_train"),
        "latencies": (training, "measure_latencies"),
    }
    options = settings(trials=8)
    with monkeypatch.context() as patch:
        patch.setattr(*places[part], fail)
        with pytest.raises(SearchError, match=r"the GPU failed .*illegal memory access"):
            engine.run(options)
    summary = json.loads((options.folder / "summary.json").read_text())
    assert summary["state"] == "failed"
    assert summary["best"]
    assert (options.folder / "model/model.safetensors").exists()


def test_a_gpu_that_fails_before_the_first_trial_is_named(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError(ILLEGAL)

    monkeypatch.setattr(training, "measure_latency", fail)
    with pytest.raises(SearchError, match=r"the GPU failed \(CUDA error.*repeat the command"):
        engine.run(settings(max_latency=1e6))


def test_ctrl_c_between_two_trials_leaves_none_of_them_running(
    settings: Make,
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, events.OthersRunning):
            raise KeyboardInterrupt

    assert engine.run(settings(trials=2), interrupt).interrupted
    assert [row.status for row in read_trials(settings())] == ["interrupted"]
