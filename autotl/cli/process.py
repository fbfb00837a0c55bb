"""Settings of the whole process, which only the command line makes, not the library."""

from __future__ import annotations

import codecs
import ctypes
import io
import os
import platform
import signal
import sys
import threading
import time

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""The numbers of the parameters of glibc's ``mallopt``."""


def configure() -> None:
    """Set up the process for training on the CPU. Must run before torch is imported."""
    # By default OpenMP threads spin while they wait, which takes CPU time from other processes and
    # makes the wait longer: with one other busy process, training was 4 times faster without it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    accept_all_text()


def accept_all_text() -> None:
    """Make the standard streams accept names that are not valid in their encoding.

    Names of files need not be valid Unicode, and a class may have characters that the encoding of
    the terminal lacks, such as a Japanese name on Western Windows. What was a byte of a file name
    stays that byte; other characters are written as escapes, as Python does on stderr.
    """
    codecs.register_error("autotl", _encode_anyway)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="autotl")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _encode_anyway(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def keep_freed_memory() -> None:
    """Make the C library reuse large freed blocks instead of returning them to the system.

    By default glibc returns each such block at once, and the system zeroes every page of the next
    one. The activations of each layer are such a block: on two cores, a forward pass of
    EfficientNet-Lite0 over 32 images of 224 px took 1.7 times as long in float32 and 1.5 times
    in bfloat16, and a training step 1.3 times. PyTorch's tuning guide recommends another allocator
    for the same reason, which is not needed here. Only glibc is supported; with another C library
    the function does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        c = ctypes.CDLL(None)
        c.mallopt(MMAP_MAX, 0)
        c.mallopt(TRIM_THRESHOLD, -1)


def end_with_parent() -> None:
    """End this process as Ctrl-C does when the process that started it has died."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
