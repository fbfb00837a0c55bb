"""Files of weights for timm's models: where they are in a folder, and how they are loaded.

A folder of weights has files that are named like the backbones. Beside those of timm and of other
authors they may be those of ``autotl pretrain``, whose header says how they were trained. The model
folder of a finished search is a folder with the weights of its backbone.

timm and torch are imported inside the functions, so that listing plugins stays fast.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.errors import WeightsError
from autotl.space.plugin import Weights

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")

PREFIXES = ("source:", "scratch:")
"""The beginnings of names of backbones that are models of timm, see ``initial_weights``."""

BACKBONE, HEAD = "backbone.", "head."
"""The beginnings of the names of all tensors in a model folder."""


def find_in_folder(stems: Sequence[str], folder: Path, licence: str) -> Weights | None:
    """Find the weights of a model in a folder.

    Args:
        stems: What its files may be called without their suffix, the first one first.
        folder: The folder.
        licence: Their licence, unless they say it themselves.

    Returns:
        The weights; None if there are none.

    Raises:
        WeightsError: The folder does not exist, or is that of a model of several backbones.
    """
    if not folder.is_dir():
        raise WeightsError(f"the folder of weights {str(folder)!r} does not exist")
    for stem in stems:
        for path in [stem + s for s in SUFFIXES] + [f"{stem}/{f}" for f in HUB_FILES]:
            if (file := folder / path).is_file():
                return _describe(file, licence)
    return _find_model(stems[0].partition(".")[0], folder)


def _describe(file: Path, licence: str) -> Weights:
    """The weights in a file, with what its header says about them."""
    from autotl.artifact.weights_folder import read_facts

    facts = read_facts(file)
    if not facts:
        return Weights(f"file {file}", licence, file)
    size = facts.get("image_size")
    method = facts.get("method", "supervised")
    how = "" if method == "supervised" else f" by {method} without labels"
    origin = f"file {file}, trained{how} on {facts.get('source', 'unknown data')}"
    return Weights(
        origin,
        str(facts.get("licence", "unknown")),
        file,
        size=size if isinstance(size, int) else None,
    )


def _find_model(architecture: str, folder: Path) -> Weights | None:
    """The weights of the backbone in a model folder; None if it has none of this architecture.

    Raises:
        WeightsError: It has several backbones.
    """
    from autotl.artifact.replacement import is_model_config

    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    file = folder / "model.safetensors"
    if not is_model_config(content) or not file.is_file():
        return None
    if content.get("members"):
        raise WeightsError(
            f"the model in {folder} is an ensemble of several backbones; give the folder of a "
            "single model"
        )
    own = next(iter(content["backbone"]), "") if isinstance(content["backbone"], dict) else ""
    plain = next((own.removeprefix(p) for p in PREFIXES if own.startswith(p)), own)
    if plain.partition(".")[0] != architecture:
        return None
    weights, expects = content.get("weights"), content["input"]
    licence = weights.get("licence") if isinstance(weights, dict) else None
    size = expects.get("size") if isinstance(expects, dict) else None
    return Weights(
        f"model {folder}",
        licence if isinstance(licence, str) else "unknown",
        file,
        size=size if isinstance(size, int) else None,
    )


def load_file(
    model: Any, name: str, file: Path, in_chans: int = 3, *, is_renamed: bool = False
) -> None:
    """Load the weights in ``file`` into ``model``, without executing code from it.

    Those of the first layer are changed for images of another number of channels, and of those of a
    model folder only the backbone's are loaded.

    timm's own loader accepts any file for a model without a classifier and leaves missing tensors
    random; here every tensor must be in the file, and only a classifier may be left over.

    Args:
        model: The model without a classifier.
        name: Its name in timm.
        file: The file.
        in_chans: Number of channels of the images that the model takes.
        is_renamed: Whether the tensors may have other names, in the same order.

    Raises:
        WeightsError: The file cannot be read or belongs to another model.
    """
    from timm.models import load_state_dict, model_entrypoint

    try:
        state = load_state_dict(str(file), weights_only=True)
        if state and all(key.startswith((BACKBONE, HEAD)) for key in state):
            own_keys = (key for key in state if key.startswith(BACKBONE))
            state = {key.removeprefix(BACKBONE): state[key] for key in own_keys}
        if is_renamed:
            own = model.state_dict() if in_chans == 3 else _to_rgb(model)
            state = _rename_tensors(state, own)
        # By timm's convention, it converts the files of the original authors.
        module = sys.modules[model_entrypoint(name).__module__]
        convert = getattr(module, "checkpoint_filter_fn", lambda state, model: state)
        state = convert(state, model)
        state = _adapt_first_layers(model, state, in_chans)
        result = model.load_state_dict(state, strict=False)
    except Exception as e:  # an arbitrary file may raise anything
        reason = textwrap.shorten(str(e) or type(e).__name__, 200)
        raise WeightsError(
            f"{str(file)!r} is not a weights file for {name}; replace or remove it: {reason}"
        ) from e
    heads = model.pretrained_cfg.get("classifier") or ()
    prefixes = {h.partition(".")[0] for h in ([heads] if isinstance(heads, str) else heads)}
    unexpected = [k for k in result.unexpected_keys if k.partition(".")[0] not in prefixes]
    if wrong := result.missing_keys or unexpected:
        reason = f"{'no' if result.missing_keys else 'an unexpected'} tensor {wrong[0]!r}"
        raise WeightsError(
            f"{str(file)!r} is not a weights file for {name}: it has {reason}; replace or remove it"
        )


def _find_first_layers(model: Any) -> list[str]:
    """The names of the weights of the first layers, which depend on the channels of the images."""
    names = model.pretrained_cfg.get("first_conv") or ()
    return [f"{name}.weight" for name in ([names] if isinstance(names, str) else names)]


def _to_rgb(model: Any) -> dict[str, Tensor]:
    """The tensors of a model, those of its first layers with the shape for images in RGB."""
    own: dict[str, Tensor] = model.state_dict()
    first = {k: own[k] for k in _find_first_layers(model) if k in own and own[k].ndim == 4}
    return {**own, **{k: t[:, :1].expand(-1, 3, -1, -1) for k, t in first.items()}}


def _adapt_first_layers(model: Any, state: dict[str, Tensor], in_chans: int) -> dict[str, Tensor]:
    """Change the weights of the first layers as timm does for images of other channels.

    Those for grey images are repeated, so that a grey image in colour has the same features.
    """
    from timm.models import adapt_input_conv

    adapted = dict(state)
    for key in _find_first_layers(model):
        own = state.get(key)
        if own is None or own.ndim != 4 or own.shape[1] == in_chans:
            continue
        if own.shape[1] == 1:
            adapted[key] = own.expand(-1, in_chans, -1, -1) / in_chans
        elif in_chans != 3:
            adapted[key] = adapt_input_conv(in_chans, own)
    return adapted


def _rename_tensors(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of ``state`` to those of ``own``, if types and shapes agree in order."""

    def signature(tensors: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        return [(k.rpartition(".")[2], tuple(t.shape)) for k, t in tensors.items()][: len(own)]

    is_renamed = own.keys().isdisjoint(state) and signature(state) == signature(own)
    return dict(zip(own, state.values(), strict=False)) if is_renamed else state
