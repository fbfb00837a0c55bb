"""Backbones: the classifiers of torchvision, ``torchvision:NAME``, without their last layer.

torch and torchvision are imported inside the functions, so that listing plugins stays fast.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.errors import OtherFamily, PluginError, WeightsError, did_you_mean
from autotl.space.plugin import Weights, backbone

from .backbones import is_reachable

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "torchvision:"

SUFFIXES = (".safetensors", ".pth", ".pt")

TRUNKS = ("features", "layers", "trunk_output", "blocks")
"""Attributes with the layers of a network, where it has not the layers themselves."""

AUXILIARY = ("aux", "AuxLogits.")
"""The beginnings of tensors of classifiers in the middle, which only train the network."""


def members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    """List the models that ``patterns`` match, in their order; without patterns none.

    Args:
        patterns: ``torchvision:NAME``, which may have ``*`` and ``?``.
        device: Not used.
        seconds: Not used.

    Raises:
        PluginError: torchvision has no such model.
    """
    names: list[str] = []
    for pattern in patterns:
        refuse(pattern)
        name = pattern.removeprefix(PREFIX)
        names += [PREFIX + n for n in fnmatch.filter(sorted(read_names()), name)]
    return list(dict.fromkeys(names))


def refuse(pattern: str) -> None:
    """Refuse a pattern that matches nothing in torchvision's sources, which are not imported.

    Raises:
        PluginError: torchvision has no such model.
    """
    name = pattern.removeprefix(PREFIX)
    if name == pattern:
        raise OtherFamily(f"models of torchvision are named {PREFIX}NAME, not {pattern!r}")
    if names := read_names():
        if not fnmatch.filter(names, name):
            near = did_you_mean(pattern, [PREFIX + n for n in names])
            raise PluginError(f"torchvision has no model {name!r}; {near}")
    else:
        raise PluginError(f"{pattern} needs torchvision: pip install torchvision")


@functools.cache
def read_names() -> frozenset[str]:
    """The names of torchvision's classifiers in its sources; empty if it is not installed."""
    spec = find_spec("torchvision")
    if spec is None or not spec.origin:
        return frozenset()
    files = Path(spec.origin).with_name("models").glob("*.py")
    text = "".join(file.read_text("utf-8") for file in files)
    pattern = r"^@register_model\(.*\)\n(?:@.*\n)*def (\w+)\("
    return frozenset(re.findall(pattern, text, re.MULTILINE))


def locate(name: str, folder: Path | None) -> Weights:
    """Find the source of the pretrained weights of a model; downloads nothing.

    Looks in ``folder``, in the cache of torch's downloads, and tests whether the site of the
    weights can be reached.

    Args:
        name: One of ``members``.
        folder: Contains ``torchvision/NAME.safetensors`` or ``NAME.safetensors`` (or ``.pth``,
            ``.pt``), where ``NAME`` is without ``torchvision:``.

    Raises:
        WeightsError: ``folder`` does not exist, or the weights are found nowhere.
    """
    return replace(_find_weights(name, folder), parameters=_count_parameters(name))


def _find_weights(name: str, folder: Path | None) -> Weights:
    """The result of ``locate`` without the number of parameters."""
    import torch

    short = name.removeprefix(PREFIX)
    failed = []
    if folder is not None:
        if not folder.is_dir():
            raise WeightsError(f"the folder of weights {str(folder)!r} does not exist")
        for file in (folder / p / (short + s) for p in ("torchvision", "") for s in SUFFIXES):
            if file.is_file():
                return Weights(f"file {file}", file=file)
        failed.append(f"no {short}.safetensors in {folder}")
    default = _default_weights(name)
    # torchvision itself is BSD-3-Clause, but only some of its weights have a licence.
    licence = str(default.meta.get("license", "unknown"))
    cached = Path(torch.hub.get_dir(), "checkpoints", default.url.rpartition("/")[2])
    if cached.is_file():
        return Weights(f"cache {default.url}", licence, cached)
    if is_reachable(default.url):
        return Weights(default.url, licence)
    failed.append("not in the cache of torch, and download.pytorch.org cannot be reached")
    raise WeightsError(
        f"{', '.join(failed)}; download {default.url} elsewhere and put it into a folder as "
        f"{short}.pth, which you name with --weights"
    )


def _default_weights(name: str) -> Any:
    """The pretrained weights that torchvision recommends, with their preprocessing."""
    from torchvision import models

    return models.get_model_weights(name.removeprefix(PREFIX)).DEFAULT


