"""The summary reports what the database holds, with keys that do not change."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from example_study import add_test, add_trial, begin, config, facts, latency, result
from report_examples import (
    add_selection,
    add_study,
    data_facts,
    ensemble_contender,
    trial_contender,
)

from autotl import report
from autotl.scoring import intervals
from autotl.search.ranking import rank
from autotl.store import ComparedWeights, SavedModel, Store, single

BY_CLASS: dict[str, Any] = {
    key: {} for key in ("balanced_accuracy", "per_class", "at_thresholds", "majority_class")
}

SHAPE = {
    "schema": {},
    "study": {},
    "seed": {},
    "metric": {},
    "decimals": {},
    "state": {},
    "reason": {},
    "data": {
        "source": {},
        "options": {},
        "fingerprint": {},
        "kind": {},
        "noun": {},
        "nouns": {},
        "task": {},
        "output_noun": {},
        "output_nouns": {},
        "constant_noun": {},
        "score_noun": {},
        "has_classes": {},
        "has_probabilities": {},
        "classes": {},
        "train": {},
        "validation": {},
        "test": {},
        "unlabelled": {},
        "skipped": {},
        "duplicates_across_splits": {},
        "folds": {},
        "target": {},
        "validation_has_labels": {},
        "imbalance": {},
    },
    "budget_seconds": {},
    "seconds": {},
    "run_seconds": {},
    "device": {},
    "trials": {"complete": {}, "pruned": {}, "out_of_time": {}, "duplicate": {}, "failed": {}},
    "not_fine_tuned": {},
    "cut_trial": {},
    "best": {
        "name": {},
        "kind": {},
        "trial": {},
        "config": {},
        "effective_config": {},
        "members": {},
        "validation": {"mean": {}, "low": {}, "high": {}, "repeats": {}, **BY_CLASS},
        "refitted": {},
        "not_refitted_because": {},
        "calibrated": {},
        "parameters": {},
        "trained_parameters": {},
        "ms_per_item": {},
        "latency": {},
    },
    "contenders": {},
    "baselines": {"linear_probe": {}, "default_recipe": {}, "majority_class": {}},
    "gains": {},
    "unlabelled_gain": {},
    "selection": {},
    "prefer": {},
    "mirroring": {"n": {}, "accuracy": {}, "mirrored": {}, "error": {}, "survives": {}},
    "screening": {},
    "calibration": {},
    "pareto": {},
    "test": {"score": {}, "low": {}, "high": {}, "n": {}, **BY_CLASS},
    "test_openings": {},
    "student": {},
    "artifact": {},
    "versions": {},
}
"""The keys of ``summary.json``, in its order."""

CONTENDER = (
    "name trial members kind role config parameters latency seconds scores search_score "
    "mean low high "
    "difference tied_with_best is_winner is_cheapest"
)
"""The keys of a contender, in its order."""

SELECTION = (
    "repeats optimism optimism_of optimism_interval winner_optimism detectable nested_score prefer"
)
"""The keys of the final selection, in its order; None without one."""


def assert_same_keys(shape: dict[str, Any], summary: dict[str, Any]) -> None:
    assert list(summary) == list(shape)
    for key, inner in shape.items():
        if inner:
            assert_same_keys(inner, summary[key])


@pytest.mark.parametrize("selection", [True, False])
def test_the_summary_has_exactly_the_keys_that_other_programs_read(
    complete_store: Store, selection: bool
) -> None:
    if not selection:
        complete_store.update_study("birds", selection=None, model=None)
        best = report.summarise(complete_store, "birds")["best"]["trial"]
        add_test(complete_store, best)
    summary = report.summarise(complete_store, "birds")
    assert_same_keys(SHAPE, summary)
    assert {tuple(c) for c in summary["contenders"]} == {tuple(CONTENDER.split())}
    scored = ["trial", "config", "mean", "low", "high"]
    assert [list(b) for b in summary["baselines"].values()][:2] == [scored, scored]
    assert list(summary["selection"] or ()) == (SELECTION.split() if selection else [])
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("scores", [[], [None], [0.5]], ids=["none", "failed", "complete"])
@pytest.mark.parametrize("known", [{}, facts()], ids=["no facts", "facts"])
def test_an_interrupted_study_has_all_keys(
    store: Store, known: dict[str, Any], scores: list[float | None]
) -> None:
    store.begin_study("birds", **known)
    for number, score in enumerate(scores):
        add_trial(store, number, score, "failed" if score is None else "complete", epochs=1)
    summary = report.summarise(store, "birds")
    assert list(summary) == list(SHAPE)
    assert summary["test"] is None
    assert (summary["best"] is None) == (scores in ([], [None]))


def test_the_score_comes_from_the_last_test_and_costs_from_the_final_measurement(
    store: Store,
) -> None:
    add_study(store, 0.8, 0.9)
    add_test(store, 1, result(0.7))
    add_test(store, 1, result(0.8))
    summary = report.summarise(store, "birds")
    low, high = intervals.wilson_interval(0.8, 180)
    tested = {key: summary["test"][key] for key in ("score", "low", "high", "n")}
    assert tested == {"score": 0.8, "low": low, "high": high, "n": 180}
    assert summary["test_openings"] == 2
    best = summary["best"]
    assert (best["trial"], best["parameters"], best["latency"]) == (1, 3_400_000, None)
    winner = single(1, latency=latency(2.5))
    store.update_study("birds", model=SavedModel(contender=winner))
    best = report.summarise(store, "birds")["best"]
    assert (best["ms_per_item"], best["latency"]["batch"]["median"]) == (2.5, 2.5)


def test_an_unfinished_test_or_one_of_another_trial_is_not_reported(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    store.open_test("birds", single(1), {})
    add_test(store, 0)
    summary = report.summarise(store, "birds")
    assert summary["test"] is None
    assert summary["best"]["parameters"] == 3_400_000


def test_a_test_belongs_to_the_contender_that_was_tested(store: Store) -> None:
    add_study(store, 0.9, 0.8)
    ensemble = ensemble_contender({0: 0.6, 1: 0.4}, 0.95, True)
    reweighted = ensemble_contender({0: 0.7, 1: 0.3}, 0.9, True)
    trial = trial_contender(0, 0.9, True)
    contenders = ensemble, trial, reweighted
    add_test(store, trial, result(0.7))
    assert add_selection(store, contenders, winner=ensemble)["test"] is None
    add_test(store, ensemble, result(0.8))
    assert add_selection(store, contenders, winner=ensemble)["test"]["score"] == 0.8
    assert add_selection(store, contenders, winner=trial)["test"]["score"] == 0.7
    assert add_selection(store, contenders, winner=reweighted)["test"] is None


def test_the_saved_model_is_the_winner_unless_later_limits_exclude_it(store: Store) -> None:
    add_study(store, 0.9, 0.8, 0.7)
    ensemble = ensemble_contender({1: 0.6, 2: 0.4}, 0.9, True)
    best = add_selection(store, [ensemble], winner=ensemble)["best"]
    assert (best["name"], best["kind"], best["trial"]) == ("ensemble", "ensemble", 1)
    assert best["members"] == [{"trial": 1, "weight": 0.6}, {"trial": 2, "weight": 0.4}]
    store.update_trial("birds", 2, excluded="slower than 1 ms per image")
    summary = report.summarise(store, "birds")
    assert (summary["best"]["name"], summary["selection"]) == ("trial 0", None)


def test_of_equal_trials_the_one_that_trains_fewer_parameters_wins_and_then_the_earlier(
    store: Store,
) -> None:
    begin(store)
    for number, trained in enumerate((None, 50, 10, 10)):
        add_trial(store, number, 0.9, trained_parameters=trained)
    add_trial(store, 4, 0.99, "pruned")
    rows = store.trials("birds")
    assert [r.number for r in rank(rows, "maximize")] == [2, 3, 1, 0]
    assert [t["number"] for t in report.top(store, "birds", 2)] == [2, 3]


def test_a_metric_that_is_better_when_lower_is_ranked_in_reverse_and_has_no_interval(
    store: Store,
) -> None:
    add_study(store, 0.5, 0.4, None, metric="log_loss", direction="minimize")
    summary = report.summarise(store, "birds")
    validation = summary["best"]["validation"]
    assert summary["best"]["trial"] == 1
    assert (validation["mean"], validation["low"], validation["high"]) == (0.4, 0.4, 0.4)
    assert [c["tied_with_best"] for c in summary["contenders"]] == [True, False]


def test_without_finals_a_tie_is_an_interval_that_contains_the_best_score(store: Store) -> None:
    add_study(store, 0.9, 0.85, 0.5, data=data_facts(independent_validation=100))
    add_trial(store, 3, 0.88, chosen=config(lr=0.001))
    summary = report.summarise(store, "birds")
    tied = {c["trial"]: c["tied_with_best"] for c in summary["contenders"]}
    assert tied == {0: True, 1: True, 2: False}, "trial 3 has the configuration of trial 0"
    validation = summary["best"]["validation"]
    assert (validation["low"], validation["high"]) == pytest.approx((0.8256, 0.9448), abs=1e-4)


def test_trials_are_counted_by_status(store: Store) -> None:
    statuses = "complete pruned out_of_time failed diverged incompatible out_of_memory running"
    begin(store)
    for number, status in enumerate([*statuses.split(), "interrupted"]):
        add_trial(store, number, 0.5, status)
    summary = report.summarise(store, "birds")
    assert summary["trials"] == {
        "complete": 1,
        "pruned": 1,
        "out_of_time": 1,
        "duplicate": 0,
        "failed": 4,
    }


def test_the_pareto_front_has_the_trials_that_no_other_dominates(store: Store) -> None:
    begin(store)

    def backbone(ms: float | None) -> dict[str, Any]:
        return config(backbone=f"takes {ms}")  # its latency is that of the backbone

    trials = [  # score, ms, parameters, seconds
        (0.9, 9.0, 100, 9.0),  # the best
        (0.8, 1.0, 100, 9.0),  # the fastest inference
        (0.8, 9.0, 10, 9.0),  # the smallest
        (0.8, 9.0, 100, 1.0),  # the fastest training
        (0.8, 9.0, 100, 9.0),  # dominated by all of these
        (0.9, 9.0, 100, 9.0),  # equal to the first in everything
    ]
    for number, (score, ms, size, seconds) in enumerate(trials):
        add_trial(
            store, number, score, parameters=size, seconds=seconds, chosen=backbone(ms),
            measured={"ms_per_item": ms},
        )  # fmt: skip
    add_trial(
        store, 6, 0.9, parameters=100, seconds=9.0, chosen=backbone(None)
    )  # its inference time is unknown
    front = report.summarise(store, "birds")["pareto"]
    assert [p["trial"] for p in front] == [0, 5, 2, 1, 3]
    costs = {"ms_per_item": 9.0, "parameters": 100, "seconds": 9.0}
    assert front[0] == {"trial": 0, "score": 0.9, **costs}


def test_the_pareto_front_of_a_loss_has_the_lowest(store: Store) -> None:
    add_study(store, 0.5, 0.4, direction="minimize", metric="log_loss")
    assert [p["trial"] for p in report.summarise(store, "birds")["pareto"]] == [1]


def test_winner_and_baselines_are_those_of_the_final_selection(store: Store) -> None:
    add_study(store, 0.99, 0.95, 0.9)
    contenders = (
        trial_contender(1, 0.9, True),
        trial_contender(0, 0.88, False, "default_recipe"),
        trial_contender(2, 0.8, False, "linear_probe"),
    )
    summary = add_selection(store, contenders, winner=contenders[0])
    best = summary["best"]
    assert best["trial"] == 1
    validation = [best["validation"][key] for key in ("mean", "low", "high", "repeats")]
    assert validation == [0.9, 0.88, 0.92, 2]
    assert (best["parameters"], best["trained_parameters"]) == (7, 1000)
    assert [c["trial"] for c in summary["contenders"]] == [1, 0, 2]
    assert summary["baselines"]["default_recipe"]["mean"] == 0.88
    assert summary["baselines"]["linear_probe"]["trial"] == 2
    assert summary["selection"]["optimism"] == 0.0123


COMPARED = [ComparedWeights(backbone="own", over={"raw": "random", "net": "public"})]


def add_compared(store: Store, number: int, backbone: str, score: float, **changes: Any) -> None:
    """Write a trial that classified the first of 100 images correctly, as many as it scored."""
    add_trial(store, number, score, **{"chosen": config(backbone=backbone), **changes})
    contributions = (np.arange(100) < round(100 * score)).astype(np.float64)
    store.add_predictions("birds", number, np.zeros((100, 6), np.float32), contributions)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_weights_are_compared_image_by_image(store: Store, direction: str) -> None:
    begin(store, compared_weights=COMPARED, direction=direction)
    add_compared(store, 0, "own", 0.9)
    add_compared(store, 1, "raw", 0.8)
    sign = 1 if direction == "maximize" else -1
    random, public = report.summarise(store, "birds")["gains"]
    assert (random["backbone"], random["over"], random["weights"]) == ("own", "raw", "random")
    gain = random["best"]
    assert gain == random["same_recipe"]
    assert (gain["trials"], gain["scores"], gain["epochs"]) == ([0, 1], [0.9, 0.8], [6, 6])
    assert gain["mean"] == pytest.approx(0.1 * sign)
    # The two differ on ten images, which tells more than two scores of 100 images.
    assert gain["low"] < gain["mean"] < gain["high"]
    assert gain["high"] - gain["low"] == pytest.approx(0.14, abs=0.02)
    assert public["best"] is public["same_recipe"] is None


def test_a_recipe_with_other_epochs_is_another_one(store: Store) -> None:
    begin(store, compared_weights=COMPARED[:1])
    add_compared(store, 0, "own", 0.9, epochs=6)
    add_compared(store, 1, "raw", 0.8, epochs=4)
    add_compared(store, 2, "raw", 0.7, epochs=6)
    random, _ = report.summarise(store, "birds")["gains"]
    assert (random["best"]["trials"], random["same_recipe"]["trials"]) == ([0, 1], [0, 2])
    add_compared(store, 3, "own", 0.95, chosen=config("gradual", backbone="own"))
    random, _ = report.summarise(store, "birds")["gains"]
    assert (random["best"]["trials"], random["same_recipe"]["trials"]) == ([3, 1], [0, 2])
