"""Out-of-fold predictions of several labels and of numbers, and what else follows a search."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import write_plugin
from PIL import Image
from selection_helpers import configure, open_store, read_facts, read_tests

from autotl import engine

COUNT = 60


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """Images whose halves are bright or dark: labels ``left;right``, and a large number."""
    folder = tmp_path / "photos"
    folder.mkdir()
    write_plugin(tmp_path)
    random = np.random.default_rng(0)
    rows = []
    for i in range(COUNT):
        bright = random.random(2) < 0.5
        pixels = random.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        pixels[:, :16] += np.uint8(150 * bright[0])
        pixels[:, 16:] += np.uint8(150 * bright[1])
        Image.fromarray(pixels).save(folder / f"{i}.png")
        names = [name for name, is_on in zip(("left", "right"), bright, strict=True) if is_on]
        rows.append((f"{i}.png", ";".join(names) or "(none)", f"{1e6 * pixels.mean():.1f}"))
    for column, name in ((1, "labels"), (2, "numbers")):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *((r[0], r[column]) for r in rows)])
    return tmp_path


def search(halves: Path, name: str, task: str) -> tuple[Any, Any, list[dict[str, str]]]:
    """Search with folds; return the settings, the result and the rows of the file."""
    options: dict[str, Any] = {"freeze": ["linear_probe"], "head": ["linear"], "trials": 2}
    settings = configure(halves, halves / "runs", **options, folds=2, task=task, epochs=2)
    settings = settings.model_copy(update={"data": str(halves / "photos" / f"{name}.csv")})
    result = engine.run(settings)
    with (result.folder / "out_of_fold.csv").open() as file:
        return settings, result, list(csv.DictReader(file))


def test_labels_are_decided_by_their_thresholds(halves: Path) -> None:
    settings, result, rows = search(halves, "labels", "multilabel")
    assert list(rows[0]) == ["name", "label", "fold", "predicted", "left", "right"]
    facts, [test] = read_facts(settings), read_tests(settings)
    assert facts.calibration
    thresholds = facts.calibration.thresholds
    assert len(thresholds) == 2
    for row in rows:
        names = set(row["predicted"].split(";")) - {"(none)"}
        assert names <= {"left", "right"}
    [first, _] = test.result.per_class
    assert first["class"] == "left"
    assert first["threshold"] == pytest.approx(thresholds[0])
    assert set(test.result.at_thresholds) == {"micro_f1", "subset_accuracy"}
    assert result.summary["test"]["balanced_accuracy"] is None
    assert result.summary["test"]["at_thresholds"] == test.result.at_thresholds
    card = (result.folder / "model" / "README.md").read_text()
    assert "A model that predicts 2 labels of each image" in card
    assert "| label | threshold | test images | precision | recall | F1 |" in card
    with open_store(settings) as store:
        for image in store.images(settings.name, test.id):
            assert image.truth != image.guess
            assert image.probability is None
    report = (result.folder / "report.html").read_text()
    assert "Test split by label" in report
    assert "most frequent class" not in report


def test_a_number_keeps_its_precision(halves: Path) -> None:
    settings, result, rows = search(halves, "numbers", "regression")
    assert list(rows[0]) == ["name", "label", "fold", "predicted"]
    errors = [abs(float(row["label"]) - float(row["predicted"])) for row in rows]
    assert np.mean(errors) > 65504  # more than float16 holds
    facts, [test] = read_facts(settings), read_tests(settings)
    assert (facts.metric, facts.metric_has_unit, facts.score_decimals) == ("mae", True, 0)
    if result.summary["best"]["kind"] == "trial":
        mean = result.summary["best"]["validation"]["mean"]
        assert mean == pytest.approx(np.mean(errors), rel=1e-4)
    assert test.result.per_class[0]["mae"] == pytest.approx(test.result.score)
    assert len(test.result.scatter) == test.result.n
    with open_store(settings) as store:
        images = store.images(settings.name, test.id)
        for trial in store.trials(settings.name):
            assert trial.contribution_of_units.mean() == pytest.approx(trial.score, rel=1e-4)
    assert all(re.match(r"[\d.]+e\+0[78] \([+-]", image.guess) for image in images)
    card = (result.folder / "model" / "README.md").read_text()
    assert "A model that predicts a number for each image" in card
    report = (result.folder / "report.html").read_text()
    assert "Predicted and true numbers" in report
    assert "class" not in result.summary["baselines"]["majority_class"]["name"]
