"""The test split: used once, for the winner alone, and each use is written down before it."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import Mock

import pytest
from selection_helpers import (
    MISLABELLED,
    Finished,
    Make,
    Search,
    Spy,
    favour,
    forget_predictions,
    hash_model,
    open_store,
    read_facts,
    read_tests,
    score_combination,
    texts,
)

from autotl import data, engine
from autotl.artifact import model_folder
from autotl.events import Event
from autotl.search.budget import Budget
from autotl.search.selection_budget import SelectionBudget
from autotl.selection import sealed_test
from autotl.space import registry
from autotl.store import Store


def test_the_test_split_has_no_effect_until_it_is_opened_once(
    settings: Make, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_test = [], Store.open_test

    def spied(self: Store, *args: Any) -> int:
        opened.append(len(spy.jobs))
        return open_test(self, *args)

    monkeypatch.setattr(Store, "open_test", spied)
    engine.run(settings(trials=2))
    assert opened == [len(spy.jobs)]  # once, after all trainings
    examples = registry.load().dataset(settings().data).call({"source": settings().data}, {})
    dataset = data.check(examples, settings().data)
    sealed = set(dataset.indices("test"))
    for job in spy.jobs:
        used = set(job.train.indices) | set(job.validation.indices if job.validation else ())
        assert not used & sealed
    assert set(spy.jobs[-1].train.indices) == set(dataset.indices("train", "validation"))


def test_without_time_for_all_test_images_a_sample_of_them_is_scored(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed_test, "FEWEST_TESTED", 5)
    monkeypatch.setattr(SelectionBudget, "whole_test_seconds", lambda *_: 1e6)
    monkeypatch.setattr(Budget, "test_seconds", lambda *_: 1e-9)
    notes: list[Event] = []
    result = engine.run(settings(trials=1, budget=600), notes.append)
    [test] = read_tests(settings())
    total = read_facts(settings()).data.test
    assert 5 <= test.result.n < total
    assert f"{test.result.n} of {total} test images are scored" in " ".join(texts(notes))
    assert result.summary["test"]["n"] == test.result.n
    assert sum(map(sum, test.result.confusion_matrix)) == test.result.n


def test_a_wrong_label_is_an_issue_or_a_mistake(searched: Search) -> None:
    [test] = read_tests(searched.settings)
    with open_store(searched.settings) as store:  # in whichever split it is
        images = [*store.images("photos"), *store.images("photos", test.id)]
    [image] = [i for i in images if i.name == MISLABELLED]
    assert (image.truth, image.guess) == ("blue", "red")
    assert 0.5 < image.probability <= 1
    assert image.thumbnail.startswith("data:image/jpeg;base64,")


def test_an_interrupted_test_of_an_ensemble_is_run_when_the_study_continues(
    alike: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    favour(monkeypatch, "last_blocks")
    score_combination(monkeypatch, "ensemble", 1.5)
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "load", Mock(side_effect=KeyboardInterrupt))
        assert engine.run(alike()).interrupted
    [test] = read_tests(alike())
    assert (test.contender.name, test.done) == ("ensemble", False)
    result = engine.run(alike())
    assert [test.done for test in read_tests(alike())] == [False, True]
    assert result.summary["test"]
    assert result.summary["test_openings"] == 2


def test_ctrl_c_before_the_test_leaves_the_refitted_model(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "load", Mock(side_effect=KeyboardInterrupt))
        result = engine.run(small())
    assert result.interrupted
    saved = read_facts(small()).model
    assert saved
    assert saved.refitted
    before = hash_model(result.folder)
    assert engine.run(small()).summary["test"]
    assert hash_model(result.folder) == before


def test_a_later_winner_is_not_tested_unless_the_user_asks(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = finished.settings
    [first] = read_tests(settings())
    forget_predictions(settings())
    favour(monkeypatch, "last_blocks")
    events: list[Event] = []
    result = engine.run(settings(), events.append)
    assert [test.contender.id for test in read_tests(settings())] == [first.contender.id]
    [text] = [t for t in texts(events) if "--retest" in t]
    assert f"already used for {first.contender.name}" in text
    config = json.loads((result.folder / "model" / "config.json").read_text())
    assert "last_blocks" in config["training"]["freeze"]  # refitted, though not tested
    assert "not used by the search" not in (result.folder / "model" / "README.md").read_text()
    retested = engine.run(settings(retest=True))
    assert retested.summary["test_openings"] == 2
    assert [test.done for test in read_tests(settings())] == [True, True]
    assert read_tests(settings())[1].contender.id != first.contender.id


def test_an_ensemble_of_other_weights_is_another_winner(
    alike: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    favour(monkeypatch, "last_blocks")
    score_combination(monkeypatch, "ensemble", 1.5)
    first = engine.run(alike())
    score_combination(monkeypatch, "ensemble", 1.5, weights=(0.25, 0.75))
    events: list[Event] = []
    second = engine.run(alike(), events.append)
    config = json.loads((second.folder / "model" / "config.json").read_text())
    weights = {m["name"]: m["weight"] for m in config["combination"]["members"]}
    assert second.best
    assert first.best
    assert weights == {f"trial {m['trial']}": m["weight"] for m in second.best["members"]}
    assert second.best["members"] != first.best["members"]
    assert second.summary["test"] is None
    assert any("already used for another ensemble;" in text for text in texts(events))
