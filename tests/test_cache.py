"""The cache of features: computed once, the least recently used forgotten first."""

from __future__ import annotations

import pytest
import torch

from autotl.cache import Features


class Maker:
    """Makes tensors of so many bytes, and remembers which."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.made: list[str] = []

    def get(self, key: str, size: int = 4) -> torch.Tensor:
        def compute() -> torch.Tensor:
            self.made.append(key)
            return torch.full((size // 4,), float(len(self.made)))

        return self.features.get(key, compute)


def test_a_tensor_is_computed_once() -> None:
    maker = Maker(Features())
    first = maker.get("a")
    assert maker.get("a") is first
    assert maker.get("b") is not first
    assert maker.made == ["a", "b"]


def test_the_least_recently_used_is_forgotten_first() -> None:
    maker = Maker(Features(limit=12))
    for key in ("a", "b", "c", "a", "d"):  # all fit but d: b was used least recently
        maker.get(key)
    assert maker.made == ["a", "b", "c", "d"]
    for key in ("a", "c", "d"):
        maker.get(key)
    assert maker.made == ["a", "b", "c", "d"]
    maker.get("b")
    assert maker.made == ["a", "b", "c", "d", "b"]


def test_the_limit_is_in_bytes() -> None:
    maker = Maker(Features(limit=16))
    maker.get("a", 4)
    maker.get("b", 4)
    maker.get("c", 16)  # takes the place of both
    maker.get("c", 16)
    assert maker.made == ["a", "b", "c"]
    maker.get("b")
    maker.get("a")
    assert maker.made == ["a", "b", "c", "b", "a"]


@pytest.mark.parametrize(("dtype", "bytes"), [(torch.uint8, 1), (torch.float32, 4)])
def test_the_type_counts(dtype: torch.dtype, bytes: int) -> None:
    features, made = Features(limit=8), []
    for key in "abcabc":
        features.get(key, lambda key=key: made.append(key) or torch.zeros(2, dtype=dtype))  # type: ignore[func-returns-value]
    assert len(made) == (3 if bytes == 1 else 6)


def test_the_newest_is_kept_even_if_it_alone_is_too_big() -> None:
    maker = Maker(Features(limit=10))
    maker.get("a", 4)
    big = maker.get("big", 40)
    assert maker.get("big", 40) is big
    maker.get("a", 4)
    assert maker.made == ["a", "big", "a"]
    maker.get("big", 40)
    assert maker.made == ["a", "big", "a", "big"]


def test_nothing_is_kept_of_a_failure() -> None:
    maker = Maker(Features())
    with pytest.raises(ZeroDivisionError):
        maker.features.get("a", lambda: torch.zeros(1 // 0))
    assert maker.get("a").tolist() == [1.0]
