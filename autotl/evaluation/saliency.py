"""Where a model looks: which parts of a picture speak for a class.

A window of the picture's mean colour is moved over it; where that makes the class less likely, it
had its evidence (occlusion: Zeiler & Fergus 2014, arXiv:1311.2901). It asks nothing of an
architecture, so it serves convolutions, transformers and heads of any kind alike. Integrated
gradients were as good on pictures made up for it, but on photographs missed what is grey.

Shapes: B pictures, S their side in pixels.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl.errors import ArtifactError
from autotl.models import Model

WINDOW, STRIDE = 1 / 4, 1 / 8
"""The window's side and its steps, as shares of the picture's: the model sees it some 50 times."""

AT_ONCE = 32
"""Pictures explained at once."""

BLUR = 1 / 16
"""The deviation of the blur, as a share of the side: the windows' edges mean nothing."""

HEAT = (255, 90, 0)
QUALITY = 80


def available() -> bool:
    """Whether captum, which moves the window, is installed."""
    return find_spec("captum") is not None


def saliency(
    network: Model, images: NDArray[np.uint8], classes: Sequence[int]
) -> NDArray[np.float32]:
    """What in each picture speaks for a class.

    Args:
        network: A trained model, on any device. It is put into eval mode for the time.
        images: ``uint8 [B, 3, S, S]``.
        classes: Of each picture the class that is asked about, ``[B]``.

    Returns:
        ``float32 [B, S, S]``: 1 where a picture speaks most for its class, 0 where it says nothing
        or speaks against it. All 0 if nothing in it speaks for the class.

    Raises:
        ArtifactError: captum is not installed.
    """
    if not available():
        raise ArtifactError('explaining a model needs captum: pip install "autotl[explain]"')
    from captum.attr import Occlusion

    device = network.mean.device
    side = images.shape[-1]
    window, stride = (max(1, round(share * side)) for share in (WINDOW, STRIDE))
    method = Occlusion(lambda pictures: network(pictures).float().log_softmax(1))
    training = network.training
    network.eval()
    found = []
    try:
        with torch.no_grad():
            for start in range(0, len(images), AT_ONCE):
                pictures = torch.from_numpy(images[start : start + AT_ONCE]).to(device).float()
                asked = torch.tensor(classes[start : start + AT_ONCE], device=device)
                lost = method.attribute(
                    pictures,
                    sliding_window_shapes=(3, window, window),
                    strides=(3, stride, stride),
                    baselines=pictures.mean((2, 3), keepdim=True).expand_as(pictures),
                    target=asked,
                )
                found.append(_smooth(lost.mean(1).float()).cpu())
    finally:
        network.train(training)
    maps = torch.cat(found).clamp(min=0) if found else torch.zeros(0, *images.shape[2:])
    result: NDArray[np.float32] = (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()
    return result


def _smooth(maps: Tensor) -> Tensor:
    """``[B, S, S]`` blurred by a Gaussian."""
    deviation = max(0.5, BLUR * maps.shape[-1])
    reach = min(int(2 * deviation), maps.shape[-1] - 1)
    at = torch.arange(-reach, reach + 1, device=maps.device)
    weights = torch.exp(-(at**2) / (2 * deviation**2))
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    for _ in range(2):  # along each axis in turn
        padded = functional.pad(maps[:, None], (reach, reach, 0, 0), mode="replicate")
        maps = functional.conv2d(padded, weights)[:, 0].transpose(1, 2)
    return maps


def overlay(image: NDArray[np.uint8], saliency: NDArray[np.float32]) -> str:
    """A picture with what matters in it shown in colour, as a JPEG ``data:`` URI.

    Args:
        image: ``uint8 [S, S, 3]``.
        saliency: ``[S, S]``, from 0 to 1.
    """
    from PIL import Image

    grey = image.astype(np.float32).mean(2, keepdims=True)
    heat = 0.75 * saliency[..., None]
    mixed = (1 - heat) * grey + heat * np.array(HEAT, dtype=np.float32)
    file = io.BytesIO()
    Image.fromarray(mixed.round().astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
