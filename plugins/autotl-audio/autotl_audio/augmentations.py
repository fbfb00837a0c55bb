"""Augmentations of spectrograms, as images ``uint8 [B, 3, S, S]``: time from left to right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from autotl import Range, Uniform, augment

Transform = Callable[[Tensor], Tensor]

Width = Annotated[float, Range(0.05, 0.35, step=0.1)]
"""Few values, so that trials share the cached features of augmented views."""


@augment(input="sound", order=1)
def spec_augment(
    size: int,
    uniform: Uniform,
    *,
    masks: Annotated[int, Range(1, 3)] = 2,
    frequency: Width = 0.15,
    time: Width = 0.15,
    shift: bool = True,
) -> Transform:
    """SpecAugment: masked bands and moments, shifts in time (Park et al. 2019, arXiv:1904.08779).

    ``masks`` are drawn of each kind, up to the fractions ``frequency`` and ``time`` of the image
    wide. With ``shift``, the recording begins at any moment, and its beginning follows its end.
    """

    def transform(spectrograms: Tensor) -> Tensor:
        if shift:
            spectrograms = _shift(spectrograms, uniform(spectrograms))
        numbers = uniform(spectrograms, 2, 2, masks)
        is_masked = _draw_masks(numbers[:, 0], frequency, size)[:, None, :, None]
        is_masked = is_masked | _draw_masks(numbers[:, 1], time, size)[:, None, None, :]
        return torch.where(is_masked, _mean_levels(spectrograms), spectrograms)

    return transform


def _shift(spectrograms: Tensor, numbers: Tensor) -> Tensor:
    """Shift each ``[3, S, S]`` circularly by a part ``numbers [B]`` of its duration."""
    frames = spectrograms.shape[3]
    starts = (numbers * frames).long()
    columns = (torch.arange(frames, device=spectrograms.device) + starts[:, None]) % frames
    return torch.take_along_dim(spectrograms, columns[:, None, None, :], 3)


def _draw_masks(numbers: Tensor, widest: float, size: int) -> Tensor:
    """Which of ``size`` rows or columns are masked, ``bool [B, size]``.

    Args:
        numbers: Two numbers from 0 to 1 for each mask, its width and start: ``[B, 2, masks]``.
        widest: The largest width, as a fraction of all.
        size: The number of rows or columns.
    """
    widths = numbers[:, 0] * widest * size
    starts = numbers[:, 1] * (size - widths)
    positions = torch.arange(size, device=numbers.device)[:, None] + 0.5
    inside = (positions >= starts[:, None]) & (positions < (starts + widths)[:, None])
    return inside.any(2)


def _mean_levels(spectrograms: Tensor) -> Tensor:
    """The mean of each channel in whole levels, the same in every batch: ``uint8 [B, 3, 1, 1]``."""
    sums = spectrograms.sum((2, 3), dtype=torch.int64)
    return (sums // spectrograms[0, 0].numel()).to(torch.uint8)[:, :, None, None]
