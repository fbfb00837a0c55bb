"""What the terminal shows while a search runs, and at its end.

A panel that stays in place where stdout is a terminal, plain lines where it is not.
"""

from __future__ import annotations

import io
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotl.events import (
    EpochCompleted,
    Event,
    Listener,
    Note,
    SearchStarted,
    Stage,
    TrialFinished,
    TrialStarted,
)
from autotl.report import answer, backbone_costs, chosen
from autotl.report import recipe_line as recipe_line
from autotl.scoring import metrics

if TYPE_CHECKING:
    from autotl.store import TrialRow

WIDEST = 100
"""Columns of the panel on a wide terminal; longer lines are harder to take in at a glance."""

CURVE = 24
"""Epochs of the curve of the current trial: the last so many."""


@contextmanager
def view(quiet: bool = False) -> Iterator[Listener]:
    """A listener that shows a search: a panel, plain lines, or with ``quiet`` only warnings."""
    if quiet:
        yield _Warnings(_console(sys.stderr))
        return
    console = _console(sys.stdout)
    # The panel moves the cursor and draws with block characters.
    if console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf"):
        panel = _Panel(console)
        with Live(panel, console=console, transient=True):
            yield panel
    else:
        yield _Lines(console)


def show_summary(
    summary: Mapping[str, Any],
    folder: str,
    trials: Sequence[Mapping[str, Any]],
    plugins: Sequence[Path] = (),
    *,
    more: bool = False,
) -> None:
    """Print what was found and what to do next.

    Args:
        summary: As ``report.summarise`` makes it.
        folder: The run folder; what is in it is named.
        trials: The best trials as ``report.top`` gives them; without any there is no table.
        plugins: Files of plugins that the model may need.
        more: Whether the same command would go on.
    """
    console = _console(sys.stdout)
    if trials:
        table = _table(summary["metric"], trials, apart=True)
        whole = console.measure(table, options=console.options.update(max_width=1000)).maximum
        narrow = whole > console.width
        console.print(_table(summary["metric"], trials, apart=False) if narrow else table)
    if finals := summary["finals"]:
        console.print(_finalists(summary["metric"], finals))
    for sentence in answer(summary):
        console.print(_clean(sentence), soft_wrap=not console.is_terminal)
    console.print()
    names: Sequence[str] = ("model", "report.html", "summary.json", "recipe.toml")
    if not summary["best"]:
        names = names[1:3]  # a model that is there is an earlier study's
    there = [p for n in names if (p := Path(folder, n)).exists()]
    for path in there:
        console.print(f"  {_clean(str(path))}", soft_wrap=True)
    if (model := Path(folder, "model")) in there:
        words = ["autotl", "predict", str(model), "photo.jpg"]
        words += [word for file in plugins for word in ("--plugin", str(file))]
        console.print(f"\nTry it:  {_clean(shlex.join(words))}", soft_wrap=True)
    if more:
        console.print("Go on:   run the same command again")


