"""A finished study and a model folder, made once for all tests of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from command_line import FAST_OPTIONS, run
from images import write_images, write_plugin

from autotl.tasks import Classification, numbered_classes

CLASSES = ["green", "red", "<b>blue|*"]


@pytest.fixture(scope="session")
def search_result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with ``photos``, ``tiny_plugin.py`` and ``runs/photos``, and the search's output."""
    folder = tmp_path_factory.mktemp("searched")
    write_images(folder / "photos")
    result = run(
        "search", folder / "photos", "--trials", "3", "--backbone", "tiny",
        "--plugin", write_plugin(folder), "--out", folder / "runs", *FAST_OPTIONS,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder, result


@pytest.fixture(scope="session")
def searched(search_result: tuple[Path, Result]) -> Path:
    """The folder with images, a plugin file and the finished study of ``search_result``."""
    return search_result[0]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos``, ``tiny_plugin.py`` and a fairly accurate ``model`` of them."""
    import numpy as np  # heavy imports stay here, for the tests that need no model
    import torch
    from toy import CPU

    from autotl import data, models
    from autotl.artifact import model_folder
    from autotl.space import registry, space

    folder = tmp_path_factory.mktemp("home")
    write_images(folder / "photos", count=12, noise=90)
    (folder / "photos/blue").rename(folder / "photos" / CLASSES[2])
    for name in ("0.png", "1.png"):  # wrong labels, so that the accuracy is below 1
        (folder / "photos/red" / name).rename(folder / "swapped")
        (folder / "photos/green" / name).rename(folder / "photos/red" / name)
        (folder / "swapped").rename(folder / "photos/green" / name)
    plugins = registry.load([write_plugin(folder)])
    recipe = {"backbone": {"tiny": {}}, "head": {"nearest_mean": {"threshold": 0.0}}}
    config = space.from_json(recipe, plugins, kinds=("backbone", "head"))
    network = models.build_model(config, numbered_classes(3), 32, CPU).eval()
    files = [f for c in CLASSES for f in sorted((folder / "photos" / c).iterdir())]
    images = np.stack([data.decode(f, 32, "bicubic") for f in files])
    with torch.no_grad():
        features = network.features(torch.from_numpy(images).permute(0, 3, 1, 2))
    network.head.fit(features, torch.arange(3).repeat_interleave(12))  # type: ignore[operator]
    facts = {"data": {"source": str(folder / "photos")}, "temperature": 1.5}
    model_folder.save(folder / "model", network, config, Classification(CLASSES), facts)
    return folder


TASK_LABELS = {
    "multilabel": ["cat;dog", "owl", "(none)", "cat;owl"],
    "ordinal": ["1", "2", "3", "2"],
    "regression": ["2.5", "30", "-1", "12"],
    "numbers": ["x=1;y=300", "x=2;y=500", "x=0;y=100", "x=1.5;y=250"],
}
"""Labels of each task in ``fitted_tasks.FITTED``, for the images of ``tasks_home`` in turn."""


@pytest.fixture(scope="session")
def tasks_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos``, and with a model and a table of labels for each task."""
    from fitted_tasks import FITTED
    from toy import CPU

    from autotl import models
    from autotl.artifact import model_folder
    from autotl.space import registry, space

    folder = tmp_path_factory.mktemp("tasks")
    images = sorted(write_images(folder / "photos", count=4).rglob("*.png"))
    plugins = registry.load([write_plugin(folder)])
    recipe = {"backbone": {"tiny": {}}, "head": {"linear": {"dropout": 0.0}}}
    config = space.from_json(recipe, plugins, kinds=("backbone", "head"))
    for name, (task, calibration) in FITTED.items():
        network = models.build_model(config, task, 32, CPU, seed=2)
        facts = {"calibration": calibration, "data": {"source": str(folder / f"{name}.csv")}}
        model_folder.save(folder / name, network, config, task, facts)
        labels = TASK_LABELS[name] * len(images)
        rows = [f"{file.relative_to(folder)},{label}" for file, label in zip(images, labels)]  # noqa: B905
        (folder / f"{name}.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return folder
