"""The commands, as a user types them."""

from __future__ import annotations

import ast
import csv
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from click.testing import CliRunner, Result
from images import photos, plugin

from autotl.cli import _interruptible, main
from autotl.space import registry
from autotl.space.plugin import GIVEN_ARGUMENTS
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
    assert f"runs/again/model photo.jpg --plugin {searched / 'tiny_plugin.py'}" in result.stdout
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
        "rerun",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    first = json.loads((searched / "runs/photos/summary.json").read_text())
    again = json.loads((searched / "runs/rerun/summary.json").read_text())
    assert again["best"]["config"] == first["best"]["config"]


def test_studies_are_listed_shown_and_deleted(searched: Path, tmp_path: Path) -> None:
    out = ["--out", searched / "runs"]
    assert "photos  " in run("studies", "list", *out).stdout
    shown = run("studies", "show", "photos", *out).stdout.splitlines()
    assert [line.split()[1] for line in shown if line.split()[:1] == ["0"]] == ["complete"]
    assert sum("linear_probe" in line for line in shown) >= 1
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


# Plugins.

BAD_HEAD = '''
"""A head that is one logit short."""
from torch import nn
from autotl import head

@head(requires=["surely-not-installed>=2"])
def lacking(features: int, classes: int) -> nn.Module:
    """Needs what is not there."""

@head
def short(features: int, classes: int) -> nn.Module:
    """One logit short."""
    return nn.Linear(features, classes - 1)
'''


def test_plugins_are_listed_and_shown(searched: Path) -> None:
    listed = run("plugins", "list", "--plugin", searched / "tiny_plugin.py").stdout
    for name in ("tiny", "timm", "linear_probe", "cosine", "flip_crop", "adamw", "folder"):
        assert name in listed
    assert "share 0.1 to 0.9, default 0.3" in listed
    assert "[file tiny_plugin.py sha256:" in listed
    assert "\x1b" not in listed
    shown = run("plugins", "show", "last_blocks").stdout
    assert "share = 0.3  searched: 0.1 to 0.9" in shown
    assert "It is a share of the number of blocks" in shown  # all of the docstring
    assert (
        "searched: 64 to 1024 (log), asked when depth is 2" in run("plugins", "show", "mlp").stdout
    )
    assert "alpha = 16.0  a setting" in run("plugins", "show", "lora").stdout
    assert "did you mean 'linear_probe'?" in run("plugins", "show", "linear_prob").stderr


def test_plugins_alone_is_list_and_takes_its_options(searched: Path) -> None:
    file = searched / "tiny_plugin.py"
    assert run("plugins").stdout == run("plugins", "list").stdout
    alone = run("plugins", "--plugin", file, "--json")
    assert alone.exit_code == 0
    assert alone.stdout == run("plugins", "list", "--plugin", file, "--json").stdout
    misplaced = run("plugins", "--plugin", file, "show", "tiny")
    assert misplaced.exit_code == 2
    assert "give --plugin after show" in misplaced.stderr


def test_plugins_in_json_say_everything(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD_HEAD)
    listed = json.loads(run("plugins", "--json", "--plugin", tmp_path / "bad.py").stdout)
    assert listed["broken"] == []
    by_name = {(p["kind"], p["name"]): p for p in listed["plugins"]}
    probe = by_name["freeze", "lp_ft"]
    assert probe["source"] == "LP-FT: Kumar et al. 2022, arXiv:2202.10054"
    assert probe["origin"].startswith("autotl ")
    assert probe["hyperparameters"][0] == {
        "name": "probe", "type": "float", "default": 0.3, "low": 0.1, "high": 0.6, "log": False,
    }  # fmt: skip
    [second] = [h for h in by_name["head", "mlp"]["hyperparameters"] if h["name"] == "second"]
    assert second["when"] == {"depth": [2]}
    assert by_name["head", "gem"]["takes"] == "map"
    assert by_name["augment", "mixup"]["mixes"] is True
    assert by_name["augment", "none"]["source"] == ""
    assert by_name["dataset", "folder"]["matches"] == ["*/"]
    lacking = by_name["head", "lacking"]
    assert lacking["missing"] == ["surely-not-installed>=2"]
    assert lacking["install"] == "pip install 'surely-not-installed>=2'"
    [shown] = json.loads(run("plugins", "show", "last_blocks", "--json").stdout)["plugins"]
    assert "It is a share of the number of blocks" in shown["description"]


