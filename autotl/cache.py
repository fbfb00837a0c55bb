"""What a frozen backbone makes of the pictures, kept in memory and shared by trials."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

Kept = TypeVar("Kept", Tensor, tuple[Tensor, Tensor])
"""What is kept: a tensor, or two that belong together."""


class Features:
    """Tensors by key, the least recently used dropped first when they pass ``limit`` bytes.

    A key holds everything that decides the value: backbone, weights, size, view and data.
    """

    def __init__(self, limit: int = 1 << 30) -> None:
        self.limit = limit
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], Kept]) -> Kept:
        """What is kept for ``key``, or what ``compute`` returns, kept from now on."""
        if key in self._kept:
            self._kept.move_to_end(key)
            found: Kept = self._kept[key]
            return found
        value = self._kept[key] = compute()
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self.limit:
            self._kept.popitem(last=False)
        return value


def _bytes(kept: Tensor | tuple[Tensor, Tensor]) -> int:
    tensors = (kept,) if isinstance(kept, Tensor) else kept
    return sum(t.numel() * t.element_size() for t in tensors)
