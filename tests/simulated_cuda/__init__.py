"""A GPU that is simulated on the CPU, to test what otherwise fails on a machine that has one.

Tensors of the simulated device are ordinary tensors in memory. Which device a tensor is on is a
property of its storage, so that views, parameters and ``.data`` are on the device of what they
share. Modes of PyTorch see each operation and each call of each thread, and

- refuse tensors on different devices, and generators of another device;
- refuse operations that have no CUDA kernel in this build of PyTorch;
- count what makes the CPU wait for the GPU, or refuse it (``torch.cuda.set_sync_debug_mode``);
- copy late what is copied with ``non_blocking`` from or to pinned memory: a buffer that is changed
  too early, or read before it was waited for, has wrong numbers;
- have a generator of random numbers of their own, and limited memory.

Numbers are computed as on the CPU. So this says nothing about the accuracy and the speed of
kernels, nor about streams. ``torch.compile`` returns its argument.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from .functions import Functions
from .module import replacements
from .operations import Operations
from .state import Simulation

__all__ = ["Simulation", "simulated_cuda"]


@contextlib.contextmanager
def simulated_cuda(
    limit: int | None = None, count: int = 1, capability: tuple[int, int] = (8, 0)
) -> Iterator[Simulation]:
    """Let this process have simulated GPUs.

    Args:
        limit: Bytes of the memory of each GPU; None for more than tests need.
        count: The number of GPUs.
        capability: Their compute capability.
    """
    simulation = Simulation(limit, count, capability)
    start = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def start_thread(thread: threading.Thread) -> None:
        with Operations(simulation), Functions(simulation):
            start(thread)

    with contextlib.ExitStack() as stack:
        for owner, name, value in replacements(simulation):
            stack.enter_context(_replaced(owner, name, value))
        stack.enter_context(_replaced(threading.Thread, "_bootstrap_inner", start_thread))
        stack.enter_context(Operations(simulation))
        stack.enter_context(Functions(simulation))
        yield simulation


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    is_own = name in vars(owner)  # and not inherited
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
