"""Augmentations map ``uint8 [B, 3, S, S]`` to the same, on the device, each picture differently.

Those that mix pictures are given the targets ``float32 [B, C]`` too, rows that sum to 1, and
return both. Every random number comes from torch's global generators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from autotl import Range, augment

Transform = Callable[[Tensor], Tensor]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

Smallest = Annotated[float, Range(0.1, 0.9, step=0.2)]
"""Few values, so that trials share what frozen parts made of the views."""

Alpha = Annotated[float, Range(0.1, 1.0, log=True)]


@augment
def none(size: int) -> Transform:
    """Leave the pictures as they are."""
    return lambda images: images


@augment(order=1)
def flip_crop(size: int, *, smallest: Smallest = 0.5, flip: bool = True) -> Transform:
    """Cut out a random part and mirror half of them (Szegedy et al. 2014, arXiv:1409.4842).

    ``smallest`` is the least share of the area that is left; the sides' ratio is 3/4 to 4/3.
    """
    return lambda images: _flip_crop(images, smallest, flip)


def _flip_crop(images: Tensor, smallest: float, flip: bool) -> Tensor:
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(smallest, 1.0)
    ratio = torch.empty(count, device=device).uniform_(-1, 1).mul(0.2877).exp()  # log(4/3)
    ratio = ratio.clamp(area, 1 / area)  # else the longer side would be cut short
    half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1)
    middle = (torch.rand(count, 2, device=device) * 2 - 1) * (1 - half)
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0) if flip else 1.0
    boxes = torch.zeros(count, 2, 3, device=device)
    boxes[:, 0, 0], boxes[:, 1, 1], boxes[:, :, 2] = half[:, 0] * mirror, half[:, 1], middle
    grid = functional.affine_grid(boxes, list(images.shape), align_corners=False)
    cut = functional.grid_sample(
        images.float(), grid, padding_mode="reflection", align_corners=False
    )
    return cut.round_().clamp_(0, 255).to(torch.uint8)


@augment
def rand_augment(
    size: int,
    *,
    operations: Annotated[int, Range(1, 3)] = 2,
    magnitude: Annotated[int, Range(1, 20)] = 7,
    flip: bool = True,
) -> Transform:
    """A few random changes of geometry and colour (Cubuk et al. 2019, arXiv:1909.13719).

    ``magnitude`` is on torchvision's scale of 0 to 30.
    """
    from torchvision.transforms import v2

    return _one_by_one(v2.RandAugment(operations, magnitude), flip)


@augment
def trivial_augment(size: int, *, flip: bool = True) -> Transform:
    """One random change, of any strength, a picture (Müller & Hutter 2021, arXiv:2103.10158)."""
    from torchvision.transforms import v2

    return _one_by_one(v2.TrivialAugmentWide(), flip)


def _one_by_one(change: Transform, flip: bool) -> Transform:
    """Change each picture by itself, and mirror half of them if they may ``flip``."""
    from torchvision.transforms import v2

    mirror = v2.RandomHorizontalFlip(0.5 if flip else 0.0)
    return lambda images: torch.stack([mirror(change(image)) for image in images])


@augment
def random_erasing(
    size: int,
    *,
    probability: Annotated[float, Range(0.1, 1.0)] = 0.5,
    area: Annotated[float, Range(0.05, 0.5)] = 0.33,
    fill: Literal["noise", "mean"] = "noise",
    smallest: Smallest = 0.5,
    flip: bool = True,
) -> Transform:
    """Cut out and mirror, and blot out a box in some (Zhong et al. 2017, arXiv:1708.04896).

    A box takes up to the share ``area`` of a picture; its sides' ratio is 3/10 to 10/3.
    """

    def transform(images: Tensor) -> Tensor:
        images = _flip_crop(images, smallest, flip)
        count, device = len(images), images.device
        share = torch.empty(count, device=device).uniform_(0.02, area)
        ratio = torch.empty(count, device=device).uniform_(-1, 1).mul(1.204).exp()  # log(10/3)
        hit = torch.rand(count, device=device) < probability
        if fill == "noise":
            blot = torch.randint(256, images.shape, dtype=torch.uint8, device=device)
        else:
            blot = images.float().mean((2, 3), keepdim=True).round_().to(torch.uint8)
        return torch.where(_boxes(share * hit, ratio, images), blot, images)

    return transform


@augment(mixes=True)
def mixup(size: int, *, alpha: Alpha = 0.2, smallest: Smallest = 0.5, flip: bool = True) -> Mixing:
    """Cut out, mirror, and blend pictures in pairs (Zhang et al. 2017, arXiv:1710.09412).

    The share of a picture is drawn from Beta(``alpha``, ``alpha``): the larger, the more even.
    """

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = _flip_crop(images, smallest, flip)
        partner = torch.randperm(len(images), device=images.device)
        share = _beta(alpha, targets)
        own = images.float()
        mixed = own[partner].lerp(own, share[:, None, None, None])
        return mixed.round_().to(torch.uint8), targets[partner].lerp(targets, share[:, None])

    return transform


@augment(mixes=True)
def cutmix(size: int, *, alpha: Alpha = 1.0, smallest: Smallest = 0.5, flip: bool = True) -> Mixing:
    """Cut out, mirror, and paste a box of another picture (Yun et al. 2019, arXiv:1905.04899).

    The share of the box is drawn from Beta(``alpha``, ``alpha``); the target counts its pixels.
    """

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = _flip_crop(images, smallest, flip)
        partner = torch.randperm(len(images), device=images.device)
        boxes = _boxes(_beta(alpha, targets), torch.ones_like(targets[:, 0]), images)
        mixed = torch.where(boxes, images[partner], images)
        return mixed, targets.lerp(targets[partner], boxes.float().mean((1, 2, 3))[:, None])

    return transform


def _beta(alpha: float, targets: Tensor) -> Tensor:
    """A number from Beta(alpha, alpha) for each of the ``targets [B, C]``."""
    drawn = torch.distributions.Beta(alpha, alpha).sample(targets.shape[:1])
    return drawn.to(targets)  # drawn on the CPU: not every device can


def _boxes(share: Tensor, ratio: Tensor, images: Tensor) -> Tensor:
    """Masks ``bool [B, 1, H, W]`` of a box each, anywhere inside ``images [B, 3, H, W]``.

    Args:
        share: ``[B]``, of the area, from 0 to 1; met as far as whole pixels can.
        ratio: ``[B]``, of width to height; less extreme where the box would not fit.
        images: What they are for.
    """
    ratio = ratio.clamp(share, 1 / share)
    inside = []
    for side, part in zip(images.shape[2:], ((share / ratio), (share * ratio)), strict=True):
        length = (part.sqrt() * side).round()
        first = (torch.rand_like(share) * (side - length + 1)).floor()
        at = torch.arange(side, device=images.device)
        inside.append((at >= first[:, None]) & (at < (first + length)[:, None]))
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None])[:, None]
