"""Show the progress of a search: in a panel on a terminal, and as plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotl.cli.console import on_one_line, open_console
from autotl.events import (
    BestTrial,
    EpochCompleted,
    Event,
    Listener,
    Note,
    OthersRunning,
    ScoreDecimals,
    SearchStarted,
    Stage,
    TrialFinished,
    TrialStarted,
)

MAX_WIDTH = 100
"""Maximum width of the panel in columns; longer lines are hard to read."""

CURVE_EPOCHS = 24
"""Number of epochs in the learning curve of the current trial: the latest ones."""

GROUPS = ("complete", "pruned", "out_of_time", "duplicate", "failed")
"""The statuses by which trials are counted; all others count as failed."""

MOST_OTHERS = 6
"""The maximum number of other workers in the panel."""

RARE = ("out_of_time", "duplicate")
"""The statuses that are shown only if there are trials with them."""


@contextmanager
def show_progress(quiet: bool = False, study: str = "") -> Iterator[Listener]:
    """Yield a listener that shows the search of a study, or with ``quiet`` only its warnings."""
    if quiet:
        yield print_progress(quiet)
        return
    console = open_console(sys.stdout)
    # The panel moves the cursor and draws with block characters.
    if console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf"):
        panel = _Panel(console, study)
        with _ResizableLive(panel, console=console, transient=True):
            yield panel
    else:
        yield _Lines(console)


def print_progress(quiet: bool = False) -> Listener:
    """Return a listener that prints a line for each stage and note, or only warnings."""
    return _Warnings(open_console(sys.stderr)) if quiet else _Lines(open_console(sys.stdout))


class _ResizableLive(Live):
    """A live display that leaves no torn frame when the terminal becomes narrower.

    The terminal then wraps the lines of the last frame, which are more lines than were drawn.
    """

    def refresh(self) -> None:
        """Draw a frame in the place of the last one."""
        with self._lock:
            if shape := self._live_render._shape:
                width, height = shape
                rows = -(-width // max(1, self.console.width))
                self._live_render._shape = min(width, self.console.width), height * rows
        super().refresh()


class _Warnings:
    """Prints warnings and nothing else."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note) and event.warning:
            self.console.print(f"warning: {on_one_line(event.text)}", soft_wrap=True)


