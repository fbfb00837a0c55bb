"""The process-wide settings of the command line."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys

import pytest

from autotl.cli import process

PAGE_FAULTS = """
import resource, sys
import numpy as np
from autotl.cli import process

if sys.argv[1] == "keep":
    process.keep_freed_memory()
np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is configured")
def test_a_large_freed_block_is_reused() -> None:
    def count_page_faults(mode: str) -> int:
        command = [sys.executable, "-c", PAGE_FAULTS, mode]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert count_page_faults("keep") * 10 < count_page_faults("default")


@pytest.mark.parametrize(("value", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_threads_sleep_while_they_wait_unless_the_user_decided(
    value: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(os, "environ", {} if value is None else {"OMP_WAIT_POLICY": value})
    process.configure()
    assert os.environ["OMP_WAIT_POLICY"] == expected


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("cp1252", "caf\u00e9 \u65e5\u672c", b"caf\xe9 \\u65e5\\u672c"),
        ("utf-8", "\u65e5", "\u65e5".encode()),
        ("utf-8", os.fsdecode(b"caf\xe9.png"), b"caf\xe9.png"),
        ("ascii", "caf\u00e9", b"caf\\xe9"),
        ("utf-8", "\ud800", b"\\ud800"),
    ],
)
def test_text_that_the_encoding_lacks_is_written(
    encoding: str, text: str, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    stdin = io.TextIOWrapper(io.BytesIO(b"caf\xe9.png"), encoding="utf-8")
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setattr("sys.stdin", stdin)
    process.accept_all_text()
    stdout.write(text)
    stdout.flush()
    assert stdout.buffer.getvalue() == written  # type: ignore[attr-defined]
    assert os.fsencode(stdin.read()) == b"caf\xe9.png"
