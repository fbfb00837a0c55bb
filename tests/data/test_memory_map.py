"""Memory-mapped arrays release the memory of pages that were read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from autotl.data import MappedArray, memory_map


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_pages_that_were_read_are_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resident_bytes() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    content = np.random.default_rng(0).integers(0, 256, (64, 1 << 20), dtype=np.uint8)
    content.tofile(tmp_path / "file")
    mapped = MappedArray(tmp_path / "file", content.shape)
    monkeypatch.setattr(MappedArray, "_bytes_read", 0)
    rows = np.arange(64)[::-1]
    assert all(np.array_equal(mapped.take(rows[i : i + 1])[0], content[63 - i]) for i in range(64))
    before = resident_bytes()
    monkeypatch.setattr(memory_map, "MAX_RESIDENT_BYTES", 1 << 22)
    assert resident_bytes() == before
    for i in range(64):
        mapped.take(rows[i : i + 1])
    assert before - resident_bytes() > 40 << 20


def test_a_file_of_another_size_is_an_error(tmp_path: Path) -> None:
    np.zeros((64, 16), np.uint8).tofile(tmp_path / "file")
    assert MappedArray(tmp_path / "file", (63, 16), offset=16).take(slice(3)).shape == (3, 16)
    with pytest.raises(ValueError, match="reshape"):
        MappedArray(tmp_path / "file", (63, 16))
