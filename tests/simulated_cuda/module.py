"""What ``torch.cuda`` and its neighbours answer about the simulated GPUs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .state import Simulation

NAME = "Simulated GPU"

Replacement = tuple[Any, str, Any]
"""An object, the name of its attribute, and another value."""


def replacements(simulation: Simulation) -> Iterator[Replacement]:
    """What stands for parts of PyTorch while GPUs are simulated."""
    for functions in (_devices, _memory, _random_numbers, _streams):
        for name, value in functions(simulation).items():
            yield torch.cuda, name, value
    yield torch.accelerator, "is_available", lambda: False
    yield torch.Tensor, "record_stream", lambda tensor, stream: None
    yield torch, "Generator", Generators("Generator", (), {})
    yield torch._C, "_group_tensors_by_device_and_dtype", _group_tensors(simulation)
    yield torch, "compile", lambda model=None, **_: model
    for module in (torch, torch.amp):
        yield module, "autocast", _make_autocast()


def _devices(simulation: Simulation) -> dict[str, Any]:
    @contextlib.contextmanager
    def current(device: Any) -> Iterator[None]:
        before = simulation.current
        set_current(device)
        try:
            yield
        finally:
            simulation.current = before

    def set_current(device: Any) -> None:
        number = device if isinstance(device, int) else torch.device(device).index
        simulation.current = simulation.current if number is None else number

    major, minor = simulation.capability
    properties = SimpleNamespace(
        name=NAME,
        major=major,
        minor=minor,
        total_memory=simulation.total_bytes,
        multi_processor_count=1,
        L2_cache_size=1 << 20,
        uuid="0",
    )
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: simulation.count,
        "current_device": lambda: simulation.current,
        "set_device": set_current,
        "device": current,
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: simulation.capability,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda *_, **__: major >= 8,
    }


def _memory(simulation: Simulation) -> dict[str, Any]:
    def allocated(device: Any = "cuda") -> int:
        return simulation.allocated_bytes(torch.device("cuda" if device is None else device))

    def free(device: Any = "cuda") -> tuple[int, int]:
        return max(0, simulation.total_bytes - allocated(device)), simulation.total_bytes

    return {
        "mem_get_info": free,
        "memory_allocated": allocated,
        "memory_reserved": allocated,
        "max_memory_allocated": lambda device="cuda": max(simulation.peak_bytes, allocated(device)),
        "reset_peak_memory_stats": lambda device=None: setattr(simulation, "peak_bytes", 0),
        "empty_cache": lambda: None,
    }


def _random_numbers(simulation: Simulation) -> dict[str, Any]:
    def seed(value: int) -> None:
        simulation.random_state = Generators.real().manual_seed(value).get_state()

    def set_state(state: Tensor, device: Any = None) -> None:
        simulation.random_state = state.clone()

    return {
        "get_rng_state": lambda device=None: simulation.random_state.clone(),
        "set_rng_state": set_state,
        "manual_seed": seed,
        "manual_seed_all": seed,
    }


class SimulatedGenerator(torch.Generator):
    """A generator of a simulated GPU."""

    device = property(lambda self: torch.device("cuda", 0))


class Generators(type):
    """Stands for the class ``torch.Generator``."""

    real = torch.Generator

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        return SimulatedGenerator() if torch.device(device).type == "cuda" else cls.real()

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.real)


def _streams(simulation: Simulation) -> dict[str, Any]:
    """Streams, which all run in the order in which they are given something."""

    class Event:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.seconds = 0.0

        def record(self, *_: Any) -> None:
            self.seconds = time.perf_counter()

        def wait(self, *_: Any) -> None:
            pass

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            simulation.wait("Event.synchronize()")

        def elapsed_time(self, other: Event) -> float:
            return 1000 * (other.seconds - self.seconds)

    class Stream:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def record_event(self, event: Event | None = None) -> Event:
            event = event or Event()
            event.record()
            return event

        def wait_event(self, event: Event) -> None:
            pass

        def wait_stream(self, stream: Any) -> None:
            pass

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            simulation.wait("Stream.synchronize()")

    def debug(mode: int | str) -> None:
        simulation.waiting_is_an_error = mode in (2, "error")

    return {
        "Event": Event,
        "Stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "synchronize": lambda device=None: simulation.wait("synchronize()"),
        "set_sync_debug_mode": debug,
        "get_sync_debug_mode": lambda: 2 * simulation.waiting_is_an_error,
        "is_current_stream_capturing": lambda: False,
    }


def _group_tensors(simulation: Simulation) -> Callable[..., Any]:
    """By what optimizers group parameters."""
    group = torch._C._group_tensors_by_device_and_dtype

    def by_device_and_dtype(lists: Any, with_indices: bool = False) -> Any:
        return {
            (simulation.device_of(tensors[0][0]), dtype): (tensors, indices)
            for (_, dtype), (tensors, indices) in group(lists, with_indices).items()
        }

    return by_device_and_dtype


def _make_autocast() -> type[torch.autocast]:
    """Autocast of a simulated GPU is that of the CPU, whose memory its tensors are in."""

    class Autocast(torch.autocast):
        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    return Autocast
