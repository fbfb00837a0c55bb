"""A configuration becomes a network: backbone and head as one, its parameters in freezable blocks.

Shapes: B pictures in a batch, S the side of a picture in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autotl.errors import Incompatible, PluginError
from autotl.models import cpu_kernels
from autotl.space.plugin import IMAGE_SIZE, HeadInput
from autotl.space.space import Choice, Config

Group = dict[str, Any]
"""A parameter group as torch.optim takes it: ``{"params": ..., "lr": ...}``."""

Penalty = Callable[[Tensor], Tensor]
"""What a strategy adds to the mean loss of a batch: ``features [B, ...]`` to a scalar."""

STAGES = 4
"""How many of the last stages a head that takes ``stages`` is fed."""


@dataclass(frozen=True)
class Device:
    """Where a network runs, and the type that autocast uses there; None runs in float32."""

    device: torch.device
    autocast: torch.dtype | None

    def __str__(self) -> str:
        """``cpu, bfloat16`` or the name of the GPU."""
        name = self.device.type
        if name == "cuda":
            name = f"cuda ({torch.cuda.get_device_name(self.device)})"
        return f"{name}, {str(self.autocast or torch.float32).removeprefix('torch.')}"


def device(name: str = "auto", precision: str = "auto") -> Device:
    """The device to use: CUDA, then Apple's MPS, then the CPU, unless one is named.

    ``precision`` is ``float32``, ``bfloat16`` or ``auto``, which takes bfloat16 where the hardware
    computes in it. That is read from the hardware, not timed, so that a run can be repeated.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    kind = torch.device(name)
    fast = _computes_bfloat16(kind) if precision == "auto" else precision == "bfloat16"
    return Device(kind, torch.bfloat16 if fast else None)


