"""Augmentations."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from broken_plugins import (
    assert_reported,
)
from torch import Tensor

from autotl import (
    augment,
)
from autotl.space.registry import AnyPlugin


def augmentation(transform: Callable[..., Any], mixes: bool = False) -> AnyPlugin:
    @augment(name="broken", mixes=mixes)
    def broken(size: int) -> Any:
        """Augment images, with a fault."""
        return transform

    return broken


def brighter(images: Tensor, by: Any) -> Tensor:
    return (images.int() + by).clamp(0, 255).to(torch.uint8)


def in_place(images: Tensor) -> Tensor:
    return images.bitwise_xor_(1)


def needs_two_images(images: Tensor) -> Tensor:
    assert len(images) > 1, "one image is too few"
    return images


BROKEN = [
    (augmentation(lambda x: x.float()), "returns images float32 [8, 3, 16, 16]"),
    (augmentation(lambda x: x[:, :, 1:]), "returns images uint8 [8, 3, 15, 16]"),
    (augmentation(in_place), "changes the images in place"),
    (augmentation(lambda x: brighter(x, random.randrange(50))), "although the seed is the same"),
    (augmentation(lambda x: brighter(x, np.random.randint(50))), "although the seed is the same"),
    (augmentation(lambda x: brighter(x, torch.randint(50, ()))), "in the same way"),
    (augmentation(lambda x: x.reshape(-1)[0] + x * 0 if x.stride(1) == 1 else x), "channels_last"),
    (augmentation(lambda x: (x, x)), "return images alone, or declare mixes=True"),
    (augmentation(lambda x, y: x, mixes=True), "return images and targets, or declare mixes=False"),
    (augmentation(lambda x, y: (x, y / 2), mixes=True), "each row with the sum 1"),
    (augmentation(lambda x, y: (x, y.argmax(1)), mixes=True), "targets int64 [8]"),
    (augmentation(needs_two_images), "raises AssertionError in line"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[f"{p.name}-{w[:25]}" for p, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)
