"""The map of the package, as a test: which room may enter which, and which library it may use."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "autotl"
ALLOWED: dict[str, tuple[set[str], set[str]]] = {  # room: (rooms it may enter, libraries)
    "__init__": ({"engine", "errors", "memory", "plugin", "progress", "study"}, set()),
    "__main__": ({"cli"}, set()),
    # What everything rests on: the standard library only.
    "errors": (set(), set()),
    "plugin": ({"errors"}, set()),
    "progress": (set(), set()),
    "budget": (set(), set()),
    "memory": (set(), set()),
    "registry": ({"errors", "plugin"}, {"packaging"}),
    "space": ({"errors", "plugin", "registry"}, set()),
    # What a study is asked to do, and what a score is.
    "study": ({"errors", "plugin"}, {"pydantic", "tomli_w"}),
    "metrics": ({"errors"}, {"numpy", "scipy", "sklearn"}),
    "calibration": ({"metrics"}, {"numpy", "scipy"}),
    "transferability": (set(), {"numpy", "scipy"}),
    # From pictures to a trained model: torch, and never Optuna.
    "data": ({"errors", "plugin"}, {"PIL", "numpy", "torch"}),
    "cache": ({"data"}, {"numpy", "torch"}),
    "kernels": (set(), {"torch"}),
    "model": ({"errors", "kernels", "plugin", "space"}, {"timm", "torch"}),
    "cut": ({"model"}, {"torch"}),
    "finetune": (
        {"cache", "cut", "data", "errors", "model", "plugin", "space"},
        {"numpy", "torch"},
    ),
    "ensemble": ({"calibration", "metrics", "model"}, {"numpy", "torch"}),
    "snippet": ({"model", "space"}, {"timm", "torch"}),
    "card": ({"errors", "snippet"}, {"jinja2"}),
    "artifact": (
        {"card", "data", "ensemble", "errors", "finetune", "model", "registry", "snippet"}
        | {"space"},
        {"numpy", "safetensors", "torch"},
    ),
    # What a saved model is good for.
    "evaluation": (
        {"artifact", "calibration", "errors", "metrics", "plugin"},
        {"numpy", "sklearn"},
    ),
    "export": (
        {"artifact", "data", "errors", "model", "plugin"},
        {"numpy", "onnx", "onnxruntime", "torch"},
    ),
    "explain": ({"errors", "model"}, {"PIL", "captum", "numpy", "torch"}),
    # What authors of plugins test with.
    "testing": (
        {"data", "errors", "finetune", "model", "plugin", "registry", "space"},
        {"numpy", "safetensors", "torch"},
    ),
    # What is remembered: the database.
    "migrations": ({"errors"}, {"alembic", "sqlalchemy"}),
    "store": ({"errors", "migrations"}, {"optuna", "sqlalchemy"}),
    # What is told.
    "report": ({"errors", "metrics", "plugin", "store"}, {"jinja2", "optuna", "plotly"}),
    "dashboard": (
        {"errors", "report", "store"},
        {"PIL", "numpy", "optuna", "optuna_dashboard"},
    ),
    "live": ({"metrics", "progress", "report", "store"}, {"rich"}),
    # The search: Optuna, and never torch.
    "carry": ({"plugin", "space"}, {"optuna"}),
    "portfolio": ({"space", "store"}, {"optuna"}),
    "history": ({"report", "space", "store"}, set()),
    "pruner": (set(), {"numpy", "optuna"}),
    "sampler": (set(), {"optuna"}),
    "board": ({"budget", "metrics", "report", "store"}, set()),
    "trainings": (
        {"budget", "cache", "data", "finetune", "metrics", "model", "progress", "registry"}
        | {"space", "store", "study"},
        set(),
    ),
    "planning": ({"budget", "errors", "finetune", "model", "space", "trainings"}, set()),
    "resume": (
        {"carry", "errors", "metrics", "portfolio", "progress", "pruner", "registry", "space"}
        | {"store", "study"},
        {"optuna"},
    ),
    "trials": (
        {"board", "budget", "cache", "data", "errors", "finetune", "history", "metrics", "model"}
        | {"planning", "portfolio", "progress", "registry", "resume", "sampler", "space", "store"}
        | {"study", "trainings", "transferability"},
        {"optuna"},
    ),
    "compare": (set(), {"numpy", "scipy"}),
    "gallery": ({"data", "errors", "explain", "metrics", "model"}, {"PIL", "numpy"}),
    "handover": (
        {"artifact", "calibration", "card", "ensemble", "errors", "finetune", "gallery", "metrics"}
        | {"model", "progress", "space", "store", "study", "trials"},
        {"numpy"},
    ),
    "runs": (
        {"data", "ensemble", "errors", "finetune", "metrics", "model", "progress", "store"}
        | {"board", "budget", "trials"},
        {"numpy"},
    ),
    "finals": (
        {"calibration", "compare", "data", "ensemble", "errors", "finetune", "gallery", "handover"}
        | {"metrics", "model", "progress", "runs", "board", "trials"},
        {"numpy"},
    ),
    "engine": (
        {"artifact", "budget", "dashboard", "data", "errors", "finals", "finetune", "metrics"}
        | {"cache", "model", "progress", "registry", "report", "resume", "space", "store"}
        | {"study", "trials"},
        {"numpy"},
    ),
    "cli": (
        {
            "artifact",
            "dashboard",
            "data",
            "engine",
            "errors",
            "live",
            "memory",
            "model",
            "plugin",
            "registry",
            "report",
        }
        | {"evaluation", "export", "metrics", "store", "study", "testing"},
        {"click"},
    ),
}
ONLY = {  # library: the only rooms that may ever be allowed to use it
    "torch": {"artifact", "cache", "cut", "data", "finetune", "model", "testing"}
    | {"ensemble", "explain", "export", "kernels", "snippet"},
    "optuna": {"carry", "dashboard", "migrations", "portfolio", "pruner", "report", "resume"}
    | {"sampler", "store", "trials"},
    "sqlalchemy": {"migrations", "store"},
    "alembic": {"migrations", "store"},
    "pydantic": {"study"},
    "tomli_w": {"study"},
    "sklearn": {"data", "evaluation", "handover", "metrics"},
    "scipy": {"calibration", "compare", "data", "metrics", "transferability"},
    "click": {"cli"},
    "rich": {"live"},
    "jinja2": {"card", "report"},
    "captum": {"explain"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "plotly": {"report"},
    "optuna_dashboard": {"dashboard"},
}


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
from autotl import space, Range
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


@pytest.mark.parametrize("name", ALLOWED)
def test_a_room_imports_only_what_the_map_allows(name: str) -> None:
    entered, libraries = of_room(name)
    assert entered <= ALLOWED[name][0], f"{name} may not enter {entered - ALLOWED[name][0]}"
    assert libraries <= ALLOWED[name][1], f"{name} may not use {libraries - ALLOWED[name][1]}"


@pytest.mark.parametrize("library", ONLY)
def test_the_map_keeps_libraries_in_their_rooms(library: str) -> None:
    assert {name for name, (_, used) in ALLOWED.items() if library in used} <= ONLY[library]


def test_the_map_has_no_circles() -> None:
    # "__init__" is what authors import; inside, only functions of it go back to the rooms.
    graph = {name: entered for name, (entered, _) in ALLOWED.items() if name != "__init__"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these rooms go in a circle: {' -> '.join(error.args[1])}")


def test_nobody_enters_the_front_of_the_house() -> None:
    assert {name for name, (entered, _) in ALLOWED.items() if "cli" in entered} == {"__main__"}
    assert not [name for name, (entered, _) in ALLOWED.items() if "__init__" in entered]


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_names_no_package_of_plugins(path: Path) -> None:
    assert "autotl_plugins" not in path.read_text()
