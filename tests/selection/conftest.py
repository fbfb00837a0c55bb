"""Studies for tests of the end of a search, made once and copied for tests that change them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from images import write_images, write_plugin
from selection_helpers import (
    ALIKE,
    MISLABELLED,
    SMALL,
    Finished,
    Make,
    Search,
    Spy,
    configure,
    copy,
    favour,
    make_quick,
    read_facts,
    score_combination,
)

from autotl import data, engine
from autotl.events import Event
from autotl.selection.finish import Finish
from autotl.space import registry


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the final selection of a test quick."""
    make_quick(monkeypatch)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Records every training."""
    return Spy(monkeypatch)


@pytest.fixture(scope="session")
def run_trials(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs the trials of a study and stops before its final selection."""

    def run(options: dict[str, Any]) -> Path:
        out = tmp_path_factory.mktemp("trials") / "runs"
        with pytest.MonkeyPatch.context() as patch:
            make_quick(patch)
            patch.setattr(Finish, "run", lambda _: None)
            engine.run(configure(images, out, **options))
        return out

    return run


@pytest.fixture(scope="session")
def small_trials(run_trials: Callable[..., Path]) -> Path:
    """The trials of ``SMALL``."""
    return run_trials(SMALL)


@pytest.fixture(scope="session")
def alike_trials(run_trials: Callable[..., Path]) -> Path:
    """The trials of ``ALIKE``."""
    return run_trials(ALIKE)


@pytest.fixture
def small(images: Path, small_trials: Path, tmp_path: Path) -> Make:
    """A study of ``SMALL`` after its trials, before its final selection."""
    return copy(images, small_trials, tmp_path / "small", **SMALL)


@pytest.fixture
def alike(images: Path, alike_trials: Path, tmp_path: Path) -> Make:
    """A study of ``ALIKE`` after its trials, before its final selection."""
    return copy(images, alike_trials, tmp_path / "alike", **ALIKE)


@pytest.fixture(scope="session")
def finished_probe(
    images: Path, small_trials: Path, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """A finished study of ``SMALL``; the linear probe won and was tested."""
    make = copy(images, small_trials, tmp_path_factory.mktemp("finished") / "runs", **SMALL)
    notes: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        favour(patch, "linear_probe")
        result = engine.run(make(), notes.append)
    return Finished(make, dict(result.summary), notes)


@pytest.fixture
def finished(images: Path, finished_probe: Finished, tmp_path: Path) -> Finished:
    """A copy of ``finished_probe``."""
    make = copy(images, finished_probe.settings().out, tmp_path / "finished", **SMALL)
    return Finished(make, finished_probe.summary)


@pytest.fixture
def copy_of(images: Path, tmp_path: Path) -> Callable[..., Make]:
    """Copies a finished study; the settings that are returned continue it."""
    return lambda study, **options: copy(
        images, study.settings().out, tmp_path / "copied", **options
    )


@pytest.fixture(scope="session", params=["ensemble", "soup"])
def combination(
    request: pytest.FixtureRequest,
    images: Path,
    alike_trials: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    """A finished study of ``ALIKE``; an ensemble or a soup won with a score of 0.99."""
    make = copy(images, alike_trials, tmp_path_factory.mktemp(request.param) / "runs", **ALIKE)
    notes: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        favour(patch, "last_blocks")
        score_combination(patch, request.param, 0.99)
        result = engine.run(make(), notes.append)
    return Finished(make, dict(result.summary), notes, request.param)


def search(folder: Path, **options: Any) -> Search:
    """Search on images of which one has a wrong label."""
    write_images(folder / "photos")
    write_plugin(folder)
    (folder / "photos" / "red" / "0.png").rename(folder / "photos" / MISLABELLED)
    settings = configure(folder, folder / "runs", **{**SMALL, **options})
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        spy = Spy(patch)
        engine.run(settings)
    examples = registry.load().dataset(settings.data).call({"source": settings.data}, {})
    dataset = data.check(examples, settings.data)
    return Search(settings, read_facts(settings), spy.repeats, dataset)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """By accuracy; six epochs, so that the model knows its colours."""
    return search(tmp_path_factory.mktemp("accuracy"), trials=5, epochs=6)


@pytest.fixture(scope="session")
def searched_by_loss(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """By a metric of which less is better."""
    return search(tmp_path_factory.mktemp("loss"), metric="log_loss")
