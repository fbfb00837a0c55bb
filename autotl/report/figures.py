"""The interactive figures of the page, in plotly's JSON.

They are written as plain data and drawn in the reader's browser by the copy of plotly.js inside
the page. A value under a key that ends in ``color`` may name a variable of the page's style
sheet, such as ``--accent``, so that the figures follow the light and the dark theme. A trial is
named by its number, in ``customdata`` or ``meta``; what ``about`` says of it is in the page once.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotl.report.summary import ranked
from autotl.report.words import chosen

if TYPE_CHECKING:
    from autotl.store import EpochRow, TrialRow

COLOURS = 8
"""The style sheet has so many colours for categories, ``--c0`` and on; then they come again."""

CURVES = 300
"""Up to so many learning curves are drawn, those of the best trials."""

HEATMAP = 150
"""Up to so many classes the confusion matrix is drawn as an interactive figure."""

ALIKE = 1.02
"""Costs that differ by no more than this factor are not worth a figure."""

COSTS = {
    "ms_per_item": "ms to predict one picture",
    "parameters": "parameters",
    "seconds": "seconds of training",
}

Figure = dict[str, Any]


def plain(text: str) -> str:
    """``text`` so that plotly shows it as it is: it takes ``<b>``, ``<a>`` and ``&lt;`` as HTML.

    >>> plain("<b>wren</b>")
    '&lt;b&gt;wren&lt;/b&gt;'
    """
    return html.escape(text, quote=False)


def about(row: TrialRow, best: int | None = None) -> str:
    """What hovering over a trial shows: its number, end and recipe, a line for each kind."""
    score = "" if row.score is None else f", {row.score:.4f}"
    crown = ", the winner" if row.number == best else ""
    lines = [f"trial {row.number}, {row.status.replace('_', ' ')}{score}{crown}"]
    for kind, (name, values) in chosen(row.config).items():
        said = ", ".join(f"{k} {v}" for k, v in values.items())
        lines.append(f"{kind}: {name}{' (' + said + ')' if said else ''}")
    return "<br>".join(plain(line) for line in lines)


def window(scores: Sequence[float], direction: str) -> list[float]:
    """The range of scores to look at: without the worst tenth, which may be far off."""
    ordered = sorted(scores, reverse=direction == "maximize")
    shown = ordered[: max(2, round(0.9 * len(ordered)))]
    low, high = min(shown), max(shown)
    air = 0.08 * (high - low) or 0.01
    return [low - air, high + air]


def costs(rows: Iterable[TrialRow], metric: str, direction: str, best: int | None) -> Figure | None:
    """Score against cost of all complete trials, with the Pareto front of each cost."""
    complete = ranked(rows, direction)
    views = []
    for key, title in COSTS.items():
        points = [(c, r) for r in complete if (c := _cost(r, key)) is not None and c > 0]
        least, most = (pick((c for c, _ in points), default=0.0) for pick in (min, max))
        if most <= ALIKE * least:
            continue  # all cost the same
        front = _front(points)
        won = [(c, r) for c, r in points if r.number == best]
        marker = {"size": 7, "color": "--soft", "opacity": 0.55}
        data = [
            _points("trial", points, mode="markers", marker=marker),
            _points(
                "Pareto front", front, mode="lines+markers",
                line={"shape": "hv", "width": 1.5, "color": "--accent"},
                marker={"size": 8, "color": "--accent"},
            ),
            _points("winner", won, mode="markers", marker=_ring()),
        ]  # fmt: skip
        axis = {"title": {"text": title}, "type": "log" if most >= 10 * least else "linear"}
        scores = [r.score for _, r in points if r.score is not None]
        y = _score_axis(metric, window(scores, direction))
        views.append({"label": title, "data": data, "layout": {"xaxis": axis, "yaxis": y}})
    return {"views": views, "height": 400} if views else None


def _cost(row: TrialRow, key: str) -> float | None:
    return row.facts.get(key) if key == "ms_per_item" else getattr(row, key)


def _front(points: Sequence[tuple[float, TrialRow]]) -> list[tuple[float, TrialRow]]:
    """Of points in the order of their score those that are cheaper than all better ones."""
    front: list[tuple[float, TrialRow]] = []
    for c, row in points:
        if not front or c < front[-1][0]:
            front.append((c, row))
    return front[::-1]


def _points(name: str, points: Sequence[tuple[float, TrialRow]], **style: Any) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "x": [_rounded(x) for x, _ in points],
        "y": [_rounded(row.score) for _, row in points],
        "customdata": [row.number for _, row in points],
        "hoverinfo": "text",
        **style,
    }


def _score_axis(title: str, shown: Sequence[float] | None = None) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": {"text": plain(title)}, "tickformat": ".2f"}
    if shown:
        axis |= {"range": shown, "tickformat": ".2f" if shown[1] - shown[0] > 0.05 else ".3f"}
    return axis


def _ring() -> dict[str, Any]:
    """The marker around the winner."""
    line = {"width": 2.5, "color": "--second"}
    return {"size": 15, "symbol": "circle-open", "color": "--second", "line": line}


def progress(
    rows: Iterable[TrialRow], metric: str, direction: str, best: int | None
) -> Figure | None:
    """The score of each complete trial by the time at which it ended, and the best so far."""
    rows = list(rows)
    ended = busy(rows)
    complete = [
        (ended[r.number], r) for r in rows if r.status == "complete" and r.score is not None
    ]
    complete.sort(key=lambda point: point[0])
    if len(complete) < 2:
        return None
    pick = max if direction == "maximize" else min
    scores = [row.score for _, row in complete if row.score is not None]
    so_far = [pick(scores[: i + 1]) for i in range(len(scores))]
    last = max(ended.values())
    unit, name = (60.0, "minutes") if last >= 180 else (1.0, "seconds")
    times = [(t / unit, row) for t, row in complete]
    line = {
        "type": "scatter",
        "name": "best so far",
        "x": [_rounded(t) for t, _ in times] + [_rounded(last / unit)],
        "y": [_rounded(s) for s in [*so_far, so_far[-1]]],
        "mode": "lines",
        "line": {"shape": "hv", "width": 2, "color": "--accent"},
        "hoverinfo": "skip",
    }
    marker = {"size": 7, "color": "--soft", "opacity": 0.55}
    won = [(t, row) for t, row in times if row.number == best]
    layout = {
        "xaxis": {"title": {"text": f"{name} of trials"}, "rangemode": "tozero"},
        "yaxis": _score_axis(metric, window(scores, direction)),
    }
    data = [
        _points("trial", times, mode="markers", marker=marker),
        line,
        _points("winner", won, mode="markers", marker=_ring()),
    ]
    return {"views": [{"data": data, "layout": layout}], "height": 360}


def busy(rows: Iterable[TrialRow]) -> dict[int, float]:
    """By number, the seconds in which trials ran until this one ended; pauses do not count."""
    ended: dict[int, float] = {}
    until, pauses = None, 0.0
    for row in sorted(rows, key=lambda r: r.started):
        start = row.started.timestamp()
        if until is None or start > until:
            pauses += start - (until or 0.0)
        ended[row.number] = start + row.seconds - pauses
        until = max(until or 0.0, start + row.seconds)
    return ended


def curves(
    rows: Iterable[TrialRow],
    epochs: Mapping[int, Sequence[EpochRow]],
    metric: str,
    direction: str,
    best: int | None,
) -> Figure | None:
    """The validation score by epoch of each trial, in the colour of its strategy."""
    best_first = [r.number for r in ranked(rows, direction)]
    drawn = []
    for row in rows:
        points = [(e.epoch, e.score) for e in epochs.get(row.number, ()) if e.score is not None]
        if len(points) > 1:
            drawn.append((row, points))
    if not drawn:
        return None
    place = {number: i for i, number in enumerate(best_first)}
    drawn.sort(key=lambda d: place.get(d[0].number, len(place)))
    drawn = drawn[:CURVES][::-1]  # the best is drawn last, on top
    strategies = sorted({_strategy(row) for row, _ in drawn})
    colours = {name: f"--c{i % COLOURS}" for i, name in enumerate(strategies)}
    data: list[dict[str, Any]] = [
        {  # one line in the legend for each strategy, whatever its trials look like
            "type": "scatter",
            "name": plain(name),
            "legendgroup": plain(name),
            "x": [None],
            "y": [None],
            "mode": "lines",
            "line": {"width": 2.5, "color": colour},
        }
        for name, colour in colours.items()
    ]
    for row, points in drawn:
        name, won = _strategy(row), row.number == best
        faint = row.status != "complete"
        data.append(
            {
                "type": "scatter",
                "legendgroup": plain(name),
                "showlegend": False,
                "x": [epoch for epoch, _ in points],
                "y": [_rounded(score) for _, score in points],
                "meta": row.number,
                "hovertemplate": "%{meta}<br>epoch %{x}: %{y:.4f}<extra></extra>",
                "mode": "lines",
                "opacity": 1.0 if won else 0.3 if faint else 0.6,
                "line": {
                    "width": 3.5 if won else 1.5,
                    "color": colours[name],
                    "dash": "dot" if faint else "solid",
                },
            }
        )
    layout = {
        "xaxis": {"title": {"text": "epoch"}, "tickformat": "d"},
        "yaxis": _score_axis(f"{metric} on validation"),
        "hovermode": "closest",
    }
    return {"views": [{"data": data, "layout": layout}], "height": 400}


def _strategy(row: TrialRow) -> str:
    return next(iter(row.config.get("freeze", {})), "unknown")


def confusion(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Figure | None:
    """The confusion matrix of many classes, each cell's share of its row as its colour."""
    if len(names) > HEATMAP:
        return None
    places = list(range(len(names)))
    labels = [plain(name) for name in names]
    ticks = {"tickvals": places, "ticktext": labels, "tickfont": {"size": 8}}
    data = {
        "type": "heatmap",
        "x": places,
        "y": places,
        "z": [[_rounded(n / (sum(row) or 1)) for n in row] for row in matrix],
        "customdata": [[[labels[i], labels[j], n] for j, n in enumerate(row)]
                       for i, row in enumerate(matrix)],
        "hovertemplate": "%{customdata[2]} of %{customdata[0]}<br>"
        "taken for %{customdata[1]}<extra></extra>",
        "colorscale": [[0, "--ground"], [1, "--accent"]],
        "zmin": 0,
        "zmax": 1,
        "showscale": False,
    }  # fmt: skip
    layout = {
        "xaxis": {**ticks, "title": {"text": "answer"}, "tickangle": -90, "showgrid": False},
        "yaxis": {**ticks, "title": {"text": "truth"}, "autorange": "reversed", "showgrid": False},
    }
    return {"views": [{"data": [data], "layout": layout}], "height": 220 + 8 * len(names)}


def _rounded(value: float | None) -> float | None:
    """Five digits are more than a screen can show."""
    return None if value is None else float(f"{value:.5g}")
