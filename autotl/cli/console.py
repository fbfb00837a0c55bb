"""Results on the terminal: the summary of a search, and the table of all trials."""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from autotl.store import TrialRow


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
    from autotl.report import describe_result

    console = open_console(sys.stdout)
    if trials:
        table = _leaderboard(summary["metric"], trials, one_column=False)
        full_width = console.measure(table, options=console.options.update(max_width=1000)).maximum
        if full_width > console.width:
            table = _leaderboard(summary["metric"], trials, one_column=True)
        console.print(table)
    if summary["selection"]:
        console.print(_contenders(summary))
    for sentence in describe_result(summary):
        console.print(on_one_line(sentence), soft_wrap=not console.is_terminal)
    console.print()
    names: Sequence[str] = ("model", "report.html", "summary.json", "recipe.toml")
    if not summary["best"]:
        names = names[1:3]  # a model or recipe in the folder is of an earlier study
    existing = [path for name in names if (path := Path(folder, name)).exists()]
    for path in existing:
        console.print(f"  {on_one_line(str(path))}", soft_wrap=True)
    if (model := Path(folder, "model")) in existing:
        words = ["autotl", "predict", str(model), "photo.jpg"]
        words += [word for file in plugins for word in ("--plugin", str(file))]
        console.print(f"\nTry it:    {on_one_line(shlex.join(words))}", soft_wrap=True)
    if resumable:
        console.print("Continue:  repeat the same command")


def show_trials(metric: str, rows: Sequence[TrialRow]) -> None:
    """Print every trial of a study with its status, and what each backbone costs.

    On a terminal lines are wrapped to its width; in a file each trial is one line.
    """
    from autotl.report import backbone_costs, describe_config

    console = open_console(sys.stdout)
    table = _new_table()
    for name in ("trial", "status", metric, "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("recipe, and the reason for the status", overflow="fold")
    for row in rows:
        recipe = Text(on_one_line(describe_config(row.config)))
        if row.reason:
            separator = "\n" if console.is_terminal else "  "
            recipe.append(separator).append(on_one_line(row.reason), "dim")
        score = "" if row.score is None else f"{row.score:.4f}"
        numbers = (score, str(row.epochs), f"{row.seconds:.1f}")
        table.add_row(str(row.number), row.status.replace("_", " "), *numbers, recipe)
    _print_uncut(console, table)
    if costs := backbone_costs(rows):
        _print_uncut(console, _costs(costs))


def _new_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def _print_uncut(console: Console, table: Table) -> None:
    """Print a table wrapped to the width of the terminal, or in full width into a file."""
    if not console.is_terminal:
        width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console.width = max(console.width, width)
    console.print(table)


def _costs(costs: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of milliseconds and memory for one image of a batch, by backbone."""
    table = _new_table()
    table.add_column("backbone")
    for name in (
        *("predict ms/image", "forward ms/image", "backward ms/image"),
        *("activations per image", "peak memory per image", "parameters"),
    ):
        table.add_column(name, justify="right")
    for c in costs:
        times = [c[key] for key in ("ms_per_item", "forward_ms", "backward_ms")]
        sizes = [c[key] for key in ("activation_bytes", "peak_bytes")]
        table.add_row(
            on_one_line(c["backbone"]),
            *("-" if t is None else f"{t:.3g}" for t in times),
            *("-" if s is None else f"{s / 2**20:.3g} MiB" for s in sizes),
            "-" if c["parameters"] is None else f"{c['parameters'] / 1e6:.3g} M",
        )
    return table


def _contenders(summary: Mapping[str, Any]) -> Table:
    """Make the table of the contenders with the interval of their mean, the best first."""
    table = _new_table()
    table.add_column(f"final selection, {summary['selection']['repeats']} repeats")
    table.add_column(summary["metric"], justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("")
    for c in summary["contenders"]:
        role = c["role"].replace("_", " ") if c["kind"] == "trial" else ""
        table.add_row(
            f"{c['name']}{', ' + role if role not in ('', 'finalist') else ''}",
            f"{c['mean']:.4f}",
            f"{c['low']:.4f} to {c['high']:.4f}",
            "winner" if c["is_winner"] else "tied" if c["tied_with_best"] else "",
            style="bold" if c["is_winner"] else "",
        )
    return table


def _leaderboard(metric: str, trials: Sequence[Mapping[str, Any]], one_column: bool) -> Table:
    """Make the table of the best trials.

    Args:
        metric: The name of the metric.
        trials: The best trials, the best first; at least one.
        one_column: Whether all plugins are in one column, which wraps, or each kind in its own.
    """
    from autotl.report import plugin_choices

    table = _new_table()
    for name in ("rank", "trial", metric, "epochs", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind in ["recipe"] if one_column else plugin_choices(trials[0]["config"]):
        table.add_column(kind)
    for rank, trial in enumerate(trials, 1):
        names = [name for name, _ in plugin_choices(trial["config"]).values()]
        table.add_row(
            str(rank),
            str(trial["number"]),
            f"{trial['score']:.4f}",
            str(trial["epochs"]),
            f"{trial['seconds']:.1f}",
            *([" · ".join(names)] if one_column else names),
            style="bold" if rank == 1 else "",
        )
    return table
