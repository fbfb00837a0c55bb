"""SpecAugment."""

from __future__ import annotations

import pytest
import torch
from autotl_audio.augmentations import spec_augment
from autotl_audio.sound import sound
from torch import Tensor

from autotl.testing import check


def uniform(images: Tensor, *shape: int, device: str | None = None) -> Tensor:
    return torch.rand(len(images), *shape)


def test_the_augmentation_satisfies_the_contract() -> None:
    assert check(spec_augment, kind=sound) >= 1


@pytest.mark.parametrize("masks", [1, 3])
def test_rows_and_columns_are_masked_by_the_mean(masks: int) -> None:
    torch.manual_seed(0)
    spectrograms = torch.randint(0, 100, (200, 3, 40, 40), dtype=torch.uint8)
    spectrograms[:, :, 0, 0] = 255
    augment = spec_augment(40, uniform, masks=masks, frequency=0.25, time=0.1, shift=False)
    augmented = augment(spectrograms)
    means = spectrograms.float().mean((2, 3), keepdim=True).floor().to(torch.uint8)
    is_mean = (augmented == means).all(1)  # by chance only one pixel in a million is the mean
    unchanged = (augmented == spectrograms).all(1)
    assert (is_mean | unchanged).all()
    rows, columns = is_mean.all(2).sum(1), is_mean.all(1).sum(1)
    assert rows.max() <= masks * 11  # a quarter of 40 rows, and one that is touched
    assert columns.max() <= masks * 5
    assert rows.float().mean() > 2 * columns.float().mean() > 0
    assert len(set(rows.tolist())) > 3


def test_a_recording_is_shifted_as_a_whole() -> None:
    torch.manual_seed(0)
    spectrograms = torch.arange(40, dtype=torch.uint8).expand(50, 3, 40, 40).clone()
    augment = spec_augment(40, uniform, frequency=0.0, time=0.0)
    augmented = augment(spectrograms)
    starts = augmented[:, 0, 0, 0].long()
    expected = (torch.arange(40) + starts[:, None]) % 40
    assert (augmented == expected[:, None, None]).all()
    assert len(set(starts.tolist())) > 20
