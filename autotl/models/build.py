"""Build the network of a configuration.

Shapes: S the side of an image in pixels, C classes, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn

from autotl.errors import Incompatible, PluginError
from autotl.models import cpu_kernels
from autotl.models.device import Device
from autotl.models.model import InputSpec, Model, extract_features
from autotl.space.kinds import IMAGE_SIZE, HeadInput
from autotl.space.space import Choice, Config


def build_model(
    config: Config, classes: int, size: int | None, device: Device, seed: int = 0
) -> Model:
    """Build the network of a configuration on its device.

    Torch's global random state is the same afterwards as before.

    Args:
        config: Of which only the backbone and the head are used.
        classes: Number of classes C.
        size: Side of the images in pixels; None for the size that the backbone was trained on.
        device: The device to build it on.
        seed: Seed of the weights that are initialised at random, such as the head's.

    Returns:
        ``uint8 images [B, 3, S, S] -> logits [B, C]``, its 4-D weights in channels_last.

    Raises:
        Incompatible: The backbone does not accept images of this size, or has no features of the
            kind that the head takes, or a plugin raises it.
        PluginError: The backbone or the head breaks its contract.
    """
    backbone, input_spec = build_backbone(config["backbone"], size, seed)
    name, head_input = config["backbone"].name, config["head"].plugin.takes
    features = _count_features(backbone, head_input, input_spec.size, name)
    head = _call_plugin(config["head"], {"features": features, "classes": classes}, seed)
    model = Model(backbone, head, input_spec, head_input)
    if device.torch_device.type == "cpu":
        cpu_kernels.apply_workarounds(model, bfloat16=device.autocast is not None)
    model = model.to(device.torch_device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:  # Module.to() refuses this layout for other tensors
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def build_backbone(choice: Choice, size: int | None, seed: int = 0) -> tuple[nn.Module, InputSpec]:
    """Build a backbone on the CPU; for the arguments see ``build_model``.

    Returns:
        The backbone, and the input that it was trained on.

    Raises:
        Incompatible: The backbone does not accept images of this size.
        PluginError: The backbone breaks its contract.
    """
    backbone = _call_plugin(choice, {"size": size}, seed)
    return backbone, _read_input_spec(backbone, choice.params.get(IMAGE_SIZE, size), choice.name)


def replace_head(model: Model, choice: Choice, classes: int, seed: int = 0) -> Model:
    """Build another model with the same backbone object and a new head, for frozen backbones.

    Torch's global random state is the same afterwards as before.

    Args:
        model: The model whose backbone and preprocessing are used.
        choice: A head that takes the same features as the model's head.
        classes: Number of classes C.
        seed: Seed of the head's weights.

    Raises:
        PluginError: The head breaks its contract.
    """
    backbone, input_spec, head_input = model.backbone, model.input_spec, model.head_input
    features = _count_features(backbone, head_input, input_spec.size, "the backbone")
    head = _call_plugin(choice, {"features": features, "classes": classes}, seed)
    return Model(backbone, head, input_spec, head_input).to(model.mean.device)


def _count_features(backbone: Any, head_input: HeadInput, size: int, name: str) -> int:
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
            blank = torch.zeros(1, 3, size, size, device=first.device)
            features = extract_features(backbone.eval(), blank, head_input)
    except torch.OutOfMemoryError:  # a RuntimeError
        raise
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise Incompatible(
            f"{name} gives its head no {head_input} ({error}); choose another head or backbone"
        ) from error
    finally:
        backbone.train(training)
    return features.shape[-1]


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


def _read_input_spec(backbone: nn.Module, size: int | None, name: str) -> InputSpec:
    """Read the preprocessing from timm's ``pretrained_cfg``.

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
    return InputSpec(
        int(size or config["input_size"][-1]),
        tuple(config.get("mean", (0.485, 0.456, 0.406))),
        tuple(config.get("std", (0.229, 0.224, 0.225))),
        config.get("interpolation", "bicubic"),
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
