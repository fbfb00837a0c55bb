"""Toy backbones, images and companion plugins, with which plugins are tested.

Shapes: B images in a batch, S their side in pixels, T tokens, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from autotl.data import Batches, Packed
from autotl.data.toy_images import COLOURS as COLOURS
from autotl.data.toy_images import SIDE as SIDE
from autotl.models import Device, Group, Model
from autotl.space.plugin import Example, augment, backbone, freeze, head, optimizer

WIDTH = 24
"""Number of features of the toy backbones."""

CPU = Device(torch.device("cpu"), None)
CLASS_COUNTS = (15, 12, 9)
"""Training images of each colour: unequal, so that balancing has an effect."""


def make_batches(
    examples: Sequence[Example],
    size: int = 12,
    shuffle_seed: int | None = 0,
    class_targets: NDArray[Any] | None = None,
    device: torch.device = CPU.torch_device,
) -> Batches:
    """Make batches of at most ``size`` examples.

    Args:
        examples: The examples, whose classes are sorted by their names.
        size: The largest size of a batch.
        shuffle_seed: Seed of the order; None for that of the examples.
        class_targets: The target of each class, ``[C, ...]``; its index by default.
        device: The device that they are on.
    """
    classes = sorted({e.label for e in examples})
    array = np.stack([e.item for e in examples])
    labels = np.array([classes.index(e.label) for e in examples])
    targets = labels if class_targets is None else class_targets[labels]
    packed = Packed(array, Path("in memory"))
    indices = np.arange(len(examples))
    return Batches(packed, targets, indices, size, device, shuffle_seed=shuffle_seed)


def cycle_labels(count: int) -> Tensor:
    """Labels ``int64 [count]`` of all classes in turn."""
    return torch.arange(count) % len(COLOURS)


class ConvNet(nn.Module):
    """``images [B, 3, S, S] -> features [B, 24]``: four convolutional blocks, timm's interface.

    Args:
        batchnorm: Use BatchNorm; otherwise GroupNorm, with which the features of an image do not
            depend on its batch.
    """

    def __init__(self, batchnorm: bool = True) -> None:
        super().__init__()
        self.num_features = WIDTH
        self.pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.2,) * 3}
        stages = (("stem", 8, 2), ("stages.0", 16, 4), ("stages.1", 24, 4), ("stages.2", 24, 4))
        self.feature_info = [{"module": m, "num_chs": c, "reduction": r} for m, c, r in stages]
        sizes = ((8, 16, 2), (16, 24, 1), (24, 24, 1))
        self.stem = _make_block(3, 8, 2, batchnorm)
        self.stages = nn.Sequential(*(_make_block(*size, batchnorm) for size in sizes))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The patterns by which timm groups parameters into blocks."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}

    def forward_features(self, images: Tensor) -> Tensor:
        """``images [B, 3, S, S]`` to the map ``[B, 24, S / 4, S / 4]``."""
        features: Tensor = self.stages(self.stem(images))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """The mean of the map, ``[B, 24]``."""
        return features.mean((2, 3))

    def forward_intermediates(
        self, images: Tensor, indices: int | list[int] | None = None, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The map, and the maps ``[B, F, H, W]`` of all or the last ``indices`` stages."""
        features = self.stem(images)
        maps = [features]
        for stage in self.stages:
            maps.append(features := stage(features))
        return features, _select(maps, indices)

    def forward(self, images: Tensor) -> Tensor:
        """``images [B, 3, S, S]`` to features ``[B, 24]``."""
        return self.forward_head(self.forward_features(images))


