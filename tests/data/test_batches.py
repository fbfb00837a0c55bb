"""Batches: sizes, order, sampling positions, prefetching and devices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_images import noise_examples

from autotl.data import Batches, Packed, check, pack, prefetch
from autotl.data import batches as batches_module

CPU = torch.device("cpu")


def numbered_images(n: int) -> Packed:
    """Images that are filled with their own index."""
    array = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 3))
    return Packed(array.copy(), Path("nowhere"))


def shuffled_batches(seed: int, device: torch.device = CPU) -> Batches:
    """40 numbered images, each with its index as label, in batches of 8."""
    return Batches(numbered_images(40), np.arange(40), np.arange(40), 8, device, shuffle_seed=seed)


def image_numbers(batches: Batches, epoch: int = 0) -> list[int]:
    return [int(i) for images, _ in batches.epoch(epoch) for i in images[:, 0, 0, 0]]


def test_batches_hold_the_chosen_images_in_order() -> None:
    indices = np.array([7, 3, 5, 1])
    batches = Batches(numbered_images(9), np.arange(9) * 10, indices, 2, CPU)
    assert len(batches) == 2
    for images, labels in batches:
        assert (images.dtype, images.shape) == (torch.uint8, (2, 3, 4, 4))
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        assert (labels == images[:, 0, 0, 0] * 10).all()
    assert image_numbers(batches, 3) == indices.tolist()


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [
        (33, 32, [17, 16]), (64, 32, [32, 32]), (65, 32, [22, 22, 21]), (5, 32, [5]),
        (3, 2, [3]), (5, 2, [3, 2]), (4, 1, [2, 2]), (1, 32, [1]), (0, 32, []),
    ],
)  # fmt: skip
def test_no_batch_holds_a_single_image(n: int, size: int, sizes: list[int]) -> None:
    batches = Batches(numbered_images(n), np.zeros(n, np.int64), np.arange(n), size, CPU)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)


def test_the_order_depends_on_the_epoch_and_the_seed() -> None:
    batches = shuffled_batches(1)
    assert sorted(image_numbers(batches, 0)) == list(range(40))
    assert image_numbers(batches, 0) != image_numbers(batches, 1)
    assert image_numbers(batches, 1) == image_numbers(shuffled_batches(1), 1)
    assert image_numbers(batches, 1) != image_numbers(shuffled_batches(2), 1)
    assert all((y == x[:, 0, 0, 0]).all() for x, y in batches.epoch(1))


def test_epoch_indices_are_those_of_the_batches_of_the_epoch() -> None:
    batches = Batches(
        numbered_images(9), np.arange(9) * 10, np.array([7, 3, 5, 1]), 2, CPU, shuffle_seed=1
    )
    positions = batches.epoch_indices(3)
    assert batches.indices[np.concatenate(positions)].tolist() == image_numbers(batches, 3)
    assert [labels.tolist() for labels in batches.load_labels(positions)] == [
        labels.tolist() for _, labels in batches.epoch(3)
    ]
    assert batches.load_labels([]) == []


def test_prefetch_computes_one_item_ahead() -> None:
    computed: list[int] = []
    second_computed = threading.Event()

    def items() -> Iterator[int]:
        for i in range(4):
            computed.append(i)
            if i == 1:
                second_computed.set()
            yield i
        raise ZeroDivisionError

    prefetched = prefetch(items())
    assert next(prefetched) == 0
    assert second_computed.wait(60)
    assert computed == [0, 1]  # one ahead, no more
    assert [next(prefetched), next(prefetched), next(prefetched)] == [1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        next(prefetched)
    stopped = prefetch(iter(range(9)))
    next(stopped)
    stopped.close()


def test_batches_read_a_packed_array(tmp_path: Path) -> None:
    dataset = check(noise_examples(5), "here")
    packed = pack(dataset, 8, "nearest", tmp_path)
    train = dataset.indices("train")
    images, labels = next(iter(Batches(packed, dataset.labels, train, 32, CPU)))
    assert (images[0].permute(1, 2, 0).numpy() == packed.array[train[0]]).all()
    assert labels.tolist() == dataset.labels[train].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_batches_on_a_gpu_equal_those_on_the_cpu(
    fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all images resident on the GPU, and with none."""
    monkeypatch.setattr(batches_module, "RESIDENT_FRACTION", fraction)
    on_gpu = shuffled_batches(1, torch.device("cuda"))
    assert image_numbers(on_gpu, 2) == image_numbers(shuffled_batches(1), 2)
    assert all(x.is_cuda and (y == x[:, 0, 0, 0]).all() for x, y in on_gpu)
