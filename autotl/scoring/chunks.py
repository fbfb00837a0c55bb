"""Computing with very many predictions a part at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CHUNK_NUMBERS = 1 << 24
"""About how many numbers of predictions are computed with at a time where copies of them are
needed, which limits the memory."""


def chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of ``count`` rows or columns of ``size`` numbers each, see ``CHUNK_NUMBERS``."""
    step = max(1, CHUNK_NUMBERS // max(1, size))
    for start in range(0, count, step):
        yield slice(start, start + step)


def predict_classes(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the most probable class of each example, ``[N]``."""
    parts = [probabilities[part].argmax(1) for part in chunks(*probabilities.shape)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)
