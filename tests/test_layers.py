"""The map of the package, as a test: which room may enter which, and which library it may use."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "autotl"
ALLOWED: dict[str, tuple[set[str], set[str]]] = {  # room: (rooms it may import, libraries)
    # From the bottom to the top; a room imports only from rooms above it in this list.
    "errors": (set(), set()),
    "events": (set(), set()),
    "files": (set(), set()),
    "image_files": (set(), set()),
    "space": ({"errors", "image_files"}, {"numpy", "packaging"}),
    "study": ({"errors", "files", "space"}, {"pydantic", "tomli_w"}),
    "scoring": ({"errors"}, {"numpy", "scipy", "sklearn"}),
    "tasks": ({"errors", "scoring", "space"}, {"numpy", "torch"}),
    "data": (
        {"errors", "files", "image_files", "space", "tasks"},
        {"PIL", "filelock", "fsspec", "numpy", "pillow_heif", "torch"},
    ),
    "models": (
        {"data", "errors", "scoring", "space", "tasks"},
        {"numpy", "openvino", "timm", "torch"},
    ),
    "frozen": ({"data", "files", "models"}, {"numpy", "torch"}),
    "training": (
        {"data", "errors", "files", "frozen", "models", "space"},
        {"numpy", "safetensors", "torch"},
    ),
    "artifact": (
        {"data", "errors", "files", "image_files", "models", "space", "tasks", "training"},
        {"jinja2", "numpy", "onnx", "onnxruntime", "pydantic", "safetensors", "timm", "torch"},
    ),
    "evaluation": (
        {"artifact", "data", "errors", "models", "scoring", "space", "tasks"},
        {"PIL", "captum", "numpy", "sklearn", "torch"},
    ),
    "testing": (
        {"data", "errors", "models", "space", "tasks", "training"},
        {"numpy", "safetensors", "torch"},
    ),
    "store": ({"errors"}, {"alembic", "filelock", "numpy", "optuna", "pydantic", "sqlalchemy"}),
    "search": (
        {"data", "errors", "events", "frozen", "models", "scoring", "space", "store", "study"}
        | {"training"},
        {"numpy", "optuna"},
    ),
    "selection": (
        {"artifact", "data", "errors", "evaluation", "events", "files", "models", "scoring"}
        | {"search", "space", "store", "study", "tasks", "training"},
        {"numpy"},
    ),
    "report": (
        {"errors", "files", "scoring", "search", "space", "store"},
        {"jinja2", "numpy", "optuna", "optuna_dashboard", "plotly", "pydantic"},
    ),
    "engine": (
        {"artifact", "data", "errors", "events", "files", "frozen", "models", "report"}
        | {"scoring", "search", "selection", "space", "store", "study", "tasks", "training"},
        {"numpy"},
    ),
    "__init__": ({"artifact", "engine", "errors", "events", "search", "space", "study"}, set()),
    "cli": (
        {"artifact", "data", "engine", "errors", "evaluation", "events", "files", "image_files"}
        | {"models", "report", "scoring", "search", "space", "store", "study", "tasks", "testing"},
        {"click", "ray", "rich"},
    ),
    "__main__": ({"cli"}, set()),
}
ONLY = {  # library: the only rooms that may ever be allowed to use it
    "torch": {"artifact", "data", "evaluation", "frozen", "models", "tasks", "testing"}
    | {"training"},
    "optuna": {"report", "search", "store"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "pydantic": {"artifact", "report", "store", "study"},
    "tomli_w": {"study"},
    "sklearn": {"evaluation", "scoring"},
    "scipy": {"scoring"},
    "click": {"cli"},
    "rich": {"cli"},
    "jinja2": {"artifact", "report"},
    "captum": {"evaluation"},
    "onnx": {"artifact"},
    "onnxruntime": {"artifact"},
    "openvino": {"models"},
    "plotly": {"report"},
    "optuna_dashboard": {"report"},
}
MOST_ROOMS = 23


def rooms() -> dict[str, list[Path]]:
    """The modules of every room: a file, or a package with all that is in it."""
    packages = {p.parent.name: sorted(p.parent.rglob("*.py")) for p in ROOT.glob("*/__init__.py")}
    return {**{p.stem: [p] for p in ROOT.glob("*.py")}, **packages}


def named(text: str) -> Iterator[str]:
    """Everything that a module imports, in full: at its top, in functions, for type checkers."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write 'from autotl...', not 'from .'"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(text: str) -> tuple[set[str], set[str]]:
    """The rooms that a module enters, and the libraries beyond Python's own that it uses."""
    entered, libraries = set(), set()
    for name in named(text):
        top, _, rest = name.partition(".")
        room = rest.partition(".")[0]
        if top == "autotl":
            entered.add(room if room in rooms() else "__init__")
        elif top not in sys.stdlib_module_names:
            libraries.add(top)
    return entered, libraries


def of_room(name: str) -> tuple[set[str], set[str]]:
    found = [imported(path.read_text()) for path in rooms()[name]]
    return set().union(*(f[0] for f in found)) - {name}, set().union(*(f[1] for f in found))


def test_imports_are_seen_in_all_their_forms() -> None:
    text = """
import torch.nn as nn, os.path
from autotl.space import space
from autotl import Range
from autotl.data.split import split
import autotl.store
if TYPE_CHECKING:
    from numpy.typing import NDArray
def f():
    from autotl import cli as c
    import optuna
"""
    entered, libraries = imported(text)
    assert entered == {"space", "__init__", "data", "store", "cli"}
    assert libraries == {"torch", "numpy", "optuna"}
    with pytest.raises(AssertionError, match="line 1"):
        imported("from . import space")


def test_the_map_is_complete() -> None:
    assert set(ALLOWED) == set(rooms())
    assert len(ALLOWED) <= MOST_ROOMS


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_imports_only_what_the_map_allows(name: str) -> None:
    entered, libraries = of_room(name)
    assert entered <= ALLOWED[name][0], f"{name} may not enter {entered - ALLOWED[name][0]}"
    assert libraries <= ALLOWED[name][1], f"{name} may not use {libraries - ALLOWED[name][1]}"


@pytest.mark.parametrize("library", ONLY)
def test_the_map_keeps_libraries_in_their_rooms(library: str) -> None:
    assert {name for name, (_, used) in ALLOWED.items() if library in used} <= ONLY[library]


def test_no_import_points_upwards() -> None:
    """The rooms stand in order, so that there is no circle among them either."""
    order = list(ALLOWED)
    for name, (imported_rooms, _) in ALLOWED.items():
        above = {other for other in imported_rooms if order.index(other) >= order.index(name)}
        assert not above, f"{name} may not import {above}, which stand above it"


def test_the_search_knows_nothing_of_the_report_and_training_nothing_of_optuna() -> None:
    assert "report" not in ALLOWED["search"][0]
    assert "optuna" not in ALLOWED["training"][1]


def test_nobody_enters_the_front_of_the_house() -> None:
    assert {name for name, (entered, _) in ALLOWED.items() if "cli" in entered} == {"__main__"}
    assert not [name for name, (entered, _) in ALLOWED.items() if "__init__" in entered]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_names_no_package_of_plugins(path: Path) -> None:
    assert "autotl_plugins" not in path.read_text()


LONGEST_FUNCTION = 60
"""Lines from the first decorator or ``def`` to the end; ruff limits complexity and statements."""


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION} == {}
