"""The ``evaluate`` command, as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from command_line import run
from toy import CPU

from autotl.artifact import model_folder
from autotl.scoring import intervals, metrics
from autotl.space import registry

CLASSES = ["green", "red", "<b>blue|*"]
"""The classes of the model in ``home``."""


def evaluate(home: Path, *words: str | Path) -> Result:
    return run("evaluate", home / "model", *words, "--plugin", home / "tiny_plugin.py")


def test_scores_have_the_intervals_that_a_search_reports(home: Path) -> None:
    names = ["accuracy", "macro_f1", "log_loss"]
    options = [word for name in names for word in ("--metric", name)]
    result = evaluate(home, home / "photos", "--format", "json", *options)
    assert result.exit_code == 0, result.output
    evaluation = json.loads(result.stdout)
    loaded = model_folder.load(home / "model", registry.load([home / "tiny_plugin.py"]), CPU)
    files = [f for c in CLASSES for f in sorted((home / "photos" / c).iterdir())]
    rows = np.array([list(r.values()) for r in loaded.predict(files)], dtype=np.float32)
    labels = np.repeat(np.arange(3), 12)
    assert evaluation["n"] == 36
    expected = (rows.argmax(1) == labels).mean()
    assert 0.5 < expected < 1, "the model makes mistakes, as this test requires"
    accuracy = evaluation["metrics"]["accuracy"]
    assert accuracy["score"] == pytest.approx(expected)
    assert (accuracy["low"], accuracy["high"]) == intervals.wilson_interval(expected, 36)
    assert list(evaluation["metrics"]) == names
    for name, value in evaluation["metrics"].items():
        assert value["score"] == pytest.approx(metrics.get(name).score(labels, rows), abs=1e-5)
        assert value["low"] <= value["score"] <= value["high"]
    assert evaluation["confusion"][0][0] == (rows[:12].argmax(1) == 0).sum()
    by_class = {r["class"]: r for r in evaluation["per_class"]}
    assert by_class["green"]["n"] == 12
    assert by_class["green"]["recall"] == pytest.approx((rows[:12].argmax(1) == 0).mean())
    predicted_green = rows.argmax(1) == 0
    precision = (labels[predicted_green] == 0).mean()
    assert by_class["green"]["precision"] == pytest.approx(precision)
    assert 0 < evaluation["ece"] < 1
    assert any("was trained on some of these" in note for note in evaluation["notes"])


def test_labels_that_do_not_match_are_explained(home: Path, tmp_path: Path) -> None:
    for name, label in (("red", "red"), ("green", "gren"), ("green", "cat")):
        shutil.copytree(home / "photos" / name, tmp_path / "new" / label)
    (tmp_path / "new/red/torn.png").write_text("no image")
    result = evaluate(home, tmp_path / "new", "--metric", "accuracy", "--metric", "auroc")
    assert result.exit_code == 1, "one image could not be read"
    assert "torn.png: not an image" in result.stderr
    text = result.stdout
    assert text.startswith("12 images\n")
    assert "left out: 12 images of 'gren', not a class of the model; did you mean 'green'?" in text
    assert "left out: 12 images of 'cat'" in text
    assert f"no image of 'green', {CLASSES[2]!r}" in text
    assert "auroc               undefined" in text
    assert "log_loss" not in text
    assert "was trained on" not in text
    row = next(line for line in text.splitlines() if line.startswith("green"))
    assert row.split()[1:3] == ["0", "-"]


def test_one_split_is_scored(home: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("red", "green"):
            shutil.copytree(home / "photos" / name, tmp_path / "splits" / split / name)
    (tmp_path / "splits/test/red/0.png").unlink()
    result = evaluate(home, tmp_path / "splits", "--split", "test", "--metric", "accuracy")
    assert result.stdout.startswith("23 images\n")


def test_mistakes_are_reported_in_one_line(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "photos/red", tmp_path / "other_labels" / "cat")
    for words, message in (
        ([home / "photos", "--split", "test"], "has no split 'test'"),
        (
            [tmp_path / "other_labels"],
            "no image has a label that the model can predict: its classes are 'green'",
        ),
        ([home / "photos", "--metric", "acuracy"], "did you mean 'accuracy'?"),
        ([home / "fotos"], "did you mean 'photos'?"),
    ):
        result = evaluate(home, *words)
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_training_images_are_counted_wherever_they_are(searched: Path, tmp_path: Path) -> None:
    shutil.copytree(searched / "photos", tmp_path / "copies")
    model, plugin = searched / "runs/photos/model", searched / "tiny_plugin.py"
    options = ["--plugin", plugin, "--format", "json", "--metric", "accuracy"]
    result = run("evaluate", model, tmp_path / "copies", *options)
    digests = np.load(model / "training_images.npy")
    [note] = json.loads(result.stdout)["notes"]
    assert note.startswith(f"the model was trained on {len(digests)} of the 60 images")
