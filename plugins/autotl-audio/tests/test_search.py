"""A whole search on synthetic recordings, and everything after it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from autotl_audio.spectrogram import read_samples
from autotl_audio.synthetic import write_sounds

import autotl

CLASSES = ("bell", "even", "rising")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings to train on, of which one is broken and five have wrong labels, and new ones."""
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder / "data", 20, 0, CLASSES)
    for i in range(0, 20, 4):  # mistakes of any model, which the report plays
        [file] = (folder / "data" / "even").glob(f"{i}.*")
        file.rename(folder / "data" / "bell" / f"even-{file.name}")
    (folder / "data" / "even" / "broken.wav").write_bytes(b"RIFF")
    write_sounds(folder / "new", 6, 1, CLASSES)
    return folder


@pytest.fixture(scope="module")
def study(folder: Path) -> Any:
    """A search of one model, a linear probe."""
    return autotl.search(
        folder / "data",
        out=folder / "runs",
        device="cpu",
        backbone=["tf_efficientnet_lite0"],
        image_size=[64],
        freeze=["linear_probe"],
        trials=1,
        epochs=8,
    )


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autotl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_search_on_recordings_finds_a_good_model(study: Any) -> None:
    assert study.summary["test"]["score"] > 0.6
    assert study.summary["data"]["nouns"] == "recordings"
    assert study.summary["data"]["skipped"] == 1
    config = json.loads((study.folder / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["kind"] == "sound"
    low, seconds = config["scales"]["seconds"]
    assert low == 0
    assert 1.1 < seconds < 1.2
    issues = (study.folder / "issues.csv").read_text(encoding="utf-8")
    assert "even/broken.wav,not a sound that can be read" in issues


def test_the_model_predicts_files_folders_and_samples(study: Any, folder: Path) -> None:
    model = autotl.load(study.folder / "model")
    files = sorted((folder / "new" / "rising").glob("*"))
    guesses = [max(p, key=lambda name: p[name]) for p in model.predict(files)]
    assert guesses.count("rising") > 0.8 * len(guesses)
    samples = [read_samples(file) for file in files]  # also without a file
    np.testing.assert_allclose(model.predict_items(samples), model.predict_items(files), atol=1e-5)
    done = run("predict", study.folder / "model", folder / "new" / "bell", "missing.wav")
    assert done.returncode == 1
    assert "no file or folder 'missing.wav'" in done.stderr
    assert len(done.stdout.splitlines()) == 6


def test_the_model_is_evaluated(study: Any, folder: Path) -> None:
    done = run("evaluate", study.folder / "model", folder / "new")
    assert done.returncode == 0, done.stderr
    assert "18 recordings" in done.stdout


def test_the_report_plays_recordings(study: Any) -> None:
    """The wrong labels are among the mistakes of the model, or among the doubtful labels."""
    report = (study.folder / "report.html").read_text(encoding="utf-8")
    assert "<audio" in report
    assert "data:audio/wav;base64," in report
