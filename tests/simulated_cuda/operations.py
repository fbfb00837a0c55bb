"""The operations of a simulated GPU: each is checked, and then computed on the CPU."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .state import CPU, Simulation, leaves, storage_key, tensors_in

aten = torch.ops.aten

INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten._unsafe_index_put.default,
}
"""Operations that copy indices from the CPU, and wait to know how many a mask has."""

WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._linalg_check_errors.default,
}
"""Operations whose result, or its shape, is on the CPU."""

SCALARS = {
    aten.where.self,
    aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor,
    aten.fill_.Tensor,
    aten.lift_fresh.default,
}
"""Operations, besides those on each element, that take a number from a tensor on the CPU."""

SETTING = {getattr(aten.set_, name) for name in aten.set_.overloads()}
"""Operations that give a tensor a storage, which is on a device already."""

CHOSEN_FOR_CPU = ("mkldnn", "onednn", "for_cpu", "profiler::", "_has_compatible", "quantized")
"""Parts of the names of operations that PyTorch chooses because the memory is the CPU's."""


class Operations(TorchDispatchMode):
    """Sees each operation of a thread, those of the backward pass included."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self.simulation = simulation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if is_composite(func.name()):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        if func is aten._to_copy.default:
            return self._copy_new(args[0], **kwargs)
        if func is aten.copy_.default:
            return self._copy_into(*args, **kwargs)
        if func is aten._foreach_copy_.default:
            for target, source in zip(args[0], args[1], strict=True):
                self._copy_into(target, source, *args[2:], **kwargs)
            return None
        if func is aten.is_pinned.default:
            return self.simulation.is_pinned(args[0])
        tensors = tensors_in(args, kwargs)
        device = self._find_device(func, tensors, args, kwargs)
        if device.type == "cuda":
            self._check(func, args, kwargs)
            self.simulation.read_on_gpu(*tensors)
            if not tensors and args and isinstance(args[0], (list, torch.Size)):
                dtype = kwargs.get("dtype") or torch.get_default_dtype()
                self.simulation.reserve(math.prod(args[0]) * dtype.itemsize, device)
        pinned = kwargs.pop("pin_memory", False)
        if kwargs.get("device") is not None:
            kwargs["device"] = real(device)
        given = {storage_key(tensor) for tensor in tensors}
        result = self._compute(func, device, args, kwargs)
        if func not in SETTING:
            for tensor in tensors_in(result):
                if storage_key(tensor) not in given:  # it is no view
                    self.simulation.put(tensor, device, bool(pinned))
        return result

    def _find_device(
        self, func: Any, tensors: list[Tensor], args: Any, kwargs: Any
    ) -> torch.device:
        """The device of the results, after a check that the arguments are on it."""
        simulation = self.simulation
        if kwargs.get("device") is not None:
            device = torch.device(kwargs["device"])
            if device.type == "cpu" and simulation.caller.gpu:
                return simulation.caller.gpu
            return simulation.numbered(device)
        if not tensors:
            return simulation.caller.gpu or CPU
        devices = [simulation.device_of(tensor) for tensor in tensors]
        gpu = next((device for device in devices if device.type == "cuda"), None)
        if gpu is None:
            return devices[0]
        for tensor, device in zip(tensors, devices, strict=True):
            if device == gpu or self._may_be_elsewhere(func, tensor, device, devices[0], args):
                continue
            found = ", ".join(sorted(set(map(str, devices))))
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{found}! ({func})"
            )
        return gpu

    def _may_be_elsewhere(
        self, func: Any, tensor: Tensor, device: torch.device, first: torch.device, args: Any
    ) -> bool:
        """Whether an operation on a GPU takes this argument from the CPU."""
        if device.type != "cpu":
            return False
        if func in INDEXING and first.type == "cuda" and any(tensor is i for i in args[1]):
            self.simulation.wait(f"{func} with indices on the CPU")
            return True
        takes_scalars = func in SCALARS or func in INDEXING or "_foreach_" in func.name()
        return tensor.ndim == 0 and (takes_scalars or torch.Tag.pointwise in func.tags)

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        """Raise an error for what CUDA does not have, and wait where it does."""
        name = func.name()
        if not any(part in name for part in CHOSEN_FOR_CPU) and not has_kernel(name):
            raise NotImplementedError(f"{name} has no kernel for CUDA")
        for each in leaves(args, kwargs):
            if isinstance(each, torch.Generator) and each.device.type != "cuda":
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        masks = (torch.bool, torch.uint8)
        if func in WAITING:
            self.simulation.wait(name)
        elif func in INDEXING and any(i is not None and i.dtype in masks for i in args[1]):
            self.simulation.wait(f"{name} with a mask")

    def _compute(self, func: Any, device: torch.device, args: Any, kwargs: Any) -> Any:
        simulation = self.simulation
        if device.type != "cuda" or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        with simulation.lock:
            host = torch.get_rng_state()
            torch.set_rng_state(simulation.random_state)
            try:
                return func(*args, **kwargs)
            finally:
                simulation.random_state = torch.get_rng_state()
                torch.set_rng_state(host)

    # Copies.

    def _copy_new(
        self, source: Tensor, *, device: Any = None, non_blocking: bool = False, **options: Any
    ) -> Tensor:
        """Copy to a new tensor of another type or device."""
        simulation = self.simulation
        origin = simulation.device_of(source)
        target = origin if device is None else simulation.numbered(torch.device(device))
        if target.type == "cpu" and origin.type == "cuda" and simulation.caller.gpu:
            target = origin  # a part of a function takes it for a tensor on the CPU
        options.pop("pin_memory", None)
        if target.type == "cuda":
            simulation.reserve(source.numel() * source.element_size(), target)
        simulation.read_on_gpu(source)
        copied: Tensor = aten._to_copy.default(source, device=real(target), **options)
        # PyTorch copies to pinned memory if it does not wait.
        simulation.put(copied, target, pinned=non_blocking and target.type == "cpu")
        self._finish(copied, source, origin, target, non_blocking)
        return copied

    def _copy_into(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """Copy to an existing tensor."""
        simulation = self.simulation
        simulation.read_on_gpu(target, source)
        target.copy_(source)
        devices = simulation.device_of(source), simulation.device_of(target)
        self._finish(target, source, *devices, non_blocking)
        return target

    def _finish(
        self,
        copied: Tensor,
        source: Tensor,
        origin: torch.device,
        target: torch.device,
        non_blocking: bool,
    ) -> None:
        """Wait for a copy, or undo it until something does."""
        simulation = self.simulation
        if {origin.type, target.type} != {"cpu", "cuda"} or not copied.numel():
            return
        if not non_blocking:
            simulation.wait(f"copy from {origin} to {target}")
        elif copied.dtype == source.dtype and simulation.is_pinned(
            copied if target.type == "cpu" else source
        ):
            simulation.copy_late(copied, source, to_host=target.type == "cpu")


def real(device: torch.device) -> torch.device:
    """The device whose memory the tensors of a device are in."""
    return CPU if device.type == "cuda" else device


@cache
def is_composite(name: str) -> bool:
    """Whether an operation consists of others on all devices."""
    return _has_kernel(name, "CompositeImplicitAutograd")


@cache
def has_kernel(name: str) -> bool:
    """Whether an operation runs on CUDA in this build of PyTorch; True if it was built without."""
    if not torch.version.cuda:
        return True
    composite = ("CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    return any(_has_kernel(name, key) for key in ("CUDA", *composite))


def _has_kernel(name: str, key: str) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))
