"""The end of a search hands over one model, whatever interrupts it, and in later runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from images import read_trials
from selection_helpers import (
    ALIKE,
    SMALL,
    Finished,
    Make,
    Spy,
    favour,
    forget_predictions,
    hash_model,
    read_facts,
    read_selection,
    read_tests,
    score_combination,
    texts,
)

from autotl import engine, training
from autotl.errors import SearchError, StudyError
from autotl.events import Event, TrialFinished
from autotl.search.leaderboard import Leaderboard
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.selection import finish
from autotl.selection.finish import Finish
from autotl.store import Store


def read_card(folder: Path) -> str:
    """The model card."""
    return (folder / "model" / "README.md").read_text()


def read_strategies(folder: Path) -> dict[str, Any]:
    """How the model in a run folder was trained."""
    config = json.loads((folder / "model" / "config.json").read_text())
    freeze: dict[str, Any] = config["training"]["freeze"]
    return freeze


def test_the_winner_of_the_selection_is_handed_over(finished_probe: Finished) -> None:
    """Even where another was better in the search."""
    settings = finished_probe.settings()
    winner = read_selection(settings).winner
    assert "linear_probe" in read_trials(settings)[winner.lead].config["freeze"]
    [test] = read_tests(settings)
    assert test.contender.id == winner.id
    assert "linear_probe" in read_strategies(finished_probe.folder)
    assert finished_probe.summary["best"]["name"] == winner.name


def test_a_winner_that_was_tested_keeps_its_model(
    combination: Finished, copy_of: Callable[..., Make], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, kind = copy_of(combination, **ALIKE), combination.kind
    before = hash_model(make().folder)
    score_combination(monkeypatch, kind, 1.5)  # the stored repeats have their own scores
    events: list[Event] = []
    result = engine.run(make(), events.append)
    assert any(text.startswith(f"{kind} is still") for text in texts(events))
    assert len(read_tests(make())) == 1
    assert hash_model(make().folder) == before
    assert result.summary["test"] == combination.summary["test"]
    assert result.summary["contenders"][0]["mean"] == 1.5  # the new comparison
    assert result.summary["calibration"] == combination.summary["calibration"]


def test_the_model_is_that_of_an_earlier_winner_that_wins_once_more(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = [hash_model(finished.folder)]
    for favourite in ("last_blocks", "linear_probe"):
        forget_predictions(finished.settings())
        with monkeypatch.context() as patch:
            favour(patch, favourite)
            result = engine.run(finished.settings())
        assert result.best
        assert favourite in read_strategies(result.folder)
        assert favourite in result.best["config"]["freeze"]
        assert bool(result.summary["test"]) == (favourite == "linear_probe")
        hashes.append(hash_model(result.folder))
    assert hashes[0] == hashes[2] != hashes[1]
    assert "not used by the search" in read_card(finished.folder)
    assert len(read_tests(finished.settings())) == 1  # this model was tested before


@pytest.mark.parametrize(
    ("favourite", "trained"), [("linear_probe", 8), ("last_blocks", 8), ("last_blocks", 2)]
)
def test_ctrl_c_in_a_later_run_leaves_the_model_that_was_handed_over(
    favourite: str, trained: int, finished: Finished, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a model that was not refitted, nor the selection of another winner."""
    before = hash_model(finished.folder), read_card(finished.folder)
    forget_predictions(finished.settings())
    favour(monkeypatch, favourite)
    spy.fails = lambda job: KeyboardInterrupt() if len(spy.repeats) == trained else None
    result = engine.run(finished.settings(trials=4))
    assert result.interrupted
    assert (hash_model(result.folder), read_card(result.folder)) == before
    assert result.best
    assert result.best["name"] == finished.summary["best"]["name"]
    [winner] = [c for c in result.summary["contenders"] if c["is_winner"]]
    assert winner["name"] == finished.summary["best"]["name"]
    assert read_selection(finished.settings()).winner.name == winner["name"]
    assert result.summary["test"] == finished.summary["test"]


