"""The documents say what is true: commands, options, plugins, rooms, links."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from images import plugin

from autotl import study
from autotl.cli import main
from autotl.space import registry, space
from autotl.space.plugin import GIVEN_ARGUMENTS, Plugin

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
DOCUMENTS = sorted(ROOT.glob("*.md"))


def commands(group: click.Group = main, path: str = "autotl") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{path} {name}")
        else:
            found[f"{path} {name}"] = command
    return found


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_every_command_has_help_and_is_in_the_readme() -> None:
    table = README[README.index("## Commands") :]
    for name, command in commands().items():
        assert command.help, name
        first, *rest = name.removeprefix("autotl ").split()
        row = next((x for x in table.splitlines() if x.startswith(f"| `autotl {first}")), "")
        assert row, f"{name} is not in the README's table"
        assert all(word in row for word in rest), f"{name} is not in {row!r}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_in_the_documents_exist_with_their_options(document: Path) -> None:
    known = commands()
    used = [
        line.strip().removeprefix(".venv/bin/")
        for block in blocks(document.read_text(), "bash")
        for line in block.splitlines()
        if line.strip().removeprefix(".venv/bin/").startswith("autotl ")
    ]
    for line in used:
        name = next((n for n in known if line.startswith(f"{n} ")), None)
        assert name, f"{document.name}: {line}"
        options = {o for p in known[name].params for o in p.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= options, line


def test_options_of_search_are_settings_and_the_other_way_round() -> None:
    options = {p.name for p in commands()["autotl search"].params} - {"source", "quiet"}
    settings = set(study.StudyConfig.model_fields) - {"data", "space", "views", "label_smoothing"}
    assert options == settings


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.toml")), ids=lambda p: p.name)
def test_study_files_are_valid(file: Path) -> None:
    assert study.configure(str(file), {}).data
    tomllib.loads(file.read_text())


def test_the_readmes_study_file_is_valid(tmp_path: Path) -> None:
    [block] = blocks(README, "toml")
    (tmp_path / "my_study.toml").write_text(block)
    settings = study.configure(str(tmp_path / "my_study.toml"), {})
    chosen = {**settings.requested, "backbone": ["tiny"]}
    plugins = registry.load([plugin(tmp_path)])
    flat = space.build_space(plugins, chosen, settings.space).describe()
    assert flat["freeze.last_blocks.share"] == "0.3 to 0.7"
    assert flat["head.mlp.depth"] == "1"


@pytest.mark.parametrize("document", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
def test_python_in_the_documents_is_python(document: Path) -> None:
    for block in blocks(document.read_text(), "python"):
        ast.parse(block)


def test_the_readmes_plugin_works_as_it_stands() -> None:
    block = next(b for b in blocks(README, "python") if "@head" in b)
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)
    mlp = names["mlp"]
    assert isinstance(mlp, Plugin)
    for params in (mlp.defaults, {**mlp.defaults, "depth": 0}):
        head = mlp.call({"features": 8, "classes": 3}, params)
        assert list(head.parameters())[-1].shape == (3,)


def test_every_kind_of_plugin_is_in_the_readme() -> None:
    for kind in GIVEN_ARGUMENTS:
        assert f"| `@{kind}` |" in README


def test_the_table_of_built_in_plugins_is_up_to_date() -> None:
    words = ["plugins", "list", "--format", "markdown", "--package", "autotl"]
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    there = (ROOT / "plugins" / "README.md").read_text()
    assert there == made.stdout, f"make it again: autotl {' '.join(words)} > plugins/README.md"


def test_every_room_is_on_the_map() -> None:
    rooms = {p.stem for p in (ROOT / "autotl").glob("*.py")} - {"__init__", "__main__"}
    rooms |= {f"{p.parent.name}/" for p in (ROOT / "autotl").glob("*/__init__.py")}
    table = ARCHITECTURE[ARCHITECTURE.index("| room |") : ARCHITECTURE.index("`plugins/` holds")]
    first = " ".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))
    assert set(re.findall(r"`([a-z/]+)`", first)) == rooms


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 60
