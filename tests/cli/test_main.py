"""The command line as a whole: help of options, and errors in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from command_line import run
from images import write_images

from autotl.cli import main
from autotl.study import StudyConfig


def options(group: click.Group = main, path: str = "") -> Iterator[tuple[str, click.Option]]:
    """Yield every option of every command, each with the words that lead to it."""
    for name, command in group.commands.items():
        words = f"{path} {name}".strip()
        for param in command.params:
            if isinstance(param, click.Option):
                yield f"{words} {param.opts[0]}", param
        if isinstance(command, click.Group):
            yield from options(command, words)


@pytest.mark.parametrize(("name", "option"), [pytest.param(*o, id=o[0]) for o in options()])
def test_every_option_has_help_that_names_its_default(name: str, option: click.Option) -> None:
    assert option.help, name
    assert re.fullmatch(r"[A-Z][^()]* \(default: .*\)\.", option.help) or option.required
    if isinstance(option.default, str | int) and not option.is_flag and option.default:
        assert f"(default: {option.default}" in option.help


def test_the_defaults_in_the_help_of_search_are_those_of_a_study() -> None:
    settings = StudyConfig.model_fields
    defaults = {
        option.name or "": (option.help or "").partition("(default: ")[2].rstrip(").")
        for _, option in options()
        if option in main.commands["search"].params
    }
    for name in ("epochs", "batch_size", "test", "prefer", "out", "seed"):
        assert defaults[name] == str(settings[name].default)
    for name in ("ema", "device", "precision"):
        assert defaults[name].split(",")[0] == str(settings[name].default).removesuffix(".0")
    assert (defaults["retest"], defaults["history"]) == ("no", "yes")
    assert (settings["retest"].default, settings["history"].default) == (False, True)


def test_the_command_line_sets_up_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("autotl.cli.process.configure", lambda: calls.append(True))
    assert run("plugins", "list").exit_code == 0
    assert calls == [True]


@pytest.fixture(scope="module")
def wrong_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets, plugins and databases of which only ``photos`` can be used."""
    folder = tmp_path_factory.mktemp("wrong")
    write_images(folder / "photos", count=4)
    write_images(folder / "one_class", count=4)
    for name in ("green", "blue"):
        for file in (folder / "one_class" / name).iterdir():
            file.unlink()
    write_images(folder / "few", count=4)
    for i in range(3):
        (folder / "few" / "blue" / f"{i}.png").unlink()
    (folder / "empty").mkdir()
    (folder / "bad.py").write_text("import autotl\nraise ValueError('oh')\n")
    (folder / "file").write_text("")
    (folder / "not_a_database").mkdir()
    (folder / "not_a_database" / "autotl.db").write_text("this is text, not a database" * 50)
    return folder


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["search", "no/such/folder"], 1, "there is no file or folder"),
        (["search", "{folder}/photos", "--budget", "soon"], 2, "10m"),
        (["search", "{folder}/photos", "--freeze", "ful"], 1, "did you mean 'full'?"),
        (["search", "{folder}/photos", "--metric", "acc"], 1, "no metric is called 'acc'"),
        (["search", "{folder}/photos", "--trials", "0"], 1, "trials"),
        (["search", "{folder}/photos", "--plugin", "{folder}/bad.py"], 1, "line 2 raises"),
        (["search", "{folder}/photos", "--out", "{folder}/file"], 1, "{folder}/file"),
        (["search", "{folder}/photos", "--out", "{folder}/not_a_database"], 1, "autotl.db"),
        (["search", "{folder}/one_class"], 1, "two classes"),
        (["search", "{folder}/few"], 1, "blue"),
        (["search", "{folder}/empty"], 1, "no images"),
        (["search", "{folder}/photos", "--backbone", "resnet1"], 1, "did you mean"),
        (["search", "{folder}/photos", "--storage", "nonsense"], 1, "database URL"),
        (["search", "sklearn:digit"], 1, "did you mean"),
        (["search", "study.toml"], 1, "study.toml"),
        (["serch", "{folder}/photos"], 2, "search"),
        (["predict", "{folder}/photos", "x.jpg"], 1, "is not a model folder"),
        (["train", "{folder}/file"], 1, "recipe"),
        (
            ["search", "{folder}/photos", "--learn-from", "{folder}/file"],
            1,
            "{folder}/file is not an AutoTL database",
        ),
        (["dashboard", "photos", "--port", "99999"], 2, "1<=x<=65535"),
        (["search", "{folder}/photos", "--epochs", "9" * 22], 1, "--epochs = 99999"),
        (["search", "{folder}/photos", "--max-parameters", "9" * 400], 1, "--max-parameters = "),
        (["search", "{folder}/photos", "--cache-size", "9" * 400], 1, "--cache-size = "),
        (["search", "{folder}/photos", "--out", "x" * 300], 2, "'--out': 'xxx"),
        (["search", "x" * 300], 2, "file name too long"),
        (["search", "~nosuchuser/x"], 2, "there is no user 'nosuchuser'"),
        (["data", "check", "a\0b"], 2, "it has a null character"),
        (["report", "x" * 300], 2, "file name too long"),
        (["search", "x://u:SECRET@h/y"], 1, "x://u:***@h/y"),
        (["predict", "{folder}/photos", "x", "--top", "9" * 30], 2, "'--top'"),
    ],
)
def test_mistakes_are_reported_in_one_line_that_says_what_to_do(
    wrong_inputs: Path, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    words = [word.format(folder=wrong_inputs) for word in words]
    if words[0] == "search" and "--out" not in words:
        words += ["--out", str(tmp_path / "runs")]
    result = run(*words)
    assert result.exit_code == code, result.output
    assert message.format(folder=wrong_inputs) in result.stderr
    assert "Traceback" not in result.output
    assert len(result.stderr.strip().splitlines()) <= (1 if code == 1 else 4)


@pytest.mark.parametrize(("name", "option"), [pytest.param(*o, id=o[0]) for o in options()])
def test_every_number_has_a_range(name: str, option: click.Option) -> None:
    """Either that of the option, or that of the setting of a study, see tests/test_study.py."""
    is_number = isinstance(option.type, click.types.IntParamType | click.types.FloatParamType)
    if is_number and not name.startswith(("search", "pretrain")):
        assert isinstance(option.type, click.IntRange | click.FloatRange), name
        assert option.type.min is not None
        assert option.type.max is not None


def test_a_fault_of_the_machine_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/disk/file")

    monkeypatch.setattr("autotl.study.configure", fill)
    result = run("search", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: /disk/file: No space left on device\n"


def test_a_very_long_message_is_shortened(tmp_path: Path) -> None:
    result = run("search", tmp_path, "--metric", "x" * 100_000)
    assert result.exit_code == 1
    assert len(result.stderr) < 1000
