"""Batches: sizes, order, sampling positions, prefetching and devices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu
from images import image_input
from noise_images import noise_examples

from autotl.data import Batches, Packed, check, device_memory, pack, prefetch, resident
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
    assert [labels.tolist() for labels in batches.load_targets(positions)] == [
        labels.tolist() for _, labels in batches.epoch(3)
    ]
    assert batches.load_targets([]) == []


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
    packed = pack(dataset, image_input(8, "nearest"), tmp_path)
    train = dataset.indices("train")
    images, labels = next(iter(Batches(packed, dataset.targets, train, 32, CPU)))
    assert (images[0].permute(1, 2, 0).numpy() == packed.array[train[0]]).all()
    assert labels.tolist() == dataset.targets[train].tolist()


# Images that are resident on a GPU.

IMAGES = 40 * 4 * 4 * 3
"""Bytes of 40 images."""


def sequence(batches: Batches, epochs: int = 3) -> list[list[int]]:
    """The numbers of the images of some epochs, also with sampling."""
    sampling = np.linspace(0, 1, 40).tolist()
    return [
        [int(i) for images, _ in batches.epoch(number, drawn) for i in images[:, 0, 0, 0]]
        for drawn in (None, sampling)
        for number in range(epochs)
    ]


class CountingPacked(Packed):
    """Counts the images that are read."""

    read = 0

    def take(self, indices: Any, out: Any = None) -> Any:
        CountingPacked.read += len(indices)
        return super().take(indices, out)


def counting_batches() -> Batches:
    """The same images, and a count of those that are read."""
    packed, CountingPacked.read = numbered_images(40), 0
    counting = CountingPacked(packed.array, packed.path)
    return Batches(counting, np.arange(40), np.arange(40), 8, CPU, shuffle_seed=1)


def test_images_that_fit_are_read_once_and_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sequence(shuffled_batches(1))
    FakeGpu(monkeypatch, memory=2 * IMAGES)
    batches = counting_batches()
    next(iter(batches))
    assert CountingPacked.read <= 16  # one batch, and one ahead
    assert sequence(batches) == expected
    assert 40 <= CountingPacked.read <= 56
    assert resident.resident_bytes(CPU) == IMAGES
    del batches
    assert resident.resident_bytes(CPU) == 0


def test_images_that_do_not_fit_are_read_in_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sequence(shuffled_batches(1))
    FakeGpu(monkeypatch, memory=2 * IMAGES - 2)
    batches = counting_batches()
    assert sequence(batches) == expected
    assert CountingPacked.read == 6 * 40
    assert resident.resident_bytes(CPU) == 0


@pytest.mark.parametrize("epochs_before", [0, 1])
@pytest.mark.parametrize("given_up_after", range(1, 6))
def test_images_that_are_given_up_in_an_epoch_are_read_again(
    monkeypatch: pytest.MonkeyPatch, epochs_before: int, given_up_after: int
) -> None:
    expected = image_numbers(shuffled_batches(1), 1)
    gpu, batches = FakeGpu(monkeypatch, memory=2 * IMAGES), shuffled_batches(1)
    for _ in range(epochs_before):
        image_numbers(batches, 0)
    seen: list[int] = []
    for number, (images, labels) in enumerate(batches.epoch(1), 1):
        assert (labels == images[:, 0, 0, 0]).all()
        seen += images[:, 0, 0, 0].tolist()
        if number == given_up_after:
            assert resident.release(CPU)
            assert resident.resident_bytes(CPU) == 0
    assert seen == expected
    gpu.memory = 4 * IMAGES  # of which a quarter may be used after that
    assert image_numbers(batches, 1) == expected
    assert resident.resident_bytes(CPU) == IMAGES


def test_two_loops_over_the_same_images_do_not_disturb_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = image_numbers(shuffled_batches(1), 1)
    FakeGpu(monkeypatch, memory=4 * IMAGES)
    batches = shuffled_batches(1)
    first, second = batches.epoch(1), batches.epoch(1)
    seen: list[int] = []
    for number, ((images, _), (same, _)) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(images, same)
        seen += images[:, 0, 0, 0].tolist()
        if number == 1:
            resident.release(CPU)
            next(iter(batches))  # takes room again, while both go on
    assert seen == expected
    assert image_numbers(batches, 1) == expected


def test_no_thread_is_left_when_a_loop_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory in (0, 2 * IMAGES):
        FakeGpu(monkeypatch, memory)
        before = threading.active_count()
        for _ in shuffled_batches(1).epoch(0):
            assert threading.active_count() == before + 1
            break
        assert threading.active_count() == before
        with suppress(ZeroDivisionError):
            for _ in shuffled_batches(1).epoch(0):
                raise ZeroDivisionError
        assert threading.active_count() == before


def test_positions_are_sent_once_for_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, memory=2 * IMAGES)
    batches = shuffled_batches(1)
    image_numbers(batches)
    sent: list[int] = []
    send = batches_module.send_positions
    monkeypatch.setattr(
        batches_module, "send_positions", lambda b, d: (sent.append(len(b)), send(b, d))[1]
    )
    buffers: list[torch.dtype] = []
    buffer = device_memory.host_buffer
    monkeypatch.setattr(
        device_memory, "host_buffer", lambda *args: (buffers.append(args[-1]), buffer(*args))[1]
    )
    image_numbers(batches, 1)
    assert sent == [5, 5]  # for the labels and for the images
    assert buffers == [torch.int64] * 2  # from pinned memory, so that nothing waits


@pytest.mark.gpu
@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_batches_on_a_gpu_equal_those_on_the_cpu(
    fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all images resident on the GPU, and with none."""
    monkeypatch.setattr(resident, "RESIDENT_FRACTION", fraction)
    on_gpu = shuffled_batches(1, torch.device("cuda"))
    assert image_numbers(on_gpu, 2) == image_numbers(shuffled_batches(1), 2)
    assert all(x.is_cuda and (y == x[:, 0, 0, 0]).all() for x, y in on_gpu)