def show_trials(metric: str, rows: Sequence[TrialRow]) -> None:
    """Print every trial of a study, why it ended, and what each backbone costs here.

    On a terminal lines are wrapped to its width; in a file each trial is one line.
    """
    console = _console(sys.stdout)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("trial", "status", metric, "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("recipe, and why it ended", overflow="fold")
    for row in rows:
        recipe = Text(_clean(recipe_line(row.config)))
        if row.reason:
            recipe.append("\n" if console.is_terminal else "  ").append(_clean(row.reason), "dim")
        score = "" if row.score is None else f"{row.score:.4f}"
        numbers = (score, str(row.epochs), f"{row.seconds:.1f}")
        table.add_row(str(row.number), row.status.replace("_", " "), *numbers, recipe)
    _print_whole(console, table)
    if costs := backbone_costs(rows):
        _print_whole(console, _costs(costs))


def _print_whole(console: Console, table: Table) -> None:
    """A table as wide as the terminal, or in a file as wide as it needs."""
    width = None
    if not console.is_terminal:
        width = console.measure(table, options=console.options.update(max_width=10_000)).maximum
        console.width = max(console.width, width)
    console.print(table)


def _costs(costs: Sequence[Mapping[str, Any]]) -> Table:
    """Milliseconds and memory for one picture of a batch, by backbone."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("backbone")
    for name in ("predict ms", "forward ms", "backward ms", "activations", "peak", "parameters"):
        table.add_column(name, justify="right")
    for c in costs:
        times = [c[key] for key in ("ms_per_item", "forward_ms", "backward_ms")]
        sizes = [c[key] for key in ("activation_bytes", "peak_bytes")]
        table.add_row(
            _clean(c["backbone"]),
            *("-" if t is None else f"{t:.3g}" for t in times),
            *("-" if s is None else f"{s / 2**20:.3g} MiB" for s in sizes),
            "-" if c["parameters"] is None else f"{c['parameters'] / 1e6:.3g} M",
        )
    return table


def spark(values: Sequence[float]) -> str:
    """A curve as one line of text, from the least value to the greatest.

    >>> spark([0.1, 0.5, 0.4, 0.9])
    '▁▄▃█'
    """
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / 7 or math.inf
    return "".join("▁▂▃▄▅▆▇█"[int((v - low) / step)] if math.isfinite(v) else " " for v in values)


class _Warnings:
    """Passes on nothing but warnings."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note) and event.warning:
            self.console.print(f"warning: {_clean(event.text)}", soft_wrap=True)


class _Lines:
    """One plain line for each stage, note and finished trial."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.metric, self.stage = "", ""
        self.trial: TrialStarted | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self.metric = event.metric
                budget = "" if event.budget is None else f", {_clock(event.budget)} budget"
                before = f", {event.done} trials before" if event.done else ""
                self._say(f"{event.study}: {event.metric} on {event.device}{budget}{before}")
            case Stage() if event.name != self.stage:
                self.stage = event.name
                self._say(event.name)
            case Note():
                self._say(f"warning: {event.text}" if event.warning else event.text)
            case TrialStarted():
                self.trial = event
            case TrialFinished():
                parts = [*_ended(event, self.metric), recipe_line(_config(self.trial, event))]
                self._say("  ".join(part for part in (*parts, event.reason) if part))

    def _say(self, line: str) -> None:
        self.console.print(_clean(line), soft_wrap=True)


class _Panel:
    """The state of a search, drawn anew several times a second; what is over scrolls above it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()
        self.started = SearchStarted("", "", "", None, None, None, 0)
        self.stage: Stage | None = None
        self.trial: TrialStarted | None = None
        self.scores: list[float] = []
        self.ends: Counter[str] = Counter()
        self.best: tuple[TrialFinished, dict[str, Any]] | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self.started = event
            case Stage():
                self.stage = event
            case Note():
                text = f"warning: {event.text}" if event.warning else event.text
                self.console.print(Text(_clean(text), "yellow" if event.warning else ""))
            case TrialStarted():
                self.stage, self.trial, self.scores = None, event, []
            case EpochCompleted():
                self.scores.append(event.score)
            case TrialFinished():
                self._end(event)

    def _end(self, event: TrialFinished) -> None:
        config = _config(self.trial, event)
        group = {"complete": "complete", "pruned": "pruned", "out_of_time": "pruned"}
        self.ends[group.get(event.status, "failed")] += 1
        better = event.status == "complete" and self._better(event)
        if better:
            self.best = event, config
        line = Text("  ".join(_ended(event)), "bold" if better else "")
        line.append(f"  {_clean(recipe_line(config, values=False))}", "not bold dim")
        self.console.print(line, no_wrap=True, overflow="ellipsis")
        if event.status not in group:
            self.console.print(Text(f"  {_clean(event.reason)}", "red"))

    def _better(self, event: TrialFinished) -> bool:
        if event.score is None or self.best is None or self.best[0].score is None:
            return event.score is not None
        return metrics.get(self.metric).better(event.score, self.best[0].score)

    @property
    def metric(self) -> str:
        return self.started.metric

    def __rich__(self) -> RenderableType:
        rows = Table.grid(padding=(0, 1), expand=True)
        rows.add_column(style="dim", width=7)
        rows.add_column(ratio=1)
        rows.add_row("time", self._time())
        rows.add_row("trials", self._counts())
        rows.add_row("best", self._winner())
        rows.add_row("", "")
        rows.add_row("now", self._now())
        return Panel(
            rows,
            title=_line(f"AutoTL · {self.started.study}" if self.started.study else "AutoTL"),
            subtitle=_line(f"{self.metric} · {self.started.device}" if self.metric else ""),
            title_align="left",
            subtitle_align="right",
            border_style="dim",
            width=min(self.console.width, WIDEST),
        )

    def _time(self) -> RenderableType:
        budget, deadline, now = self.started.budget, self.started.deadline, time.monotonic()
        if budget is None or deadline is None:
            return _line(f"{_clock(now - self.began)} gone")
        left = max(0.0, deadline - now)
        return _bar(budget - left, budget, f"{_clock(left)} left")

    def _counts(self) -> Text:
        before, limit = self.started.done, self.started.trials
        counts = [f"{self.ends[end]} {end}" for end in ("complete", "pruned", "failed")]
        counts += [f"{before} before"] if before else []
        share = "" if limit is None else f"{before + self.ends.total()} of {limit}:  "
        return _line(share + " · ".join(counts))

    def _winner(self) -> RenderableType:
        if self.best is None:
            where = " in this run" if self.started.done else ""  # of earlier ones nothing is told
            return Group(_line(f"none yet{where}", "dim"), "")
        event, config = self.best
        score = Text(f"{event.score:.4f}", "bold green").append(
            f"  trial {event.number}", "default"
        )
        return Group(score, _line(recipe_line(config, values=False)))

    def _now(self) -> RenderableType:
        """Three lines, whatever is going on, so that the panel does not jump."""
        if self.stage:
            if not self.stage.total:
                return Group(_line(self.stage.name), "", "")
            steps = f"{self.stage.done}/{self.stage.total}"
            return Group(_line(self.stage.name), _bar(self.stage.done, self.stage.total, steps), "")
        if self.trial is None:
            return Group("", "", "")
        head = _line(f"trial {self.trial.number}  epoch {len(self.scores)}/{self.trial.epochs}")
        if self.scores:
            head.append(f"  {spark(self.scores[-CURVE:])}", "cyan")
            head.append(f"  {self.scores[-1]:.4f}")
        kinds = chosen(self.trial.config).values()
        values = [f"{name} {value}" for _, params in kinds for name, value in params.items()]
        names = recipe_line(self.trial.config, values=False)
        return Group(head, _line(names), _line(", ".join(values), "dim"))


def _console(stream: TextIO) -> Console:
    """A console that takes text as it is, coloured only on a terminal."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a "·" that cannot be encoded must not end a search
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        width=None if terminal else 200,  # a file has no edge: the table is as wide as it needs
        markup=False,
        highlight=False,
        emoji=False,
    )


def _clean(text: str) -> str:
    """``text`` on one line without what would move the cursor: messages quote file names."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def _line(text: str, style: str = "") -> Text:
    """Text that is cut where the line ends."""
    return Text(_clean(text), style, no_wrap=True, overflow="ellipsis")


def _clock(seconds: float) -> str:
    """``4:05``, or ``1:04:05`` from an hour on."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _bar(done: float, total: float, text: str) -> RenderableType:
    row = Table.grid(padding=(0, 2, 0, 0), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    row.add_row(ProgressBar(total, done, complete_style="cyan", finished_style="cyan"), text)
    return row


def _config(trial: TrialStarted | None, event: TrialFinished) -> dict[str, Any]:
    """That of the trial that ended; one that could not even be built was never started."""
    return trial.config if trial and trial.number == event.number else {}


def _ended(event: TrialFinished, metric: str = "") -> list[str]:
    score = [] if event.score is None else [f"{metric} {event.score:.4f}".strip()]
    return [f"trial {event.number}", event.status, *score, f"{event.seconds:.1f} s"]


def _finalists(metric: str, finals: Mapping[str, Any]) -> Table:
    """The candidates of the finals with the interval of their mean, the best first."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(f"finals, {finals['runs']} runs")
    table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("")
    for c in finals["candidates"]:
        role = c["role"].replace("_", " ") if c["trial"] is not None else ""
        won = c["name"] == finals["winner"]
        table.add_row(
            f"{c['name']}{', ' + role if role not in ('', 'finalist') else ''}",
            f"{c['mean']:.4f}",
            f"{c['low']:.4f} to {c['high']:.4f}",
            "winner" if won else "tied" if c["tied_with_best"] else "",
            style="bold" if won else "",
        )
    return table


def _table(metric: str, trials: Sequence[Mapping[str, Any]], apart: bool) -> Table:
    """The best trials, each kind of plugin in a column or all in one, which wraps."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("rank", "trial", metric, "epochs", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    kinds = list(chosen(trials[0]["config"])) if apart else ["recipe"]
    for kind in kinds:
        table.add_column(kind)
    for rank, t in enumerate(trials, 1):
        names = [name for name, _ in chosen(t["config"]).values()]
        table.add_row(
            str(rank),
            str(t["number"]),
            f"{t['score']:.4f}",
            str(t["epochs"]),
            f"{t['seconds']:.1f}",
            *(names if apart else [" · ".join(names)]),
            style="bold" if rank == 1 else "",
        )
    return table
