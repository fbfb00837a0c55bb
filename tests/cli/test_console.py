"""The terminal shows what a search does: a panel, plain lines, or only warnings."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import example_study
import pytest
from example_study import HOSTILE, add_trial, config, facts
from rich.console import Console

from autotl.cli import console as terminal
from autotl.events import (
    EpochCompleted,
    Event,
    Note,
    SearchStarted,
    Stage,
    TrialFinished,
    TrialStarted,
)
from autotl.report import summarise, top
from autotl.store import Store

ESCAPE = "\x1b[31mred.jpg"


def started(**changes: Any) -> SearchStarted:
    known = {"budget": 600.0, "deadline": time.monotonic() + 252.9, "trials": None, "done": 0}
    return SearchStarted("birds", "accuracy", "cuda", **{**known, **changes})


def events(**changes: Any) -> list[Event]:
    """A short search with everything in it."""
    return [
        started(**changes),
        Stage("checking pictures"),
        *(Stage("packing pictures", i, 200) for i in range(0, 200, 50)),
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
    with terminal.view(quiet) as listen:
        for event in events(**changes):
            listen(event)


def test_without_a_terminal_there_are_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show(done=3)
    out, err = capsys.readouterr()
    recipe = "tf_efficientnet_lite0(drop_path=0.05) · {}(lr=0.001) · linear · flip_crop(scale=0.7)"
    assert out.splitlines() == [
        "birds: accuracy on cuda, 10:00 budget, 3 trials before",
        "checking pictures",
        "packing pictures",
        "warning: 2 problems in the data; the first: ?[31mred.jpg",
        f"trial 0  complete  accuracy 0.8123  12.3 s  {recipe.format('linear_probe')} · adamw",
        f"trial 1  pruned  4.0 s  {recipe.format('full')} · adamw  worse than the median",
        "trial 2  out_of_memory  1.0 s  no room for [red] ?[31mred.jpg",
        "done",
    ]
    assert err == ""


def test_quiet_shows_warnings_alone_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(quiet=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: 2 problems in the data; the first: ?[31mred.jpg\n"


def test_a_stream_that_knows_no_dots_does_not_end_the_search(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    show()
    assert b"tf_efficientnet_lite0(drop_path=0.05) ? linear_probe" in stream.buffer.getvalue()


def screen(upto: int, width: int = 80, more: tuple[Event, ...] = (), **changes: Any) -> list[str]:
    """The panel after the first events, as lines of text."""
    console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    panel = terminal._Panel(console)
    for event in (*events(**changes)[:upto], *more):
        panel(event)
    with console.capture() as captured:
        console.print(panel)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_keeps_its_size_whatever_happens(width: int) -> None:
    long = TrialStarted(7, config("a_strategy_with_a_name_that_goes_on" * 3), 99)
    curve = [EpochCompleted(7, i, 99, 1.0, i / 99, 1.0) for i in range(1, 90)]
    screens = [screen(n, width) for n in range(16)] + [screen(8, width, (long, *curve))]
    assert {len(s) for s in screens} == {len(screens[0])}
    assert {len(line) for s in screens for line in s} == {min(width, terminal.WIDEST)}


def test_the_panel_shows_time_counts_best_and_the_current_trial() -> None:
    now = (TrialStarted(3, config("last_blocks"), 5), EpochCompleted(3, 1, 5, 1.0, 0.5, 1.0))
    text = "\n".join(
        screen(15, more=(*now, EpochCompleted(3, 2, 5, 0.9, 0.75, 1.0)), trials=20, done=2)
    )
    assert "4:12 left" in text
    assert "5 of 20:  1 complete · 1 pruned · 1 failed · 2 before" in text
    assert "0.8123  trial 0" in text
    assert "tf_efficientnet_lite0 · linear_probe · linear · flip_crop · adamw" in text
    assert "trial 3  epoch 2/5  ▁█  0.7500" in text
    assert "drop_path 0.05, lr 0.001, scale 0.7" in text

    assert "gone" in "\n".join(screen(1, budget=None, deadline=None))
    assert "150/200" in "\n".join(screen(6))


def test_best_is_least_where_less_is_better() -> None:
    console = Console(file=io.StringIO())
    panel = terminal._Panel(console)
    panel(SearchStarted("birds", "log_loss", "cpu", None, None, None, 0))
    for number, score in enumerate((0.5, 0.4, 0.6)):
        panel(TrialFinished(number, "complete", "", score, 1.0))
    assert panel.best is not None
    assert panel.best[0].number == 1


def test_in_a_terminal_what_is_over_scrolls_above_the_panel() -> None:
    script = "from test_console import show; show(); print('after')"
    here = Path(__file__).parent
    parent, child = pty.openpty()
    settings = {"TERM": "xterm", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=child,
        stderr=child,
        env={**os.environ, **settings, "PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here.parent}"},
        cwd=here,
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
    assert "\x1b[?25h" in text, "the cursor is back"


def _read(parent: int) -> bytes:
    try:
        return os.read(parent, 4096)
    except OSError:  # Linux, when the other side is closed
        return b""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = example_study.opened(tmp_path)
    yield made
    made.close()


@pytest.fixture
def birds(store: Store) -> Store:
    """A study with finals, and more trials than are shown."""
    example_study.write(store, 14)
    return store


def summary_lines(store: Store, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    terminal.show_summary(summarise(store, "birds"), str(folder), top(store, "birds"))
    return capsys.readouterr().out.splitlines()


def test_the_summary_has_tables_an_answer_and_what_to_do_next(
    birds: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    folder = tmp_path / "my birds"
    (folder / "model").mkdir(parents=True)
    for name in ("recipe.toml", "summary.json"):
        (folder / name).touch()
    text = "\n".join(lines := summary_lines(birds, folder, capsys))
    assert "\x1b" not in text
    columns = "rank trial accuracy epochs seconds backbone freeze head augment optimizer"
    assert next(line for line in lines if line.strip()).split() == columns.split()
    assert sum("flip_crop  adamw" in line for line in lines) == 10
    finals = summarise(birds, "birds")["finals"]
    entry = finals["candidates"][0]
    assert f"{entry['low']:.4f} to {entry['high']:.4f}" in text
    assert sum(line.rstrip().endswith(" winner") for line in lines) == 1
    assert "trial 1, default recipe" in text
    assert "On 180 test pictures that the search never saw: accuracy 0.9222" in text
    assert f"autotl predict '{folder}/model' photo.jpg" in text
    assert f"  {folder}/recipe.toml" in lines
    assert f"  {folder}/summary.json" in lines
    assert "report.html" not in text, "it is not there"


@pytest.mark.parametrize(
    ("known", "scores", "says"),
    [
        ({}, [], "no winner"),
        (facts(), [0.5], "the search ended before its test"),
        (facts(data={}), [0.5], "no pictures were set aside"),
    ],
)
def test_the_summary_says_why_something_is_missing(
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    known: dict[str, Any],
    scores: list[float],
    says: str,
) -> None:
    store.begin("birds", known)
    for number, score in enumerate(scores):
        add_trial(store, number, score)
    text = "\n".join(summary_lines(store, tmp_path, capsys))
    assert says in text
    assert "predict" not in text, "there is no model"


def wide(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Make the terminal so many columns wide."""
    plain = terminal._console

    def narrow(stream: TextIO) -> Console:
        made = plain(stream)
        made.width = width
        return made

    monkeypatch.setattr(terminal, "_console", narrow)


