"""The commands, as a user types them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from click.testing import CliRunner, Result
from pictures import photos, plugin

from autotl.cli import _interruptible, main
from autotl.store import Store

FAST = ["--epochs", "2", "--batch-size", "8", "--device", "cpu", "--precision", "float32"]


def run(*words: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(w) for w in words], input=stdin)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, a plugin file and a finished study."""
    folder = tmp_path_factory.mktemp("searched")
    photos(folder / "photos")
    file = plugin(folder)
    result = run(
        "search", folder / "photos", "--trials", "3", "--backbone", "tiny", "--plugin", file,
        "--out", folder / "runs", *FAST,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def test_search_prints_trials_the_answer_and_what_is_next(searched: Path) -> None:
    result = run(
        "search", searched / "photos", "--trials", "4", "--backbone", "tiny", "--study", "again",
        "--plugin", searched / "tiny_plugin.py", "--out", searched / "runs", *FAST,
    )  # fmt: skip
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert len([x for x in result.stdout.splitlines() if x.startswith("trial ")]) == 4
    assert "autotl predict" in result.stdout
    assert "12 test pictures" in result.stdout


def test_quiet_prints_nothing(searched: Path) -> None:
    result = run(
        "search", searched / "photos", "--trials", "3", "--backbone", "tiny", "--quiet",
        "--plugin", searched / "tiny_plugin.py", "--out", searched / "runs", *FAST,
    )  # fmt: skip
    assert (result.exit_code, result.output) == (0, "")


def test_predict_in_a_fresh_process_agrees(searched: Path) -> None:
    picture = searched / "photos" / "red" / "3.png"
    words = ["predict", searched / "runs/photos/model", picture, "--format", "json"]
    words += ["--plugin", searched / "tiny_plugin.py"]
    command = [sys.executable, "-c", "from autotl.cli import main; main()", *map(str, words)]
    fresh = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    here = json.loads(run(*words).stdout)
    assert fresh["file"] == str(picture)
    assert fresh["classes"] == pytest.approx(here["classes"], abs=1e-6)
    assert next(iter(fresh["classes"])) == "red"


def test_predict_formats_folders_patterns_and_stdin(searched: Path) -> None:
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


def test_predict_names_broken_files_and_goes_on(searched: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no picture")
    good = searched / "photos/red/0.png"
    model, file = searched / "runs/photos/model", searched / "tiny_plugin.py"
    result = run("predict", model, tmp_path / "broken.jpg", good, "--plugin", file)
    assert result.exit_code == 1
    assert str(good) in result.stdout
    assert "broken.jpg" in result.stderr
    assert "Traceback" not in result.output


def test_train_runs_the_recipe_again(searched: Path) -> None:
    result = run(
        "train", searched / "runs/photos/recipe.toml", "--out", searched / "runs", "--study",
        "rerun", "--plugin", searched / "tiny_plugin.py",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first = json.loads((searched / "runs/photos/summary.json").read_text())
    again = json.loads((searched / "runs/rerun/summary.json").read_text())
    assert again["best"]["config"] == first["best"]["config"]


def test_studies_are_listed_shown_and_deleted(searched: Path, tmp_path: Path) -> None:
    out = ["--out", searched / "runs"]
    assert "photos  " in run("studies", "list", *out).stdout
    shown = run("studies", "show", "photos", *out).stdout.splitlines()
    assert len(shown) == 3
    assert "linear_probe" in shown[0]
    near = run("studies", "show", "fotos", *out)
    assert near.exit_code == 1
    assert "did you mean 'photos'?" in near.stderr
    assert run("report", "photos", *out).exit_code == 0
    assert run("studies", "delete", "nothing", "--yes", *out).exit_code == 1
    elsewhere = run("studies", "list", "--out", tmp_path)
    assert elsewhere.exit_code == 1
    assert not list(tmp_path.iterdir())  # a look makes no database


def test_data_check_counts_and_names_problems(tmp_path: Path) -> None:
    photos(tmp_path / "photos", count=6)
    (tmp_path / "photos/red/torn.jpg").write_bytes(b"\xff\xd8\xff")
    result = run("data", "check", tmp_path / "photos")
    assert result.exit_code == 0
    assert "red/torn.jpg" in result.stdout
    assert "18 pictures of 3 classes" in result.stdout


def test_plugins_are_listed_and_shown(searched: Path) -> None:
    listed = run("plugins", "list", "--plugin", searched / "tiny_plugin.py").stdout
    for name in ("tiny", "timm", "linear_probe", "cosine", "flip_crop", "adamw", "folder"):
        assert name in listed
    shown = run("plugins", "show", "last_blocks").stdout
    assert "share = 0.3  searched: 0.1 to 0.9" in shown
    assert "did you mean 'linear_probe'?" in run("plugins", "show", "linear_prob").stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["search", "no/such/folder"], 1, "there is no file or folder"),
        (["search", "{photos}", "--budget", "soon"], 2, "10m"),
        (["search", "{photos}", "--freeze", "ful"], 1, "did you mean 'full'?"),
        (["search", "{photos}", "--metric", "acc"], 1, "no metric is called 'acc'"),
        (["search", "{photos}", "--trials", "0"], 1, "trials"),
        (["search", "{photos}", "--plugin", "{bad}"], 1, "line 2 raises ValueError: oh"),
        (["search", "{photos}", "--out", "{file}"], 1, "{file}"),
        (["search", "{photos}", "--out", "{full}"], 1, "autotl.db"),
        (["search", "{one}"], 1, "two classes"),
        (["search", "{few}"], 1, "blue"),
        (["search", "{empty}"], 1, "no pictures"),
        (["search", "{photos}", "--backbone", "resnet1"], 1, "did you mean"),
        (["search", "{photos}", "--storage", "nonsense"], 1, "database URL"),
        (["search", "sklearn:digit"], 1, "did you mean"),
        (["search", "study.toml"], 1, "study.toml"),
        (["serch", "{photos}"], 2, "search"),
        (["predict", "{photos}", "x.jpg"], 1, "no model folder"),
        (["train", "{file}"], 1, "recipe"),
    ],
)
def test_mistakes_are_one_line_that_says_what_to_do(
    tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    photos(tmp_path / "photos", count=4)
    photos(tmp_path / "one", count=4)
    for name in ("green", "blue"):
        for file in (tmp_path / "one" / name).iterdir():
            file.unlink()
    photos(tmp_path / "few", count=4)
    for i in range(3):
        (tmp_path / "few" / "blue" / f"{i}.png").unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.py").write_text("import autotl\nraise ValueError('oh')\n")
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "autotl.db").write_text("this is no database, but a text" * 50)
    places = {"bad": "bad.py"}
    names = {
        name: str(tmp_path / places.get(name, name))
        for name in ("photos", "one", "few", "empty", "bad", "file", "full")
    }
    result = run(*[w.format(**names) for w in words], *_out(words, tmp_path))
    assert result.exit_code == code, result.output
    assert says.format(**names) in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) <= (1 if code == 1 else 4)


