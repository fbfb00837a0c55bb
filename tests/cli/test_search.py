"""The ``search`` and ``train`` commands, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from click.testing import Result
from command_line import FAST_OPTIONS, run
from images import write_images, write_plugin

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


def test_ctrl_c_saves_the_results_and_exits_with_130(tmp_path: Path) -> None:
    write_images(tmp_path / "photos")
    command = [
        sys.executable, "-m", "autotl", "search", "photos", "--trials", "500",
        "--backbone", "tiny", "--plugin", str(write_plugin(tmp_path)), *FAST_OPTIONS,
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("trial 3"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "repeat the command to continue" in errors
    summary = json.loads((tmp_path / "runs/photos/summary.json").read_text())
    assert summary["trials"]["complete"] >= 3
    assert summary["test"] is None
    assert (tmp_path / "runs/photos/model/config.json").exists()
    # A later study of this name without a result does not present that model as its own.
    store = Store(f"sqlite:///{tmp_path}/runs/autotl.db")
    store.delete("photos")
    store.begin("photos", {})
    output = run("report", "photos", "--out", tmp_path / "runs").stdout
    assert "report.html" in output
    assert "model" not in output
