"""Source training: the weights that it writes, interruptions, and searches with such weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from autotl_plugins import backbones
from command_line import run
from images import FAST, write_images, write_plugin
from safetensors.torch import load_file

import autotl
from autotl import data, engine, study, training
from autotl.artifact import model_folder, weights_folder
from autotl.data import Dataset, read_source
from autotl.engine import source_weights
from autotl.errors import (
    AutoTLError,
    DataError,
    Diverged,
    OutOfTime,
    StoreError,
    StudyError,
)
from autotl.events import Event, Note
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.space import registry
from autotl.store import Store, StudyFacts, default_url

NAME = "test_resnet"
QUICK = {"image_size": 32, "epochs": 2, "batch_size": 16, "device": "cpu", "precision": "float32"}

Pretrain = Callable[..., engine.SourceTraining]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "is_reachable", lambda where: False)
    monkeypatch.setattr(backbones, "_find_in_cache", lambda cfg: None)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("source") / "birds", count=20)


@pytest.fixture
def pretrain(birds: Path, tmp_path: Path) -> Pretrain:
    def make(listener: Any = None, **options: Any) -> engine.SourceTraining:
        given = {"out": tmp_path / "weights", **QUICK, **options}
        return autotl.pretrain(birds, given.pop("backbone", NAME), listener, **given)

    return make


def test_the_weights_are_those_of_a_trained_backbone(pretrain: Pretrain, tmp_path: Path) -> None:
    notes: list[str] = []

    def listen(event: Event) -> None:
        notes.extend([event.text] if isinstance(event, Note) else [])

    result = pretrain(listen, licence="cc0-1.0")
    assert result.file == tmp_path / "weights" / f"{NAME}.safetensors"
    assert not result.interrupted
    facts = weights_folder.read_facts(result.file)
    assert facts == result.facts
    expected = {
        "backbone": NAME,
        "train": 54,
        "held_out": 6,
        "classes": 3,
        "method": "supervised",
        "started_from": "random weights",
        "epochs": 2,
        "planned_epochs": 2,
        "stopped": "",
        "image_size": 32,
        "channels": 3,
        "metric": "accuracy",
        "seed": 0,
        "licence": "cc0-1.0",
    }
    assert {key: facts[key] for key in expected} == expected
    assert 0 <= facts["low"] < facts["high"] <= 1
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert [text[:15] for text in notes if text.startswith("epoch")] == [
        "epoch 1 of 2: l",
        "epoch 2 of 2: l",
    ]
    tensors = load_file(result.file)
    assert "classifier" not in " ".join(tensors)
    same = pretrain(out=tmp_path / "0").file
    assert same is not None
    repeated = load_file(same)
    assert all(torch.equal(tensor, repeated[key]) for key, tensor in tensors.items())
    options = {"weights": tmp_path / "0", "out": tmp_path / "more", "image_size": None}
    further = pretrain(start="pretrained", epochs=1, **options)
    assert further.facts["started_from"].startswith(f"file {same}")
    assert further.facts["image_size"] == 32
    assert sorted(p.name for p in (tmp_path / "weights").iterdir()) == [
        f"{NAME}.md",
        f"{NAME}.safetensors",
    ]


@pytest.mark.parametrize("completed", [0, 1])
def test_ctrl_c_keeps_the_last_complete_epoch(
    pretrain: Pretrain, tmp_path: Path, completed: int
) -> None:
    epochs = 0

    def interrupt(event: Event) -> None:
        nonlocal epochs
        epochs += isinstance(event, Note) and event.text.startswith("epoch")
        is_training = type(event).__name__ == "StepCompleted"
        if is_training and epochs == completed and not (tmp_path / "measured").exists():
            raise KeyboardInterrupt

    if completed:
        whole = pretrain(out=tmp_path / "whole", epochs=2, augment="none")
    result = pretrain(interrupt, augment="none")
    assert result.interrupted
    if not completed:
        assert result.file is None
        assert list((tmp_path / "weights").iterdir()) == []
        return
    assert result.file is not None
    assert (result.facts["epochs"], result.facts["stopped"]) == (1, "interrupted")
    assert whole.file is not None
    unfinished, complete = load_file(result.file), load_file(whole.file)
    assert not torch.equal(unfinished["conv1.0.weight"], complete["conv1.0.weight"])
    assert "1 of 2 (interrupted)" in (tmp_path / "weights" / f"{NAME}.md").read_text()


def test_a_budget_limits_the_epochs(pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = SimpleNamespace(
        training_seconds=lambda epochs, views: 30.0 * epochs,
        prediction_seconds=0.5,
        compute=training.ComputeSettings(),
    )
    monkeypatch.setattr(training, "measure_cost", lambda *arguments: cost)
    result = pretrain(budget="100s", epochs=9)
    assert (result.facts["epochs"], result.facts["planned_epochs"]) == (3, 9)
    assert result.facts["stopped"] == "the budget limited them"
    # Without labels, there is time left for the features of all 60 images.
    result = pretrain(budget="100s", epochs=9, method="simclr")
    assert result.facts["epochs"] == 2


def test_small_images_are_not_enlarged_from_scratch(pretrain: Pretrain, birds: Path) -> None:
    assert pretrain(image_size=None, epochs=1).facts["image_size"] == 64  # they have 40 x 48 px


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backbone": "test_resnt"}, "did you mean 'test_resnet'"),
        ({"backbone": "test_*"}, "expected the name of one backbone"),
        ({"backbone": "torchvision:resnet18"}, "expected a model of timm"),
        ({"epochs": 0}, "--epochs = 0"),
        ({"epoch": 1}, "'epoch' is not an option; did you mean 'epochs'"),
        ({"augment": "flip"}, "no augment plugin is called 'flip'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"start": "pretrained"}, "the hub cannot be reached"),
    ],
)
def test_wrong_settings_are_explained(pretrain: Pretrain, options: Any, says: str) -> None:
    with pytest.raises(AutoTLError, match=says):
        pretrain(**options)


def test_a_backbone_with_weights_of_its_own_is_refused(pretrain: Pretrain, tmp_path: Path) -> None:
    with pytest.raises(AutoTLError, match="has its own weights; name a model of timm"):
        pretrain(backbone="tiny", plugin=write_plugin(tmp_path))


@pytest.mark.parametrize(
    ("stop", "advice"), [(Diverged("no number"), "another --lr"), (OutOfTime("late"), "--budget")]
)
def test_a_training_that_stops_is_explained(
    pretrain: Pretrain, monkeypatch: pytest.MonkeyPatch, stop: Exception, advice: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise stop

    monkeypatch.setattr(training, "fine_tune", fail)
    with pytest.raises(StudyError, match=rf"the source training stopped: {stop}; .*{advice}"):
        pretrain()


# ---------------------------------------------------------------- the command line


def test_the_command_says_what_was_trained_and_how_to_use_it(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds").symlink_to(birds)
    (tmp_path / "weights").mkdir()
    broken = tmp_path / "weights" / f"{NAME}.md"
    broken.write_text("my notes")
    words = ["pretrain", "birds", "--backbone", NAME, "--device", "cpu", "--size", "32"]
    foreign = run(*words, "--epochs", "1")
    assert (foreign.exit_code, broken.read_text()) == (1, "my notes")
    assert "autotl pretrain did not write it, so it is not replaced" in foreign.stderr
    broken.unlink()
    done = run(*words, "--epochs", "1", "--from", "scratch")
    assert done.exit_code == 0, done.stderr
    assert "was trained for 1 epoch on 54 examples at 32 px, from random weights" in done.stdout
    assert f"--weights weights --backbone source:{NAME}" in done.stdout
    assert run(*words, "--epochs", "1", "--quiet").stdout == ""
    typo = run("pretrain", "bird", "--backbone", NAME)
    assert (typo.exit_code, "did you mean 'birds'?" in typo.stderr) == (1, True)
    inside = run("pretrain", "birds", "--backbone", NAME, "--out", "birds/weights")
    assert "would be inside the data" in inside.stderr


def test_the_command_says_that_nothing_was_complete(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.pretraining, "train", interrupt)
    result = run("pretrain", birds, "--backbone", NAME, "--out", tmp_path, "--device", "cpu")
    assert result.exit_code == 130
    assert "no epoch was complete, so no weights were written" in result.stderr


# ---------------------------------------------------------------- without labels


def write_flat(folder: Path, count: int, seed: int = 0) -> Path:
    """Write images of three colours into one folder."""
    folder.mkdir(parents=True)
    for i, file in enumerate(sorted(write_images(folder / "all", 9, seed=seed).rglob("*.png"))):
        if i < count:
            file.rename(folder / f"{i}.png")
    shutil.rmtree(folder / "all")
    return folder


def load_weights(result: engine.SourceTraining) -> dict[str, torch.Tensor]:
    assert result.file is not None
    return load_file(result.file)


def test_labels_have_no_effect_on_a_training_without_labels(tmp_path: Path, birds: Path) -> None:
    shutil.copytree(birds, tmp_path / "a")
    shutil.copytree(birds, tmp_path / "b")
    files = sorted((tmp_path / "a").rglob("*.png"))
    for name, repeats in (("a", 1), ("b", 7)):  # two labellings that have little in common
        rows = (
            f"{file.relative_to(tmp_path / 'a')},{['x', 'y', 'z'][i // repeats % 3]}"
            for i, file in enumerate(files)
        )
        (tmp_path / name / "labels.csv").write_text("\n".join(["path,label", *rows]))
    notes: list[str] = []
    weights = []
    for name in ("a", "b"):
        result = autotl.pretrain(
            tmp_path / name / "labels.csv",
            NAME,
            lambda event: notes.append(getattr(event, "text", "")),
            method="simclr",
            out=tmp_path / "weights" / name,
            **QUICK,
        )
        weights.append(load_weights(result))
        facts = result.facts
        assert facts["labels"] == "not used for training, only for the held-out score"
        assert facts["metric"].startswith("kNN accuracy (k=20)")
        assert (facts["method"], facts["classes"], facts["task"]) == ("simclr", 3, "")
        assert (facts["train"], facts["held_out"], facts["scored"]) == (54, 6, 6)
        assert 0 <= facts["low"] < facts["high"] <= 1
    assert "simclr uses no labels; 3 classes only score the features" in notes
    assert [text for text in notes if text.startswith("epoch 1 of 2: loss")]
    first, second = weights
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_a_plain_folder_is_trained_on_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_flat(tmp_path / "photos", 20)
    words = ("pretrain", "photos", "--backbone", NAME, "--size", "32", "--epochs", "1")
    words = (*words, "--device", "cpu", "--method", "simclr")
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert "was trained by simclr without labels for 1 epoch on 18 examples at 32" in done.stdout
    assert "Its contrastive accuracy (among 2) on 2 held-out examples is" in done.stdout
    card = (tmp_path / "weights" / f"{NAME}.md").read_text()
    assert "| labels | `not used for training` |" in card
    assert "| method | `simclr` |" in card
    further = run(*words, "--from", "pretrained", "--weights", "weights", "--out", "more")
    assert further.exit_code == 0, further.stderr
    assert f"from file weights/{NAME}.safetensors, trained by simclr without" in further.stdout


def test_a_training_without_labels_needs_images_to_compare(tmp_path: Path) -> None:
    def train(name: str, count: int, damaged: int = 0, **options: Any) -> dict[str, Any]:
        folder = write_flat(tmp_path / name, count, seed=1)
        for i in range(damaged):
            (folder / f"{i}.png").write_bytes(b"no image")
        given = {"method": "simclr", "out": tmp_path / "weights", **QUICK, **options}
        return dict(autotl.pretrain(folder, NAME, **given).facts)

    with pytest.raises(DataError, match=r"too few images: 2; .* at least 2 to train on"):
        train("two", 2)
    with pytest.raises(DataError, match=r"too few images: 1; .* at least 2 to train on"):
        train("damaged", 3, 1)
    facts = train("three", 3)
    assert (facts["train"], facts["held_out"]) == (2, 1)
    assert facts["score"] is None
    assert "simclr" in (tmp_path / "weights" / f"{NAME}.md").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "simcrl"}, "no method for .* is called 'simcrl'; did you mean 'simclr'"),
        ({"task": "regression"}, "--task = 'regression': is for labels, .* simclr does not use"),
        ({"metric": "accuracy"}, "--metric = 'accuracy': is for labels"),
        ({"augment": "mixup"}, "'mixup' mixes images, and views of one image are compared"),
        ({"augment": "none"}, "all views of an image are the same; try another --augment"),
    ],
)
def test_wrong_settings_without_labels_are_explained(
    pretrain: Pretrain, options: dict[str, str], says: str
) -> None:
    with pytest.raises(AutoTLError, match=says):
        pretrain(**{"method": "simclr", **options})


def test_a_training_without_labels_has_more_epochs() -> None:
    def count(**options: Any) -> int:
        given = {"backbone": NAME, **options}
        return study.configure_source_training("birds", given).epochs

    assert [count(), count(method="simclr"), count(method="simclr", epochs=7)] == [20, 100, 7]


# ---------------------------------------------------------------- searches


def search(tmp_path: Path, birds: Path, listener: Any = None, **options: Any) -> engine.Result:
    if not (tmp_path / "photos").exists():
        write_images(tmp_path / "photos", count=16, seed=1)
    given = {"out": tmp_path / "runs", "source": str(birds), "backbone": NAME, **FAST}
    given |= {"epochs": 2, "image_size": 32, "trials": 4, "head": ["linear"], **options}
    return autotl.search(tmp_path / "photos", listener, **given)


def test_a_search_with_source_data_reports_what_its_weights_gain(
    tmp_path: Path, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"epochs": 1}
    original = source_weights.SourceTrainingConfig
    monkeypatch.setattr(
        source_weights, "SourceTrainingConfig", lambda **values: original(**values, **config)
    )
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *arguments: Field())
    notes: list[str] = []

    def listen(event: Event) -> None:
        notes.extend([event.text] if isinstance(event, Note) else [])

    result = search(tmp_path, birds, listen, trials=3, prefer="cheap")
    assert any(text.startswith(f"training {NAME} on") for text in notes)
    assert any("(no package, not in the Hugging Face cache" in text for text in notes)
    with closing(Store(default_url(tmp_path / "runs"))) as store:
        facts, rows = store.study("photos"), store.trials("photos")
    assert [next(iter(row.config["backbone"])) for row in rows] == [
        f"source:{NAME}",
        f"source:{NAME}",
        f"scratch:{NAME}",
    ]
    assert [next(iter(row.config["freeze"])) for row in rows] == ["linear_probe", "full", "full"]
    assert rows[1].epochs == rows[2].epochs
    [compared] = facts.compared_weights
    assert (compared.backbone, compared.over) == (f"source:{NAME}", {f"scratch:{NAME}": "random"})
    [gain] = result.summary["gains"]
    assert gain["same_recipe"]["trials"] == [1, 2]
    assert gain["same_recipe"]["low"] <= gain["same_recipe"]["mean"] <= gain["same_recipe"]["high"]
    assert f"Over random weights (scratch:{NAME})" in (result.folder / "report.html").read_text()
    # The model is loaded without the folder of weights.
    config_file = json.loads((result.folder / "model" / "config.json").read_text())
    assert next(iter(config_file["backbone"])).endswith(NAME)
    [folder] = (tmp_path / "runs" / "cache" / "sources").iterdir()
    for file in folder.iterdir():
        file.rename(tmp_path / file.name)
    model_folder.load(result.folder / "model").predict(str(birds / "red" / "0.png"))
    for file in (f"{NAME}.md", f"{NAME}.safetensors"):
        (tmp_path / file).rename(folder / file)
    # Another study uses the same weights.
    notes.clear()
    search(tmp_path, birds, listen, trials=1, study="again")
    assert any("are cached" in text for text in notes)


def test_weights_with_fewer_epochs_are_cached_as_long_as_there_is_no_more_time() -> None:
    usable = source_weights.is_usable
    whole = {"stopped": "", "budget_seconds": 10.0}
    part = {"stopped": "the budget limited them", "budget_seconds": 10.0}
    assert not usable({}, 10.0, None)
    assert not usable({}, 10.0, StudyFacts())
    assert usable(whole, 100.0, None)
    assert usable(part, 10.0, None)
    assert not usable(part, 100.0, None)
    assert not usable(part, None, None)
    assert usable(part, None, StudyFacts())  # the trials so far have them
    assert not usable({**part, "stopped": "interrupted"}, 10.0, None)


def test_images_that_are_in_both_data_sets_are_reported(tmp_path: Path, birds: Path) -> None:
    plugins = registry.load()

    def check(folder: Path) -> Dataset:
        read = read_source(str(folder), plugins)
        return data.check(read.examples, str(folder))

    for colour in ("red", "green", "blue"):
        (tmp_path / "photos" / colour).mkdir(parents=True)
        for i in range(4):
            shutil.copy(birds / colour / f"{i}.png", tmp_path / "photos" / colour)
    write_images(tmp_path / "others", count=4, seed=7)
    source, notes = check(birds), list[Event]()
    source_weights.warn_of_shared(source, check(tmp_path / "others"), notes.append)
    source_weights.warn_of_shared(None, source, notes.append)
    assert notes == []
    source_weights.warn_of_shared(source, check(tmp_path / "photos"), notes.append)
    [note] = notes
    assert isinstance(note, Note)
    assert note.warning
    assert note.text.startswith("12 of the 12 images are in the source data too, 3 of them in the")


def test_source_data_train_one_backbone(tmp_path: Path, birds: Path) -> None:
    for backbone, says in (
        (("resnet18", NAME), "train the weights of one backbone"),
        (("torchvision:resnet18",), "cannot train torchvision:resnet18"),
    ):
        with pytest.raises(StudyError, match=says):
            search(tmp_path, birds, backbone=backbone)


def test_a_study_file_may_name_source_data(tmp_path: Path, birds: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'data = "photos"\nsource = "birds"\nbackbone = "{NAME}"\n')
    (tmp_path / "birds").mkdir()
    assert study.configure(str(file), {}).source == str(tmp_path / "birds")


def test_a_folder_that_cannot_be_written_is_named(pretrain: Pretrain, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose another one with --out"):
        pretrain(out=tmp_path / "file")


# ---------------------------------------------------------------- methods of a family

OWN_METHOD = '''
from autotl.space.pretraining import Pretrained
from autotl import backbone

def train(task):
    (task.folder / "weights").write_bytes(b"new")
    if task.seed == 1:
        open("a missing vocabulary")
    if task.seed == 2:
        (task.folder / "subfolder" / "weights").write_bytes(b"new")
    if task.seed == 3:
        raise OSError(28, "No space left on device")
    return Pretrained(task.name, task.epochs, False, 16, "none")

@backbone(pretraining={"copy": train})
def own():
    """A backbone that is never built."""
'''


def test_only_errors_of_writing_the_weights_are_reported_as_such(
    pretrain: Pretrain, tmp_path: Path
) -> None:
    (tmp_path / "own_plugin.py").write_text(OWN_METHOD)

    def train(seed: int) -> Path:
        chosen = {"backbone": "own", "method": "copy", "plugin": tmp_path / "own_plugin.py"}
        return pretrain(**chosen, seed=seed).file

    written = train(0)
    assert (written / "weights").read_bytes() == b"new"
    before = {path.name: path.read_bytes() for path in written.iterdir()}
    with pytest.raises(FileNotFoundError, match="a missing vocabulary"):
        train(1)
    with pytest.raises(StoreError, match=r"own cannot be written \(No such file or directory\)"):
        train(2)
    with pytest.raises(StoreError, match=r"own cannot be written \(No space left on device\)"):
        train(3)
    assert {path.name: path.read_bytes() for path in written.iterdir()} == before
    assert [path.name for path in written.parent.iterdir()] == ["own"]
