"""The run folder: the model, its model card and its recipes belong to the winner."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from selection_helpers import (
    Finished,
    Make,
    Spy,
    favour,
    forget_predictions,
    read_facts,
    read_selection,
    read_tests,
)

from autotl import engine, study
from autotl.artifact import model_folder
from autotl.errors import Diverged, StoreError
from autotl.selection import refit
from autotl.space import registry


def read_test_split(folder: Path) -> list[dict[str, str]]:
    """The images of the test split."""
    with (folder / "splits.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


def test_a_combination_is_saved_with_a_recipe_for_each_member(
    combination: Finished, images: Path
) -> None:
    folder, kind, settings = combination.folder, combination.kind, combination.settings()
    first = read_selection(settings).contenders[0]
    [test] = read_tests(settings)
    assert test.contender.name == kind
    best = combination.summary["best"]
    assert best["members"] == [member.model_dump() for member in first.members]
    assert best["trial"] == first.members[0].trial
    count = len(first.members)
    assert best["parameters"] == first.parameters
    recipes = sorted(file.name for file in folder.glob("recipe*.toml"))
    assert recipes == sorted(["recipe.toml", *(f"recipe-{i}.toml" for i in range(2, count + 1))])
    card = (folder / "model" / "README.md").read_text()
    assert ("is an ensemble" if kind == "ensemble" else "its weights are the mean") in card
    assert card.count("| backbone | `tiny()` |") == count
    # what was tested is what was saved
    predictor = model_folder.load(folder / "model", registry.load([images / "tiny_plugin.py"]))
    tested = read_test_split(folder)
    predictions = predictor.predict([images / "photos" / row["name"] for row in tested])
    correct = [
        max(p, key=p.__getitem__) == row["label"]
        for p, row in zip(predictions, tested, strict=True)
    ]
    assert np.mean(correct) == pytest.approx(combination.summary["test"]["score"])


def test_the_model_predicts_what_the_test_measured(finished_probe: Finished, images: Path) -> None:
    predictor = model_folder.load(
        finished_probe.folder / "model", registry.load([images / "tiny_plugin.py"])
    )
    tested = read_test_split(finished_probe.folder)
    predictions = predictor.predict([images / "photos" / row["name"] for row in tested])
    correct = sum(
        max(p, key=p.__getitem__) == row["label"]
        for p, row in zip(predictions, tested, strict=True)
    )
    assert correct / len(tested) == pytest.approx(finished_probe.summary["test"]["score"])
    assert all(sum(p.values()) == pytest.approx(1, abs=1e-5) for p in predictions)


def test_the_stored_facts_describe_the_model_in_the_folder(finished_probe: Finished) -> None:
    facts = read_facts(finished_probe.settings())
    assert facts.model
    assert facts.model.refitted
    assert facts.selection
    assert facts.model.contender.id == facts.selection.winner.id
    config = json.loads((finished_probe.folder / "model" / "config.json").read_text())
    assert facts.calibration
    assert config["temperature"] == facts.calibration.temperature
    assert facts.weights.model_dump() == config["weights"]
    card = (finished_probe.folder / "model" / "README.md").read_text()
    assert facts.selection.winner.standing
    mean = facts.selection.winner.standing.score.mean
    assert f"final selection: mean of 3 train/validation resamples | | {mean:.4f}" in card


def test_a_model_that_cannot_be_saved_leaves_the_earlier_one_and_its_facts(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = finished.settings()
    before = read_facts(settings)
    forget_predictions(settings)
    favour(monkeypatch, "last_blocks")
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "save", Mock(side_effect=StoreError("the disk is full")))
        with pytest.raises(StoreError, match="the disk is full"):
            engine.run(settings)
    facts = read_facts(settings)
    assert facts.model
    assert (facts.model, facts.selection) == (before.model, before.selection)
    engine.run(settings)
    selection, model = read_selection(settings), read_facts(settings).model
    assert model
    assert model.refitted
    assert model.contender == selection.winner


def test_the_recipe_trains_the_winner_once_more(settings: Make, tmp_path: Path) -> None:
    result = engine.run(settings(trials=3))
    options = {"out": tmp_path / "runs", "device": "cpu"}
    retrained = engine.run(study.configure_recipe(result.folder / "recipe.toml", None, options))
    assert retrained.folder.name == "photos-retrained"
    assert retrained.summary["best"]["config"] == result.summary["best"]["config"]
    assert retrained.summary["test"] == result.summary["test"]
    assert sum(retrained.summary["trials"].values()) == 1
    assert str(tmp_path) not in (result.folder / "recipe.toml").read_text()


@pytest.mark.parametrize("fails", [False, True])
def test_the_recipe_has_the_epochs_of_the_refit(
    small: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy, fails: bool
) -> None:
    """Without a refit, it has the epochs of the trial."""
    favour(monkeypatch, "linear_probe")
    monkeypatch.setattr(refit, "_affordable_epochs", lambda *_: 5)
    spy.fails = lambda job: Diverged("nan") if fails and job.validation is None else None
    result = engine.run(small())
    model = read_facts(small()).model
    assert model
    assert model.refitted != fails
    epochs = small().epochs if fails else 5
    assert [job.epochs for job in spy.jobs if job.validation is None] == [5]
    recipe = tomllib.loads((result.folder / "recipe.toml").read_text())
    assert recipe["epochs"] == epochs
    config = json.loads((result.folder / "model" / "config.json").read_text())
    assert config["training"]["epochs"] == epochs


def test_a_result_predicts_with_the_plugins_of_its_search(settings: Make, tmp_path: Path) -> None:
    result = engine.run(settings(trials=1))
    [prediction] = result.predict([tmp_path / "photos" / "blue" / "0.png"])
    assert prediction.keys() == {"red", "green", "blue"}
    assert sum(prediction.values()) == pytest.approx(1, abs=1e-5)
