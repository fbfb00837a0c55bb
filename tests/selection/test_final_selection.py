"""The final selection: contenders and combinations of them are compared, and the winner chosen."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from images import read_trials
from selection_helpers import (
    SMALL,
    Finished,
    Make,
    Search,
    favour,
    read_facts,
    read_repeats,
    read_selection,
    read_tests,
    score_combination,
    singles,
    texts,
)
from toy import model

from autotl import data, engine, training
from autotl.scoring import calibration, comparison
from autotl.scoring.metrics import METRICS
from autotl.search.outcome import TrialModel
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.selection import final_selection
from autotl.selection.final_selection import FinalSelection
from autotl.selection.repeats import Repeats
from autotl.selection.stored_repeats import Result
from autotl.store import Contender, Latency, Member, Spread, single


@pytest.mark.parametrize("name", ["searched", "searched_by_loss"])
def test_the_comparison_follows_from_the_scores(name: str, request: pytest.FixtureRequest) -> None:
    searched: Search = request.getfixturevalue(name)
    selection = searched.selection
    higher_is_better = METRICS[searched.settings.metric or "accuracy"].direction == "maximize"
    means = [c.mean for c in selection.contenders]
    assert means == sorted(means, reverse=higher_is_better)
    best = searched.singles[0]
    assert selection.winner == best
    assert best.name == f"trial {best.lead}"
    assert best.standing
    assert (best.standing.difference.mean, best.standing.tied) == (0.0, True)
    for c in selection.contenders:
        assert c.standing
        score, difference = c.standing.score, c.standing.difference
        assert score.mean == pytest.approx(np.mean(c.scores))
        assert 0 <= score.low <= score.mean <= score.high
        assert not higher_is_better or score.high <= 1
        assert difference.mean == pytest.approx(score.mean - best.standing.score.mean)
        assert not c.standing.tied or difference.low <= 0 <= difference.high
    scores = {r.number: r.score for r in read_trials(searched.settings) if r.score is not None}
    [first] = [c for c in searched.singles if c.lead == selection.optimism_of]
    assert scores[first.lead] == (max if higher_is_better else min)(scores.values())
    excess = scores[first.lead] - first.mean
    assert selection.optimism == pytest.approx(excess if higher_is_better else -excess)
    tied = [c for c in searched.singles if c.standing and c.standing.tied]
    assert selection.cheapest in tied
    assert selection.prefer == "accuracy"


def test_combinations_are_compared_with_the_single_contenders(searched: Search) -> None:
    contenders = {c.name: c for c in searched.selection.contenders}
    by_trial = {c.lead: c for c in searched.singles}
    soup = contenders["soup"]
    assert (soup.kind, soup.role, soup.config) == ("soup", "soup", None)
    assert len(soup.scores) == 3
    assert sum(soup.weights) == pytest.approx(1)
    assert set(soup.trials) < set(by_trial)
    assert soup.parameters == contenders["trial 0"].parameters
    stored = [r.score for r in read_repeats(searched.settings) if r.kind == "soup"]
    assert stored == list(soup.scores)
    if mixed := contenders.get("ensemble"):
        sizes = [by_trial[trial].parameters for trial in mixed.trials]
        assert mixed.parameters == sum(size or 0 for size in sizes)
    assert searched.selection.winner.kind == "trial"


def test_the_model_is_calibrated_on_the_repeats_of_the_winner(searched: Search) -> None:
    settings, stored = searched.settings, searched.facts.calibration
    config = json.loads((settings.folder / "model" / "config.json").read_text())
    assert stored
    assert config["temperature"] == stored.temperature != 1
    winner = searched.selection.winner.lead
    labels, predictions, folds = [], [], []
    for number in range(3):
        validation = data.resample(searched.dataset, number, settings.seed).validation
        labels.append(searched.dataset.targets[validation])
        file = settings.out / "cache" / "repeats" / f"photos-trial-{winner}-{number}.npy"
        predictions.append(np.load(file))
        folds.append(np.full(len(validation), number))
    expected = calibration.calibrate(*map(np.concatenate, (labels, predictions, folds)))
    assert {key: getattr(stored, key) for key in expected} == pytest.approx(expected)
    [test] = read_tests(settings)
    assert test.result.ece is not None
    assert 0 <= test.result.ece <= 1


def test_a_combination_that_is_better_than_each_contender_wins(combination: Finished) -> None:
    selection, kind = read_selection(combination.settings()), combination.kind
    [first, second] = selection.contenders[:2]
    assert first.standing
    assert (selection.winner.name, first.name, first.standing.tied) == (kind, kind, True)
    assert not any(c.standing.tied for c in selection.contenders[1:] if c.standing)
    assert selection.cheapest.name == kind
    [text] = [t for t in texts(combination.notes) if "better than each" in t]
    assert f"the {kind} of trial" in text
    assert f"is 0.9900, that of {second.name} is {second.mean:.4f}" in text
    # the optimism is that of the search, whose best was a trial
    best = max(r.score for r in read_trials(combination.settings()) if r.score is not None)
    assert selection.optimism == pytest.approx(best - second.mean)


@pytest.mark.parametrize("limit", ["max_parameters", "max_latency"])
def test_a_combination_that_is_beyond_a_limit_does_not_win(
    small: Make, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    favour(monkeypatch, "linear_probe")
    score_combination(monkeypatch, "ensemble", 0.99)
    of_one = Latency(single=Spread(median=15.0, low=14.0, high=16.0))
    monkeypatch.setattr(
        final_selection,
        "add_latencies",
        lambda contenders, *_: [c.model_copy(update={"latency": of_one}) for c in contenders],
    )
    monkeypatch.setattr(training, "measure_latency", lambda *_: of_one.single)
    most = max(row.parameters or 0 for row in read_trials(small()))
    options = {"max_parameters": most + 1} if limit == "max_parameters" else {"max_latency": 20.0}
    engine.run(small(**options))
    selection = read_selection(small())
    assert selection.winner.name == "trial 0"
    assert "ensemble" not in [c.name for c in selection.contenders]


def test_a_combination_that_is_tied_does_not_win(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    favour(monkeypatch, "linear_probe")
    score_combination(monkeypatch, "ensemble", 0.701)
    result = engine.run(small())
    selection = read_selection(small())
    assert [c.name for c in selection.contenders][:2] == ["ensemble", "trial 0"]
    assert selection.contenders[0].standing
    assert selection.contenders[0].standing.tied
    assert selection.winner.name == "trial 0"
    assert result.best
    assert result.best["members"] is None


def test_a_combination_that_there_is_no_time_to_build_is_reported(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    favour(monkeypatch, "linear_probe")
    score_combination(monkeypatch, "ensemble", 0.99)
    monkeypatch.setattr(FinalSelection, "_is_feasible", lambda *_: False)
    result = engine.run(small())
    assert read_selection(small()).winner.name == "trial 0"
    page = (result.folder / "report.html").read_text()
    assert "The ensemble of several trials is better, 0.9900" in page


def test_the_cheapest_of_the_tied_wins_where_that_is_preferred(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "index_of_cheapest", lambda times, sizes: len(times) - 1)
    engine.run(small(prefer="cheap"))
    selection = read_selection(small())
    tied = [c for c in singles(selection) if c.standing and c.standing.tied]
    assert selection.winner == selection.cheapest == tied[-1]
    [test] = read_tests(small())
    assert test.contender.id == tied[-1].id


def test_resamples_of_classes_in_turn_have_all_classes(settings: Make, tmp_path: Path) -> None:
    """Names such as ``001_healthy, 001_sick, 002_healthy``, and a metric that needs both."""
    made = settings(**SMALL, metric="auroc")
    lines = ["path,label"]
    for i, name in itertools.product(range(20), ("red", "blue")):
        file = tmp_path / "photos" / f"{i:03}_{name}.png"
        (tmp_path / "photos" / name / f"{i}.png").rename(file)
        lines.append(f"{file.name},{name}")
    table = tmp_path / "photos" / "photos.csv"
    table.write_text("\n".join(lines) + "\n")
    engine.run(made.model_copy(update={"data": str(table)}))
    scores = [c.scores for c in read_selection(made).contenders]
    assert np.isfinite(scores).all()


@pytest.fixture
def selection(tmp_path: Path) -> FinalSelection:
    """A final selection in which nothing was repeated yet; the best trial has number 1."""
    context = Mock()
    context.settings.metric, context.settings.out = "accuracy", tmp_path
    repeats = Repeats(Mock(), context, Mock(), Mock(), Mock(), Mock())
    best = TrialModel(1, model())
    return FinalSelection(repeats, context, Mock(), Mock(), Mock(), best)


PREDICTIONS = np.full((1, 3), 1 / 3, np.float32)


def test_a_soup_is_not_made_of_models_from_different_repeats(selection: FinalSelection) -> None:
    repeats, result = selection.repeats, Result(0.5, 1.0, PREDICTIONS)
    repeats.models = {1: model(), 2: model()}
    for trial in repeats.models:
        repeats._results[trial] = {0: result, 1: result}
    members = (Member(trial=1, weight=0.5), Member(trial=2, weight=0.5))
    soup = Contender(kind="soup", members=members, predictions=(PREDICTIONS, PREDICTIONS))
    assert selection.model_of(soup) is not None
    repeats._results[1][2] = result  # and then the time was over
    assert selection.model_of(soup) is None


def test_the_model_of_a_contender_is_that_of_its_last_repeat_or_of_its_trial(
    selection: FinalSelection,
) -> None:
    """A model of a repeat was trained on a part of the validation split."""
    assert selection.best
    repeated = model()
    selection.repeats.models = {1: repeated}
    assert selection.model_of(single(1, predictions=(PREDICTIONS,))) is repeated
    assert selection.model_of(single(1)) is selection.best.model
    assert selection.model_of(single(2)) is None
    selection.repeats.models = {}
    assert selection.model_of(single(1, predictions=(PREDICTIONS,))) is selection.best.model


def test_without_repeats_the_stored_predictions_calibrate_the_winner(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need no time, though there is not enough of it to predict once more."""
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    monkeypatch.setattr(FinalSelection, "model_of", lambda *_: None)
    engine.run(small())
    facts = read_facts(small())
    assert facts.selection is None
    assert facts.calibration
    assert facts.calibration.n == 15  # of the validation split
