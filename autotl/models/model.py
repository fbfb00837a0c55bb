"""A network of a backbone and a head, whose parameters are divided into freezable blocks.

Shapes: B images in a batch, S the side of an image in pixels, C classes, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autotl.space.kinds import HeadInput

Penalty = Callable[[Tensor], Tensor]
"""A term that a strategy adds to the mean loss of a batch: ``features [B, ..., F]`` to a scalar."""

STAGES = 4
"""Number of last stages that are passed to a head with ``takes="stages"``."""


@dataclass(frozen=True)
class InputSpec:
    """The input that a backbone was trained on.

    Attributes:
        size: Side of the images in pixels.
        mean: Mean of each channel, in the range 0..1.
        std: Standard deviation of each channel, in the range 0..1.
        interpolation: timm's name of the interpolation for resizing.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


class Model(nn.Module):
    """A backbone with a head: ``uint8 images [B, 3, S, S] -> logits [B, C]``.

    Attributes:
        input_spec: The input that the backbone was trained on.
        head_input: Which features of the backbone the head takes.
        penalties: Terms that a strategy adds to the training loss.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        input_spec: InputSpec,
        head_input: HeadInput = "features",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.input_spec = input_spec
        self.head_input = head_input
        self.penalties: list[Penalty] = []
        for name, values in (("mean", input_spec.mean), ("std", input_spec.std)):
            # Not saved with the weights, because they are part of the preprocessing.
            self.register_buffer(name, 255 * torch.tensor(values).view(1, -1, 1, 1), False)

    def features(self, images: Tensor) -> Tensor:
        """Normalise ``uint8 images [B, 3, S, S]`` and return the head's input ``[B, ..., F]``."""
        normalised = (images - self.mean) / self.std
        return self.extract_features(normalised.contiguous(memory_format=torch.channels_last))

    def extract_features(self, images: Tensor) -> Tensor:
        """Return the head's input ``[B, ..., F]`` for normalised ``images [B, 3, S, S]``."""
        return extract_features(self.backbone, images, self.head_input)

    def forward(self, images: Tensor) -> Tensor:
        """``uint8 images [B, 3, S, S] -> logits [B, C]``."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @property
    def blocks(self) -> list[list[nn.Parameter]]:
        """The backbone's parameters in blocks, from the stem to the last stage.

        The blocks are timm's parameter groups where the architecture declares them, otherwise the
        backbone's children in order.
        """
        named = dict(self.backbone.named_parameters())
        if groups := _declared_groups(self.backbone):
            return [[named[n] for n in names if n in named] for names in groups]
        children = [list(child.parameters()) for child in self.backbone.children()]
        own = list(self.backbone.parameters(recurse=False))
        return [block for block in (own, *children) if block]

    @property
    def backbone_trainable(self) -> bool:
        """Whether any parameter of the backbone is trainable now."""
        return any(p.requires_grad for p in self.backbone.parameters())

    def train(self, mode: bool = True) -> Model:
        """Set train mode, except for frozen modules, which stay in eval mode.

        A frozen module computes as it will at inference: its normalisation layers keep their
        running statistics, and its dropout is off.
        """
        if self.backbone.training or (mode and self.backbone_trainable):
            super().train(mode)
            changed: nn.Module = self
        else:  # The backbone is in eval mode already; walking through it takes a while.
            self.training = mode
            changed = self.head.train(mode)
        if mode:
            _set_frozen_to_eval(changed)
        return self


def _set_frozen_to_eval(module: nn.Module) -> None:
    """Set the modules to eval mode of which no parameter is trainable."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
    else:
        for child in module.children():
            _set_frozen_to_eval(child)


def _declared_groups(backbone: nn.Module) -> list[list[str]] | None:
    """The parameter names in timm's groups, stem first; None where those do not cover all."""
    from timm.models import group_parameters

    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        return None
    try:
        groups = group_parameters(backbone, matcher(coarse=False))
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
        return None  # timm declares the method on every model, but not every model implements it
    ordered = [groups[key] for key in sorted(groups)]
    covered = {name for names in ordered for name in names}
    return ordered if covered >= {n for n, _ in backbone.named_parameters()} else None


def extract_features(backbone: Any, images: Tensor, head_input: HeadInput) -> Tensor:
    """Compute the features of a backbone that a head takes.

    Args:
        backbone: A network with timm's interface.
        images: Normalised images ``[B, 3, S, S]``.
        head_input: Which features the head takes.

    Returns:
        For ``features`` the pooled features ``[B, F]``; for ``stages`` the pooled maps of the last
        ``STAGES`` stages and the pooled features, concatenated ``[B, F]``; for ``map`` the last map
        ``[B, positions, F]``, without the class and register tokens of a transformer.
    """
    if head_input == "features":
        pooled: Tensor = backbone(images)
        return pooled
    if head_input == "map":
        return _flatten_positions(backbone, backbone.forward_features(images))
    info = backbone.feature_info
    count = min(STAGES, len(getattr(info, "info", info)))
    last, maps = backbone.forward_intermediates(images, indices=count, norm=False)
    means = [m.mean((2, 3)) for m in maps]
    return torch.cat([*means, backbone.forward_head(last)], 1)


def _flatten_positions(backbone: Any, features: Tensor) -> Tensor:
    """Turn a map of any layout into ``[B, positions, F]``."""
    if features.ndim == 3:
        return features[:, getattr(backbone, "num_prefix_tokens", 0) :]
    width: int = backbone.num_features
    nhwc = getattr(backbone, "output_fmt", "NCHW") == "NHWC" or features.shape[1] != width
    return features.flatten(1, 2) if nhwc else features.flatten(2).transpose(1, 2)


def count_parameters(module: nn.Module) -> int:
    """Count the numbers in all parameters of a module, trainable or not."""
    return sum(p.numel() for p in module.parameters())
