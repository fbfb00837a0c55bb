"""The schema of a model folder's config.json: what is damaged is named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autotl.artifact import model_config
from autotl.errors import ArtifactError

VALID: dict[str, Any] = {
    "schema": 1,
    "backbone": {"tiny": {}},
    "head": {"linear": {"dropout": 0.1}},
    "plugins": {"backbone": "file tiny.py", "head": "autotl 0.1.0"},
    "input": {"size": 40, "mean": [0.5, 0, 1], "std": [0.5, 0.2, 1], "interpolation": "bicubic"},
    "classes": ["a", "b"],
    "temperature": 1.5,
    "data": {"source": "photos", "fingerprint": "abc"},
}


def write(folder: Path, content: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def changed(path: str, value: Any) -> dict[str, Any]:
    """``VALID`` with another value at a path such as ``input.size``."""
    content: dict[str, Any] = json.loads(json.dumps(VALID))
    *parents, last = path.split(".")
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return content


def test_a_valid_file_is_returned_as_it_is(tmp_path: Path) -> None:
    assert model_config.read(write(tmp_path, VALID)) == VALID
    newer = {**VALID, "later": {"key": 1}}
    assert model_config.read(write(tmp_path, newer)) == newer
    member = {key: VALID[key] for key in ("backbone", "head", "plugins", "input")}
    ensemble = {**VALID, "members": [member, member], "temperature": None}
    assert model_config.read(write(tmp_path, ensemble)) == ensemble
    task = {"name": "regression", "constants": {"mean": [0.5], "std": [2]}}
    calibration = {"half_widths": [3.5], "level": 0.95, "coverage": 0.9, "n": 99}
    numbers = {**VALID, "task": task, "classes": ["value"], "calibration": calibration}
    assert model_config.read(write(tmp_path, numbers)) == numbers
    calibration = {"ece_before": 0.1, "ece_after": 0.05, "bins": 15, "n": 99}
    classes = {**VALID, "calibration": calibration}
    assert model_config.read(write(tmp_path, classes)) == classes


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("temperature", -1, "temperature = -1: should be greater than or equal to 0.001"),
        ("temperature", 0, "temperature = 0: should be"),
        ("temperature", 1e-300, "temperature = 1e-300: should be"),
        ("temperature", True, "temperature = True: should be a valid number"),
        ("input.std", [0, 0, 0], "input.std.0 = 0: should be greater"),
        ("input.std", [1, 1], "std should have one value, or one for each of 3 channels"),
        ("input.mean", [0.5, "0.5", 0.5], "input.mean.1 = '0.5': should be a valid number"),
        ("input.mean", [1e30, 0, 0], "input.mean.0 = 1e\\+30: should be less"),
        ("input.size", 10**9, "input.size = 1000000000: should be less than or equal to 2048"),
        ("input.size", 0, "input.size = 0"),
        ("input.size", 40.5, "input.size = 40.5"),
        ("input.interpolation", None, "input.interpolation = None"),
        ("input", None, "input = None: should be"),
        ("classes", ["a", "a"], "should not name a class twice"),
        ("classes", ["a"], "classes: List should have at least 2 items"),
        ("classes", ["a", 3], "classes.1 = 3: should be a valid string"),
        ("classes", ["a", ""], "classes.1 = ''"),
        ("classes", "ab", "classes = 'ab': should be a valid list"),
        ("head", {"linear": {}, "mlp": {}}, "head: Dictionary should have at most 1 item"),
        ("head", {}, "head: Dictionary should have at least 1 item"),
        ("backbone", {"tiny": {"image_size": 64}}, "is not the size of the input"),
        ("members", [{}], "'members.0.backbone' is missing"),
        ("data", {"source": "a\0b"}, "data.source"),
        ("data", None, "data = None"),
        ("task", "regression", "task = 'regression': should be"),
        ("task", {}, "'task.name' is missing"),
        ("task", {"name": ""}, "task.name = ''"),
        ("task", {"name": "regression", "constants": []}, "task.constants: should be"),
        ("calibration", None, "calibration = None: should be"),
        ("calibration", {"thresholds": [0.5]}, "thresholds has 1 numbers, one for each class is 2"),
        ("calibration", {"thresholds": [0.5, 2]}, "calibration.thresholds.1 = 2: should be less"),
        ("calibration", {"thresholds": [0.5, "1"]}, "calibration.thresholds.1 = '1': should be"),
        ("calibration", {"thresholds": 0.5}, "calibration.thresholds = 0.5: should be a valid"),
        ("calibration", {"half_widths": [1.0, -1]}, "calibration.half_widths.1 = -1: should be"),
        ("calibration", {"half_widths": [1, 2, 3]}, "half_widths has 3 numbers"),
        ("calibration", {"level": 95}, "calibration.level = 95: should be less"),
        ("schema", "1", "schema = '1'"),
        ("schema", 0, "schema = 0"),
        ("schema", 2, "another version of autotl"),
    ],
)
def test_the_entry_that_is_damaged_is_named(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        model_config.read(write(tmp_path, changed(path, value)))
    assert "\n" not in str(caught.value)


def test_the_input_of_an_ensemble_is_that_of_its_largest_member(tmp_path: Path) -> None:
    member = {key: VALID[key] for key in ("backbone", "head", "plugins", "input")}
    small = {**member, "input": {**VALID["input"], "size": 32}}
    model_config.read(write(tmp_path, {**VALID, "members": [small, member]}))
    large = {**member, "input": {**VALID["input"], "size": 64}}
    with pytest.raises(ArtifactError, match="not the largest one of the members"):
        model_config.read(write(tmp_path, {**VALID, "members": [member, large]}))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"schema": NaN}', '{"schema": %s}' % ("9" * 5000), "[]", "null", "1"],
    ids=["empty", "torn", "deep", "nan", "digits", "list", "null", "number"],
)
def test_what_is_not_a_json_object_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"is damaged: config\.json") as caught:
        model_config.read(tmp_path)
    assert len(str(caught.value)) < 500


def test_bytes_that_are_not_utf_8_are_damage(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="is damaged"):
        model_config.read(tmp_path)


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_damage(tmp_path: Path, value: str) -> None:
    text = json.dumps({**VALID, "calibration": {"half_widths": [1, 12345]}})
    (tmp_path / "config.json").write_text(text.replace("12345", value))
    with pytest.raises(ArtifactError, match=r"config\.json: calibration\.half_widths\.1"):
        model_config.read(tmp_path)
