"""Results on the terminal: the summary of a search, and the table of all trials."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotl.space.input_kind import IMAGE

if TYPE_CHECKING:
    from autotl.store import StudyFacts, TrialRow


def open_console(stream: TextIO) -> Console:
    """Make a console that prints text without interpreting markup, coloured only on a terminal."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a "·" that cannot be encoded must not stop a search
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=is_terminal,
        width=None if is_terminal else 200,  # tables in a file may be wider, see _print_uncut
        markup=False,
        highlight=False,
        emoji=False,
    )


def on_one_line(text: str) -> str:
    """Replace line breaks and control characters, which quoted file names may contain."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def show_summary(
    summary: Mapping[str, Any],
    folder: str,
    trials: Sequence[Mapping[str, Any]],
    plugins: Sequence[Path] = (),
    *,
    resumable: bool = False,
) -> None:
    """Print the result of a study and what to do next.

    Args:
        summary: The summary, as ``report.summarise`` returns it.
        folder: The run folder; the files that exist in it are listed.
        trials: The best trials, as ``report.top`` returns them; without any there is no table.
        plugins: Plugin files that loading the model may need.
        resumable: Whether repeating the command would continue the study.
    """
    from autotl.report import describe_ranking, describe_result

    console = open_console(sys.stdout)
    for sentence in describe_ranking(summary) if trials else ():
        console.print(f"\n{on_one_line(sentence)}", soft_wrap=not console.is_terminal)
    if summary["selection"]:  # two rankings would contradict each other
        _print_fitting(console, partial(_contenders, summary))
    elif trials:
        _print_fitting(console, partial(_leaderboard, summary, trials))
    for sentence in describe_result(summary):
        console.print(on_one_line(sentence), soft_wrap=not console.is_terminal)
    console.print()
    student = ["student"] if summary["student"] else []
    names = ["model", *student, "report.html", "summary.json", "recipe.toml"]
    if not summary["best"]:
        names = [
            "report.html",
            "summary.json",
        ]  # a model or recipe in the folder is of an earlier study
    existing = [path for name in names if (path := Path(folder, name)).exists()]
    for path in existing:
        console.print(f"  {on_one_line(str(path))}", soft_wrap=True)
    if (model := Path(folder, "model")) in existing:
        is_image = summary["data"]["kind"] == IMAGE
        new = "photo.jpg" if is_image else summary["data"]["noun"].upper()
        words = ["autotl", "predict", str(model), new]
        words += [word for file in plugins for word in ("--plugin", str(file))]
        console.print(f"\nTry it:    {on_one_line(shlex.join(words))}", soft_wrap=True)
    if resumable:
        console.print("Continue:  repeat the same command")


def show_trials(study: StudyFacts, rows: Sequence[TrialRow]) -> None:
    """Print every trial of a study with its status.

    On a terminal lines are wrapped to its width; in a file each trial is one line.
    """
    from autotl.report import describe_config, format_score

    console = open_console(sys.stdout)
    table = _new_table()
    for name in ("trial", "status", study.metric, "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("recipe, and the reason for the status", overflow="fold")
    for row in rows:
        recipe = Text(on_one_line(describe_config(row.config)))
        if row.reason:
            separator = "\n" if console.is_terminal else "  "
            recipe.append(separator).append(on_one_line(row.reason), "dim")
        score = "" if row.score is None else format_score(row.score, study.score_decimals)
        numbers = (score, str(row.epochs), f"{row.seconds:.1f}")
        table.add_row(str(row.number), row.status.replace("_", " "), *numbers, recipe)
    _print_uncut(console, table)


def _print_fitting(console: Console, make_table: Callable[[bool], Table]) -> None:
    """Print a table with a column for each kind of plugin, or, if that is too wide, with one."""
    table = make_table(False)
    width = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.print(table if width <= console.width else make_table(True))


def _new_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _print_uncut(console: Console, table: Table) -> None:
    """Print a table wrapped to the width of the terminal, or in full width into a file."""
    if not console.is_terminal:
        width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console.width = max(console.width, width)
    console.print(table)


def _contenders(summary: Mapping[str, Any], one_column: bool) -> Table:
    """Make the table of the contenders with the interval of their mean, the best first.

    Args:
        summary: The summary, with a final selection.
        one_column: See ``_recipe_columns``.
    """
    from autotl.report import format_score

    table, contenders = _new_table(), summary["contenders"]
    format_one = partial(format_score, decimals=summary["decimals"])
    table.add_column("contender")
    for name in (summary["metric"], "95 % interval", "in the search"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    configs = [c["config"] or {} for c in contenders]
    columns = _recipe_columns(table, configs, one_column)
    for c, recipe in zip(contenders, columns, strict=True):
        role = c["role"].replace("_", " ") if c["kind"] == "trial" else ""
        table.add_row(
            f"{c['name']}{', ' + role if role not in ('', 'finalist') else ''}",
            format_one(c["mean"]),
            f"{format_one(c['low'])} to {format_one(c['high'])}",
            "" if c["search_score"] is None else format_one(c["search_score"]),
            "winner" if c["is_winner"] else "tied" if c["tied_with_best"] else "",
            *recipe,
            style="bold" if c["is_winner"] else "",
        )
    return table


def _leaderboard(
    summary: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], one_column: bool
) -> Table:
    """Make the table of the best trials.

    Args:
        summary: The summary.
        trials: The best trials, the best first; at least one.
        one_column: See ``_recipe_columns``.
    """
    from autotl.report import format_score

    table = _new_table()
    for name in ("rank", "trial", summary["metric"], "epochs", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    columns = _recipe_columns(table, [trial["config"] for trial in trials], one_column)
    best = summary["best"]
    winner = best["trial"] if best and best["kind"] == "trial" else None
    for rank, (trial, recipe) in enumerate(zip(trials, columns, strict=True), 1):
        table.add_row(
            str(rank),
            str(trial["number"]),
            format_score(trial["score"], summary["decimals"]),
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *recipe,
            style="bold" if trial["number"] == winner else "",
        )
    return table


def _recipe_columns(
    table: Table, configs: Sequence[Mapping[str, Any]], one_column: bool
) -> list[list[str]]:
    """Add columns for the plugins of configurations, and return the cells of each row.

    Args:
        table: The table.
        configs: The configurations; some may be empty.
        one_column: Whether all plugins are in one column, which wraps, or each kind in its own.
    """
    from autotl.report import plugin_choices

    choices = [plugin_choices(config) for config in configs]
    kinds = list(dict.fromkeys(kind for each in choices for kind in each))
    for kind in ["recipe"] if one_column else kinds:
        table.add_column(kind)
    rows = [[each[kind][0] if kind in each else "" for kind in kinds] for each in choices]
    return [[" · ".join(filter(None, row))] for row in rows] if one_column else rows
