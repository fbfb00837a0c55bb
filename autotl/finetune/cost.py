"""What fine-tuning takes of time, measured in a few steps."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autotl.finetune.inputs import Inputs
from autotl.finetune.loop import set_learning
from autotl.finetune.predict import logits
from autotl.finetune.task import Task
from autotl.model import Device, Model, build_backbone, plan
from autotl.space import Choice, Config

FEW = 8
"""Pictures that are timed on a CPU."""


@dataclass(frozen=True)
class Cost:
    """What ``fine_tune`` will take of time, from a few steps; all in seconds."""

    view: float  # to run the frozen part over the training pictures once
    epoch: float  # to train on all of them and validate
    once: float  # whatever the number of epochs
    costly: float  # the share of epochs in which more than the head learns
    predict: float  # to predict one picture in float32

    def seconds(self, epochs: int, views: int = 4) -> float:
        """For so many epochs on so many kept views."""
        return self.once + self.view * min(views, epochs) + self.epoch * self.costly * epochs


def measure(model: Model, config: Config, task: Task) -> Cost:
    """Time a few steps on a copy of the model.

    They train what learns at the end of the schedule, which is the most that ever does.
    """
    trial = copy.deepcopy(model)
    costly = 0
    for groups in plan(trial, config["freeze"], task.epochs):
        set_learning(trial, groups)
        costly += trial.backbone_learns
    inputs = Inputs(trial, config, task)
    inputs.recut(set())
    trial.train()
    images, labels = next(iter(task.train))
    if task.where.device.type == "cpu":  # a few pictures take as long each as a whole batch's
        images, labels = images[:FEW], labels[:FEW]
    batch, below = images, 0.0
    if inputs.cut:
        batch = inputs.run_below(images)
        below = _seconds(lambda: inputs.run_below(inputs.augmented(images, labels)[0]), task.where)
    train, valid = task.train.pictures / len(labels), task.validation_pictures / len(labels)
    targets = inputs.targets(labels)
    above = 0.0
    if inputs.learns:
        above = _seconds(lambda: inputs.backward(batch, targets), task.where)
    # The optimizer's step comes on top; validation runs forward only.
    epoch = above * (1.1 * train + valid / 3)
    few, plain = images[:4], Device(task.where.device, None)
    whole = _seconds(lambda: logits(trial.eval(), few, plain), plain) / len(few)
    costly_share = costly / task.epochs if costly else 1.0
    return Cost(below * train, epoch, below * valid, costly_share, whole)


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


def milliseconds_per_picture(model: Model, images: Tensor, where: Device) -> float:
    """How long the model takes for one picture of a batch ``uint8 [B, 3, S, S]``; best of three."""
    model.eval()
    times = [_seconds(lambda: logits(model, images, where), where) for _ in range(3)]
    return 1000 * min(times) / len(images)
