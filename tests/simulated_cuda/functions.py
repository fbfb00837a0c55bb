"""What Python asks of tensors on a simulated GPU without an operation that a mode sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .state import CPU, Simulation, tensors_in

NOT_FOR_NUMPY = (
    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
    "memory first."
)


class Functions(TorchFunctionMode):
    """Sees each call of PyTorch from Python in a thread."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self.simulation = simulation

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in QUESTIONS:
            return QUESTIONS[func](self.simulation.device_of(args[0]))
        if func in FUNCTIONS:
            with self, self.simulation.called_with(None):
                return FUNCTIONS[func](self.simulation, *args, **kwargs)
        if func in FACTORIES:
            device = kwargs.pop("device", None)
            kwargs.pop("pin_memory", None)
            here = next((self.simulation.device_of(t) for t in tensors_in(args)), CPU)
            made = func(*args, **kwargs)
            return move(self.simulation, made, here if device is None else device)
        gpu = self.simulation.caller.gpu
        if kwargs.get("device") is not None:
            gpu = None
        else:
            devices = map(self.simulation.device_of, tensors_in(args, kwargs))
            gpu = next((device for device in devices if device.type == "cuda"), gpu)
        with self.simulation.called_with(gpu):
            return func(*args, **kwargs)


def move(simulation: Simulation, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to``."""
    device, dtype, non_blocking, copy = _parse_move(simulation, *args, **kwargs)
    here = simulation.device_of(tensor)
    device = here if device is None else simulation.numbered(torch.device(device))
    layout = kwargs.get("memory_format") or torch.preserve_format
    with torch._C.DisableTorchFunction():
        same = device == here and dtype in (None, tensor.dtype) and not copy
        if same and (layout == torch.preserve_format or tensor.is_contiguous(memory_format=layout)):
            return tensor
        return torch.ops.aten._to_copy(
            tensor, dtype=dtype, device=device, non_blocking=non_blocking, memory_format=layout
        )


def _parse_move(simulation: Simulation, *args: Any, **kwargs: Any) -> tuple[Any, Any, bool, bool]:
    """The device, the type, whether not to wait, and whether to copy anyway."""
    given = list(args)
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    if given and isinstance(given[0], Tensor):
        device, dtype = simulation.device_of(given[0]), given.pop(0).dtype
    elif given and isinstance(given[0], torch.dtype):
        dtype = given.pop(0)
    elif given and not isinstance(given[0], bool):
        device = given.pop(0)
        if given and not isinstance(given[0], bool):
            dtype = given.pop(0)
    non_blocking = given.pop(0) if given else kwargs.get("non_blocking", False)
    copy = given.pop(0) if given else kwargs.get("copy", False)
    return device, dtype, bool(non_blocking), bool(copy)


def move_to_gpu(
    simulation: Simulation, tensor: Tensor, device: Any = None, *args: Any, **kwargs: Any
) -> Tensor:
    """``Tensor.cuda``."""
    return move(simulation, tensor, "cuda" if device is None else device, None, *args, **kwargs)


def move_to_cpu(simulation: Simulation, tensor: Tensor, **kwargs: Any) -> Tensor:
    """``Tensor.cpu``."""
    return move(simulation, tensor, CPU, **kwargs)


def to_numpy(simulation: Simulation, tensor: Tensor, *, force: bool = False) -> Any:
    """``Tensor.numpy``."""
    if simulation.device_of(tensor).type == "cuda":
        if not force:
            raise TypeError(NOT_FOR_NUMPY)
        tensor = tensor.detach().cpu()
    with torch._C.DisableTorchFunction():
        return tensor.numpy(force=force)


def to_list(simulation: Simulation, tensor: Tensor) -> Any:
    """``Tensor.tolist``."""
    if simulation.device_of(tensor).type == "cuda":
        simulation.wait("tolist()")
    with torch._C.DisableTorchFunction():
        return tensor.tolist()


def pin(simulation: Simulation, tensor: Tensor, *_: Any) -> Tensor:
    """``Tensor.pin_memory``."""
    if simulation.device_of(tensor).type == "cuda":
        raise RuntimeError("cannot pin a tensor on cuda, only dense CPU tensors can be pinned")
    pinned = tensor.clone()
    simulation.put(pinned, CPU, pinned=True)
    return pinned


def deep_copy(simulation: Simulation, tensor: Tensor, memo: Any) -> Tensor:
    """``copy.deepcopy``, which copies the storage without an operation."""
    with torch._C.DisableTorchFunction():
        copied: Tensor = tensor.__deepcopy__(memo)
    simulation.put(copied, simulation.device_of(tensor))
    return copied


def one_hot(simulation: Simulation, targets: Tensor, num_classes: int = -1) -> Tensor:
    """``functional.one_hot``, which checks the targets on the CPU only."""
    count = num_classes if num_classes >= 0 else int(targets.max()) + 1
    encoded = torch.zeros(*targets.shape, count, dtype=torch.long, device=targets.device)
    return encoded.scatter_(-1, targets[..., None], 1)


QUESTIONS: dict[Any, Callable[[torch.device], Any]] = {
    torch.Tensor.device.__get__: lambda device: device,  # type: ignore[attr-defined]
    torch.Tensor.is_cuda.__get__: lambda device: device.type == "cuda",  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda device: device.type == "cpu",  # type: ignore[attr-defined]
    torch.Tensor.get_device: lambda device: -1 if device.type == "cpu" else device.index,
}
"""The attributes of a tensor that tell its device."""

FACTORIES = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}
"""Functions that make tensors of numbers of Python."""

FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.Tensor.to: move,
    torch.Tensor.cpu: move_to_cpu,
    torch.Tensor.cuda: move_to_gpu,
    torch.Tensor.numpy: to_numpy,
    torch.Tensor.tolist: to_list,
    torch.Tensor.pin_memory: pin,
    torch.Tensor.is_pinned: lambda simulation, tensor, *_: simulation.is_pinned(tensor),
    torch.Tensor.__deepcopy__: deep_copy,
    torch.nn.functional.one_hot: one_hot,
}
"""Functions that do something else on a GPU than on the CPU."""