def test_plugins_of_one_package_in_markdown(searched: Path) -> None:
    file = searched / "tiny_plugin.py"
    words = ["plugins", "list", "--format", "markdown", "--plugin", file]
    made = run(*words, "--package", "autotl").stdout
    assert "tiny" not in made
    assert "tiny" in run(*words).stdout
    assert "[arXiv:2202.10054](https://arxiv.org/abs/2202.10054)" in made
    rows = [line for line in made.splitlines() if line.startswith("| `")]
    assert len(rows) == len(list(registry.load()))
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in rows)
    typo = run("plugins", "--package", "autotk")
    assert typo.exit_code == 1
    assert "did you mean 'autotl'?" in typo.stderr


def test_what_is_missing_is_named_with_the_line_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(BAD_HEAD)
    for words in (["list"], ["show", "lacking"]):
        said = run("plugins", *words, "--plugin", tmp_path / "bad.py").stdout
        assert "(missing: pip install 'surely-not-installed>=2')" in said


def test_a_broken_installed_module_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("bad", "no_such_module_of_plugins", registry.GROUP)
    installed = [*entry_points(group=registry.GROUP), broken]
    monkeypatch.setattr(registry, "entry_points", lambda group: installed)
    for form in ("table", "json", "markdown"):
        result = run("plugins", "list", "--format", form)
        assert result.exit_code == 0
        assert "linear_probe" in result.stdout
        [warning] = result.stderr.splitlines()
        assert "warning: no_such_module_of_plugins is left out" in warning
        assert "ModuleNotFoundError" in warning
    [left] = json.loads(run("plugins", "--json").stdout)["broken"]
    assert left["module"] == "no_such_module_of_plugins"


@pytest.mark.parametrize("command", [["list"], ["show", "mlp"], ["check", "mlp"]])
def test_a_broken_plugin_file_is_an_error(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "bad.py").write_text("import autotl\nraise ValueError('oh')\n")
    result = run("plugins", *command, "--plugin", tmp_path / "bad.py")
    assert result.exit_code == 1
    assert "line 2 raises ValueError: oh" in result.stderr
    assert "Traceback" not in result.output


def test_check_says_in_a_line_that_all_is_well_or_what_broke(tmp_path: Path) -> None:
    fine = run("plugins", "check", "mlp")
    assert fine.exit_code == 0
    assert fine.stdout == "head mlp: ok, 8 configurations\n"
    (tmp_path / "bad.py").write_text(BAD_HEAD)
    result = run("plugins", "check", tmp_path / "bad.py")
    assert result.exit_code == 1
    lacking, short = result.stdout.splitlines()
    assert "head plugin 'lacking' needs what is not installed" in lacking
    assert "head plugin 'short' returns logits float32 [8, 2] for 8 pictures" in short
    named = run("plugins", "check", "short", "--plugin", tmp_path / "bad.py")
    assert named.stdout == f"{short}\n"
    typo = run("plugins", "check", "mpl")
    assert typo.exit_code == 1
    assert "did you mean 'mlp'?" in typo.stderr
    gone = run("plugins", "check", tmp_path / "gone.py")
    assert gone.exit_code == 1
    assert "gone.py cannot be read" in gone.stderr


def test_check_reads_the_source_of_a_data_set() -> None:
    unread = run("plugins", "check", "sklearn")
    assert unread.stdout.startswith("dataset sklearn: ok, 1 configuration; what it returns")
    assert run("plugins", "check", "sklearn", "--source", "sklearn:digits").exit_code == 0
    wrong = run("plugins", "check", "sklearn", "--source", "photos.csv")
    assert wrong.exit_code == 1
    assert "none of which fits 'photos.csv'" in wrong.stdout


