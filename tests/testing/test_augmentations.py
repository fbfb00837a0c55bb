"""Augmentations."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from broken_plugins import assert_reported
from torch import Tensor

from autotl import Uniform, augment
from autotl.space.plugin import AnyPlugin
from autotl.testing import check


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


def augmentation_by_uniform(transform: Callable[[Tensor, Uniform], Tensor]) -> AnyPlugin:
    @augment(name="broken")
    def broken(size: int, uniform: Uniform) -> Any:
        """Augment images by uniform, with a fault."""
        return lambda images: transform(images, uniform)

    return broken


def draw_shades(images: Tensor, uniform: Uniform) -> Tensor:
    drawn: Tensor = uniform(images, 1, 1, 1)
    return (50 * drawn).int()


def draw_beside(images: Tensor, uniform: Uniform) -> Tensor:
    return brighter(images, draw_shades(images, uniform) + torch.randint(9, (len(images), 1, 1, 1)))


def compare_with_the_batch(images: Tensor, uniform: Uniform) -> Tensor:
    shades = draw_shades(images, uniform)
    return brighter(images, shades - shades.amin())


def draw_more_for_many(images: Tensor, uniform: Uniform) -> Tensor:
    for _ in images:
        shades = draw_shades(images, uniform)
    return brighter(images, shades)


def draw_for_some(images: Tensor, uniform: Uniform) -> Tensor:
    return torch.cat([images[:1], brighter(images[1:], draw_shades(images[1:], uniform))])


BROKEN += [
    (augmentation_by_uniform(draw_beside), "also draws other random numbers"),
    (augmentation_by_uniform(compare_with_the_batch), "differently in another batch"),
    (augmentation_by_uniform(draw_more_for_many), "call uniform for the whole batch, as often"),
    (augmentation_by_uniform(draw_for_some), "calls uniform with 7 images of a batch of 8"),
]


def test_an_augmentation_that_draws_by_uniform_alone_has_no_violation() -> None:
    plugin = augmentation_by_uniform(lambda x, uniform: brighter(x, draw_shades(x, uniform)))
    assert check(plugin) >= 1


def test_one_that_mixes_may_draw_other_numbers_beside_uniform() -> None:
    @augment(mixes=True)
    def mixing(size: int, uniform: Uniform) -> Any:
        """Brighten, and mix with the image before or after."""

        def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            bright = brighter(images, draw_shades(images, uniform)).float()
            weight = 0.5 + 0.5 * torch.rand(len(images))
            mixed = bright.roll(1, 0).lerp(bright, weight[:, None, None, None])
            return mixed.to(torch.uint8), targets.roll(1, 0).lerp(targets, weight[:, None])

        return transform

    assert check(mixing) >= 1


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[f"{p.name}-{w[:25]}" for p, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)
