"""What is read of a study without a library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotl.store import Store, default_url
from autotl.store.quick import lock_file, read_identity, sqlite_file

IDENTITY = {"seed": 3, "image_size": [96], "validation": None}


def test_the_identity_is_read_as_the_store_reads_it(tmp_path: Path) -> None:
    store = Store(default_url(tmp_path))
    file = tmp_path / "autotl.db"
    assert read_identity(file, "s") is None
    store.begin_study("s", identity=IDENTITY)
    store.begin_trial("s", 0, {}, 3)
    store.finish_trial("s", 0, "failed")
    assert read_identity(file, "s") is None  # no complete trial depends on the settings
    store.begin_trial("s", 1, {}, 3)
    store.finish_trial("s", 1, "complete", score=0.5)
    assert read_identity(file, "s") == store.study("s").identity == IDENTITY
    assert read_identity(file, "t") is None
    store.close()
    assert read_identity(file, "s") == IDENTITY


def test_a_file_that_cannot_be_read_is_left_to_the_store(tmp_path: Path) -> None:
    assert read_identity(tmp_path / "missing.db", "s") is None
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "text.db").write_text("no database" * 100)
    assert read_identity(tmp_path / "text.db", "s") is None


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///runs/a.db", Path("runs/a.db")),
        ("sqlite:////tmp/a b.db?timeout=3", Path("/tmp/a b.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://u@h/x", None),
    ],
)
def test_the_file_of_a_url(url: str, file: Path | None) -> None:
    assert sqlite_file(url) == file


def test_a_symbolic_link_to_a_database_has_its_lock(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    (tmp_path / "link.db").symlink_to("a.db")
    direct, linked = (lock_file(tmp_path / name, "s", tmp_path) for name in ("a.db", "link.db"))
    assert direct == linked


def test_no_library_is_loaded() -> None:
    code = "import autotl.store.quick, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"sqlalchemy", "optuna", "alembic", "numpy", "pydantic"}.isdisjoint(done.stdout.split())
