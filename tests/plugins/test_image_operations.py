"""Operations on batches: the results and the magnitudes of torchvision, for each image its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from autotl_plugins import image_operations
from autotl_plugins.image_operations import (
    BINS,
    KERNELS,
    apply_operations,
    mirror_some,
    tabulate_parameters,
)
from torch import Tensor
from torchvision.transforms import v2

POLICIES = {False: v2.RandAugment(), True: v2.TrivialAugmentWide()}
"""Those of torchvision, by whether their magnitudes are wide."""


def make_images(count: int, side: int) -> Tensor:
    """Smooth images, noise, and some that have a single colour or few."""
    generator = torch.Generator().manual_seed(2)

    def noise(side: int) -> Tensor:
        return torch.randint(256, (count, 3, side, side), generator=generator).float()

    smooth = torch.nn.functional.interpolate(noise(4), (side, side), mode="bilinear")
    images = torch.where(torch.arange(count)[:, None, None, None] % 2 == 0, noise(side), smooth)
    images[3] = 77
    images[4, 1] = 200
    images[5] = (images[5] > 128) * 255
    return images.to(torch.uint8)


def apply_torchvision(policy: Any, image: Tensor, name: str, magnitude: float) -> Tensor:
    changed: Tensor = policy._apply_image_or_video_transform(
        image, name, magnitude, interpolation=policy.interpolation, fill=policy._fill
    )
    return changed


def list_magnitudes(policy: Any, name: str, side: int) -> list[tuple[float, float]]:
    """List the magnitudes of an operation in torchvision, as they are and with the other sign."""
    function, signed = policy._AUGMENTATION_SPACE[name]
    magnitudes = function(BINS, side, side)
    if magnitudes is None:
        return [(0.0, 0.0)] * BINS
    return [(float(m), -float(m) if signed else float(m)) for m in magnitudes]


def test_the_operations_are_those_of_torchvision_in_its_order() -> None:
    for policy in POLICIES.values():
        assert list(KERNELS) == list(policy._AUGMENTATION_SPACE)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("side", [32, 45])
def test_each_magnitude_does_what_it_does_in_torchvision(name: str, wide: bool, side: int) -> None:
    policy, images = POLICIES[wide], make_images(6, side)
    number, parameters = list(KERNELS).index(name), tabulate_parameters(side, wide)
    for magnitude, values in enumerate(list_magnitudes(policy, name, side)):
        for sign, value in enumerate(values):
            each = np.repeat(parameters[number, sign, magnitude][None], len(images), 0)
            changed = apply_operations(images, np.full(len(images), number), each)
            expected = torch.stack([apply_torchvision(policy, i, name, value) for i in images])
            assert changed.dtype == torch.uint8
            difference = (changed.int() - expected).abs()
            blends = name in ("Brightness", "Color", "Contrast", "Sharpness")
            assert difference.max() <= int(blends)  # truncated sums, whose order differs
            assert (difference > 0).float().mean() < 0.02


@pytest.mark.parametrize("pixels", [1, 45 * 45 * 7, 10**9])
def test_each_image_gets_its_own_operation(pixels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_operations, "CPU_PIXELS", pixels)
    images, random = make_images(90, 45), np.random.default_rng(0)
    before = images.clone()
    parameters = tabulate_parameters(45, wide=True)
    operations, signs, magnitudes = (random.integers(n, size=90) for n in parameters.shape[:3])
    values = parameters[operations, signs, magnitudes]
    changed = apply_operations(images, operations, values)
    assert torch.equal(images, before)
    for i in range(90):
        alone = apply_operations(images[[i]], operations[[i]], values[[i]])
        assert torch.equal(changed[[i]], alone)
        name = list(KERNELS)[operations[i]]
        value = list_magnitudes(POLICIES[True], name, 45)[magnitudes[i]][signs[i]]
        expected = apply_torchvision(POLICIES[True], images[i], name, value)
        assert (changed[i].int() - expected).abs().max() <= 1


def test_tiny_images_can_be_changed() -> None:
    images = make_images(28, 2)
    values = tabulate_parameters(2, wide=False)[:, 0, 9].repeat(2, 0)
    operations = np.arange(14).repeat(2)
    for image, changed, name in zip(
        images, apply_operations(images, operations, values), np.repeat([*KERNELS], 2), strict=True
    ):
        value = list_magnitudes(POLICIES[False], name, 2)[9][0]
        expected = apply_torchvision(POLICIES[False], image, name, value)
        assert (changed.int() - expected).abs().max() <= 1


def test_some_images_are_mirrored() -> None:
    images, some = make_images(9, 8), np.arange(9) % 3 == 1
    for i, image in enumerate(mirror_some(images, some)):
        assert torch.equal(image, images[i].flip(2) if some[i] else images[i])
    assert torch.equal(mirror_some(images, some & False), images)
