"""An image encoder of transformers as a backbone; the plugin imports this when it builds one.

Shapes: B images in a batch, C channels, S the side in pixels, F features, T tokens.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.image_processing_base import ImageProcessingMixin

from autotl.data import ImageInput, match_channels
from autotl.errors import Incompatible, WeightsError

from .hub import CONFIG_FILE, build_model, explain_failure, load_model, quiet
from .wrapped import WrappedBackbone, change_channels, find_stages, record_outputs, refuse_size

LOADED_AT_ONCE = 4
"""Number of models that stay in memory, from which backbones are copied."""

DEFAULT_SIZE = 224
"""Side of the images of models that name none, in pixels."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Those of ImageNet, for models that name none."""


class Pretrained(NamedTuple):
    """A model, which is to be copied, its configuration, and that of its preprocessing."""

    network: nn.Module
    configuration: Any
    preprocessing: Mapping[str, Any]


@dataclass(frozen=True)
class EncoderInput(ImageInput):
    """The images of an encoder, and the configuration from which it is built, values of JSON."""

    configuration: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def save(self, folder: Path) -> None:
        """Write the configuration."""
        text = json.dumps(self.configuration, indent=1)
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")

    def describe(self) -> dict[str, Any]:
        """The fields, as ``config.json`` has them for images."""
        return {name: v for name, v in super().describe().items() if name != "configuration"}


class HfBackbone(WrappedBackbone):
    """``images [B, C, S, S] -> features [B, F]``.

    Args:
        network: The encoder.
        in_chans: Number of channels C.
        size: Side of the images S; one of them is computed, to find the stages.
        configuration: The configuration of the encoder.

    Attributes:
        expects: The input; set by ``make_backbone``.
    """

    expects: EncoderInput

    def __init__(self, network: nn.Module, in_chans: int, size: int, configuration: Any) -> None:
        super().__init__(network)
        parameters = inspect.signature(network.forward).parameters
        own = _read_side(getattr(configuration, "image_size", None))
        self._options = (
            {"interpolate_pos_encoding": True}
            if "interpolate_pos_encoding" in parameters and size != own
            else {}
        )
        self._by_mean = bool(getattr(configuration, "use_mean_pooling", False))
        images = torch.linspace(0, 1, in_chans * size * size).view(1, in_chans, size, size)
        layers = _find_layers(self)
        with torch.no_grad(), record_outputs(self.eval(), layers) as outputs:
            _, features = self.run(images)
        if features.ndim == 3:
            side = _read_side(getattr(configuration, "patch_size", None))
            positions = (size // side) ** 2 if side else 0
            if not 0 < positions <= features.shape[1]:
                positions = math.isqrt(features.shape[1]) ** 2
            self.num_prefix_tokens = features.shape[1] - positions
        self.num_features = features.shape[-1 if features.ndim == 3 else 1]
        self.feature_info = find_stages(outputs)
        with torch.no_grad():
            pooled, repeated = self.run(images)[0], self.run(images)[0]
        if not torch.equal(pooled, repeated):
            raise Incompatible("the model hides random parts of images, as in its own training")
        self.head_hidden_size = pooled.shape[1]
        self.train()

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features, and the map or the tokens."""
        output = self.network(images, **self._options)
        features: Tensor = output.last_hidden_state
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1), features
        if features.ndim == 4:
            return features.mean((2, 3)), features
        if self.num_prefix_tokens and not self._by_mean:
            return features[:, 0], features
        return features[:, self.num_prefix_tokens :].mean(1), features


def _find_layers(model: nn.Module) -> list[str]:
    """The names of the layers in the outermost lists of layers."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    outermost = [n for n in lists if not any(n.startswith(f"{other}.") for other in lists)]
    return [
        f"{n}.{child}" for n in outermost for child, _ in model.get_submodule(n).named_children()
    ]


def make_backbone(loaded: Pretrained, name: str, size: int | None, in_chans: int) -> HfBackbone:
    """Copy a model and make it a backbone.

    Args:
        loaded: The model.
        name: Its name, for errors.
        size: Side of the images in pixels; None for the model's own.
        in_chans: Number of channels of the images.

    Raises:
        Incompatible: The model does not accept such images.
    """
    configuration, given = loaded.configuration, loaded.preprocessing
    vision = getattr(configuration, "vision_config", configuration)
    sides = (getattr(vision, "image_size", None), given.get("crop_size"), given.get("size"))
    size = size or next(filter(None, map(_read_side, sides)), DEFAULT_SIZE)
    network = copy.deepcopy(loaded.network)
    change_channels(network, name, in_chans, getattr(vision, "num_channels", 3))
    with refuse_size(name, size), quiet():
        model = HfBackbone(network, in_chans, size, vision)
    is_plain = not given.get("do_normalize", True)
    mean = (0.0,) if is_plain else given.get("image_mean") or MEAN
    std = (1.0,) if is_plain else given.get("image_std") or STD
    resampling = Image.Resampling(given.get("resample", Image.Resampling.BICUBIC))
    model.expects = EncoderInput(
        size,
        match_channels(mean, in_chans),
        match_channels(std, in_chans),
        resampling.name.lower(),
        in_chans,
        configuration.to_diff_dict(),
    )
    return model


def _read_side(size: Any) -> int | None:
    """The side in pixels in what configurations have for a size; None if there is none."""
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, list | tuple):
        size = size[0] if size else None
    return size if isinstance(size, int) and size > 0 else None


@functools.lru_cache(LOADED_AT_ONCE)
def load(source: str) -> Pretrained:
    """Load a model from a folder or from the hub; a second call returns the same object.

    Raises:
        WeightsError: It cannot be downloaded or read, its weights are incomplete, or it is no model
            of images.
    """
    with quiet(), _explain_failure(source):
        configuration = _load_configuration(source)
        encoder = _take_encoder(load_model(source, configuration))
        return Pretrained(encoder, configuration, _load_preprocessing(source))


def load_untrained(source: str) -> Pretrained:
    """Like ``load``, with random weights."""
    with quiet(), _explain_failure(source):
        configuration = _load_configuration(source)
        encoder = _take_encoder(build_model(configuration))
        return Pretrained(encoder, configuration, _load_preprocessing(source))


def count_parameters(source: str) -> int:
    """Count the parameters of a model without loading its weights."""
    with quiet(), _explain_failure(source):
        with torch.device("meta"):  # its tensors have no memory
            encoder = _take_encoder(build_model(_load_configuration(source)))
        return sum(p.numel() for p in encoder.parameters())


def _explain_failure(source: str) -> AbstractContextManager[None]:
    advice = "give a folder that save_pretrained of a model wrote, or another model"
    return explain_failure(source, "images", advice)


def _load_configuration(source: str) -> Any:
    return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _take_encoder(model: Any) -> nn.Module:
    """The encoder of images, without that of captions if the model has one.

    Raises:
        WeightsError: It takes no images.
    """
    encoder: nn.Module = getattr(model, "vision_model", model)
    if "pixel_values" not in inspect.signature(encoder.forward).parameters:
        raise WeightsError(f"{type(model).__name__} takes no images")
    return encoder


def _load_preprocessing(source: str) -> Mapping[str, Any]:
    """The configuration of the preprocessing; empty if a model has none."""
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        return {}
    return dict(settings)
