"""The winner: refitted on train + validation, saved, tested once."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import rows

from autotl import artifact, data, engine, finetune, registry, study
from autotl.errors import Diverged
from autotl.progress import Event, Note, Stage
from autotl.store import Store

Make = Callable[..., study.StudyConfig]


def test_the_test_part_plays_no_role_until_it_is_opened_once(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, ...]] = []
    indices = data.Dataset.indices

    def spy(self: data.Dataset, *parts: str) -> Any:
        seen.append(parts)
        return indices(self, *parts)

    opened = []
    monkeypatch.setattr(data.Dataset, "indices", spy)
    monkeypatch.setattr(
        Store, "open_test", lambda *a, f=Store.open_test: (opened.append(len(seen)), f(*a))[1]
    )
    trained = []
    monkeypatch.setattr(
        finetune, "fine_tune", lambda *a, f=finetune.fine_tune: (trained.append(a[2]), f(*a))[1]
    )
    engine.run(settings(trials=2))
    assert len(opened) == 1
    dataset = data.check(
        registry.load().dataset(settings().data).give({"source": settings().data}, {}),
        settings().data,
    )
    sealed = set(dataset.indices("test"))
    for task in trained:
        used = set(task.train.indices) | set(task.validation.indices if task.validation else ())
        assert not used & sealed
    refit = set(trained[-1].train.indices)
    assert refit == set(dataset.indices("train", "validation"))


def test_no_time_to_refit_keeps_the_model_of_the_trial(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotl.budget.Budget.grace", lambda *_: 0.0)
    notes: list[Event] = []
    result = engine.run(settings(trials=2, budget=60.0), notes.append)
    texts = [e.text for e in notes if isinstance(e, Note) and e.warning]
    assert any("the winner was not refitted (the time budget ended" in text for text in texts)
    assert result.summary["test"]["n"] == 12


def test_the_model_predicts_what_the_test_measured(settings: Make, tmp_path: Path) -> None:
    result = engine.run(settings(trials=2))
    predictor = artifact.load(result.folder / "model", registry.load([tmp_path / "tiny_plugin.py"]))
    with (result.folder / "splits.csv").open() as file:
        test = [row for row in csv.DictReader(file) if row["split"] == "test"]
    files = [tmp_path / "photos" / row["name"] for row in test]
    answers = predictor.predict(files)
    right = sum(max(a, key=a.__getitem__) == r["label"] for a, r in zip(answers, test, strict=True))
    assert right / len(test) == pytest.approx(result.summary["test"]["score"])
    assert all(sum(a.values()) == pytest.approx(1, abs=1e-5) for a in answers)


def test_the_recipe_makes_the_winner_again(settings: Make, tmp_path: Path) -> None:
    result = engine.run(settings(trials=3))
    options = {"plugin": [tmp_path / "tiny_plugin.py"], "out": tmp_path / "runs", "device": "cpu"}
    again = engine.run(study.rerun(result.folder / "recipe.toml", None, options))
    assert again.folder.name == "photos-again"
    assert again.summary["best"]["config"] == result.summary["best"]["config"]
    assert again.summary["test"] == result.summary["test"]
    assert sum(again.summary["trials"].values()) == 1


def test_minimised_metrics_choose_the_lowest(settings: Make) -> None:
    result = engine.run(settings(metric="log_loss", trials=5))
    scores = {r.number: r.score for r in rows(settings()) if r.end == "complete"}
    assert scores[result.summary["best"]["trial"]] == min(scores.values())


def test_ctrl_c_while_refitting_keeps_the_model_of_the_trial(settings: Make) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Stage) and event.name.startswith("refitting") and event.done == 1:
            raise KeyboardInterrupt

    result = engine.run(settings(trials=2), interrupt)
    assert result.interrupted
    assert result.summary["test"] is None
    card = (result.folder / "model" / "README.md").read_text()
    assert "it was not tested" in card
    after = engine.run(settings(trials=2))
    assert after.summary["test"]["n"] == 12
    assert (
        "12 pictures that the search never saw"
        in (result.folder / "model" / "README.md").read_text()
    )


def test_a_refit_that_fails_is_said_and_costs_nothing_else(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune = finetune.fine_tune

    def diverging(model: Any, config: Any, task: Any) -> Any:
        if task.validation is None:
            raise Diverged("the training loss is nan in epoch 1")
        return fine_tune(model, config, task)

    monkeypatch.setattr(finetune, "fine_tune", diverging)
    notes: list[Event] = []
    result = engine.run(settings(trials=2), notes.append)
    assert any("nan in epoch 1" in e.text for e in notes if isinstance(e, Note) and e.warning)
    assert result.summary["test"]["n"] == 12


def test_the_result_predicts_with_the_plugins_it_was_made_with(
    settings: Make, tmp_path: Path
) -> None:
    result = engine.run(settings(trials=1))
    [answer] = result.predict([tmp_path / "photos" / "blue" / "0.png"])
    assert answer.keys() == {"red", "green", "blue"}
    assert sum(answer.values()) == pytest.approx(1, abs=1e-5)
