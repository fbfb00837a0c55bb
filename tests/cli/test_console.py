"""The results on the terminal: the summary of a search, and the table of all trials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import example_study
import pytest
from example_study import HOSTILE, add_trial, config, facts
from rich.console import Console

from autotl.cli import console as terminal
from autotl.report import summarise, top
from autotl.store import DataFacts, Store

ESCAPE = "\x1b[31mred.jpg"
"""A file name with a control sequence."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = example_study.opened(tmp_path)
    yield store
    store.close()


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A study with a final selection, and with more trials than the leaderboard shows."""
    store = example_study.opened(tmp_path_factory.mktemp("birds"))
    example_study.write(store, 14)
    yield store
    store.close()


def summary_lines(store: Store, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    terminal.show_summary(summarise(store, "birds"), str(folder), top(store, "birds"))
    return capsys.readouterr().out.splitlines()


def test_the_summary_has_tables_the_result_and_next_steps(
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
    assert "Final selection: the best trials and the baselines, retrained in 3 repeats" in text
    columns = "contender accuracy 95 % interval in the search backbone freeze head augment"
    [table] = [line for line in lines if line.split()[:1] in (["contender"], ["rank"])]
    assert table.split() == [*columns.split(), "optimizer"], "there is one ranking"
    best = summarise(birds, "birds")["contenders"][0]
    assert f"{best['low']:.4f} to {best['high']:.4f}" in text
    assert sum("  winner  " in line for line in lines) == 1
    assert "trial 1, default recipe" in text
    assert "Its accuracy on the test split is 0.9222" in text
    assert f"autotl predict '{folder}/model' photo.jpg" in text
    assert f"  {folder}/recipe.toml" in lines
    assert f"  {folder}/summary.json" in lines
    assert "report.html" not in text, "the file does not exist"


@pytest.mark.parametrize(
    ("study_facts", "scores", "message"),
    [
        ({}, [], "no winner"),
        (facts(), [0.5], "the search ended before the test"),
        (facts(data=DataFacts()), [0.5], "no images were set aside"),
    ],
)
def test_the_summary_explains_what_is_missing(
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    study_facts: dict[str, Any],
    scores: list[float],
    message: str,
) -> None:
    store.begin_study("birds", **study_facts)
    for number, score in enumerate(scores):
        add_trial(store, number, score)
    text = "\n".join(summary_lines(store, tmp_path, capsys))
    assert message in text
    assert "predict" not in text, "there is no model"


def set_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Set the width of the terminal in columns."""
    open_console = terminal.open_console

    def open_with_width(stream: TextIO) -> Console:
        console = open_console(stream)
        console.width = width
        return console

    monkeypatch.setattr(terminal, "open_console", open_with_width)


def test_on_80_columns_the_table_shows_whole_names(
    birds: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_width(monkeypatch, 80)
    birds.update_study("birds", selection=None, model=None)
    lines = summary_lines(birds, tmp_path, capsys)
    table = lines[: next(i for i, line in enumerate(lines) if "The winner is" in line)]
    [head] = [line.split() for line in table if "rank" in line]
    assert head == ["rank", "trial", "accuracy", "epochs", "seconds", "recipe"]
    assert max(map(len, table[table.index(next(t for t in table if "rank" in t)) :])) <= 80
    assert "…" not in "".join(table)
    assert sum("flip_crop" in line for line in table) == 10


def test_trials_are_shown_with_status_and_reason(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin_study("birds", **facts())
    add_trial(store, 0, 0.9)
    add_trial(store, 1, None, "out_of_memory", reason=f"no room for {HOSTILE}\n{ESCAPE}")
    terminal.show_trials(store.study("birds"), store.trials("birds"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].split()[:5] == ["trial", "status", "accuracy", "epochs", "seconds"]
    assert lines[2].split()[:5] == ["0", "complete", "0.9000", "6", "12.3"]
    assert lines[3].startswith("     1  out of memory")
    assert lines[3].rstrip().endswith(f"adamw  no room for {HOSTILE} ?[31mred.jpg")
    assert lines[3] == lines[-1], "no costs, which trials measure by chance"

    set_width(monkeypatch, 200)
    add_trial(store, 2, 0.5, chosen=config(head="x" * 300))
    terminal.show_trials(store.study("birds"), store.trials("birds"))
    assert "x" * 300 in capsys.readouterr().out, "lines in a file are not wrapped"
