"""Many heads on one frozen backbone, trained side by side in one pass over what it computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.errors import OutOfTime
from autotl.models import Model, replace_head
from autotl.space.space import Config
from autotl.training.inputs import Inputs
from autotl.training.loop import Training, set_trainable, simulate_strategy
from autotl.training.task import Epoch, Task

Done = TypeVar("Done")


@dataclass(frozen=True)
class ProbeEpoch:
    """An epoch of one of the heads, and its model; its ``last`` is the end of its training.

    A head that was solved for has one epoch.
    """

    model: Model
    epoch: Epoch
    last: bool


def keeps_backbone_frozen(model: Model, config: Config, epochs: int) -> bool:
    """Whether a strategy trains the head alone, in every epoch; tried on a copy of the model."""
    _, learns = simulate_strategy(model, config, epochs)
    return not any(learns)


def probe(
    model: Model, configs: Sequence[Config], task: Task
) -> Iterator[list[ProbeEpoch | Exception | None]]:
    """Train a head for each configuration on the backbone of ``model``; yield after each epoch.

    Each is trained exactly as ``fine_tune`` would train it alone, with random numbers of its own,
    but what the backbone made of the pictures is read once for all of them.

    Args:
        model: Built as the first configuration says.
        configs: They differ in the values of a strategy that leaves the backbone frozen, in heads
            that are fed the same, and in the optimizer; in nothing else.
        task: What they are trained on.

    Yields:
        For each configuration what it did, or the error that ended it, or None after that.

    Raises:
        OutOfTime: The deadline passed inside an epoch.
        Exception: Whatever ended the first configuration before its first step.
    """
    device = task.where.device
    torch.manual_seed(task.seed)
    first = _Run(Training(model, configs[0], task), device)
    try:
        first.training.begin(1)
        first.random = _random(device)
        runs = [first, *(_beside(first, config) for config in configs[1:])]
        feeding = next((run for run in runs if run.training.inputs.learns), first)
        for number in range(1, task.epochs + 1):
            for run in runs:
                if number > 1:
                    run.do(Training.begin, number)
            for batch, targets in feeding.training.inputs.training(number):
                for run in runs:
                    # Cloned, because layers may work in place.
                    run.do(Training.step, batch.clone(), targets)
            yield [run.end(last=number == task.epochs) for run in runs]
            if not any(run.goes_on for run in runs):
                return
    finally:
        first.training.inputs.close()


def features(model: Model, config: Config, task: Task) -> NDArray[np.float32]:
    """What a frozen backbone makes of the training pictures as they are, ``[N, ...]``.

    Args:
        model: Its backbone is run, unless that has been done before.
        config: What the model was built from.
        task: Has the pictures.
    """
    inputs = Inputs(model, config, task)
    set_trainable(model, [{"params": list(model.head.parameters())}])
    try:
        inputs.recut(set())
        found: NDArray[np.float32] = inputs.plain().cpu().numpy()
    finally:
        inputs.close()
    return found


class _Run:
    """One of the trainings as if it were alone: its own random numbers, its own end."""

    def __init__(self, training: Training, device: torch.device) -> None:
        self.training, self.device = training, device
        self.random = _random(device)
        self.error: Exception | None = None
        self.told = False  # whether the error was
        self.over = False
        self.seconds = 0.0

    @property
    def goes_on(self) -> bool:
        """Whether it has neither come to its end nor been ended by an error."""
        return not (self.over or self.error)

    def do(self, work: Callable[..., Done], *arguments: Any) -> Done | None:
        """Do a step of this training; None once it has ended."""
        if not self.goes_on:
            return None
        began = time.monotonic()
        _set_random(self.random, self.device)
        try:
            return work(self.training, *arguments)
        except OutOfTime:
            raise
        except Exception as error:  # of one head; the others go on
            self.error = error
            return None
        finally:
            self.random = _random(self.device)
            self.seconds += time.monotonic() - began

    def end(self, last: bool) -> ProbeEpoch | Exception | None:
        """What ``probe`` yields for this one."""
        epoch = self.do(Training.end)
        if epoch is None:
            told, self.told = self.told, True
            return None if told else self.error
        if last or not self.training.inputs.learns:  # more epochs would change nothing
            self.do(Training.finish)
            self.over = True
        seconds, self.seconds = self.seconds, 0.0
        return ProbeEpoch(self.training.model, replace(epoch, seconds=seconds), self.over)


def _beside(first: _Run, config: Config) -> _Run:
    """Another head on the backbone of the first."""
    training = first.training
    task, began = training.task, time.monotonic()
    try:
        own = replace_head(training.model, config["head"], len(task.train.counts), task.seed)
        torch.manual_seed(task.seed)
        run = _Run(Training(own, config, task, beside=training.inputs), first.device)
    except Exception as error:
        run = _Run(training, first.device)
        run.error = error
    run.seconds = time.monotonic() - began
    run.do(Training.begin, 1)
    return run


def _random(device: torch.device) -> list[Tensor]:
    """The state of the random numbers, on the CPU and on the device."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
