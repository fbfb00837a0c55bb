"""Searches without their end, for tests of the loop of trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import FAST

from autotl import engine, study
from autotl.events import Listener, ignore
from autotl.selection.finish import Finish

Run = Callable[..., engine.Result]


@pytest.fixture(scope="session")
def configure(images: Path) -> Callable[..., study.StudyConfig]:
    """Makes the settings of a quick search with its database in ``out``."""

    def make(out: Path, **options: Any) -> study.StudyConfig:
        plugin = [images / "tiny_plugin.py"]
        values = {"backbone": ["tiny"], "plugin": plugin, "out": out, **FAST, "trials": 6}
        return study.configure(str(images / "photos"), {**values, **options})

    return make


@pytest.fixture
def settings(
    configure: Callable[..., study.StudyConfig], tmp_path: Path
) -> Callable[..., study.StudyConfig]:
    """Makes the settings of a quick search with a database of its own."""
    return lambda **options: configure(**{"out": tmp_path / "runs", **options})


@pytest.fixture(scope="session")
def run_trials() -> Run:
    """Runs the trials of a study, without a final selection, a refit, a test or a report."""

    def run(settings: study.StudyConfig, listener: Listener = ignore) -> engine.Result:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Finish, "run", lambda _: None)
            patch.setattr(Finish, "save_best_so_far", lambda _: None)
            patch.setattr(engine.steps, "conclude", lambda *_: {})
            return engine.run(settings, listener)

    return run
