"""The files that ``plugins new`` writes: a small working plugin of each kind, and its test."""

from __future__ import annotations

import ast
import importlib.util
import keyword

from autotl.cli import input_template
from autotl.errors import PluginError

INPUT = "input"
"""What stands for a kind of input among the kinds of plugin."""

PLUGIN = {
    "backbone": '''"""A backbone for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autotl import backbone


class Network(nn.Module):
    """``images [B, 3, S, S] -> features [B, 64]``, with the interface of timm's models."""

    num_features = 64
    # The preprocessing that the weights expect; "input_size" has the best side length in pixels.
    pretrained_cfg = {"input_size": (3, 96, 96), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    # The modules after which the network may be split: the frozen part before is computed once.
    feature_info = [{"module": "stem"}, {"module": "top"}]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, 4, 3), nn.BatchNorm2d(32), nn.ReLU())
        self.top = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU())

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns of parameter names for the stem and for each block, in order."""
        return {"stem": "^stem", "blocks": [("^top", None)]}

    def forward_features(self, images: Tensor) -> Tensor:
        """Map ``images [B, 3, S, S]`` to ``[B, 64, H, W]``, for heads that take the feature map."""
        feature_map: Tensor = self.top(self.stem(images))
        return feature_map

    def forward(self, images: Tensor) -> Tensor:
        """Map ``images [B, 3, S, S]`` to features ``[B, 64]``."""
        return self.forward_features(images).mean((2, 3))


@backbone
def NAME() -> nn.Module:
    """Two convolutions (add the paper here).

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
    fraction: Annotated[float, Range(0.1, 1.0)] = 0.3,
    lr: Annotated[float, Range(1e-4, 1e-2, log=True)] = 1e-3,
) -> list[Group]:
    """Train the head and the last blocks of the backbone (add the paper here).

    Parameters that are in no group are frozen. Yield one list for each epoch instead to change
    the trainable parameters over time.

    Args:
        model: The model; ``model.blocks`` holds a list of parameters for each block of the
            backbone, from the input to the output.
        fraction: The fraction of the blocks that is trained, 0 to 1.
        lr: The learning rate, for an optimizer such as Adam.
    """
    if len(model.blocks) < 2:
        raise Incompatible("a fraction of the blocks needs at least two blocks; there is one")
    last_blocks = model.blocks[-ceil(fraction * len(model.blocks)) :]
    trainable = [parameter for block in last_blocks for parameter in block]
    return [{"params": [*model.head.parameters(), *trainable], "lr": lr}]
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
    """One hidden layer, followed by dropout (add the paper here).

    With ``@head(takes="map")`` the input is the feature map ``[B, positions, features]`` instead.

    Args:
        features: The number of features that the backbone computes for an image.
        classes: The number of classes.
        width: The number of units of the hidden layer.
        dropout: The probability with which a unit is set to zero in training.

    Returns:
        A module ``features [B, features] -> logits [B, classes]``.
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

from autotl import Mirrors, Range, Uniform, augment


@augment
def NAME(
    size: int,
    uniform: Uniform,
    *,
    strength: Annotated[float, Range(0.1, 0.9)] = 0.4,
    flip: Annotated[bool, Mirrors()] = True,
) -> Callable[[Tensor], Tensor]:
    """Change the brightness of images, and flip half of them (add the paper here).

    With ``@augment(mixes=True)`` the transform takes and returns the targets ``[B, C]`` as well.

    Args:
        size: The side length of the images in pixels.
        uniform: Draws random numbers, those of each image by itself. Leave it out if you need
            another generator: views of images are then augmented one by one, which is slower.
        strength: The maximum relative change of the brightness, 0 to 1.
        flip: Whether half of the images are mirrored; ``Mirrors`` declares it.

    Returns:
        A transform ``uint8 [B, 3, S, S] -> uint8 [B, 3, S, S]`` on the device of the images.
    """

    def transform(images: Tensor) -> Tensor:
        # Two numbers from 0 to 1 for each image of the batch.
        change, side = uniform(images, 2, 1, 1, 1).unbind(1)
        augmented = images * (1 + strength * (2 * change - 1))
        if flip:
            augmented = torch.where(side < 0.5, augmented, augmented.flip(3))
        return augmented.round().clamp(0, 255).to(torch.uint8)

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
    """AdamW with a learning rate that falls linearly to zero (add the paper here).

    Args:
        groups: The parameter groups: ``params``, ``lr``, and ``weight_decay`` if a group sets it.
        steps: The number of optimizer steps in all epochs together.
        weight_decay: The weight decay of groups that do not set it.
        beta: The decay rate of the running mean of the gradients, 0 to 1.

    Returns:
        The optimizer, and a scheduler that is stepped after each optimizer step.
    """
    adamw = torch.optim.AdamW(groups, weight_decay=weight_decay, betas=(beta, 0.999))
    return adamw, LambdaLR(adamw, lambda step: max(0.0, 1 - step / steps))
''',
    "balance": '''"""Class balancing for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from typing import Annotated

from autotl import Balance, Range, balance


@balance
def NAME(counts: list[int], *, power: Annotated[float, Range(0.1, 1.0)] = 0.5) -> Balance:
    """Weight the loss of a class by a power of its inverse frequency (add the paper here).

    ``Balance`` also takes ``offsets``, which are added to the logits in training, and
    ``sampling``, the relative probability of drawing an image of a class.

    Args:
        counts: The number of training images of each class; it may be 0.
        power: The exponent: 0 weights all images equally, 1 all classes.
    """
    mean = sum(counts) / len(counts)
    return Balance(weights=[(mean / max(count, 1)) ** power for count in counts])
''',
    "unlabelled": '''"""A use of unlabelled examples.

Check it: autotl plugins check NAME.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor
from torch.nn import functional

from autotl import Outputs, Range, UnlabelledMethod, unlabelled


@unlabelled(tasks=["classification"])
def NAME(
    *,
    threshold: Annotated[float, Range(0.5, 0.99)] = 0.9,
    mu: Literal[1, 2, 4] = 2,
) -> UnlabelledMethod:
    """Predict augmented examples as the model predicts them unaugmented (add the paper here).

    A loss that remembers something is an ``nn.Module`` with buffers. Its parameters are trained;
    arguments ``classes`` and ``features`` have their sizes.

    Args:
        threshold: The probability from which a prediction is trusted.
        mu: The number of unlabelled examples for each labelled one.
    """

    def loss(labelled: Outputs, weak: Outputs, strong: Outputs, progress: float) -> Tensor:
        confidence, guesses = weak.logits.detach().softmax(1).max(1)
        losses = functional.cross_entropy(strong.logits, guesses, reduction="none")
        return (losses * (confidence >= threshold)).mean()

    return UnlabelledMethod(loss, mu)
''',
    "loss": '''"""A loss for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from autotl import Range, loss


@loss(tasks=["classification"])
def NAME(
    output_weights: Tensor | None, *, q: Annotated[float, Range(0.1, 1.0)] = 0.7
) -> Callable[[Tensor, Tensor], Tensor]:
    """The generalised cross-entropy, for noisy labels (Zhang & Sabuncu 2018, arXiv:1805.07836).

    Args:
        output_weights: The weight of each class ``[C]``, or None. Leave it out if the loss has no
            use for it, and ``label_smoothing``, which it may take too.
        q: Near 0 it is the cross-entropy, at 1 the mean absolute error.

    Returns:
        A function of logits and targets ``float32 [B, C]`` that returns the mean loss of the
        batch. Targets are probabilities of the classes, because images may be mixed.
    """

    def compute(logits: Tensor, targets: Tensor) -> Tensor:
        # Powers below 1 have an infinite gradient at 0.
        losses = (1 - logits.softmax(1).clamp(min=1e-6) ** q) / q
        weights = torch.ones_like(logits) if output_weights is None else output_weights
        return (targets * losses * weights).sum(1).mean()

    return compute
''',
    "metric": '''"""A metric for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autotl import metric


@metric(tasks=["classification"], per_example=True, direction="minimize", bounds=(0.0, 2.0))
def NAME(targets: NDArray[np.int64], predictions: NDArray[np.float32]) -> NDArray[np.float64]:
    """The Brier score: the squared error of the probabilities of all classes (Brier 1950).

    Without ``per_example`` a metric returns one number for all examples together.

    Args:
        targets: The index of the class of each example, ``[N]``. Several labels are 0 and 1,
            ``[N, C]``, and numbers ``[N, T]``.
        predictions: The probabilities of the classes, ``[N, C]``.

    Returns:
        What each example contributes, ``[N]``; the score is the mean.
    """
    errors = predictions.astype(np.float64)
    errors[np.arange(len(targets)), targets] -= 1
    contributions: NDArray[np.float64] = (errors**2).sum(1)
    return contributions
''',
    "task": '''"""A task for AutoTL. Check it: autotl plugins check NAME.py."""

from __future__ import annotations

from autotl import Label, task
from autotl.tasks import Classification


@task
class NAME(Classification):
    """Classes that are intervals of a number, such as ages.

    ``autotl.Task`` describes what else a task can define: targets, the loss, predictions, a
    calibration. ``autotl search DATA --task NAME`` uses it; ``recognise`` would let it be found.
    """

    name = "NAME"
    default_metric = "accuracy"
    width = 10

    def parse(self, label: Label) -> str:
        """Return the interval of a number, such as ``20 to 30``.

        The text of an interval is itself. A ValueError says why something is no label.
        """
        if isinstance(label, str) and " to " in label:
            return label
        if not isinstance(label, str | int | float):
            raise ValueError(f"the label {label!r:.60} is not a number")
        low = int(float(label) // self.width * self.width)
        return f"{low} to {low + self.width}"
''',
    "dataset": '''"""A data source for AutoTL.

Check it: autotl plugins check NAME.py --source NAME:30.
"""

from __future__ import annotations

import numpy as np

from autotl import Example, dataset

COLOURS = {"blue": (40, 40, 200), "red": (200, 40, 40)}


@dataset(matches=["NAME:*"])
def NAME(source: str) -> list[Example]:
    """Noisy images of two colours; NAME:30 has 30 of each.

    Args:
        source: The data source as the user wrote it. A folder matches the pattern ``*/``, a file
            for example ``*.tar``.
    """
    count = int(source.partition(":")[2])
    generator = np.random.default_rng(0)
    examples = []
    for label, colour in COLOURS.items():
        for i in range(count):
            pixels = generator.normal(colour, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            # image may also be a file. Set split or group if the data define them.
            examples.append(Example(name=f"{label}/{i}", item=pixels, label=label))
    return examples
''',
    INPUT: input_template.PLUGIN,
}
"""The plugin file of each kind; the plugin's name replaces ``NAME``."""

TEST = '''"""Tests that NAME meets the contract of its kind of plugin."""

from NAME import NAME

from autotl.testing import check


def test_NAME() -> None:
    assert check(ARGUMENTS) >= 1
'''


def render(kind: str, name: str) -> dict[str, str]:
    """Return the texts of the plugin file and of its test file, in this order, by file name."""
    arguments = f'{name}, source="{name}:30"' if kind == "dataset" else name
    template = input_template.TEST if kind == INPUT else TEST
    test = template.replace("ARGUMENTS", arguments).replace("NAME", name)
    return {f"{name}.py": PLUGIN[kind].replace("NAME", name), f"test_{name}.py": test}


def require_valid_name(kind: str, name: str) -> None:
    """Check that a plugin's function and file can have this name.

    Raises:
        PluginError: It is no identifier, hides a module, or has another meaning in the file.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name == "NAME":
        raise PluginError(
            f"{name!r} cannot name a function in Python: expected letters, digits and _, and no "
            "digit first"
        )
    used = {n.id for n in ast.walk(ast.parse(PLUGIN[kind])) if isinstance(n, ast.Name)}
    if name in used or importlib.util.find_spec(name):
        raise PluginError(
            f"{name!r} would hide a Python module or another name in the file; choose another name"
        )
