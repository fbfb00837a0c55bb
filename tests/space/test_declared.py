"""The names of plugins, read from their sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autotl.space import registry
from autotl.space.declared import read_declarations
from autotl.space.kinds import GIVEN_ARGUMENTS


def test_the_names_are_those_that_the_import_finds() -> None:
    available = registry.load()
    declared = read_declarations()
    assert declared.names == {kind: set(available.names(kind)) for kind in GIVEN_ARGUMENTS}
    assert declared.is_family("backbone", "timm")
    assert declared.families("backbone")[0].name == "timm"


def test_the_keywords_are_those_that_the_import_finds() -> None:
    declared, plugins = read_declarations(), list(registry.load())
    read = [(plugin, declared.keywords(plugin.kind, plugin.name)) for plugin in plugins]
    clear = [(plugin, own) for plugin, own in read if own]
    for plugin, own in clear:
        assert own.settings == plugin.settings
        pairs = zip(own.hyperparameters, plugin.hyperparameters, strict=True)
        assert all(replace(a, when=None) == replace(b, when=None) for a, b in pairs)
    assert len(clear) > 0.7 * len(plugins), "the others use names of other modules"


def test_the_tasks_of_plugins_are_those_that_the_import_finds(tmp_path: Path) -> None:
    declared = read_declarations()
    tasks = declared.names["task"]
    for plugin in registry.load():
        for task in tasks:
            suits = declared.suits(plugin.kind, plugin.name, task)
            assert suits == plugin.suits(task), (plugin.name, task)
    own = {task for task in tasks if declared.has_own_targets(task)}
    assert own == tasks - {"classification", "ordinal"}
    file = tmp_path / "plugin.py"
    file.write_text(
        "from autotl import metric\nfrom x import names\n"
        "@metric(tasks=names())\ndef hits(targets, predictions):\n    return 1.0\n"
    )
    assert read_declarations([file]).suits("metric", "hits", "regression"), "it is not clear"


@pytest.mark.parametrize(
    "keyword",
    ["lr: Annotated[float, Range(0, WIDTH)] = 1", "lr: Other = 1", "lr: int", "lr: int = 1 / 0",
     "lr: Annotated[int, Range(2, 1)] = 1"],
)  # fmt: skip
def test_keywords_that_are_not_clear_are_not_known(keyword: str, tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(
        "from typing import Annotated\nfrom autotl import Range as R, head\n"
        f"WIDTH = len('x')\n@head\ndef mine(features, classes, *, {keyword}): ...\n"
        "@head\ndef clear(features: X, classes, *, w: Annotated[int, R(1, 4)] = 2): ..."
    )
    declared = read_declarations([file])
    assert declared.keywords("head", "mine") is None
    clear = declared.keywords("head", "clear")
    assert clear
    assert clear.hyperparameters[0].domain == "1 to 4"


@pytest.mark.parametrize(
    ("source", "heads"),
    [
        ("from autotl import head\n@head\ndef mine(features, classes): ...", {"mine"}),
        ("import autotl as a\n@a.head(name='own')\ndef mine(features, classes): ...", {"own"}),
        (
            "from functools import cache\nfrom autotl import head as h\n"
            "@cache\ndef helper(): ...\n@h(takes='map')\ndef mine(features, classes): ...",
            {"mine"},
        ),
    ],
)
def test_decorated_functions_are_found(source: str, heads: set[str], tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(source)
    assert read_declarations([file]).names["head"] - read_declarations().names["head"] == heads
    assert {p.name for p in registry.load([file]) if p.origin.startswith("file")} == heads


@pytest.mark.parametrize(
    "source",
    [
        "from autotl import head\ndef f(features, classes): ...\nx = head(name='x' + '1')(f)",
        "from autotl import head\nN = 'x'\n@head(name=N)\ndef f(features, classes): ...",
        "from autotl import head\n@head(**{'name': 'x'})\ndef f(features, classes): ...",
        "from mine import my_head\n@my_head\ndef f(features, classes): ...",
        "from autotl import *\n@head\ndef f(features, classes): ...",
        "import autotl.space.plugin\n@autotl.space.plugin.head\ndef f(features, classes): ...",
        "def broken(",
    ],
)
def test_a_source_that_does_not_tell_all_names_tells_none(source: str, tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text(source)
    assert read_declarations([file]).names == {}


def test_the_names_of_a_family_are_not_known(tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text("from autotl import head\n@head(members=f)\ndef all(features, classes): ...")
    assert "head" not in read_declarations([file]).names