def _make_block(in_channels: int, channels: int, stride: int, batchnorm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    norm = nn.BatchNorm2d(channels) if batchnorm else nn.GroupNorm(4, channels)
    return nn.Sequential(convolution, norm, nn.ReLU(inplace=True))


def _select(maps: list[Tensor], indices: int | list[int] | None) -> list[Tensor]:
    if indices is None:
        return maps
    return maps[-indices:] if isinstance(indices, int) else [maps[i] for i in indices]


class Transformer(nn.Module):
    """``images [B, 3, 16, 16] -> features [B, 24]``: three transformer blocks, timm's interface."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        self.num_features = self.embed_dim = WIDTH
        self.pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.2,) * 3}
        self.feature_info = [{"module": f"blocks.{i}", "num_chs": WIDTH} for i in range(3)]
        self.patch_embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // 4) ** 2 + 1, WIDTH) / 5)
        self.blocks = nn.ModuleList(_TransformerBlock() for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The patterns by which timm groups parameters into blocks."""
        blocks = [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^cls_token|^pos_embed|^patch_embed", "blocks": blocks}

    def forward_features(self, images: Tensor) -> Tensor:
        """``images [B, 3, S, S]`` to tokens ``[B, T, 24]``; the first one is the class token."""
        return self.forward_intermediates(images)[0]

    def forward_head(self, features: Tensor) -> Tensor:
        """The class token, ``[B, 24]``."""
        return features[:, 0]

    def forward_intermediates(
        self, images: Tensor, indices: int | list[int] | None = None, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The tokens, and the maps ``[B, 24, H, W]`` of all or the last ``indices`` blocks."""
        patches = self.patch_embed(images)
        tokens = torch.cat(
            [self.cls_token.expand(len(images), 1, -1), patches.flatten(2).transpose(1, 2)], 1
        )
        tokens = tokens + self.pos_embed
        maps = []
        for block in self.blocks:
            tokens = block(tokens)
            maps.append(tokens[:, 1:].transpose(1, 2).reshape(patches.shape))
        return self.norm(tokens), _select(maps, indices)

    def forward(self, images: Tensor) -> Tensor:
        """``images [B, 3, S, S]`` to features ``[B, 24]``."""
        return self.forward_head(self.forward_features(images))


class _TransformerBlock(nn.Module):
    """``tokens [B, T, F]`` to the same shape: attention, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH)})
        self.attn["proj"] = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 2 * WIDTH)})
        self.mlp["fc2"] = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.attn["qkv"](self.norm1(tokens)).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.attn["proj"](mixed)
        hidden = functional.gelu(self.mlp["fc1"](self.norm2(tokens)))
        added: Tensor = self.mlp["fc2"](hidden)
        return tokens + added


def _make_pretrained(make: Any, *args: Any) -> nn.Module:
    """Make a network, always with the same weights, as if it were pretrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network: nn.Module = make(*args)
        return network


@backbone
def convnet(*, batchnorm: bool = True) -> nn.Module:
    """Four convolutional blocks with BatchNorm or GroupNorm."""
    return _make_pretrained(ConvNet, batchnorm)


@backbone
def transformer() -> nn.Module:
    """A transformer of three blocks."""
    return _make_pretrained(Transformer)


# Companions: plugins of the other kinds while a plugin is tried. None of them is random.


@head
def linear(features: int, classes: int) -> nn.Module:
    """One linear layer."""
    return nn.Linear(features, classes)


class Means(nn.Module):
    """The nearest of the means of all classes, which ``fit`` computes."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.zeros(classes, features))

    def fit(self, features: Tensor, labels: Tensor) -> None:
        """Compute the means of ``features [N, F]`` with ``labels [N]``."""
        one_hot = functional.one_hot(labels, len(self.means)).to(features)
        self.means.data.copy_(one_hot.T @ features / one_hot.sum(0).clamp(min=1)[:, None])

    def forward(self, features: Tensor) -> Tensor:
        """The negative squared distances ``[B, C]`` to the means."""
        return -(features[:, None] - self.means).square().sum(-1)


@head
def means(features: int, classes: int) -> nn.Module:
    """The nearest mean, in closed form."""
    return Means(features, classes)


@freeze
def head_alone(model: Model) -> list[Group]:
    """Train the head alone."""
    return [{"params": model.head.parameters(), "lr": 1e-2}]


@freeze
def unfreeze_upper_half(model: Model, epochs: int) -> Iterator[list[Group]]:
    """Train the head alone for one epoch, then the upper half of the blocks as well."""
    blocks = model.blocks
    upper = [p for block in blocks[len(blocks) // 2 :] for p in block]
    yield [{"params": model.head.parameters(), "lr": 1e-2}]
    yield [{"params": model.head.parameters(), "lr": 1e-2}, {"params": upper, "lr": 1e-3}]


@freeze
def full(model: Model) -> list[Group]:
    """Train all parameters."""
    return [{"params": model.parameters(), "lr": 1e-3}]


@augment
def identity(size: int) -> Any:
    """Leave images as they are."""
    return lambda images: images


@augment
def shifted(size: int, uniform: Any) -> Any:
    """Shift images by two pixels."""
    return lambda images: images.roll((2, 2), (2, 3))


@optimizer
def adam(groups: list[Group], steps: int) -> tuple[Any, Any]:
    """Adam at constant learning rates."""
    chosen = torch.optim.Adam(groups)
    return chosen, torch.optim.lr_scheduler.LambdaLR(chosen, lambda step: 1.0)
