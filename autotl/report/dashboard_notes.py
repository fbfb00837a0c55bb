"""The notes of a study and its trials, in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl import report

if TYPE_CHECKING:
    from autotl.store import TrialRow


def markdown(text: str) -> str:
    r"""``text`` so that Markdown shows it as it is, on one line.

    >>> markdown("<b> a_b*")
    '\\<b\\> a\\_b\\*'
    """
    return re.sub(r"([\\`*_{}\[\]<>()#+\-.!|~&$:@])", r"\\\1", " ".join(text.split()))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def of_study(summary: Mapping[str, Any], folder: Path) -> str:
    """The answer, the finalists and where the report is."""
    said = [f"## {markdown(summary['study'])}"]
    said += [markdown(sentence) for sentence in report.answer(summary)]
    finals = summary["finals"]
    if found := finals["candidates"] if finals else summary["finalists"]:
        lines = []
        for f in found:
            name = f["name"] if finals else f"trial {f['trial']}"
            told = "winner" if name == report.winner_name(summary) else ""
            told = told or ("tied" if f["tied_with_best"] else "")
            span = "" if f["low"] == f["high"] else f"{f['low']:.4f} to {f['high']:.4f}"
            recipe = markdown(report.recipe_line(f["config"] or {}, values=False))
            lines.append([markdown(name), f"{f['mean']:.4f}", span, told, recipe])
        head = ["candidate", markdown(summary["metric"]), "95 % interval", "", "recipe"]
        said += ["### Finalists", _table(head, lines)]
        if finals:
            said.append(
                "*Best Trial* on this page is the best score of one run. The winner here is that "
                "of the finals, which look at several."
            )
    said.append(f"The whole report: `{str(_report(folder)).replace('`', '')}`")
    return "\n\n".join(said)


def attributes(summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the dashboard lists on the study's first page."""
    best, test = summary["best"], summary["test"]
    known = {"report": str(_report(folder))}
    if best:
        known["winner"] = report.winner_name(summary)
        known[f"winner's {summary['metric']}"] = round(best["validation"]["mean"], 4)
    if test:
        known[f"winner's {summary['metric']} on test"] = round(test["score"], 4)
    return known


def _report(folder: Path) -> Path:
    return folder.resolve() / "report.html"


def of_trial(row: TrialRow, summary: Mapping[str, Any]) -> str:
    """What was tried, how it ended and why, and how it went."""
    best = summary["best"]
    crown = ", **the winner**" if best and best["trial"] == row.number else ""
    end = row.status.replace("_", " ")
    score = "" if row.score is None else f", {markdown(summary['metric'])} **{row.score:.4f}**"
    said = [f"### Trial {row.number}: {end}{score}{crown}"]
    if row.reason:
        said.append(f"Why it ended: {markdown(row.reason)}")
    lines = [
        [kind, f"**{markdown(name)}**", markdown(", ".join(f"{k} {v}" for k, v in values.items()))]
        for kind, (name, values) in report.chosen(row.config).items()
    ]
    if lines:
        said.append(_table(["kind", "chosen", "values"], lines))
    said.append(markdown("; ".join(_went(row))) + ".")
    for c in (summary["finals"] or {"candidates": []})["candidates"]:
        if c["trial"] == row.number:
            runs = ", ".join(f"{s:.4f}" for s in c["scores"])
            span = f"{c['mean']:.4f} (95 % interval {c['low']:.4f} to {c['high']:.4f})"
            said.append(f"In the finals: {markdown(span)}, of the runs {markdown(runs)}.")
    return "\n\n".join(said)


def _went(row: TrialRow) -> list[str]:
    """The costs of a trial that are known."""
    costs = row.facts.get("costs") or {}
    known = [
        (row.epochs, f"{row.epochs} epochs planned"),
        (row.seconds, f"{row.seconds:.1f} s"),
        (row.parameters, f"{row.parameters or 0:,} parameters"),
        (row.trained_parameters, f"{row.trained_parameters or 0:,} learned"),
        (row.facts.get("ms_per_item"), f"{row.facts.get('ms_per_item') or 0:.3g} ms to predict"),
        (costs.get("peak_bytes"), f"{(costs.get('peak_bytes') or 0) / 2**20:.0f} MiB at its peak"),
        ((row.facts.get("views") or 1) > 1, f"{row.facts.get('views')} views of a picture"),
    ]
    return [text for value, text in known if value]
