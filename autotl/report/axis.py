"""Rows on one axis, which the page draws without a library: intervals, and what each plugin did."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotl.report.figures import window
from autotl.report.summary import ranked
from autotl.space.plugin import SEARCHED_KINDS

if TYPE_CHECKING:
    from autotl.store import TrialRow


@dataclass(frozen=True)
class Axis:
    """A linear scale; places are percentages, so that a figure fits any screen."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Axis:
        """The scale that holds all of ``values`` with a little air around them."""
        low, high = min(values), max(values)
        air = 0.06 * (high - low) or 0.01
        return cls(low - air, high + air)

    def at(self, value: float) -> float:
        """The place of ``value``; what lies outside is put at the edge."""
        place = 100 * (value - self.low) / (self.high - self.low)
        return round(min(100.0, max(0.0, place)), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and label of at most six round values."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span))
        step = next(s for s in (power / 5, power / 2, power, 2 * power) if span / s <= 5)
        digits = max(0, -math.floor(math.log10(step)))
        ticks = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(self.at(i * step), f"{i * step:.{digits}f}") for i in ticks]


def intervals(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The finalists, the baselines and the test score on one axis."""
    finals = summary["finals"]
    if finals:
        rows = [_candidate(c, finals["winner"]) for c in finals["candidates"]]
    else:
        rows = [{**f, "label": f"trial {f['trial']}", "role": "finalist"}
                for f in summary["finalists"]]  # fmt: skip
        for name, scored in summary["baselines"].items():
            if scored:
                label = f"{name.replace('_', ' ')}, trial {scored['trial']}"
                rows.append({**scored, "label": label, "role": "baseline"})
        handed = [row for row in rows if row["trial"] == (summary["best"] or {}).get("trial")]
        if handed:
            handed[0] |= {"label": f"{handed[0]['label']}, the best", "role": "best"}
    if not rows:
        return {}
    if test := summary["test"]:
        rows.append({**test, "mean": test["score"], "label": "the best, on test", "role": "test"})
    values = [row[key] for row in rows for key in ("low", "mean", "high")]
    axis = Axis.over([*values, *(s for row in rows for s in row.get("scores", ()))])
    for row in rows:
        row["at"] = {key: axis.at(row[key]) for key in ("low", "mean", "high")}
        row["dots"] = [(axis.at(s), f"{s:.4f}") for s in row.get("scores", ())]
        row["said"] = f"{row['mean']:.4f}"
    return {"rows": rows, "ticks": axis.ticks}


def _candidate(candidate: Mapping[str, Any], winner: str) -> dict[str, Any]:
    notes = []
    if candidate["name"] == winner:
        notes.append("the best")
    elif candidate["tied_with_best"]:
        notes.append("tied")
    if candidate["role"] in ("default_recipe", "linear_probe"):
        notes.append(candidate["role"].replace("_", " "))
    role = "best" if candidate["name"] == winner else "finalist"
    return {**candidate, "label": ", ".join([candidate["name"], *notes]), "role": role}


def effects(rows: Iterable[TrialRow], direction: str, best: int | None) -> list[dict[str, Any]]:
    """For each kind of which several were tried: the scores of each plugin, the best first."""
    complete = ranked(rows, direction)
    if len(complete) < 2:
        return []
    scores = [row.score for row in complete if row.score is not None]
    axis = Axis(*window(scores, direction))
    found = []
    for kind in SEARCHED_KINDS:
        names: dict[str, list[TrialRow]] = {}
        for row in complete:
            for name in row.config.get(kind, {}):
                names.setdefault(name, []).append(row)
        if len(names) > 1:
            lines = [_effect(name, tried, axis, best) for name, tried in names.items()]
            found.append({"kind": kind, "rows": lines, "ticks": axis.ticks})
    return found


def _effect(name: str, tried: Sequence[TrialRow], axis: Axis, best: int | None) -> dict[str, Any]:
    scores = [row.score for row in tried if row.score is not None]
    count = f"{len(tried)} trial{'s' if len(tried) > 1 else ''}"
    return {
        "label": name,
        "role": "best" if any(row.number == best for row in tried) else "finalist",
        "said": f"best {scores[0]:.4f} · {count}",
        "dots": [(axis.at(s), f"trial {r.number}: {s:.4f}")
                 for s, r in zip(scores, tried, strict=True)],
        "at": {"mean": axis.at(statistics.median(scores))},
    }  # fmt: skip