@pytest.mark.parametrize("kind", GIVEN_ARGUMENTS)
def test_a_new_plugin_works_and_its_test_passes(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "deep" / "plugins"
    made = run("plugins", "new", kind, f"mine_{kind}", "--dir", folder)
    assert made.exit_code == 0, made.output
    file = folder / f"mine_{kind}.py"
    assert f"autotl plugins check {file}" in made.stdout
    checked = run("plugins", "check", file, "--source", f"mine_{kind}:30")
    assert checked.exit_code == 0, checked.output
    ast.parse(file.read_text())
    spec = importlib.util.spec_from_file_location(f"mine_{kind}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"mine_{kind}"] = module
    try:
        spec.loader.exec_module(module)
        names: dict[str, Any] = {}
        exec((folder / f"test_mine_{kind}.py").read_text(), names)
        names[f"test_mine_{kind}"]()
    finally:
        del sys.modules[f"mine_{kind}"]
    keywords = getattr(module, f"mine_{kind}").hyperparameters
    assert keywords or kind in ("backbone", "dataset")  # shows how to ask for one


def test_a_new_plugin_can_be_searched(searched: Path, tmp_path: Path) -> None:
    run("plugins", "new", "head", "mine", "--dir", tmp_path)
    result = run(
        "search", searched / "photos", "--trials", "1", "--backbone", "tiny", "--head", "mine",
        "--plugin", searched / "tiny_plugin.py", "--plugin", tmp_path / "mine.py",
        "--out", tmp_path / "runs", *FAST,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "mine(" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["heads", "mine"], 2, "'heads' is not one of"),
        (["head", "my-head"], 1, "'my-head' cannot name a function"),
        (["head", "2nd"], 1, "'2nd' cannot name a function"),
        (["head", "class"], 1, "'class' cannot name a function"),
        (["head", "../up"], 1, "cannot name a function"),
        (["head", "torch"], 1, "'torch' would hide"),
        (["head", "nn"], 1, "'nn' would hide"),
        (["head", "head"], 1, "'head' would hide"),
        (["head", "mlp"], 1, "there is a head plugin called 'mlp' already"),
        (["head", "there"], 1, "there.py is there already"),
        (["head", "tested"], 1, "test_tested.py is there already"),
        (["head", "mine", "--dir", "{folder}/there.py"], 1, "there.py cannot be written"),
    ],
)
def test_a_new_plugin_overwrites_and_hides_nothing(
    tmp_path: Path, words: list[str], code: int, says: str
) -> None:
    (tmp_path / "there.py").write_text("precious")
    (tmp_path / "test_tested.py").write_text("precious")
    given = [w.format(folder=tmp_path) for w in words]
    result = run("plugins", "new", *given, *([] if "--dir" in words else ["--dir", tmp_path]))
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "there.py": "precious",
        "test_tested.py": "precious",
    }


# Mistakes.


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
        (["search", "{photos}", "--learn-from", "{file}"], 1, "{file} is no database of AutoTL"),
        (["dashboard", "photos", "--port", "99999"], 2, "1<=x<=65535"),
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
    # a later study of this name that found nothing does not pass that model off as its own
    store = Store(f"sqlite:///{tmp_path}/runs/autotl.db")
    store.delete("photos")
    store.begin("photos", {})
    shown = run("report", "photos", "--out", tmp_path / "runs").stdout
    assert "report.html" in shown
    assert "model" not in shown
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
    assert [len(t["intermediate_values"]) for t in detail["trials"]] == [2, 1, 2]  # solved for: 1
    shown = {a["key"] for a in detail["trials"][0]["user_attrs"]}
    assert shown >= {"config", "status", "epochs", "parameters", "trained_parameters"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_waits_for_the_next_event_and_a_second_one_does_not(number: int) -> None:
    told: list[Any] = []
    before = signal.getsignal(number)
    with _interruptible(told.append) as listener:
        signal.raise_signal(number)  # raises nothing here, where something may be half done
        with pytest.raises(KeyboardInterrupt):
            listener("shown before it is raised")
        listener("after")
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert told == ["shown before it is raised", "after"]
    assert signal.getsignal(number) == before
