"""predict, evaluate and export, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from images import COLOURS, photos, plugin
from PIL import Image
from toy import CPU

from autotl import data, models
from autotl.artifact import model_folder
from autotl.cli import main
from autotl.scoring import metrics
from autotl.space import registry, space

CLASSES = ["green", "red", "<b>blue|*"]


def run(*words: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], input=stdin)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a plugin file and a model of it, which knows most colours."""
    folder = tmp_path_factory.mktemp("home")
    photos(folder / "photos", count=12, noise=90)
    (folder / "photos/blue").rename(folder / "photos" / CLASSES[2])
    for name in ("0.png", "1.png"):  # so that the model cannot be right on all
        (folder / "photos/red" / name).rename(folder / "swapped")
        (folder / "photos/green" / name).rename(folder / "photos/red" / name)
        (folder / "swapped").rename(folder / "photos/green" / name)
    plugins = registry.load([plugin(folder)])
    parts = {"backbone": {"tiny": {}}, "head": {"nearest_mean": {"threshold": 0.0}}}
    config = space.from_json(parts, plugins, kinds=("backbone", "head"))
    network = models.build_model(config, 3, 32, CPU).eval()
    files = [f for c in CLASSES for f in sorted((folder / "photos" / c).iterdir())]
    pictures = np.stack([data.decode(f, 32, "bicubic") for f in files])
    with torch.no_grad():
        features = network.features(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    network.head.fit(features, torch.arange(3).repeat_interleave(12))  # type: ignore[operator]
    facts = {"data": {"source": str(folder / "photos")}, "temperature": 1.5}
    model_folder.save(folder / "model", network, config, CLASSES, facts)
    return folder


def asked(home: Path, command: str, *words: str | Path, stdin: str | None = None) -> Result:
    options = ["--plugin", home / "tiny_plugin.py"]
    return run(command, home / "model", *words, *options, stdin=stdin)


# predict


def test_predict_gives_calibrated_probabilities_and_the_names_as_they_are(home: Path) -> None:
    picture = home / "photos" / CLASSES[2] / "3.png"
    result = asked(home, "predict", picture, "--format", "json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["file"] == str(picture)
    assert next(iter(answer["classes"])) == CLASSES[2]
    loaded = model_folder.load(home / "model", registry.load([home / "tiny_plugin.py"]), CPU)
    assert loaded.temperature == 1.5
    assert answer["classes"] == pytest.approx(loaded.predict([picture])[0], abs=1e-5)
    [line] = asked(home, "predict", picture, "--top", "1").stdout.splitlines()
    assert line == f"{picture}  {CLASSES[2]} {answer['classes'][CLASSES[2]]:.4f}"


def test_predict_takes_folders_patterns_and_lists(home: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("x.PNG", "a/z.png", "._x.png"):
        shutil.copy(home / "photos/red/0.png", tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    words = ["--format", "csv", "--top", "2"]
    result = asked(home, "predict", tmp_path, f"{tmp_path}/a/*.p?g", "-", *words,
                   stdin=f"{tmp_path}/x.PNG\n\n")  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [Path(r["file"]).name for r in rows[::2]] == ["z.png", "x.PNG", "z.png", "x.PNG"]
    assert [r["rank"] for r in rows[:2]] == ["1", "2"]
    assert float(rows[0]["probability"]) >= float(rows[1]["probability"])


def test_predict_names_what_it_cannot_read_and_goes_on(home: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes((home / "photos/red/0.png").read_bytes()[:200])
    good = home / "photos/red/0.png"
    result = asked(home, "predict", tmp_path / "torn.jpg", tmp_path / "typo.jpg", good)
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == [str(good)]
    torn, typo = result.stderr.splitlines()
    assert torn.startswith(f"Error: {tmp_path}/torn.jpg: ")
    assert typo.startswith(f"Error: {tmp_path}/typo.jpg: the file is missing")


def test_predict_prints_no_control_characters(home: Path, tmp_path: Path) -> None:
    shutil.copy(home / "photos/red/0.png", tmp_path / "a\x1b[31m\nb.png")
    result = asked(home, "predict", tmp_path)
    assert len(result.stdout.splitlines()) == 1
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{home}/modle", "x.jpg"], "there is no model folder {home}/modle; did you mean 'model'?"),
        (["{home}", "x.jpg"], "did you mean {home}/model?"),
        (["{home}/model", "{home}/model"], "{home}/model: no pictures in this folder"),
        (["{home}/model", "{home}/*.jpg"], "no file fits the pattern '{home}/*.jpg'"),
        (["{home}/model", "-"], "the list on stdin is empty"),
    ],
)
def test_predict_says_what_was_meant(home: Path, words: list[str], says: str) -> None:
    result = run("predict", *(w.format(home=home) for w in words), stdin="")
    assert (result.exit_code, result.stdout) == (1, "")
    assert says.format(home=home) in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bar_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from autotl.cli.models import Bar

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, hidden, shown in ((Terminal(), False, True), (Terminal(), True, False),
                                  (io.StringIO(), False, False)):  # fmt: skip
        monkeypatch.setattr("sys.stderr", stream)
        with Bar("predicting", 2, hidden=hidden) as bar:
            bar.update(2)
        assert ("100%" in stream.getvalue()) == shown


# evaluate


def test_evaluate_scores_with_the_intervals_of_a_search(home: Path) -> None:
    few = [word for name in ("accuracy", "macro_f1", "log_loss") for word in ("--metric", name)]
    result = asked(home, "evaluate", home / "photos", "--format", "json", *few)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    loaded = model_folder.load(home / "model", registry.load([home / "tiny_plugin.py"]), CPU)
    files = [f for c in CLASSES for f in sorted((home / "photos" / c).iterdir())]
    rows = np.array([list(r.values()) for r in loaded.predict(files)], dtype=np.float32)
    labels = np.repeat(np.arange(3), 12)
    assert found["n"] == 36
    right = (rows.argmax(1) == labels).mean()
    assert 0.5 < right < 1, "or the test could not see much"
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["score"] == pytest.approx(right)
    assert (accuracy["low"], accuracy["high"]) == metrics.wilson_interval(right, 36)
    assert list(found["metrics"]) == ["accuracy", "macro_f1", "log_loss"]
    for name, value in found["metrics"].items():
        assert value["score"] == pytest.approx(metrics.get(name).score(labels, rows), abs=1e-5)
        assert value["low"] <= value["score"] <= value["high"]
    assert found["confusion"][0][0] == (rows[:12].argmax(1) == 0).sum()
    table = {r["class"]: r for r in found["per_class"]}
    assert table["green"]["n"] == 12
    assert table["green"]["recall"] == pytest.approx((rows[:12].argmax(1) == 0).mean())
    guessed = rows.argmax(1) == 0
    assert table["green"]["precision"] == pytest.approx((labels[guessed] == 0).mean())
    assert 0 < found["ece"] < 1
    assert any("was made from these data" in note for note in found["notes"])


def test_evaluate_explains_labels_that_do_not_match(home: Path, tmp_path: Path) -> None:
    for name, label in (("red", "red"), ("green", "gren"), ("green", "cat")):
        shutil.copytree(home / "photos" / name, tmp_path / "new" / label)
    (tmp_path / "new/red/torn.png").write_text("no picture")
    result = asked(home, "evaluate", tmp_path / "new", "--metric", "accuracy", "--metric", "auroc")
    assert result.exit_code == 1, "one picture could not be read"
    assert "torn.png: not a picture" in result.stderr
    text = result.stdout
    assert text.startswith("12 pictures\n")
    assert "left out: 12 pictures of 'gren', a class that the model does not know; did you mean " \
        "'green'?" in text  # fmt: skip
    assert "left out: 12 pictures of 'cat'" in text
    assert f"no picture of 'green', {CLASSES[2]!r}" in text
    assert "auroc               not defined" in text
    assert "log_loss" not in text
    assert "was made from" not in text
    row = next(line for line in text.splitlines() if line.startswith("green"))
    assert row.split()[1:3] == ["0", "-"]


def test_evaluate_one_part_and_what_is_wrong(home: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("red", "green"):
            shutil.copytree(home / "photos" / name, tmp_path / "parts" / part / name)
    (tmp_path / "parts/test/red/0.png").unlink()
    result = asked(home, "evaluate", tmp_path / "parts", "--split", "test", "--metric", "accuracy")
    assert result.stdout.startswith("23 pictures\n")
    shutil.copytree(home / "photos/red", tmp_path / "others" / "cat")
    for words, says in (
        ([home / "photos", "--split", "test"], "has no part 'test'"),
        ([tmp_path / "others"], "no picture has a label that the model knows: it knows 'green'"),
        ([home / "photos", "--metric", "acuracy"], "did you mean 'accuracy'?"),
        ([home / "fotos"], "did you mean 'photos'?"),
    ):
        result = asked(home, "evaluate", *words)
        assert result.exit_code == 1
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1


# export


def test_export_writes_compares_and_tells(home: Path, tmp_path: Path) -> None:
    result = asked(home, "export", "--to", "torch-export")
    assert result.exit_code == 0, result.output
    assert (home / "model" / "model.pt2").is_file()
    first, *lines = result.stdout.splitlines()
    assert first.startswith(f"{home}/model/models.pt2  0.")
    assert "uint8 [batch, 3, 32, 32]" in lines[0]
    assert f"compared on 36 pictures ({home}/photos): the same answer on 100.00%" in result.stdout
    assert "0.001 allowed" in result.stdout
    assert "only if you trust" in lines[-1]
    named = asked(home, "export", "--to", "torch-export", "--out", tmp_path / "x.pt2",
                  "--data", home / "photos/red", "--format", "json")  # fmt: skip
    found = json.loads(named.stdout)
    assert (found["pictures"], found["accuracy"]) == (12, None), "a folder without labels"
    assert found["file"] == str(tmp_path / "x.pt2")


def test_export_int8_tells_what_it_costs(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    result = asked(home, "export", "--to", "onnx-int8", "--out", tmp_path / "small.onnx")
    assert result.exit_code == 0, result.output
    assert "compared on 18 pictures" in result.stdout
    assert "the model's is" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_export_without_pictures_at_hand(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "model", tmp_path / "model")
    file = tmp_path / "model/config.json"
    about: dict[str, Any] = json.loads(file.read_text())
    about["data"]["source"] = str(tmp_path / "gone")
    file.write_text(json.dumps(about))
    words = ["export", tmp_path / "model", "--plugin", home / "tiny_plugin.py", "--to"]
    result = run(*words, "torch-export")
    assert result.exit_code == 0, result.output
    assert "64 pictures (random ones, as none are at hand)" in result.stdout
    for options, says in (
        (["onnx-int8"], "give some with --data"),
        (["torch-export", "--data", tmp_path / "nowhere"], "there is no file or folder"),
        (["torch-export", "--out", tmp_path / "no/x.pt2"], f"there is no folder {tmp_path}/no"),
    ):
        result = run(*words, *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert says in result.stderr


def test_a_picture_of_one_colour_is_a_picture(home: Path, tmp_path: Path) -> None:
    Image.new("RGB", (5, 5), COLOURS["red"]).save(tmp_path / "red.webp")
    result = asked(home, "predict", tmp_path / "red.webp", "--top", "1")
    assert " red " in result.stdout


def test_data_check_says_names_that_are_no_text(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    broken = tmp_path / "photos" / "red" / os.fsdecode(b"caf\xe9\x1b[31m.png")
    broken.write_bytes(b"no picture")
    result = run("data", "check", tmp_path / "photos")
    assert result.exit_code == 0
    assert "caf\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m.png" in result.output


def test_a_csv_has_names_as_the_disk_has_them(home: Path, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(next((home / "photos" / "red").glob("*.png")), file)
    words = ["predict", str(home / "model"), str(file), "--format", "csv"]
    words += ["--plugin", str(home / "tiny_plugin.py")]
    found = subprocess.run(
        [sys.executable, "-m", "autotl", *words], capture_output=True, check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert os.fsencode(file) in found.stdout
