"""What every test file needs."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgresql
import pytest
import torch
from gpu import with_gpu
from images import FAST, write_images, write_plugin

from autotl import study

torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other


def pytest_collection_finish() -> None:
    """Leave out of garbage collections what stays anyway: thousands of tests and all modules.

    A collection took a second, and each test of short memory makes several.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("gpu"):
            item.fixturenames.insert(0, "gpu")


@pytest.fixture
def gpu() -> Iterator[None]:
    """A GPU: that of the machine, or a simulated one."""
    with with_gpu():
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos`` and ``tiny_plugin.py``."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "photos")
    write_plugin(folder)
    return folder


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A PostgreSQL server that runs for the whole session; each test makes a database of its own.

    A test that stops it must start it again.
    """
    if reason := postgresql.missing():
        pytest.skip(reason)
    with postgresql.running_server() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., study.StudyConfig]:
    """Settings of a quick search on coloured pictures; keywords change them."""
    write_images(tmp_path / "photos")
    file = write_plugin(tmp_path)

    def make(**options: Any) -> study.StudyConfig:
        values = {"backbone": ["tiny"], "plugin": [file], "out": tmp_path / "runs", **FAST}
        return study.configure(str(tmp_path / "photos"), {**values, "trials": 6, **options})

    return make
