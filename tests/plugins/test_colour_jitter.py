"""The colour changes of SimCLR, in one affine map of the colours of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from autotl_plugins.colour_jitter import LUMA, draw_colour_changes, recolour
from torch import Tensor
from torchvision.transforms.v2 import functional as torchvision


def numbers(**chosen: float) -> Tensor:
    """Random numbers that change nothing but what is chosen, for one image."""
    names = ("skip", "brightness", "contrast", "saturation", "hue", "keep_colour")
    values = {**dict.fromkeys(names[1:], 0.5), "skip": 0.0, **chosen}
    return torch.tensor([[values[name] for name in names]], dtype=torch.float64)


@pytest.fixture
def image() -> Tensor:
    pixels = np.random.default_rng(0).integers(80, 170, (1, 3, 8, 8))
    return torch.from_numpy(pixels.astype(np.uint8))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("number", [0.1, 0.8])
def test_a_change_is_that_of_torchvision(image: Tensor, name: str, number: float) -> None:
    changed = recolour(image, draw_colour_changes(numbers(**{name: number}), 0.5))
    factor = 1 + 0.4 * (2 * number - 1)
    expected = getattr(torchvision, f"adjust_{name}")(image, factor)
    assert (changed.int() - expected.int()).abs().max() <= 1
    assert not torch.equal(changed, image)


def test_all_changes_at_once_are_one_after_the_other(image: Tensor) -> None:
    drawn = numbers(brightness=0.3, contrast=0.7, saturation=0.2)
    changed = recolour(image, draw_colour_changes(drawn, 0.5))
    expected = torchvision.adjust_brightness(image, 1 + 0.4 * -0.4)
    expected = torchvision.adjust_contrast(expected, 1 + 0.4 * 0.4)
    expected = torchvision.adjust_saturation(expected, 1 + 0.4 * -0.6)
    assert (changed.int() - expected.int()).abs().max() <= 3  # torchvision rounds down each time


def test_the_hue_turns_and_the_luma_stays(image: Tensor) -> None:
    changed = recolour(image, draw_colour_changes(numbers(hue=0.9), 0.5))
    luma = torch.tensor(LUMA)[:, None, None]
    difference = ((changed.float() - image.float())[0] * luma).sum(0)
    assert difference.abs().max() < 1
    assert (changed.int() - image.int()).abs().float().mean() > 3
    grey = image[:, :1].repeat(1, 3, 1, 1)
    changed = recolour(grey, draw_colour_changes(numbers(hue=0.9), 0.5))
    assert (changed.int() - grey.int()).abs().max() <= 1


def test_some_images_become_grey_and_some_stay_as_they_are(image: Tensor) -> None:
    grey = recolour(image, draw_colour_changes(numbers(skip=0.9, keep_colour=0.1), 0.5))
    assert torch.equal(grey[:, 0], grey[:, 1])
    kept = recolour(image, draw_colour_changes(numbers(skip=0.9, brightness=1.0), 0.5))
    assert torch.equal(kept, image)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_rgb_change_in_brightness_and_contrast(channels: int) -> None:
    images = torch.full((1, channels, 4, 4), 100, dtype=torch.uint8)
    drawn = draw_colour_changes(numbers(brightness=1.0, hue=0.9, keep_colour=0.1), 0.5)
    assert (recolour(images, drawn) == 140).all()
