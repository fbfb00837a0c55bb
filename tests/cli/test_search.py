"""The ``search`` and ``train`` commands, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from command_line import FAST_OPTIONS, run
from images import write_images, write_plugin

from autotl.cli import progress_view
from autotl.events import Event, TrialFinished
from autotl.store import Store


def test_search_prints_trials_result_and_next_steps(search_result: tuple[Path, Result]) -> None:
    folder, result = search_result
    assert "\x1b" not in result.stdout
    assert len([x for x in result.stdout.splitlines() if x.startswith("trial ")]) == 3
    assert f"runs/photos/model photo.jpg --plugin {folder / 'tiny_plugin.py'}" in result.stdout
    assert "measured on 12 images that the search did not use" in result.stdout
    assert "Continue:  repeat the same command" in result.stdout


def test_quiet_prints_nothing(searched: Path) -> None:
    result = run(
        "search", searched / "photos", "--trials", "3", "--backbone", "tiny", "--quiet",
        "--plugin", searched / "tiny_plugin.py", "--out", searched / "runs", *FAST_OPTIONS,
    )  # fmt: skip
    assert (result.exit_code, result.output) == (0, "")


def test_train_retrains_the_recipe(searched: Path) -> None:
    result = run(
        "train", searched / "runs/photos/recipe.toml", "--out", searched / "runs",
        "--study", "retrained",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first = json.loads((searched / "runs/photos/summary.json").read_text())
    second = json.loads((searched / "runs/retrained/summary.json").read_text())
    assert second["best"]["config"] == first["best"]["config"]


def test_ctrl_c_saves_the_results_and_exits_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos")
    show_event = progress_view._Lines.__call__

    def interrupt_after_trial_3(view: progress_view._Lines, event: Event) -> None:
        show_event(view, event)
        if isinstance(event, TrialFinished) and event.number == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress_view._Lines, "__call__", interrupt_after_trial_3)
    result = run(
        "search", tmp_path / "photos", "--trials", "500", "--backbone", "tiny",
        "--plugin", write_plugin(tmp_path), "--out", tmp_path / "runs", *FAST_OPTIONS,
    )  # fmt: skip
    assert result.exit_code == 130, result.output
    assert "Traceback" not in result.output
    assert "repeat the command to continue" in result.stderr
    summary = json.loads((tmp_path / "runs/photos/summary.json").read_text())
    assert summary["trials"]["complete"] >= 3
    assert summary["test"] is None
    assert (tmp_path / "runs/photos/model/config.json").exists()
    with closing(sqlite3.connect(tmp_path / "runs/autotl.db")) as database:
        [mode] = database.execute("PRAGMA journal_mode").fetchone()
    assert mode == "delete", "the study is one file, which can be read in a read-only folder"
    # A later study of this name without a result does not present that model as its own.
    store = Store(f"sqlite:///{tmp_path}/runs/autotl.db")
    store.delete("photos")
    store.begin_study("photos")
    output = run("report", "photos", "--out", tmp_path / "runs").stdout
    assert "report.html" in output
    assert "model" not in output
