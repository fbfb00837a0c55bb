"""What a study found: ``summary.json`` for programs, ``report.html`` for people.

Everything comes from the database, so ``autotl report`` can write both again at any time. A fact
that the study does not have, because it is old or was cut short, is shown as empty.
"""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl import metrics
from autotl.errors import StoreError
from autotl.plugin import SEARCHED

if TYPE_CHECKING:
    from autotl.store import Store, TestRow, TrialRow

FINALISTS = 5
"""How many of the best configurations the summary names."""

ISSUES = 200
"""How many problems of the data the page lists; all are in ``issues.csv``."""

MATRIX = 30
"""Up to so many classes the confusion matrix is drawn; above, its largest errors are listed."""


# ---------------------------------------------------------------- words for a configuration


def chosen(config: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, str]]]:
    """By kind, in the order of the search: the plugin's name and its values for people.

    >>> chosen({"freeze": {"full": {"lr": 0.00012345}}})
    {'freeze': ('full', {'lr': '0.000123'})}
    """
    found = {}
    for kind in SEARCHED:
        for name, values in config.get(kind, {}).items():
            found[kind] = name, {k: _short(v) for k, v in values.items()}
    return found


def recipe_line(config: Mapping[str, Any], values: bool = True) -> str:
    """A configuration, as ``space.to_json`` writes it, in one line; without ``values`` the names.

    >>> recipe_line({"freeze": {"full": {"lr": 1e-3}}, "head": {"linear": {}}})
    'full(lr=0.001) · linear'
    """
    parts = []
    for name, params in chosen(config).values():
        inside = ", ".join(f"{k}={v}" for k, v in params.items())
        parts.append(f"{name}({inside})" if inside and values else name)
    return " · ".join(parts)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------- for programs


def ranked(rows: Iterable[TrialRow], direction: str) -> list[TrialRow]:
    """The complete trials, best first; of equals the smaller, then the one that learns less."""
    sign = -1.0 if direction == "maximize" else 1.0

    def key(row: TrialRow) -> tuple[float, float, float, int]:
        assert row.score is not None
        return sign * row.score, *_cost(row), row.number

    return sorted((r for r in rows if r.end == "complete" and r.score is not None), key=key)


def _cost(row: TrialRow) -> tuple[float, float]:
    """Parameters, and those that learned; a trial that does not know them is not a cheap one."""
    sizes = row.parameters, row.learned_parameters
    whole, learned = (math.inf if n is None else n for n in sizes)
    return whole, learned


def summarise(store: Store, study: str) -> dict[str, Any]:
    """What ``summary.json`` holds; its keys are stable, other programs read them.

    ``test`` is that of the best trial. A test of an earlier winner says nothing about this one,
    so it is left to the page.

    A finalist is tied with the best when its interval reaches the best's mean. That looks at one
    split and one seed only and is cautious on purpose: it calls a tie what several seeds on the
    same pictures might yet tell apart.

    Raises:
        StudyError: There is no such study.
    """
    facts, rows = store.require(study), store.trials(study)
    complete = ranked(rows, facts.get("direction", "maximize"))
    by_number = {row.number: _scored(row, facts) for row in complete}
    best = complete[0] if complete else None
    distinct: dict[str, dict[str, Any]] = {}
    for row in complete:
        distinct.setdefault(json.dumps(row.config, sort_keys=True), by_number[row.number])
    finalists = list(distinct.values())[:FINALISTS]
    probes = set(facts.get("linear_probes") or ())
    test = _test_of(best, store.tests(study))
    ends, data = Counter(row.end for row in rows), facts.get("data") or {}
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
        "best": best and _best(best, by_number[best.number], test),
        "finalists": [
            {**f, "tied_with_best": f["low"] <= finalists[0]["mean"] <= f["high"]}
            for f in finalists
        ],
        "baselines": {
            "linear_probe": next((by_number[n] for n in by_number if n in probes), {}),
            "default_recipe": by_number.get(facts.get("default_trial", -1), {}),
        },
        "test": {key: test[key] for key in ("score", "low", "high", "n")} if test else None,
        "artifact": "model",
        "versions": facts.get("versions", {}),
    }


def top(store: Store, study: str, n: int = 10) -> list[dict[str, Any]]:
    """The ``n`` best complete trials: number, score, epochs, seconds, config."""
    rows = ranked(store.trials(study), store.require(study).get("direction", "maximize"))
    keys = ("number", "score", "epochs", "seconds", "config")
    return [{key: getattr(row, key) for key in keys} for row in rows[:n]]


