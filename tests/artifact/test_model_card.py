"""The model card: it has the given results, and text from users cannot become Markdown or HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from autotl.artifact import model_card

CONFIG: dict[str, Any] = {
    "classes": ["a", "b"],
    "input": {"size": 64, "interpolation": "bicubic"},
    "temperature": 1.25,
    "data": {"source": "my photos", "fingerprint": "0123456789abcdef0123"},
    "weights": {"backbone": "test_resnet", "origin": "hub timm/x", "licence": "apache-2.0"},
    "training": {"freeze": {"lora": {"lr": 0.0012345678}}, "epochs": 7, "validation": None},
    "versions": {"torch": "2.9"},
    "standalone_code": {
        "imports": "", "definitions": "", "backbone": "BACKBONE", "head": "HEAD", "features": "x",
    },
}  # fmt: skip

RESULTS: dict[str, Any] = {
    "metric": "accuracy",
    "images": {"train": 600, "validation": 150, "test": 200},
    "validation": {"score": 0.91, "low": 0.88, "high": 0.94, "n": 150},
    "selection": {"repeats": 5, "mean": 0.8765, "low": 0.8543, "high": 0.8987},
    "optimism": 0.0123,
    "calibration": {"temperature": 1.25, "ece_before": 0.07, "ece_after": 0.02, "n": 750},
    "test": {
        "score": 0.8812, "low": 0.8432, "high": 0.9101, "n": 200,
        "per_class": [
            {"class": "a", "n": 120, "score": 0.75},
            {"class": "b", "n": 0, "score": None},
        ],
    },
    "refitted": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "passage",
    [
        "An image classifier with 2 classes, trained with AutoTL:\n`a`, `b`.",
        "| evaluated on | images | accuracy | 95 % interval |",
        "| test split, not used by the search | 200 | 0.8812 | 0.8432 to 0.9101 |",
        "| final selection: mean of 5 train/validation resamples | | 0.8765 | 0.8543 to 0.8987 |",
        "| validation split, used to select the model | 150 | 0.9100 | 0.8800 to 0.9400 |",
        "it is better than the mean of the final selection by 0.0123.",
        "divided by a temperature of 1.25. On 750 images",
        "from\n0.0700 to 0.0200.\n",
        "| `a` | 120 | 0.750 |",
        "| `b` | 0 |  |",
        "`my photos` (600 train, 150 validation, 200 test images), fingerprint\n"
        "`0123456789abcdef`.",
        "resized to 64 x 64 pixels\n(bicubic)",
        "from `hub timm/x`,\nlicence `apache-2.0`",
        "trained on the training and validation splits",
        "| freeze | `lora(lr=0.001235)` |",
        "| epochs | `7` |",
        "torch 2.9",
        "backbone = BACKBONE\nhead = HEAD\n",
    ],
)
def test_the_card_has_the_results_and_the_recipe(passage: str) -> None:
    assert passage in model_card.render(CONFIG, "pets", RESULTS)


def test_the_card_has_its_sections_in_order() -> None:
    text = model_card.render(CONFIG, "pets", RESULTS)
    assert text.startswith("# `pets`\n")
    assert re.findall("^## (.*)", text, re.M) == [
        "Usage", "Evaluation", "Intended use", "Preprocessing", "Training",
    ]  # fmt: skip
    assert "not evaluated" not in text
    assert "| validation | `None`" not in text, "settings that are None are left out"
    assert "\n\n\n" not in text.replace(model_card.standalone.OPEN_IMAGE, "").split("```\n")[-1]


def test_without_results_the_card_says_so() -> None:
    text = model_card.render({**CONFIG, "temperature": None}, "pets")
    assert "The model was not evaluated on a test split." in text
    assert "The probabilities are not calibrated." in text
    assert "trained on the training and validation splits" not in text


def test_a_temperature_of_1_is_explained() -> None:
    text = model_card.render({**CONFIG, "temperature": 1.0}, "pets")
    assert "temperature scaling did not improve them on held-out images" in text


@pytest.mark.parametrize(
    ("kind", "passage"),
    [
        (
            "ensemble",
            "The model is an ensemble: the weighted mean of the probabilities of 2 models",
        ),
        ("soup", "its weights are the mean of the weights of 2 models"),
    ],
)
def test_a_combined_model_has_the_recipe_of_each_member(kind: str, passage: str) -> None:
    members = [
        {"name": f"trial {i}", "weight": w, "training": {"epochs": i}}
        for i, w in ((3, 0.75), (5, 0.25))
    ]
    config = {**CONFIG, "combination": {"kind": kind, "members": members}}
    text = model_card.render(config, "pets")
    assert passage in text
    for i, weight in ((3, 0.75), (5, 0.25)):
        table = f"| trial {i}, weight {weight} | value |\n|---|---|\n| epochs | `{i}` |\n"
        assert table in text


def test_a_score_without_an_interval_leaves_its_cell_empty() -> None:
    result = {"score": 0.5, "low": None, "high": None, "n": 9}
    results = {"validation": result, "test": {**result, "score": None}}
    text = model_card.render(CONFIG, "pets", results)
    assert "| 9 | 0.5000 |  |" in text
    assert "| 9 | |  |" in text


def test_a_model_without_standalone_code_is_loaded_with_its_plugin_files() -> None:
    plugins = {"backbone": "file own plugins.py sha256:12ab", "head": "autotl 0.1.0"}
    config = {**CONFIG, "plugins": plugins}
    del config["standalone_code"]
    text = model_card.render(config, "pets")
    assert "saved by an older version of autotl" in text
    assert 'model = autotl.load(".", plugin=["own plugins.py"])' in text
    assert "autotl predict . photo.jpg --plugin 'own plugins.py'" in text


def test_a_written_card_replaces_the_older_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "README.md").write_text("old")
    model_card.write(tmp_path, "pets", RESULTS)
    text = (tmp_path / "README.md").read_text()
    assert text == model_card.render(CONFIG, "pets", RESULTS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["README.md", "config.json"]


HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "# x\n\n- y",
    "`tick``",
    "[l](javascript:x)",
    "\x1b[31m",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_users_are_quoted(name: str) -> None:
    config = {"classes": [name, "other"], "input": {"size": 8, "interpolation": "bicubic"}}
    config |= {"data": {"source": name, "fingerprint": "f"}}
    test = {**RESULTS["test"], "per_class": [{"class": name, "n": 1, "score": 1.0}]}
    text = model_card.render(config, name, {**RESULTS, "test": test})
    assert "\x1b" not in text
    [row] = [line for line in text.splitlines() if line.endswith("| 1 | 1.000 |")]
    assert len(re.split(r"(?<!\\)\|", row)) == 5, "one row of three cells"
    without_code = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
    for unquoted in ("<script", "](java", "- y", "tick"):
        assert unquoted not in without_code


def test_the_table_of_many_classes_is_truncated_with_a_note() -> None:
    names = [f"c{i}" for i in range(model_card.MAX_ROWS + 1)]
    config = {"classes": names, "input": {"size": 8, "interpolation": "bicubic"}}
    config |= {"data": {"source": "photos", "fingerprint": "f"}}
    rows = [{"class": name, "n": 1, "score": 1.0} for name in names]
    text = model_card.render(
        config, "birds", {**RESULTS, "test": {**RESULTS["test"], "per_class": rows}}
    )
    assert text.count("| 1 | 1.000 |") == model_card.MAX_ROWS
    assert "`c199` and 1 more." in text
    assert f"the first {model_card.MAX_ROWS} of {model_card.MAX_ROWS + 1} classes" in text


def test_a_code_block_cannot_be_ended_by_its_text() -> None:
    text = model_card.code_block('x = """\n```\n"""')
    assert text.startswith("````python\n")
    assert text.endswith("\n````")


def test_the_scale_of_deep_images_is_stated() -> None:
    text = model_card.render({**CONFIG, "scales": {"TIFF integer": [0, 4095.0]}}, "pets")
    assert "- `TIFF integer`: 0 is black, 4095 is white." in text
    assert "more than 8 bits" not in model_card.render({**CONFIG, "scales": {}}, "pets")


# ---------------------------------------------------------------- other tasks


def describe_task(**words: object) -> dict[str, object]:
    standard = {"noun": "label", "nouns": "labels", "score_noun": "F1"}
    standard |= {"has_classes": False, "has_probabilities": True}
    return {**standard, **words}


def test_labels_have_their_thresholds_and_scores() -> None:
    scores = {"precision": 0.5, "recall": None, "score": 0.25}
    results = {
        "task": describe_task(),
        "calibration": {"temperature": 0.8, "thresholds": [0.3, 0.5], "n": 90},
        "test": {"score": 0.5, "n": 9, "per_class": [{"class": "a", "n": 4, **scores}]},
    }
    text = model_card.render(CONFIG, "pets", results)
    assert "A model that predicts 2 labels of each image, trained with AutoTL:\n`a`, `b`." in text
    assert "| label | threshold | test images | precision | recall | F1 |" in text
    assert "| `a` | 0.300 | 4 | 0.500 |  | 0.250 |" in text
    assert "| `b` | 0.500 |  |  |  |  |" in text
    assert "may predict any of its labels" in text
    assert "class" not in text.split("## Evaluation")[1]


def test_numbers_have_their_interval_and_errors() -> None:
    results = {
        "metric": "mae",
        "decimals": 1,
        "task": describe_task(
            noun="number", nouns="numbers", score_noun="R²", has_probabilities=False
        ),
        "calibration": {"half_widths": [12.5], "level": 0.95, "coverage": 0.948, "n": 90},
        "test": {
            "score": 123.456, "low": 100.0, "high": 150.0, "n": 9,
            "per_class": [{"class": "value", "n": 9, "mae": 123.4, "rmse": 150, "score": 0.9}],
        },
    }  # fmt: skip
    constants = {"mean": [1000.0], "std": [250.0]}
    config = {**CONFIG, "classes": ["value"], "task": {"constants": constants}, "temperature": 1.0}
    text = model_card.render(config, "pets", results)
    assert "A model that predicts a number for each image, trained with AutoTL.\n" in text
    assert "| 9 | 123.5 | 100.0 to 150.0 |" in text
    assert "| number | mean | std | interval | test images | MAE | RMSE | R² |" in text
    assert "| `value` | 1000 | 250 | ± 12.5 | 9 | 123.4 | 150 | 0.900 |" in text
    assert (
        "95 % of the true numbers. In a cross-validation on\n90 images they contained 94.8 %"
        in text
    )
    assert "\n\n\n" not in text.split("## Evaluation")[1]
    for word in ("probabilities", "class"):
        assert word not in text.split("## Evaluation")[1]
    results["calibration"] = None  # type: ignore[assignment]
    assert "Predictions have no intervals." in model_card.render(config, "pets", results)


def test_a_student_is_shown_with_its_teacher_and_without() -> None:
    teacher = {"name": "ensemble", "parameters": 4_900_000, "temperature": 2.0, "weight": 0.9}
    interval = {"mean": 0.9, "low": 0.85, "high": 0.94}
    scores = {"n": 120, "teacher": interval, "student": interval, "alone": interval}
    text = model_card.render({**CONFIG, "teacher": teacher}, "x", {"student": scores})
    assert "of ensemble, a larger model with 4,900,000 parameters, at a temperature of 2." in text
    assert "| the same model, trained on the labels alone | 0.9000 | 0.8500 to 0.9400 |" in text
    assert "student" not in model_card.render(CONFIG, "x", RESULTS)
