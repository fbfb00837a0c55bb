"""Contrastive learning: a backbone is trained without labels, to tell which views are of one image.

That is SimCLR (Chen et al. 2020, arXiv:2002.05709): each image of a batch is augmented twice, a
small network projects the features of both views, and the projection of a view is to be more
similar to that of the other view of its image than to those of all other images.

Shapes: B images in a batch, F features, P numbers in a projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotl.space.plugin import head

TEMPERATURE = 0.2
"""The divisor of the similarities. The smaller, the more the most similar other images count."""


@dataclass(frozen=True)
class Contrast:
    """What a training without labels minimises.

    Attributes:
        temperature: The divisor of the similarities, above 0.
    """

    temperature: float = TEMPERATURE

    def loss(self, projections: Tensor) -> Tensor:
        """Return the loss of ``projections [2 B, P]``, see ``nt_xent``."""
        return nt_xent(projections, self.temperature)


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Return the normalised, temperature-scaled cross-entropy of two views of each image.

    Each view is classified among the 2 B - 1 others by its cosine similarities to them; the right
    one is the other view of its image.

    Args:
        projections: Those of the first views of the images, then those of their second views in the
            same order, ``float32 [2 B, P]``.
        temperature: The divisor of the similarities.

    Returns:
        The mean of the 2 B losses in nats, a scalar.
    """
    directions = functional.normalize(projections, dim=1)
    count = len(directions)
    itself = torch.eye(count, dtype=torch.bool, device=directions.device)
    similarities = (directions @ directions.T / temperature).masked_fill(itself, -torch.inf)
    partners = torch.arange(count, device=directions.device).roll(count // 2)
    return functional.cross_entropy(similarities, partners)


@head
def projection(features: int, *, width: int = 128) -> nn.Module:
    """Two layers, whose output is compared instead of the features (SimCLR, section 4.2)."""
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, width))
