"""What the tests of training share: trainings of the toy model, and plugins that record them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from toy import config, job, model

from autotl import augment, head, optimizer
from autotl.models import Group, Model
from autotl.training import Epoch, Job, fine_tune
from autotl.training.inputs import Inputs

State = dict[str, Tensor]

TOP = ("last_blocks", {"fraction": 0.5})
"""Trains the last two of the toy backbone's four blocks."""


def train(seed: int = 0, epochs: int = 2, **chosen: Any) -> tuple[Model, list[Epoch]]:
    """Build a model and train it for all epochs; keywords that ``Job`` has go there."""
    changes = {k: chosen.pop(k) for k in list(chosen) if k in Job.__dataclass_fields__}
    network = model(seed, **chosen)
    return network, list(fine_tune(network, config(**chosen), job(epochs, seed=seed, **changes)))


def copy_state(network: Model) -> State:
    """A copy of all parameters and buffers."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def changed_names(before: State, network: Model) -> set[str]:
    """The names of the parameters and buffers that are not what they were."""
    return {k for k, v in network.state_dict().items() if not torch.equal(before[k], v)}


def have_equal_weights(one: Model, other: Model) -> bool:
    """Whether all parameters and buffers of two models are equal."""
    return not changed_names(copy_state(one), other)


def count_images(network: Model) -> list[int]:
    """A list to which the stem will append the size of each batch that it sees."""
    sizes: list[int] = []
    network.backbone.stem[0].register_forward_hook(lambda m, a, out: sizes.append(len(out)))
    return sizes


def get_view(inputs: Inputs, view: int | None) -> Any:
    """Activations and targets of a view of all training images, in their order."""
    assert inputs.frozen is not None
    rows = inputs.frozen.get_rows(inputs.job.train, view)
    assert rows is not None
    [activations_and_targets] = rows.batches([np.arange(inputs.job.train.num_examples)])
    return activations_and_targets


@augment(mixes=True)
def half_and_half(size: int) -> Any:
    """The mean of each image and the one before it."""

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (images.float() + images.roll(1, 0).float()) / 2
        return mixed.to(torch.uint8), (targets + targets.roll(1, 0)) / 2

    return transform


class RecordingAdamW(torch.optim.AdamW):
    """Records the learning rates that it steps with."""

    def __init__(self, groups: list[Group]) -> None:
        super().__init__(groups)
        self.rates: list[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append([g["lr"] for g in self.param_groups])
        return super().step(closure)


def recording_optimizer(warmup: int = 0) -> tuple[Any, list[RecordingAdamW]]:
    """An optimizer plugin, and the list of the optimizers that it will make."""
    made: list[RecordingAdamW] = []

    @optimizer
    def recording(groups: list[Group], steps: int) -> Any:
        made.append(RecordingAdamW(groups))
        return made[-1], CosineLRScheduler(
            made[-1], steps, warmup_t=warmup, warmup_prefix=False, t_in_epochs=False
        )

    return recording, made


class RefusingLinear(nn.Linear):
    """Runs out of memory in training where ``refuses`` says so of the batch size."""

    refuses: Callable[[int], bool]

    def forward(self, features: Tensor) -> Tensor:
        if self.training and self.refuses(len(features)):
            raise torch.OutOfMemoryError("no memory is left")
        return super().forward(features)


def refusing_head(refuses: Callable[[int], bool]) -> Any:
    """A plugin of heads that run out of memory where ``refuses`` says so of the batch size."""

    @head
    def refusing(features: int, classes: int) -> nn.Module:
        layer = RefusingLinear(features, classes)
        layer.refuses = refuses
        return layer

    return refusing
