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


def evaluate_task(home: Path, name: str, *words: str | Path, table: str = "") -> Result:
    """Evaluate a model of ``tasks_home`` on its own table, or on one with these rows."""
    file = home / f"{name}.csv"
    if table:
        file = home / f"{name}-other.csv"
        rows = [f"photos/red/{i}.png,{label}" for i, label in enumerate(table.split())]
        file.write_text("\n".join(["file,label", *rows]))
    return run("evaluate", home / name, file, *words, "--plugin", home / "tiny_plugin.py")


def read_table(text: str, first: str) -> list[list[str]]:
    """Read the rows of the table whose header begins with ``first``."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    return [line.split() for line in lines[start : start + 4]]


def test_several_labels_are_scored_at_their_thresholds(tasks_home: Path) -> None:
    result = evaluate_task(tasks_home, "multilabel")
    assert result.exit_code == 0, result.stderr
    header, *rows = read_table(result.stdout, "label  ")
    assert header == ["label", "images", "threshold", "precision", "recall", "F1"]
    facts = json.loads(evaluate_task(tasks_home, "multilabel", "--format", "json").stdout)
    assert [row[0] for row in rows] == ["cat", "dog", "owl"]
    assert [row[2] for row in rows] == ["0.300", "0.500", "0.700"]
    assert [int(row[1]) for row in rows] == [6, 3, 6]
    predictor = model_folder.load(
        tasks_home / "multilabel", registry.load([tasks_home / "tiny_plugin.py"]), CPU
    )
    files = sorted((tasks_home / "photos").rglob("*.png"))
    found = ["cat" in described["prediction"] for described in predictor.predict(files)]
    cat = np.array([True, False, False, True] * 3)
    assert facts["per_class"][0]["recall"] == (cat & found).sum() / 6
    assert list(facts["metrics"]) == [
        "label_accuracy", "log_loss", "macro_f1", "mean_average_precision", "micro_f1",
        "subset_accuracy",
    ]  # fmt: skip
    assert "always the frequencies of the labels" in result.stdout
    assert f"micro_f1            {facts['at_thresholds']['micro_f1']:.4f}  at the" in result.stdout
    assert "ece" not in facts


def test_numbers_are_scored_with_the_coverage_of_their_intervals(tasks_home: Path) -> None:
    result = evaluate_task(tasks_home, "numbers")
    assert result.exit_code == 0, result.stderr
    header, x, y, legend = read_table(result.stdout, "number  ")
    assert header == ["number", "images", "mae", "rmse", "coverage", "R²"]
    assert legend[0] == "coverage:"
    predictor = model_folder.load(
        tasks_home / "numbers", registry.load([tasks_home / "tiny_plugin.py"]), CPU
    )
    rows = predictor.predict_items(sorted((tasks_home / "photos").rglob("*.png")))
    truth = np.array([[1, 300], [2, 500], [0, 100], [1.5, 250]] * 3)
    errors = np.abs(rows - truth)
    assert [float(row[2]) for row in (x, y)] == pytest.approx(errors.mean(0), rel=1e-4)
    assert float(x[4]) == pytest.approx((errors[:, 0] <= 0.5).mean(), rel=1e-4)
    assert float(y[4]) == pytest.approx((errors[:, 1] <= 40).mean(), rel=1e-4)
    facts = json.loads(evaluate_task(tasks_home, "numbers", "--format", "json").stdout)
    assert facts["metrics"]["mae"]["score"] == pytest.approx(errors.mean(), rel=1e-4)
    assert "always x=1.125;y=287.5" in result.stdout
    assert "scatter" not in facts


def test_ordered_classes_are_scored_as_classes(tasks_home: Path) -> None:
    result = evaluate_task(tasks_home, "ordinal")
    assert result.exit_code == 0, result.stderr
    assert "quadratic_kappa" in result.stdout
    assert "accuracy" in result.stdout
    assert read_table(result.stdout, "class  ")[1][:2] == ["1", "3"]
    assert "always 2" in result.stdout


@pytest.mark.parametrize(
    ("name", "table", "note"),
    [
        ("regression", "3 many", "left out: 1 images: the label 'many' is not a number"),
        ("regression", "3 1e99", "left out: 1 images: the label '1e99' is larger than 1e+18"),
        ("numbers", "x=1;y=2 x=1", "left out: 1 images: the label {'x': 1.0} has no number 'y'"),
        ("multilabel", "cat cat;fox", "left out: 1 images of 'fox', not a label of the model"),
        ("multilabel", "cat;dog (none)", "no image of 'owl': the scores do not cover these labels"),
        ("multilabel", "(none) cat", "no image of 'dog', 'owl': the scores do not cover these lab"),
    ],
)
def test_labels_that_the_task_cannot_use_are_explained(
    tasks_home: Path, name: str, table: str, note: str
) -> None:
    result = evaluate_task(tasks_home, name, table=table)
    assert result.exit_code == 0, result.stderr
    assert f"note: {note}" in result.stdout


def test_many_problems_with_labels_are_counted(tasks_home: Path) -> None:
    result = evaluate_task(tasks_home, "regression", table="1 a b c d")
    assert result.stdout.count("is not a number") == 4
    names = [f"{colour}/{i}" for colour in ("red", "blue") for i in range(4)]
    rows = ["file,label", "photos/red/0.png,1", *(f"photos/{name}.png,{name}" for name in names)]
    (tasks_home / "regression-many.csv").write_text("\n".join(rows))
    result = run(
        "evaluate", tasks_home / "regression", tasks_home / "regression-many.csv",
        "--plugin", tasks_home / "tiny_plugin.py",
    )  # fmt: skip
    assert result.stdout.count("is not a number") == 5
    assert "left out: 3 other images with labels that cannot be used" in result.stdout


def test_mistakes_with_tasks_are_reported_in_one_line(tasks_home: Path) -> None:
    for name, words, table, message in (
        ("regression", [], "many few", "the model can predict: the label 'many' is not a number"),
        ("multilabel", [], "fox", "its labels are 'cat', 'dog', 'owl', the labels are 'fox'"),
        ("regression", ["--metric", "f1"], "1 2", "there are mae, r2, rmse, spearman"),
        ("multilabel", ["--metric", "auroc"], "cat", "'auroc' does not suit multilabel"),
    ):
        result = evaluate_task(tasks_home, name, *words, table=table)
        assert result.exit_code == 1
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1
