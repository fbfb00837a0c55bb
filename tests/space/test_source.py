"""The digest of a plugin's source: what changes it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from autotl import backbone
from autotl.space.source import library_versions, source_digest

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a package ``ours`` or one beside it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "__init__.py").touch()

    def write(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        importlib.invalidate_caches()

    yield write
    for name in [n for n in sys.modules if n.partition(".")[0] in ("ours", "beside")]:
        del sys.modules[name]


def digest() -> str:
    source_digest.cache_clear()
    return source_digest("ours.plugins")


@pytest.mark.parametrize(
    "line",
    [
        "from ours.helper import f",
        "from . import helper",
        "from .helper import f",
        "import ours.helper",
        "def late():\n    from ours import helper",
        "import beside",
    ],
)
def test_the_source_of_an_imported_module_changes_the_digest(write: Write, line: str) -> None:
    write("ours/plugins.py", f"{line}\n")
    for name in ("ours/helper.py", "beside.py"):
        write(name, "f = 1\n")
    importlib.import_module("ours.plugins")
    before = digest()
    assert digest() == before
    write("beside.py" if "beside" in line else "ours/helper.py", "f = 2\n")
    assert digest() != before


def test_imports_are_followed_and_may_be_a_circle(write: Write) -> None:
    write("ours/plugins.py", "import ours.helper\n")
    write("ours/helper.py", "import ours.plugins, beside\n")
    write("beside.py", "x = 1\n")
    before = digest()
    write("beside.py", "x = 2\n")
    assert digest() != before


def test_of_an_installed_package_the_version_counts(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    write("ours/plugins.py", "import timm\nimport os\nimport not_installed\n")
    before = digest()
    monkeypatch.setattr(timm, "__version__", "0")
    assert digest() != before


def test_a_version_is_read_without_a_warning(write: Write) -> None:
    """Click warns if its ``__version__`` is read."""
    import click  # noqa: F401

    write("ours/plugins.py", "import click\n")
    with_click = digest()
    write("ours/plugins.py", "import timm\n")
    assert digest() != with_click


def test_a_module_without_a_file_has_a_digest() -> None:
    assert source_digest("nowhere") == source_digest("nowhere")


def test_the_libraries_of_a_plugin_are_its_own_distribution_and_those_it_requires() -> None:
    requires = ["numpy[extra]>=1.0", "autotl", "no-such-distribution; sys_platform == 'none'"]
    plugin = backbone(requires=requires)(lambda: None)
    numpy = {"numpy": version("numpy")}
    assert library_versions(plugin) == numpy
    assert library_versions(replace(plugin, origin="file a.py sha256:12")) == numpy
    assert library_versions(replace(plugin, origin="autotl 1.0")) == numpy
    installed = replace(plugin, origin="some-plugins 1.2.dev3")
    assert library_versions(installed) == {**numpy, "some-plugins": "1.2.dev3"}
