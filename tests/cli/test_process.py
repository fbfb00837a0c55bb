"""The process-wide settings of the command line."""

from __future__ import annotations

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
