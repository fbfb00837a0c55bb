"""Build the network of a configuration.

Shapes: B examples in a batch, S the side of an image in pixels, C classes, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autotl.data import ImageInput, device_memory, match_channels, to_channels_first
from autotl.errors import Incompatible, PluginError
from autotl.models import cpu_kernels
from autotl.models.device import Device
from autotl.models.model import Model, extract_features
from autotl.space.input_kind import ModelInput
from autotl.space.kinds import IMAGE_SIZE, HeadInput
from autotl.space.space import Choice, Config
from autotl.space.task import Task

ATTRIBUTES = ("size", "shape", "dtype", "key")
"""What a ``ModelInput`` must have."""


def build_model(
    config: Config,
    task: Task,
    size: int | None,
    device: Device,
    seed: int = 0,
    saved: Path | None = None,
) -> Model:
    """Build the network of a configuration on its device.

    Torch's global random state is the same afterwards as before.

    Args:
        config: Of which only the backbone and the head are used.
        task: What is predicted, which decides the number of logits.
        size: Size of the inputs, e.g. the side of images in pixels; None for the size that the
            backbone was trained on.
        device: The device to build it on.
        seed: Seed of the weights that are initialised at random, such as the head's.
        saved: The folder with the files that ``ModelInput.save`` wrote; None for a new model.

    Returns:
        The model, its 4-D weights in channels_last.

    Raises:
        Incompatible: The backbone does not accept inputs of this size, or has no features of the
            kind that the head takes, or a plugin raises it.
        PluginError: The backbone or the head breaks its contract.
    """
    backbone, expects = build_backbone(config["backbone"], size, seed, saved)
    name, head_input = config["backbone"].name, config["head"].plugin.takes
    features = _count_features(backbone, head_input, expects, name)
    head = _build_head(config["head"], features, task.num_logits, expects, seed)
    model = Model(backbone, head, expects, head_input, task)
    if device.torch_device.type == "cpu":
        cpu_kernels.apply_workarounds(model, bfloat16=device.autocast is not None)
    model = model.to(device.torch_device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:  # Module.to() refuses this layout for other tensors
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def build_backbone(
    choice: Choice, size: int | None, seed: int = 0, saved: Path | None = None
) -> tuple[nn.Module, ModelInput]:
    """Build a backbone on the CPU; for the arguments see ``build_model``.

    Returns:
        The backbone, and the input that it was trained on.

    Raises:
        Incompatible: The backbone does not accept inputs of this size.
        PluginError: The backbone breaks its contract.
    """
    backbone = _call_plugin(choice, {"size": size, "saved": saved}, seed)
    return backbone, _find_input(backbone, choice, size)


def replace_head(model: Model, choice: Choice, seed: int = 0) -> Model:
    """Build another model with the same backbone object and a new head, for frozen backbones.

    Torch's global random state is the same afterwards as before.

    Args:
        model: The model whose backbone and preprocessing are used.
        choice: A head that takes the same features as the model's head.
        seed: Seed of the head's weights.

    Raises:
        PluginError: The head breaks its contract.
    """
    backbone, expects, head_input = model.backbone, model.expects, model.head_input
    features = _count_features(backbone, head_input, expects, "the backbone")
    head = _build_head(choice, features, model.task.num_logits, expects, seed)
    return Model(backbone, head, expects, head_input, model.task).to(model.device)


def _count_features(backbone: Any, head_input: HeadInput, expects: ModelInput, name: str) -> int:
    """The number F of features that a head takes from each image or position.

    Raises:
        Incompatible: The backbone has no map or no stages.
    """
    if head_input == "features":
        width: int = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        return width
    training = backbone.training
    try:
        with torch.no_grad(), _seeded(0):
            first = next(chain(backbone.parameters(), backbone.buffers()), torch.empty(0))
            features = extract_features(
                backbone.eval(), _prepare_blank(expects, first.device), head_input
            )
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        if device_memory.is_out_of_memory(error):
            raise
        raise Incompatible(
            f"{name} gives its head no {head_input} ({error}); choose another head or backbone"
        ) from error
    finally:
        backbone.train(training)
    return features.shape[-1]


def count_features(model: Model) -> int:
    """The number F of features that the head of a model takes from each example or position."""
    return _count_features(model.backbone, model.head_input, model.expects, "the backbone")


def _build_head(
    choice: Choice, features: int, classes: int, expects: ModelInput, seed: int
) -> nn.Module:
    context = {"features": features, "classes": classes, "padding": expects.has_padding}
    return _call_plugin(choice, context, seed)


def _call_plugin(choice: Choice, context: Mapping[str, Any], seed: int) -> nn.Module:
    """Call a backbone or head plugin with torch seeded, and check that it returns a module."""
    with _seeded(seed):
        module = choice.plugin.call(context, choice.params)
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"{choice.plugin.kind} plugin {choice.name!r} returned "
            f"{type(module).__name__}; it must return a torch.nn.Module"
        )
    return module


def _prepare_blank(expects: ModelInput, device: torch.device) -> Tensor:
    """A prepared batch of one blank example."""
    preprocessing = expects.make_preprocessing() or nn.Identity()
    prepared: Tensor = preprocessing.to(device)(blank_batch(expects, 1, device))
    return prepared


def blank_batch(expects: ModelInput, count: int, device: torch.device) -> Tensor:
    """Blank encoded examples ``[count, ...]`` on a device, for measurements.

    Zeros may stand for nothing, such as the padding of a text, so other inputs are of ones.
    """
    dtype = torch.from_numpy(np.empty(0, expects.dtype)).dtype
    value = 0 if isinstance(expects, ImageInput) else 1
    shape = (count, *expects.shape)
    return to_channels_first(torch.full(shape, value, dtype=dtype, device=device))


def _find_input(backbone: nn.Module, choice: Choice, size: int | None) -> ModelInput:
    """The input that a backbone names in ``expects``, or that of images.

    Raises:
        PluginError: It has neither, or is of another kind than the plugin says.
    """
    expects = getattr(backbone, "expects", None)
    if expects is None:
        return _read_image_input(backbone, choice.params.get(IMAGE_SIZE, size), choice.name)
    if not isinstance(expects, ModelInput) or expects.kind != choice.plugin.input:
        raise PluginError(
            f"backbone {choice.name!r}: its attribute expects is not an autotl.ModelInput of the "
            f"kind {choice.plugin.input!r}, which its decorator names"
        )
    for owner, name in ((backbone, "num_features"), *((expects, n) for n in ATTRIBUTES)):
        if not hasattr(owner, name):
            where = "" if owner is backbone else "expects."
            raise PluginError(f"backbone {choice.name!r} has no attribute {where}{name}; set it")
    return expects


def _read_image_input(backbone: nn.Module, size: int | None, name: str) -> ImageInput:
    """Read the preprocessing of images from timm's ``pretrained_cfg``.

    Raises:
        PluginError: The backbone does not implement timm's interface.
    """
    config: Any = getattr(backbone, "pretrained_cfg", None)
    if not isinstance(config, Mapping) and config is not None:
        config = config.to_dict()
    if not config or "input_size" not in config or not hasattr(backbone, "num_features"):
        raise PluginError(
            f"backbone {name!r} does not implement timm's interface: it needs num_features and a "
            "pretrained_cfg with input_size, mean and std"
        )
    channels = int(config["input_size"][0])
    return ImageInput(
        int(size or config["input_size"][-1]),
        match_channels(config.get("mean", (0.485, 0.456, 0.406)), channels),
        match_channels(config.get("std", (0.229, 0.224, 0.225)), channels),
        config.get("interpolation", "bicubic"),
        channels,
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block, and restore its global random state afterwards."""
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else []):
        # torch.manual_seed() would seed a CUDA that is initialised only later, after the block.
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed_all(seed)
        yield
