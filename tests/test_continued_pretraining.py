"""Continued pretraining in a search: which images train, and what is done with the weights."""

from __future__ import annotations

import csv
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from autotl_plugins import backbones
from command_line import run
from images import FAST, write_images, write_plugin
from safetensors.torch import load_file, save_file

import autotl
from autotl import Example, data, engine
from autotl.engine import continued_pretraining, pretraining
from autotl.engine.continued_pretraining import select_training_images
from autotl.errors import OutOfTime, StudyError
from autotl.events import Note
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.store import Store, default_url

NAME = "test_resnet"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with public weights."""
    file = tmp_path_factory.mktemp("public") / f"{NAME}.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model(NAME, num_classes=0).state_dict(), file)
    return file


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, public: Path) -> None:
    monkeypatch.setattr(backbones, "is_reachable", lambda where: False)
    monkeypatch.setattr(
        backbones, "_find_in_cache", lambda cfg: public if NAME in str(cfg.hf_hub_id) else None
    )
    monkeypatch.setattr(continued_pretraining, "EPOCHS", 1)
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *arguments: Field())


def search(tmp_path: Path, listener: Any = None, **options: Any) -> engine.Result:
    photos = tmp_path / "photos"
    if not photos.exists():
        write_images(photos, count=12)
        for i, file in enumerate(sorted(photos.rglob("*.png"))[::4]):
            (photos / "unlabelled").mkdir(exist_ok=True)
            file.rename(photos / "unlabelled" / f"{i}.png")
    given = {"backbone": NAME, "out": tmp_path / "runs", **FAST, "epochs": 1, "image_size": 32}
    given |= {"trials": 3, "head": ["linear"], "augment": ["none"], "unlabelled": ["none"]}
    given |= {"continue_pretraining": "simclr", **options}
    return autotl.search(photos, listener, **{k: v for k, v in given.items() if v is not None})


def test_the_backbone_is_trained_on_without_validation_and_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, public: Path
) -> None:
    trained: list[pretraining.Prepared] = []
    original = pretraining.train

    def record(prepared: pretraining.Prepared, *arguments: Any) -> engine.SourceTraining:
        trained.append(prepared)
        return original(prepared, *arguments)

    monkeypatch.setattr(continued_pretraining, "train", record)
    notes: list[str] = []

    def listen(event: Any) -> None:
        notes.extend([event.text] if isinstance(event, Note) else [])

    result = search(tmp_path, listen)
    [prepared] = trained
    names = {example.name for example in prepared.dataset.examples}
    by_split: dict[str, set[str]] = {}
    with (result.folder / "splits.csv").open() as file:
        for row in csv.DictReader(file):
            by_split.setdefault(row["split"], set()).add(row["name"])
    unlabelled = {name for name in names if name.startswith("unlabelled/")}
    assert len(unlabelled) == 9
    assert names - unlabelled == by_split["train"]
    assert {e.label for e in prepared.dataset.examples} == {"any"}
    assert len(by_split["validation"]) > 0
    assert len(by_split["test"]) > 0
    assert any(text.startswith(f"continuing the pretraining of {NAME} by simclr") for text in notes)
    # The weights are others than the public ones, and are compared with them.
    [folder] = (tmp_path / "runs" / "cache" / "sources").iterdir()
    before, after = load_file(public), load_file(folder / f"{NAME}.safetensors")
    assert not torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])
    with closing(Store(default_url(tmp_path / "runs"))) as store:
        facts, trials = store.study("photos"), store.trials("photos")
    used = [(next(iter(t.config["backbone"])), next(iter(t.config["freeze"]))) for t in trials]
    both = [(NAME, "last_blocks"), (f"source:{NAME}", "last_blocks")]
    assert used == [(NAME, "linear_probe"), *both]
    assert trials[1].epochs == trials[2].epochs
    [compared] = facts.compared_weights
    assert (compared.backbone, compared.over) == (f"source:{NAME}", {NAME: "public"})
    [gain] = result.summary["gains"]
    assert gain["same_recipe"]["trials"] == [2, 1]
    assert gain["same_recipe"]["low"] <= gain["same_recipe"]["high"]
    assert f"Over public weights ({NAME})" in (result.folder / "report.html").read_text()
    # A study that is continued has the same weights, also without the option.
    notes.clear()
    search(tmp_path, listen, continue_pretraining=None, backbone=None, trials=1)
    assert len(trained) == 1
    assert any("after continued pretraining are cached" in text for text in notes)
    with closing(Store(default_url(tmp_path / "runs"))) as store:
        stored = store.study("photos").space_settings
    assert stored is not None
    assert stored["backbone"] == [NAME, f"source:{NAME}"]
    assert "weights" not in stored  # NAME would have them too
    with pytest.raises(StudyError, match="does not go with --weights"):
        search(tmp_path, continue_pretraining=None, backbone=None, weights=tmp_path)


def test_a_search_goes_on_if_there_is_no_time_for_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any) -> None:
        raise OutOfTime("the time budget ended inside an epoch")

    monkeypatch.setattr(pretraining, "_fine_tune", stop)
    warnings: list[str] = []

    def listen(event: Any) -> None:
        warnings.extend([event.text] if isinstance(event, Note) and event.warning else [])

    result = search(tmp_path, listen, trials=1)
    assert result.best is not None
    assert result.summary["gains"] == []
    assert any("ended inside an epoch" in text and "untouched" in text for text in warnings)


def test_unlabelled_examples_of_a_validation_group_are_left_out(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)

    def make(name: str, label: str, split: Any, group: str = "") -> Example:
        pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
        return Example(name, pixels, label, split, group)

    examples = [make(f"{s}{i}", "ab"[i % 2], s, f"{s} {i}") for s in SPLITS for i in range(4)]
    unlabelled = [make(f"u{s}", "", "unlabelled", f"{s} 1") for s in (*SPLITS, "no")]
    copy = replace(examples[4], name="copy", label="", split="unlabelled", group="")
    dataset = data.check(examples, "toy", unlabelled=[*unlabelled, copy])
    chosen = select_training_images(dataset)
    expected = {f"train{i}" for i in range(4)} | {"utrain", "uno"}
    assert {example.name for example in chosen.examples} == expected
    assert set(chosen.splits) == {"train"}
    assert not chosen.targets.any()
    assert len(chosen.units) == len(chosen.digests) == len(expected)
    other = data.check(examples, "toy", unlabelled=unlabelled[:2])
    assert select_training_images(other).fingerprint != chosen.fingerprint


SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": Path()}, "does not go with --weights: it makes a folder"),
        ({"source": "."}, "does not go with --source: both make the weights"),
        ({"folds": 3}, "does not go with --folds: there would be no validation split"),
        ({"continue_pretraining": "simcrl"}, "'simcrl': .*'simclr'"),
    ],
)
def test_settings_that_contradict_it_are_refused(
    tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(StudyError, match=says):
        search(tmp_path, **options)


def test_a_backbone_of_timm_is_needed(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="needs a pretrained model of timm among the backbones"):
        search(tmp_path, backbone=["tiny", f"scratch:{NAME}"], plugin=write_plugin(tmp_path))


def test_the_option_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", count=2)
    words = ("search", tmp_path / "photos", "--continue-pretraining", "simclr")
    result = run(*words, "--folds", "3", "--out", tmp_path / "runs")
    assert result.exit_code == 1
    assert "does not go with --folds" in result.stderr
    shutil.rmtree(tmp_path / "photos")
