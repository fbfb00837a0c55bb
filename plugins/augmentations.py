"""Augmentations map ``uint8 [B, 3, S, S]`` to the same, on the device, each picture differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from autotl import Range, augment

Transform = Callable[[Tensor], Tensor]


@augment
def none(size: int) -> Transform:
    """Leave the pictures as they are."""
    return lambda images: images


@augment(order=1)
def flip_crop(
    size: int, *, smallest: Annotated[float, Range(0.08, 1.0)] = 0.5, flip: bool = True
) -> Transform:
    """Cut out a random part and mirror half of them (Szegedy et al. 2014, arXiv:1409.4842).

    ``smallest`` is the least share of the area that is left; the sides' ratio is 3/4 to 4/3.
    """

    def transform(images: Tensor) -> Tensor:
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

    return transform


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

    change = v2.RandAugment(operations, magnitude)
    mirror = v2.RandomHorizontalFlip(0.5 if flip else 0.0)

    def transform(images: Tensor) -> Tensor:
        return torch.stack([mirror(change(image)) for image in images])

    return transform
