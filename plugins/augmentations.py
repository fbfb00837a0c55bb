"""Augmentations: they map images ``uint8 [B, 3, S, S]`` to the same shape, on their device.

Each image is changed differently. Augmentations that mix images also take the targets
``float32 [B, C]``, whose rows sum to 1, and return both. All random numbers are drawn from torch's
global generators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from autotl import Mirrors, Range, augment

Transform = Callable[[Tensor], Tensor]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

MinScale = Annotated[float, Range(0.1, 0.9, step=0.2)]
"""Few values, so that trials share the cached features of augmented views."""

Flip = Annotated[bool, Mirrors()]

Alpha = Annotated[float, Range(0.1, 1.0, log=True)]


@augment
def none(size: int) -> Transform:
    """No augmentation."""
    return lambda images: images


@augment(order=1)
def flip_crop(size: int, *, min_scale: MinScale = 0.5, flip: Flip = True) -> Transform:
    """Random resized crop and horizontal flip (Szegedy et al. 2014, arXiv:1409.4842).

    ``min_scale`` is the minimum fraction of the area in the crop; the aspect ratio is 3/4 to 4/3.
    """
    return lambda images: _flip_crop(images, min_scale, flip)


def _flip_crop(images: Tensor, min_scale: float, flip: bool) -> Tensor:
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(min_scale, 1.0)
    ratio = torch.empty(count, device=device).uniform_(-1, 1).mul(0.2877).exp()  # log(4/3)
    ratio = ratio.clamp(area, 1 / area)  # otherwise the longer side would exceed the image
    half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)
    centre = (torch.rand(count, 2, device=device) * 2 - 1) * (1 - half)
    sign = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0) if flip else 1.0
    affine = torch.zeros(count, 2, 3, device=device)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = half[:, 0] * sign, half[:, 1], centre
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    crops = functional.grid_sample(
        images.float(), grid, padding_mode="reflection", align_corners=False
    )
    return crops.round_().clamp_(0, 255).to(torch.uint8)


@augment
def rand_augment(
    size: int,
    *,
    operations: Annotated[int, Range(1, 3)] = 2,
    magnitude: Annotated[int, Range(1, 20)] = 7,
    flip: Flip = True,
) -> Transform:
    """RandAugment: a few random operations (Cubuk et al. 2019, arXiv:1909.13719).

    ``magnitude`` is on torchvision's scale from 0 to 30.
    """
    from torchvision.transforms import v2

    return _augment_each(v2.RandAugment(operations, magnitude), flip)


@augment
def trivial_augment(size: int, *, flip: Flip = True) -> Transform:
    """TrivialAugment: one random operation (Müller & Hutter 2021, arXiv:2103.10158)."""
    from torchvision.transforms import v2

    return _augment_each(v2.TrivialAugmentWide(), flip)


def _augment_each(operation: Transform, flip: bool) -> Transform:
    """Apply ``operation`` to each image separately, and flip half of them if ``flip``."""
    from torchvision.transforms import v2

    random_flip = v2.RandomHorizontalFlip(0.5 if flip else 0.0)
    return lambda images: torch.stack([random_flip(operation(image)) for image in images])


@augment
def random_erasing(
    size: int,
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
        images = _flip_crop(images, min_scale, flip)
        count, device = len(images), images.device
        fraction = torch.empty(count, device=device).uniform_(0.02, max_area)
        ratio = torch.empty(count, device=device).uniform_(-1, 1).mul(1.204).exp()  # log(10/3)
        is_erased = torch.rand(count, device=device) < probability
        if fill == "noise":
            filling = torch.randint(256, images.shape, dtype=torch.uint8, device=device)
        else:
            filling = images.float().mean((2, 3), keepdim=True).round_().to(torch.uint8)
        return torch.where(_draw_boxes(fraction * is_erased, ratio, images), filling, images)

    return transform


@augment(mixes=True)
def mixup(size: int, *, alpha: Alpha = 0.2, min_scale: MinScale = 0.5, flip: Flip = True) -> Mixing:
    """Crop, flip and mixup of pairs of images (Zhang et al. 2017, arXiv:1710.09412).

    The weight of an image is drawn from Beta(``alpha``, ``alpha``): the larger, the more even.
    """

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = _flip_crop(images, min_scale, flip)
        partner = torch.randperm(len(images), device=images.device)
        weight = _sample_beta(alpha, targets)
        values = images.float()
        mixed = values[partner].lerp(values, weight[:, None, None, None])
        return mixed.round_().to(torch.uint8), targets[partner].lerp(targets, weight[:, None])

    return transform


@augment(mixes=True)
def cutmix(
    size: int, *, alpha: Alpha = 1.0, min_scale: MinScale = 0.5, flip: Flip = True
) -> Mixing:
    """Crop, flip and CutMix of pairs of images (Yun et al. 2019, arXiv:1905.04899).

    The area of the pasted rectangle is drawn from Beta(``alpha``, ``alpha``); the targets are
    mixed by the number of its pixels.
    """

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = _flip_crop(images, min_scale, flip)
        partner = torch.randperm(len(images), device=images.device)
        boxes = _draw_boxes(_sample_beta(alpha, targets), torch.ones_like(targets[:, 0]), images)
        mixed = torch.where(boxes, images[partner], images)
        return mixed, targets.lerp(targets[partner], boxes.float().mean((1, 2, 3))[:, None])

    return transform


def _sample_beta(alpha: float, targets: Tensor) -> Tensor:
    """Sample Beta(alpha, alpha) once for each of the ``targets [B, C]``."""
    sample = torch.distributions.Beta(alpha, alpha).sample(targets.shape[:1])
    return sample.to(targets)  # sampled on the CPU, because not every device can


def _draw_boxes(fraction: Tensor, ratio: Tensor, images: Tensor) -> Tensor:
    """Draw a rectangle anywhere inside each image, as masks ``bool [B, 1, H, W]``.

    Args:
        fraction: Fraction of the area ``[B]``, from 0 to 1; met up to whole pixels.
        ratio: Width divided by height ``[B]``; less extreme where the rectangle would not fit.
        images: ``[B, 3, H, W]``.
    """
    ratio = ratio.clamp(fraction, 1 / fraction)
    masks = []
    sizes = zip(images.shape[2:], (fraction / ratio, fraction * ratio), strict=True)
    for side, squared in sizes:
        length = (squared.sqrt() * side).round()
        first = (torch.rand_like(fraction) * (side - length + 1)).floor()
        index = torch.arange(side, device=images.device)
        masks.append((index >= first[:, None]) & (index < (first + length)[:, None]))
    rows, columns = masks
    return (rows[:, :, None] & columns[:, None])[:, None]
