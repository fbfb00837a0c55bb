"""Augmentations of texts: they map token ids ``int [B, L]`` to the same shape, on their device.

Separators and padding are never changed. Each text is changed differently, by the random numbers
that ``uniform`` draws for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from autotl import Incompatible, Range, Uniform, augment

from .kind import text
from .tokens import Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from autotl import ModelInput

Transform = Callable[["Tensor"], "Tensor"]

Fraction = Annotated[float, Range(0.05, 0.35, step=0.1)]
"""Few values, so that trials share the cached features of augmented texts."""


@augment(input=text.name)
def token_dropout(expects: ModelInput, uniform: Uniform, *, fraction: Fraction = 0.15) -> Transform:
    """Replace a fraction of the tokens by the mask (Iyyer et al. 2015, doi:10.3115/v1/P15-1162)."""
    tokens = _require_tokens(expects)

    def transform(ids: Tensor) -> Tensor:
        chosen = _choose(ids, tokens, uniform, fraction)
        return ids.masked_fill(chosen, tokens.special.replacement)

    return transform


@augment(input=text.name)
def token_deletion(
    expects: ModelInput, uniform: Uniform, *, fraction: Fraction = 0.15
) -> Transform:
    """Delete a fraction of the tokens (EDA: Wei & Zou 2019, arXiv:1901.11196)."""
    tokens = _require_tokens(expects)

    def transform(ids: Tensor) -> Tensor:
        chosen = _choose(ids, tokens, uniform, fraction)
        order = chosen.int().argsort(dim=1, stable=True)  # deleted tokens last
        return ids.masked_fill(chosen, tokens.special.pad).gather(1, order)

    return transform


def _require_tokens(expects: ModelInput) -> Tokens:
    if not isinstance(expects, Tokens):
        raise Incompatible("the backbone takes no tokens of this package; choose no augmentation")
    return expects


def _choose(ids: Tensor, tokens: Tokens, uniform: Uniform, fraction: float) -> Tensor:
    """Choose tokens, ``bool [B, L]``: none of a text of which all would be chosen."""
    import torch

    values = torch.tensor(tokens.special.reserved, dtype=ids.dtype)
    reserved = values.to(ids.device, non_blocking=ids.is_cuda)  # without waiting for a GPU
    is_word = torch.isin(ids, reserved, invert=True)
    chosen: Tensor = (uniform(ids, ids.shape[1]) < fraction) & is_word
    return chosen & (chosen != is_word).any(1, keepdim=True)
