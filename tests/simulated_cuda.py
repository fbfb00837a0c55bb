"""A GPU that is simulated on the CPU, to test what only fails on a machine that has one.

Tensors of the simulated device are ordinary tensors in memory. Which device a tensor is on is a
property of its storage, so that views, parameters and ``.data`` are on the device of what they
share. A dispatch mode sees each operation of each thread, in the backward pass too, and

- refuses tensors on different devices, and generators of another device;
- refuses operations that have no CUDA kernel in this build of PyTorch;
- counts what makes the CPU wait for the GPU, or refuses it (``torch.cuda.set_sync_debug_mode``);
- copies late what is copied with ``non_blocking``: a buffer that is changed too early, or read
  before it has been waited for, gives wrong numbers;
- has a generator of random numbers of its own, and limited memory.

It computes in float32 or under autocast as the CPU does, so it says nothing about the accuracy and
the speed of kernels. ``torch.compile`` returns its argument.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CPU = torch.device("cpu")

COPIES = {aten.copy_.default, aten._to_copy.default, aten.copy.default, aten._foreach_copy_.default}
"""Operations between devices."""

INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
"""Operations that take indices from the CPU, and copy them."""

SETS = {getattr(aten.set_, name) for name in aten.set_.overloads()}
"""Operations that give a tensor a storage that is on a device already."""

SCALARS = {
    aten.where.self,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.fill_.Tensor,
    aten.lift_fresh.default,
    aten.set_.source_Tensor,
}
"""Operations, besides those on each element, that take a number from a tensor on the CPU."""

CPU_ONLY_KERNELS = ("mkldnn", "onednn", "for_cpu", "profiler::", "_has_compatible", "quantized")
"""Parts of the names of operations that PyTorch chooses because memory is the CPU's."""


@dataclass
class Pending:
    """A copy that has begun."""

    target: Tensor
    source: Tensor
    waits: bool
    """Whether the target is in memory, where nothing makes a reader wait."""


@dataclass
class Inside(threading.local):
    """The device of the tensors of a call from Python, on which it makes others."""

    device: torch.device | None = None


@dataclass
class Simulation:
    """The state of the simulated GPUs of this process."""

    total_bytes: int = 8 << 30
    count: int = 1
    capability: tuple[int, int] = (8, 0)
    marks: dict[int, tuple[StorageWeakRef, torch.device]] = field(default_factory=dict)
    pinned: dict[int, StorageWeakRef] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)
    syncs: Counter[str] = field(default_factory=Counter)
    sync_mode: int = 0
    current: int = 0
    peak: int = 0
    random_state: Tensor = field(default_factory=lambda: torch.get_rng_state())
    inside: Inside = field(default_factory=Inside)
    lock: threading.RLock = field(default_factory=threading.RLock)

    # Devices of tensors.

    def device_of(self, tensor: Tensor) -> torch.device:
        """The device of a tensor."""
        key = storage_key(tensor)
        mark = self.marks.get(key) if key is not None else None
        if mark:
            return mark[1]
        with torch._C.DisableTorchFunction():
            return tensor.device

    def mark(self, tensor: Tensor, device: torch.device) -> None:
        """Put a tensor that is new on a device."""
        key = storage_key(tensor)
        if key is None:
            return
        with self.lock:
            if device.type == "cuda":
                self.marks[key] = (StorageWeakRef(tensor.untyped_storage()), self.index(device))
            else:
                self.marks.pop(key, None)
        if device.type == "cuda":
            self.peak = max(self.peak, self.allocated(device) if self.total_bytes < 1 << 30 else 0)

    def index(self, device: torch.device) -> torch.device:
        """The device with its number."""
        if device.type != "cuda":
            return device
        return torch.device("cuda", self.current if device.index is None else device.index)

    def allocated(self, device: torch.device) -> int:
        """Bytes of the tensors on a GPU."""
        with self.lock:
            dead = [key for key, (reference, _) in self.marks.items() if reference.expired()]
            for key in dead:
                del self.marks[key]
            alive = [ref for ref, where in self.marks.values() if where == self.index(device)]
        sizes = []
        for reference in alive:
            storage = torch.UntypedStorage._new_with_weak_ptr(reference.cdata)
            sizes.append(storage.nbytes() if storage is not None else 0)
        return sum(sizes)

    def reserve(self, nbytes: int, device: torch.device) -> None:
        """Raise ``OutOfMemoryError`` if so many bytes are not free."""
        limited = self.total_bytes < 1 << 30
        if nbytes > self.total_bytes or (
            limited and nbytes + self.allocated(device) > self.total_bytes
        ):
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {nbytes} bytes. GPU {device.index or 0} has "
                f"a total capacity of {self.total_bytes} bytes"
            )

    def pin(self, tensor: Tensor) -> None:
        """Note that a tensor is in pinned memory."""
        key = storage_key(tensor)
        assert key is not None
        self.pinned[key] = StorageWeakRef(tensor.untyped_storage())

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor is in pinned memory."""
        return storage_key(tensor) in self.pinned

    # Waiting.

    def sync(self, what: str) -> None:
        """The CPU waits for the GPU."""
        self.syncs[what] += 1
        if self.sync_mode == 2:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        self.flush()

    def flush(self, *keys: int) -> None:
        """Complete all copies, or those to the storages with the keys."""
        with self.lock:
            chosen = list(self.pending) if not keys else [k for k in keys if k in self.pending]
            for key in chosen:
                copy = self.pending.pop(key)
                copy.target.copy_(copy.source)


def real_device(device: torch.device) -> torch.device:
    """The device whose memory the tensors of a device are in."""
    return CPU if device.type == "cuda" else device


def storage_key(tensor: Tensor) -> int | None:
    """What identifies the storage of a tensor while it lives."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return None