@functools.cache
def _count_parameters(name: str) -> int:
    """Count the parameters of a model without its classifier, without memory for its tensors."""
    import torch

    with torch.device("meta"):
        network, _ = _build(name, _default_weights(name).transforms().crop_size[0])
    return sum(p.numel() for p in network.parameters())


@backbone(
    name="torchvision",
    members=members,
    locate=locate,
    refuse=refuse,
    requires=["torchvision>=0.21"],
)
def torchvision_model(
    name: str, weights: Weights | None, size: int | None, in_chans: int = 3
) -> nn.Module:
    """Any classifier of torchvision without its last layer (Paszke et al. 2019, arXiv:1912.01703).

    Args:
        name: One of ``members``.
        weights: From ``locate``; None for random weights.
        size: Side of the input images in pixels; None for the model's own.
        in_chans: Number of channels of the images.

    Returns:
        ``images [B, in_chans, size, size] -> features [B, width]``, in training mode, with timm's
        interface.

    Raises:
        Incompatible: The model does not accept images of that size.
        WeightsError: The weights cannot be downloaded or read, or belong to another model.
    """
    from .torchvision_network import TorchvisionBackbone
    from .wrapped import change_channels, refuse_size

    transforms = _default_weights(name).transforms()
    size = size or transforms.crop_size[0]
    with refuse_size(name, size):
        network, classifier = _build(name, size)
    if weights is not None:
        _load(network, classifier, name, weights, size)
    change_channels(network, name, in_chans)
    if in_chans != 3 and hasattr(network, "transform_input"):
        vars(network)["transform_input"] = False  # it is for three channels
    with refuse_size(name, size):
        model = TorchvisionBackbone(network, TRUNKS, in_chans, size)
    model.pretrained_cfg = {
        "input_size": (in_chans, size, size),
        "mean": tuple(transforms.mean),
        "std": tuple(transforms.std),
        "interpolation": transforms.interpolation.value,
    }
    return model


def _build(name: str, size: int) -> tuple[nn.Module, str]:
    """Build a model with random weights, and an identity in the place of its last layer.

    Returns:
        The network, and the name of the layer.
    """
    from torch import nn
    from torchvision import models

    short = name.removeprefix(PREFIX)
    options: Mapping[str, Any] = {}
    if short.startswith("vit_"):
        options = {"image_size": size}
    elif short.startswith("maxvit"):
        options = {"input_size": (size, size)}
    elif short in ("googlenet", "inception_v3"):
        # The pretrained weights expect other means than those of ImageNet.
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    network: nn.Module = models.get_model(short, weights=None, **options)
    layers = network.named_modules()
    last = [n for n, module in layers if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    network.set_submodule(last, nn.Identity())
    return network, last


def _load(network: nn.Module, classifier: str, name: str, weights: Weights, size: int) -> None:
    """Load weights, of which only the classifiers may be left over, without executing code.

    Raises:
        WeightsError: They cannot be downloaded or read, or belong to another model.
    """
    try:
        state = _read_state(weights)
    except Exception as e:  # of the network, or of an arbitrary file
        reason = textwrap.shorten(str(e) or type(e).__name__, 200)
        raise WeightsError(
            f"{name} cannot be read from {weights.origin}: {reason}; replace the file, or put "
            "another one into a folder and name it with --weights"
        ) from e
    try:
        # DenseNet's old files have names that torchvision itself converts.
        state = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", k): t for k, t in state.items()}
        left_over = (f"{classifier}.", *AUXILIARY)
        state = {k: t for k, t in state.items() if not k.startswith(left_over)}
        if name.startswith(f"{PREFIX}vit_"):
            state = _resize_positions(network, state, size)
        network.load_state_dict(state)
    except Exception as e:  # what torch raises has a line for each tensor
        reason = textwrap.shorten(str(e).replace("\n", " ") or type(e).__name__, 200)
        raise WeightsError(
            f"{weights.origin} is not a weights file for {name}; replace or remove it: {reason}"
        ) from e


def _read_state(weights: Weights) -> Mapping[str, Tensor]:
    """Read the tensors of a file, or of a download."""
    import torch
    from safetensors.torch import load_file

    if weights.file is None:
        state: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            weights.origin, map_location="cpu", progress=False, weights_only=True
        )
        return state
    if weights.file.suffix == ".safetensors":
        return load_file(weights.file)
    state = torch.load(weights.file, map_location="cpu", weights_only=True)
    return state


def _resize_positions(network: Any, state: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Interpolate the embeddings of positions for images of another size."""
    from collections import OrderedDict

    from torchvision.models.vision_transformer import interpolate_embeddings

    return dict(interpolate_embeddings(size, network.patch_size, OrderedDict(state)))
