"""Searches on images with other channels than RGB, from the data to predictions and exports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from images import FAST, TINY, read_trials, write_images

import autotl
from autotl import data, study
from autotl.data import ImageInput
from autotl.engine.search_space import plugins_for
from autotl.errors import PluginError, StudyError
from autotl.space import registry
from autotl.space.plugin import Example

EXAMPLES = Path(__file__).parents[1] / "plugins" / "examples"

ANY_CHANNELS = """
from torch import nn
from autotl import backbone


class AnyChannels(nn.Module):
    num_features = 16

    def __init__(self, channels):
        super().__init__()
        self.pretrained_cfg = {"input_size": (channels, 32, 32), "mean": [0.5], "std": [0.5]}
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, x):
        return self.top(self.stem(x)).mean((2, 3))


@backbone
def tiny(in_chans=3):
    '''Two convolutions.'''
    return AnyChannels(in_chans)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "channels_plugin.py"
    file.write_text(ANY_CHANNELS, encoding="utf-8")
    return file


def write_arrays(file: Path, count: int = 60) -> Path:
    """Write images of six channels, of which the fifth tells the class."""
    random = np.random.default_rng(0)
    images = random.integers(0, 60, (count, 40, 40, 6), dtype=np.uint8)
    labels = np.arange(count) % 2
    images[labels == 1, ..., 4] += 150
    np.savez(file, images=images, labels=labels)
    return file


def settings(data: Path, plugin: Path, **changes: object) -> study.StudyConfig:
    values = {"plugin": [plugin], "backbone": ["tiny"], "out": data.parent / "runs", "trials": 3}
    values |= {"head": ["linear", "logistic_regression"], "augment": ["rand_augment"]}
    return study.StudyConfig.model_validate({**FAST, **values, "data": str(data), **changes})


def test_arrays_of_six_channels(tmp_path: Path, plugin: Path) -> None:
    file = write_arrays(tmp_path / "fields.npz")
    result = autotl.engine.run(settings(file, plugin, in_chans=6))
    assert result.summary["test"]["score"] > 0.9
    assert (result.folder / "recipe.toml").read_text().count("in_chans = 6") == 1
    config = json.loads((result.folder / "model" / "config.json").read_text())
    assert config["input"]["channels"] == 6
    assert config["standalone_code"] == {"reason": "its images have 6 channels"}
    # What is not given is what the study has.
    again = autotl.engine.run(settings(file, plugin, trials=4))
    assert len(read_trials(settings(file, plugin))) > 3
    assert again.summary["test"]["n"] == 12
    images, labels = (np.load(file)[key] for key in ("images", "labels"))
    model = autotl.load(result.folder / "model", [plugin])
    assert isinstance(model.network.expects, ImageInput)
    assert model.network.expects.channels == 6
    guesses = [max(row, key=row.__getitem__) for row in model.predict(images)]
    assert (
        np.mean([int(guess) == label for guess, label in zip(guesses, labels, strict=True)]) > 0.9
    )
    words = ("export", result.folder / "model", "--to", "onnx", "--plugin", plugin)
    assert "uint8 [batch, 6, 32, 32], resized" in run(*words).output


def test_files_become_grey(tmp_path: Path, plugin: Path) -> None:
    photos = write_images(tmp_path / "photos", 20)
    result = autotl.engine.run(settings(photos, plugin, in_chans=1))
    packed = list((tmp_path / "runs" / "cache").glob("*-1ch.npy"))
    assert [np.load(file, mmap_mode="r").shape[1:] for file in packed] == [(32, 32, 1)]
    model = autotl.load(result.folder / "model", [plugin])
    first = sorted(photos.rglob("*.png"))[0]
    assert model.encode(first).shape == (32, 32, 1)
    assert len(model.predict([first])) == 1


def test_backbones_and_data_must_fit(tmp_path: Path, plugin: Path) -> None:
    file = write_arrays(tmp_path / "fields.npz")
    result = run("data", "check", file)
    assert "it has 6 channels and not 3; a search takes them with --in-chans 6" in result.output
    assert run("data", "check", file, "--in-chans", 6).exit_code == 0
    plugin.write_text(TINY, encoding="utf-8")
    with pytest.raises(PluginError, match="takes images of 3 channels, and not of 6"):
        autotl.engine.run(settings(file, plugin, in_chans=6))


def test_only_images_have_channels() -> None:
    series = registry.load([EXAMPLES / "autotl_series.py"])
    source = data.Source([], [], series.input_kinds["series"])
    grey = study.StudyConfig(data="series.npz", in_chans=1)
    with pytest.raises(StudyError, match="in_chans is for images"):
        plugins_for(grey, series, source)
    assert plugins_for(study.StudyConfig(data="series.npz"), series, source).names("backbone")


def test_images_that_differ_only_in_a_later_channel_are_no_copies() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 256, (20, 20, 20, 6), dtype=np.uint8)
    second = first.copy()
    second[..., 5] ^= 255
    examples = [Example(f"a{i}", image, "a") for i, image in enumerate(first)]
    examples += [Example(f"b{i}", image, "b") for i, image in enumerate(second)]
    checked = data.check(examples, "here", channels=6)
    assert len(checked.examples) == 40
