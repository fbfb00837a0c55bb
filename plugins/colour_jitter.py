"""Random changes of colours, all in one affine map of each image's colours.

SimCLR changes brightness, contrast, saturation and hue one after the other (Chen et al. 2020,
arXiv:2002.05709, appendix A). Their product is one matrix and one offset for each image, so that
one pass over the pixels suffices and nothing is clipped in between. Products are rounded before
they are added, so that an image is the same in every batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .image_operations import convert_to_grey

JITTERED, GREYED = 0.8, 0.2
"""The probability that the colours of an image are changed, and that it becomes grey."""

BRIGHTNESS, HUE = 0.8, 0.2
"""The maximum change at strength 1: the fraction of brightness, contrast and saturation, and the
fraction of a full turn of the hue."""

LUMA = (0.2989, 0.587, 0.114)
"""The weights of red, green and blue in the luma of ITU-R BT.601."""

TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""From RGB to luma and the two axes of chroma in the American NTSC standard."""


def draw_colour_changes(numbers: Tensor, strength: float) -> Tensor:
    """Make the parameters of ``recolour`` of random numbers.

    Args:
        numbers: Uniform ones, ``float64 [B, 6]``.
        strength: The factor on the maximum changes.

    Returns:
        The matrix of an image by rows, its factor without a change of colours, and the factor on
        the mean luma that is added: ``float32 [B, 11]``.
    """
    jittered = (numbers[:, 0] < JITTERED).double()
    changes = 1 + jittered[:, None] * strength * BRIGHTNESS * (2 * numbers[:, 1:4] - 1)
    brightness, contrast, saturation = changes.clamp(min=0).unbind(1)
    saturation = torch.where(numbers[:, 5] < GREYED, 0.0, saturation)
    angle = 2 * math.pi * jittered * strength * HUE * (2 * numbers[:, 4] - 1)
    gain = brightness * contrast
    identity = torch.eye(3, dtype=numbers.dtype)
    luma = numbers.new_tensor(LUMA).expand(3, 3) / sum(LUMA)
    saturated = luma + saturation[:, None, None] * (identity - luma)
    matrix = gain[:, None, None] * (_rotate_hue(angle) @ saturated)
    offset = brightness * (1 - contrast)
    return torch.cat([matrix.flatten(1), gain[:, None], offset[:, None]], 1).float()


def _rotate_hue(angle: Tensor) -> Tensor:
    """Matrices ``[B, 3, 3]`` that turn the chroma of RGB by ``angle [B]``, in radians."""
    to_yiq = angle.new_tensor(TO_YIQ)
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    sin, cos = angle.sin(), angle.cos()
    rows = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1)
    turned: Tensor = torch.linalg.inv(to_yiq) @ rows.view(-1, 3, 3) @ to_yiq
    return turned


def recolour(images: Tensor, parameters: Tensor) -> Tensor:
    """Map the colours of images ``uint8 [n, C, S, S]`` by ``parameters [n, 11]``.

    Of images that are not in RGB, only brightness and contrast are changed.
    """
    total = convert_to_grey(images).sum((1, 2, 3), dtype=torch.int64)
    mean = total / (images.shape[2] * images.shape[3])
    offset = (mean * parameters[:, 10])[:, None, None]
    if images.shape[1] != 3:
        changed = (images * parameters[:, 9, None, None, None]).add_(offset[:, None])
        return changed.round_().clamp_(0, 255).to(torch.uint8)
    red, green, blue = images.unbind(1)
    channels = []
    for row in parameters[:, :9].reshape(-1, 3, 3, 1, 1).unbind(1):
        by_red, by_green, by_blue = row.unbind(1)
        channel = (red * by_red).add_(green * by_green).add_(blue * by_blue).add_(offset)
        channels.append(channel.round_().clamp_(0, 255).to(torch.uint8))
    return torch.stack(channels, 1)