def leaves(*values: Any) -> Iterator[Any]:
    """All values inside of tuples, lists and dictionaries."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from leaves(*value)
        elif isinstance(value, dict):
            yield from leaves(*value.values())
        else:
            yield value


@cache
def is_composite(name: str) -> bool:
    """Whether an operation consists of others on all devices."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, composite)


@cache
def has_kernel(name: str) -> bool:
    """Whether an operation runs on CUDA in this build of PyTorch."""
    keys = (
        "CUDA",
        "CompositeExplicitAutograd",
        "CompositeImplicitAutograd",
        "CompositeExplicitAutogradNonFunctional",
    )
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys)


class SimulatedMode(TorchDispatchMode):
    """Sees each operation of a thread."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self.simulation = simulation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        simulation = self.simulation
        if is_composite(func.name()):
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        tensors = [each for each in leaves(args, kwargs) if isinstance(each, Tensor)]
        devices = [simulation.device_of(each) for each in tensors]
        target = self._target(func, tensors, devices, args, kwargs)
        if func in COPIES:
            return self._copy(func, target, args, kwargs)
        if target.type == "cuda":
            self._check(func, args, kwargs, tensors, devices, target)
        reads = [key for each in tensors if (key := storage_key(each)) is not None]
        late = [
            key for key in reads if key in simulation.pending and not simulation.pending[key].waits
        ]
        if late:
            simulation.flush(*late)
        pin = kwargs.pop("pin_memory", False)
        if func in (aten.is_pinned.default,):
            return simulation.is_pinned(tensors[0])
        if kwargs.get("device") is not None:
            kwargs["device"] = real_device(target)
        old = {key for key in reads}
        out = self._run(func, target, args, kwargs)
        for each in () if func in SETS else leaves(out):
            if isinstance(each, Tensor) and storage_key(each) not in old:
                simulation.mark(each, target)
                if pin:
                    simulation.pin(each)
        return out

    def _target(
        self, func: Any, tensors: list[Tensor], devices: list[Any], args: Any, kwargs: Any
    ) -> torch.device:
        """The device of the results, after checking those of the arguments."""
        named = kwargs.get("device")
        if named is not None:
            named = torch.device(named)
            if named.type == "cpu" and self.simulation.inside.device:
                return self.simulation.inside.device
            return self.simulation.index(named)
        if not devices:
            return self.simulation.inside.device or CPU
        on_gpu = [device for device in devices if device.type == "cuda"]
        if not on_gpu:
            return devices[0]
        if func in COPIES:
            return devices[0]
        for i, (tensor, device) in enumerate(zip(tensors, devices, strict=True)):
            if device == on_gpu[0]:
                continue
            if func in INDEXING and i > 0 and devices[0].type == "cuda":
                indices = args[1] if len(args) > 1 else ()
                if any(tensor is each for each in indices):
                    self.simulation.sync(f"{func} with indices on the CPU")
                    continue
            scalar = tensor.ndim == 0 and device.type == "cpu"
            if scalar and (torch.Tag.pointwise in func.tags or func in SCALARS or func in INDEXING):
                continue
            if scalar and "_foreach_" in func.name():
                continue
            names = ", ".join(str(each) for each in devices)
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found {names} in {func}"
            )
        return on_gpu[0]

    def _check(
        self, func: Any, args: Any, kwargs: Any, tensors: Any, devices: Any, target: torch.device
    ) -> None:
        simulation, name = self.simulation, func.name()
        if not any(part in name for part in CPU_ONLY_KERNELS) and not has_kernel(name):
            raise NotImplementedError(f"{name} has no kernel for CUDA")
        for each in leaves(args, kwargs):
            if isinstance(each, torch.Generator) and not isinstance(each, SimulatedGenerator):
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if func is aten._local_scalar_dense.default:
            simulation.sync("item()")
        elif func in (aten.nonzero.default, aten.masked_select.default, aten._unique2.default):
            simulation.sync(name)
        elif func in INDEXING:
            indices = args[1]
            if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
                simulation.sync(f"{name} with a mask")
        elif func is aten.equal.default or func is aten.is_nonzero.default:
            simulation.sync(name)

    def _run(self, func: Any, target: torch.device, args: Any, kwargs: Any) -> Any:
        simulation = self.simulation
        if (
            target.type == "cuda"
            and kwargs.get("device") is not None
            and not any(isinstance(each, Tensor) for each in leaves(args))
        ):
            sizes = args[0] if args and isinstance(args[0], (list, tuple, torch.Size)) else ()
            if all(isinstance(size, int) for size in sizes):
                dtype = kwargs.get("dtype") or torch.get_default_dtype()
                count = 1
                for size in sizes:
                    count *= size
                simulation.reserve(count * dtype.itemsize, target)
        if target.type == "cuda" and torch.Tag.nondeterministic_seeded in func.tags:
            with simulation.lock:
                host = torch.get_rng_state()
                torch.set_rng_state(simulation.random_state)
                try:
                    return func(*args, **kwargs)
                finally:
                    simulation.random_state = torch.get_rng_state()
                    torch.set_rng_state(host)
        return func(*args, **kwargs)

    def _copy(self, func: Any, target: torch.device, args: Any, kwargs: Any) -> Any:
        simulation = self.simulation
        if func is aten._foreach_copy_.default:
            for one, other in zip(args[0], args[1], strict=True):
                one.copy_(other)
            return None
        if func is aten._to_copy.default:
            source = args[0]
            non_blocking = kwargs.pop("non_blocking", False)
            kwargs.pop("pin_memory", None)
            origin = simulation.device_of(source)
            if kwargs.get("device") is None:
                target = origin
            else:
                kwargs["device"] = real_device(target)
            if target.type == "cuda":
                simulation.reserve(source.numel() * source.element_size(), target)
            if origin == target:
                self._wait_for(source)
                out = func(*args, **kwargs)
                simulation.mark(out, target)
                return out
            out = func(*args, **kwargs)
            simulation.mark(out, target)
            self._between(out, source, origin, target, non_blocking)
            return out
        destination, source = args[0], args[1]
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        origin, target = simulation.device_of(source), simulation.device_of(destination)
        self._wait_for(destination)
        if origin == target:
            self._wait_for(source)
            return func(*args, **kwargs)
        func(destination, source)
        self._between(destination, source, origin, target, non_blocking)
        return destination

    def _wait_for(self, tensor: Tensor) -> None:
        key = storage_key(tensor)
        if key in self.simulation.pending and not self.simulation.pending[key].waits:
            self.simulation.flush(key)

    def _between(
        self,
        out: Tensor,
        source: Tensor,
        origin: torch.device,
        target: torch.device,
        non_blocking: bool,
    ) -> None:
        """Finish a copy between devices, now or later."""
        simulation = self.simulation
        self._wait_for(source)
        if origin.type == target.type == "cuda":
            out.copy_(source)
            return
        if not non_blocking:
            if out.numel() > 0:
                simulation.sync(f"copy from {origin} to {target}")
            out.copy_(source)
            return
        to_host = target.type == "cpu"
        key = storage_key(out)
        host = out if to_host else source
        if simulation.is_pinned(host) or to_host:
            # The source on the GPU is read in the order of its stream; that in memory is read late.
            late = source.clone() if to_host else source.detach()
            if out.is_floating_point():
                out.detach().fill_(float("nan"))
            else:
                out.detach().zero_()
            if key is not None:
                if key in simulation.pending:
                    simulation.flush(key)
                simulation.pending[key] = Pending(out.detach(), late, waits=to_host)
        else:
            out.copy_(source)


class SimulatedGenerator(torch.Generator):
    """A generator of the simulated GPU."""

    device = property(lambda self: torch.device("cuda", 0))


class Stream:
    """A stream: everything runs in the order in which it is given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Event:
        return event or Event()

    def wait_event(self, event: Any) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        pass

    def synchronize(self) -> None:
        ACTIVE.sync("Stream.synchronize")

    def query(self) -> bool:
        return True


