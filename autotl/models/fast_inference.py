"""Forward passes on the CPU with OpenVINO, an optional package that is faster than PyTorch.

A forward pass is traced, compiled for a batch of any size, and compared with PyTorch on real
images. Whatever goes wrong, PyTorch remains. ``studies/benchmarks/inference.py`` compares OpenVINO
with other ways to compute a forward pass.

Shapes: B images in a batch, S the side of an image in pixels.
"""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from autotl.models.device import Device

Forward = Callable[[Tensor], Tensor]
"""A forward pass: ``uint8 images [B, C, S, S]`` to activations or logits ``[B, ...]``."""

MIN_PIXELS = 20_000_000
"""Pixels from which on compiling is expected to pay where nothing is measured: 400 images of 224
pixels a side. Compiling takes one to three seconds; EfficientNet-Lite0 takes 5 s for these pixels
in PyTorch on one core with AVX-512, and 20 s on an older one."""

CHECKED_IMAGES = 8
"""Number of images that a compiled forward pass is compared with PyTorch on."""

TOLERANCE = 1e-3
"""How far the output may be from PyTorch's in float32, as a fraction of its std between images."""

BFLOAT16_FACTOR = 1.5
"""How much farther from float32 the output may be in bfloat16 than PyTorch's in bfloat16."""


class NotCompiled(Exception):
    """OpenVINO cannot compute a forward pass; the message is the reason."""


def is_available(device: Device) -> bool:
    """Whether forward passes on a device can be compiled: OpenVINO is installed, on a CPU."""
    return device.torch_device.type == "cpu" and find_spec("openvino") is not None


def pays(count: int, inputs: Tensor) -> bool:
    """Whether compiling is expected to pay for ``count`` examples like ``inputs [B, ...]``.

    Only images ``[B, C, S, S]`` are compiled.
    """
    return inputs.ndim == 4 and count * inputs.shape[-1] ** 2 >= MIN_PIXELS


def compile_forward(forward: Forward, model: nn.Module, images: Tensor, device: Device) -> Forward:
    """Compile a forward pass for inference on the CPU.

    Args:
        forward: The forward pass, in PyTorch. It may end by an exception that it catches itself.
        model: The module that it belongs to, in eval mode. Later changes of its weights have no
            effect on what is compiled.
        images: Real images ``uint8 [B, C, S, S]``, at least three.
        device: The device, and the type to compute in.

    Returns:
        The compiled forward pass, for batches of any size. Its outputs have the type and the memory
        format of PyTorch's.

    Raises:
        NotCompiled: OpenVINO is missing or fails, or computes something else.
    """
    if not is_available(device):
        raise NotCompiled("OpenVINO is not installed")
    if len(images) < 3:
        raise NotCompiled("there are too few images to compare on")
    images = images[:CHECKED_IMAGES]
    with torch.inference_mode():
        exact = usual = forward(images)
        if device.autocast:
            with torch.autocast("cpu", device.autocast):
                usual = forward(images)
        try:
            compiled = _compile(forward, model, images, device, usual)
            actual = compiled(images)
        except Exception as error:  # there are many ways to fail to convert a model
            message = textwrap.shorten(str(error) or type(error).__name__, 200)
            raise NotCompiled(f"OpenVINO fails: {message}") from error
    if not _agree(actual, usual, exact):
        raise NotCompiled("OpenVINO computes something else")
    return compiled


def with_fallback(compiled: Forward, forward: Forward) -> Forward:
    """Call ``compiled``, and from its first failure on ``forward``."""
    current = compiled

    def call(images: Tensor) -> Tensor:
        nonlocal current
        try:
            return current(images)
        except Exception:
            if current is forward:
                raise
            current = forward
            return forward(images)

    return call


def _agree(actual: Tensor, usual: Tensor, exact: Tensor) -> bool:
    """Whether an output is as close to that in float32 as rounding lets expect.

    Args:
        actual: The output ``[B, ...]``.
        usual: PyTorch's in the type that is computed in.
        exact: PyTorch's in float32.
    """
    if actual.shape != exact.shape:
        return False
    actual, usual = actual.float(), usual.float()
    std = (exact - exact.mean(0)).square().mean().sqrt()
    error, usual_error = ((x - exact).square().mean().sqrt() for x in (actual, usual))
    return bool(error <= TOLERANCE * std + BFLOAT16_FACTOR * usual_error)  # False for NaN


class _Traced(nn.Module):
    """A forward pass as a module, which tracing needs to recognise the parameters."""

    def __init__(self, forward: Forward, model: nn.Module) -> None:
        super().__init__()
        self.model, self.function = model, forward

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def _compile(
    forward: Forward, model: nn.Module, images: Tensor, device: Device, output: Tensor
) -> Forward:
    """Compile for the type of ``device``; ``output [B, ...]`` has the type that is returned."""
    openvino = _import_openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # torch.export instead of TorchScript's tracing took ten times as long, and it converts neither
    # bicubic interpolation nor a prefix that ends by an exception.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing takes for constant is compared below
        decoder = TorchScriptPythonDecoder(
            _Traced(forward, model).eval(),
            example_input=images[:2],  # a batch of one would be taken for constant
            shared_memory=False,
            trace_kwargs={"check_trace": False},
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(decoder))
    graph.reshape({0: openvino.PartialShape([-1, *images.shape[1:]])})
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # other processes use these cores too
        "INFERENCE_PRECISION_HINT": "bf16" if device.autocast == torch.bfloat16 else "f32",
    }
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    channels_last = output.ndim == 4 and output.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.preserve_format
    dtype = output.dtype

    def run(images: Tensor) -> Tensor:
        result = torch.from_numpy(compiled([images.contiguous().numpy()])[0])
        return result.to(dtype, memory_format=layout)

    return run


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report the import to its makers."""
    with _import_blocked("openvino_telemetry"):
        import openvino
    return openvino


@contextmanager
def _import_blocked(name: str) -> Iterator[None]:
    """Let an import of the module ``name`` fail, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
