"""The summary of a study for programs: the contents of ``summary.json``."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotl.scoring import intervals

if TYPE_CHECKING:
    from autotl.store import Store, TestRow, TrialRow

FINALISTS = 5
"""Configurations that the summary lists, the best, where there was no final selection."""


def ranked(rows: Iterable[TrialRow], direction: str) -> list[TrialRow]:
    """The complete trials, best first; of equals the smaller, then the one that learns less.

    Those are left out that the limits of the study's last run bar.
    """
    sign = -1.0 if direction == "maximize" else 1.0

    def key(row: TrialRow) -> tuple[float, float, float, int]:
        assert row.score is not None
        return sign * row.score, *cost(row), row.number

    complete = (r for r in rows if r.status == "complete" and r.score is not None)
    return sorted((r for r in complete if not r.facts.get("barred")), key=key)


def distinct(rows: Iterable[TrialRow]) -> list[TrialRow]:
    """The rows without those whose configuration came before."""
    found: dict[str, TrialRow] = {}
    for row in rows:
        found.setdefault(json.dumps(row.config, sort_keys=True), row)
    return list(found.values())


def cost(row: TrialRow) -> tuple[float, float]:
    """Parameters, and those that learned; a trial that does not know them is not a cheap one."""
    sizes = row.parameters, row.trained_parameters
    whole, learned = (math.inf if n is None else n for n in sizes)
    return whole, learned


def top(store: Store, study: str, n: int = 10) -> list[dict[str, Any]]:
    """The ``n`` best complete trials: number, score, epochs, seconds, config."""
    rows = ranked(store.trials(study), store.require(study).get("direction", "maximize"))
    keys = ("number", "score", "epochs", "seconds", "config")
    return [{key: getattr(row, key) for key in keys} for row in rows[:n]]


def pareto(rows: Iterable[TrialRow], direction: str) -> list[dict[str, Any]]:
    """Find the Pareto front: the complete trials that no other trial dominates.

    The objectives are the score, ``ms_per_item`` (milliseconds of inference per image),
    ``parameters`` and ``seconds`` of training. An unknown cost counts as infinite.

    Args:
        rows: The trials of a study.
        direction: ``maximize`` or ``minimize``.

    Returns:
        The trials of the front with their objectives, the best score first.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    points = []
    for row in ranked(rows, direction):
        costs = (row.facts.get("ms_per_item"), row.parameters, row.seconds)
        assert row.score is not None
        finite = [math.inf if c is None else float(c) for c in costs]
        points.append((row, costs, (sign * row.score, *finite)))
    front = []
    for row, costs, objectives in points:
        if not any(_dominates(other, objectives) for _, _, other in points):
            named_costs = zip(("ms_per_item", "parameters", "seconds"), costs, strict=True)
            front.append({"trial": row.number, "score": row.score, **dict(named_costs)})
    return front


COSTS = ("forward_ms", "backward_ms", "activation_bytes", "peak_bytes")
"""Costs that a trial measures: time and memory per image, and peak memory."""


