"""What ``summary.json`` holds, for programs."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotl.scoring import metrics

if TYPE_CHECKING:
    from autotl.store import Store, TestRow, TrialRow

FINALISTS = 5
"""How many of the best configurations the summary names when there were no finals."""


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
    """The complete trials than which no other is as good in everything and better in something.

    Everything is the score, ``ms_per_item`` (milliseconds to predict one picture), ``parameters``
    and ``seconds`` of training; what a trial does not know counts as dear. Best score first.
    """
    sign = -1.0 if direction == "maximize" else 1.0
    points = []
    for row in ranked(rows, direction):
        costs = (row.facts.get("ms_per_item"), row.parameters, row.seconds)
        assert row.score is not None
        known = [math.inf if c is None else float(c) for c in costs]
        points.append((row, costs, (sign * row.score, *known)))
    front = []
    for row, costs, values in points:
        if not any(_dominates(other, values) for _, _, other in points):
            named = zip(("ms_per_item", "parameters", "seconds"), costs, strict=True)
            front.append({"trial": row.number, "score": row.score, **dict(named)})
    return front


COSTS = ("forward_ms", "backward_ms", "activation_bytes", "peak_bytes")
"""What a trial measures of its cost: for a picture, and of memory at its peak."""


def backbone_costs(rows: Iterable[TrialRow]) -> list[dict[str, Any]]:
    """For each backbone that was measured what it costs here, the cheapest to predict with first.

    ``backbone``, the number of ``trials`` that measured it, ``COSTS`` and ``ms_per_item`` (medians
    over these trials, the peak the highest of them) and ``parameters``; None where not known.
    """
    by_name: dict[str, list[TrialRow]] = {}
    for row in rows:
        if row.facts.get("costs") or row.facts.get("ms_per_item"):
            for name in row.config.get("backbone", {}):
                by_name.setdefault(name, []).append(row)
    found = []
    for name, measured in by_name.items():
        costs = [r.facts.get("costs") or {} for r in measured]
        known = {key: [c[key] for c in costs if c.get(key) is not None] for key in COSTS}
        known["ms_per_item"] = [m for r in measured if (m := r.facts.get("ms_per_item"))]
        known["parameters"] = [r.parameters for r in measured if r.parameters]
        entry = {key: statistics.median(values) if values else None
                 for key, values in known.items()}  # fmt: skip
        entry["peak_bytes"] = max(known["peak_bytes"], default=None)
        found.append({"backbone": name, "trials": len(measured), **entry})
    return sorted(found, key=lambda e: (e["ms_per_item"] or math.inf, e["backbone"]))


def _dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere greater than ``b`` and somewhere less."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def summarise(store: Store, study: str) -> dict[str, Any]:
    """What ``summary.json`` holds; its keys are stable, other programs read them.

    Where there were finals, the winner, the finalists and the baselines are theirs: means over
    ``seeds`` runs. Where there was no time for any they are those of the search, on one split with
    one seed; a finalist is then tied with the best when its interval reaches the best's score.
    That is cautious on purpose: it calls a tie what several seeds on the same pictures might yet
    tell apart.

    ``test`` is that of the winner. A test of an earlier winner says nothing about this one, so it
    is left to the page. ``test_openings`` counts every time that the test part was looked at.

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
        winner, finalists, baselines = _of_finals(finals)
    else:
        winner, finalists, baselines = _of_search(complete, facts)
    test = test_of(winner, tests)
    ends, data = Counter(row.status for row in rows), facts.get("data") or {}
    pruned = ends["pruned"] + ends["out_of_time"]
    unfinished = ends["running"] + ends["interrupted"]
    counts = ("train", "validation", "test", "skipped", "duplicates_across_splits")
    return {
        "schema": 1,
        "study": study,
        "seed": facts.get("seed", 0),
        "metric": facts.get("metric", "accuracy"),
        "data": {
            "source": data.get("source", ""),
            "fingerprint": data.get("fingerprint", ""),
            "classes": data.get("classes", []),
            **{key: data.get(key, 0) for key in counts},
        },
        "budget_seconds": facts.get("budget_seconds"),
        "seconds": facts.get("seconds", 0.0),
        "device": facts.get("device", ""),
        "trials": {
            "complete": ends["complete"],
            "pruned": pruned,
            "failed": len(rows) - ends["complete"] - pruned - unfinished,
        },
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


Found = tuple[dict[str, Any] | None, list[dict[str, Any]], dict[str, Any]]
"""The winner, the finalists and the baselines."""


def _of_finals(finals: Mapping[str, Any]) -> Found:
    candidates = finals["candidates"]
    keys = ("trial", "config", "mean", "low", "high", "tied_with_best")
    finalists = [{key: c.get(key) for key in keys} for c in candidates]
    winner = next(c for c in candidates if c["name"] == finals["winner"])
    if members := winner.get("members"):  # several as one: the heaviest stands for it
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
    """Whether the winner of finals is made of a trial that later limits leave out."""
    [winner] = [c for c in finals["candidates"] if c["name"] == finals["winner"]]
    names = winner.get("members") or {winner["name"]: 1.0}
    return any(row.facts.get("barred") and f"trial {row.number}" in names for row in rows)


def _of_search(complete: Sequence[TrialRow], facts: Mapping[str, Any]) -> Found:
    scored = [_scored(row, facts) for row in complete]
    probes, default = set(facts.get("linear_probes") or ()), facts.get("default_trial")
    baselines = {
        "linear_probe": next((s for s in scored if s["trial"] in probes), {}),
        "default_recipe": next((s for s in scored if s["trial"] == default), {}),
    }
    finalists = _finalists(complete, facts)
    if not complete:
        return None, finalists, baselines
    # A search that was cut short may have left the model of an earlier winner.
    kept = [row for row in complete if row.number == facts.get("kept")]
    first = _scored(kept[0] if kept else leader(complete, facts), facts)
    return {**first, "name": f"trial {first['trial']}", "seeds": 1}, finalists, baselines


def _scored(row: TrialRow, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A complete trial with the 95 % interval of its score on the validation part."""
    assert row.score is not None
    low = high = row.score  # for other metrics than accuracy one split's score has no interval
    if facts.get("metric", "accuracy") == "accuracy" and facts.get("validation_n"):
        low, high = metrics.wilson_interval(row.score, facts["validation_n"])
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
    """The winner; what the test measured of its cost comes first, then the finals, the trial."""
    row = rows.get(winner["trial"])
    searched = {} if row is None else {**row.facts, **vars(row)}
    known = [test, winner, searched]

    def first(key: str) -> Any:
        return next((k[key] for k in known if k.get(key) is not None), None)

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
    """What the last finished test of the winner showed; empty without one."""
    if winner is None:
        return {}
    found = [t.facts for t in tests if t.done and t.is_of(winner["name"], winner.get("members"))]
    return found[-1] if found else {}
