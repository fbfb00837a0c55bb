"""The interactive figures of the report, as Plotly's JSON.

They are plain data; the copy of plotly.js inside the page draws them in the reader's browser. A
value under a key that ends in ``color`` may name a variable of the page's style sheet, such as
``--accent``, so that the figures follow the light and the dark theme. A trial is referred to by its
number, in ``customdata`` or ``meta``; its ``hover_text`` is in the page once.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotl.report.formatting import format_score, plugin_choices
from autotl.search.ranking import rank

if TYPE_CHECKING:
    from autotl.store import EpochRow, TrialRow

NUM_COLOURS = 8
"""Colours for categories in the style sheet, from ``--c0`` on; further categories repeat them."""

MAX_CURVES = 300
"""The maximum number of learning curves: those of the best trials."""

MAX_HEATMAP_CLASSES = 150
"""The maximum number of classes of a confusion matrix that is drawn as an interactive figure."""

MIN_COST_RATIO = 1.02
"""Costs that differ by a factor of no more than this are not drawn."""

COSTS = {
    "ms_per_item": "inference time per example (ms)",
    "parameters": "parameters",
    "seconds": "training time (s)",
}
"""The costs that a score is drawn against: attribute of a trial, and title of the axis."""

Figure = dict[str, Any]
"""``views``, of which the reader sees one at a time, and the ``height`` in pixels."""


def escape_html(text: str) -> str:
    """Escape text for Plotly, which interprets ``<b>``, ``<a>`` and ``&lt;`` as HTML.

    >>> escape_html("<b>wren</b>")
    '&lt;b&gt;wren&lt;/b&gt;'
    """
    return html.escape(text, quote=False)


def hover_text(row: TrialRow, best: int | None = None, decimals: int = 4) -> str:
    """Describe a trial for hovering: its number, status and score, and a line for each kind.

    Args:
        row: The trial.
        best: Number of the winner.
        decimals: Those of a score.
    """
    score = "" if row.score is None else f", {format_score(row.score, decimals)}"
    winner = ", the winner" if row.number == best else ""
    lines = [f"trial {row.number}, {row.status.replace('_', ' ')}{score}{winner}"]
    for kind, (name, values) in plugin_choices(row.config).items():
        arguments = ", ".join(f"{key} {value}" for key, value in values.items())
        lines.append(f"{kind}: {name}{f' ({arguments})' if arguments else ''}")
    return "<br>".join(escape_html(line) for line in lines)


def score_range(scores: Sequence[float], direction: str) -> list[float]:
    """Range of an axis of scores: without the worst tenth, which may be far off.

    Args:
        scores: At least one.
        direction: ``maximize`` or ``minimize``.

    Returns:
        The lowest and the highest value of the axis.
    """
    ordered = sorted(scores, reverse=direction == "maximize")
    visible = ordered[: max(2, round(0.9 * len(ordered)))]
    low, high = min(visible), max(visible)
    margin = 0.08 * (high - low) or 0.01
    return [low - margin, high + margin]


def score_by_cost(
    rows: Iterable[TrialRow],
    metric: str,
    direction: str,
    best: int | None,
    milliseconds: Mapping[int, float],
    decimals: int = 4,
) -> Figure | None:
    """Draw score against cost of all complete trials, with the Pareto front of each cost.

    Args:
        rows: The trials of a study.
        metric: Name of the metric.
        direction: ``maximize`` or ``minimize``.
        best: Number of the winner.
        milliseconds: Those of inference, see ``costs.prediction_ms``.
        decimals: Those of a score.

    Returns:
        A view for each cost that differs between trials; None without any.
    """
    complete = rank(rows, direction)

    def cost(row: TrialRow, key: str) -> float | None:
        return milliseconds.get(row.number) if key == "ms_per_item" else getattr(row, key)

    views = []
    for key, title in COSTS.items():
        points = [(c, row) for row in complete if (c := cost(row, key)) is not None and c > 0]
        lowest, highest = (pick((c for c, _ in points), default=0.0) for pick in (min, max))
        if highest <= MIN_COST_RATIO * lowest:
            continue
        winner = [(c, row) for c, row in points if row.number == best]
        data = [
            _trial_points(points),
            _points(
                "Pareto front", _pareto_front(points), mode="lines+markers",
                line={"shape": "hv", "width": 1.5, "color": "--accent"},
                marker={"size": 8, "color": "--accent"},
            ),
            _winner_point(winner),
        ]  # fmt: skip
        scale = "log" if highest >= 10 * lowest else "linear"
        scores = [row.score for _, row in points if row.score is not None]
        layout = {
            "xaxis": {"title": {"text": title}, "type": scale},
            "yaxis": _score_axis(metric, score_range(scores, direction), decimals),
        }
        views.append({"label": title, "data": data, "layout": layout})
    return {"views": views, "height": 400} if views else None


def _pareto_front(points: Sequence[tuple[float, TrialRow]]) -> list[tuple[float, TrialRow]]:
    """Points, sorted from the best score, that are cheaper than every better one."""
    front: list[tuple[float, TrialRow]] = []
    for cost, row in points:
        if not front or cost < front[-1][0]:
            front.append((cost, row))
    return front[::-1]


def _points(name: str, points: Sequence[tuple[float, TrialRow]], **style: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "x": [_round(x) for x, _ in points],
        "y": [_round(row.score) for _, row in points],
        "customdata": [row.number for _, row in points],
        "hoverinfo": "text",
        **style,
    }


def _trial_points(points: Sequence[tuple[float, TrialRow]]) -> dict[str, Any]:
    marker = {"size": 7, "color": "--soft", "opacity": 0.55}
    return _points("trial", points, mode="markers", marker=marker)


def _winner_point(points: Sequence[tuple[float, TrialRow]]) -> dict[str, Any]:
    """A ring around the winner."""
    line = {"width": 2.5, "color": "--second"}
    marker = {"size": 15, "symbol": "circle-open", "color": "--second", "line": line}
    return _points("winner", points, mode="markers", marker=marker)


def _score_axis(
    title: str, limits: Sequence[float] | None = None, decimals: int = 4
) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": escape_html(title)}, "tickformat": ".2f"}
    if limits:
        digits = ".2f" if limits[1] - limits[0] > 0.05 else ".3f"
        axis |= {"range": limits, "tickformat": digits}
    if decimals != 4:  # the score has a unit
        axis["tickformat"] = ".4~g"
    return axis


def best_so_far(
    rows: Iterable[TrialRow], metric: str, direction: str, best: int | None, decimals: int = 4
) -> Figure | None:
    """Draw the score of each complete trial by the time at which it ended, and the best so far.

    Args:
        rows: The trials of a study.
        metric: Name of the metric.
        direction: ``maximize`` or ``minimize``.
        best: Number of the winner.
        decimals: Those of a score.

    Returns:
        The figure; None with less than two complete trials.
    """
    rows = list(rows)
    ended = search_times(rows)
    complete = sorted(
        ((ended[r.number], r) for r in rows if r.status == "complete" and r.score is not None),
        key=lambda point: point[0],
    )
    if len(complete) < 2:
        return None
    pick = max if direction == "maximize" else min
    scores = [row.score for _, row in complete if row.score is not None]
    bests = [pick(scores[: i + 1]) for i in range(len(scores))]
    last = max(ended.values())
    unit, name = (60.0, "min") if last >= 180 else (1.0, "s")
    points = [(t / unit, row) for t, row in complete]
    line = {
        "type": "scatter",
        "name": "best so far",
        "x": [_round(t) for t, _ in points] + [_round(last / unit)],
        "y": [_round(s) for s in [*bests, bests[-1]]],
        "mode": "lines",
        "line": {"shape": "hv", "width": 2, "color": "--accent"},
        "hoverinfo": "skip",
    }
    winner = [(t, row) for t, row in points if row.number == best]
    layout = {
        "xaxis": {"title": {"text": f"search time ({name})"}, "rangemode": "tozero"},
        "yaxis": _score_axis(metric, score_range(scores, direction), decimals),
    }
    data = [_trial_points(points), line, _winner_point(winner)]
    return {"views": [{"data": data, "layout": layout}], "height": 360}


def search_times(rows: Iterable[TrialRow]) -> dict[int, float]:
    """Seconds of search until each trial ended, by its number; pauses do not count."""
    ended: dict[int, float] = {}
    until, pauses = None, 0.0
    for row in sorted(rows, key=lambda r: r.started):
        start = row.started.timestamp()
        if until is None or start > until:
            pauses += start - (until or 0.0)
        ended[row.number] = start + row.seconds - pauses
        until = max(until or 0.0, start + row.seconds)
    return ended


def learning_curves(
    rows: Iterable[TrialRow],
    epochs: Mapping[int, Sequence[EpochRow]],
    metric: str,
    direction: str,
    best: int | None,
    decimals: int = 4,
) -> Figure | None:
    """Draw the validation score of each trial by epoch, in the colour of its freeze strategy.

    Args:
        rows: The trials of a study.
        epochs: The epochs of each trial, by its number.
        metric: Name of the metric.
        direction: ``maximize`` or ``minimize``.
        best: Number of the winner.
        decimals: Those of a score.

    Returns:
        The figure; None if no trial has two epochs.
    """
    rows = list(rows)
    ranks = {row.number: i for i, row in enumerate(rank(rows, direction))}
    curves = []
    for row in rows:
        points = [(e.epoch, e.score) for e in epochs.get(row.number, ()) if e.score is not None]
        if len(points) > 1:
            curves.append((row, points))
    if not curves:
        return None
    curves.sort(key=lambda curve: ranks.get(curve[0].number, len(ranks)))
    curves = curves[:MAX_CURVES][::-1]  # the best is drawn last, on top
    strategies = sorted({_strategy(row) for row, _ in curves})
    colours = {name: f"--c{i % NUM_COLOURS}" for i, name in enumerate(strategies)}
    data = [_legend_entry(name, colour) for name, colour in colours.items()]
    data += [
        _curve(row, points, colours[_strategy(row)], decimals, is_best=row.number == best)
        for row, points in curves
    ]
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "tickformat": "d"},
        "yaxis": _score_axis(f"validation {metric}", decimals=decimals),
        "hovermode": "closest",
    }
    return {"views": [{"data": data, "layout": layout}], "height": 400}


def _legend_entry(strategy: str, colour: str) -> dict[str, Any]:
    """An empty trace that gives a strategy one entry in the legend."""
    return {
        "type": "scatter",
        "name": escape_html(strategy),
        "legendgroup": escape_html(strategy),
        "x": [None],
        "y": [None],
        "mode": "lines",
        "line": {"width": 2.5, "color": colour},
    }


def _curve(
    row: TrialRow, points: Sequence[tuple[int, float]], colour: str, decimals: int, *, is_best: bool
) -> dict[str, Any]:
    complete = row.status == "complete"
    return {
        "type": "scatter",
        "legendgroup": escape_html(_strategy(row)),
        "showlegend": False,
        "x": [epoch for epoch, _ in points],
        "y": [_round(score) for _, score in points],
        "meta": row.number,
        "hovertemplate": f"%{{meta}}<br>epoch %{{x}}: %{{y:.{decimals}f}}<extra></extra>",
        "mode": "lines",
        "opacity": 1.0 if is_best else 0.6 if complete else 0.3,
        "line": {
            "width": 3.5 if is_best else 1.5,
            "color": colour,
            "dash": "solid" if complete else "dot",
        },
    }


def _strategy(row: TrialRow) -> str:
    return next(iter(row.config.get("freeze", {})), "unknown")


def confusion_heatmap(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Figure | None:
    """Draw the confusion matrix of many classes; colours are fractions of the true class.

    Args:
        matrix: Counts ``[C, C]``, rows by true and columns by predicted class.
        names: The classes ``[C]``.

    Returns:
        The figure; None with more than ``MAX_HEATMAP_CLASSES`` classes.
    """
    if len(names) > MAX_HEATMAP_CLASSES:
        return None
    indices = list(range(len(names)))
    labels = [escape_html(name) for name in names]
    ticks = {"tickvals": indices, "ticktext": labels, "tickfont": {"size": 8}, "showgrid": False}
    data = {
        "type": "heatmap",
        "x": indices,
        "y": indices,
        "z": [[_round(n / (sum(row) or 1)) for n in row] for row in matrix],
        "customdata": [[[labels[i], labels[j], n] for j, n in enumerate(row)]
                       for i, row in enumerate(matrix)],
        "hovertemplate": "%{customdata[2]} of %{customdata[0]}<br>"
        "predicted as %{customdata[1]}<extra></extra>",
        "colorscale": [[0, "--ground"], [1, "--accent"]],
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
    }  # fmt: skip
    layout = {
        "xaxis": {**ticks, "title": {"text": "predicted class"}, "tickangle": -90},
        "yaxis": {**ticks, "title": {"text": "true class"}, "autorange": "reversed"},
    }
    return {"views": [{"data": [data], "layout": layout}], "height": 220 + 8 * len(names)}


def scatter(pairs: Sequence[Sequence[tuple[float, float]]], names: Sequence[str]) -> Figure | None:
    """Draw predicted against true numbers, with the diagonal on which predictions are right.

    Args:
        pairs: The true and the predicted numbers of some examples, ``[N, T, 2]``.
        names: The numbers ``[T]``.

    Returns:
        A view for each number; None without examples.
    """
    views = []
    for name, points in zip(names, zip(*pairs, strict=True), strict=True) if pairs else ():
        low, high = min(map(min, points)), max(map(max, points))
        data = [
            {
                "type": "scatter",
                "name": "right prediction",
                "x": [_round(low), _round(high)],
                "y": [_round(low), _round(high)],
                "mode": "lines",
                "line": {"width": 1.5, "color": "--second"},
                "hoverinfo": "skip",
            },
            {
                "type": "scatter",
                "name": "example",
                "x": [_round(true) for true, _ in points],
                "y": [_round(predicted) for _, predicted in points],
                "mode": "markers",
                "marker": {"size": 6, "color": "--accent", "opacity": 0.6},
                "hovertemplate": "true %{x}<br>predicted %{y}<extra></extra>",
            },
        ]
        layout = {
            "xaxis": {"title": {"text": escape_html(f"true {name}")}},
            "yaxis": {"title": {"text": escape_html(f"predicted {name}")}},
        }
        views.append({"label": name, "data": data, "layout": layout})
    return {"views": views, "height": 420} if views else None


def _round(value: float | None) -> float | None:
    """Round to five digits; a screen cannot show more."""
    return None if value is None else float(f"{value:.5g}")
