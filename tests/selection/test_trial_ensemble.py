"""Ensembles of trials by their predictions for the validation split."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autotl.scoring import metrics
from autotl.scoring.metrics import Probabilities
from autotl.search.budget import Budget
from autotl.selection.trial_ensemble import choose_ensemble, stored_predictions
from autotl.store import Contender, Member, TrialFacts, TrialRow

CLASSES = 3
ACCURACY = metrics.get("accuracy")


class Study:
    """A study whose trials have predictions of a given quality, each with errors of its own."""

    def __init__(self, trials: int, count: int = 400, signal: float = 1.0, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.labels = random.integers(CLASSES, size=count)
        self.stored: dict[int, Probabilities] = {}
        rows = []
        for number in range(trials):
            logits = random.normal(size=(count, CLASSES))
            logits[np.arange(count), self.labels] += signal
            self.add(number, logits, rows)
        self.rows = rows
        self.can_combine = True
        self.settings = SimpleNamespace(
            name="s", metric="accuracy", seed=0, max_parameters=None, max_latency=None
        )
        self.units = tuple(range(count))
        self.budget = Budget(None)
        self.seconds: dict[int, float] = {}  # of the refit of a trial, 10 by default

    def add(self, number: int, logits: Any, rows: list[TrialRow]) -> None:
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        self.stored[number] = probabilities.astype(np.float32)
        score = ACCURACY.score(self.labels, self.stored[number])
        facts = TrialFacts(ms_per_item=10.0)
        config = {"backbone": {"net": {}}, "head": {f"h{number}": {}}}
        moment = datetime.now(UTC)
        rows.append(TrialRow(number, "complete", "", config, score, 3, 100, 10, 1.0, moment, facts))

    def choose(self) -> Contender | None:
        dataset: Any = SimpleNamespace(
            targets=self.labels,
            units=self.units,
            classes=tuple("abc"),
            indices=lambda split: np.arange(len(self.labels)),
            scored_split="validation",
            folds=None,
        )
        context: Any = SimpleNamespace(
            dataset=dataset,
            settings=self.settings,
            metric=ACCURACY,
            can_combine=lambda rows: self.can_combine or rows[0] is rows[1],
        )
        store: Any = SimpleNamespace(
            predictions=lambda study, number: self.stored.get(number),
            latencies=lambda study: {"net": 10.0},
        )
        ranked = sorted(self.rows, key=lambda row: -(row.score or 0.0))
        selection: Any = SimpleNamespace(
            seconds=lambda c: self.seconds.get(c.lead, 10.0), test_seconds=lambda c: 1.0
        )
        leaderboard: Any = SimpleNamespace(ranked=ranked)
        return choose_ensemble(store, context, leaderboard, selection, self.budget)


def test_independent_errors_make_an_ensemble_better_than_every_trial() -> None:
    study = Study(6)
    combined = study.choose()
    assert combined is not None
    best = max(row.score or 0.0 for row in study.rows)
    assert combined.standing is not None
    assert combined.scores[0] > best
    assert combined.standing.difference.mean == pytest.approx(combined.scores[0] - best)
    assert 2 <= len(combined.members) <= 4
    assert sum(combined.weights) == pytest.approx(1.0)
    assert list(combined.weights) == sorted(combined.weights, reverse=True)
    assert combined.ms_per_item == 10.0 * len(combined.members)
    assert combined.parameters == 100 * len(combined.members)
    assert combined.predictions == ()


def test_the_score_is_not_biased_by_the_selection_of_the_weights() -> None:
    """Over many studies the score is that on new examples."""
    differences = []
    for seed in range(30):
        study = Study(8, count=600, seed=seed)
        half = 300
        stored, labels = study.stored, study.labels
        study.labels, study.units = labels[:half], tuple(range(half))
        study.stored = {number: p[:half] for number, p in stored.items()}
        if combined := study.choose():
            new = sum(
                weight * stored[trial][half:]
                for trial, weight in zip(combined.trials, combined.weights, strict=True)
            )
            differences.append(combined.scores[0] - ACCURACY.score(labels[half:], np.array(new)))
    assert len(differences) > 20
    assert abs(np.mean(differences)) < 3 * np.std(differences) / len(differences) ** 0.5


def test_models_with_different_inputs_are_no_ensemble() -> None:
    study = Study(6)
    study.can_combine = False
    assert study.choose() is None


def test_copies_of_one_trial_are_no_ensemble() -> None:
    study = Study(1)
    for number in (1, 2):
        study.add(number, np.log(study.stored[0]), study.rows)
    assert study.choose() is None


def test_without_the_predictions_of_the_best_trial_there_is_none() -> None:
    study = Study(6)
    best = max(study.rows, key=lambda row: row.score or 0.0).number
    del study.stored[best]
    assert study.choose() is None


@pytest.mark.parametrize("limit", ["max_parameters", "max_latency"])
def test_limits_hold_for_all_members_together(limit: str) -> None:
    study = Study(6)
    assert study.choose()
    setattr(study.settings, limit, {"max_parameters": 150, "max_latency": 15.0}[limit])
    assert study.choose() is None


def test_there_is_time_to_refit_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    study = Study(6)
    study.budget = Budget(200.0)
    chosen = study.choose()
    assert chosen
    assert len(chosen.members) > 2
    study.budget = Budget(2 * 15.0 + 5.0 + 1.0)  # a refit takes 14.75 seconds, the end five
    chosen = study.choose()
    assert chosen
    assert len(chosen.members) == 2
    study.budget = Budget(25.0)
    assert study.choose() is None


def test_a_member_that_takes_too_long_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    study = Study(6)
    study.budget = Budget(200.0)
    chosen = study.choose()
    assert chosen
    best = max(study.rows, key=lambda row: row.score or 0.0).number
    slow = next(trial for trial in chosen.trials if trial != best)
    study.seconds[slow] = 1000.0
    other = study.choose()
    assert other
    assert slow not in other.trials
    assert len(other.members) > 1


def test_with_few_examples_there_is_none() -> None:
    assert Study(6, count=30).choose() is None


def test_predictions_of_an_ensemble_are_the_mean_of_those_of_its_members() -> None:
    study = Study(3)
    store: Any = SimpleNamespace(predictions=lambda study_, number: study.stored.get(number))
    members = (Member(trial=0, weight=0.75), Member(trial=2, weight=0.25))
    combined = Contender(kind="ensemble", members=members)
    predicted = stored_predictions(store, "s", combined)
    np.testing.assert_allclose(predicted, 0.75 * study.stored[0] + 0.25 * study.stored[2], 1e-5)
    del study.stored[2]
    assert stored_predictions(store, "s", combined) is None
    assert stored_predictions(store, "s", Contender(kind="soup", members=members)) is None
