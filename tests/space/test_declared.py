"""The names of plugins, read from their sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotl.space import registry
from autotl.space.declared import declared_names


def test_the_names_are_those_that_the_import_finds() -> None:
    available = registry.load()
    declared = declared_names()
    assert declared == {kind: set(available.names(kind)) for kind in declared}
    assert set(declared) == {"freeze", "head", "augment", "optimizer", "balance", "dataset"}


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
    assert declared_names([file])["head"] - declared_names()["head"] == heads
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
    assert declared_names([file]) == {}


def test_the_names_of_a_family_are_not_known(tmp_path: Path) -> None:
    file = tmp_path / "plugin.py"
    file.write_text("from autotl import head\n@head(members=f)\ndef all(features, classes): ...")
    assert "head" not in declared_names([file])
