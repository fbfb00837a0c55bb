"""The operations of RandAugment and TrivialAugment, on batches in which each image has its own.

They do what those of torchvision do, which apply one operation to a whole batch. The operations are
chosen on the CPU, and the images of one operation are computed together, so that the number of
operator calls does not grow with the batch and nothing waits for a GPU. Sums are of integers, and
products are rounded before they are added, so that an image is the same in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Kernel = Callable[[Tensor, Tensor], Tensor]
"""Changes images ``uint8 [n, C, S, S]`` by their parameters ``float32 [n, 6]``."""

BINS = 31
"""The number of magnitudes of an operation: torchvision's ``num_magnitude_bins``."""

CPU_PIXELS, GPU_PIXELS = 2**17, 2**22
"""The number of pixels that are computed at once: on a CPU they fit into its cache, and on a GPU
they occupy it without taking much of its memory."""


def tabulate_parameters(size: int, wide: bool) -> NDArray[np.float32]:
    """Tabulate the parameters of each operation for each magnitude of torchvision.

    Args:
        size: Height and width of the images in pixels.
        wide: Whether the magnitudes are those of TrivialAugment; else those of RandAugment.

    Returns:
        ``[14, 2, BINS, 6]``: the operations in the order of ``KERNELS``, and the magnitudes as they
        are and with the opposite sign, where they have one.
    """
    shear, angle, colour, lost_bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    shift = 32.0 if wide else 150.0 / 331.0 * size

    def spread(most: float) -> NDArray[np.float64]:
        magnitudes = torch.linspace(0.0, most, BINS).double().numpy()
        return np.stack([magnitudes, -magnitudes])

    shears, shifts, angles = spread(shear), np.trunc(spread(shift)), np.radians(spread(angle))
    blend, corner, cos, sin = spread(colour), shears * size / 2, np.cos(angles), np.sin(angles)
    bits = (8 - torch.arange(BINS) / ((BINS - 1) / lost_bits)).round().double().numpy()
    columns: dict[str, Sequence[float | NDArray[np.float64]]] = {
        # Matrices from pixels of the new image to those of the old one, counted from the centre.
        "ShearX": (1, shears, corner, 0, 1, 0),
        "ShearY": (1, 0, 0, shears, 1, corner),
        "TranslateX": (1, 0, -shifts, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, -shifts),
        "Rotate": (cos, -sin, 0, sin, cos, 0),
        **{k: (1 + blend, -blend) for k in ("Brightness", "Color", "Contrast", "Sharpness")},
        "Posterize": [256 - 2 ** (8 - bits)],  # a mask of the bits that are kept
        "Solarize": [255 * torch.linspace(1.0, 0.0, BINS).double().numpy()],
    }
    table = np.zeros((len(KERNELS), 2, BINS, 6), np.float32)
    for rows, name in zip(table, KERNELS, strict=True):
        for column, values in enumerate(columns.get(name, ())):
            rows[..., column] = values
    return table


def apply_operations(
    images: Tensor, operations: NDArray[np.int64], parameters: NDArray[np.float32]
) -> Tensor:
    """Apply an operation to each image.

    Args:
        images: ``uint8 [B, C, S, S]``.
        operations: The number of an operation for each image, in the order of ``KERNELS``: ``[B]``.
        parameters: The parameters of the operations, ``[B, 6]``.

    Returns:
        ``uint8 [B, C, S, S]``.
    """
    kernels = list(dict.fromkeys(KERNELS.values()))
    numbers = np.array([kernels.index(kernel) for kernel in KERNELS.values()])
    return _apply(kernels, images, numbers[operations], parameters)


def mirror_some(images: Tensor, is_mirrored: NDArray[np.bool_]) -> Tensor:
    """Flip some of ``images [B, C, S, S]`` horizontally."""
    none = np.zeros((len(images), 0), np.float32)
    return _apply([_keep, _mirror], images, is_mirrored.astype(np.int64), none)


def _apply(
    kernels: Sequence[Kernel],
    images: Tensor,
    numbers: NDArray[np.int64],
    parameters: NDArray[np.float32],
) -> Tensor:
    """Change each image with the kernel that ``numbers [B]`` choose for it."""
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers, minlength=len(kernels)).tolist()
    there, back = to_device(torch.from_numpy(np.stack([order, np.argsort(order)])), images)
    grouped_images = torch.split(images.contiguous().index_select(0, there), counts)
    grouped = torch.split(to_device(torch.from_numpy(parameters[order]), images), counts)
    groups = zip(kernels, grouped_images, grouped, strict=True)
    changed = [compute_in_parts(kernel, *group) for kernel, *group in groups if len(group[0])]
    return torch.cat(changed).index_select(0, back)


