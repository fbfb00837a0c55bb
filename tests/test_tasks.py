"""Each task through a whole small search, for images and for another kind of input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from images import FAST, write_plugin

import autotl

SERIES = Path(__file__).parents[1] / "plugins" / "examples" / "autotl_series.py"

SOURCES = '''
"""Examples whose brightness or frequency tells a class, several labels or numbers."""
import numpy as np
from autotl import Example, dataset

def label_of(task, level, random):
    if task == "regression":
        return {"level": float(level), "twice": float(2 * level + random.normal(0, 0.02))}
    if task == "multilabel":
        return [n for n, present in (("high", level > 0.6), ("odd", int(level * 5) % 2)) if present]
    return str(1 + int(level * 3))

def examples(source, make):
    random, task = np.random.default_rng(0), source.partition(":")[2]
    levels = random.uniform(0, 1, 140)
    return [Example(str(i), make(level, random), label_of(task, level, random))
            for i, level in enumerate(levels)]

@dataset(matches=["bright:*"])
def bright(source):
    """Images of a brightness."""
    return examples(source, lambda level, random: np.clip(
        40 + 180 * level + random.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8))

@dataset(input="series", matches=["waves:*"])
def waves(source):
    """Waves of a frequency."""
    time = np.linspace(0, 6, 60)
    return examples(source, lambda level, random: np.sin((1 + 6 * level) * time)
                    + random.normal(0, 0.1, 60))
'''

KINDS = ("bright", "waves")
TASKS = ("multilabel", "ordinal", "regression")


class Search:
    """A finished search, and the plugin files that it needs."""

    def __init__(self, kind: str, task: str, folder: Path) -> None:
        self.kind, self.task, self.folder = kind, task, folder
        (folder / "sources.py").write_text(SOURCES)
        self.plugin = [write_plugin(folder) if kind == "bright" else SERIES, folder / "sources.py"]
        backbone = {"backbone": ["tiny"]} if kind == "bright" else {}
        options: dict[str, Any] = {
            **FAST,
            **backbone,
            "task": task if task == "ordinal" else "auto",
        }
        self.result = autotl.search(
            f"{kind}:{task}",
            plugin=self.plugin,
            out=folder / "runs",
            study="s",
            trials=5,
            **options,
        )
        self.summary = self.result.summary
        self.model = self.result.folder / "model"


@pytest.fixture(scope="module", params=[(k, t) for k in KINDS for t in TASKS], ids="-".join)
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Search:
    kind, task = request.param
    return Search(kind, task, tmp_path_factory.mktemp(f"{kind}-{task}"))


def test_the_winner_is_better_than_a_constant(searched: Search) -> None:
    summary = searched.summary
    metrics = {"multilabel": "mean_average_precision", "regression": "mae"}
    assert summary["metric"] == metrics.get(searched.task, "quadratic_kappa")
    assert summary["data"]["task"] == searched.task
    test = summary["test"]
    assert test["low"] <= test["score"] <= test["high"]
    assert test["majority_class"]["is_beaten"]
    assert len(summary["contenders"]) > 1


def test_the_report_and_the_card_are_of_the_task(searched: Search) -> None:
    page = (searched.result.folder / "report.html").read_text()
    card = (searched.model / "README.md").read_text()
    if searched.task == "regression":
        assert "most frequent class" not in page + card
        assert "Confusion" not in page
        assert "level" in page
        assert "interval" in card
    if searched.task == "multilabel":
        assert "most frequent class" not in page + card
        assert "high" in page
        assert "odd" in card


def test_predictions_are_of_the_task(searched: Search) -> None:
    loaded = autotl.load(searched.model, plugin=searched.plugin)
    random = np.random.default_rng(5)
    levels = [0.1, 0.5, 0.9]
    if searched.kind == "bright":
        noise = random.normal(0, 12, (3, 32, 32, 3))
        pixels = 40 + 180 * np.array(levels)[:, None, None, None] + noise
        items: Any = list(np.clip(pixels, 0, 255).astype(np.uint8))
    else:
        time = np.linspace(0, 6, 60)
        items = [np.sin((1 + 6 * level) * time) for level in levels]
    predicted = loaded.predict(items)
    if searched.task == "regression":
        values = [p["prediction"]["level"] for p in predicted]
        assert values == sorted(values)
        for p in predicted:
            assert p["low"]["level"] < p["prediction"]["level"] < p["high"]["level"]
    elif searched.task == "multilabel":
        assert "high" in predicted[2]["prediction"]
        assert "high" not in predicted[0]["prediction"]
        assert 0 <= predicted[0]["probabilities"]["odd"] <= 1
    else:
        expected = [p["prediction"] if "prediction" in p else max(p, key=p.get) for p in predicted]
        assert expected[0] < expected[2]


def test_the_model_is_evaluated_and_exported(searched: Search, tmp_path: Path) -> None:
    plugins = [option for file in searched.plugin for option in ("--plugin", str(file))]
    source = f"{searched.kind}:{searched.task}"
    done = run("evaluate", str(searched.model), source, "--format", "json", *plugins)
    assert done.exit_code == 0, done.stderr
    scores = json.loads(done.stdout)["metrics"]
    assert searched.summary["metric"] in scores
    assert all(s["score"] is None or s["low"] <= s["score"] <= s["high"] for s in scores.values())
    pytest.importorskip("onnxruntime")
    options = ["--to", "onnx", "--out", str(tmp_path / "model.onnx"), "--format", "json"]
    done = run("export", str(searched.model), *options, *plugins)
    assert done.exit_code == 0, done.stderr


def test_the_recipe_makes_the_model_again(searched: Search) -> None:
    folder = searched.result.folder
    done = run("train", str(folder / "recipe.toml"), "--out", str(searched.folder / "again"), "-q")
    assert done.exit_code == 0, done.stderr
    [summary] = (searched.folder / "again").glob("*/summary.json")
    again = json.loads(summary.read_text())
    assert again["metric"] == searched.summary["metric"]
    assert again["data"]["task"] == searched.task


def test_a_study_goes_on_with_its_task(searched: Search) -> None:
    plugins = [option for file in searched.plugin for option in ("--plugin", str(file))]
    given = ["--trials", "6", "--study", "s", "--out", str(searched.folder / "runs"), "-q"]
    done = run("search", f"{searched.kind}:{searched.task}", *plugins, *given)
    assert done.exit_code == 0, done.stderr
    summary = json.loads((searched.result.folder / "summary.json").read_text())
    assert sum(summary["trials"].values()) == 6
    other = run(
        "search", f"{searched.kind}:{searched.task}", *plugins, *given, "--task", "classification"
    )
    assert other.exit_code == 1
    assert "task=" in other.stderr
