"""What the tests share: a tiny backbone, a tiny data set and the configurations that use them.

Shapes: B pictures in a batch, S the side of a picture in pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from autotl import Example, backbone
from autotl.frozen import FeatureCache
from autotl.models import Model, build_model
from autotl.space import registry
from autotl.space.kinds import SEARCHED_KINDS
from autotl.space.registry import AnyPlugin
from autotl.space.space import Choice, Config
from autotl.testing import toy as toys
from autotl.testing.toy import COLOURS, CPU, SIDE, batches
from autotl.testing.toy import Blocks as Backbone
from autotl.training import Task

REGISTRY = registry.load()


def squares(each: int = 12, seed: int = 0, side: int = SIDE) -> list[Example]:
    """Noise with a square of the class's colour somewhere, ``each`` of every colour in turn."""
    return toys.squares([each] * len(COLOURS), seed, side)


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
    both = plain | chosen
    return {kind: _choice(kind, both[kind]) for kind in SEARCHED_KINDS if kind in both}


def _choice(kind: str, chosen: Chosen) -> Choice:
    plugin, values = chosen if isinstance(chosen, tuple) else (chosen, {})
    if isinstance(plugin, str):
        plugin = REGISTRY.get_untrained(kind, plugin)
    return Choice(plugin, {**plugin.defaults, **values})


def model(seed: int = 0, size: int | None = None, **chosen: Chosen) -> Model:
    """The network of ``config(**chosen)`` for the three colours, on the CPU in float32."""
    return build_model(config(**chosen), len(COLOURS), size, CPU, seed)


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
        "device": CPU,
        "cache": FeatureCache(),
    }
    return Task(**(standard | changes))
