"""What a family of backbones is given to train weights by a method of its own, and what it returns.

Images are trained by the methods of ``engine.pretraining``. A family of another kind of input may
have methods for which that has no equal, such as masked language modelling of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotl.space.plugin import Weights


@dataclass(frozen=True)
class Pretraining:
    """A training of the weights of one member of a family, without labels.

    Attributes:
        name: The name of the backbone.
        weights: Those to start from; None for random ones.
        train: The items to train on, at least 1.
        held_out: The items to score on; may be empty.
        folder: An empty folder, into which the weights are written.
        target: What this folder is renamed to at the end.
        epochs: The maximum number of epochs.
        batch_size: The number of items in a step.
        size: The size of the inputs; None for the one that suits.
        lr: The largest learning rate; None for that of the method.
        seed: The seed of the random number generators.
        device: The ``autotl.models.Device``: the device, and the types to compute in.
        seconds_left: Returns how many seconds of the budget are left, infinity without one.
        report: Called after each epoch with its number and a sentence.
    """

    name: str
    weights: Weights | None
    train: Sequence[Any]
    held_out: Sequence[Any]
    folder: Path
    target: Path
    epochs: int
    batch_size: int
    size: int | None
    lr: float | None
    seed: int
    device: Any
    seconds_left: Callable[[], float]
    report: Callable[[int, str], None]


@dataclass(frozen=True)
class Pretrained:
    """What was trained.

    Attributes:
        backbone: The name of the backbone with these weights, for a search.
        epochs: The number of complete epochs, at least 1: the weights are those after the last one.
        interrupted: Whether Ctrl-C ended the training.
        size: The size of the inputs.
        recipe: The training in words, such as its optimizer.
        metric: What the score is.
        score: The score on the held-out items; None without any.
        low, high: Its 95 % interval.
        before: The score of the weights from which the training started; None without any.
    """

    backbone: str
    epochs: int
    interrupted: bool
    size: int
    recipe: str
    metric: str = ""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    before: float | None = None


PretrainingMethod = Callable[[Pretraining], Pretrained]
"""Trains weights and writes them.

It raises ``KeyboardInterrupt`` or ``OutOfTime`` if no epoch is complete, and ``Incompatible`` for a
backbone or items that it does not suit."""

PretrainingMethods = Mapping[str, PretrainingMethod]
"""The methods of a family by their names."""
