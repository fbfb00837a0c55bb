"""Workarounds for CPU kernels that are broken or slow.

They were measured with torch 2.14 on a CPU that computes in bfloat16 (AMX).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def apply_workarounds(model: nn.Module, *, bfloat16: bool) -> None:
    """Make the layers of a network on the CPU avoid kernels that are broken or slow.

    Args:
        model: The network. The classes of its layers change; parameters and results do not.
        bfloat16: Whether it computes in bfloat16.
    """
    _keep_narrow_strided_contiguous(model)
    if bfloat16:
        _keep_slow_depthwise_in_float32(model)


class _InFloat32:
    """Mixed into a convolution's class: trains in float32 where autocast would use bfloat16.

    Only the backward pass is slow in bfloat16. Without a backward pass, autocast decides.
    """

    weight: Tensor

    def forward(self, images: Tensor) -> Tensor:
        needs_gradient = images.requires_grad or self.weight.requires_grad
        if not (needs_gradient and torch.is_grad_enabled()):
            inferred: Tensor = super().forward(images)  # type: ignore[misc]
            return inferred
        with torch.autocast(images.device.type, enabled=False):
            output: Tensor = super().forward(images.float())  # type: ignore[misc]
        return output


def _keep_slow_depthwise_in_float32(model: nn.Module) -> None:
    """Exempt depthwise convolutions of 5 x 5 and more, and strided ones, from bfloat16 on the CPU.

    Their backward pass has no fast kernel in bfloat16. The gradient of 5 x 5 weights, 480 channels
    at 14 x 14, took 4.5 times as long as in float32, and the backward pass of stride 2, 96 channels
    at 112 x 112, 3.4 times as long. A training step of EfficientNet-Lite0 took 1.5 times as long
    without this.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            slow = max(module.kernel_size) >= 5 or max(module.stride) > 1
            if slow:
                _mix_in(_InFloat32, module)


class _Contiguous:
    """Mixed into a convolution's class: takes its images as NCHW, not as channels_last."""

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = super().forward(images.contiguous())  # type: ignore[misc]
        return output


def _keep_narrow_strided_contiguous(model: nn.Module) -> None:
    """Pass NCHW to strided convolutions of 1 x 1 with fewer than 16 channels, on the CPU.

    On channels_last torch 2.14 corrupts memory in their backward pass and the process dies:
    ``Conv2d(3, 48, 1, stride=2)`` at 256 x 256, the stem of FastViT, in most runs. It was seen
    with 2 to 15 channels and from 128 x 128 on; not with 16 or more, the width of an AVX-512
    register.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == (1, 1)
            and max(module.stride) > 1
            and module.in_channels < 16
        ):
            _mix_in(_Contiguous, module)


def _mix_in(mixin: type, module: nn.Module) -> None:
    """Give a module a subclass of its class that has ``mixin`` in front."""
    # A subclass, unlike a replaced forward method, is preserved when the model is copied.
    original = type(module)
    module.__class__ = type(original.__name__, (mixin, original), {})
