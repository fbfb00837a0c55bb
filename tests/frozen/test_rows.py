"""Cached rows on a device: where they are, and that they are the same when they are given up."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import CPU, FakeGpu
from torch import Tensor

from autotl.data import resident
from autotl.frozen import CachedRows, FeatureCache, cache, reading_speed

WIDTH = 5
INDICES = np.array([9, 2, 7, 4, 5, 0, 8, 3])
ROWS = len(INDICES) * WIDTH * 4
"""Bytes of the rows of these examples."""

POSITIONS = [np.array(batch) for batch in ([3, 0], [7, 1], [2, 2, 5], [4, 6])]


def compute_row(index: int) -> Tensor:
    return torch.arange(WIDTH) + 10.0 * index


class Features:
    """The features of an imagined prefix, from a cache.

    Attributes:
        computed: Indices of the examples whose features were computed, in order.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self.computed: list[int] = []

    def compute(self, missing: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]:
        for start in range(0, len(missing), 3):
            batch = missing[start : start + 3]
            self.computed += batch.tolist()
            yield batch, torch.stack([compute_row(i) for i in batch.tolist()]), None

    def rows(self, indices: np.ndarray = INDICES, **options: Any) -> CachedRows:
        rows = self.cache.get_or_compute("a.features", indices, self.compute, CPU, **options)
        assert rows is not None
        return rows


def assert_right(rows: CachedRows, give_up_after: int | None = None) -> None:
    """Assert that batches are right, also if everything on the device is given up meanwhile."""
    loaded = rows.batches(POSITIONS)
    for number, (positions, (activations, targets)) in enumerate(
        zip(POSITIONS, loaded, strict=True)
    ):
        expected = torch.stack([compute_row(i) for i in INDICES[positions].tolist()])
        assert torch.equal(activations, expected)
        assert targets is None
        activations.zero_()  # as a layer that works in place would
        if number == give_up_after:
            assert resident.release(CPU)


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.bin"))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written, and gathered from the disk, a few at a time."""
    monkeypatch.setattr(cache, "CHUNK_BYTES", 3 * WIDTH * 4)
    monkeypatch.setattr("autotl.frozen.rows.CHUNK_BYTES", 3 * WIDTH * 4)


def test_rows_that_fit_stay_on_the_device_and_are_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS)
    features = Features(FeatureCache(1 << 20, tmp_path, memory=0))
    rows = features.rows()
    assert rows.resident
    assert rows.bytes_in_memory == 0
    assert resident.resident_bytes(CPU) == rows.bytes == ROWS
    assert len(files(tmp_path)) == 3
    for _ in range(2):
        assert_right(rows)
    assert features.rows() is rows
    later = Features(FeatureCache(1 << 20, tmp_path, memory=0))  # another run
    del rows, features
    assert_right(later.rows())
    assert later.computed == []
    assert later.rows().resident


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["on disk", "in memory"])
def test_rows_that_do_not_fit_on_the_device_are_copied_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS - 2)
    rows = Features(FeatureCache(1 << 20, tmp_path, memory=memory)).rows()
    assert rows.resident == bool(memory)
    assert resident.resident_bytes(CPU) == 0
    assert_right(rows)


@pytest.mark.parametrize("disk", [0, 1 << 20], ids=["nowhere else", "on disk"])
@pytest.mark.parametrize("give_up_after", range(4))
def test_rows_that_are_given_up_in_an_epoch_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: int, give_up_after: int
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS)
    features = Features(FeatureCache(disk, tmp_path, memory=0))
    rows = features.rows()
    assert len(files(tmp_path)) == (3 if disk else 0)
    assert_right(rows, give_up_after)
    assert resident.resident_bytes(CPU) == 0
    assert rows.bytes_in_memory == (0 if disk else ROWS)
    assert_right(rows)
    assert_right(features.rows())  # there is no room for them now
    resident.relax(CPU)
    assert_right(features.rows())
    assert features.computed == INDICES.tolist()
    assert resident.resident_bytes(CPU) == (ROWS if disk else 0)


def test_rows_without_another_place_stay_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS, ram=2 * ROWS - 1)
    rows = Features(FeatureCache(0, tmp_path, memory=0)).rows()
    assert not resident.release(CPU)
    assert resident.resident_bytes(CPU) == ROWS
    assert_right(rows)


@pytest.mark.parametrize("disk", [0, 1 << 20])
def test_rows_may_be_given_up_while_they_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: int
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS)
    features = Features(FeatureCache(disk, tmp_path, memory=0))
    compute = features.compute

    def interrupted(missing: np.ndarray) -> Iterator[Any]:
        for number, batch in enumerate(compute(missing)):
            if number == 2:  # memory runs out in the prefix
                assert resident.release(CPU)
            yield batch

    monkeypatch.setattr(features, "compute", interrupted)
    assert_right(features.rows())
    assert features.computed == INDICES.tolist()
    assert resident.resident_bytes(CPU) == 0


