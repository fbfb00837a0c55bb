"""The ``plugins`` commands, as a plugin author types them."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from command_line import FAST_OPTIONS, run
from images import write_plugin

from autotl.space import plugin_modules
from autotl.space.kinds import GIVEN_ARGUMENTS

BAD_HEADS = '''
"""A head whose requirement is missing, and one that is a logit short."""
from torch import nn
from autotl import head

@head(requires=["surely-not-installed>=2"])
def lacking(features: int, classes: int) -> nn.Module:
    """Requires a package that does not exist."""

@head
def short(features: int, classes: int) -> nn.Module:
    """One logit short."""
    return nn.Linear(features, classes - 1)
'''


@pytest.fixture(scope="module")
def tiny_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plugin(tmp_path_factory.mktemp("plugins"))


@pytest.fixture
def bad_heads(tmp_path: Path) -> Path:
    file = tmp_path / "bad.py"
    file.write_text(BAD_HEADS)
    return file


def test_plugins_are_listed_and_shown(tiny_plugin: Path) -> None:
    listed = run("plugins", "list", "--plugin", tiny_plugin).stdout
    for name in ("tiny", "timm", "linear_probe", "cosine", "flip_crop", "adamw", "folder"):
        assert name in listed
    assert "fraction 0.1 to 0.9, default 0.3" in listed
    assert "[file tiny_plugin.py sha256:" in listed
    assert "\x1b" not in listed
    assert "did you mean 'linear_probe'?" in run("plugins", "show", "linear_prob").stderr


def test_plugins_without_a_subcommand_lists_and_takes_the_options_of_list(
    tiny_plugin: Path,
) -> None:
    assert run("plugins").stdout == run("plugins", "list").stdout
    result = run("plugins", "--plugin", tiny_plugin, "--json")
    assert result.exit_code == 0
    assert result.stdout == run("plugins", "list", "--plugin", tiny_plugin, "--json").stdout
    misplaced = run("plugins", "--plugin", tiny_plugin, "show", "tiny")
    assert misplaced.exit_code == 2
    assert "--plugin must be given after show" in misplaced.stderr


def test_a_package_without_plugins_is_an_error_with_a_suggestion() -> None:
    result = run("plugins", "--package", "autotk")
    assert result.exit_code == 1
    assert "did you mean 'autotl'?" in result.stderr


def test_a_broken_installed_module_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("bad", "no_such_module_of_plugins", plugin_modules.GROUP)
    installed = [*entry_points(group=plugin_modules.GROUP), broken]
    monkeypatch.setattr(plugin_modules, "entry_points", lambda group: installed)
    for output_format in ("table", "json", "markdown"):
        result = run("plugins", "list", "--format", output_format)
        assert result.exit_code == 0
        assert "linear_probe" in result.stdout
        [warning] = result.stderr.splitlines()
        assert "warning: no_such_module_of_plugins cannot be loaded" in warning
        assert "ModuleNotFoundError" in warning
    assert '"module": "no_such_module_of_plugins"' in run("plugins", "--json").stdout


@pytest.mark.parametrize("command", [["list"], ["show", "mlp"], ["check", "mlp"]])
def test_a_broken_plugin_file_is_an_error(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "bad.py").write_text("import autotl\nraise ValueError('oh')\n")
    result = run("plugins", *command, "--plugin", tmp_path / "bad.py")
    assert result.exit_code == 1
    assert "line 2 raises ValueError: oh" in result.stderr
    assert "Traceback" not in result.output


def test_check_reports_in_one_line_that_a_plugin_passes() -> None:
    result = run("plugins", "check", "mlp")
    assert result.exit_code == 0
    assert result.stdout == "head mlp: ok, 8 configurations\n"
    assert result.stderr == "checking mlp\n"


def test_check_reports_in_one_line_what_is_wrong(bad_heads: Path) -> None:
    result = run("plugins", "check", bad_heads)
    assert result.exit_code == 1
    lacking, short = result.stdout.splitlines()
    assert "head plugin 'lacking' needs packages that are not installed" in lacking
    assert "head plugin 'short' returns logits float32 [8, 2] for 8 images" in short
    by_name = run("plugins", "check", "short", "--plugin", bad_heads)
    assert by_name.stdout == f"{short}\n"


def test_check_says_that_a_keyword_without_a_type_is_not_searched(tmp_path: Path) -> None:
    file = tmp_path / "wide.py"
    file.write_text(
        "from torch import nn\nfrom autotl import head\n@head\n"
        "def wide(features: int, classes: int, *, width=8, text: str = 'a'):\n"
        "    '''A layer.'''\n    return nn.Linear(features, classes)\n"
    )
    result = run("plugins", "check", file)
    assert result.exit_code == 0
    passed, note = result.stdout.splitlines()
    assert passed == "head wide: ok, 1 configuration"
    assert "its keyword 'width' has no type, so it is always 8 and not searched" in note


def test_the_plugins_of_one_kind_are_listed() -> None:
    lines = run("plugins", "list", "balance").stdout.splitlines()
    assert {line.split()[0] for line in lines if line[:1] != " "} == {"balance"}
    heads = json.loads(run("plugins", "list", "head", "--json").stdout)["plugins"]
    assert {plugin["kind"] for plugin in heads} == {"head"}
    assert run("plugins", "list", "heads").exit_code == 2


def test_check_of_an_unknown_plugin_or_file_is_an_error(tmp_path: Path) -> None:
    misspelled = run("plugins", "check", "mpl")
    assert misspelled.exit_code == 1
    assert "did you mean 'mlp'?" in misspelled.stderr
    missing = run("plugins", "check", tmp_path / "missing.py")
    assert missing.exit_code == 1
    assert "missing.py cannot be read" in missing.stderr


def test_check_reads_the_source_of_a_dataset_plugin() -> None:
    unread = run("plugins", "check", "sklearn")
    assert "ok" not in unread.stdout
    assert unread.stdout.startswith("dataset sklearn: not read\n")
    assert "give --source SOURCE to read examples" in unread.stdout
    assert run("plugins", "check", "sklearn", "--source", "sklearn:digits").exit_code == 0
    mismatch = run("plugins", "check", "sklearn", "--source", "photos.csv")
    assert mismatch.exit_code == 1
    assert "none of these patterns matches 'photos.csv'" in mismatch.stdout


def test_check_tests_the_input_kind_of_a_file_too(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "plugins" / "examples" / "autotl_series.py"
    result = run("plugins", "check", example)
    assert result.exit_code == 0, result.output
    passed = ["input kind series: ok", "backbone random_kernels: ok, 1 configuration"]
    assert result.stdout.splitlines()[:2] == passed
    file = tmp_path / "wrong.py"
    text = example.read_text(encoding="utf-8").replace('"samples"', '""')
    noise = (
        '\n\n@augment(input="series")\ndef noise(size: int):\n    """Noise."""\n'
        "    return lambda series: series + torch.rand_like(series)\n"
    )
    file.write_text(text.replace("import Example", "import augment, Example") + noise)
    wrong = run("plugins", "check", file)
    assert wrong.exit_code == 1
    kind, _, augmentation, *_ = wrong.stdout.splitlines()
    assert "input kind 'series' has no unit" in kind
    assert augmentation == "augment noise: ok, 1 configuration"
    by_name = run("plugins", "check", "series", "--plugin", file)
    assert by_name.stdout == f"{kind}\n"


@pytest.mark.parametrize("kind", [*GIVEN_ARGUMENTS, "input"])
def test_a_new_plugin_works_and_its_test_passes(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "deep" / "plugins"
    result = run("plugins", "new", kind, f"mine_{kind}", "--dir", folder)
    assert result.exit_code == 0, result.output
    file = folder / f"mine_{kind}.py"
    assert f"autotl plugins check {file}" in result.stdout
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
    keywords = getattr(getattr(module, f"mine_{kind}"), "hyperparameters", None)
    without = ("backbone", "dataset", "metric", "task", "input")
    assert keywords or kind in without, "the template shows how to declare one"


def test_a_new_kind_of_input_can_be_searched(tmp_path: Path) -> None:
    result = run("plugins", "new", "input", "mine", "--dir", tmp_path)
    file = tmp_path / "mine.py"
    assert f"autotl search mine:30 --plugin {file} --trials 3" in result.stdout
    options = ["--plugin", file, "--out", tmp_path / "runs", *FAST_OPTIONS]
    searched = run("search", "mine:30", "--trials", "1", *options)
    assert searched.exit_code == 0, searched.output
    (tmp_path / "new.txt").write_text("0 1 0 -1\n0 1 0 -1")
    [model] = tmp_path.glob("runs/*/model")
    predicted = run("predict", model, tmp_path / "new.txt", "--plugin", file)
    assert predicted.exit_code == 0, predicted.output


def test_a_new_plugin_can_be_searched(searched: Path, tmp_path: Path) -> None:
    run("plugins", "new", "head", "mine", "--dir", tmp_path)
    result = run(
        "search", searched / "photos", "--trials", "1", "--backbone", "tiny", "--head", "mine",
        "--plugin", searched / "tiny_plugin.py", "--plugin", tmp_path / "mine.py",
        "--out", tmp_path / "runs", *FAST_OPTIONS,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "mine(" in result.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
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
        (["input", "image"], 1, "there is an input kind called 'image' already"),
        (["input", "Kind"], 1, "'Kind' would hide"),
        (["head", "there"], 1, "there.py exists already"),
        (["head", "tested"], 1, "test_tested.py exists already"),
        (["head", "mine", "--dir", "{folder}/there.py"], 1, "there.py cannot be written"),
    ],
)
def test_a_new_plugin_overwrites_no_file_and_hides_no_name(
    tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "there.py").write_text("precious")
    (tmp_path / "test_tested.py").write_text("precious")
    words = [word.format(folder=tmp_path) for word in words]
    result = run("plugins", "new", *words, *([] if "--dir" in words else ["--dir", tmp_path]))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "there.py": "precious",
        "test_tested.py": "precious",
    }
