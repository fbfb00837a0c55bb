"""The ``predict`` command, as a user types it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from command_line import run
from images import COLOURS
from PIL import Image
from toy import CPU

from autotl.artifact import model_folder
from autotl.space import registry

BLUE = "<b>blue|*"
"""The class in ``home`` whose name needs escaping."""


def predict(home: Path, *words: str | Path, stdin: str | None = None) -> Result:
    options = ["--plugin", home / "tiny_plugin.py"]
    return run("predict", home / "model", *words, *options, stdin=stdin)


def test_predictions_in_a_fresh_process_agree(searched: Path) -> None:
    image = searched / "photos" / "red" / "3.png"
    words = ["predict", searched / "runs/photos/model", image, "--format", "json"]
    words += ["--plugin", searched / "tiny_plugin.py"]
    command = [sys.executable, "-m", "autotl", *map(str, words)]
    fresh = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    here = json.loads(run(*words).stdout)
    assert fresh["file"] == str(image)
    assert fresh["classes"] == pytest.approx(here["classes"], abs=1e-6)
    assert next(iter(fresh["classes"])) == "red"


def test_the_model_of_a_search_predicts_folders_patterns_and_lists(searched: Path) -> None:
    model, file = searched / "runs/photos/model", searched / "tiny_plugin.py"
    folder = run("predict", model, searched / "photos" / "red", "--plugin", file, "--top", "1")
    assert len(folder.stdout.splitlines()) == 20
    table = run(
        "predict", model, f"{searched}/photos/blue/1*.png", "--format", "csv", "--plugin", file
    )
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert len(rows) == 11 * 3
    assert {r["class"] for r in rows} == {"red", "green", "blue"}
    lines = f"{searched}/photos/red/0.png\n\n{searched}/photos/red/1.png\n"
    listed = run("predict", model, "-", "--plugin", file, stdin=lines)
    assert len(listed.stdout.splitlines()) == 2


def test_probabilities_are_calibrated_and_class_names_unchanged(home: Path) -> None:
    image = home / "photos" / BLUE / "3.png"
    result = predict(home, image, "--format", "json")
    assert result.exit_code == 0, result.output
    prediction = json.loads(result.stdout)
    assert prediction["file"] == str(image)
    assert next(iter(prediction["classes"])) == BLUE
    loaded = model_folder.load(home / "model", registry.load([home / "tiny_plugin.py"]), CPU)
    assert loaded.temperature == 1.5
    assert prediction["classes"] == pytest.approx(loaded.predict([image])[0], abs=1e-5)
    [line] = predict(home, image, "--top", "1").stdout.splitlines()
    assert line == f"{image}  {BLUE} {prediction['classes'][BLUE]:.4f}"


def test_files_come_from_folders_patterns_and_lists(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("x.PNG", "a/z.png", "._x.png"):
        shutil.copy(home / "photos/red/0.png", tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    words = ["--format", "csv", "--top", "2"]
    lines = f"{tmp_path}/x.PNG\n\n"
    result = predict(home, tmp_path, f"{tmp_path}/a/*.p?g", "-", *words, stdin=lines)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [Path(r["file"]).name for r in rows[::2]] == ["z.png", "x.PNG", "z.png", "x.PNG"]
    assert [r["rank"] for r in rows[:2]] == ["1", "2"]
    assert float(rows[0]["probability"]) >= float(rows[1]["probability"])


def test_a_folder_is_read_by_the_rules_of_a_search(home: Path, tmp_path: Path) -> None:
    image = home / "photos/red/0.png"
    for name in (".cache", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "x.png", "a"):
        (tmp_path / name).mkdir()
        shutil.copy(image, tmp_path / name / "1.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "loop2").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "a" / "scan.dcm").write_bytes(b"")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    for argument in (tmp_path, f"{tmp_path}/**/1.png", f"{tmp_path}/[ax]*"):
        result = predict(home, argument)
        assert result.exit_code == 0, result.output
        files = [line.split()[0] for line in result.stdout.splitlines()]
        assert files == [f"{tmp_path}/a/1.png", f"{tmp_path}/x.png/1.png"], argument
    notes = predict(home, tmp_path).stderr
    assert "note: " in notes
    assert "*.dcm: 1 file (DICOM): a/scan.dcm" in notes
    assert "a/loop: the same folder as the data" in notes


def test_a_pipe_is_not_opened(home: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name in (tmp_path / "pipe.png", "/dev/zero"):
        result = predict(home, name)
        assert result.exit_code == 1
        assert "not a file but a pipe, socket or device" in result.stderr


def test_unreadable_files_are_named_and_the_others_predicted(home: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes((home / "photos/red/0.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image")
    good = home / "photos/red/0.png"
    names = ("torn.jpg", "text.jpg", "missing.jpg")
    result = predict(home, *(tmp_path / name for name in names), good)
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == [str(good)]
    torn, text, missing = result.stderr.splitlines()
    assert torn.startswith(f"Error: {tmp_path}/torn.jpg: ")
    assert text.startswith(f"Error: {tmp_path}/text.jpg: ")
    assert missing.startswith(f"Error: {tmp_path}/missing.jpg: the file is missing")
    assert "Traceback" not in result.output


def test_control_characters_are_not_printed(home: Path, tmp_path: Path) -> None:
    shutil.copy(home / "photos/red/0.png", tmp_path / "a\x1b[31m\nb.png")
    result = predict(home, tmp_path)
    assert len(result.stdout.splitlines()) == 1
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{home}/modle", "x.jpg"], "there is no model folder {home}/modle; did you mean 'model'?"),
        (["{home}", "x.jpg"], "did you mean {home}/model?"),
        (["{home}/model", "{home}/model"], "{home}/model: no images in this folder"),
        (["{home}/model", "{home}/*.jpg"], "no file matches the pattern '{home}/*.jpg'"),
        (["{home}/model", ""], "the name of a file is empty"),
        (["{home}/model", "{home}/**x/*.jpg"], "is not a pattern"),
        (["{home}/model", "-"], "the list on stdin is empty"),
    ],
)
def test_mistakes_are_reported_in_one_line(home: Path, words: list[str], message: str) -> None:
    result = run("predict", *(w.format(home=home) for w in words), stdin="")
    assert (result.exit_code, result.stdout) == (1, "")
    assert message.format(home=home) in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_image_of_a_single_colour_is_read(home: Path, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5), COLOURS["red"]).save(tmp_path / "red.webp")
    result = predict(home, tmp_path / "red.webp", "--top", "1")
    assert " red " in result.stdout


def test_a_csv_has_file_names_as_they_are_on_disk(home: Path, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(next((home / "photos" / "red").glob("*.png")), file)
    result = predict(home, file, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert os.fsencode(file) in result.stdout_bytes


def test_a_csv_has_no_formulas(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home / "model", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "classes": ["=1+1", "-2", "@x"]}), encoding="utf-8")
    shutil.copy(next((home / "photos" / "red").glob("*.png")), tmp_path / "=a.png")
    monkeypatch.chdir(tmp_path)
    words = ["--plugin", home / "tiny_plugin.py", "--format", "csv"]
    result = run("predict", "model", "=a.png", *words)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert {row["class"] for row in rows} == {"'=1+1", "-2", "'@x"}
    assert {row["file"] for row in rows} == {"'=a.png"}


def test_the_scale_of_deep_images_that_was_guessed_is_said_once(home: Path, tmp_path: Path) -> None:
    values = np.linspace(0, 60_000, 40 * 40).reshape(40, 40).astype(np.uint16)
    for name in ("red/a.png", "red/b.png", "green/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / name)
    said = "no image of the training data was PNG integer with more than 8 bits; 0 is taken for"
    result = predict(home, tmp_path)
    assert result.exit_code == 0
    assert result.stderr.count(f"note: {said}") == 1
    words = ("--plugin", home / "tiny_plugin.py")
    assert run("evaluate", home / "model", tmp_path, *words).stdout.count(f"note: {said}") == 1


def predict_task(tasks_home: Path, name: str, *words: str | Path) -> Result:
    """Predict the image ``red/0.png`` with a model of ``tasks_home``."""
    words = (tasks_home / "photos/red/0.png", *words, "--plugin", tasks_home / "tiny_plugin.py")
    return run("predict", tasks_home / name, *words)


def read_row(result: Result) -> tuple[list[str], list[str]]:
    header, row = csv.reader(io.StringIO(result.stdout))
    return header, row


def test_several_labels_are_those_beyond_their_thresholds(tasks_home: Path) -> None:
    file = str(tasks_home / "photos/red/0.png")
    facts = json.loads(predict_task(tasks_home, "multilabel", "--format", "json").stdout)
    p = facts["probabilities"]
    chosen = [name for name, t in (("cat", 0.3), ("dog", 0.5), ("owl", 0.7)) if p[name] >= t]
    assert facts == {"file": file, "prediction": chosen, "probabilities": p}
    assert 0 < len(chosen) < 3, "the test needs labels on both sides of their thresholds"
    header, row = read_row(predict_task(tasks_home, "multilabel", "--format", "csv"))
    assert header == ["file", "prediction", "cat", "dog", "owl"]
    assert row == [file, ";".join(chosen), *(f"{p[name]:.6f}" for name in ("cat", "dog", "owl"))]
    table = predict_task(tasks_home, "multilabel").stdout
    assert table == f"{file}  {', '.join(chosen)}\n"
    [line] = predict_task(tasks_home, "multilabel", "--top", "2").stdout.splitlines()
    best, second, _ = sorted(p, key=lambda name: -p[name])
    assert line == f"{table.strip()}  {best} {p[best]:.4f}  {second} {p[second]:.4f}"


def test_an_example_without_any_label_says_so(tasks_home: Path, tmp_path: Path) -> None:
    shutil.copytree(tasks_home / "multilabel", tmp_path / "model")
    file = tmp_path / "model/config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["calibration"]["thresholds"] = [1, 1, 1]
    file.write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(tasks_home / "tiny_plugin.py", tmp_path)
    shutil.copytree(tasks_home / "photos", tmp_path / "photos")
    assert predict_task(tmp_path, "model").stdout.endswith("red/0.png  (none)\n")
    assert read_row(predict_task(tmp_path, "model", "--format", "csv"))[1][1] == "(none)"


def test_a_number_has_the_limits_of_its_interval(tasks_home: Path) -> None:
    file = str(tasks_home / "photos/red/0.png")
    facts = json.loads(predict_task(tasks_home, "regression", "--format", "json").stdout)
    value = facts["prediction"]
    assert facts == {"file": file, "prediction": value, "low": value - 1.5, "high": value + 1.5}
    header, row = read_row(predict_task(tasks_home, "regression", "--format", "csv"))
    texts = [f"{number:.6g}" for number in (value, value - 1.5, value + 1.5)]
    assert (header, row) == (["file", "prediction", "low", "high"], [file, *texts])
    [line] = predict_task(tasks_home, "regression").stdout.splitlines()
    assert line == f"{file}  {texts[0]} ({texts[1]} to {texts[2]})"
    top = predict_task(tasks_home, "regression", "--top", "2")
    assert (top.exit_code, top.stdout) == (2, "")
    assert "--top is for models of classes; this one predicts numbers." in top.stderr


def test_several_numbers_are_columns_by_their_names(tasks_home: Path) -> None:
    facts = json.loads(predict_task(tasks_home, "numbers", "--format", "json").stdout)
    assert list(facts["low"]) == ["x", "y"]
    header, row = read_row(predict_task(tasks_home, "numbers", "--format", "csv"))
    assert header == ["file", "x", "x_low", "x_high", "y", "y_low", "y_high"]
    keys = ("prediction", "low", "high")
    assert row[1:] == [f"{facts[key][name]:.6g}" for name in ("x", "y") for key in keys]
    [line] = predict_task(tasks_home, "numbers").stdout.splitlines()
    assert line.endswith(f"  x {row[1]} ({row[2]} to {row[3]})  y {row[4]} ({row[5]} to {row[6]})")


def test_ordered_classes_are_written_as_classes(tasks_home: Path) -> None:
    facts = json.loads(predict_task(tasks_home, "ordinal", "--format", "json").stdout)
    assert sorted(facts["classes"]) == ["1", "2", "3"]
    assert sum(facts["classes"].values()) == pytest.approx(1)
    assert list(facts["classes"].values()) == sorted(facts["classes"].values(), reverse=True)


def test_a_csv_without_predictions_has_its_header(tasks_home: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_text("no image")
    words = ["--format", "csv", "--plugin", tasks_home / "tiny_plugin.py"]
    result = run("predict", tasks_home / "numbers", tmp_path / "torn.png", *words)
    assert result.exit_code == 1
    assert result.stdout.strip() == "file,x,x_low,x_high,y,y_low,y_high"
