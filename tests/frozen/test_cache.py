"""The cache of features: what is computed and what is found, and that what is found is right."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotl.frozen import FeatureCache, Rows, cache, digest, segments

CPU = torch.device("cpu")
WIDTH = 5


def row(index: int) -> Tensor:
    """What the imagined frozen part makes of the picture at a place in the data set."""
    return torch.arange(WIDTH) + 10.0 * index


class Part:
    """A frozen part that notes which rows it computes.

    Args:
        kept: The cache.
        name: Of the entry.
        at_once: The rows it computes together.
    """

    def __init__(self, kept: FeatureCache, name: str = "a", at_once: int = 4) -> None:
        self.kept, self.name, self.at_once = kept, digest({"name": name}), at_once
        self.computed: list[int] = []

    def compute(self, missing: np.ndarray) -> Iterator[tuple[np.ndarray, Tensor, Tensor | None]]:
        for start in range(0, len(missing), self.at_once):
            some = missing[start : start + self.at_once]
            self.computed += some.tolist()
            yield some, torch.stack([row(i) for i in some.tolist()]), None

    def rows(self, *indices: int) -> Rows | None:
        return self.kept.rows(self.name, np.array(indices, np.int64), self.compute, CPU)

    def get(self, *indices: int) -> Tensor:
        """The rows, after a look at whether they are right."""
        found = self.rows(*indices)
        assert found is not None
        activations, targets = next(found.batches([np.arange(len(indices))]))
        assert targets is None
        assert torch.equal(activations, torch.stack([row(i) for i in indices]))
        return activations


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.rglob(f"*{suffix}"))


# What is computed and what is found.


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["on disk", "in memory"])
def test_only_rows_that_nobody_has_are_computed(tmp_path: Path, memory: int) -> None:
    part = Part(FeatureCache(1 << 20, tmp_path, memory))
    part.get(7, 3, 5)
    part.get(5, 7)
    assert part.computed == [7, 3, 5]
    part.get(1, 3, 9, 5)  # another split
    assert part.computed == [7, 3, 5, 1, 9]
    later = Part(FeatureCache(1 << 20, tmp_path, memory))  # another run
    later.get(9, 3, 1)
    assert later.computed == []
    other = Part(part.kept, "b")
    other.get(3)
    assert other.computed == [3]


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["on disk", "in memory"])
def test_batches_are_copies_in_the_order_that_is_asked_for(tmp_path: Path, memory: int) -> None:
    found = Part(FeatureCache(1 << 20, tmp_path, memory)).rows(4, 2, 8, 6)
    assert found is not None
    assert found.resident == bool(memory)
    places = [np.array([3, 0]), np.array([2]), np.array([0, 0, 1])]
    for _ in range(2):
        batches = [activations for activations, _ in found.batches(places)]
        expected = [[6, 4], [8], [4, 4, 2]]
        for batch, indices in zip(batches, expected, strict=True):
            assert torch.equal(batch, torch.stack([row(i) for i in indices]))
            batch.zero_()  # as a layer that works in place would


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4, 5)])
@pytest.mark.parametrize("targets", [None, 4])
def test_numbers_come_back_as_they_were(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...], targets: int | None
) -> None:
    given = torch.randn(6, *shape).to(dtype)
    if len(shape) == 3:
        given = given.contiguous(memory_format=torch.channels_last)
    mixed = None if targets is None else torch.rand(6, targets)
    for memory in (0, 1 << 20):
        kept = FeatureCache(1 << 20, tmp_path, memory)
        every = np.arange(6)
        found = kept.rows("x.features", every, lambda rows: iter([(rows, given, mixed)]), CPU)
        assert found is not None
        [(activations, truth)] = found.batches([every])
        assert torch.equal(activations, given)
        assert activations.dtype == dtype
        assert activations.stride() == given.stride()  # channels stay where the layers want them
        assert (truth is None) == (mixed is None)
        if truth is not None and mixed is not None:
            assert torch.equal(truth, mixed)


def test_no_pictures_have_no_rows(tmp_path: Path) -> None:
    assert Part(FeatureCache(1 << 20, tmp_path)).rows() is None


def test_what_was_computed_before_time_ran_out_is_kept(tmp_path: Path) -> None:
    part = Part(FeatureCache(1 << 20, tmp_path), at_once=1)

    def interrupted(missing: np.ndarray) -> Any:
        for found in part.compute(missing):
            if 3 in found[0]:
                raise TimeoutError
            yield found

    with pytest.raises(TimeoutError):
        part.kept.rows(part.name, np.array([1, 2, 3]), interrupted, CPU)
    part.computed.clear()
    part.get(1, 2, 3)
    assert part.computed == [3]


def test_rows_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHUNK", 40)  # two rows
    part = Part(FeatureCache(1 << 20, tmp_path), at_once=1)
    part.get(*range(7))
    assert sorted(p.stat().st_size for p in files(tmp_path, ".bin")) == [20, 40, 40, 40]
    assert Part(FeatureCache(1 << 20, tmp_path, 0)).get(6, 0, 3).shape == (3, WIDTH)


def test_a_name_depends_on_every_part_of_the_key() -> None:
    key = {"weights": "ab", "view": [1, "flip"], "type": torch.float32}
    others = [key | {"weights": "ac"}, key | {"view": [2, "flip"]}, key | {"type": torch.float16}]
    names = {digest(k) for k in (key, *others)}
    assert len(names) == 4
    assert digest(dict(reversed(key.items()))) == digest(key)


# Trust.


@pytest.mark.parametrize("harm", ["bit", "short", "long", "sidecar", "rows", "form"])
def test_what_is_damaged_is_computed_again(tmp_path: Path, harm: str) -> None:
    first = Part(FeatureCache(1 << 20, tmp_path))
    first.get(1, 2)
    first.get(3)
    [content, *_] = [p for p in files(tmp_path, ".bin") if p.stat().st_size == 40]
    sidecar = content.with_suffix(".json")
    raw, facts = bytearray(content.read_bytes()), json.loads(sidecar.read_bytes())
    if harm == "bit":
        raw[17] ^= 4
    content.write_bytes({"short": raw[:-1], "long": raw + b"x"}.get(harm, raw))
    if harm == "rows":
        facts["rows"] = [2, 1]
    if harm == "form":
        facts["form"]["dtype"] = "int32"
    sidecar.write_text(json.dumps(facts)[: -9 if harm == "sidecar" else None])
    again = Part(FeatureCache(1 << 20, tmp_path))
    again.get(1, 2, 3)
    assert again.computed == [1, 2]
    assert not content.exists()
    assert len(files(tmp_path, ".json")) == len(files(tmp_path, ".bin")) == 2


def test_a_torn_segment_is_not_seen_and_goes_in_time(tmp_path: Path) -> None:
    Part(FeatureCache(1 << 20, tmp_path)).get(1, 2)
    [entry] = tmp_path.iterdir()
    [sidecar] = files(tmp_path, ".json")
    sidecar.unlink()  # as if the process had been killed before it was renamed
    (entry / "x.tmp").write_text("{")
    part = Part(FeatureCache(1 << 20, tmp_path))
    part.get(1, 2)
    assert part.computed == [1, 2]
    assert len(files(tmp_path, ".bin")) == 2  # another process may be writing it now
    old = time.time() - 2 * segments.ABANDONED
    for path in files(tmp_path, ""):
        os.utime(path, (old, old))
    Part(FeatureCache(1 << 20, tmp_path)).get(1, 2)
    assert len(files(tmp_path, ".bin")) == 1
    assert not files(tmp_path, ".tmp")


# Room.


def entry_bytes(tmp_path: Path) -> int:
    """What an entry of four rows takes with its sidecar."""
    kept = FeatureCache(1 << 20, tmp_path / "one")
    Part(kept).get(1, 2, 3, 4)
    return kept.usage().bytes


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    each = entry_bytes(tmp_path)
    kept = FeatureCache(int(3.5 * each), tmp_path / "kept", memory=0)
    parts = {name: Part(kept, name) for name in "abcd"}
    for age, name in enumerate("abcabd"):
        parts[name].get(1, 2, 3, 4)  # all fit but d: c was used least recently
        os.utime(kept.folder / parts[name].name, (age, age))
    assert kept.usage()._replace(bytes=0) == (3, 0, int(3.5 * each))
    assert kept.usage().bytes <= kept.limit
    for name in "dba":
        parts[name].get(1, 2, 3, 4)
        assert len(parts[name].computed) == 4
    parts["c"].get(1, 2, 3, 4)
    assert len(parts["c"].computed) == 8


def test_what_is_found_in_memory_counts_as_used(tmp_path: Path) -> None:
    part = Part(FeatureCache(1 << 20, tmp_path))
    part.get(1)
    os.utime(tmp_path / part.name, (1, 1))
    part.get(1)
    assert segments.last_used(tmp_path / part.name) > 1e9


def test_what_is_in_use_is_never_dropped(tmp_path: Path) -> None:
    each = entry_bytes(tmp_path)
    kept = FeatureCache(int(1.5 * each), tmp_path / "kept", memory=0)
    used = Part(kept, "used")
    rows = used.rows(1, 2, 3, 4)
    assert rows is not None
    assert Part(kept, "next").rows(1, 2, 3, 4) is None  # there is no room beside it
    [(activations, _)] = rows.batches([np.arange(4)])
    assert torch.equal(activations[3], row(4))
    del rows
    Part(kept, "next").get(1, 2, 3, 4)
    assert kept.usage().entries == 1


def test_memory_takes_what_the_disk_has_no_room_for(tmp_path: Path) -> None:
    kept = FeatureCache(0, tmp_path / "never", memory=4 * 4 * WIDTH)
    part = Part(kept)
    for _ in range(2):
        part.get(1, 2, 3, 4)
    assert part.computed == [1, 2, 3, 4]
    assert part.rows(1, 2, 3, 4, 5) is None
    assert not kept.usage().entries


def test_rows_in_memory_make_room_for_one_another(tmp_path: Path) -> None:
    kept = FeatureCache(1 << 20, tmp_path, memory=100)
    for _ in range(2):
        for name in "abc":
            found = Part(kept, name).rows(1, 2)  # 40 bytes
            assert found is not None
            assert found.resident
            assert sum(r.bytes for r in kept._held.values()) <= 100
    found = Part(kept, "a").rows(*range(6))
    assert found is not None
    assert not found.resident


def test_a_full_disk_is_said_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said: list[str] = []
    kept = FeatureCache(1 << 20, tmp_path, memory=100, say=said.append)
    Part(kept, "a").get(1, 2)
    Part(kept, "b").get(1, 2)
    assert Part(kept, "c").rows(*range(9)) is None
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert str(tmp_path) in said[0]
    assert not files(tmp_path, ".json")


def test_a_folder_that_cannot_be_is_said_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="free some space"):
        Part(FeatureCache(1 << 20, tmp_path / "file" / "x")).get(1, 2)


def test_what_nobody_will_ask_for_is_removed(tmp_path: Path) -> None:
    kept = FeatureCache(1 << 20, tmp_path)
    part, other = Part(kept, "a"), Part(kept, "b")
    part.get(1)
    other.get(1)
    kept.forget([part.name, digest({})])
    assert kept.usage().entries == 1
    part.get(1)
    assert part.computed == [1, 1]


def test_a_place_of_its_own_goes_with_the_cache() -> None:
    kept = FeatureCache(1 << 20)
    part = Part(kept)
    part.get(1)
    folder = kept.folder
    assert folder.is_dir()
    del kept, part
    assert not folder.exists()


def test_without_a_limit_it_is_a_tenth_of_what_is_free(tmp_path: Path) -> None:
    limit = FeatureCache(folder=tmp_path / "not" / "yet").limit
    assert 0 < limit <= cache.LIMIT


def test_reading_is_measured(tmp_path: Path) -> None:
    kept = FeatureCache(1 << 20, tmp_path, memory=1000)
    assert kept.seconds_to_read(10, 10) == pytest.approx(10 * kept._from_memory)
    assert kept.seconds_to_read(10, 1000) == pytest.approx(10 * kept._from_disk)
    assert 0 < kept._from_memory < 1e-6
    assert 0 < kept._from_disk < 1e-6
    assert not files(tmp_path, "")


# Several processes.


def work(folder: Path, seed: int, limit: int) -> int:
    """Ask for rows of several entries in an order of its own; return how many were computed."""
    random, computed = np.random.default_rng(seed), 0
    for _ in range(30):
        part = Part(FeatureCache(limit, folder, memory=0), str(random.integers(3)))
        indices = random.permutation(40)[:20].tolist()
        if found := part.rows(*indices):  # else the others use all the room there is
            [(activations, _)] = found.batches([np.arange(20)])
            assert torch.equal(activations, torch.stack([row(i) for i in indices]))
        computed += len(part.computed)
    return computed


@pytest.mark.parametrize("limit", [1 << 20, 2500], ids=["room", "little room"])
def test_processes_share_a_folder(tmp_path: Path, limit: int) -> None:
    with multiprocessing.get_context("fork").Pool(3) as pool:
        computed = pool.starmap(work, [(tmp_path, seed, limit) for seed in range(3)])
    kept = FeatureCache(limit, tmp_path)
    assert len(files(tmp_path, ".json")) == len(files(tmp_path, ".bin"))
    if limit > 2500:
        assert sum(computed) <= 3 * 120  # no process computes a row twice
        assert kept.usage().entries == 3
        later = Part(kept, "0")
        later.get(*range(40))
        assert not later.computed


def hold(folder: Path, ready: Any, done: Any) -> None:
    rows = Part(FeatureCache(1 << 20, folder, memory=0)).rows(1, 2)
    ready.set()
    done.wait(30)
    assert rows is not None


def test_what_another_process_uses_is_not_dropped(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(30)
    [entry] = tmp_path.iterdir()
    assert not segments.discard(entry)
    done.set()
    process.join()
    assert process.exitcode == 0
    assert segments.discard(entry)
    assert not entry.exists()


def test_an_entry_may_be_discarded_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, gone = segments._lock, []

    def slow(folder: Path, wait: bool) -> int | None:
        found = lock(folder, wait)
        if wait and len(gone) < 3:
            gone.append(folder)
            shutil.rmtree(folder)
        return found

    monkeypatch.setattr(segments, "_lock", slow)
    Part(FeatureCache(1 << 20, tmp_path, memory=0)).get(1, 2)
    later = Part(FeatureCache(1 << 20, tmp_path, memory=0))
    later.get(1, 2)
    assert len(gone) == 3
    assert not later.computed


def test_a_file_system_without_locks_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(segments.fcntl, "flock", refuse)
    for _ in range(2):
        Part(FeatureCache(1 << 20, tmp_path)).get(1, 2)
    [entry] = tmp_path.iterdir()
    assert segments.discard(entry)