class Event:
    """An event of a stream."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.at = 0.0

    def record(self, *_: Any) -> None:
        self.at = time.perf_counter()

    def wait(self, *_: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        ACTIVE.sync("Event.synchronize")

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)


ACTIVE: Any = None


@contextlib.contextmanager
def simulated_cuda(
    total_bytes: int = 8 << 30, count: int = 1, capability: tuple[int, int] = (8, 0)
) -> Iterator[Simulation]:
    """Let this process have simulated GPUs.

    Args:
        total_bytes: Memory of each GPU. Below one GiB it is enforced for all tensors.
        count: Number of GPUs.
        capability: Their compute capability.
    """
    global ACTIVE
    simulation = Simulation(total_bytes, count, capability)
    ACTIVE = simulation
    with contextlib.ExitStack() as stack:
        for owner, name, value in _replacements(simulation):
            stack.enter_context(_replaced(owner, name, value))
        stack.enter_context(SimulatedMode(simulation))
        stack.enter_context(FunctionMode(simulation))
        try:
            yield simulation
        finally:
            ACTIVE = None


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _replacements(simulation: Simulation) -> Iterator[tuple[Any, str, Any]]:
    yield from _cuda_functions(simulation)
    yield torch.Tensor, "record_stream", lambda tensor, stream: None
    yield torch, "Generator", Generators("Generator", (), {})
    yield torch._C, "_group_tensors_by_device_and_dtype", _grouped(simulation)
    yield torch, "compile", lambda model=None, **_: model
    start = threading.Thread._bootstrap_inner  # type: ignore[attr-defined]

    def in_mode(thread: threading.Thread) -> None:
        with SimulatedMode(simulation), FunctionMode(simulation):
            start(thread)

    yield threading.Thread, "_bootstrap_inner", in_mode


class FunctionMode(TorchFunctionMode):
    """Sees each call of PyTorch from Python in a thread: what an operation does not show."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self.simulation = simulation

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        simulation = self.simulation
        if func in GETTERS:
            device = simulation.device_of(args[0])
            return GETTERS[func](device)
        if func in FUNCTIONS:
            with self:
                return FUNCTIONS[func](simulation, *args, **kwargs)
        if func in FACTORIES:
            device, pinned = kwargs.pop("device", None), kwargs.pop("pin_memory", False)
            made = func(*args, **kwargs)
            with self:
                if device is None:
                    here = next((a.device for a in args if isinstance(a, Tensor)), None)
                    return made if here is None else made.to(here)
                return made.to(device)
        before = simulation.inside.device
        if kwargs.get("device") is not None:
            simulation.inside.device = None
        else:
            found = (simulation.device_of(t) for t in leaves(args, kwargs) if isinstance(t, Tensor))
            on_gpu = next((device for device in found if device.type == "cuda"), None)
            simulation.inside.device = on_gpu or before
        try:
            return func(*args, **kwargs)
        finally:
            simulation.inside.device = before


