"""The items that a loaded model predicts: what callers give, as a list."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autotl.artifact.image_inputs import list_images
from autotl.data import IMAGES
from autotl.space.input_kind import InputKind
from autotl.space.kinds import RGB


def list_items(kind: InputKind, items: Any, channels: int = RGB) -> list[Any]:
    """List the items that are given alone or in an iterable.

    Args:
        kind: What the items are.
        items: For images see ``list_images``. For other kinds a string or a path that the kind
            reads, an item, or an iterable of these.
        channels: Number of channels of the model's images.

    Raises:
        DataError: There is nothing of this kind.
    """
    if kind is IMAGES:
        return list_images(items, channels)
    if isinstance(items, str | Path):
        return [item for _, item in kind.read(str(items))]
    if isinstance(items, Iterable) and not isinstance(items, bytes | dict | np.ndarray):
        return [item for inner in items for item in list_items(kind, inner)]
    return [items]
