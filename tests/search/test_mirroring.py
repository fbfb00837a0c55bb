"""Tests of the measurement whether images may be mirrored."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from images import write_images
from PIL import Image

from autotl import engine, events
from autotl.data import IMAGES, Source
from autotl.errors import GpuError, OutOfMemory, StoreError
from autotl.frozen import FeatureCache
from autotl.models import select_device
from autotl.scoring.metrics import METRICS
from autotl.search import mirroring
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.mirroring import FEWEST_SCORED, measure_mirroring
from autotl.space import registry, space
from autotl.space.space import Space
from autotl.study import StudyConfig

Search = tuple[Space, TrainingContext]
Prepare = Callable[..., Search]


@pytest.fixture
def prepare(configure: Callable[..., StudyConfig], tmp_path: Path) -> Prepare:
    """Makes the search space and the context of a search on a folder."""

    def make(folder: Path) -> Search:
        settings = configure(tmp_path / "runs", validation=0.5, test=0.1).model_copy(
            update={"data": str(folder)}
        )
        plugins = registry.load(settings.plugin)
        examples = list(plugins.dataset(settings.data).call({"source": settings.data}, {}))
        dataset = engine.load_dataset(settings, Source(examples, [], IMAGES), events.ignore)
        device, cache = select_device("cpu", "float32"), FeatureCache(folder=tmp_path / "cache")
        context = TrainingContext(
            settings,
            dataset,
            METRICS["accuracy"],
            device,
            Budget(None),
            events.ignore,
            plugins,
            cache,
            {},
            {},
        )
        return space.build_space(plugins, settings.requested, {}), context

    return make


def write_ramps(folder: Path, count: int = 70) -> Path:
    """Write ``folder/rising|falling/*.png``: images that become brighter or darker."""
    random = np.random.default_rng(0)
    for name, sign in (("rising", 1), ("falling", -1)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            ramp = 128 + sign * np.linspace(-100, 100, 40)[None, :, None]
            pixels = (ramp + random.normal(0, 20, (40, 40, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_directions_do_not_survive_and_colours_do(prepare: Prepare, tmp_path: Path) -> None:
    ramps = measure_mirroring(*prepare(write_ramps(tmp_path / "ramps")))
    assert ramps
    assert ramps.n >= FEWEST_SCORED
    assert ramps.accuracy > 0.9
    assert ramps.mirrored < 0.1
    assert not ramps.survives
    colours = measure_mirroring(*prepare(write_images(tmp_path / "colours", count=40)))
    assert colours
    assert colours.accuracy > 0.9
    assert colours.survives


def test_the_first_probe_finds_the_features_in_the_cache(prepare: Prepare, tmp_path: Path) -> None:
    search_space, context = prepare(write_ramps(tmp_path / "ramps"))
    assert context.cache.usage().entries == 0
    first = measure_mirroring(search_space, context)
    assert context.cache.usage().entries == 1
    assert measure_mirroring(search_space, context) == first


def test_nothing_is_measured_on_few_images_or_without_time(
    prepare: Prepare, tmp_path: Path
) -> None:
    few = write_ramps(tmp_path / "few", count=FEWEST_SCORED // 2)
    assert measure_mirroring(*prepare(few)) is None
    search_space, context = prepare(write_ramps(tmp_path / "ramps"))
    short = replace(context, budget=Budget(1e-6))
    assert measure_mirroring(search_space, short) is None
    ample = replace(context, budget=Budget(600.0))
    assert measure_mirroring(search_space, ample) is not None


def test_errors_of_the_model_are_left_to_its_trials_and_faults_of_the_machine_are_not(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_space, context = prepare(write_ramps(tmp_path / "ramps"))
    error: Exception = ValueError("a plugin's own")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(TrainingContext, "build", fail)
    assert measure_mirroring(search_space, context) is None
    error = OutOfMemory("the model does not fit")
    assert measure_mirroring(search_space, context) is None
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StoreError, match=r"the search ended: .*No space left"):
        measure_mirroring(search_space, context)
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(GpuError, match="an illegal memory access"):
        measure_mirroring(search_space, context)
    monkeypatch.undo()
    monkeypatch.setattr(mirroring, "score_mirrored", fail)
    error = ZeroDivisionError("a mistake of AutoTL")
    with pytest.raises(ZeroDivisionError):
        measure_mirroring(search_space, context)
