"""The terminal shows what a search does: a panel, plain lines, or only warnings."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import pytest
from rich.console import Console
from test_report import FakeStore, config, demo, facts, opening, trial

from autotl import live
from autotl.progress import EpochEnded, Event, Note, Stage, Started, TrialEnded, TrialStarted
from autotl.report import summarise, top

ESCAPE = "\x1b[31mred.jpg"


def started(**changes: Any) -> Started:
    known = {"budget": 600.0, "deadline": time.monotonic() + 252.9, "trials": None, "done": 0}
    return Started("birds", "accuracy", "cuda", **{**known, **changes})


def events(**changes: Any) -> list[Event]:
    """A short search with everything in it."""
    return [
        started(**changes),
        Stage("checking pictures"),
        *(Stage("packing pictures", i, 200) for i in range(0, 200, 50)),
        Note(f"2 problems in the data; the first:\n{ESCAPE}", warning=True),
        TrialStarted(0, config("linear_probe"), 2),
        EpochEnded(0, 1, 2, 1.0, 0.7, 1.0),
        EpochEnded(0, 2, 2, 0.5, 0.8123, 1.0),
        TrialEnded(0, "complete", "", 0.8123, 12.34),
        TrialStarted(1, config("full"), 6),
        TrialEnded(1, "pruned", "worse than the median", None, 4.0),
        TrialEnded(2, "out_of_memory", f"no room for [red]\n{ESCAPE}", None, 1.0),
        Note("done"),
    ]


def show(quiet: bool = False, **changes: Any) -> None:
    with live.view(quiet) as listen:
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
    panel = live._Panel(console)
    for event in (*events(**changes)[:upto], *more):
        panel(event)
    with console.capture() as captured:
        console.print(panel)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_panel_keeps_its_size_whatever_happens(width: int) -> None:
    long = TrialStarted(7, config("a_strategy_with_a_name_that_goes_on" * 3), 99)
    curve = [EpochEnded(7, i, 99, 1.0, i / 99, 1.0) for i in range(1, 90)]
    screens = [screen(n, width) for n in range(16)] + [screen(8, width, (long, *curve))]
    assert {len(s) for s in screens} == {len(screens[0])}
    assert {len(line) for s in screens for line in s} == {min(width, live.WIDEST)}


def test_the_panel_shows_time_counts_best_and_the_current_trial() -> None:
    now = (TrialStarted(3, config("last_blocks"), 5), EpochEnded(3, 1, 5, 1.0, 0.5, 1.0))
    text = "\n".join(
        screen(15, more=(*now, EpochEnded(3, 2, 5, 0.9, 0.75, 1.0)), trials=20, done=2)
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
    panel = live._Panel(console)
    panel(Started("birds", "log_loss", "cpu", None, None, None, 0))
    for number, score in enumerate((0.5, 0.4, 0.6)):
        panel(TrialEnded(number, "complete", "", score, 1.0))
    assert panel.best is not None
    assert panel.best[0].number == 1


def test_in_a_terminal_what_is_over_scrolls_above_the_panel() -> None:
    script = "from test_live import show; show(); print('after')"
    here = Path(__file__).parent
    parent, child = pty.openpty()
    settings = {"TERM": "xterm", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=child,
        stderr=child,
        env={**os.environ, **settings, "PYTHONPATH": str(here.parent)},
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


def summary_lines(
    study: FakeStore, folder: Path, capsys: pytest.CaptureFixture[str], n: int = 10
) -> list[str]:
    live.show_summary(summarise(study, "birds"), str(folder), top(study, "birds", n))
    return capsys.readouterr().out.splitlines()


def test_the_summary_has_a_table_an_answer_and_what_to_do_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    folder = tmp_path / "my birds"
    (folder / "model").mkdir(parents=True)
    (folder / "recipe.toml").touch()
    text = "\n".join(lines := summary_lines(demo(), folder, capsys))
    assert "\x1b" not in text
    columns = "rank trial accuracy epochs seconds backbone freeze head augment optimizer"
    assert next(line for line in lines if line.strip()).split() == columns.split()
    assert sum("flip_crop  adamw" in line for line in lines) == 10
    assert "On 30 test pictures that the search never saw: accuracy 0.8000" in text
    assert f"autotl predict '{folder}/model' photo.jpg" in text
    assert f"  {folder}/recipe.toml" in lines
    assert "report.html" not in text, "it is not there"


@pytest.mark.parametrize(
    ("study", "says"),
    [
        (FakeStore({}), "no winner"),
        (FakeStore(facts(), [trial(0, 0.5)]), "the search ended before its test"),
        (FakeStore(facts(data={}), [trial(0, 0.5)]), "no pictures were set aside"),
        (FakeStore(facts(), [trial(0, 0.5)], [opening(0)]), "(95 % interval 0.7500 to 0.8500)"),
    ],
)
def test_the_summary_says_why_something_is_missing(
    study: FakeStore, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(summary_lines(study, tmp_path, capsys))
    assert says in text
    assert "predict" not in text, "there is no model"


def test_on_80_columns_the_table_shows_whole_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = live._console

    def narrow(stream: TextIO) -> Console:
        console = plain(stream)
        console.width = 80
        return console

    monkeypatch.setattr(live, "_console", narrow)
    lines = summary_lines(demo(), tmp_path, capsys)
    assert max(map(len, lines[:23])) <= 80
    assert lines[1].split() == ["rank", "trial", "accuracy", "epochs", "seconds", "recipe"]
    assert "…" not in "".join(lines)
    assert sum("tf_efficientnet_lite0" in line for line in lines[:23]) == 10


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([0.5], "▁"), ([0.5, 0.5], "▁▁"), ([0, float("nan"), 1], "▁ █")],
)
def test_a_curve_is_drawn_from_any_numbers(values: list[float], drawn: str) -> None:
    assert live.spark(values) == drawn
