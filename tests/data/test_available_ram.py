"""The memory that is available, on a machine and in a container with a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotl.data import device_memory

GIB = 1 << 30
V2, V1 = device_memory.CONTAINER_FILES


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system whose machine has 16 GiB of available memory."""
    monkeypatch.setattr(device_memory, "ROOT", tmp_path)
    write(tmp_path, "proc/meminfo", f"MemTotal: 99 kB\nMemAvailable: {16 * GIB // 1024} kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def limit(root: Path, files: tuple[str, ...], maximum: str, used: int, cached: int) -> None:
    write(root, files[0], f"{maximum}\n")
    write(root, files[1], f"{used}\n")
    write(root, files[2], f"anon 1\n{files[3]} {cached}\n")


def test_without_a_container_it_is_that_of_the_machine(root: Path) -> None:
    assert device_memory.available_ram() == 16 * GIB


@pytest.mark.parametrize("files", [V2, V1])
def test_a_container_with_less_counts(root: Path, files: tuple[str, ...]) -> None:
    limit(root, files, str(4 * GIB), 3 * GIB, GIB // 2)
    assert device_memory.available_ram() == GIB + GIB // 2


@pytest.mark.parametrize("maximum", ["max", str(2**63 - 4096)])
def test_a_container_without_a_limit_does_not_count(root: Path, maximum: str) -> None:
    limit(root, V2, maximum, 3 * GIB, 0)
    assert device_memory.available_ram() == 16 * GIB


def test_a_container_above_its_limit_has_none(root: Path) -> None:
    limit(root, V2, str(GIB), 2 * GIB, 0)
    assert device_memory.available_ram() == 0


def test_a_system_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_memory, "ROOT", tmp_path)
    assert device_memory.available_ram() == 0
