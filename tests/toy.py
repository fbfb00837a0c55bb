"""What the tests share: a tiny backbone, a tiny data set and the configurations that use them.

Shapes: B pictures in a batch, S the side of a picture in pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotl import Example, backbone, registry
from autotl.cache import Features
from autotl.data import Batches, Packed
from autotl.finetune import Task
from autotl.model import Device, Model, build
from autotl.plugin import SEARCHED
from autotl.registry import AnyPlugin
from autotl.space import Choice, Config

SIDE = 16
COLOURS = {"blue": (60, 90, 200), "green": (60, 160, 90), "red": (190, 80, 70)}
CPU = Device(torch.device("cpu"), None)
REGISTRY = registry.load()


def squares(each: int = 12, seed: int = 0, side: int = SIDE) -> list[Example]:
    """Noise with a square of the class's colour somewhere, ``each`` of every colour in turn."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(each):
        for label, colour in COLOURS.items():
            picture = random.integers(40, 200, (side, side, 3))
            y, x = random.integers(0, side // 2 + 1, 2)
            square = picture[y : y + side // 2, x : x + side // 2]
            square[:] = np.array(colour) + random.integers(-30, 31, square.shape)
            found.append(Example(f"{label}/{i}", picture.astype(np.uint8), label))
    return found


def batches(examples: list[Example], size: int = 12, shuffle_seed: int | None = 0) -> Batches:
    """Batches of at most ``size`` examples, on the CPU."""
    classes = sorted({e.label for e in examples})
    array = np.stack([e.image for e in examples])
    labels = np.array([classes.index(e.label) for e in examples])
    packed = Packed(array, Path("nowhere"))
    every = np.arange(len(examples))
    return Batches(packed, labels, every, size, CPU.device, shuffle_seed=shuffle_seed)


class Backbone(nn.Module):
    """``images [B, 3, S, S] -> features [B, 24]``, speaking timm's protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 24
        self.pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.2,) * 3}
        self.feature_info = [{"module": m} for m in ("stem", "stages.0", "stages.1", "stages.2")]
        self.stem = _block(3, 8, 2)
        self.stages = nn.Sequential(_block(8, 16, 2), _block(16, 24, 1), _block(24, 24, 1))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.stages(self.stem(images)).mean((2, 3))
        return features


def _block(wide: int, narrow: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(wide, narrow, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(narrow), nn.ReLU(inplace=True))


@backbone
def toy() -> nn.Module:
    """Three convolutional blocks, always with the same weights, as if they were pretrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Backbone()


Chosen = str | AnyPlugin | tuple[str | AnyPlugin, dict[str, Any]]
"""A plugin or the name of a built-in one, alone or with some of its values."""


def config(**chosen: Chosen) -> Config:
    """A configuration of ``toy`` with a linear probe, and of what is ``chosen`` by kind."""
    plain: dict[str, Chosen] = {"backbone": toy, "freeze": "linear_probe", "augment": "none"}
    plain |= {"head": ("linear", {"dropout": 0.0}), "optimizer": "adamw"}
    return {kind: _choice(kind, (plain | chosen)[kind]) for kind in SEARCHED}


def _choice(kind: str, chosen: Chosen) -> Choice:
    plugin, values = chosen if isinstance(chosen, tuple) else (chosen, {})
    if isinstance(plugin, str):
        plugin = REGISTRY.untrained(kind, plugin)
    return Choice(plugin, {**plugin.defaults, **values})


def model(seed: int = 0, size: int | None = None, **chosen: Chosen) -> Model:
    """The network of ``config(**chosen)`` for the three colours, on the CPU in float32."""
    return build(config(**chosen), len(COLOURS), size, CPU, seed)


def task(epochs: int = 2, **changes: Any) -> Task:
    """To tell the colours apart: 36 pictures to learn from in 3 steps, 36 others to score."""
    truth = np.array([e.label for e in squares(seed=1)])

    def accuracy(probabilities: np.ndarray) -> float:
        return float((np.array(sorted(COLOURS))[probabilities.argmax(1)] == truth).mean())

    standard: dict[str, Any] = {
        "train": batches(squares()),
        "validation": batches(squares(seed=1), shuffle_seed=None),
        "epochs": epochs,
        "score": accuracy,
        "where": CPU,
        "kept": Features(),
    }
    return Task(**(standard | changes))