class _Lines:
    """Prints one plain line for each stage, note and finished trial."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.metric, self.stage, self.decimals = "", "", 4
        self.trials: dict[int, TrialStarted] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self.metric = event.metric
                budget = "" if event.budget is None else f", {_clock(event.budget)} budget"
                plural = "" if event.earlier_trials == 1 else "s"
                earlier = f", {event.earlier_trials} earlier trial{plural}"
                earlier = earlier if event.earlier_trials else ""
                self._print(f"{event.study}: {event.metric} on {event.device}{budget}{earlier}")
            case ScoreDecimals():
                self.decimals = event.decimals
            case Stage() if event.name != self.stage:
                self.stage = event.name
                self._print(event.name)
            case Note():
                self._print(f"warning: {event.text}" if event.warning else event.text)
            case TrialStarted():
                self.trials[event.number] = event
            case TrialFinished():
                from autotl.report import describe_config

                config = _config(self.trials.pop(event.number, None))
                columns = _columns(event, self.decimals, self.metric)
                columns += [describe_config(config), event.reason]
                self._print("  ".join(column for column in columns if column))

    def _print(self, line: str) -> None:
        self.console.print(on_one_line(line), soft_wrap=True)


class _Panel:
    """The state of a search, redrawn several times a second; finished trials scroll above it."""

    def __init__(self, console: Console, study: str = "") -> None:
        self.console = console
        self.start_time = time.monotonic()
        self.started = SearchStarted(study, "", "", None, None, None, 0)
        self.decimals = 4
        self.stage: Stage | None = None
        self.trial: TrialStarted | None = None
        self.others: dict[int, TrialStarted] = {}  # trials of other workers by number
        self.scores: list[float] = []
        self.counts: Counter[str] = Counter()
        self.best: BestTrial | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self.started, self.best = event, event.best
            case ScoreDecimals():
                self.decimals = event.decimals
            case Stage():
                self.stage = event
            case Note():
                text = f"warning: {event.text}" if event.warning else event.text
                self.console.print(Text(on_one_line(text), "yellow" if event.warning else ""))
            case TrialStarted() if event.worker is not None:
                self.others[event.number] = event
            case TrialStarted():
                self.stage, self.trial, self.scores = None, event, []
            case OthersRunning():
                self.others = {trial.number: trial for trial in event.trials}
            case EpochCompleted():
                self.scores.append(event.score)
            case TrialFinished():
                self._finish_trial(event)

    def _finish_trial(self, event: TrialFinished) -> None:
        """Count the trial, update the best one and print a line above the panel."""
        from autotl.report import describe_config

        is_own = event.worker is None
        started = self.trial if is_own else self.others.pop(event.number, None)
        config = _config(started if started and started.number == event.number else None)
        group = event.status if event.status in GROUPS else "failed"
        self.counts[group] += 1
        is_best = event.status == "complete" and self._is_better(event.score)
        if is_best and event.score is not None:
            self.best = BestTrial(event.number, event.score, config)
        line = Text("  ".join(_columns(event, self.decimals)), "bold" if is_best else "")
        line.append(f"  {on_one_line(describe_config(config, values=False))}", "not bold dim")
        self.console.print(line, no_wrap=True, overflow="ellipsis")
        if event.reason:
            style = "red" if group == "failed" else "dim"
            self.console.print(Text(f"  {on_one_line(event.reason)}", style))
        if is_own:
            self.trial, self.stage = None, Stage("choosing the next trial")

    def _is_better(self, score: float | None) -> bool:
        if score is None or self.best is None:
            return score is not None
        sign = 1 if self.started.direction == "maximize" else -1
        return sign * score > sign * self.best.score

    @property
    def metric(self) -> str:
        return self.started.metric

    def __rich__(self) -> RenderableType:
        rows = Table.grid(padding=(0, 1), expand=True)
        rows.add_column(style="dim", width=7)
        rows.add_column(ratio=1)
        rows.add_row("time", self._time())
        rows.add_row("trials", self._counts())
        rows.add_row("best", self._best())
        rows.add_row("", "")
        rows.add_row("now", self._now())
        for trial in list(self.others.values())[:MOST_OTHERS]:
            rows.add_row("", self._other(trial))
        return Panel(
            rows,
            title=_line(f"AutoTL · {self.started.study}" if self.started.study else "AutoTL"),
            subtitle=_line(f"{self.metric} · {self.started.device}" if self.metric else ""),
            title_align="left",
            subtitle_align="right",
            border_style="dim",
            width=min(self.console.width, MAX_WIDTH),
        )

    def _time(self) -> RenderableType:
        budget, deadline, now = self.started.budget, self.started.deadline, time.monotonic()
        if budget is None or deadline is None:
            return _line(f"{_clock(now - self.start_time)} elapsed")
        left = deadline - now
        text = f"{_clock(left)} left" if left >= 0 else f"{_clock(-left)} over the budget"
        return _bar(min(budget, budget - left), budget, text)

    def _counts(self) -> Text:
        earlier, limit = self.started.earlier_trials, self.started.max_trials
        visible = [group for group in GROUPS if group not in RARE or self.counts[group]]
        counts = [f"{self.counts[group]} {group.replace('_', ' ')}" for group in visible]
        counts += [f"{earlier} earlier"] if earlier else []
        total = "" if limit is None else f"{earlier + self.counts.total()} of {limit}:  "
        return _line(total + " · ".join(counts))

    def _best(self) -> RenderableType:
        if self.best is None:
            return Group(_line("none yet", "dim"), "")
        from autotl.report import describe_config, format_score

        score = Text(format_score(self.best.score, self.decimals), "bold green").append(
            f"  trial {self.best.number}", "default"
        )
        return Group(score, _line(describe_config(self.best.config, values=False)))

    def _now(self) -> RenderableType:
        """Render three lines in every state, so that the height of the panel does not change."""
        from autotl.report import describe_config, format_score, plugin_choices

        if self.stage:
            if not self.stage.total:
                return Group(_line(self.stage.name), "", "")
            completed, total = self.stage.completed, self.stage.total
            return Group(_line(self.stage.name), _bar(completed, total, f"{completed}/{total}"), "")
        if self.trial is None:
            return Group("", "", "")
        head = _line(f"trial {self.trial.number}  epoch {len(self.scores)}/{self.trial.epochs}")
        if self.scores:
            head.append(f"  {sparkline(self.scores[-CURVE_EPOCHS:])}", "cyan")
            head.append(f"  {format_score(self.scores[-1], self.decimals)}")
        plugins = plugin_choices(self.trial.config).values()
        values = [f"{name} {value}" for _, params in plugins for name, value in params.items()]
        names = describe_config(self.trial.config, values=False)
        return Group(head, _line(names), _line(", ".join(values), "dim"))

    @staticmethod
    def _other(trial: TrialStarted) -> Text:
        """Render what another worker does as one line."""
        from autotl.report import describe_config

        config = describe_config(trial.config, values=False)
        return _line(f"worker {trial.worker}: trial {trial.number}  {config}", "dim")


def sparkline(values: Sequence[float]) -> str:
    """Draw a curve as one line of text, scaled from the minimum to the maximum.

    >>> sparkline([0.1, 0.5, 0.4, 0.9])
    '▁▄▃█'
    """
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = (high - low) / 7 or math.inf
    return "".join("▁▂▃▄▅▆▇█"[int((v - low) / step)] if math.isfinite(v) else " " for v in values)


def _line(text: str, style: str = "") -> Text:
    """Make a line that is truncated at the edge instead of wrapped."""
    return Text(on_one_line(text), style, no_wrap=True, overflow="ellipsis")


def _clock(seconds: float) -> str:
    """Format a duration as ``4:05``, or as ``1:04:05`` from an hour on."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _bar(done: float, total: float, text: str) -> RenderableType:
    row = Table.grid(padding=(0, 2, 0, 0), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    row.add_row(ProgressBar(total, done, complete_style="cyan", finished_style="cyan"), text)
    return row


def _config(started: TrialStarted | None) -> dict[str, Any]:
    """Return the configuration of a trial; empty if its model could not be built."""
    return started.config if started else {}


def _columns(event: TrialFinished, decimals: int, metric: str = "") -> list[str]:
    """Return number, status, score and seconds of a finished trial."""
    from autotl.report import format_score

    score = []
    if event.score is not None:
        score = [f"{metric} {format_score(event.score, decimals)}".strip()]
    worker = [] if event.worker is None else [f"worker {event.worker}"]
    return [f"trial {event.number}", event.status, *score, f"{event.seconds:.1f} s", *worker]
