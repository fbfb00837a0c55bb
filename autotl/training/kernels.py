"""Which CUDA kernels compute: cuDNN's choice, TF32, and the current device.

cuDNN computes with deterministic algorithms only. PyTorch's own kernels are deterministic except
where they add up with atomic operations: ``index_add`` and ``scatter_add``, and the backward passes
of ``gather``, of bilinear and bicubic interpolation, of adaptive pooling and of reflection padding.
A network that has one of these may differ by rounding between two trainings on CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from autotl.models import Device


@contextmanager
def cuda_kernels(device: Device, benchmark: bool = False) -> Iterator[None]:
    """Compute as ``device`` says; afterwards the settings of the host process are as before.

    On another device than CUDA nothing changes.

    Args:
        device: It is the current device inside, for kernels that are launched without naming one.
        benchmark: Whether cuDNN times its algorithms for each new shape, and takes the fastest.
            Otherwise it takes one by rules, which is the same in every run.
    """
    if device.torch_device.type != "cuda":
        yield
        return
    # torch.backends.cudnn.flags() would not restore the settings of TF32 exactly.
    cudnn = torch.backends.cudnn
    host = cudnn.benchmark, cudnn.deterministic
    with _current(device.torch_device), _tf32(device.tf32):
        cudnn.benchmark, cudnn.deterministic = benchmark, True
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.deterministic = host


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Make a CUDA device the current one; one without an index is the current one already."""
    return nullcontext() if device.index is None else torch.cuda.device(device)


@contextmanager
def _tf32(enabled: bool) -> Iterator[None]:
    """Let products of float32 matrices and convolutions be computed in TF32, or not."""
    backends = torch.backends
    # The newer settings hold more than the older ones, but PyTorch's own code still reads these,
    # which raises an error unless both agree. So the older ones are set, and both are restored.
    settings: list[Any] = [backends.cuda.matmul]
    settings += [getattr(backends.cudnn, name, None) for name in ("conv", "rnn")]
    settings.append(getattr(backends.mkldnn, "matmul", None))
    newer = [(each, each.fp32_precision) for each in settings if hasattr(each, "fp32_precision")]
    try:
        older = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:  # the host process uses the newer ones
        older = None
    _set_older("high" if enabled else "highest", enabled)
    try:
        yield
    finally:
        if older:
            _set_older(*older)
        for each, precision in newer:
            each.fp32_precision = precision


def _set_older(matmul: str, cudnn: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn
