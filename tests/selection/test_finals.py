"""The best few run again in pairs; the winner refitted on train + validation and tested once."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from images import FAST, photos, plugin, rows
from toy import model

from autotl import data, engine, study, training
from autotl.artifact import model_folder
from autotl.errors import Diverged, OutOfTime, StudyError
from autotl.events import Event, Note, Stage, TrialFinished
from autotl.models import ensemble
from autotl.scoring import calibration, comparison
from autotl.scoring.metrics import METRICS
from autotl.search.budget import Budget
from autotl.search.leaderboard import Leaderboard
from autotl.selection import finals, refit, repeats
from autotl.space import registry
from autotl.store import Store

Make = Callable[..., study.StudyConfig]

SMALL = {"freeze": ["linear_probe", "last_blocks"], "head": ["linear"], "trials": 3}
"""A space in which a search of three trials has a linear probe, a default recipe and another."""


def store(settings: study.StudyConfig) -> Store:
    return Store(f"sqlite:///{settings.out}/autotl.db")


def facts(settings: study.StudyConfig) -> dict[str, Any]:
    return store(settings).require(settings.name)


def _forget(settings: study.StudyConfig) -> None:
    """Lose the answers of all runs, so that they are run again."""
    for file in (settings.out / "cache" / "finals").glob("*.npy"):
        file.unlink()


class Spy:
    """Sees every training; ``fails`` is asked before each and may return what it is to raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tasks: list[training.Task] = []
        self.configs: list[dict[str, Any]] = []
        self.fails: Callable[[training.Task], BaseException | None] = lambda task: None
        fine_tune = training.fine_tune

        def spied(network: Any, config: Any, task: training.Task) -> Any:
            self.tasks.append(task)
            self.configs.append({kind: choice.name for kind, choice in config.items()})
            if error := self.fails(task):
                raise error
            return fine_tune(network, config, task)

        monkeypatch.setattr(training, "fine_tune", spied)

    @property
    def runs(self) -> list[training.Task]:
        """Those of the finals: their seed is their run's."""
        return [task for task in self.tasks if task.seed]


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


@dataclass
class Search:
    """A search that is over: what it was asked, what is known of it, what it trained."""

    settings: study.StudyConfig
    facts: dict[str, Any]
    finals: dict[str, Any]
    runs: list[training.Task]
    dataset: data.Dataset

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The candidates that are trials."""
        return [c for c in self.finals["candidates"] if c["trial"] is not None]


WRONG = "blue/red.png"
"""A red picture among the blue ones."""


def search(folder: Path, **options: Any) -> Search:
    """Search on pictures of which one has a wrong label."""
    photos(folder / "photos")
    (folder / "photos" / "red" / "0.png").rename(folder / "photos" / WRONG)
    values = {"backbone": ["tiny"], "plugin": [plugin(folder)], "out": folder / "runs", **FAST}
    made = study.configure(str(folder / "photos"), {**values, **SMALL, **options})
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch)
        engine.run(made)
    known = facts(made)
    examples = registry.load().dataset(made.data).call({"source": made.data}, {})
    return Search(made, known, known["finals"], spy.runs, data.check(examples, made.data))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """By accuracy; six epochs, so that the model knows its colours."""
    return search(tmp_path_factory.mktemp("accuracy"), trials=5, epochs=6)


@pytest.fixture(scope="module")
def searched_by_loss(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """By a metric of which less is better."""
    return search(tmp_path_factory.mktemp("loss"), metric="log_loss")


def test_all_candidates_get_the_same_runs_on_fresh_divisions(searched: Search) -> None:
    assert searched.finals["runs"] == 3
    count = len(searched.trials)
    assert {c["role"] for c in searched.trials} >= {"linear_probe", "default_recipe"}
    seeds = [task.seed for task in searched.runs]
    assert seeds == [1] * count + [2] * count + [3] * count  # run after run
    pool = set(searched.dataset.indices("train", "validation"))
    for task in searched.runs:
        divided = data.resample(searched.dataset, task.seed - 1, searched.settings.seed)
        assert task.validation is not None
        assert np.array_equal(task.train.indices, divided.train)
        assert np.array_equal(task.validation.indices, divided.validation)
        assert set(task.train.indices) | set(task.validation.indices) == pool
    kept = store(searched.settings).finals("photos")
    for candidate in searched.trials:
        own = [r for r in kept if r.candidate == str(candidate["trial"])]
        assert [r.run for r in own] == [0, 1, 2]
        assert [r.score for r in own] == candidate["scores"]
        assert sum(r.seconds for r in own) == pytest.approx(candidate["seconds"])
        for row in own:  # rows are the truth, the right answers on the diagonal
            counts = np.array(row.facts["confusion"])
            divided = data.resample(searched.dataset, row.run, searched.settings.seed)
            held = searched.dataset.labels[divided.validation]
            assert np.array_equal(counts.sum(1), np.bincount(held, minlength=3))
            assert counts.trace() / counts.sum() == pytest.approx(row.score)


@pytest.mark.parametrize("name", ["searched", "searched_by_loss"])
def test_what_is_written_down_is_what_the_scores_say(
    name: str, request: pytest.FixtureRequest
) -> None:
    searched: Search = request.getfixturevalue(name)
    found = searched.finals
    higher_is_better = METRICS[searched.settings.metric].direction == "maximize"
    means = [c["mean"] for c in found["candidates"]]
    assert means == sorted(means, reverse=higher_is_better)
    best = searched.trials[0]
    assert found["winner"] == best["name"] == f"trial {best['trial']}"
    assert (best["difference"]["mean"], best["tied_with_best"]) == (0.0, True)
    for c in found["candidates"]:
        assert c["mean"] == pytest.approx(np.mean(c["scores"]))
        assert 0 <= c["low"] <= c["mean"] <= c["high"]
        assert not higher_is_better or c["high"] <= 1
        assert c["difference"]["mean"] == pytest.approx(c["mean"] - best["mean"])
        assert c["tied_with_best"] == (c["difference"]["low"] <= 0 <= c["difference"]["high"])
    scores = {r.number: r.score for r in rows(searched.settings) if r.score is not None}
    [first] = [c for c in found["candidates"] if c["name"] == found["optimism_of"]]
    assert scores[first["trial"]] == (max if higher_is_better else min)(scores.values())
    flattered = scores[first["trial"]] - first["mean"]
    assert found["optimism"] == pytest.approx(flattered if higher_is_better else -flattered)
    assert found["cheapest_tied"] in [c["name"] for c in searched.trials if c["tied_with_best"]]
    assert found["prefer"] == "accuracy"


def test_several_as_one_are_judged_beside_the_candidates(searched: Search) -> None:
    found = {c["name"]: c for c in searched.finals["candidates"]}
    soup = found["soup"]
    assert (soup["trial"], soup["role"], soup["config"]) == (None, "soup", None)
    assert len(soup["scores"]) == 3
    assert sum(soup["members"].values()) == pytest.approx(1)
    assert set(soup["members"]) < set(found)
    assert soup["parameters"] == found["trial 0"]["parameters"]
    kept = [r.score for r in store(searched.settings).finals("photos") if r.candidate == "soup"]
    assert kept == soup["scores"]
    if several := found.get("ensemble"):
        members = [found[name] for name in several["members"]]
        assert several["parameters"] == sum(m["parameters"] for m in members)
    assert searched.finals["winner"] not in ("soup", "ensemble")


def test_the_model_is_calibrated_by_the_winners_runs(searched: Search) -> None:
    made, found = searched.settings, searched.facts["calibration"]
    about = json.loads((made.folder / "model" / "config.json").read_text())
    assert about["temperature"] == found["temperature"] != 1
    winner = searched.finals["winner"].removeprefix("trial ")
    labels, answers, parts = [], [], []
    for number in range(3):
        held = data.resample(searched.dataset, number, made.seed).validation
        labels.append(searched.dataset.labels[held])
        answers.append(np.load(made.out / "cache" / "finals" / f"photos-{winner}-{number}.npy"))
        parts.append(np.full(len(held), number))
    again = calibration.calibrate(*map(np.concatenate, (labels, answers, parts)))
    assert again == pytest.approx(found)
    [test] = store(made).tests("photos")
    assert 0 <= test.facts["ece"] <= 1


def test_a_wrong_label_is_doubted_and_a_wrong_answer_shown(searched: Search) -> None:
    [test] = store(searched.settings).tests("photos")
    shown = [*searched.facts["doubtful"], *test.facts["mistakes"]]  # in whichever part it is
    [found] = [s for s in shown if s["name"] == WRONG]
    assert (found["truth"], found["guess"]) == ("blue", "red")
    assert 0.5 < found["probability"] <= 1
    assert found["thumbnail"].startswith("data:image/jpeg;base64,")


MIXTURES = finals.Finals._mixtures


def _mix(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    score: float,
    weights: tuple[float, float] = (0.75, 0.25),
) -> None:
    """What is made of several has this score in the finals."""

    def scored(self: finals.Finals) -> list[finals.Contender]:
        singles = self._candidates()[:2]
        found = {m.name: m for m in MIXTURES(self)}
        found["ensemble"] = finals.Contender(
            "ensemble",
            "ensemble",
            [one.members[0] for one in singles],
            list(weights),
            [0.0],
            [
                weights[0] * a + weights[1] * b
                for a, b in zip(*(one.answers for one in singles), strict=True)
            ],
        )
        return [replace(found[name], scores=[score] * self.runs.count)]

    monkeypatch.setattr(finals.Finals, "_mixtures", scored)


ALIKE = {"freeze": ["last_blocks", "lp_ft"], "head": ["linear"], "trials": 3}
"""A space whose candidates are all built alike, so that their weights have a mean."""


@pytest.mark.parametrize("name", ["ensemble", "soup"])
def test_several_as_one_that_are_better_are_handed_over(
    name: str, settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _favour(monkeypatch, "last_blocks")
    _mix(monkeypatch, name, 0.99)
    notes: list[Event] = []
    result = engine.run(settings(**ALIKE), notes.append)
    found = facts(settings())["finals"]
    [first, second] = found["candidates"][:2]
    assert (found["winner"], first["name"], first["tied_with_best"]) == (name, name, True)
    assert not any(c["tied_with_best"] for c in found["candidates"][1:])
    assert found["cheapest_tied"] == name
    [text] = [e.text for e in notes if isinstance(e, Note) and "better than each" in e.text]
    assert f"the {name} of trial" in text
    assert f"0.9900, and {second['mean']:.4f} of {second['name']}" in text
    # the optimism is the search's, whose best was a trial
    best = max(r.score for r in rows(settings()) if r.score is not None)
    assert found["optimism"] == pytest.approx(best - second["mean"])
    # what was tested is what was saved, loads and has its recipes beside it
    [test] = store(settings()).tests("photos")
    assert test.facts["candidate"] == name
    assert result.best
    assert result.best["members"] == first["members"]
    assert f"trial {result.best['trial']}" == next(iter(first["members"]))
    plugins = registry.load([tmp_path / "tiny_plugin.py"])
    predictor = model_folder.load(result.folder / "model", plugins)
    single = second["parameters"]
    count = len(first["members"])
    assert test.facts["parameters"] == single * (count if name == "ensemble" else 1)
    with (result.folder / "splits.csv").open() as file:
        tested = [row for row in csv.DictReader(file) if row["split"] == "test"]
    answers = predictor.predict([tmp_path / "photos" / row["name"] for row in tested])
    right = [max(a, key=a.__getitem__) == r["label"] for a, r in zip(answers, tested, strict=True)]
    assert np.mean(right) == pytest.approx(result.summary["test"]["score"])
    recipes = sorted(file.name for file in result.folder.glob("recipe*.toml"))
    assert recipes == sorted(["recipe.toml", *(f"recipe-{i}.toml" for i in range(2, count + 1))])
    card = (result.folder / "model" / "README.md").read_text()
    assert ("It is an ensemble" if name == "ensemble" else "Its weights are the mean") in card
    assert card.count("| backbone | `tiny()` |") == count
    # and it stands, until a trial is better
    notes.clear()
    _mix(monkeypatch, name, 1.5)  # the runs that were kept have their own scores
    engine.run(settings(**ALIKE), notes.append)
    assert any(e.text.startswith(f"{name} is still") for e in notes if isinstance(e, Note))
    assert len(store(settings()).tests("photos")) == 1


def test_an_ensemble_whose_test_was_cut_off_is_tested_when_the_study_goes_on(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _favour(monkeypatch, "last_blocks")
    _mix(monkeypatch, "ensemble", 1.5)
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "load", Mock(side_effect=KeyboardInterrupt))
        assert engine.run(settings(**ALIKE)).interrupted
    [opened] = store(settings()).tests("photos")
    assert (opened.candidate, opened.done) == ("ensemble", False)
    result = engine.run(settings(**ALIKE))
    assert [t.done for t in store(settings()).tests("photos")] == [False, True]
    assert result.summary["test"]
    assert result.summary["test_openings"] == 2


def test_several_as_one_that_are_tied_are_not_handed_over(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _favour(monkeypatch, "linear_probe")
    _mix(monkeypatch, "ensemble", 0.701)
    result = engine.run(settings(**SMALL))
    found = facts(settings())["finals"]
    assert [c["name"] for c in found["candidates"]][:2] == ["ensemble", "trial 0"]
    assert found["candidates"][0]["tied_with_best"]
    assert found["winner"] == "trial 0"
    assert result.best
    assert result.best["members"] is None


def test_several_trainings_are_not_begun_in_the_time_for_one(
    settings: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    _favour(monkeypatch, "last_blocks")
    _mix(monkeypatch, "soup", 0.99)
    spent = [0.0]
    monkeypatch.setattr(Leaderboard, "again", lambda *_: spent[0])
    judge = finals.Finals.judge
    monkeypatch.setattr(finals.Finals, "judge", lambda f: (spent.insert(0, 1e4), judge(f))[1])
    notes: list[Event] = []
    result = engine.run(settings(**ALIKE, budget=1000.0), notes.append)
    assert not [task for task in spy.tasks if task.validation is None]
    texts = [e.text for e in notes if isinstance(e, Note) and e.warning]
    assert any("was not refitted (it would take" in text for text in texts)
    assert result.summary["test"]["n"] == 12


def test_what_there_is_no_time_to_make_is_said(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _favour(monkeypatch, "linear_probe")
    _mix(monkeypatch, "ensemble", 0.99)
    monkeypatch.setattr(finals.Finals, "_feasible", lambda *_: False)
    result = engine.run(settings(**SMALL))
    assert facts(settings())["finals"]["winner"] == "trial 0"
    page = (result.folder / "report.html").read_text()
    assert "The ensemble of several trials does better: 0.9900" in page


def test_an_ensemble_is_of_those_that_see_the_same_pictures(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = repeats.Runs._train
    asked: list[int] = []

    def elsewhere(self: Any, candidate: Any, resample: Any, deadline: float) -> None:
        train(self, candidate, resample, deadline)
        if candidate.role == "linear_probe":
            candidate.sees = [999, "bicubic"]

    select = ensemble.select
    monkeypatch.setattr(repeats.Runs, "_train", elsewhere)
    monkeypatch.setattr(
        ensemble, "select", lambda *args: (asked.append(len(args[2])), select(*args))[1]
    )
    engine.run(settings(**SMALL))
    singles = [c for c in facts(settings())["finals"]["candidates"] if c["trial"] is not None]
    best = singles[0]["role"] == "linear_probe"
    assert set(asked) == {1 if best else len(singles) - 1}


def test_the_winner_of_the_finals_is_handed_over(
    settings: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even where another looked better in the search."""
    _favour(monkeypatch, "linear_probe")
    result = engine.run(settings(**SMALL))
    complete = [r for r in rows(settings()) if r.status == "complete"]
    winner = int(facts(settings())["finals"]["winner"].removeprefix("trial "))
    assert "linear_probe" in complete[winner].config["freeze"]
    [tested] = store(settings()).tests("photos")
    assert tested.trial == winner
    about = json.loads((result.folder / "model" / "config.json").read_text())
    assert "linear_probe" in about["training"]["freeze"]


