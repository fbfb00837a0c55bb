"""What importing and asking for help cost: no heavy library; and what the package offers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import autotl

HEAVY = {"torch", "timm", "optuna", "sklearn", "sqlalchemy", "torchvision", "pydantic", "numpy"}
HEAVY |= {"scipy", "rich", "jinja2", "alembic", "PIL", "huggingface_hub"}
HELP = "from autotl.cli import main; main(['--help'], standalone_mode=False)"
SEARCH = "from autotl.cli import main; main(['search', '--help'], standalone_mode=False)"
PLUGINS = "from autotl.cli import main; main(['plugins', '--help'], standalone_mode=False)"
ROOT = Path(__file__).parents[1]
CODES = {"import": "import autotl", "help": HELP, "search help": SEARCH, "plugins help": PLUGINS}


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_the_beginning_is_light(code: str) -> None:
    ask = f"{code}\nimport sys; print('loaded:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    text, _, loaded = done.stdout.rpartition("loaded:")
    assert "autotl.space.plugin" in loaded.split()
    assert sorted(HEAVY & set(loaded.split())) == []
    assert ("Usage:" in text) == ("help" in code)


def test_what_is_offered_is_sorted_and_there() -> None:
    assert autotl.__all__ == sorted(autotl.__all__)
    assert len(set(autotl.__all__)) == len(autotl.__all__)
    assert [name for name in autotl.__all__ if not hasattr(autotl, name)] == []


def test_an_author_finds_a_decorator_for_every_kind() -> None:
    from autotl.space.kinds import GIVEN_ARGUMENTS

    assert set(GIVEN_ARGUMENTS) <= set(autotl.__all__)


def test_an_installed_copy_has_every_room_and_file() -> None:
    """Tests run from the folder, where a forgotten line of pyproject.toml is not missed."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {file.parent for file in (ROOT / "autotl").rglob("__init__.py")}
    names = {".".join(room.relative_to(ROOT).parts) for room in rooms}
    assert names | {"autotl_plugins"} == set(setuptools["packages"])
    taken = {
        file
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    beside = {file for room in rooms for file in room.iterdir() if file.is_file()}
    assert {file for file in beside if file.suffix != ".py"} == taken
