"""Models of the library transformers: where their files are, and loading without running code.

Only safetensors are read, never pickles, and no code that comes with a model is executed. Families
of backbones share this; libraries are imported inside the functions.
"""

from __future__ import annotations

import functools
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autotl.errors import PluginError, WeightsError
from autotl.space.plugin import Weights

HUB = "hf:"
"""The beginning of the names of models of the Hugging Face hub and of models in folders."""

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json")


def is_folder(name: str) -> bool:
    """Whether a name without ``hf:`` is the path of a folder."""
    return name.startswith((".", "/", "~")) or "\\" in name or name[1:2] == ":"


def refuse_name(pattern: str) -> None:
    """Refuse what begins with ``hf:`` and is neither a valid name of the hub nor a folder.

    Raises:
        PluginError: It is neither.
    """
    name = pattern.removeprefix(HUB)
    if not is_folder(name) and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise PluginError(
            f"{pattern} is not a name of a model of the hub, such as hf:distilroberta-base, nor "
            "a folder, such as hf:./my_model"
        )


def find_weights(name: str, folder: Path | None, failed: Sequence[str] = ()) -> Weights:
    """Find the weights of a model; downloads no weights.

    Args:
        name: Its name without ``hf:``, or a folder.
        folder: May contain a folder of that name; looked into first.
        failed: Where they were looked for before, for the error.

    Raises:
        WeightsError: They are found nowhere, or files are missing.
    """
    if folder is not None and not is_folder(name):
        if (folder / name / CONFIG_FILE).is_file():
            return read_folder(folder / name)
        failed = [f"no folder {name!r} in {folder}", *failed]
    if is_folder(name):
        return read_folder(Path(name).expanduser())
    return find_on_hub(name, failed)


def read_folder(folder: Path) -> Weights:
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


def find_on_hub(repo: str, failed: Sequence[str]) -> Weights:
    """The weights in the cache of the hub, or on the hub.

    Args:
        repo: The name of the model.
        failed: Where they were looked for before, for the error.

    Raises:
        WeightsError: They are found nowhere.
    """
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
        licence = ask_licence(repo)
    except RepositoryNotFoundError:
        raise WeightsError(f"the Hugging Face hub has no model {repo!r}; check the name") from None
    except Exception as error:  # of the network, in the ways of several libraries
        raise WeightsError(
            ", ".join([*reasons, f"and the hub cannot be reached ({type(error).__name__})"])
        ) from error
    return Weights(f"hub {repo}", licence)


@functools.cache
def ask_licence(repo: str) -> str:
    """Ask the hub for the licence of a model."""
    from huggingface_hub import model_info

    card: Any = model_info(repo, timeout=5).card_data
    return str(getattr(card, "license", None) or "unknown")


def find_source(name: str, weights: Weights | None) -> str:
    """Where transformers loads a model from: a folder, or a name of the hub.

    Args:
        name: The name without ``hf:``.
        weights: From ``find_weights``; None if there are none.
    """
    if weights is None:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    return str(weights.file.parent) if weights.file else weights.origin.removeprefix("hub ")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and progress bars of transformers and of downloads."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    downloads = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
        if downloads:
            enable_progress_bars()


@contextmanager
def explain_failure(source: str, nouns: str, advice: str) -> Iterator[None]:
    """Turn what a damaged or missing model raises into an error that says what to do.

    Args:
        source: Where the model is.
        nouns: What it should be an encoder of.
        advice: What can be given instead.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # an arbitrary model may raise anything
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise WeightsError(
            f"{source} cannot be used as an encoder of {nouns}: {reason}; {advice}"
        ) from error


def load_model(source: str, configuration: Any) -> Any:
    """Load the pretrained weights of a model, without a pooling layer if it may have one.

    Raises:
        WeightsError: The weights are incomplete.
    """
    import torch

    model, report = _without_pooling(
        "from_pretrained",
        source,
        config=configuration,
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = [*sorted(report["missing_keys"]), *report["mismatched_keys"]]
    if missing:
        raise WeightsError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model


def build_model(configuration: Any) -> Any:
    """Build a model with random weights, by torch's random numbers."""
    return _without_pooling("from_config", configuration, trust_remote_code=False)


def _without_pooling(method: str, *args: Any, **options: Any) -> Any:
    """Call a method of AutoModel, for a model without a pooling layer if it may have one."""
    from transformers import AutoModel

    try:
        return getattr(AutoModel, method)(*args, add_pooling_layer=False, **options)
    except TypeError:  # this architecture never has one, and does not know the option
        return getattr(AutoModel, method)(*args, **options)
