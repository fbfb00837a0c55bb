"""The GPU of the tests marked ``gpu``: a real one, or where there is none a simulated one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from simulated_cuda import simulated_cuda

SIMULATED = not torch.cuda.is_available()


def with_gpu() -> AbstractContextManager[Any]:
    """A context in which there is a GPU; inside of another one it is the same."""
    return nullcontext() if torch.cuda.is_available() else simulated_cuda()


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an error where the CPU waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