def backbone_costs(rows: Iterable[TrialRow]) -> list[dict[str, Any]]:
    """Summarise the measured costs of each backbone on this machine.

    Args:
        rows: The trials of a study.

    Returns:
        For each backbone that was measured, the one with the fastest inference first: ``backbone``,
        the number of ``trials`` that measured it, ``COSTS``, ``ms_per_item`` and ``parameters``.
        They are medians over these trials, ``peak_bytes`` is the maximum; None if unknown.
    """
    trials_of: dict[str, list[TrialRow]] = {}
    for row in rows:
        if row.facts.get("costs") or row.facts.get("ms_per_item"):
            for name in row.config.get("backbone", {}):
                trials_of.setdefault(name, []).append(row)
    entries = []
    for name, trials in trials_of.items():
        costs = [row.facts.get("costs") or {} for row in trials]
        values = {key: [c[key] for c in costs if c.get(key) is not None] for key in COSTS}
        values["ms_per_item"] = [ms for row in trials if (ms := row.facts.get("ms_per_item"))]
        values["parameters"] = [row.parameters for row in trials if row.parameters]
        entry = {key: statistics.median(v) if v else None for key, v in values.items()}
        entry["peak_bytes"] = max(values["peak_bytes"], default=None)
        entries.append({"backbone": name, "trials": len(trials), **entry})
    return sorted(entries, key=lambda e: (e["ms_per_item"] or math.inf, e["backbone"]))


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere greater than ``b``, and somewhere less."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def summarise(store: Store, study: str) -> dict[str, Any]:
    """Summarise a study, as ``summary.json`` holds it. Other programs read its keys.

    After a final selection the winner, the finalists and the baselines have its scores: means over
    ``seeds`` repeats. Without one they have those of the search, on one split with one seed; a
    finalist is then tied with the best if its interval contains the best score. That is cautious on
    purpose: several seeds on the same images might tell them apart.

    ``test`` is the test of this winner; the tests of earlier winners are on the page alone.
    ``test_openings`` counts every use of the test split.

    Args:
        store: The database.
        study: Name of the study.

    Raises:
        StudyError: There is no such study.
    """
    facts, rows, tests = store.require(study), store.trials(study), store.tests(study)
    direction = facts.get("direction", "maximize")
    complete = ranked(rows, direction)
    finals = facts.get("finals")
    if finals and _barred(finals, rows):
        finals = None
    if finals:
        winner, finalists, baselines = _final_standings(finals)
    else:
        winner, finalists, baselines = _search_standings(complete, facts)
    test = test_of(winner, tests)
    return {
        "schema": 1,
        "study": study,
        "seed": facts.get("seed", 0),
        "metric": facts.get("metric", "accuracy"),
        "data": _data(facts.get("data") or {}),
        "budget_seconds": facts.get("budget_seconds"),
        "seconds": facts.get("seconds", 0.0),
        "device": facts.get("device", ""),
        "trials": _trial_counts(rows),
        "best": _best(winner, {row.number: row for row in rows}, test) if winner else None,
        "finalists": finalists,
        "baselines": baselines,
        "finals": finals,
        "prefer": facts.get("prefer", "accuracy"),
        "optimism": finals.get("optimism") if finals else None,
        "calibration": facts.get("calibration"),
        "pareto": pareto(rows, direction),
        "test": {key: test[key] for key in ("score", "low", "high", "n")} if test else None,
        "test_openings": len(tests),
        "artifact": "model",
        "versions": facts.get("versions", {}),
    }


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    counts = ("train", "validation", "test", "skipped", "duplicates_across_splits")
    return {
        "source": data.get("source", ""),
        "fingerprint": data.get("fingerprint", ""),
        "classes": data.get("classes", []),
        **{key: data.get(key, 0) for key in counts},
    }


def _trial_counts(rows: Sequence[TrialRow]) -> dict[str, int]:
    """Count trials by how they ended; those that did not end are left out."""
    statuses = Counter(row.status for row in rows)
    complete = statuses["complete"]
    pruned = statuses["pruned"] + statuses["out_of_time"]
    unfinished = statuses["running"] + statuses["interrupted"]
    failed = len(rows) - complete - pruned - unfinished
    return {"complete": complete, "pruned": pruned, "failed": failed}


Standings = tuple[dict[str, Any] | None, list[dict[str, Any]], dict[str, Any]]
"""The winner, the finalists and the baselines."""


def _final_standings(finals: Mapping[str, Any]) -> Standings:
    candidates = finals["candidates"]
    keys = ("trial", "config", "mean", "low", "high", "tied_with_best")
    finalists = [{key: c.get(key) for key in keys} for c in candidates]
    winner = next(c for c in candidates if c["name"] == finals["winner"])
    if members := winner.get("members"):  # an ensemble: its heaviest member represents it
        first = next(c for c in candidates if c["name"] == next(iter(members)))
        winner = {**winner, "trial": first["trial"], "config": first["config"]}
    baselines = {
        role: next(({k: c[k] for k in keys[:-1]} for c in candidates if c["role"] == role), {})
        for role in ("linear_probe", "default_recipe")
    }
    return {**winner, "seeds": finals["runs"]}, finalists, baselines


