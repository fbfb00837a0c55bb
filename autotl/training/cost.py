"""What fine-tuning takes of time and memory, measured in a few steps, and how it is done fastest.

What was measured is remembered in ``Task.measured`` by backbone, size, device and what learns, so
that a search measures each kind of trial once, and one that goes on later computes as it did.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autotl.models import Device, Model, build_backbone
from autotl.space.space import Choice, Config
from autotl.training.compute import ComputeSettings, key
from autotl.training.inputs import Inputs
from autotl.training.loop import simulate_strategy
from autotl.training.predict import autocast, logits
from autotl.training.task import Task

FEW, FEW_SIDE = 16, 224
"""Pictures that are timed on a CPU, of that side in pixels; more of smaller ones, whose batches
take less for each than a few alone."""

CLEARLY = 1.1
"""How many times faster float32 must be to be taken where the device is said to prefer 16 bits."""

COMPILING, COMPILED = 120.0, 1.3
"""Seconds that compiling may take, and how many times faster training then is at the least."""


@dataclass(frozen=True)
class Cost:
    """What ``fine_tune`` will take of time, from a few steps; all times in seconds."""

    view: float  # to run the frozen part over the training pictures once
    epoch: float  # to train on all of them and validate
    once: float  # whatever the number of epochs
    costly: float  # the share of epochs in which more than the head learns
    predict: float  # to predict one picture in float32
    forward: float = 0.0  # a picture through all of the model, when it trains
    backward: float = 0.0  # and back, as far down as anything learns
    activation_bytes: int = 0  # of a picture at the cut; 0 without one
    peak_bytes: int | None = None  # of a training step; None where the device does not tell
    compute: ComputeSettings = field(
        default_factory=ComputeSettings
    )  # to be handed in with the task

    def seconds(self, epochs: int, views: int = 4) -> float:
        """For so many epochs on so many kept views."""
        return self.once + self.view * min(views, epochs) + self.epoch * self.costly * epochs

    def again(self, epochs: int, views: int = 4) -> float:
        """For the same on another part of the data."""
        return self.new_views(epochs, views) + self.epoch * self.costly * epochs

    def new_views(self, epochs: int, views: int = 4) -> float:
        """To run the frozen part over another part of the data, a quarter of which is new to it.

        What it made of the others, and of all pictures in their plain view, has been kept.
        """
        return self.view * (min(views, epochs) - 1) / 4

    def views(self, most: int, seconds: float) -> int:
        """How many views of a picture to keep, if computing them may take so many seconds."""
        return max(1, min(most, int(seconds / max(self.view, 1e-9))))

    def facts(self) -> dict[str, Any]:
        """What is filed of a trial: milliseconds and bytes per picture, and bytes of a step."""
        return {
            "forward_ms": 1000 * self.forward,
            "backward_ms": 1000 * self.backward,
            "activation_bytes": self.activation_bytes,
            "peak_bytes": self.peak_bytes,
        }


@dataclass(frozen=True)
class _Steps:
    """Seconds a picture takes, and what goes with them."""

    below: float  # through the frozen part; 0 without a cut
    forward: float  # through what is above
    step: float  # forward and back through what is above; 0 where nothing learns
    whole: float  # to predict it in float32
    row: int  # bytes at the cut
    peak: int | None
    half: bool  # whether 16 bits are the faster


def measure(model: Model, config: Config, task: Task) -> Cost:
    """Time a few steps on a copy of the model, unless such a model was measured before.

    They train what learns at the end of the schedule, which is the most that ever does.
    """
    trial, learning = simulate_strategy(model, config, task.epochs)
    costly = sum(learning)
    name = key(trial, config, task.where)
    if name not in task.measured:
        task.measured[name] = asdict(_measure(trial, config, task, name))
    found = _Steps(**task.measured[name])
    train, valid = task.train.num_examples, task.num_validation_examples
    learns = trial.backbone_trainable or not hasattr(trial.head, "fit")
    changing = _augmenting(trial, config, task) if learns else 0.0
    keep = found.row > 0
    if keep:  # what is slower to read than to compute again is not kept
        count = train * min(task.views, task.epochs) + valid
        keep = task.cache.seconds_to_read(found.row, count) < found.below + changing
    # The optimizer's step comes on top; validation runs forward only.
    epoch = 1.1 * train * found.step + valid * found.forward
    if not keep:
        epoch += train * (changing + found.below) + valid * found.below
    long = (COMPILED - 1) * epoch * task.epochs > COMPILED * COMPILING
    # Without a cut at the end there may be one before, below which a linear probe has kept all.
    kept = keep or not found.row
    setting = ComputeSettings(
        found.half, kept, task.where.device.type == "cuda" and not keep and long
    )
    return Cost(
        view=train * (changing + found.below) if keep else 0.0,
        epoch=epoch,
        once=valid * found.below if keep else 0.0,
        costly=costly / task.epochs if costly else 1.0,
        predict=found.whole,
        forward=found.below + found.forward,
        backward=max(0.0, found.step - found.forward),
        activation_bytes=found.row,
        peak_bytes=found.peak,
        compute=setting,
    )


def _measure(trial: Model, config: Config, task: Task, name: str) -> _Steps:
    """In the faster of 16 bits and float32, where the device has both.

    Which one it is, is found out twice for a backbone, size and device: where the backbone learns,
    and where it does not. Channels come last in either; of six architectures none was slower so.
    """
    kind = f"{name.rpartition(', ')[0]}, {'trained' if trial.backbone_trainable else 'frozen'}"
    half = task.measured.get(kind, task.where.autocast is not None)
    found = _steps(trial, config, task, half)
    if task.where.autocast and kind not in task.measured:
        exact = _steps(trial, config, task, half=False)
        if CLEARLY * (exact.below + exact.step) < found.below + found.step:
            found = exact
        task.measured[kind] = found.half
    return found


def _steps(trial: Model, config: Config, task: Task, half: bool) -> _Steps:
    where = task.where.device
    run = copy.copy(task)
    run.compute = ComputeSettings(half=half)
    inputs = Inputs(trial, config, run)
    inputs.recut(set())
    trial.train()
    images, labels = next(iter(task.train))
    if where.type == "cpu":  # a few pictures take as long each as a whole batch's
        few = max(FEW, FEW * FEW_SIDE**2 // images.shape[-1] ** 2)
        images, labels = images[:few], labels[:few]
    batch, below, row = images, 0.0, 0
    if inputs.frozen:
        batch, row = inputs.frozen.run(images), inputs.frozen.bytes
        frozen = inputs.frozen
        below = _seconds(lambda: frozen.run(images), task.where)
    targets = inputs.targets(labels)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    forward = _seconds(lambda: _forward(inputs, batch, targets), task.where)
    step = _seconds(lambda: inputs.backward(batch, targets), task.where) if inputs.learns else 0.0
    peak = torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None
    trial.zero_grad(set_to_none=True)
    some, plain = images[: len(images) // 2 or 1], Device(where, None)
    whole = _seconds(lambda: logits(trial.eval(), some, plain), plain) / len(some)
    inputs.close()
    count = len(labels)
    return _Steps(below / count, forward / count, step / count, whole, row, peak, half)


def _forward(inputs: Inputs, batch: Tensor, targets: Tensor) -> None:
    with torch.inference_mode(), autocast(inputs.where):
        inputs.loss(batch.clone(), targets)


def _augmenting(trial: Model, config: Config, task: Task) -> float:
    """Seconds to augment a picture."""
    inputs = Inputs(trial, config, task)
    images, labels = next(iter(task.train))
    images, labels = images[:FEW], labels[:FEW]
    with torch.random.fork_rng([task.where.device] if task.where.device.type == "cuda" else []):
        return _seconds(lambda: inputs.augmented(images, labels), task.where) / len(labels)


def _seconds(work: Callable[[], object], where: Device) -> float:
    """How long ``work`` takes the second time."""
    for _ in range(2):
        began = time.monotonic()
        work()
        if where.device.type == "cuda":
            torch.cuda.synchronize()
    return time.monotonic() - began


def latency(backbone: Choice, size: int | None, where: Device) -> float:
    """Milliseconds that a backbone takes for one picture alone; the median of five.

    Args:
        backbone: The plugin and its values.
        size: The side of the picture in pixels; None for what the backbone was trained with.
        where: The device.

    Raises:
        Incompatible: The backbone cannot take pictures of this size.
    """
    network, expects = build_backbone(backbone, size)
    model = Model(network, nn.Identity(), expects).to(where.device).eval()
    images = torch.zeros(1, 3, expects.size, expects.size, dtype=torch.uint8, device=where.device)
    return 1000 * statistics.median(
        _seconds(lambda: logits(model, images, where), where) for _ in range(5)
    )


def milliseconds_per_image(model: Model, images: Tensor, where: Device) -> float:
    """How long the model takes for one picture of a batch ``uint8 [B, 3, S, S]``; best of three."""
    model.eval()
    times = [_seconds(lambda: logits(model, images, where), where) for _ in range(3)]
    return 1000 * min(times) / len(images)
