"""Augmentations: they map images ``uint8 [B, C, S, S]`` to the same shape, on their device.

Each image is changed differently, by the random numbers that ``uniform`` draws for it.
Augmentations that mix images also take the targets ``float32 [B, C]``, whose rows sum to 1, and
return both. They choose pairs and weights with torch's global generators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl import ANY_INPUT, Mirrors, Range, Uniform, augment

from .colour_jitter import draw_colour_changes, recolour
from .image_operations import (
    apply_operations,
    compute_in_parts,
    mirror_some,
    tabulate_parameters,
    to_device,
)

Transform = Callable[[Tensor], Tensor]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

MinScale = Annotated[float, Range(0.1, 0.9, step=0.2)]
"""Few values, so that trials share the cached features of augmented views."""

Flip = Annotated[bool, Mirrors()]

Alpha = Annotated[float, Range(0.1, 1.0, log=True)]


@augment(input=ANY_INPUT)
def none(size: int) -> Transform:
    """No augmentation."""
    return lambda images: images


@augment(order=1)
def flip_crop(
    size: int, uniform: Uniform, *, min_scale: MinScale = 0.5, flip: Flip = True
) -> Transform:
    """Random resized crop and horizontal flip (Szegedy et al. 2014, arXiv:1409.4842).

    ``min_scale`` is the minimum fraction of the area in the crop; the aspect ratio is 3/4 to 4/3.
    """
    return lambda images: _flip_crop(images, uniform, min_scale, flip)


def _flip_crop(images: Tensor, uniform: Uniform, min_scale: float, flip: bool) -> Tensor:
    # Few numbers are drawn on the CPU, where float64 leaves no room for rounding.
    numbers = uniform(images, 5, device="cpu").double()
    area = min_scale + (1 - min_scale) * numbers[:, 0]
    ratio = (4 / 3) ** (2 * numbers[:, 1] - 1)
    ratio = ratio.clamp(area, 1 / area)  # otherwise the longer side would exceed the image
    half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)
    centre = (2 * numbers[:, 2:4] - 1) * (1 - half)
    if flip:
        half[:, 0] *= torch.where(numbers[:, 4] < 0.5, -1.0, 1.0)
    crops = to_device(torch.cat([half, centre], 1).float(), images)
    return compute_in_parts(_crop, images, crops)


def _crop(images: Tensor, crops: Tensor) -> Tensor:
    """Crop images, bilinearly.

    Args:
        images: ``uint8 [B, C, H, W]``.
        crops: Half of the width and height of each crop, and its centre, from -1 to 1:
            ``float32 [B, 4]``.
    """
    shape = len(images), *images.shape[2:]
    lines = []
    for axis, side in ((0, shape[2]), (1, shape[1])):
        along = (torch.arange(side, device=images.device) * 2 + 1) / side - 1
        lines.append(along * crops[:, axis, None] + crops[:, axis + 2, None])
    x, y = lines
    grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], -1)
    cropped = functional.grid_sample(
        images.float(), grid, padding_mode="reflection", align_corners=False
    )
    return cropped.round_().clamp_(0, 255).to(torch.uint8)


@augment
def rand_augment(
    size: int,
    uniform: Uniform,
    *,
    operations: Annotated[int, Range(1, 3)] = 2,
    magnitude: Annotated[int, Range(1, 20)] = 7,
    flip: Flip = True,
) -> Transform:
    """RandAugment: a few random operations (Cubuk et al. 2019, arXiv:1909.13719).

    ``magnitude`` is on torchvision's scale from 0 to 30.
    """
    parameters = tabulate_parameters(size, wide=False)[:, :, [magnitude]]
    return _operate(parameters, operations, flip, uniform)


@augment
def trivial_augment(size: int, uniform: Uniform, *, flip: Flip = True) -> Transform:
    """TrivialAugment: one random operation (Müller & Hutter 2021, arXiv:2103.10158)."""
    return _operate(tabulate_parameters(size, wide=True), 1, flip, uniform)


def _operate(
    parameters: NDArray[np.float32], rounds: int, flip: bool, uniform: Uniform
) -> Transform:
    """Apply ``rounds`` random operations to each image, and flip half of them if ``flip``.

    The ``parameters [14, 2, M, 6]`` are those of the operations, for both signs and M magnitudes.
    """

    def transform(images: Tensor) -> Tensor:
        numbers = uniform(images, rounds, 3, device="cpu").double().numpy()
        draws = (numbers * parameters.shape[:3]).astype(np.int64)
        for operation, sign, magnitude in draws.transpose(1, 2, 0):
            images = apply_operations(images, operation, parameters[operation, sign, magnitude])
        if flip:
            images = mirror_some(images, (uniform(images, device="cpu") < 0.5).numpy())
        return images

    return transform


@augment
def random_erasing(
    size: int,
    uniform: Uniform,
    *,
    probability: Annotated[float, Range(0.1, 1.0)] = 0.5,
    max_area: Annotated[float, Range(0.05, 0.5)] = 0.33,
    fill: Literal["noise", "mean"] = "noise",
    min_scale: MinScale = 0.5,
    flip: Flip = True,
) -> Transform:
    """Crop, flip and random erasing of a rectangle (Zhong et al. 2017, arXiv:1708.04896).

    ``probability`` is that of erasing, ``max_area`` the maximum fraction of the area; the aspect
    ratio is 3/10 to 10/3. Crops are those of ``flip_crop``.
    """

    def transform(images: Tensor) -> Tensor:
        images = _flip_crop(images, uniform, min_scale, flip)
        numbers = uniform(images, 5, device="cpu").double()
        fraction = 0.02 + (max_area - 0.02) * numbers[:, 0]
        ratio = (10 / 3) ** (2 * numbers[:, 1] - 1)
        is_erased = numbers[:, 2] < probability
        boxes = _make_boxes(fraction * is_erased, ratio, numbers[:, 3:], images)
        make_filling = _make_noise if fill == "noise" else _compute_means
        return torch.where(boxes, make_filling(images, uniform), images)

    return transform


def _make_noise(images: Tensor, uniform: Uniform) -> Tensor:
    """Noise ``uint8 [B, C, H, W]``: a number has 24 bits, 8 for each of three channels."""
    channels, *sides = images.shape[1:]
    groups = [-(-channels // 3)] if channels > 3 else []
    numbers: Tensor = uniform(images, *groups, *sides).mul(2**24).int()
    values = numbers.view(len(images), -1, *sides)[..., None].view(torch.uint8)[..., :3]
    return values.permute(0, 1, 4, 2, 3).flatten(1, 2)[:, :channels]


def _compute_means(images: Tensor, uniform: Uniform) -> Tensor:
    """The mean colour of each image, ``uint8 [B, C, 1, 1]``."""
    totals = images.sum((2, 3), keepdim=True)  # of integers, exact in every order
    return (totals / (images.shape[2] * images.shape[3])).round_().to(torch.uint8)


@augment(contrastive=True)
def simclr(
    size: int,
    uniform: Uniform,
    *,
    min_scale: Annotated[float, Range(0.05, 0.9)] = 0.2,
    strength: Annotated[float, Range(0.1, 1.0)] = 0.5,
    flip: Flip = True,
) -> Transform:
    """Small crops, flip, colour jitter and grey (SimCLR: Chen et al. 2020, arXiv:2002.05709).

    ``strength`` is that of the colour jitter. Crops are those of ``flip_crop``. The paper's blur is
    left out, as it is there for small images.
    """

    def transform(images: Tensor) -> Tensor:
        images = _flip_crop(images, uniform, min_scale, flip)
        numbers = uniform(images, 6, device="cpu").double()
        changes = to_device(draw_colour_changes(numbers, strength), images)
        return compute_in_parts(recolour, images, changes)

    return transform


@augment(mixes=True)
def mixup(
    size: int,
    uniform: Uniform,
    *,
    alpha: Alpha = 0.2,
    min_scale: MinScale = 0.5,
    flip: Flip = True,
) -> Mixing:
    """Crop, flip and mixup of pairs of images (Zhang et al. 2017, arXiv:1710.09412).

    The weight of an image is drawn from Beta(``alpha``, ``alpha``): the larger, the more even.
    """

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = _flip_crop(images, uniform, min_scale, flip)
        partner = torch.randperm(len(images), device=images.device)
        weight = to_device(_sample_beta(alpha, len(images)), images)
        values = images.float()
        mixed = values[partner].lerp(values, weight[:, None, None, None])
        return mixed.round_().to(torch.uint8), targets[partner].lerp(targets, weight[:, None])

    return transform


@augment(mixes=True)
def cutmix(
    size: int,
    uniform: Uniform,
    *,
    alpha: Alpha = 1.0,
    min_scale: MinScale = 0.5,
    flip: Flip = True,
) -> Mixing:
    """Crop, flip and CutMix of pairs of images (Yun et al. 2019, arXiv:1905.04899).

    The area of the pasted rectangle is drawn from Beta(``alpha``, ``alpha``); the targets are
    mixed by the number of its pixels.
    """

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = _flip_crop(images, uniform, min_scale, flip)
        partner = torch.randperm(len(images), device=images.device)
        area = _sample_beta(alpha, len(images))
        positions = uniform(images, 2, device="cpu")
        boxes = _make_boxes(area, torch.ones_like(area), positions, images)
        mixed = torch.where(boxes, images[partner], images)
        return mixed, targets.lerp(targets[partner], boxes.float().mean((1, 2, 3))[:, None])

    return transform


def _sample_beta(alpha: float, count: int) -> Tensor:
    """Sample Beta(alpha, alpha), ``float32 [count]`` on the CPU; not every device can."""
    sample: Tensor = torch.distributions.Beta(alpha, alpha).sample((count,))
    return sample


def _make_boxes(fraction: Tensor, ratio: Tensor, positions: Tensor, images: Tensor) -> Tensor:
    """Make a rectangle inside each image, as masks ``bool [B, 1, H, W]`` on its device.

    Args:
        fraction: Fraction of the area ``[B]``, from 0 to 1; met up to whole pixels.
        ratio: Width divided by height ``[B]``; less extreme where the rectangle would not fit.
        positions: Where it is, from the upper left corner: ``[B, 2]``, from 0 to 1.
        images: ``[B, C, H, W]``.
    """
    ratio = ratio.clamp(fraction, 1 / fraction)
    sides = torch.tensor(images.shape[2:])
    lengths = (torch.stack([fraction / ratio, fraction * ratio], 1).sqrt() * sides).round()
    first = (positions * (sides - lengths + 1)).floor()
    bounds = to_device(torch.stack([first, first + lengths]).int(), images)
    masks = []
    for axis, side in enumerate(images.shape[2:]):
        begin, end = bounds[:, :, axis, None]
        index = torch.arange(side, device=images.device)
        masks.append((index >= begin) & (index < end))
    rows, columns = masks
    boxes: Tensor = (rows[:, :, None] & columns[:, None])[:, None]
    return boxes
