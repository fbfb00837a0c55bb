"""What ``plugins new`` writes: a small plugin of each kind that works, and its test."""

from __future__ import annotations

import ast
import importlib.util
import keyword

from autotl.errors import PluginError

PLUGIN = {
    "backbone": '''"""A backbone for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autotl import backbone


class Network(nn.Module):
    """``images [B, 3, S, S] -> features [B, 64]``, in the protocol of timm's models."""

    num_features = 64
    # What the pictures must look like; "input_size" has the side that fits best.
    pretrained_cfg = {"input_size": (3, 96, 96), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    # Modules after which the network may be cut: what lies below, frozen, runs only once.
    feature_info = [{"module": "stem"}, {"module": "top"}]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, 4, 3), nn.BatchNorm2d(32), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are which block, stem first: patterns of their names."""
        return {"stem": "^stem", "blocks": [("^top", None)]}

    def forward_features(self, images: Tensor) -> Tensor:
        """``images [B, 3, S, S]`` to the map ``[B, 64, H, W]``, for heads that take one."""
        found: Tensor = self.top(self.stem(images))
        return found

    def forward(self, images: Tensor) -> Tensor:
        """``images [B, 3, S, S]`` to features ``[B, 64]``."""
        return self.forward_features(images).mean((2, 3))


@backbone
def NAME() -> nn.Module:
    """Two convolutions (which paper?).

    Load pretrained weights here, from safetensors or with ``torch.load(..., weights_only=True)``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network()
''',
    "freeze": '''"""A freeze strategy for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated

from autotl import Incompatible, Range, freeze

if TYPE_CHECKING:
    from autotl.models import Group, Model


@freeze
def NAME(
    model: Model,
    *,
    share: Annotated[float, Range(0.1, 1.0)] = 0.3,
    lr: Annotated[float, Range(1e-4, 1e-2, log=True)] = 1e-3,
) -> list[Group]:
    """Train the head and the top share of the blocks (which paper?).

    What no group holds is frozen. Yield one list an epoch to change over time.

    Args:
        model: Has ``head``, ``backbone`` and ``blocks``, lists of parameters from the stem up.
        share: Of the number of blocks.
        lr: The learning rate, for an optimizer like Adam.
    """
    if len(model.blocks) < 2:
        raise Incompatible("a share of the blocks was asked for, and there is only one")
    top = model.blocks[-ceil(share * len(model.blocks)) :]
    learning = [p for block in top for p in block]
    return [{"params": [*model.head.parameters(), *learning], "lr": lr}]
''',
    "head": '''"""A head for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from typing import Annotated

from torch import nn

from autotl import Range, head


@head
def NAME(
    features: int,
    classes: int,
    *,
    width: Annotated[int, Range(32, 512, log=True)] = 128,
    dropout: Annotated[float, Range(0.0, 0.5)] = 0.1,
) -> nn.Module:
    """One hidden layer behind dropout (which paper?).

    Returns ``features [B, features] -> logits [B, classes]``. With ``@head(takes="map")`` it is
    fed the map instead, ``[B, positions, features]``.

    Args:
        features: How many numbers the backbone makes of a picture.
        classes: How many there are.
        width: Of the hidden layer.
        dropout: The share of numbers that is dropped in training.
    """
    return nn.Sequential(
        nn.Linear(features, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, classes)
    )
''',
    "augment": '''"""An augmentation for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from autotl import Range, augment


@augment
def NAME(
    size: int, *, strength: Annotated[float, Range(0.1, 0.9)] = 0.4, flip: bool = True
) -> Callable[[Tensor], Tensor]:
    """Make pictures brighter or darker, and mirror half of them (which paper?).

    Returns ``uint8 [B, 3, S, S] -> uint8 [B, 3, S, S]``, on the device of the training. With
    ``@augment(mixes=True)`` it is given the targets ``[B, C]`` too, and returns both.

    Args:
        size: The side of the pictures, in pixels.
        strength: The most by which brightness changes, as a share of it.
        flip: Whether to mirror.
    """

    def transform(images: Tensor) -> Tensor:
        draw = torch.rand(2, len(images), 1, 1, 1, device=images.device)  # each picture its own
        changed = images * (1 + strength * (2 * draw[0] - 1))
        if flip:
            changed = torch.where(draw[1] < 0.5, changed, changed.flip(3))
        return changed.round().clamp(0, 255).to(torch.uint8)

    return transform
''',
    "optimizer": '''"""An optimizer for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from torch.optim.lr_scheduler import LambdaLR

from autotl import Range, optimizer

if TYPE_CHECKING:
    from autotl.models import Group


@optimizer
def NAME(
    groups: list[Group],
    steps: int,
    *,
    weight_decay: Annotated[float, Range(1e-4, 0.3, log=True)] = 0.01,
    beta: Annotated[float, Range(0.8, 0.95)] = 0.9,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Adam with decay and a rate that falls to zero (which paper?).

    Args:
        groups: What learns: ``params``, ``lr``, and ``weight_decay`` where a group has its own.
        steps: How many there will be, in all epochs.
        weight_decay: Of groups that say nothing else.
        beta: How much of the past gradients is kept.
    """
    chosen = torch.optim.AdamW(groups, weight_decay=weight_decay, betas=(beta, 0.999))
    return chosen, LambdaLR(chosen, lambda step: max(0.0, 1 - step / steps))
''',
    "balance": '''"""Balancing for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from typing import Annotated

from autotl import Balance, Range, balance


@balance
def NAME(counts: list[int], *, power: Annotated[float, Range(0.1, 1.0)] = 0.5) -> Balance:
    """Weigh the loss of a class by a power of its rarity (which paper?).

    ``Balance`` also takes ``offsets``, which are added to the logits in training, and
    ``sampling``, the relative chance of drawing a picture of a class.

    Args:
        counts: How many training pictures each class has; it may be none.
        power: 0 weighs all pictures alike, 1 all classes.
    """
    mean = sum(counts) / len(counts)
    return Balance(weights=[(mean / max(count, 1)) ** power for count in counts])
''',
    "dataset": '''"""A source of pictures for AutoTL.

Check it: autotl plugins check NAME.py --source NAME:30.
"""

from __future__ import annotations

import numpy as np

from autotl import Example, dataset

COLOURS = {"blue": (40, 40, 200), "red": (200, 40, 40)}


@dataset(matches=["NAME:*"])
def NAME(source: str) -> list[Example]:
    """Pictures of noise in two colours; NAME:30 has 30 of each.

    Args:
        source: What the user wrote. A folder fits the pattern ``*/``, a file ``*.tar``.
    """
    count = int(source.partition(":")[2])
    random = np.random.default_rng(0)
    found = []
    for label, colour in COLOURS.items():
        for i in range(count):
            picture = random.normal(colour, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            # Instead of an array, image may be a file. split and group are for data that say so.
            found.append(Example(name=f"{label}/{i}", image=picture, label=label))
    return found
''',
}

TEST = '''"""NAME keeps the contract of its kind."""

from NAME import NAME

from autotl.testing import check


def test_NAME() -> None:
    assert check(NAMEGIVEN) >= 1
'''


def render(kind: str, name: str) -> dict[str, str]:
    """The texts of the plugin and of its test, by the names of their files, in this order."""
    given = f', source="{name}:30"' if kind == "dataset" else ""
    test = TEST.replace("NAMEGIVEN", name + given).replace("NAME", name)
    return {f"{name}.py": PLUGIN[kind].replace("NAME", name), f"test_{name}.py": test}


def refuse_name(kind: str, name: str) -> None:
    """Refuse a name that a plugin's function and file cannot have.

    Raises:
        PluginError: It is no identifier, hides a module, or means something else in the file.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name == "NAME":
        raise PluginError(
            f"{name!r} cannot name a function in Python; use letters, digits and _, no digit first"
        )
    used = {n.id for n in ast.walk(ast.parse(PLUGIN[kind])) if isinstance(n, ast.Name)}
    if name in used or importlib.util.find_spec(name):
        raise PluginError(
            f"{name!r} would hide what is called so in Python; choose a name of its own"
        )
