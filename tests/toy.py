"""What the tests share: a tiny backbone, a tiny data set, and configurations that use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from autotl import Example, backbone
from autotl.data import toy_images
from autotl.frozen import FeatureCache
from autotl.models import Model, build_model
from autotl.space import registry
from autotl.space.kinds import SEARCHED_KINDS
from autotl.space.plugin import AnyPlugin
from autotl.space.space import Choice, Config
from autotl.tasks import numbered_classes
from autotl.testing.toy import COLOURS, CPU, SIDE
from autotl.testing.toy import ConvNet as Backbone
from autotl.testing.toy import make_batches as batches
from autotl.training import Job

REGISTRY = registry.load()


def squares(each: int = 12, seed: int = 0, side: int = SIDE) -> list[Example]:
    """Make ``each`` images of every colour in turn: noise with a square of the colour."""
    return toy_images.squares([each] * len(COLOURS), seed, side)


@backbone
def toy() -> nn.Module:
    """Four convolutional blocks, always with the same weights, as if they were pretrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return Backbone()


Chosen = str | AnyPlugin | tuple[str | AnyPlugin, dict[str, Any]]
"""A plugin or the name of a built-in one, alone or with values of its keywords."""


def config(**chosen: Chosen) -> Config:
    """Make a configuration of ``toy`` with a linear probe; ``chosen`` replaces plugins by kind."""
    defaults: dict[str, Chosen] = {"backbone": toy, "freeze": "linear_probe", "augment": "none"}
    defaults |= {"head": ("linear", {"dropout": 0.0}), "optimizer": "adamw"}
    every = defaults | chosen
    return {kind: _make_choice(kind, every[kind]) for kind in SEARCHED_KINDS if kind in every}


def _make_choice(kind: str, chosen: Chosen) -> Choice:
    plugin, values = chosen if isinstance(chosen, tuple) else (chosen, {})
    if isinstance(plugin, str):
        plugin = REGISTRY.get_untrained(kind, plugin)
    return Choice(plugin, {**plugin.defaults, **values})


def model(seed: int = 0, size: int | None = None, **chosen: Chosen) -> Model:
    """Build the model of ``config(**chosen)`` for the three colours, on the CPU in float32."""
    return build_model(config(**chosen), numbered_classes(len(COLOURS)), size, CPU, seed)


def job(epochs: int = 2, **changes: Any) -> Job:
    """Make a job of three colours: 36 training images in 3 steps, and 36 for validation."""
    truth = np.array([e.label for e in squares(seed=1)])

    def accuracy(probabilities: np.ndarray) -> float:
        return float((np.array(sorted(COLOURS))[probabilities.argmax(1)] == truth).mean())

    defaults: dict[str, Any] = {
        "train": batches(squares()),
        "validation": batches(squares(seed=1), shuffle_seed=None),
        "epochs": epochs,
        "score": accuracy,
        "device": CPU,
        "cache": FeatureCache(),
    }
    return Job(**(defaults | changes))