def _scored(row: TrialRow, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A complete trial with the 95 % interval of its score on the validation part."""
    assert row.score is not None
    low = high = row.score  # for other metrics than accuracy one split's score has no interval
    if facts.get("metric", "accuracy") == "accuracy" and facts.get("validation_n"):
        low, high = metrics.wilson(row.score, facts["validation_n"])
    return {
        "trial": row.number,
        "config": row.config,
        "mean": row.score,
        "low": low,
        "high": high,
    }


def _best(row: TrialRow, scored: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trial": row.number,
        "config": row.config,
        "validation": {**{key: scored[key] for key in ("mean", "low", "high")}, "seeds": 1},
        "parameters": test.get("parameters", row.parameters),
        "learned_parameters": test.get("learned_parameters", row.learned_parameters),
        "ms_per_item": test.get("ms_per_item", 0.0),
    }


def _test_of(best: TrialRow | None, tests: Sequence[TestRow]) -> dict[str, Any]:
    """What the last finished test of the best trial showed; empty without one."""
    found = [t.facts for t in tests if t.facts and best and t.trial == best.number]
    return found[-1] if found else {}


# ---------------------------------------------------------------- for people


def answer(summary: Mapping[str, Any]) -> list[str]:
    """The winner with its validation score; its test score, or why there is none; any ties."""
    best, test, metric = summary["best"], summary["test"], summary["metric"]
    if best is None:
        return ["No trial has come to its end, so there is no winner."]
    score = best["validation"]
    said = [
        f"The best is trial {best['trial']}, {recipe_line(best['config'], values=False)}: {metric} "
        f"{_interval(score['mean'], score)} on the validation pictures, by which it was chosen."
    ]
    if test:
        said.append(
            f"On {test['n']} test pictures that the search never saw: {metric} "
            f"{_interval(test['score'], test)}."
        )
    elif not summary["data"]["test"]:
        said.append("There is no test score, because no pictures were set aside for a test.")
    else:
        said.append("There is no test score, because the search ended before its test.")
    tied = [f"{f['trial']}" for f in summary["finalists"] if f["tied_with_best"]]
    if others := [number for number in tied if number != f"{best['trial']}"]:
        trials = f"trial {others[0]}" if len(others) == 1 else f"trials {', '.join(others)}"
        said.append(f"The validation pictures are too few to tell it from {trials}: call it a tie.")
    return said


def _interval(score: float, of: Mapping[str, float]) -> str:
    """``0.8612 (95 % interval 0.8400 to 0.8800)``, or the bare score where there is none."""
    if of["low"] == of["high"]:
        return f"{score:.4f}"
    return f"{score:.4f} (95 % interval {of['low']:.4f} to {of['high']:.4f})"


def write(store: Store, study: str, folder: Path) -> dict[str, Any]:
    """Write ``summary.json`` and ``report.html`` into ``folder``; return the summary.

    Raises:
        StudyError: There is no such study.
        StoreError: The folder cannot be written to.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,  # class names, file names and messages are the user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    summary = summarise(store, study)
    page = environment.from_string(template).render(_page(store, study, summary, folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        # A file name that is no Unicode must not cost the whole page.
        (folder / "report.html").write_text(page, encoding="utf-8", errors="replace")
    except OSError as e:
        raise StoreError(
            f"cannot write the report into {folder}: {e.strerror}; choose another --out"
        ) from e
    return summary


def _page(store: Store, study: str, summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """All that the template shows; it computes nothing itself."""
    facts, rows, tests = store.require(study), store.trials(study), store.tests(study)
    by_number = {row.number: row for row in rows}
    best = by_number[summary["best"]["trial"]] if summary["best"] else None
    tied = [by_number[f["trial"]] for f in summary["finalists"] if f["tied_with_best"]]
    issues, test = facts.get("issues") or [], _test_of(best, tests)
    stages: dict[str, float] = facts.get("stages") or {}
    return {
        "summary": summary,
        "facts": facts,
        "state": facts.get("state", ""),
        "answer": answer(summary),
        "cheapest": min(tied, key=_cost, default=None),
        "recipe": chosen(best.config) if best else {},
        "recipe_line": recipe_line,
        "openings": tests,
        "test": test,
        "per_class": sorted(test.get("per_class") or [], key=_worst_first),
        "confusion": _confusion(test, summary["data"]["classes"]),
        "intervals": _intervals(summary),
        "rows": rows,
        "curves": _curves(store, study, rows, best),
        "issues": issues[:ISSUES],
        "more_issues": max(0, len(issues) - ISSUES),
        "left_out": facts.get("left_out") or [],
        "stages": {name: (s, s / (sum(stages.values()) or 1.0)) for name, s in stages.items()},
        "weights": facts.get("weights") or {},
        "commands": _commands(study, facts, best, folder),
    }


def _commands(
    study: str, facts: Mapping[str, Any], best: TrialRow | None, folder: Path
) -> dict[str, str]:
    """What each command to type would do."""
    commands = {facts["command"]: "goes on with the search"} if "command" in facts else {}
    if best:
        recipe = shlex.quote(str(folder / "recipe.toml"))
        commands[f"autotl train {recipe}"] = "trains the winner again"
    return {**commands, f"autotl report {shlex.quote(study)}": "writes this page again"}


def _worst_first(entry: Mapping[str, Any]) -> float:
    score = entry["score"]  # None for a class without test pictures
    return math.inf if score is None else float(score)


@dataclass(frozen=True)
class _Axis:
    """A linear scale; places are percentages, so that a figure fits any screen."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> _Axis:
        """The scale that holds all of ``values`` with a little air around them."""
        low, high = min(values), max(values)
        air = 0.06 * (high - low) or 0.01
        return cls(low - air, high + air)

    def at(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and label of at most six round values."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span))
        step = next(s for s in (power / 5, power / 2, power, 2 * power) if span / s <= 5)
        digits = max(0, -math.floor(math.log10(step)))
        ticks = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(self.at(i * step), f"{i * step:.{digits}f}") for i in ticks]


def _intervals(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The finalists, baselines and test score on one axis."""
    bars = [{**f, "label": f"trial {f['trial']}", "role": "finalist"} for f in summary["finalists"]]
    for name, scored in summary["baselines"].items():
        if scored:
            label = f"{name.replace('_', ' ')}, trial {scored['trial']}"
            bars.append({**scored, "label": label, "role": "baseline"})
    if not bars:
        return {}
    bars[0] |= {"label": f"{bars[0]['label']}, the best", "role": "best"}
    if test := summary["test"]:
        bars.append({**test, "mean": test["score"], "label": "the best, on test", "role": "test"})
    axis = _Axis.over([bar[key] for bar in bars for key in ("low", "mean", "high")])
    for bar in bars:
        bar["at"] = {key: axis.at(bar[key]) for key in ("low", "mean", "high")}
    return {"bars": bars, "ticks": axis.ticks}


def _curves(
    store: Store, study: str, rows: Sequence[TrialRow], best: TrialRow | None
) -> dict[str, Any]:
    """The validation score of every trial by epoch, the best trial's drawn last, on top."""
    drawn = []
    for row in sorted(rows, key=lambda r: (r is best, r.end == "complete")):
        epochs = store.epochs(study, row.number)
        points = [(e.epoch, e.score) for e in epochs if e.score is not None]
        if len(points) > 1:
            drawn.append((row, points))
    if not drawn:
        return {}
    x = _Axis(1, max(epoch for _, points in drawn for epoch, _ in points))
    y = _Axis.over([score for _, points in drawn for _, score in points])
    lines = [
        {
            "title": f"trial {row.number}, {row.end}: {recipe_line(row.config, values=False)}",
            "role": "best" if row is best else row.end,
            "points": " ".join(f"{x.at(epoch)},{100 - y.at(score):.2f}" for epoch, score in points),
        }
        for row, points in drawn
    ]
    return {"lines": lines, "ticks": y.ticks, "epochs": int(x.high)}


def _confusion(test: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The confusion matrix with each cell's share of its row, and its largest errors."""
    matrix: list[list[int]] = test.get("confusion") or []
    names = [c["class"] for c in test.get("per_class") or []] or list(classes)
    if not matrix or len(names) != len(matrix):
        return {}
    shares = [[(n, n / (sum(row) or 1)) for n in row] for row in matrix]
    errors = sorted(
        (
            (n, names[i], names[j])
            for i, row in enumerate(matrix)
            for j, n in enumerate(row)
            if n and i != j
        ),
        key=lambda error: -error[0],
    )
    drawn = list(zip(names, shares, strict=True)) if len(names) <= MATRIX else []
    return {"names": names, "rows": drawn, "errors": errors[:20]}