def _computes_bfloat16(kind: torch.device) -> bool:
    if kind.type == "cuda":
        return torch.cuda.get_device_capability(kind) >= (8, 0)
    # Older versions of torch cannot tell what the CPU computes in; they stay with float32.
    capabilities: Mapping[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return kind.type == "cpu" and any(
        capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")
    )


@dataclass(frozen=True)
class InputSpec:
    """What a backbone was trained to see: side in pixels, mean and deviation of each channel."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


class Model(nn.Module):
    """``uint8 images [B, 3, S, S] -> logits [B, classes]``.

    Attributes:
        expects: What the backbone was trained to see.
        takes: What the head is fed.
        penalties: What a strategy adds to the training loss.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        expects: InputSpec,
        takes: HeadInput = "features",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.expects = expects
        self.takes = takes
        self.penalties: list[Penalty] = []
        for name, values in (("mean", expects.mean), ("std", expects.std)):
            # Not kept with the weights: they are part of the preprocessing.
            self.register_buffer(name, 255 * torch.tensor(values).view(1, -1, 1, 1), False)

    def features(self, images: Tensor) -> Tensor:
        """``uint8 images [B, 3, S, S]``, normalised on the way, to what the head is fed."""
        scaled = (images - self.mean) / self.std
        return self.extract(scaled.contiguous(memory_format=torch.channels_last))

    def extract(self, images: Tensor) -> Tensor:
        """Normalised ``images [B, 3, S, S]`` to what the head is fed, ``[B, ..., features]``."""
        return extract(self.backbone, images, self.takes)

    def forward(self, images: Tensor) -> Tensor:
        """``uint8 images [B, 3, S, S] -> logits [B, classes]``."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @property
    def blocks(self) -> list[list[nn.Parameter]]:
        """The backbone's parameters from stem to top, in the steps its architecture is built of.

        They are timm's groups where the architecture declares them, else its children in order.
        """
        named = dict(self.backbone.named_parameters())
        if groups := _declared_groups(self.backbone):
            return [[named[n] for n in names if n in named] for names in groups]
        children = [list(child.parameters()) for child in self.backbone.children()]
        own = list(self.backbone.parameters(recurse=False))
        return [block for block in (own, *children) if block]

    @property
    def backbone_trainable(self) -> bool:
        """Whether any parameter of the backbone is learning now."""
        return any(p.requires_grad for p in self.backbone.parameters())

    def train(self, mode: bool = True) -> Model:
        """Train mode, except for the parts that are frozen.

        A frozen part computes as it will when it is used: its normalisation keeps the statistics
        it was trained with, and nothing in it is dropped.
        """
        if self.backbone.training or (mode and self.backbone_trainable):
            super().train(mode)
            changed: nn.Module = self
        else:  # the backbone rests already and need not be walked through, which takes a while
            self.training = mode
            changed = self.head.train(mode)
        if mode:
            _rest_frozen(changed)
        return self


def _rest_frozen(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
    else:
        for child in module.children():
            _rest_frozen(child)


def extract(backbone: Any, images: Tensor, takes: HeadInput) -> Tensor:
    """What a backbone makes of normalised ``images [B, 3, S, S]`` for a head that ``takes`` it.

    Returns:
        ``features`` and ``stages`` ``[B, features]``; ``map`` ``[B, positions, features]``,
        without the class and register tokens of a transformer.
    """
    if takes == "features":
        pooled: Tensor = backbone(images)
        return pooled
    if takes == "map":
        return _positions(backbone, backbone.forward_features(images))
    info = backbone.feature_info
    count = min(STAGES, len(getattr(info, "info", info)))
    last, maps = backbone.forward_intermediates(images, indices=count, norm=False)
    means = [m.mean((2, 3)) for m in maps]
    return torch.cat([*means, backbone.forward_head(last)], 1)


def _positions(backbone: Any, found: Tensor) -> Tensor:
    """A map of any layout as ``[B, positions, features]``."""
    if found.ndim == 3:
        return found[:, getattr(backbone, "num_prefix_tokens", 0) :]
    width: int = backbone.num_features
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC" or found.shape[1] != width
    return found.flatten(1, 2) if last else found.flatten(2).transpose(1, 2)


def _width(backbone: Any, takes: HeadInput, size: int, name: str) -> int:
    """How wide is what a head is fed.

    Raises:
        Incompatible: The backbone has no map or no stages to give.
    """
    if takes == "features":
        width: int = getattr(backbone, "head_hidden_size", None) or backbone.num_features
        return width
    training = backbone.training
    try:
        with torch.no_grad():
            first = next(chain(backbone.parameters(), backbone.buffers()), torch.empty(0))
            blank = torch.zeros(1, 3, size, size, device=first.device)
            found = extract(backbone.eval(), blank, takes)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise Incompatible(f"{name} gives its head no {takes}: {error}") from error
    finally:
        backbone.train(training)
    return found.shape[-1]


def _declared_groups(backbone: nn.Module) -> list[list[str]] | None:
    """The parameters' names in timm's groups, stem first; None where those do not cover all."""
    from timm.models import group_parameters

    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        return None
    try:
        groups = group_parameters(backbone, matcher(coarse=False))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
        return None  # timm declares the method on every model, but not every model can answer
    ordered = [groups[key] for key in sorted(groups)]
    covered = {name for names in ordered for name in names}
    return ordered if covered >= {n for n, _ in backbone.named_parameters()} else None


def build_model(
    config: Config, classes: int, size: int | None, where: Device, seed: int = 0
) -> Model:
    """The network of a configuration, on its device.

    Args:
        config: Only its backbone and head are used.
        classes: How many there are.
        size: The side of a picture in pixels; None for what the backbone was trained with.
        where: The device.
        seed: Of what starts random, the head.

    Raises:
        Incompatible: The backbone cannot take pictures of this size, or a plugin says so.
        PluginError: The backbone or the head breaks its contract.
    """
    torch.manual_seed(seed)
    if where.device.type == "cuda":  # the same command gives the same answer
        torch.backends.cudnn.deterministic = True
    backbone, expects = build_backbone(config["backbone"], size)
    takes = config["head"].plugin.takes
    width = _width(backbone, takes, expects.size, config["backbone"].name)
    torch.manual_seed(seed)  # a head begins the same on whatever its backbone drew
    head = _give(config["head"], {"features": width, "classes": classes})
    model = Model(backbone, head, expects, takes)
    if where.device.type == "cpu":
        cpu_kernels.avoid(model, half=where.autocast is not None)
    model = model.to(where.device)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:  # others have no such layout, and Module.to() refuses them
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def replace_head(model: Model, choice: Choice, classes: int, seed: int = 0) -> Model:
    """Another head on the same backbone, which both share; for backbones that do not learn.

    Args:
        model: Whose backbone and preprocessing are taken.
        choice: A head that is fed the same as the model's.
        classes: How many there are.
        seed: Of what starts random.

    Raises:
        PluginError: The head breaks its contract.
    """
    torch.manual_seed(seed)
    size = model.expects.size
    width = _width(model.backbone, model.takes, size, "the backbone")
    head = _give(choice, {"features": width, "classes": classes})
    return Model(model.backbone, head, model.expects, model.takes).to(model.mean.device)


def build_backbone(choice: Choice, size: int | None) -> tuple[nn.Module, InputSpec]:
    """A backbone and what it was trained to see; see ``build_model``."""
    backbone = _give(choice, {"size": size})
    return backbone, _expects(backbone, choice.params.get(IMAGE_SIZE, size), choice.name)


def _give(choice: Choice, context: Mapping[str, Any]) -> nn.Module:
    module = choice.plugin.call(context, choice.params)
    if not isinstance(module, nn.Module):
        raise PluginError(
            f"{choice.plugin.kind} plugin {choice.name!r} returned "
            f"{type(module).__name__}; it must return a torch.nn.Module"
        )
    return module


def _expects(backbone: nn.Module, size: int | None, name: str) -> InputSpec:
    settings: Any = getattr(backbone, "pretrained_cfg", None)
    if not isinstance(settings, Mapping) and settings is not None:
        settings = settings.to_dict()
    if not settings or "input_size" not in settings or not hasattr(backbone, "num_features"):
        raise PluginError(
            f"backbone {name!r} does not speak timm's protocol: it needs num_features and a "
            "pretrained_cfg with input_size, mean and std"
        )
    return InputSpec(
        int(size or settings["input_size"][-1]),
        tuple(settings.get("mean", (0.485, 0.456, 0.406))),
        tuple(settings.get("std", (0.229, 0.224, 0.225))),
        settings.get("interpolation", "bicubic"),
    )


def plan_groups(model: Model, choice: Choice, epochs: int) -> Iterator[list[Group]]:
    """The parameter groups that learn, once for each epoch; the last list stands until the end.

    A strategy that yields is asked for its next list only when an epoch begins. What no group
    holds is frozen.

    Raises:
        Incompatible: The strategy cannot work with this model.
        PluginError: A group breaks the contract; the message names the plugin.
    """
    answer = choice.plugin.call({"model": model, "epochs": epochs}, choice.params)
    steps = answer if isinstance(answer, Iterator) else iter([answer])
    groups: list[Group] = []
    for _ in range(epochs):
        if (step := next(steps, None)) is not None:
            # A group of parameters may be a generator, which is empty the second time.
            groups = [{**g, "params": list(g["params"])} for g in step]
            groups = [g for g in groups if g["params"]]
            _check(model, groups, choice.name)
        yield groups


def _check(model: Model, groups: list[Group], name: str) -> None:
    who = f"freeze plugin {name!r}"
    learning = [id(p) for g in groups for p in g["params"]]
    if len(set(learning)) != len(learning):
        raise PluginError(f"{who} puts a parameter in two groups; each must be in one")
    if strangers := set(learning) - {id(p) for p in model.parameters()}:
        raise PluginError(f"{who} returns {len(strangers)} parameters that are not the model's")
    head = {id(p) for p in model.head.parameters()}
    if head and not head & set(learning):
        raise PluginError(f"{who} freezes the head, which starts from random weights")
    if any("lr" not in g for g in groups):
        raise PluginError(f"{who} returns a group without 'lr', its learning rate")


def merge_parametrizations(model: nn.Module) -> None:
    """Put what a strategy parametrised (LoRA) into the weights, which keep their own names."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def parameters(module: nn.Module) -> int:
    """How many numbers a module holds that could learn."""
    return sum(p.numel() for p in module.parameters())