def test_ctrl_c_after_one_repeat_keeps_the_selection_of_the_same_winner(
    finished: Finished, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_predictions(finished.settings())
    favour(monkeypatch, "linear_probe")
    spy.fails = lambda job: KeyboardInterrupt() if len(spy.repeats) == 4 else None
    result = engine.run(finished.settings())
    assert result.interrupted
    for key in ("selection", "contenders", "best", "calibration", "test"):
        assert result.summary[key] == finished.summary[key]


def test_an_error_leaves_the_model_that_was_handed_over(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_predictions(finished.settings())
    favour(monkeypatch, "last_blocks")
    error = StudyError("the refit stopped early")
    monkeypatch.setattr(Finish, "_conclude", Mock(side_effect=error))
    with pytest.raises(StudyError, match="the refit stopped early"):
        engine.run(finished.settings())
    summary = json.loads((finished.folder / "summary.json").read_text())
    for key in ("selection", "contenders", "best", "calibration", "test"):
        assert summary[key] == finished.summary[key]


def test_a_later_run_without_time_for_a_selection_leaves_the_earlier_result(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, before = finished.settings, hash_model(finished.folder)
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    monkeypatch.setattr(Leaderboard, "winner", lambda self: self.ranked[-1])
    events: list[Event] = []
    later = engine.run(settings(trials=4), events.append)
    assert hash_model(later.folder) == before
    for key in ("selection", "contenders", "best", "calibration", "test"):
        assert later.summary[key] == finished.summary[key]
    assert any("no time for a final selection" in text for text in texts(events))
    monkeypatch.setattr(Store, "tests", lambda *_: [])  # as if its test had been interrupted
    assert hash_model(engine.run(settings(trials=4)).folder) != before


def interrupt_after(number: int) -> Callable[[Event], None]:
    """A listener that interrupts the search when a trial has finished."""

    def interrupt(event: Event) -> None:
        if isinstance(event, TrialFinished) and event.number == number:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize("prefer", ["accuracy", "cheap"])
def test_a_search_that_is_interrupted_leaves_the_model_of_the_best_so_far(
    prefer: str, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    result = engine.run(settings(**SMALL, prefer=prefer), interrupt_after(1))
    assert result.interrupted
    assert result.best
    assert read_strategies(result.folder) == result.best["config"]["freeze"]
    saved = read_facts(settings()).model
    assert saved
    assert (saved.contender.name, saved.refitted) == (result.best["name"], False)


def test_an_error_in_the_measurement_of_the_cost_does_not_lose_the_model(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    monkeypatch.setattr(finish, "add_latencies", fail)
    with pytest.raises(SearchError, match="ZeroDivisionError"):
        engine.run(settings(**SMALL))
    saved = read_facts(settings()).model
    assert saved
    assert saved.refitted


@pytest.mark.parametrize("prefer", ["accuracy", "cheap"])
def test_an_interrupted_later_run_leaves_the_refitted_model(
    prefer: str, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a later trial is better; it wins when the study continues."""
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    fine_tune, train_probes, score = training.fine_tune, training.train_probes, [0.3]

    def scored(*args: Any) -> Any:
        return (replace(epoch, score=score[0]) for epoch in fine_tune(*args))

    def probed(*args: Any) -> Any:
        probes: Any
        for probes in train_probes(*args):
            yield [replace(one, epoch=replace(one.epoch, score=score[0])) for one in probes]

    monkeypatch.setattr(training, "fine_tune", scored)
    monkeypatch.setattr(training, "train_probes", probed)
    options = {**SMALL, "prefer": prefer}
    whole = engine.run(settings(**{**options, "trials": 1}))
    assert whole.best
    before = hash_model(whole.folder)
    score[0] = 1.0
    interrupted = engine.run(settings(**options), interrupt_after(1))
    assert interrupted.interrupted
    assert interrupted.best
    assert interrupted.best["trial"] == whole.best["trial"] == 0
    assert hash_model(interrupted.folder) == before
    assert interrupted.summary["test"] == whole.summary["test"]
    resumed = engine.run(settings(**options))
    assert resumed.best
    assert resumed.best["trial"] != 0
