"""The ``export`` command, as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from command_line import run


def export(home: Path, *words: str | Path) -> Result:
    return run("export", home / "model", *words, "--plugin", home / "tiny_plugin.py")


def test_export_writes_the_file_and_prints_the_comparison(home: Path, tmp_path: Path) -> None:
    result = export(home, "--to", "torch-export")
    assert result.exit_code == 0, result.output
    assert (home / "model" / "model.pt2").is_file()
    first, *lines = result.stdout.splitlines()
    assert first.startswith(f"{home}/model/model.pt2  0.")
    assert "uint8 [batch, 3, 32, 32]" in lines[0]
    assert f"compared on 36 images ({home}/photos): the same class on 100.00%" in result.stdout
    assert "0.001 allowed" in result.stdout
    assert "only if you trust" in lines[-1]
    unlabelled = export(
        home, "--to", "torch-export", "--out", tmp_path / "x.pt2",
        "--data", home / "photos/red", "--format", "json",
    )  # fmt: skip
    facts = json.loads(unlabelled.stdout)
    assert (facts["num_images"], facts["accuracy"]) == (12, None), "a folder without labels"
    assert facts["file"] == str(tmp_path / "x.pt2")


def test_an_int8_export_prints_its_loss_of_accuracy(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    result = export(home, "--to", "onnx-int8", "--out", tmp_path / "small.onnx")
    assert result.exit_code == 0, result.output
    assert "compared on 18 images" in result.stdout
    assert "the model's is" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_export_without_the_training_data(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "model", tmp_path / "model")
    file = tmp_path / "model/config.json"
    facts: dict[str, Any] = json.loads(file.read_text())
    facts["data"]["source"] = str(tmp_path / "missing")
    file.write_text(json.dumps(facts))
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    words = ["export", tmp_path / "model", "--plugin", home / "tiny_plugin.py", "--to"]
    result = run(*words, "torch-export")
    assert result.exit_code == 0, result.output
    assert "64 images (made-up images, because the training data are not" in result.stdout
    for options, message in (
        (["onnx-int8"], "give images with --data"),
        (["torch-export", "--data", tmp_path / "nowhere"], "there is no file or folder"),
        (["torch-export", "--out", tmp_path / "no/x.pt2"], f"there is no folder {tmp_path}/no"),
        (["torch-export", "--out", tmp_path], "is a folder"),
        (["torch-export", "--out", tmp_path / "photo.jpg"], "so it is not replaced"),
    ):
        result = run(*words, *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert message in result.stderr


def test_an_export_of_numbers_is_compared_in_standard_deviations(
    tasks_home: Path, tmp_path: Path
) -> None:
    words = ["--to", "torch-export", "--plugin", tasks_home / "tiny_plugin.py"]
    words += ["--out", tmp_path / "model.pt2"]
    result = run("export", tasks_home / "numbers", *words)
    assert result.exit_code == 0, result.output
    assert "output: predictions, float32 [batch, 2]\n" in result.stdout
    assert "numbers.csv): predictions differ by at most" in result.stdout
    assert "standard deviations, 0.001 allowed" in result.stdout
    labels = run("export", tasks_home / "multilabel", *words, "--format", "json")
    facts = json.loads(labels.stdout)
    assert (facts["num_images"], facts["agreement"], facts["accuracy"]) == (12, None, None)
