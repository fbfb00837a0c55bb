"""The documents are true: commands, options, study files, plugins, rooms, keys, links."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner
from images import write_plugin
from test_layers import ALLOWED, rooms

import autotl
from autotl import study
from autotl.cli import main
from autotl.space import registry, space
from autotl.space.kinds import GIVEN_ARGUMENTS
from autotl.space.plugin import Plugin
from autotl.testing import check

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "plugins/**/*.md", "studies/**/*.md")
    for path in ROOT.glob(pattern)
)


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def commands(group: click.Group = main, path: str = "autotl") -> dict[str, click.Command]:
    all_commands: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            all_commands |= commands(command, f"{path} {name}")
        else:
            all_commands[f"{path} {name}"] = command
    return all_commands


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def command_lines(text: str) -> list[str]:
    """The calls of ``autotl`` in the shell blocks of a document."""
    return [
        call
        for block in blocks(text, "bash")
        for line in block.splitlines()
        for part in line.split("&&")
        if (call := part.strip().removeprefix(".venv/bin/")).startswith("autotl ")
    ]


def section(text: str, heading: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows(table: str) -> list[list[str]]:
    """The cells of the rows of Markdown tables."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def in_code(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_command_has_help_and_is_in_the_reference() -> None:
    cells = [row[0] for row in rows(section(REFERENCE, "Commands"))]
    for name, command in commands().items():
        assert command.help, name
        first, *rest = name.removeprefix("autotl ").split()
        row = next((cell for cell in cells if cell.startswith(f"`autotl {first}")), "")
        assert row, f"{name} is not in the table of commands"
        assert all(word in row for word in rest), f"{name} is not in {row!r}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_in_the_documents_exist_with_their_options(document: Path) -> None:
    existing = commands()
    for line in command_lines(document.read_text()):
        name = next((n for n in existing if line.startswith(f"{n} ")), None)
        assert name, f"{document.name}: {line}"
        options = {o for p in existing[name].params for o in p.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= options, line


@pytest.mark.parametrize("document", [ROOT / "README.md", *ROOT.glob("docs/*.md")], ids=name_of)
def test_options_in_the_text_exist(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    named = {word for code in in_code(text) for word in re.findall(r"(?<!\S)--[a-z-]+", code)}
    params = [param for command in commands().values() for param in command.params]
    assert named <= {o for p in params for o in (*p.opts, *p.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("name", ["search", "tests"])
def test_the_readmes_commands_are_one_line_each(name: str) -> None:
    """They can be pasted at once; CI runs them from there."""
    block = README.split(f"\n<!-- {name} -->\n```bash\n", 1)[1].split("```", 1)[0]
    assert len(block.splitlines()) == 1
    assert "autotl search" in block if name == "search" else "pytest" in block


def test_options_of_search_are_settings_and_the_other_way_round() -> None:
    of_this_run = {"data", "quiet", "isolate", "workers", "per_gpu", "ray", "join"}
    options = {p.name for p in commands()["autotl search"].params} - of_this_run
    settings = set(study.StudyConfig.model_fields) - {"data", "space", "views", "label_smoothing"}
    assert options == settings


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.toml")), ids=lambda p: p.name)
def test_study_files_are_valid(file: Path) -> None:
    assert study.configure(str(file), {}).data
    tomllib.loads(file.read_text())


def test_the_references_study_file_is_valid(tmp_path: Path) -> None:
    [block] = blocks(REFERENCE, "toml")
    (tmp_path / "my_study.toml").write_text(block)
    settings = study.configure(str(tmp_path / "my_study.toml"), {})
    chosen = {**settings.requested, "backbone": ["tiny"]}
    plugins = registry.load([write_plugin(tmp_path)])
    flat = space.build_space(plugins, chosen, settings.space).describe()
    assert flat["freeze.last_blocks.fraction"] == "0.3 to 0.7"
    assert flat["head.mlp.depth"] == "1"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_python_in_the_documents_is_python(document: Path) -> None:
    for block in blocks(document.read_text(), "python"):
        ast.parse(block)


@pytest.mark.parametrize("document", ["README.md", "docs/reference.md"])
def test_the_plugins_in_the_documents_work_as_they_stand(document: str) -> None:
    block = next(b for b in blocks((ROOT / document).read_text(), "python") if "@head" in b)
    names: dict[str, object] = {"__name__": "documentation"}
    exec(compile(block, document, "exec"), names)
    [plugin] = [value for value in names.values() if isinstance(value, Plugin)]
    depths = [{"depth": 0}, {"depth": 1}] if "depth" in plugin.defaults else [{}]
    for params in depths:
        head = plugin.call({"features": 8, "classes": 3}, {**plugin.defaults, **params})
        assert list(head.parameters())[-1].shape == (3,)


def test_the_loss_metric_and_task_in_the_reference_satisfy_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = next(b for b in blocks(REFERENCE, "python") if "@loss" in b)
    module = ModuleType("documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block, "docs/reference.md", "exec"), vars(module))
    plugins = [value for value in vars(module).values() if isinstance(value, Plugin)]
    assert [plugin.kind for plugin in plugins] == ["loss", "metric", "task"]
    assert all(check(plugin) >= 1 for plugin in plugins)


def test_names_of_the_library_in_the_documents_exist() -> None:
    for name in re.findall(r"\bautotl\.([A-Za-z_]+)\b", README + REFERENCE):
        assert hasattr(autotl, name) or name in ("db", "testing"), name


def test_every_kind_of_plugin_is_in_the_reference() -> None:
    kinds = [in_code(row[0]) for row in rows(section(REFERENCE, "Plugins"))]
    for kind, arguments in GIVEN_ARGUMENTS.items():
        assert {f"@{kind}"} in kinds
        [row] = [row for row in rows(section(REFERENCE, "Plugins")) if f"`@{kind}`" in row[0]]
        assert in_code(row[1]) == set(arguments) - {"name", "weights"}  # those are of families
    assert f"{len(GIVEN_ARGUMENTS)} [kinds of plugin]" in README


def test_the_table_of_built_in_plugins_is_up_to_date() -> None:
    words = ["plugins", "list", "--format", "markdown", "--package", "autotl"]
    made = CliRunner().invoke(main, words)
    assert made.exit_code == 0, made.output
    stored = (ROOT / "plugins" / "README.md").read_text()
    assert stored == made.stdout, f"write it with: autotl {' '.join(words)} > plugins/README.md"


def modules_of(room: str) -> set[str]:
    """The modules of a package, and its packages; none for a room that is a single module."""
    folder = ROOT / "autotl" / room
    modules = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    return modules - {"__init__"}


def test_the_map_has_every_room_with_its_modules_and_imports() -> None:
    table = rows(section(ARCHITECTURE, "The rooms"))[1:]
    table = [row for row in table if not set(row[0]) <= {"-"}]
    assert [row[0].strip("`/") for row in table] == list(ALLOWED)
    for cell, _, modules, imported, libraries in table:
        room = cell.strip("`/")
        assert cell.endswith("/`") == (ROOT / "autotl" / room).is_dir(), cell
        assert in_code(modules) == modules_of(room), cell
        assert in_code(imported) == ALLOWED[room][0], cell
        assert set(filter(None, libraries.split(", "))) == ALLOWED[room][1], cell


def test_the_picture_of_the_rooms_has_the_rooms_that_do_the_work() -> None:
    picture = ARCHITECTURE.split("```")[1]
    basics = {"errors", "events", "files", "study", "testing", "__main__"}
    missing = {room for room in rooms() if not re.search(rf"\b{room}\b", picture)} - basics
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text()):
        if target.startswith("http"):
            continue
        file = document.parent / target if target else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_of_the_project_that_are_named_exist(document: Path) -> None:
    folders = ("autotl", "docs", "plugins", "studies", "tests")
    for name in in_code(document.read_text()):
        if re.fullmatch(rf"(?:{'|'.join(folders)})/[\w/.-]+", name):
            assert (ROOT / name).exists(), name


def test_sections_of_the_report_are_those_of_the_page() -> None:
    template = (ROOT / "autotl" / "report" / "page.html.j2").read_text()
    ids = re.findall(r'<(?:section id|div class="result" id)="(\w+)"', template)
    text = section(REFERENCE, "Run folder")
    assert re.findall(r"`(\w+)`", text[text.index("have the ids") :])[: len(ids)] == ids


def test_contributing_is_short_and_links_the_glossary() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(text.splitlines()) <= 60
    assert "(docs/glossary.md)" in text


def test_the_glossary_has_one_line_for_each_term() -> None:
    table = rows((ROOT / "docs" / "glossary.md").read_text())
    terms = [row[0] for row in table if row[0] != "term"]
    assert all(len(row) == 2 for row in table)
    assert len(terms) == len(set(terms)) >= 40
