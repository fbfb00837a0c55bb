"""Random numbers of a training, separate from those of the host process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from autotl.models import Device
from autotl.training.kernels import cuda_kernels


class RandomState:
    """The random number generator states of one training.

    Training code draws from the global generators of torch, NumPy and Python. While a state is
    active, the global generators hold it; otherwise they hold what the host process left there.

    Args:
        device: Its generator is included, next to that of the CPU.
        seed: Of torch's generators. Those of NumPy and Python begin as a copy of the host's.
        benchmark: See ``cuda_kernels``.
    """

    def __init__(self, device: Device, seed: int, benchmark: bool = False) -> None:
        self._device, self._benchmark = device, benchmark
        self._python, self._numpy = random.getstate(), np.random.get_state()
        with torch_seeded(device.torch_device):
            _manual_seed(device.torch_device, seed)
            self._torch = _get_torch_states(device.torch_device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put this state in place of the host's; on CUDA use the kernels of ``cuda_kernels``."""
        python, numpy = random.getstate(), np.random.get_state()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        try:
            with self.torch_active(), cuda_kernels(self._device, self._benchmark):
                yield
        finally:
            self._python, self._numpy = random.getstate(), np.random.get_state()
            random.setstate(python)
            np.random.set_state(numpy)

    @property
    def torch_states(self) -> list[Tensor]:
        """The states of torch's generators, ``uint8``; to be used while the state is not active."""
        return self._torch

    @torch_states.setter
    def torch_states(self, states: list[Tensor]) -> None:
        self._torch = states

    @contextmanager
    def torch_active(self) -> Iterator[None]:
        """Put only torch's generators in place, for single steps inside ``active``.

        This takes microseconds; the states of NumPy take half a millisecond.
        """
        host = _get_torch_states(self._device.torch_device)
        _set_torch_states(self._device.torch_device, self._torch)
        try:
            yield
        finally:
            self._torch = _get_torch_states(self._device.torch_device)
            _set_torch_states(self._device.torch_device, host)


@contextmanager
def torch_seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Run with torch's generators seeded by ``numbers``, and restore them at the end."""
    host = _get_torch_states(device)
    try:
        seed_torch(device, *numbers)
        yield
    finally:
        _set_torch_states(device, host)


def seed_torch(device: torch.device, *numbers: int) -> None:
    """Seed torch's generators with several numbers; each of them changes the seed."""
    _manual_seed(device, int(np.random.SeedSequence(numbers).generate_state(1)[0]))


def _manual_seed(device: torch.device, seed: int) -> None:
    # torch.manual_seed() would seed every GPU, and takes 3 ms where there is no CUDA.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _get_torch_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def _set_torch_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states[1])