TRAIN = repeats.Runs._train


def _favour(monkeypatch: pytest.MonkeyPatch, freeze: str) -> None:
    """Candidates that freeze so score well in the finals, all others badly."""

    def favoured(self: Any, candidate: Any, resample: Any, deadline: float) -> None:
        TRAIN(self, candidate, resample, deadline)
        good = freeze in candidate.trial.config["freeze"]
        candidate.scores[resample.number] = 0.7 if good else 0.3 + 0.01 * resample.number

    monkeypatch.setattr(repeats.Runs, "_train", favoured)


def _sha(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def test_the_model_is_the_winners_when_one_before_wins_again(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = []
    for favourite in ("linear_probe", "last_blocks", "linear_probe"):
        with monkeypatch.context() as patch:
            _favour(patch, favourite)
            result = engine.run(settings(**SMALL))
        _forget(settings())
        assert result.best
        about = json.loads((result.folder / "model" / "config.json").read_text())
        assert favourite in about["training"]["freeze"]
        assert favourite in result.best["config"]["freeze"]
        assert bool(result.summary["test"]) == (favourite == "linear_probe")
        models.append(_sha(result.folder))
    assert models[0] == models[2] != models[1]
    assert "never saw" in (result.folder / "model" / "README.md").read_text()
    assert len(store(settings()).tests("photos")) == 1  # the same model has been tested


def test_an_ensemble_of_others_is_another_winner(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _favour(monkeypatch, "last_blocks")
    _mix(monkeypatch, "ensemble", 1.5)
    first = engine.run(settings(**ALIKE))
    _mix(monkeypatch, "ensemble", 1.5, weights=(0.25, 0.75))
    notes: list[Event] = []
    second = engine.run(settings(**ALIKE), notes.append)
    about = json.loads((second.folder / "model" / "config.json").read_text())
    weights = {m["name"]: m["weight"] for m in about["made_of"]["members"]}
    assert second.best
    assert first.best
    assert weights == second.best["members"] != first.best["members"]
    assert second.summary["test"] is None
    assert any("for another ensemble; use" in e.text for e in notes if isinstance(e, Note))


def test_ctrl_c_in_a_later_run_leaves_what_was_handed_over(
    settings: Make, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a model that was not refitted, nor facts of finals that are not over."""
    _favour(monkeypatch, "linear_probe")
    first = engine.run(settings(**SMALL))
    card = (first.folder / "model" / "README.md").read_text()
    before = _sha(first.folder), card, facts(settings())["finals"]
    for favourite, trained in (("linear_probe", 8), ("last_blocks", 8), ("last_blocks", 2)):
        _forget(settings())
        _favour(monkeypatch, favourite)
        spy.tasks.clear()
        spy.fails = lambda task, n=trained: KeyboardInterrupt() if len(spy.runs) == n else None
        result = engine.run(settings(**{**SMALL, "trials": 4}))
        assert result.interrupted
        card = (result.folder / "model" / "README.md").read_text()
        assert (_sha(result.folder), card) == before[:2]
        assert result.summary["finals"]["winner"] == before[2]["winner"]
        assert result.summary["test"] == first.summary["test"]


@pytest.mark.parametrize("prefer", ["accuracy", "cheap"])
def test_without_finals_a_run_cut_short_names_the_model_that_it_leaves(
    prefer: str, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leaderboard, "contest", lambda *_: ([], 0))
    made = {**SMALL, "prefer": prefer}

    def at(number: int) -> Callable[[Event], None]:
        def interrupt(event: Event) -> None:
            if isinstance(event, TrialFinished) and event.number == number:
                raise KeyboardInterrupt

        return interrupt

    # without a model from before it is the best so far's
    first = engine.run(settings(**made, study="cut"), at(1))
    assert first.interrupted
    assert first.best
    about = json.loads((first.folder / "model" / "config.json").read_text())
    assert about["training"]["freeze"] == first.best["config"]["freeze"]
    # with one it is that one's, though a later trial was better
    fine_tune, probe, scores = training.fine_tune, training.probe, [0.3]

    def scored(*asked: Any) -> Any:
        return (replace(epoch, score=scores[0]) for epoch in fine_tune(*asked))

    def probed(*asked: Any) -> Any:
        for found in probe(*asked):
            yield [replace(one, epoch=replace(one.epoch, score=scores[0])) for one in found]

    monkeypatch.setattr(training, "fine_tune", scored)
    monkeypatch.setattr(training, "probe", probed)
    whole = engine.run(settings(**{**made, "trials": 1}))
    assert whole.best
    scores[0] = 1.0
    before = _sha(whole.folder)
    cut = engine.run(settings(**made), at(1))
    assert cut.interrupted
    assert cut.best
    assert cut.best["trial"] == whole.best["trial"] == 0
    assert _sha(cut.folder) == before
    assert cut.summary["test"] == whole.summary["test"]
    after = engine.run(settings(**made))  # and going on it is the better one's
    assert after.best
    assert after.best["trial"] != 0


def test_an_error_at_the_end_leaves_what_was_handed_over(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _favour(monkeypatch, "linear_probe")
    first = engine.run(settings(**SMALL))
    _forget(settings())
    _favour(monkeypatch, "last_blocks")
    with monkeypatch.context() as patch:
        patch.setattr(refit, "hand_over", Mock(side_effect=StudyError("the refit ended early")))
        with pytest.raises(StudyError, match="the refit ended early"):
            engine.run(settings(**SMALL))
    summary = json.loads((first.folder / "summary.json").read_text())
    assert summary["best"]["trial"] == first.summary["best"]["trial"]
    assert summary["test"] == first.summary["test"]
    assert summary["finals"] == first.summary["finals"]


def test_ctrl_c_after_one_run_keeps_the_finals_of_the_same_winner(
    settings: Make, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _favour(monkeypatch, "linear_probe")
    first = engine.run(settings(**SMALL))
    _forget(settings())
    spy.tasks.clear()
    spy.fails = lambda task: KeyboardInterrupt() if len(spy.runs) == 4 else None
    result = engine.run(settings(**SMALL))
    assert result.interrupted
    assert result.summary["finals"] == first.summary["finals"]


def test_ctrl_c_while_the_test_opens_leaves_the_refitted_model(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "load", Mock(side_effect=KeyboardInterrupt))
        result = engine.run(settings(**SMALL))
    assert result.interrupted
    assert facts(settings())["model"]["refitted"]
    before = _sha(result.folder)
    assert engine.run(settings(**SMALL)).summary["test"]
    assert _sha(result.folder) == before


def test_of_those_tied_the_cheapest_wins_where_that_is_preferred(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "index_of_cheapest", lambda times, sizes: len(times) - 1)
    engine.run(settings(**SMALL, prefer="cheap"))
    found = facts(settings())["finals"]
    tied = [c for c in found["candidates"] if c["tied_with_best"] and c["trial"] is not None]
    assert found["winner"] == found["cheapest_tied"] == tied[-1]["name"]
    [tested] = store(settings()).tests("photos")
    assert tested.trial == tied[-1]["trial"]


def test_ctrl_c_in_the_finals_loses_no_run(settings: Make, spy: Spy) -> None:
    spy.fails = lambda task: KeyboardInterrupt() if len(spy.runs) == 8 else None
    result = engine.run(settings(**SMALL))
    assert result.interrupted
    assert (result.folder / "model" / "model.safetensors").exists()
    assert store(settings()).tests("photos") == []
    assert facts(settings())["finals"]["runs"] == 2  # what is known of all
    before = [r for r in store(settings()).finals("photos") if r.trial is not None]
    assert len(before) == 7
    spy.fails = lambda task: None
    spy.tasks.clear()
    engine.run(settings(**SMALL))
    assert [task.seed for task in spy.runs] == [3, 3]  # only what was missing
    after = [r for r in store(settings()).finals("photos") if r.trial is not None]
    assert len(after) == 9
    assert [r for r in after if r in before] == before
    assert facts(settings())["finals"]["runs"] == 3


def test_runs_whose_answers_are_lost_are_run_again(settings: Make, spy: Spy) -> None:
    made = settings(**SMALL)
    engine.run(made)
    files = sorted((made.out / "cache" / "finals").glob("photos-[0-9]*.npy"))
    assert len(files) == 9
    files[0].unlink()
    files[4].write_bytes(b"torn")
    spy.tasks.clear()
    engine.run(made)
    assert len(spy.runs) == 2


def test_time_that_ends_in_a_run_leaves_the_runs_that_all_have(settings: Make, spy: Spy) -> None:
    spy.fails = lambda task: OutOfTime("it is late") if len(spy.runs) == 8 else None
    result = engine.run(settings(**SMALL))
    found = facts(settings())["finals"]
    assert found["runs"] == 2
    assert {len(c["scores"]) for c in found["candidates"]} == {2}
    assert result.summary["test"]["n"] == 12


def test_who_does_not_get_the_first_two_runs_leaves_the_finals(settings: Make, spy: Spy) -> None:
    """The best and the baselines come first."""
    spy.fails = lambda task: OutOfTime("it is late") if len(spy.runs) >= 6 else None
    notes: list[Event] = []
    engine.run(settings(**SMALL), notes.append)
    found = facts(settings())["finals"]
    assert found["runs"] == 2
    singles = [c for c in found["candidates"] if c["trial"] is not None]
    assert len(singles) == 2
    assert "linear_probe" in {c["role"] for c in singles}
    [text] = [e.text for e in notes if isinstance(e, Note) and "no time for 2 runs" in e.text]
    assert "with trial" in text


def test_without_time_for_two_runs_there_are_no_finals(
    settings: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    monkeypatch.setattr(Leaderboard, "contest", lambda *_: ([], 0))
    result = engine.run(settings(**SMALL))
    assert spy.runs == []
    assert facts(settings())["finals"] is None
    assert result.summary["test"]["n"] == 12


def test_the_runs_do_not_take_the_time_of_the_refit(
    settings: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    contest = Leaderboard.contest
    monkeypatch.setattr(Leaderboard, "reserve", lambda _: None)
    monkeypatch.setattr(Leaderboard, "again", lambda *_: 20.0)
    asked: list[float] = []

    def spied(self: Leaderboard, seconds: float) -> Any:
        asked.append(seconds)
        return contest(self, seconds)

    monkeypatch.setattr(Leaderboard, "contest", spied)
    engine.run(settings(**SMALL, budget=100.0))  # 30 of them for the refit, 120 for two runs
    assert spy.runs == []
    assert asked
    assert max(asked) < 100 - 30


def test_one_that_fails_leaves_the_finals(settings: Make, spy: Spy) -> None:
    spy.fails = lambda task: Diverged("the loss is nan") if len(spy.runs) == 5 else None
    notes: list[Event] = []
    engine.run(settings(**SMALL), notes.append)
    found = [c for c in facts(settings())["finals"]["candidates"] if c["trial"] is not None]
    assert len(found) == 2
    assert {len(c["scores"]) for c in found} == {3}
    texts = [e.text for e in notes if isinstance(e, Note) and e.warning]
    assert any("left the finals: the loss is nan" in text for text in texts)


def test_a_validation_part_that_cannot_be_divided_has_no_finals(
    settings: Make, tmp_path: Path
) -> None:
    """Of one patient, say: the winner of the search is handed over."""
    made = settings(**SMALL)
    names = sorted((tmp_path / "photos").glob("*/*.png"))
    lines = []
    for i, file in enumerate(names):
        split = ("train", "train", "train", "validation", "test")[i % 5]
        group = "one" if split == "validation" else ""
        lines.append(f"{file},{file.parent.name},{split},{group}")
    table = tmp_path / "photos.csv"
    table.write_text("path,label,split,group\n" + "\n".join(lines) + "\n")
    notes: list[Event] = []
    result = engine.run(made.model_copy(update={"data": str(table)}), notes.append)
    assert any("the finals ended after 0 runs" in e.text for e in notes if isinstance(e, Note))
    assert result.summary["finals"] is None
    assert result.summary["test"]["n"] == 12


def test_classes_in_turn_do_not_choose_for_each_other(settings: Make, tmp_path: Path) -> None:
    """Names such as ``001_healthy, 001_sick, 002_healthy``, and a metric that needs both."""
    made = settings(**SMALL, metric="auroc")
    lines = ["path,label"]
    for i, name in itertools.product(range(20), ("red", "blue")):
        file = tmp_path / "photos" / f"{i:03}_{name}.png"
        (tmp_path / "photos" / name / f"{i}.png").rename(file)
        lines.append(f"{file.name},{name}")
    table = tmp_path / "photos" / "photos.csv"
    table.write_text("\n".join(lines) + "\n")
    result = engine.run(made.model_copy(update={"data": str(table)}))
    scores = [c["scores"] for c in result.summary["finals"]["candidates"]]
    assert np.isfinite(scores).all()


def test_one_that_fails_late_does_not_undo_the_finals(settings: Make, spy: Spy) -> None:
    only = {"freeze": ["linear_probe", "last_blocks"], "head": ["linear"], "trials": 2}
    spy.fails = lambda task: Diverged("the loss is nan") if len(spy.runs) == 5 else None
    engine.run(settings(**only))
    found = facts(settings())["finals"]
    assert found["runs"] == 2
    assert len([c for c in found["candidates"] if c["trial"] is not None]) == 2


def test_a_better_one_found_later_is_not_tested_unless_again(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _favour(patch, "linear_probe")
        engine.run(settings(**SMALL))
    assert facts(settings())["openings"] == 1
    first = store(settings()).tests("photos")[0].trial
    _forget(settings())
    _favour(monkeypatch, "last_blocks")
    notes: list[Event] = []
    result = engine.run(settings(**SMALL), notes.append)
    [opened] = store(settings()).tests("photos")
    assert opened.trial == first
    [text] = [e.text for e in notes if isinstance(e, Note) and "--again" in e.text]
    assert f"opened before, for trial {first}" in text
    about = json.loads((result.folder / "model" / "config.json").read_text())
    assert "last_blocks" in about["training"]["freeze"]  # refitted, though not tested
    assert "never saw" not in (result.folder / "model" / "README.md").read_text()
    engine.run(settings(**SMALL, again=True))
    assert facts(settings())["openings"] == 2
    assert store(settings()).tests("photos")[1].trial != first


def test_more_take_part_where_the_first_run_is_quick(
    settings: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    """Trials that seemed long: their frozen parts are known when the finals come."""
    asked: list[float] = []
    contest = Leaderboard.contest

    def two_at_first(self: Leaderboard, seconds: float) -> Any:
        asked.append(seconds)
        entrants, runs = contest(self, 1e9)
        return (entrants[:2], 3) if len(asked) < 2 else (entrants, runs)

    monkeypatch.setattr(Leaderboard, "contest", two_at_first)
    monkeypatch.setattr(Leaderboard, "again", lambda *_: 100.0)
    monkeypatch.setattr(Leaderboard, "for_finals", lambda *_: 0.0)
    monkeypatch.setattr("autotl.selection.repeats.MOST_RUNS", 2)
    engine.run(settings(**SMALL, budget=1000.0))
    found = facts(settings())["finals"]
    assert len([c for c in found["candidates"] if c["trial"] is not None]) == 3
    assert asked[1] > asked[0]
    assert [task.seed for task in spy.runs] == [1, 1, 1, 2, 2, 2]


# ---------------------------------------------------------------- what there is time for


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
        Store,
        "open_test",
        lambda *a, f=Store.open_test, **k: (opened.append(len(seen)), f(*a, **k))[1],
    )
    trained = []
    monkeypatch.setattr(
        training, "fine_tune", lambda *a, f=training.fine_tune: (trained.append(a[2]), f(*a))[1]
    )
    engine.run(settings(trials=2))
    assert len(opened) == 1
    dataset = data.check(
        registry.load().dataset(settings().data).call({"source": settings().data}, {}),
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
    monkeypatch.setattr(Budget, "grace", lambda *_: 0.0)
    notes: list[Event] = []
    result = engine.run(settings(trials=2, budget=60.0), notes.append)
    texts = [e.text for e in notes if isinstance(e, Note) and e.warning]
    assert any("the winner was not refitted (the time budget ended" in text for text in texts)
    assert result.summary["test"]["n"] == 12


def test_the_model_predicts_what_the_test_measured(settings: Make, tmp_path: Path) -> None:
    result = engine.run(settings(trials=2))
    predictor = model_folder.load(
        result.folder / "model", registry.load([tmp_path / "tiny_plugin.py"])
    )
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
    again = engine.run(study.configure_recipe(result.folder / "recipe.toml", None, options))
    assert again.folder.name == "photos-again"
    assert again.summary["best"]["config"] == result.summary["best"]["config"]
    assert again.summary["test"] == result.summary["test"]
    assert sum(again.summary["trials"].values()) == 1


def test_ctrl_c_while_refitting_keeps_the_model_of_the_trial(settings: Make) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Stage) and event.name.startswith("refitting") and event.done == 1:
            raise KeyboardInterrupt

    result = engine.run(settings(trials=2), interrupt)
    assert result.interrupted
    assert result.summary["test"] is None
    card = (result.folder / "model" / "README.md").read_text()
    assert "never saw" not in card
    after = engine.run(settings(trials=2))
    assert after.summary["test"]["n"] == 12
    card = (result.folder / "model" / "README.md").read_text()
    assert "test pictures that the search never saw | 12 |" in card


def test_a_refit_that_fails_is_said_and_costs_nothing_else(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune = training.fine_tune

    def diverging(model: Any, config: Any, task: Any) -> Any:
        if task.validation is None:
            raise Diverged("the training loss is nan in epoch 1")
        return fine_tune(model, config, task)

    monkeypatch.setattr(training, "fine_tune", diverging)
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


def test_a_later_run_without_time_for_finals_leaves_what_those_before_found(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _favour(monkeypatch, "linear_probe")
    first = engine.run(settings(**SMALL))
    before = _sha(first.folder)
    monkeypatch.setattr(Leaderboard, "contest", lambda *_: ([], 0))
    monkeypatch.setattr(Leaderboard, "leader", property(lambda self: self.ranked()[-1]))
    notes: list[Event] = []
    second = engine.run(settings(**{**SMALL, "trials": 4}), notes.append)
    assert _sha(second.folder) == before
    assert second.summary["finals"] == first.summary["finals"]
    assert second.summary["test"] == first.summary["test"]
    assert second.best
    assert first.best
    assert second.best["trial"] == first.best["trial"]
    assert any("no time for finals" in e.text for e in notes if isinstance(e, Note))
    monkeypatch.setattr(Store, "tests", lambda *_: [])  # as if its test had been cut off
    assert _sha(engine.run(settings(**{**SMALL, "trials": 4})).folder) != before


def test_a_soup_is_not_poured_from_heads_of_different_runs() -> None:
    row: Any = Mock(score=0.5, number=1)
    cooks = [
        repeats.Candidate(row, "finalist", 1.0, {0: 0.5, 1: 0.5}, network=model()) for _ in "ab"
    ]
    soup = finals.Contender("soup", "soup", cooks, [0.5, 0.5], [0.5], [])
    assert soup.network is not None
    cooks[0].scores[2] = 0.6  # and then the time was over
    assert soup.network is None
