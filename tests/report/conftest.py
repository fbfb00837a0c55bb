"""Databases for tests of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import example_study
import pytest

from autotl.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty database."""
    opened = example_study.opened(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def complete_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a database with a study that has everything."""
    return example_study.whole(tmp_path_factory.mktemp("complete"))


@pytest.fixture
def complete_store(complete_database: Path, tmp_path: Path) -> Iterator[Store]:
    """A copy of that database."""
    opened = example_study.copied(complete_database, tmp_path)
    yield opened
    opened.close()
