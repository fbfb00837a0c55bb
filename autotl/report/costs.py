"""What a prediction takes: measured for the contenders, estimated for the other trials."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotl.store import Contender, TrialRow


def prediction_ms(rows: Iterable[TrialRow], contenders: Sequence[Contender]) -> dict[int, float]:
    """The milliseconds of a prediction with each trial, for one image of a batch.

    It is one number for each backbone and input size, because what trials measured while they were
    planned differs by chance: that of the final measurement, or, of a backbone that took no part in
    it, the median over its trials, in proportion to how much faster the others were at the end.

    Args:
        rows: The trials of a study.
        contenders: Those with a ``latency`` were measured at the end.

    Returns:
        The milliseconds by number of the trial; trials for which nothing is known are missing.
    """
    architectures = {row.number: _architecture(row) for row in rows}
    estimates: dict[str, list[float]] = {}
    for row in rows:
        if row.facts.ms_per_item is not None:
            estimates.setdefault(architectures[row.number], []).append(row.facts.ms_per_item)
    measured: dict[str, list[float]] = {}
    for contender in contenders:
        if contender.kind == "trial" and contender.latency and contender.lead in architectures:
            spread = contender.latency.batch or contender.latency.single
            measured.setdefault(architectures[contender.lead], []).append(spread.median)
    fastest = {key: min(values) for key, values in measured.items()}
    usual = {key: statistics.median(values) for key, values in estimates.items()}
    ratios = [fastest[key] / usual[key] for key in fastest.keys() & usual.keys() if usual[key]]
    ratio = statistics.median(ratios) if ratios else 1.0
    values = {**{key: ratio * value for key, value in usual.items()}, **fastest}
    return {number: values[key] for number, key in architectures.items() if key in values}


def _architecture(row: TrialRow) -> str:
    """The backbone of a trial, with its values; an image size that is searched is one of them."""
    return json.dumps(row.config.get("backbone", {}), sort_keys=True)


def prediction_costs(contenders: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The contenders of a summary with equal costs together, the fastest first.

    Returns:
        ``names``, ``parameters`` and ``latency``; without those that were not measured.
    """
    groups: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        if contender["latency"]:
            key = json.dumps([contender["latency"], contender["parameters"]])
            group = groups.setdefault(key, {"names": [], **contender})
            group["names"].append(contender["name"])
    return sorted(groups.values(), key=lambda group: float(group["latency"]["single"]["median"]))
