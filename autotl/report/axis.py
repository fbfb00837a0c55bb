"""Rows on one axis, drawn as SVG without a library: score intervals and effects of plugins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotl.report.comparisons import BASELINES
from autotl.report.figures import score_range
from autotl.report.formatting import format_score
from autotl.search.ranking import rank
from autotl.space.kinds import SEARCHED_KINDS

if TYPE_CHECKING:
    from autotl.store import TrialRow


@dataclass(frozen=True)
class Axis:
    """A linear scale. Positions on it are percentages of its width, so a figure fits any screen."""

    low: float
    high: float

    @classmethod
    def covering(cls, values: Sequence[float]) -> Axis:
        """Make a scale that contains all of ``values`` and a small margin on both sides."""
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.01
        return cls(low - margin, high + margin)

    def position(self, value: float) -> float:
        """Position of ``value`` in percent; a value outside the scale is put at its edge."""
        position = 100 * (value - self.low) / (self.high - self.low)
        return round(min(100.0, max(0.0, position)), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Positions and labels of at most six round values."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span))
        step = next(s for s in (power / 5, power / 2, power, 2 * power) if span / s <= 5)
        digits = max(0, -math.floor(math.log10(step)))
        ticks = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [(self.position(i * step), f"{i * step:.{digits}f}") for i in ticks]


def score_intervals(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Place the finalists, the baselines and the test score on one axis.

    Args:
        summary: As ``summarise`` returns it.

    Returns:
        ``rows`` and ``ticks`` for the template; empty without a complete trial.
    """
    rows = [_labelled(contender) for contender in summary["contenders"]]
    if not summary["selection"]:
        rows = _with_baselines(rows, summary)
    if not rows:
        return {}
    if test := summary["test"]:
        rows.append({**test, "mean": test["score"], "label": "winner, test split", "role": "test"})
    decimals = summary["decimals"]
    values = [row[key] for row in rows for key in ("low", "mean", "high")]
    axis = Axis.covering([*values, *(s for row in rows for s in row.get("scores", ()))])
    for row in rows:
        row["positions"] = {key: axis.position(row[key]) for key in ("low", "mean", "high")}
        row["dots"] = [(axis.position(s), format_score(s, decimals)) for s in row.get("scores", ())]
        row["value"] = format_score(row["mean"], decimals)
    return {"rows": rows, "ticks": axis.ticks}


def _labelled(contender: Mapping[str, Any]) -> dict[str, Any]:
    notes = []
    if contender["is_winner"]:
        notes.append("winner")
    elif contender["tied_with_best"]:
        notes.append("tied")
    if contender["role"] in BASELINES:
        notes.append(BASELINES[contender["role"]])
    role = "best" if contender["is_winner"] else "finalist"
    return {**contender, "label": ", ".join([contender["name"], *notes]), "role": role}


def _with_baselines(rows: list[dict[str, Any]], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The contenders and the baselines of a search without a final selection."""
    rows = [{**row, "label": row["name"], "role": "finalist", "scores": ()} for row in rows]
    for role, name in BASELINES.items():
        if baseline := summary["baselines"][role]:
            label = f"{name}, trial {baseline['trial']}"
            rows.append({**baseline, "label": label, "role": "baseline"})
    best = (summary["best"] or {}).get("trial")
    if winner := next((row for row in rows if row["trial"] == best), None):
        winner |= {"label": f"{winner['label']}, winner", "role": "best"}
    return rows


def plugin_effects(
    rows: Iterable[TrialRow], direction: str, best: int | None, decimals: int = 4
) -> list[dict[str, Any]]:
    """Place the scores of each plugin on one axis, for each kind of which several were tried.

    A trial does not count for a kind that had no effect in it.

    Args:
        rows: The trials of a study.
        direction: ``maximize`` or ``minimize``.
        best: Number of the winner.
        decimals: Those of a score.

    Returns:
        For each ``kind`` its ``rows`` and ``ticks``; the plugin with the best trial comes first.
    """
    complete = rank(rows, direction)
    if len(complete) < 2:
        return []
    scores = [row.score for row in complete if row.score is not None]
    axis = Axis(*score_range(scores, direction))
    effects = []
    for kind in SEARCHED_KINDS:
        trials_of: dict[str, list[TrialRow]] = {}
        for row in complete:
            for name in row.effective_config.get(kind, {}):
                trials_of.setdefault(name, []).append(row)
        if len(trials_of) > 1:
            lines = [
                _plugin_effect(name, trials, axis, best, decimals)
                for name, trials in trials_of.items()
            ]
            effects.append({"kind": kind, "rows": lines, "ticks": axis.ticks})
    return effects


def _plugin_effect(
    name: str, trials: Sequence[TrialRow], axis: Axis, best: int | None, decimals: int
) -> dict[str, Any]:
    """The row of a plugin; ``trials`` are those that used it, the best first."""
    scores = [row.score for row in trials if row.score is not None]
    count = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    return {
        "label": name,
        "role": "best" if any(row.number == best for row in trials) else "finalist",
        "value": f"best {format_score(scores[0], decimals)} · {count}",
        "dots": [
            (axis.position(score), f"trial {row.number}: {format_score(score, decimals)}")
            for score, row in zip(scores, trials, strict=True)
        ],
        "positions": {"mean": axis.position(statistics.median(scores))},
    }