def leader(complete: Sequence[TrialRow], facts: Mapping[str, Any]) -> TrialRow:
    """The winner of a search without finals: the best, or the cheapest of those tied with it.

    Args:
        complete: As ``ranked`` gives them, at least one.
        facts: The study's; ``prefer`` says which.
    """
    if facts.get("prefer") != "cheap":
        return complete[0]
    tied = {f["trial"] for f in _finalists(complete, facts) if f["tied_with_best"]}
    return min((row for row in complete if row.number in tied), key=cost)


def _finalists(complete: Sequence[TrialRow], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    best = [_scored(row, facts) for row in distinct(complete)[:FINALISTS]]
    return [{**f, "tied_with_best": f["low"] <= best[0]["mean"] <= f["high"]} for f in best]


def _barred(finals: Mapping[str, Any], rows: Sequence[TrialRow]) -> bool:
    """Whether the winner of the final selection uses a trial that later limits exclude."""
    [winner] = [c for c in finals["candidates"] if c["name"] == finals["winner"]]
    names = winner.get("members") or {winner["name"]: 1.0}
    return any(row.facts.get("barred") and f"trial {row.number}" in names for row in rows)


def _search_standings(complete: Sequence[TrialRow], facts: Mapping[str, Any]) -> Standings:
    scored = [_scored(row, facts) for row in complete]
    probes, default = set(facts.get("linear_probes") or ()), facts.get("default_trial")
    baselines = {
        "linear_probe": next((s for s in scored if s["trial"] in probes), {}),
        "default_recipe": next((s for s in scored if s["trial"] == default), {}),
    }
    finalists = _finalists(complete, facts)
    if not complete:
        return None, finalists, baselines
    # An interrupted search may have left the model of an earlier winner.
    kept = [row for row in complete if row.number == facts.get("kept")]
    first = _scored(kept[0] if kept else leader(complete, facts), facts)
    return {**first, "name": f"trial {first['trial']}", "seeds": 1}, finalists, baselines


def _scored(row: TrialRow, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A complete trial with the 95 % interval of its score on the validation split."""
    assert row.score is not None
    low = high = (
        row.score
    )  # without an interval: one split gives none for metrics other than accuracy
    if facts.get("metric", "accuracy") == "accuracy" and facts.get("validation_n"):
        low, high = intervals.wilson_interval(row.score, facts["validation_n"])
    return {
        "trial": row.number,
        "config": row.config,
        "mean": row.score,
        "low": low,
        "high": high,
    }


def _best(
    winner: Mapping[str, Any], rows: Mapping[int, TrialRow], test: Mapping[str, Any]
) -> dict[str, Any]:
    """The winner; its costs are those of the test, else the final selection, else the trial."""
    row = rows.get(winner["trial"])
    trial = {} if row is None else {**row.facts, **vars(row)}
    sources = [test, winner, trial]

    def first(key: str) -> Any:
        return next((source[key] for source in sources if source.get(key) is not None), None)

    return {
        "trial": winner["trial"],
        "config": winner["config"],
        "members": winner.get("members"),
        "validation": {key: winner[key] for key in ("mean", "low", "high", "seeds")},
        "parameters": first("parameters"),
        "trained_parameters": first("trained_parameters"),
        "ms_per_item": first("ms_per_item") or 0.0,
    }


def test_of(winner: Mapping[str, Any] | None, tests: Sequence[TestRow]) -> dict[str, Any]:
    """The result of the last completed test of the winner; empty without one."""
    if winner is None:
        return {}
    results = [t.facts for t in tests if t.done and t.is_of(winner["name"], winner.get("members"))]
    return results[-1] if results else {}
