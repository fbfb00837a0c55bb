"""Saliency maps: which regions of an image support a class.

A window of the image's mean colour is moved over the image. Where it makes the class less probable,
the image supports the class (occlusion: Zeiler & Fergus 2014, arXiv:1311.2901). The method makes no
assumption about the architecture, so it works alike for convolutions, transformers and any head.
Integrated gradients were as good on synthetic images, but on photographs missed grey objects.

Shapes: B images, S their side in pixels, C their channels.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl.data.image_kind import as_jpeg
from autotl.errors import ArtifactError
from autotl.models import Model
from autotl.space.task import Task
from autotl.tasks import CLASSIFICATION

WINDOW, STRIDE = 1 / 4, 1 / 8
"""Side and step of the window, as fractions of the image's side: some 50 forward passes."""

BATCH_SIZE = 32
"""Number of images explained at once."""

BLUR = 1 / 16
"""Standard deviation of the blur that hides the edges of the windows, as a fraction of the side."""

TINY = 1e-30
"""Probabilities are clipped to this before taking a logarithm."""

HIGHLIGHT = (255, 90, 0)
"""RGB colour of salient regions."""


def is_available() -> bool:
    """Whether captum, which computes the occlusions, is installed."""
    return find_spec("captum") is not None


def compute_saliency(
    network: Model,
    images: NDArray[np.uint8],
    classes: Sequence[int],
    task: Task = CLASSIFICATION,
) -> NDArray[np.float32]:
    """Compute for each image which regions support a class.

    Args:
        network: A trained model, on any device. It is in eval mode during the call.
        images: ``uint8 [B, C, S, S]``.
        classes: For each image the index of the class to explain, ``[B]``.
        task: Activates the logits.

    Returns:
        ``float32 [B, S, S]``: 1 where an image supports its class most, 0 where it is neutral or
        contradicts it; 0 everywhere if nothing in the image supports the class.

    Raises:
        ArtifactError: captum is not installed.
    """
    if not is_available():
        raise ArtifactError('saliency maps need captum: pip install "autotl[explain]"')
    from captum.attr import Occlusion

    device = network.device
    side = images.shape[-1]
    window, stride = (max(1, round(fraction * side)) for fraction in (WINDOW, STRIDE))
    occlusion = Occlusion(lambda x: task.activate(network(x).float()).clamp(min=TINY).log())
    training = network.training
    network.eval()
    maps = [torch.zeros(0, *images.shape[2:])]
    try:
        with torch.no_grad():
            for start in range(0, len(images), BATCH_SIZE):
                batch = torch.from_numpy(images[start : start + BATCH_SIZE]).to(device).float()
                attributions = occlusion.attribute(
                    batch,
                    sliding_window_shapes=(batch.shape[1], window, window),
                    strides=(batch.shape[1], stride, stride),
                    baselines=batch.mean((2, 3), keepdim=True).expand_as(batch),
                    target=torch.tensor(classes[start : start + BATCH_SIZE], device=device),
                )
                maps.append(_blur(attributions.mean(1).float()).cpu())
    finally:
        network.train(training)
    positive = torch.cat(maps).clamp(min=0)
    normalized: NDArray[np.float32] = (
        positive / positive.amax((1, 2), keepdim=True).clamp(min=1e-12)
    ).numpy()
    return normalized


def _blur(maps: Tensor) -> Tensor:
    """Blur ``[B, S, S]`` with a Gaussian."""
    std = max(0.5, BLUR * maps.shape[-1])
    radius = min(int(2 * std), maps.shape[-1] - 1)
    offsets = torch.arange(-radius, radius + 1, device=maps.device)
    kernel = torch.exp(-(offsets**2) / (2 * std**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for _ in range(2):  # along each axis in turn
        padded = functional.pad(maps[:, None], (radius, radius, 0, 0), mode="replicate")
        maps = functional.conv2d(padded, kernel)[:, 0].transpose(1, 2)
    return maps


def draw_overlay(image: NDArray[np.uint8], saliency: NDArray[np.float32]) -> str:
    """Draw a saliency map over the greyscale image.

    Args:
        image: ``uint8 [S, S, C]``.
        saliency: ``[S, S]``, from 0 to 1.

    Returns:
        A JPEG as a data URI.
    """
    grey = image.astype(np.float32).mean(2, keepdims=True)
    opacity = 0.75 * saliency[..., None]
    mixed = (1 - opacity) * grey + opacity * np.array(HIGHLIGHT, dtype=np.float32)
    jpeg = as_jpeg(mixed.round().astype(np.uint8))
    return f"data:{jpeg.media_type};base64," + base64.b64encode(jpeg.content).decode()
