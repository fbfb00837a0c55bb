"""The progress of a search on the terminal: a panel, plain lines, or only warnings."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from example_study import config
from rich.console import Console

from autotl.cli import progress_view
from autotl.events import (
    BestTrial,
    EpochCompleted,
    Event,
    Note,
    OthersRunning,
    ScoreDecimals,
    SearchStarted,
    Stage,
    TrialFinished,
    TrialStarted,
)

ESCAPE = "\x1b[31mred.jpg"
"""A file name with a control sequence."""

NOW = 1000.0
"""The time of the clock in these tests, seconds."""


def events(**changes: Any) -> list[Event]:
    """A short search with events of every type; keywords change its ``SearchStarted``."""
    limits = {"budget": 600.0, "deadline": NOW + 252.9, "max_trials": None, "earlier_trials": 0}
    return [
        SearchStarted("birds", "accuracy", "cuda", **{**limits, **changes}),
        Stage("checking images"),
        *(Stage("packing images", i, 200) for i in range(0, 200, 50)),
        Note(f"2 problems in the data; the first:\n{ESCAPE}", warning=True),
        TrialStarted(0, config("linear_probe"), 2),
        EpochCompleted(0, 1, 2, 1.0, 0.7, 1.0),
        EpochCompleted(0, 2, 2, 0.5, 0.8123, 1.0),
        TrialFinished(0, "complete", "", 0.8123, 12.34),
        TrialStarted(1, config("full"), 6),
        TrialFinished(1, "pruned", "worse than the median", None, 4.0),
        TrialFinished(2, "out_of_memory", f"no room for [red]\n{ESCAPE}", None, 1.0),
        Note("done"),
    ]


def show(quiet: bool = False, **changes: Any) -> None:
    with progress_view.show_progress(quiet) as listener:
        for event in events(**changes):
            listener(event)


def test_without_a_terminal_there_are_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(earlier_trials=3)
    out, err = capsys.readouterr()
    recipe = "tf_efficientnet_lite0(drop_path=0.05) · {}(lr=0.001) · linear · flip_crop(scale=0.7)"
    assert out.splitlines() == [
        "birds: accuracy on cuda, 10:00 budget, 3 earlier trials",
        "checking images",
        "packing images",
        "warning: 2 problems in the data; the first: ?[31mred.jpg",
        f"trial 0  complete  accuracy 0.8123  12.3 s  {recipe.format('linear_probe')} · adamw",
        f"trial 1  pruned  4.0 s  {recipe.format('full')} · adamw  worse than the median",
        "trial 2  out_of_memory  1.0 s  no room for [red] ?[31mred.jpg",
        "done",
    ]
    assert err == ""


def test_scores_of_a_unit_have_the_decimals_of_the_study(
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished = TrialFinished(0, "complete", "", 44.5678, 3.0)
    with progress_view.show_progress() as listener:
        for event in (ScoreDecimals(2), finished):
            listener(event)
    assert capsys.readouterr().out == "trial 0  complete  44.57  3.0 s\n"
    now = (ScoreDecimals(1), TrialStarted(0, {}, 2), EpochCompleted(0, 1, 2, 1.0, 44.5678, 1.0))
    lines = screen(1, more=now)
    assert any("44.6" in line for line in lines)
    assert not any("44.56" in line for line in lines)
    assert any("44.6" in line for line in screen(1, more=(*now, finished)) if "best" in line)


def test_quiet_shows_only_warnings_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(quiet=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: 2 problems in the data; the first: ?[31mred.jpg\n"


def test_a_stream_that_cannot_encode_a_dot_does_not_stop_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    show()
    assert b"tf_efficientnet_lite0(drop_path=0.05) ? linear_probe" in stream.buffer.getvalue()


def screen(count: int, width: int = 80, more: tuple[Event, ...] = (), **changes: Any) -> list[str]:
    """The panel after the first events, as lines of text."""
    console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    panel = progress_view._Panel(console)
    for event in (*events(**changes)[:count], *more):
        panel(event)
    with console.capture() as captured:
        console.print(panel)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_has_the_same_size_in_every_state(width: int) -> None:
    long = TrialStarted(7, config("a_strategy_with_a_name_that_goes_on" * 3), 99)
    curve = [EpochCompleted(7, i, 99, 1.0, i / 99, 1.0) for i in range(1, 90)]
    screens = [screen(n, width) for n in range(16)] + [screen(8, width, (long, *curve))]
    assert {len(s) for s in screens} == {len(screens[0])}
    assert {len(line) for s in screens for line in s} == {min(width, progress_view.MAX_WIDTH)}


def test_the_panel_shows_time_counts_best_and_the_current_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress_view, "time", SimpleNamespace(monotonic=lambda: NOW))
    now = (TrialStarted(3, config("last_blocks"), 5), EpochCompleted(3, 1, 5, 1.0, 0.5, 1.0))
    text = "\n".join(
        screen(
            15,
            more=(*now, EpochCompleted(3, 2, 5, 0.9, 0.75, 1.0)),
            max_trials=20,
            earlier_trials=2,
        )
    )
    assert "4:12 left" in text
    assert "5 of 20:  1 complete · 1 pruned · 1 failed · 2 earlier" in text
    assert "0.8123  trial 0" in text
    assert "tf_efficientnet_lite0 · linear_probe · linear · flip_crop · adamw" in text
    assert "trial 3  epoch 2/5  ▁█  0.7500" in text
    assert "drop_path 0.05, lr 0.001, scale 0.7" in text

    assert "elapsed" in "\n".join(screen(1, budget=None, deadline=None))
    assert "150/200" in "\n".join(screen(6))


def test_a_trial_that_was_out_of_time_is_counted_apart_and_shown_with_its_recipe() -> None:
    console = Console(width=120, color_system=None, file=io.StringIO(), record=True)
    panel = progress_view._Panel(console)
    for event in events(max_trials=20)[:8]:
        panel(event)
    panel(TrialStarted(1, config("full"), 0))
    panel(TrialFinished(1, "out_of_time", "3 epochs would take 9 s", None, 0.1))
    lines = console.export_text().splitlines()
    assert lines[-1].strip() == "3 epochs would take 9 s"
    assert lines[-2].startswith("trial 1  out_of_time  0.1 s")
    assert "full · linear" in lines[-2]
    console.print(panel)
    assert "1 of 20:  0 complete · 0 pruned · 1 out of time · 0 failed" in console.export_text()


def test_the_panel_shows_what_other_workers_do() -> None:
    console = Console(width=120, color_system=None, file=io.StringIO(), record=True)
    panel = progress_view._Panel(console)
    for event in events()[:8]:
        panel(event)
    panel(OthersRunning((TrialStarted(7, config("full"), 3, worker=2),)))
    console.print(panel)
    assert "worker 2: trial 7  tf_efficientnet_lite0 · full" in console.export_text()
    panel(TrialStarted(7, config("full"), 3, worker=2))
    panel(TrialFinished(7, "complete", "", 0.95, 2.0, worker=2))
    assert panel.trial
    assert panel.trial.number == 0, "that of this process goes on"
    text = console.export_text()
    assert "trial 7  complete  0.9500  2.0 s  worker 2  tf_efficientnet_lite0 · full" in text
    console.print(panel)
    assert "worker 2: trial 7" not in console.export_text()


def test_plain_lines_name_the_worker(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_view.show_progress() as listener:
        listener(TrialStarted(0, config("linear_probe"), 2))
        listener(TrialStarted(1, config("full"), 2, worker=3))
        listener(TrialFinished(1, "complete", "", 0.5, 1.0, worker=3))
        listener(TrialFinished(0, "complete", "", 0.6, 1.0))
    other, own = capsys.readouterr().out.splitlines()
    assert other.startswith("trial 1  complete  0.5000  1.0 s  worker 3  tf_efficientnet_lite0")
    assert "full(" in other
    assert "linear_probe(" in own
    assert "worker" not in own


def test_the_best_trial_has_the_lowest_score_if_lower_is_better() -> None:
    console = Console(file=io.StringIO())
    panel = progress_view._Panel(console)
    panel(SearchStarted("birds", "log_loss", "cpu", None, None, None, 0, direction="minimize"))
    for number, score in enumerate((0.5, 0.4, 0.6)):
        panel(TrialFinished(number, "complete", "", score, 1.0))
    assert panel.best is not None
    assert panel.best.number == 1


def test_the_best_trial_of_earlier_runs_is_the_best_so_far() -> None:
    console = Console(file=io.StringIO())
    panel = progress_view._Panel(console)
    earlier = BestTrial(4, 0.9, config("full"))
    panel(SearchStarted("birds", "accuracy", "cpu", None, None, None, 5, earlier))
    panel(TrialFinished(5, "complete", "", 0.8, 1.0))
    assert panel.best == earlier
    panel(TrialFinished(6, "complete", "", 0.95, 1.0))
    assert (panel.best.number, panel.best.score) == (6, 0.95)


def test_the_panel_shows_the_study_at_once_and_no_finished_trial_as_current() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    panel = progress_view._Panel(console, "birds")
    panel(Stage("loading libraries"))
    console.print(panel)
    text = console.export_text()
    assert "AutoTL · birds" in text
    assert "loading libraries" in text
    panel(TrialStarted(0, config("full"), 3))
    panel(TrialFinished(0, "complete", "", 0.8, 1.0))
    console.print(panel)
    now = console.export_text().partition(" now ")[2]
    assert "choosing the next trial" in now
    assert "trial 0" not in now


def test_the_time_beyond_the_budget_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_view, "time", SimpleNamespace(monotonic=lambda: NOW))
    panel = progress_view._Panel(Console(width=80, file=io.StringIO(), record=True))
    panel(SearchStarted("birds", "accuracy", "cpu", 60.0, NOW - 32, None, 0))
    panel.console.print(panel)
    assert "0:32 over the budget" in panel.console.export_text()


def test_one_earlier_trial_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    show(earlier_trials=1)
    assert "1 earlier trial\n" in capsys.readouterr().out


def test_a_narrower_terminal_leaves_no_torn_frame() -> None:
    """The terminal wraps the 5 lines of 60 columns into 10 of 40, all of which are erased."""
    console = Console(width=60, height=30, force_terminal=True, file=io.StringIO())
    text = "\n".join(["x" * 60] * 5)
    live = progress_view._ResizableLive(text, console=console, auto_refresh=False, transient=True)
    with live:
        live.refresh()
        console.width = 40
        with console.capture() as captured:
            live.refresh()
    assert captured.get().count("\x1b[1A\x1b[2K") == 9


def test_in_a_terminal_finished_trials_scroll_above_the_panel() -> None:
    script = "from test_progress_view import show; show(); print('after')"
    folder = Path(__file__).parent
    parent, child = pty.openpty()
    settings = {"TERM": "xterm", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=child,
        stderr=child,
        env={**os.environ, **settings, "PYTHONPATH": os.pathsep.join(map(str, folder.parents[:2]))},
        cwd=folder,
    ) as process:
        os.close(child)
        raw = b""
        while chunk := _read(parent):
            raw += chunk
    os.close(parent)
    assert process.returncode == 0, raw
    text = raw.decode()
    assert "\x1b[31mred.jpg" not in text
    assert text.index("trial 0  complete  0.8123") < text.index("trial 2  out_of_memory")
    assert "no room for [red] ?[31mred.jpg" in text
    assert text.rstrip().endswith("after")
    assert "\x1b[?25h" in text, "the cursor is visible again"


def _read(parent: int) -> bytes:
    try:
        return os.read(parent, 4096)
    except OSError:  # Linux raises it when the other side is closed
        return b""


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([0.5], "▁"), ([0.5, 0.5], "▁▁"), ([0, float("nan"), 1], "▁ █")],
)
def test_a_sparkline_is_drawn_from_any_numbers(values: list[float], expected: str) -> None:
    assert progress_view.sparkline(values) == expected
