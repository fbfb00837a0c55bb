"""Small studies with chosen scores, tests and final selections, for tests of the report."""

from __future__ import annotations

from typing import Any

from example_study import add_trial, config, facts

from autotl import report
from autotl.store import Store


def add_study(store: Store, *scores: float | None, **changes: Any) -> None:
    """Write a study with trials of these scores; a trial without one has failed."""
    store.begin("birds", facts(**changes))
    for number, score in enumerate(scores):
        add_trial(store, number, score, "failed" if score is None else "complete")


def add_test(store: Store, trial: int, **changes: Any) -> None:
    """Write a completed test of a trial."""
    store.close_test(store.open_test("birds", trial, {}), **changes)


def final_candidate(name: str, mean: float, tied: bool, role: str = "finalist") -> dict[str, Any]:
    """A candidate of a final selection; the best of it has a mean of 0.9."""
    trial = int(name.removeprefix("trial ")) if name.startswith("trial ") else None
    return {
        "name": name,
        "trial": trial,
        "role": role,
        "config": None if trial is None else config(),
        "scores": [mean - 0.01, mean + 0.01],
        "mean": mean,
        "low": mean - 0.02,
        "high": mean + 0.02,
        "difference": {"mean": mean - 0.9, "low": mean - 0.91, "high": mean - 0.89},
        "tied_with_best": tied,
        "seconds": 3.0,
        "parameters": 7,
        "ms_per_item": None,
    }


def add_finals(
    store: Store, *candidates: dict[str, Any], winner: str, **changes: Any
) -> dict[str, Any]:
    """Write a final selection, and return the summary of the study."""
    finals = {"runs": 2, "candidates": candidates, "winner": winner, "cheapest_tied": winner}
    store.update("birds", finals={**finals, "optimism": 0.0123, "prefer": "accuracy", **changes})
    return report.summarise(store, "birds")
