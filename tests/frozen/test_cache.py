"""The feature cache: which rows are computed, which are read, and that rows read are right."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotl.files import count_bytes, last_used, lock
from autotl.frozen import CachedRows, FeatureCache, cache, entry_name, reading_speed
from autotl.frozen.activations import Activations, WithInputs, divide

CPU = torch.device("cpu")
WIDTH = 5


def row(index: int) -> Tensor:
    """The activations of the example at an index of an imagined data set."""
    return torch.arange(WIDTH) + 10.0 * index


class Prefix:
    """An imagined frozen prefix that records which rows it computes.

    Args:
        cache: The cache.
        name: Name of the entry.
        batch_size: Number of rows it computes together.
    """

    def __init__(self, cache: FeatureCache, name: str = "a", batch_size: int = 4) -> None:
        self.cache, self.name, self.batch_size = cache, entry_name({"name": name}), batch_size
        self.computed: list[int] = []

    def compute(self, missing: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]:
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            self.computed += batch.tolist()
            yield batch, torch.stack([row(i) for i in batch.tolist()]), None

    def rows(self, *indices: int) -> CachedRows | None:
        return self.cache.get_or_compute(self.name, np.array(indices, np.int64), self.compute, CPU)

    def get(self, *indices: int) -> Tensor:
        """The rows, after asserting that they are right."""
        rows = self.rows(*indices)
        assert rows is not None
        activations, targets = next(rows.batches([np.arange(len(indices))]))
        assert targets is None
        assert torch.equal(activations, torch.stack([row(i) for i in indices]))
        return activations


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["on disk", "in memory"])
def test_only_missing_rows_are_computed(tmp_path: Path, memory: int) -> None:
    prefix = Prefix(FeatureCache(1 << 20, tmp_path, memory))
    prefix.get(7, 3, 5)
    prefix.get(5, 7)
    assert prefix.computed == [7, 3, 5]
    prefix.get(1, 3, 9, 5)  # another split
    assert prefix.computed == [7, 3, 5, 1, 9]
    later = Prefix(FeatureCache(1 << 20, tmp_path, memory))  # another run
    later.get(9, 3, 1)
    assert later.computed == []
    other = Prefix(prefix.cache, "b")
    other.get(3)
    assert other.computed == [3]


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["on disk", "in memory"])
def test_batches_are_copies_in_the_requested_order(tmp_path: Path, memory: int) -> None:
    rows = Prefix(FeatureCache(1 << 20, tmp_path, memory)).rows(4, 2, 8, 6)
    assert rows is not None
    assert rows.resident == bool(memory)
    positions = [np.array([3, 0]), np.array([2]), np.array([0, 0, 1])]
    for _ in range(2):
        batches = [activations for activations, _ in rows.batches(positions)]
        expected = [[6, 4], [8], [4, 4, 2]]
        for batch, indices in zip(batches, expected, strict=True):
            assert torch.equal(batch, torch.stack([row(i) for i in indices]))
            batch.zero_()  # as a layer that works in place would


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4, 5)])
@pytest.mark.parametrize("num_targets", [None, 4])
@pytest.mark.parametrize("inputs", [None, "int64", "uint8", "float64"])
def test_rows_are_read_as_they_were_computed(
    tmp_path: Path,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    num_targets: int | None,
    inputs: str | None,
) -> None:
    computed = torch.randn(6, *shape).to(dtype)
    if len(shape) == 3:
        computed = computed.contiguous(memory_format=torch.channels_last)
    batch: Activations = computed
    if inputs:
        batch = WithInputs(computed, torch.randint(0, 99, (6, 7)).to(getattr(torch, inputs)))
    mixed = None if num_targets is None else torch.rand(6, num_targets)
    for memory in (0, 1 << 20):
        feature_cache = FeatureCache(1 << 20, tmp_path, memory)
        indices = np.arange(6)
        rows = feature_cache.get_or_compute(
            "x.features", indices, lambda missing: iter([(missing, batch, mixed)]), CPU
        )
        assert rows is not None
        [(read, targets)] = rows.batches([indices])
        activations, own_inputs = divide(read)
        if isinstance(batch, WithInputs):
            assert own_inputs is not None
            assert own_inputs.dtype == batch.inputs.dtype
            assert torch.equal(own_inputs, batch.inputs)
        else:
            assert own_inputs is None
        assert torch.equal(activations, computed)
        assert activations.dtype == dtype
        assert activations.stride() == computed.stride()  # channels_last as the layers expect it
        assert (targets is None) == (mixed is None)
        if targets is not None and mixed is not None:
            assert torch.equal(targets, mixed)


@pytest.mark.parametrize("chunk_bytes", [10, 1 << 20], ids=["in several chunks", "in one"])
def test_there_is_no_room_for_rows_that_are_not_all_of_one_size(
    tmp_path: Path, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CHUNK_BYTES", chunk_bytes)
    sizes = {0: 3, 1: 3, 2: 4}

    def compute(missing: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, None]]:
        for i in missing.tolist():
            yield np.array([i]), torch.ones(1, sizes[i]), None

    feature_cache = FeatureCache(1 << 20, tmp_path)
    assert feature_cache.get_or_compute("x.features", np.arange(3), compute, CPU) is None
    rows = feature_cache.get_or_compute("y.features", np.arange(2), compute, CPU)
    assert rows is not None
    assert feature_cache.get_or_compute("y.features", np.arange(1, 3), compute, CPU) is None


def test_there_are_no_rows_for_no_examples(tmp_path: Path) -> None:
    assert Prefix(FeatureCache(1 << 20, tmp_path)).rows() is None


def test_rows_that_were_computed_before_an_interruption_are_cached(tmp_path: Path) -> None:
    prefix = Prefix(FeatureCache(1 << 20, tmp_path), batch_size=1)

    def interrupted(missing: np.ndarray) -> Any:
        for batch in prefix.compute(missing):
            if 3 in batch[0]:
                raise TimeoutError
            yield batch

    with pytest.raises(TimeoutError):
        prefix.cache.get_or_compute(prefix.name, np.array([1, 2, 3]), interrupted, CPU)
    prefix.computed.clear()
    prefix.get(1, 2, 3)
    assert prefix.computed == [3]


def test_rows_are_written_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHUNK_BYTES", 40)  # two rows
    prefix = Prefix(FeatureCache(1 << 20, tmp_path), batch_size=1)
    prefix.get(*range(7))
    assert sorted(p.stat().st_size for p in files(tmp_path, ".bin")) == [20, 40, 40, 40]
    assert Prefix(FeatureCache(1 << 20, tmp_path, 0)).get(6, 0, 3).shape == (3, WIDTH)


def test_an_entrys_name_depends_on_every_value_of_the_key() -> None:
    key = {"weights": "ab", "view": [1, "flip"], "type": torch.float32}
    others = [key | {"weights": "ac"}, key | {"view": [2, "flip"]}, key | {"type": torch.float16}]
    names = {entry_name(k) for k in (key, *others)}
    assert len(names) == 4
    assert entry_name(dict(reversed(key.items()))) == entry_name(key)


# Space on disk and in memory.


@pytest.fixture
def entry_bytes(tmp_path: Path) -> int:
    """Bytes of an entry of four rows, its header included."""
    feature_cache = FeatureCache(1 << 20, tmp_path / "measured")
    Prefix(feature_cache).get(1, 2, 3, 4)
    return feature_cache.usage().bytes


def test_the_least_recently_used_entry_is_evicted(tmp_path: Path, entry_bytes: int) -> None:
    limit = int(3.5 * entry_bytes)
    feature_cache = FeatureCache(limit, tmp_path / "cache", memory=0)
    prefixes = {name: Prefix(feature_cache, name) for name in "abcd"}
    for time_used, name in enumerate("abcabd"):
        prefixes[name].get(1, 2, 3, 4)  # all fit except d: c is the least recently used
        os.utime(feature_cache.folder / prefixes[name].name, (time_used, time_used))
    assert feature_cache.usage()._replace(bytes=0) == (3, 0, limit)
    assert feature_cache.usage().bytes <= feature_cache.limit
    for name in "dba":
        prefixes[name].get(1, 2, 3, 4)
        assert len(prefixes[name].computed) == 4
    prefixes["c"].get(1, 2, 3, 4)
    assert len(prefixes["c"].computed) == 8


def test_large_rows_are_evicted_before_small_ones(tmp_path: Path) -> None:
    """Pooled features save as much time as packed images, in fewer bytes."""
    small = Prefix(FeatureCache(1 << 20, tmp_path), "small")
    small.get(*range(100))
    for name, side in (("large", 8), ("larger", 16)):
        np.save(tmp_path / f"{name}.npy", np.zeros((4, side, side, 3), np.uint8))
    now = time.time()
    for path, seconds in ((tmp_path / small.name, 60), (tmp_path / "large.npy", 59)):
        os.utime(path, (now - seconds, now - seconds))
    os.utime(tmp_path / "larger.npy", (now - 1, now - 1))
    del small
    size = sum(map(count_bytes, tmp_path.iterdir()))
    assert FeatureCache(size - 1, tmp_path).make_room(0)
    assert {path.stem for path in tmp_path.glob("*.npy")} == {"larger"}, "it was just used"
    size = sum(map(count_bytes, tmp_path.iterdir()))
    os.utime(tmp_path / "larger.npy", (now - 30, now - 30))
    assert FeatureCache(size - 1, tmp_path).make_room(0)
    assert not list(tmp_path.glob("*.npy"))


def test_an_entry_that_is_read_from_memory_counts_as_used(tmp_path: Path) -> None:
    prefix = Prefix(FeatureCache(1 << 20, tmp_path))
    prefix.get(1)
    os.utime(tmp_path / prefix.name, (1, 1))
    prefix.get(1)
    assert last_used(tmp_path / prefix.name) > 1e9


def test_packed_images_count_and_are_evicted_too(tmp_path: Path, entry_bytes: int) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    for time_used, name in enumerate(["used.npy", "old.npy", "new.npy"]):
        (folder / name).write_bytes(bytes(entry_bytes))
        os.utime(folder / name, (time_used, time_used))
    descriptor = lock(folder / "used.npy", shared=True)
    assert descriptor is not None
    feature_cache = FeatureCache(int(3.5 * entry_bytes), folder, memory=0)
    assert feature_cache.usage().entries == 3
    Prefix(feature_cache).get(1, 2, 3, 4)
    os.close(descriptor)
    assert {p.name for p in folder.glob("*.npy")} == {"used.npy", "new.npy"}
    assert feature_cache.usage().entries == 3
    assert not feature_cache.make_room(4 * entry_bytes)
    assert feature_cache.make_room(3 * entry_bytes)
    assert feature_cache.usage().entries == 0


def test_needed_packed_images_raise_the_default_limit_but_not_a_given_one(tmp_path: Path) -> None:
    default, given = FeatureCache(None, tmp_path), FeatureCache(100, tmp_path)
    before = default.limit
    for feature_cache in (default, given):
        feature_cache.reserve(50)
    assert default.limit == before + 50
    assert given.limit == 100


def test_an_entry_in_use_is_never_evicted(tmp_path: Path, entry_bytes: int) -> None:
    feature_cache = FeatureCache(int(1.5 * entry_bytes), tmp_path / "cache", memory=0)
    rows = Prefix(feature_cache, "used").rows(1, 2, 3, 4)
    assert rows is not None
    assert Prefix(feature_cache, "next").rows(1, 2, 3, 4) is None  # there is no room for both
    [(activations, _)] = rows.batches([np.arange(4)])
    assert torch.equal(activations[3], row(4))
    del rows
    Prefix(feature_cache, "next").get(1, 2, 3, 4)
    assert feature_cache.usage().entries == 1


def test_rows_that_do_not_fit_on_the_disk_stay_in_memory(tmp_path: Path) -> None:
    feature_cache = FeatureCache(0, tmp_path / "never", memory=4 * 4 * WIDTH)
    prefix = Prefix(feature_cache)
    for _ in range(2):
        prefix.get(1, 2, 3, 4)
    assert prefix.computed == [1, 2, 3, 4]
    assert prefix.rows(1, 2, 3, 4, 5) is None
    assert not feature_cache.usage().entries


def test_rows_in_memory_are_evicted_for_others(tmp_path: Path) -> None:
    feature_cache = FeatureCache(1 << 20, tmp_path, memory=100)
    for _ in range(2):
        for name in "abc":
            rows = Prefix(feature_cache, name).rows(1, 2)  # 40 bytes
            assert rows is not None
            assert rows.resident
            assert sum(r.bytes for r in feature_cache._rows.values()) <= 100
    rows = Prefix(feature_cache, "a").rows(*range(6))
    assert rows is not None
    assert not rows.resident


def test_a_full_disk_is_reported_once_and_does_not_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    warnings: list[str] = []
    feature_cache = FeatureCache(1 << 20, tmp_path, memory=100, warn=warnings.append)
    Prefix(feature_cache, "a").get(1, 2)
    Prefix(feature_cache, "b").get(1, 2)
    assert Prefix(feature_cache, "c").rows(*range(9)) is None
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
    assert str(tmp_path) in warnings[0]
    assert not files(tmp_path, ".json")


def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="free some space"):
        Prefix(FeatureCache(1 << 20, tmp_path / "file" / "x")).get(1, 2)


def test_removed_entries_are_computed_again(tmp_path: Path) -> None:
    feature_cache = FeatureCache(1 << 20, tmp_path)
    prefix, other = Prefix(feature_cache, "a"), Prefix(feature_cache, "b")
    prefix.get(1)
    other.get(1)
    feature_cache.remove([prefix.name, entry_name({})])
    assert feature_cache.usage().entries == 1
    prefix.get(1)
    assert prefix.computed == [1, 1]


def test_a_temporary_folder_is_removed_with_the_cache() -> None:
    feature_cache = FeatureCache(1 << 20)
    prefix = Prefix(feature_cache)
    prefix.get(1)
    folder = feature_cache.folder
    assert folder.is_dir()
    del feature_cache, prefix
    assert not folder.exists()


def test_the_default_limit_is_at_most_a_tenth_of_the_free_space(tmp_path: Path) -> None:
    limit = FeatureCache(folder=tmp_path / "not" / "yet").limit
    assert 0 < limit <= cache.MAX_DISK_BYTES


def test_the_time_to_read_is_measured(tmp_path: Path) -> None:
    feature_cache = FeatureCache(1 << 20, tmp_path, memory=1000)
    in_memory = reading_speed.gathering_seconds_per_byte(CPU)
    on_disk = reading_speed.disk_seconds_per_byte(tmp_path)
    assert feature_cache.seconds_to_read(10, 10, CPU) == pytest.approx(10 * in_memory)
    assert feature_cache.seconds_to_read(10, 1000, CPU) == pytest.approx(10 * on_disk)
    assert 0 < in_memory < 1e-6
    assert 0 < on_disk < 1e-6
    assert not files(tmp_path, "")


# Several processes.


def work(folder: Path, seed: int, limit: int) -> int:
    """Request rows of several entries in a random order; return how many were computed."""
    random, computed = np.random.default_rng(seed), 0
    for _ in range(30):
        prefix = Prefix(FeatureCache(limit, folder, memory=0), str(random.integers(3)))
        indices = random.permutation(40)[:20].tolist()
        if rows := prefix.rows(*indices):  # otherwise the other processes use all space
            [(activations, _)] = rows.batches([np.arange(20)])
            assert torch.equal(activations, torch.stack([row(i) for i in indices]))
        computed += len(prefix.computed)
    return computed


@pytest.mark.parametrize("limit", [1 << 20, 2500], ids=["enough space", "little space"])
def test_several_processes_may_share_a_folder(tmp_path: Path, limit: int) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        computed = pool.starmap(work, [(tmp_path, seed, limit) for seed in range(3)])
    feature_cache = FeatureCache(limit, tmp_path)
    assert len(files(tmp_path, ".json")) == len(files(tmp_path, ".bin"))
    if limit > 2500:
        assert sum(computed) <= 3 * 120  # no process computes a row twice
        assert feature_cache.usage().entries == 3
        later = Prefix(feature_cache, "0")
        later.get(*range(40))
        assert not later.computed


def test_an_entry_of_an_earlier_process_is_checked_when_it_is_first_used(tmp_path: Path) -> None:
    def get(prefix: Prefix, factor: float) -> Tensor:
        def compute(missing: np.ndarray) -> Iterator[Any]:
            for indices, activations, targets in prefix.compute(missing):
                yield indices, factor * activations, targets

        indices = np.array([7, 3, 5, 4])
        rows = prefix.cache.get_or_compute(prefix.name, indices, compute, CPU, check=True)
        assert rows is not None
        return next(rows.batches([np.arange(4)]))[0]

    warned: list[str] = []
    first, same, other = (
        Prefix(FeatureCache(1 << 20, tmp_path, warn=warned.append)) for _ in range(3)
    )
    expected = get(first, 1.0)
    assert first.computed == [7, 3, 5, 4]  # nothing to check
    assert torch.equal(get(same, 1.01), expected)  # rounded otherwise
    assert torch.equal(get(same, 2.0), expected)  # checked once
    assert (same.computed, warned) == ([3, 7], [])
    assert torch.equal(get(other, 2.0), 2 * expected)
    assert other.computed == [3, 7, 7, 3, 5, 4]
    assert len(warned) == 1
    assert len(files(tmp_path, ".json")) == 1


def test_an_entry_of_an_earlier_process_with_other_inputs_is_replaced(tmp_path: Path) -> None:
    warned: list[str] = []
    for first in (1, 1, 2):
        inputs = torch.arange(first, first + 3)[:, None]

        def compute(missing: np.ndarray, inputs: Tensor = inputs) -> Iterator[Any]:
            yield missing, WithInputs(torch.stack([row(i) for i in missing]), inputs[missing]), None

        feature_cache, indices = FeatureCache(1 << 20, tmp_path, warn=warned.append), np.arange(3)
        rows = feature_cache.get_or_compute("x.features", indices, compute, CPU, check=True)
        assert rows is not None
        [(batch, _)] = rows.batches([indices])
        assert isinstance(batch, WithInputs)
        assert torch.equal(batch.inputs, inputs)
    assert len(warned) == 1