def test_rows_that_are_only_on_the_device_are_not_computed_again_for_other_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, memory=4 * ROWS)
    features = Features(FeatureCache(0, tmp_path, memory=0))
    features.rows()
    few = np.array([3, 1, 9])
    rows = features.rows(few)
    assert features.computed == [*INDICES.tolist(), 1]
    [(activations, _)] = rows.batches([np.arange(3)])
    assert torch.equal(activations, torch.stack([compute_row(i) for i in few.tolist()]))


def test_more_rows_than_half_of_the_disk_are_not_written_if_the_device_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(monkeypatch, memory=2 * ROWS)
    feature_cache = FeatureCache(10_000, tmp_path, memory=0)
    assert feature_cache.has_space(5_000, CPU)
    assert not feature_cache.has_space(5_001, CPU)
    assert_right(Features(feature_cache).rows(total_bytes=5_001))
    assert files(tmp_path) == []
    gpu.memory = 40_000
    assert feature_cache.has_space(10_000, CPU)
    assert not feature_cache.has_space(10_001, CPU)
    gpu.memory = 0  # another process has taken it
    assert not feature_cache.has_space(5_001, CPU)
    other = Features(feature_cache)
    assert_right(other.rows(INDICES.copy(), total_bytes=5_001))


def test_rows_on_the_device_are_freed_with_the_cache_without_a_garbage_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS)
    features = Features(FeatureCache(1 << 20, tmp_path, memory=0))
    gc.disable()
    try:
        rows = features.rows()
        assert_right(rows)
        features.cache.remove(["a.features"])
        assert resident.resident_bytes(CPU) == ROWS  # they are still in use
        del rows
        assert resident.resident_bytes(CPU) == 0
    finally:
        gc.enable()


def test_rows_that_were_given_up_do_not_lock_their_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS)
    features = Features(FeatureCache(1 << 20, tmp_path, memory=0))
    features.rows()
    assert resident.release(CPU)
    other = np.array([9])
    assert features.cache.get_or_compute("b.features", other, features.compute, CPU)
    features.cache.remove(["a.features"])
    assert not (tmp_path / "a.features").exists()


def test_the_time_to_read_is_that_of_the_place_where_rows_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathering = {"cpu": 2.0, "cuda": 1.0}
    monkeypatch.setattr(cache, "gathering_seconds_per_byte", lambda d: gathering[d.type])
    monkeypatch.setattr(cache, "copying_seconds_per_byte", lambda d: 10.0)
    monkeypatch.setattr(cache, "disk_seconds_per_byte", lambda folder: 100.0)
    FakeGpu(monkeypatch, memory=80 << 30)
    feature_cache, gpu = FeatureCache(1 << 30, tmp_path, memory=2 << 30), torch.device("cuda:0")
    assert feature_cache.seconds_to_read(1 << 20, 10 << 10, gpu) == (1 << 20) * 1.0  # 10 GiB
    FakeGpu(monkeypatch, memory=3 << 30)
    assert feature_cache.seconds_to_read(1 << 20, 2 << 10, gpu) == (1 << 20) * 12.0
    assert feature_cache.seconds_to_read(1 << 20, 3 << 10, gpu) == (1 << 20) * 110.0


def test_speeds_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for measure, argument in (
        (reading_speed.gathering_seconds_per_byte, CPU),
        (reading_speed.disk_seconds_per_byte, tmp_path),
    ):
        seconds = measure(argument)
        assert 0 < seconds < 1e-6
        assert measure(argument) == seconds
    assert reading_speed.copying_seconds_per_byte(CPU) == 0


def test_rows_of_earlier_trials_make_room_and_do_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, memory=2 * ROWS + 100)  # half of it for the rows of one trial
    features = Features(FeatureCache(ROWS, tmp_path, memory=ROWS // 2))
    for number in range(4):
        rows = features.cache.get_or_compute(
            f"{number}.features", INDICES, features.compute, CPU, total_bytes=ROWS
        )
        assert rows is not None
        assert rows.resident
        assert sum(each.bytes_in_memory for each in features.cache._rows.values()) == 0
    assert len(features.computed) == 4 * len(INDICES)


def test_rows_that_another_process_wrote_in_the_meantime_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CHUNK_BYTES", 3 * WIDTH * 4)
    FakeGpu(monkeypatch, memory=100 * ROWS)
    features = Features(FeatureCache(10 * ROWS, tmp_path, memory=0))
    other = Features(FeatureCache(10 * ROWS, tmp_path, memory=0))
    compute = features.compute

    def compute_beside_another(missing: np.ndarray) -> Any:
        for number, rows in enumerate(compute(missing)):
            if number == 2:
                with monkeypatch.context() as patch:
                    patch.setattr(resident, "budget", lambda _: 0)
                    other.rows()  # written to the disk
                assert resident.release(CPU)
            yield rows

    monkeypatch.setattr(features, "compute", compute_beside_another)
    rows = features.rows(total_bytes=6 * ROWS)  # which are not written to the disk
    [(activations, _)] = rows.batches([np.arange(len(INDICES))])
    assert torch.equal(activations, torch.stack([compute_row(int(i)) for i in INDICES]))
