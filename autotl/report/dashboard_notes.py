"""The notes of a study and of its trials in Optuna Dashboard, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.report.formatting import (
    describe_config,
    format_interval,
    format_score,
    plugin_choices,
    winner_name,
)
from autotl.report.sentences import describe_result

if TYPE_CHECKING:
    from autotl.store import TrialRow

MAX_CLASSES = 12
"""Classes up to which a note shows the confusion matrix; a larger table is not legible."""

MAX_HEADER_LENGTH = 12
"""Characters of a class name in the head of the confusion matrix."""


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of a trial."""

    counts: Sequence[Sequence[int]]
    """``[C, C]``, rows by true and columns by predicted class."""
    classes: Sequence[str]
    source: str
    """The images that it counts."""


def escape_markdown(text: str) -> str:
    r"""Escape text so that Markdown shows it literally, on one line.

    >>> escape_markdown("<b> a_b*")
    '\\<b\\> a\\_b\\*'
    """
    return re.sub(r"([\\`*_{}\[\]<>()#+\-.!|~&$:@])", r"\\\1", " ".join(text.split()))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def study_note(summary: Mapping[str, Any], folder: Path) -> str:
    """Write the note of a study: its result, its finalists and the path of the report.

    Args:
        summary: As ``summarise`` returns it.
        folder: The run folder.
    """
    paragraphs = [f"## {escape_markdown(summary['study'])}"]
    paragraphs += [escape_markdown(sentence) for sentence in describe_result(summary)]
    if summary["contenders"]:
        paragraphs += ["### Contenders", _contenders(summary)]
    if summary["selection"]:
        paragraphs.append(
            "*Best Trial* in this dashboard has the best score of the search, on one split. The "
            "winner is that of the final selection, which compares several repeats."
        )
    paragraphs.append(f"Full report: {_report_path(folder)}")
    return "\n\n".join(paragraphs)


def _contenders(summary: Mapping[str, Any]) -> str:
    rows, decimals = [], summary["decimals"]
    for contender in summary["contenders"]:
        tied = "tied" if contender["tied_with_best"] else ""
        low, high = contender["low"], contender["high"]
        rows.append(
            [
                escape_markdown(contender["name"]),
                format_score(contender["mean"], decimals),
                "" if low == high else _range(low, high, decimals),
                "winner" if contender["is_winner"] else tied,
                escape_markdown(describe_config(contender["config"] or {}, values=False)),
            ]
        )
    head = ["contender", escape_markdown(summary["metric"]), "95 % interval", "", "configuration"]
    return _table(head, rows)


def _range(low: float, high: float, decimals: int) -> str:
    return f"{format_score(low, decimals)} to {format_score(high, decimals)}"


def study_attributes(summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Attributes of the study that the dashboard lists on its first page.

    Args:
        summary: As ``summarise`` returns it.
        folder: The run folder.
    """
    decimals = summary["decimals"]
    attributes: dict[str, Any] = {"report": str(folder.resolve() / "report.html")}
    if best := summary["best"]:
        attributes["winner"] = winner_name(summary)
        attributes[f"winner's {summary['metric']}"] = round(best["validation"]["mean"], decimals)
    if test := summary["test"]:
        attributes[f"winner's {summary['metric']} on test"] = round(test["score"], decimals)
    return attributes


def _report_path(folder: Path) -> str:
    return f"`{str(folder.resolve() / 'report.html').replace('`', '')}`"


def trial_note(
    row: TrialRow, summary: Mapping[str, Any], folder: Path, confusion: Confusion | None = None
) -> str:
    """Write the note of a trial: its status, configuration, costs, repeats and confusion matrix.

    Args:
        row: The trial.
        summary: As ``summarise`` returns it.
        folder: The run folder.
        confusion: The confusion matrix of a finalist.
    """
    best, decimals = summary["best"], summary["decimals"]
    is_winner = bool(best) and best["trial"] == row.number
    status = row.status.replace("_", " ")
    metric = escape_markdown(summary["metric"])
    score = "" if row.score is None else f", {metric} **{format_score(row.score, decimals)}**"
    winner = ", **the winner**" if is_winner else ""
    paragraphs = [f"### Trial {row.number}: {status}{score}{winner}"]
    if row.reason:
        paragraphs.append(f"Reason: {escape_markdown(row.reason)}")
    choices = [
        [kind, f"**{escape_markdown(name)}**", _hyperparameters(values)]
        for kind, (name, values) in plugin_choices(row.config).items()
    ]
    if choices:
        paragraphs.append(_table(["kind", "plugin", "hyperparameters"], choices))
    paragraphs.append(escape_markdown("; ".join(_costs(row))) + ".")
    for contender in summary["contenders"] if summary["selection"] else ():
        if contender["trial"] == row.number:
            mean = format_interval(contender["mean"], contender, decimals)
            scores = ", ".join(format_score(score, decimals) for score in contender["scores"])
            paragraphs.append(
                f"Final selection: {escape_markdown(f'mean {mean}; repeats {scores}')}."
            )
    if confusion and len(confusion.counts) <= MAX_CLASSES:
        paragraphs.append(_confusion_table(confusion))
    elif confusion and is_winner:
        paragraphs.append(
            f"The confusion matrix of {len(confusion.counts)} classes is in {_report_path(folder)}."
        )
    return "\n\n".join(paragraphs)


def _hyperparameters(values: Mapping[str, str]) -> str:
    return escape_markdown(", ".join(f"{key} {value}" for key, value in values.items()))


def _confusion_table(confusion: Confusion) -> str:
    head = [
        name if len(name) <= MAX_HEADER_LENGTH else f"{name[: MAX_HEADER_LENGTH - 1].rstrip()}…"
        for name in confusion.classes
    ]
    rows = [
        [
            f"**{escape_markdown(name)}**",
            *(f"**{count}**" if i == j else str(count or "") for j, count in enumerate(counts)),
        ]
        for i, (name, counts) in enumerate(zip(confusion.classes, confusion.counts, strict=True))
    ]
    caption = (
        f"Confusion matrix on {confusion.source} (rows: true class; columns: predicted class):"
    )
    return f"{caption}\n\n{_table(['', *map(escape_markdown, head)], rows)}"


def _costs(row: TrialRow) -> list[str]:
    """The costs of a trial that were measured."""
    peak = row.facts.costs.get("peak_bytes") or 0
    views = row.facts.views
    parts = [
        (row.epochs, f"{row.epochs} epochs planned"),
        (row.seconds, f"{row.seconds:.1f} s"),
        (row.parameters, f"{row.parameters or 0:,} parameters"),
        (row.trained_parameters, f"{row.trained_parameters or 0:,} trained parameters"),
        (peak, f"{peak / 2**20:.0f} MiB peak memory"),
        (views > 1, f"{views} views of each example"),
    ]
    return [text for value, text in parts if value]
