"""The summary reports what the database holds, with keys that do not change."""

from __future__ import annotations

import json
from typing import Any

import pytest
from example_study import add_trial, config, facts, opening
from report_examples import add_finals, add_study, add_test, final_candidate

from autotl import report
from autotl.scoring import intervals
from autotl.store import Store

SHAPE = {
    "schema": {},
    "study": {},
    "seed": {},
    "metric": {},
    "data": {
        "source": {},
        "fingerprint": {},
        "classes": {},
        "train": {},
        "validation": {},
        "test": {},
        "skipped": {},
        "duplicates_across_splits": {},
    },
    "budget_seconds": {},
    "seconds": {},
    "device": {},
    "trials": {"complete": {}, "pruned": {}, "failed": {}},
    "best": {
        "trial": {},
        "config": {},
        "members": {},
        "validation": {"mean": {}, "low": {}, "high": {}, "seeds": {}},
        "parameters": {},
        "trained_parameters": {},
        "ms_per_item": {},
    },
    "finalists": {},
    "baselines": {"linear_probe": {}, "default_recipe": {}},
    "finals": {},
    "prefer": {},
    "optimism": {},
    "calibration": {},
    "pareto": {},
    "test": {"score": {}, "low": {}, "high": {}, "n": {}},
    "test_openings": {},
    "artifact": {},
    "versions": {},
}
"""The keys of ``summary.json``, in its order."""


def assert_same_keys(shape: dict[str, Any], summary: dict[str, Any]) -> None:
    assert list(summary) == list(shape)
    for key, inner in shape.items():
        if inner:
            assert_same_keys(inner, summary[key])


@pytest.mark.parametrize("finals", [True, False])
def test_the_summary_has_exactly_the_keys_that_other_programs_read(
    complete_store: Store, finals: bool
) -> None:
    if not finals:
        complete_store.update("birds", finals=None)
        best = report.summarise(complete_store, "birds")["best"]["trial"]
        add_test(complete_store, best, **opening())
    summary = report.summarise(complete_store, "birds")
    assert_same_keys(SHAPE, summary)
    scored = ["trial", "config", "mean", "low", "high"]
    assert {tuple(f) for f in summary["finalists"]} == {(*scored, "tied_with_best")}
    assert [list(b) for b in summary["baselines"].values()] == [scored, scored]
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("scores", [[], [None], [0.5]], ids=["none", "failed", "complete"])
@pytest.mark.parametrize("known", [{}, facts()], ids=["no facts", "facts"])
def test_an_interrupted_study_has_all_keys(
    store: Store, known: dict[str, Any], scores: list[float | None]
) -> None:
    store.begin("birds", known)
    for number, score in enumerate(scores):
        add_trial(store, number, score, "failed" if score is None else "complete", epochs=1)
    summary = report.summarise(store, "birds")
    assert list(summary) == list(SHAPE)
    assert summary["test"] is None
    assert (summary["best"] is None) == (scores in ([], [None]))