def compute_in_parts(kernel: Kernel, images: Tensor, parameters: Tensor) -> Tensor:
    """Call a kernel with as many images at a time as suit the device."""
    pixels = CPU_PIXELS if images.device.type == "cpu" else GPU_PIXELS
    count = math.ceil(images.shape[2:].numel() * len(images) / pixels)
    if count <= 1:
        return kernel(images, parameters)
    parts = zip(images.tensor_split(count), parameters.tensor_split(count), strict=True)
    return torch.cat([kernel(*part) for part in parts if len(part[0])])


def to_device(tensor: Tensor, images: Tensor) -> Tensor:
    """Copy a small tensor to the device of the images, without waiting for it."""
    return tensor.to(images.device, non_blocking=images.is_cuda)


def _keep(images: Tensor, parameters: Tensor) -> Tensor:
    return images


def _mirror(images: Tensor, parameters: Tensor) -> Tensor:
    return images.flip(3)


def _transform(images: Tensor, parameters: Tensor) -> Tensor:
    """Move the nearest pixel of the old image to each one of the new; black comes from outside."""
    size = images.shape[-1]
    along = torch.arange(size, device=images.device) - (size - 1) / 2
    a, b, c, d, e, f = (parameters / (size / 2))[:, :, None, None].unbind(1)
    x, y = along, along[:, None]
    grid = torch.stack([x * a + y * b + c, x * d + y * e + f], -1)
    moved = functional.grid_sample(images.float(), grid, mode="nearest", align_corners=False)
    return moved.to(torch.uint8)


def _change_brightness(images: Tensor, parameters: Tensor) -> Tensor:
    return (images * _expand(parameters)).clamp_(0, 255).to(torch.uint8)


def _change_saturation(images: Tensor, parameters: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return _blend(images, convert_to_grey(images), parameters)


def _change_contrast(images: Tensor, parameters: Tensor) -> Tensor:
    totals = convert_to_grey(images).sum((1, 2, 3), dtype=torch.int64)
    means = totals / (images.shape[2] * images.shape[3])
    return _blend(images, means[:, None, None, None], parameters)


def _change_sharpness(images: Tensor, parameters: Tensor) -> Tensor:
    """Blend images with blurred ones; the centre has five times the weight of its neighbours."""
    if images.shape[-1] < 3:
        return images
    values = images.to(torch.int16)
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    inner = values[..., 1:-1, 1:-1]
    weighted = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    changed = images.clone()
    blurring = (weighted / 13).round_().sub_(inner)  # nothing where all pixels are equal
    blurring.mul_(parameters[:, 1, None, None, None]).add_(inner)
    changed[..., 1:-1, 1:-1] = blurring.clamp_(0, 255)
    return changed


def _posterize(images: Tensor, parameters: Tensor) -> Tensor:
    return images & _expand(parameters).to(torch.uint8)


def _solarize(images: Tensor, parameters: Tensor) -> Tensor:
    return torch.where(images >= _expand(parameters), 255 - images, images)


def _stretch_contrast(images: Tensor, parameters: Tensor) -> Tensor:
    # torchvision's indexes with a mask, for which a GPU may have to be waited for.
    darkest, brightest = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    scale = (brightest - darkest) * (1 / 255)
    is_flat = scale == 0
    shifted = images.float().sub_(darkest.masked_fill(is_flat, 0))
    return shifted.div_(scale.masked_fill(is_flat, 1)).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, parameters: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as torchvision

    equalized: Tensor = torchvision.equalize(images)
    return equalized


def _expand(parameters: Tensor) -> Tensor:
    """The first of the parameters as ``[n, 1, 1, 1]``."""
    return parameters[:, :1, None, None]


def convert_to_grey(images: Tensor) -> Tensor:
    """The luma of ITU-R BT.601 in whole grey levels, ``float32 [n, 1, S, S]``.

    Other images than those in RGB have no luma; it is the mean of their channels.
    """
    if images.shape[1] != 3:
        return images.sum(1, keepdim=True, dtype=torch.float32).div_(images.shape[1]).floor_()
    red, green, blue = images.tensor_split(3, 1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114).floor_()


def _blend(images: Tensor, others: Tensor, parameters: Tensor) -> Tensor:
    """Sum images and others, weighted by the first two parameters; one may be negative."""
    weight, other_weight = parameters[:, :2, None, None, None].unbind(1)
    return (images * weight).add_(others * other_weight).clamp_(0, 255).to(torch.uint8)


KERNELS: Mapping[str, Kernel] = {
    "Identity": _keep,
    "ShearX": _transform,
    "ShearY": _transform,
    "TranslateX": _transform,
    "TranslateY": _transform,
    "Rotate": _transform,
    "Brightness": _change_brightness,
    "Color": _change_saturation,
    "Contrast": _change_contrast,
    "Sharpness": _change_sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _stretch_contrast,
    "Equalize": _equalize,
}
"""What computes each operation, by the name that it has in the papers."""
