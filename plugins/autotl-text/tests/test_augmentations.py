"""Augmentations change tokens of a text, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from autotl_text.augmentations import token_deletion, token_dropout
from autotl_text.backbones import transformer
from autotl_text.tokens import Tokens
from torch import Tensor

from autotl import Incompatible
from autotl.training.augmentation import UniformNumbers

PAD, MASK, SPECIAL = 0, 4, 5
TEXTS = ["cat dog bread rain piano liked with the a", "rain", "", "dog " * 100]


@pytest.fixture
def expects(encoder: Path) -> Tokens:
    network = transformer(f"hf:{encoder}", None, 16)
    assert isinstance(network.expects, Tokens)
    return network.expects


@pytest.fixture
def ids(expects: Tokens) -> Tensor:
    return torch.stack([torch.from_numpy(expects.encode(t)) for t in TEXTS])


def test_dropout_replaces_words_by_the_mask(expects: Tokens, ids: Tensor) -> None:
    torch.manual_seed(0)
    many, before = ids.repeat(200, 1), ids.clone()
    changed = token_dropout(expects, UniformNumbers("test"), fraction=0.25)(many)
    assert changed.dtype == ids.dtype
    assert torch.equal(many, before.repeat(200, 1))
    different = changed != many
    assert set(changed[different].tolist()) == {MASK}
    assert not different[many < SPECIAL].any()
    assert different[many >= SPECIAL].float().mean() == pytest.approx(0.25, abs=0.03)
    assert not different[1::4].any()  # the only word of a text stays


def test_deletion_moves_the_rest_up(expects: Tokens, ids: Tensor) -> None:
    torch.manual_seed(0)
    changed = token_deletion(expects, UniformNumbers("test"), fraction=0.35)(ids)
    assert not torch.equal(changed, ids)
    for before, after in zip(ids.tolist(), changed.tolist(), strict=True):
        count = sum(i != PAD for i in after)
        assert after[count:] == [PAD] * (16 - count)
        rest = iter(before)
        assert all(i in rest for i in after[:count])  # in the same order
        assert [i for i in after if 0 < i < SPECIAL] == [i for i in before if 0 < i < SPECIAL]


@pytest.mark.parametrize("plugin", [token_dropout, token_deletion])
def test_a_view_depends_on_the_text_alone(plugin: object, expects: Tokens, ids: Tensor) -> None:
    uniform = UniformNumbers("test")
    transform = plugin(expects, uniform, fraction=0.35)  # type: ignore[operator]
    with uniform.of_view(0, np.arange(4)):
        view = transform(ids)
    with uniform.of_view(0, np.array([3, 0])):
        assert torch.equal(transform(ids[[3, 0]]), view[[3, 0]])
    with uniform.of_view(1, np.arange(4)):
        assert not torch.equal(transform(ids), view)


def test_another_input_is_incompatible() -> None:
    with pytest.raises(Incompatible, match="no tokens of this package"):
        token_dropout(object(), UniformNumbers("test"))  # type: ignore[arg-type]
