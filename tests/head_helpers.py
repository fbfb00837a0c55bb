"""Helpers of the tests of heads: heads by name, and clusters of features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from toy import REGISTRY

from autotl.space.plugin import AnyPlugin

FITTED = ["logistic_regression", "stages_logistic", "lda", "nearest_mean", "knn"]


def build_head(name: str, features: int = 10, classes: int = 4, **params: Any) -> Any:
    plugin = REGISTRY.get("head", name)
    context = {"features": features, "classes": classes}
    return plugin.call(context, {**plugin.defaults, **params})


def sample_clusters(count: int, classes: int = 4, features: int = 10, noise: float = 0.3) -> Any:
    """Features ``[count, features]`` of one cluster for each class, and the labels."""
    labels = torch.arange(count) % classes
    return torch.randn(classes, features)[labels] + noise * torch.randn(count, features), labels


def to_input(plugin: AnyPlugin, features: Tensor) -> Tensor:
    """``features [B, F]`` as the input of a head; a map repeats them at five positions."""
    return features[:, None].repeat(1, 5, 1) if plugin.takes == "map" else features
