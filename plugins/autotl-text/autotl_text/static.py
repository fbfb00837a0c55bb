"""Static embeddings as a cheap backbone: the mean of vectors that do not depend on the context."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotl import Weights, backbone
from autotl.errors import WeightsError

from .kind import text
from .packaged import DEFAULT_SIZE, Packaged, expect, match, refuse_others, require_size
from .tokens import SpecialTokens, Tokens, load_tokens

if TYPE_CHECKING:
    from torch import Tensor, nn

WORDLLAMA = Packaged("wordllama", "mit")
WORDLLAMA_256 = "wordllama-256"
VECTORS_FILE = "l2_supercat_256.safetensors"
TOKENIZER_FILE = "l2_supercat_tokenizer_config.json"
PAD = 0
"""The id of the unknown token, which a tokenizer that falls back to bytes never gives."""


def members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """List the embeddings that ``patterns`` match; all without any.

    Raises:
        PluginError: A name resembles that of a member.
    """
    return match(patterns or [WORDLLAMA_256], [WORDLLAMA_256])


def refuse(pattern: str) -> None:
    """Refuse a pattern that matches no member.

    Raises:
        PluginError: It matches none.
    """
    refuse_others(pattern, [WORDLLAMA_256])


def locate(name: str, folder: Path | None) -> Weights:
    """Find the vectors in their package.

    Args:
        name: One of ``members``.
        folder: Not used.

    Raises:
        WeightsError: The package is not installed.
    """
    file = _find(VECTORS_FILE)
    return Weights(WORDLLAMA.origin, WORDLLAMA.licence, file, _load_vectors(file).numel())


def _find(name: str) -> Path:
    file = WORDLLAMA.find(name)
    if file is None:
        raise WeightsError(WORDLLAMA.missing)
    return file


@functools.cache
def _load_vectors(file: Path) -> Tensor:
    """The vectors of all tokens ``float32 [V, F]``, which are not to be changed."""
    from safetensors.torch import load_file

    return load_file(file)["embedding.weight"].float()


@backbone(name="word_embeddings", input=text.name, members=members, locate=locate, refuse=refuse)
def static_embeddings(
    name: str, weights: Weights | None = None, size: int | None = None, saved: Path | None = None
) -> nn.Module:
    """The mean of the vectors of tokens (WordLlama: Miller 2024, github.com/dleemiller/WordLlama).

    Args:
        name: One of ``members``.
        weights: From ``locate``; None for random weights.
        size: Number of tokens of a text; 128 by default.
        saved: The folder of a saved model, from which it is built with random weights.

    Returns:
        ``ids int [B, size] -> features [B, 256]``.

    Raises:
        Incompatible: The size is too small.
        WeightsError: The package is not installed, or the saved files are damaged.
    """
    from torch import nn

    from .networks import StaticEmbeddings

    tokens = load_tokens(saved, size) if saved else _make_tokens(size or DEFAULT_SIZE)
    shape = (int(tokens.configuration[key]) for key in ("vectors", "width"))
    network = StaticEmbeddings(tokens.special.pad, *shape)
    if weights is not None and weights.file is not None:
        network.embedding.weight = nn.Parameter(_load_vectors(weights.file).clone())
    return expect(network, tokens)


@functools.lru_cache(maxsize=8)
def _make_tokens(size: int) -> Tokens:
    """The input; the same object for the same size, because it never changes."""
    require_size(WORDLLAMA_256, size)
    state = json.loads(_find(TOKENIZER_FILE).read_text(encoding="utf-8"))
    state["post_processor"] = None  # which adds a token that is the same in all texts
    reserved = tuple(sorted({PAD, *(t["id"] for t in state["added_tokens"] if t["special"])}))
    vectors, width = _load_vectors(_find(VECTORS_FILE)).shape
    configuration = {"vectors": vectors, "width": width}
    return Tokens(json.dumps(state), SpecialTokens(PAD, PAD, reserved), size, configuration)