def test_costs_and_score_come_from_the_last_test_of_the_best_trial(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    add_test(store, 1, **opening(0.7))
    add_test(store, 1, **opening(0.8))
    summary = report.summarise(store, "birds")
    low, high = intervals.wilson_interval(0.8, 180)
    assert summary["test"] == {"score": 0.8, "low": low, "high": high, "n": 180}
    assert summary["test_openings"] == 2
    best = summary["best"]
    assert (best["trial"], best["parameters"], best["ms_per_item"]) == (1, 3_700_001, 2.5)


def test_an_unfinished_test_or_one_of_another_trial_is_not_reported(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    store.open_test("birds", 1, {})
    add_test(store, 0, **opening())
    summary = report.summarise(store, "birds")
    assert summary["test"] is None
    assert summary["best"]["parameters"] == 3_400_000


def test_a_test_of_a_named_candidate_belongs_to_that_candidate(store: Store) -> None:
    add_study(store, 0.9)
    candidates = (
        final_candidate("ensemble", 0.95, True, "ensemble"),
        final_candidate("trial 0", 0.9, True),
    )
    add_test(store, 0, **opening(0.7), candidate="trial 0")
    assert add_finals(store, *candidates, winner="ensemble")["test"] is None
    add_test(store, 0, **opening(0.8), candidate="ensemble")
    assert add_finals(store, *candidates, winner="ensemble")["test"]["score"] == 0.8
    assert add_finals(store, *candidates, winner="trial 0")["test"]["score"] == 0.7


def test_of_equal_trials_the_one_that_trains_fewer_parameters_wins_and_then_the_earlier(
    store: Store,
) -> None:
    store.begin("birds", facts())
    for number, trained in enumerate((None, 50, 10, 10)):
        add_trial(store, number, 0.9, trained_parameters=trained)
    add_trial(store, 4, 0.99, "pruned")
    rows = store.trials("birds")
    assert [r.number for r in report.ranked(rows, "maximize")] == [2, 3, 1, 0]
    assert [t["number"] for t in report.top(store, "birds", 2)] == [2, 3]


def test_a_metric_that_is_better_when_lower_is_ranked_in_reverse_and_has_no_interval(
    store: Store,
) -> None:
    add_study(store, 0.5, 0.4, None, metric="log_loss", direction="minimize")
    summary = report.summarise(store, "birds")
    expected = {"mean": 0.4, "low": 0.4, "high": 0.4, "seeds": 1}
    assert (summary["best"]["trial"], summary["best"]["validation"]) == (1, expected)
    assert [f["tied_with_best"] for f in summary["finalists"]] == [True, False]


def test_without_finals_a_tie_is_an_interval_that_contains_the_best_score(store: Store) -> None:
    add_study(store, 0.9, 0.85, 0.5, validation_n=100)
    add_trial(store, 3, 0.88, chosen=config(lr=0.001))
    summary = report.summarise(store, "birds")
    tied = {f["trial"]: f["tied_with_best"] for f in summary["finalists"]}
    assert tied == {0: True, 1: True, 2: False}, "trial 3 has the configuration of trial 0"
    validation = summary["best"]["validation"]
    assert (validation["low"], validation["high"]) == pytest.approx((0.8256, 0.9448), abs=1e-4)


def test_trials_are_counted_by_status(store: Store) -> None:
    statuses = "complete pruned out_of_time failed diverged incompatible out_of_memory running"
    store.begin("birds", facts())
    for number, status in enumerate([*statuses.split(), "interrupted"]):
        add_trial(store, number, 0.5, status)
    summary = report.summarise(store, "birds")
    assert summary["trials"] == {"complete": 1, "pruned": 2, "failed": 4}


def test_the_pareto_front_has_the_trials_that_no_other_dominates(store: Store) -> None:
    store.begin("birds", facts())
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
            store, number, score, parameters=size, seconds=seconds, measured={"ms_per_item": ms}
        )
    add_trial(store, 6, 0.9, parameters=100, seconds=9.0)  # its inference time is unknown
    front = report.summarise(store, "birds")["pareto"]
    assert [p["trial"] for p in front] == [0, 5, 2, 1, 3]
    costs = {"ms_per_item": 9.0, "parameters": 100, "seconds": 9.0}
    assert front[0] == {"trial": 0, "score": 0.9, **costs}


def test_the_pareto_front_of_a_loss_has_the_lowest(store: Store) -> None:
    add_study(store, 0.5, 0.4, direction="minimize", metric="log_loss")
    assert [p["trial"] for p in report.summarise(store, "birds")["pareto"]] == [1]


def test_each_backbone_has_the_median_of_its_measured_costs(store: Store) -> None:
    store.begin("birds", facts())
    for number, (ms, peak) in enumerate(((2.0, None), (4.0, 100), (3.0, 300))):
        costs = {"forward_ms": 2 * ms, "peak_bytes": peak}
        add_trial(store, number, 0.5, measured={"costs": costs, "ms_per_item": ms})
    add_trial(store, 3, 0.5, chosen=config(backbone="quick"), measured={"ms_per_item": 1.0})
    add_trial(store, 4, 0.5, chosen=config(backbone="unknown"))
    quick, usual = report.backbone_costs(store.trials("birds"))
    assert (quick["backbone"], quick["forward_ms"], quick["peak_bytes"]) == ("quick", None, None)
    assert usual["backbone"] == "tf_efficientnet_lite0"
    assert (usual["trials"], usual["ms_per_item"], usual["forward_ms"]) == (3, 3.0, 6.0)
    assert (usual["peak_bytes"], usual["backward_ms"]) == (300, None)


def test_winner_and_baselines_are_those_of_the_final_selection(store: Store) -> None:
    add_study(store, 0.99, 0.95, 0.9)
    summary = add_finals(
        store,
        final_candidate("trial 1", 0.9, True),
        final_candidate("trial 0", 0.88, False, "default_recipe"),
        final_candidate("trial 2", 0.8, False, "linear_probe"),
        winner="trial 1",
    )
    best = summary["best"]
    assert best["trial"] == 1
    assert best["validation"] == {"mean": 0.9, "low": 0.88, "high": 0.92, "seeds": 2}
    assert (best["parameters"], best["trained_parameters"]) == (7, 1000)
    assert [f["trial"] for f in summary["finalists"]] == [1, 0, 2]
    assert summary["baselines"]["default_recipe"]["mean"] == 0.88
    assert summary["baselines"]["linear_probe"]["trial"] == 2
    assert summary["optimism"] == 0.0123