def _out(words: list[str], folder: Path) -> list[str]:
    return ["--out", str(folder / "runs")] if words[0] == "search" and "--out" not in words else []


def test_ctrl_c_keeps_the_results_and_exits_130(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    command = [
        sys.executable, "-c", "from autotl.cli import main; main()", "search", "photos",
        "--trials", "500", "--backbone", "tiny", "--plugin", str(plugin(tmp_path)), *FAST,
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("trial 3"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    summary = json.loads((tmp_path / "runs/photos/summary.json").read_text())
    assert summary["trials"]["complete"] >= 3
    assert summary["test"] is None
    assert (tmp_path / "runs/photos/model/config.json").exists()
    assert "goes on" in errors


def test_optuna_dashboard_reads_the_study(searched: Path) -> None:
    from optuna_dashboard import wsgi

    app = wsgi(Store(f"sqlite:///{searched}/runs/autotl.db").storage)

    def get(path: str) -> Any:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ |= {"PATH_INFO": path, "QUERY_STRING": "after=0"}
        answered: list[str] = []
        body = b"".join(app(environ, lambda status, *_: answered.append(status)))
        assert answered == ["200 OK"]
        return json.loads(body)

    found = {s["study_name"]: s["study_id"] for s in get("/api/studies")["study_summaries"]}
    detail = get(f"/api/studies/{found['photos']}")
    assert [t["state"] for t in detail["trials"]] == ["Complete"] * 3
    assert all(len(t["intermediate_values"]) == 2 for t in detail["trials"])
    shown = {a["key"] for a in detail["trials"][0]["user_attrs"]}
    assert shown >= {"config", "end", "epochs", "parameters", "learned_parameters"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_waits_for_the_next_event_and_a_second_one_does_not(number: int) -> None:
    told: list[Any] = []
    before = signal.getsignal(number)
    with _interruptible(told.append) as watch:
        signal.raise_signal(number)  # raises nothing here, where something may be half done
        with pytest.raises(KeyboardInterrupt):
            watch("shown before it is raised")
        watch("after")
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert told == ["shown before it is raised", "after"]
    assert signal.getsignal(number) == before