GETTERS: dict[Any, Callable[[torch.device], Any]] = {
    torch.Tensor.device.__get__: lambda device: device,  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda device: device.type == "cpu",  # type: ignore[attr-defined]
    torch.Tensor.get_device: lambda device: -1 if device.type == "cpu" else device.index,
}
"""What is asked of a tensor's device."""

FACTORIES = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}
"""Functions that fill tensors from numbers of Python without an operation for a mode."""


def move_to(simulation: Simulation, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to``."""
    device, dtype, non_blocking, copy, memory_format = _parse_to(*args, **kwargs)
    here = simulation.device_of(tensor)
    device = here if device is None else simulation.index(device)
    same = device == here and dtype in (None, tensor.dtype) and not copy
    with torch._C.DisableTorchFunction():
        if same and memory_format in (None, torch.preserve_format):
            return tensor
        if same and tensor.is_contiguous(memory_format=memory_format):
            return tensor
        options = {} if memory_format is None else {"memory_format": memory_format}
        return aten._to_copy(
            tensor, dtype=dtype, device=device, non_blocking=non_blocking, **options
        )


def _parse_to(*args: Any, **kwargs: Any) -> Any:
    """The arguments of ``Tensor.to``: device, type, whether not to wait, to copy, and the format."""
    given = list(args)
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    if given and isinstance(given[0], Tensor):
        device, dtype = given[0].device, given.pop(0).dtype
    elif given and isinstance(given[0], torch.dtype):
        dtype = given.pop(0)
    elif given and not isinstance(given[0], bool):
        device = given.pop(0)
        if given and not isinstance(given[0], bool):
            dtype = given.pop(0)
    non_blocking = given.pop(0) if given else kwargs.get("non_blocking", False)
    copy = given.pop(0) if given else kwargs.get("copy", False)
    device = None if device is None else torch.device(device)
    return device, dtype, bool(non_blocking), bool(copy), kwargs.get("memory_format")


def as_numpy(simulation: Simulation, tensor: Tensor, *, force: bool = False) -> Any:
    """``Tensor.numpy``."""
    if simulation.device_of(tensor).type == "cuda":
        if not force:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        tensor = tensor.detach().cpu()
    with torch._C.DisableTorchFunction():
        return tensor.numpy(force=force)


def as_list(simulation: Simulation, tensor: Tensor) -> Any:
    """``Tensor.tolist``."""
    if simulation.device_of(tensor).type == "cuda":
        simulation.sync("tolist()")
    with torch._C.DisableTorchFunction():
        return tensor.tolist()


def pin(simulation: Simulation, tensor: Tensor, *_: Any) -> Tensor:
    """``Tensor.pin_memory``."""
    if simulation.device_of(tensor).type == "cuda":
        raise RuntimeError("cannot pin a tensor on cuda, only dense CPU tensors can be pinned")
    pinned = tensor.clone()
    simulation.pin(pinned)
    return pinned


def deep_copy(simulation: Simulation, tensor: Tensor, memo: Any) -> Tensor:
    """``copy.deepcopy`` of a tensor, which copies the storage without an operation."""
    with torch._C.DisableTorchFunction():
        copied: Tensor = tensor.__deepcopy__(memo)
    simulation.mark(copied, simulation.device_of(tensor))
    return copied


def one_hot(simulation: Simulation, targets: Tensor, num_classes: int = -1) -> Tensor:
    """``functional.one_hot``, which looks at the targets on the CPU only."""
    count = num_classes if num_classes >= 0 else int(targets.max()) + 1
    encoded = torch.zeros(*targets.shape, count, dtype=torch.long, device=targets.device)
    return encoded.scatter_(-1, targets[..., None], 1)


FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.to: move_to,
    torch.Tensor.cpu: lambda sim, tensor, **options: move_to(sim, tensor, CPU, **options),
    torch.Tensor.cuda: lambda sim, tensor, device="cuda", *args, **options: move_to(
        sim, tensor, torch.device("cuda") if device is None else device, None, *args, **options
    ),
    torch.Tensor.numpy: as_numpy,
    torch.Tensor.tolist: as_list,
    torch.Tensor.pin_memory: pin,
    torch.Tensor.is_pinned: lambda sim, tensor, *_: sim.is_pinned(tensor),
    torch.Tensor.__deepcopy__: deep_copy,
    torch.nn.functional.one_hot: one_hot,
}
"""What does otherwise on a GPU than on the CPU."""


class Generators(type):
    """Stands for the class ``torch.Generator``."""

    real = torch.Generator

    def __call__(cls, device: Any = "cpu") -> torch.Generator:
        on_gpu = torch.device(device).type == "cuda"
        return SimulatedGenerator() if on_gpu else cls.real()

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.real)


def _grouped(simulation: Simulation) -> Callable[..., Any]:
    """What optimizers group parameters by."""
    group = torch._C._group_tensors_by_device_and_dtype

    def by_simulated_device(lists: Any, with_indices: bool = False) -> Any:
        groups = group(lists, with_indices)
        return {
            (simulation.device_of(tensors[0][0]), dtype): (tensors, indices)
            for (_, dtype), (tensors, indices) in groups.items()
        }

    return by_simulated_device


def _cuda_functions(simulation: Simulation) -> Iterator[tuple[Any, str, Any]]:
    cuda = torch.cuda

    @contextlib.contextmanager
    def current(device: Any) -> Iterator[None]:
        before = simulation.current
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        simulation.current = simulation.index(device).index
        try:
            yield
        finally:
            simulation.current = before

    def set_state(state: Tensor, device: Any = "cuda") -> None:
        simulation.random_state = state.clone()

    def seed(value: int) -> None:
        simulation.random_state = torch.Generator().manual_seed(value).get_state()

    def debug(mode: Any) -> None:
        simulation.sync_mode = {"default": 0, "warn": 1, "error": 2}.get(mode, mode)

    here = torch.device("cuda")
    functions: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: simulation.count,
        "current_device": lambda: simulation.current,
        "set_device": lambda device: setattr(
            simulation, "current", simulation.index(torch.device(device)).index
        ),
        "device": current,
        "get_device_name": lambda device=None: "Simulated GPU",
        "get_device_capability": lambda device=None: simulation.capability,
        "is_bf16_supported": lambda *_, **__: simulation.capability >= (8, 0),
        "get_device_properties": lambda device=None: SimpleNamespace(
            total_memory=simulation.total_bytes,
            name="Simulated GPU",
            major=simulation.capability[0],
            minor=simulation.capability[1],
            multi_processor_count=1,
            L2_cache_size=1 << 20,
            uuid="0",
        ),
        "mem_get_info": lambda device=here: (
            max(0, simulation.total_bytes - simulation.allocated(torch.device(device))),
            simulation.total_bytes,
        ),
        "memory_allocated": lambda device=here: simulation.allocated(torch.device(device)),
        "memory_reserved": lambda device=here: simulation.allocated(torch.device(device)),
        "max_memory_allocated": lambda device=here: max(
            simulation.peak, simulation.allocated(torch.device(device))
        ),
        "reset_peak_memory_stats": lambda device=here: setattr(simulation, "peak", 0),
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: simulation.sync("synchronize()"),
        "Stream": Stream,
        "Event": Event,
        "stream": lambda stream: contextlib.nullcontext(),
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "get_rng_state": lambda device=here: simulation.random_state.clone(),
        "set_rng_state": set_state,
        "manual_seed": seed,
        "manual_seed_all": seed,
        "set_sync_debug_mode": debug,
        "get_sync_debug_mode": lambda: simulation.sync_mode,
        "is_current_stream_capturing": lambda: False,
    }
    for name, value in functions.items():
        yield cuda, name, value
    yield torch.accelerator, "is_available", lambda: False
    autocast = torch.autocast

    class Autocast(autocast):
        """Autocast of the simulated GPU is that of the CPU, whose memory its tensors are in."""

        def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
            super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    yield torch, "autocast", Autocast
    yield torch.amp, "autocast", Autocast
