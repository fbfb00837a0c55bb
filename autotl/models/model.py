"""A network of a backbone and a head, whose parameters are divided into freezable blocks.

Shapes: B examples in a batch, S the side of an image in pixels, C classes, F features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autotl.space.input_kind import ModelInput
from autotl.space.kinds import HeadInput
from autotl.space.task import Task
from autotl.tasks import CLASSIFICATION

Penalty = Callable[[Tensor], Tensor]
"""A term that a strategy adds to the mean loss of a batch: ``features [B, ..., F]`` to a scalar."""

STAGES = 4
"""Number of last stages that are passed to a head with ``takes="stages"``."""


class Model(nn.Module):
    """A backbone with a head: encoded examples ``[B, ...]`` to logits ``[B, L]``.

    Images are ``uint8 [B, 3, S, S]``.

    Attributes:
        expects: The input that the backbone was trained on.
        preprocessing: Prepares a batch on the device; for images the normalisation.
        head_input: Which features of the backbone the head takes.
        task: What the logits stand for.
        penalties: Terms that a strategy adds to the training loss.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        expects: ModelInput,
        head_input: HeadInput = "features",
        task: Task = CLASSIFICATION,
    ) -> None:
        super().__init__()
        self.task = task
        self.backbone = backbone
        self.head = head
        self.expects = expects
        self.preprocessing: nn.Module = expects.make_preprocessing() or nn.Identity()
        self.head_input = head_input
        self.penalties: list[Penalty] = []

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def features(self, inputs: Tensor) -> Tensor:
        """Prepare encoded examples ``[B, ...]`` and return the head's input ``[B, ..., F]``."""
        return self.extract_features(self.preprocessing(inputs))

    def extract_features(self, prepared: Tensor) -> Tensor:
        """Return the head's input ``[B, ..., F]`` for what ``preprocessing`` returns."""
        return extract_features(self.backbone, prepared, self.head_input)

    def forward(self, inputs: Tensor) -> Tensor:
        """Encoded examples ``[B, ...]`` to logits ``[B, C]``."""
        logits: Tensor = self.head(self.features(inputs))
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


def extract_features(backbone: Any, prepared: Tensor, head_input: HeadInput) -> Tensor:
    """Compute the features of a backbone that a head takes.

    Args:
        backbone: A network with timm's interface.
        prepared: Prepared examples; normalised images ``[B, 3, S, S]``.
        head_input: Which features the head takes.

    Returns:
        For ``features`` the pooled features ``[B, F]``; for ``stages`` the pooled maps of the last
        ``STAGES`` stages and the pooled features, concatenated ``[B, F]``; for ``map`` the last map
        ``[B, positions, F]``, without the class and register tokens of a transformer.
    """
    if head_input == "features":
        pooled: Tensor = backbone(prepared)
        return pooled
    if head_input == "map":
        return _flatten_positions(backbone, backbone.forward_features(prepared))
    info = backbone.feature_info
    count = min(STAGES, len(getattr(info, "info", info)))
    last, maps = backbone.forward_intermediates(prepared, indices=count, norm=False)
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
