"""Images to search on and a fast backbone, for the tests that run whole searches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from autotl.data import ImageInput
from autotl.store import Store, TrialRow
from autotl.study import StudyConfig

TINY = '''
"""A backbone of two convolutions with fixed random weights."""
import torch
from torch import nn
from autotl import backbone


class Tiny(nn.Module):
    num_features = 16
    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    feature_info = [{"module": "stem"}, {"module": "top"}]

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, x):
        return self.top(self.stem(x)).mean((2, 3))

    def group_matcher(self, coarse=False):
        return {"stem": "^stem", "blocks": [("^top", None)]}


@backbone
def tiny():
    """Two convolutions."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Tiny()
'''

FAST = {"epochs": 3, "batch_size": 8, "device": "cpu", "precision": "float32", "history": False}
"""Settings of a quick search."""

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def image_input(size: int, interpolation: str = "bicubic") -> ImageInput:
    """An input of images as a backbone expects it."""
    return ImageInput(size, (0.5,) * 3, (0.2,) * 3, interpolation)


def write_plugin(folder: Path) -> Path:
    """Write a plugin file with the backbone ``tiny``, and return its path."""
    file = folder / "tiny_plugin.py"
    file.write_text(TINY)
    return file


def write_images(folder: Path, count: int = 20, noise: float = 60.0, seed: int = 0) -> Path:
    """Write ``folder/red|green|blue/*.png``: ``count`` noisy images of each colour, 40 x 48 px."""
    generator = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.normal(colour, noise, (40, 48, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def read_trials(settings: StudyConfig) -> list[TrialRow]:
    """Read the trials of a study from its database."""
    return Store(f"sqlite:///{settings.out}/autotl.db").trials(settings.name)