def test_on_80_columns_the_table_shows_whole_names(
    birds: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide(monkeypatch, 80)
    lines = summary_lines(birds, tmp_path, capsys)
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith(" finals"))]
    assert max(map(len, table)) <= 80
    assert table[1].split() == ["rank", "trial", "accuracy", "epochs", "seconds", "recipe"]
    assert "…" not in "".join(table)
    assert sum("flip_crop" in line for line in table) == 10


def test_trials_are_shown_with_their_ends_reasons_and_costs(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin("birds", facts())
    costs = {"forward_ms": 1.25, "backward_ms": 3.5, "activation_bytes": 3 << 20}
    measured = {"costs": {**costs, "peak_bytes": None}, "ms_per_item": 2.0}
    add_trial(store, 0, 0.9, measured=measured)
    add_trial(store, 1, None, "out_of_memory", reason=f"no room for {HOSTILE}\n{ESCAPE}")
    terminal.show_trials("accuracy", store.trials("birds"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].split()[:5] == ["trial", "status", "accuracy", "epochs", "seconds"]
    assert lines[2].split()[:5] == ["0", "complete", "0.9000", "6", "12.3"]
    assert lines[3].startswith("     1  out of memory")
    assert lines[3].rstrip().endswith(f"adamw  no room for {HOSTILE} ?[31mred.jpg")
    assert " ".join(lines[-1].split()) == ("tf_efficientnet_lite0 2 1.25 3.5 3 MiB - 3.4 M")

    wide(monkeypatch, 200)
    add_trial(store, 2, 0.5, chosen=config(head="x" * 300))
    terminal.show_trials("accuracy", store.trials("birds"))
    assert "x" * 300 in capsys.readouterr().out, "a file has no edge"


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([0.5], "▁"), ([0.5, 0.5], "▁▁"), ([0, float("nan"), 1], "▁ █")],
)
def test_a_curve_is_drawn_from_any_numbers(values: list[float], drawn: str) -> None:
    assert terminal.spark(values) == drawn
