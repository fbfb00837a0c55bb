"""The training of one model, an epoch at a time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from autotl.errors import Diverged, PluginError
from autotl.finetune.inputs import Inputs
from autotl.finetune.task import Epoch, Task
from autotl.model import Group, Model, merge, plan
from autotl.space import Config


def fine_tune(model: Model, config: Config, task: Task) -> Iterator[Epoch]:
    """Train ``model`` as ``config`` says; yield after each epoch.

    The caller prunes by not asking for the next epoch, and gets the trained model by asking for
    all of them. The learning rates follow one schedule over all epochs; when a strategy changes
    what learns, the optimizer is rebuilt and the state of what goes on learning is carried over.

    A head that has a ``fit`` is fitted before the first epoch. Where nothing but such a head would
    learn, it is left as it is.

    Raises:
        Diverged: The loss or a prediction is not finite.
        OutOfMemory: A single picture does not fit on the device.
        OutOfTime: The deadline passed inside an epoch.
        Incompatible: A plugin cannot work with the others.
    """
    torch.manual_seed(task.seed)
    inputs = Inputs(model, config, task)
    average = _Average(task.ema)
    steps = task.epochs * len(task.train)
    optimizer: torch.optim.Optimizer | None = None
    signature: Any = None
    learned: set[int] = set()
    for number, groups in enumerate(plan(model, config["freeze"], task.epochs), start=1):
        began = time.monotonic()
        if signature != (signature := [([id(p) for p in g["params"]], g["lr"]) for g in groups]):
            set_learning(model, groups)
            inputs.recut(learned)
            if number == 1:
                inputs.fit_head()
            if inputs.learns:
                optimizer, scheduler = _optimizer(config, groups, steps, optimizer)
            learned |= {id(p) for g in groups for p in g["params"]}
        model.train(inputs.learns)
        total = torch.zeros((), device=task.where.device)
        for i, (batch, targets) in enumerate(inputs.training(number)):
            task.check_time()
            if not inputs.learns:
                with torch.no_grad():
                    total += inputs.loss(batch.clone(), targets) * len(targets)
                continue
            assert optimizer is not None
            _set_step(scheduler, (number - 1) * len(task.train) + i)
            optimizer.zero_grad(set_to_none=True)
            total += inputs.backward(batch, targets) * len(targets)
            optimizer.step()
            average.update(model)
        loss = float(total) / task.train.pictures
        if not np.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {number}")
        score = float("nan")
        if task.validation:
            with average.in_place():
                found = inputs.validation()
            if not np.isfinite(found).all():
                raise Diverged(f"the predictions are not finite after epoch {number}")
            score = task.score(found)
        count = sum(p.numel() for p in model.parameters() if id(p) in learned)
        yield Epoch(number, loss, score, time.monotonic() - began, count)
    average.keep()
    model.penalties.clear()
    merge(model)


class _Average:
    """A running average of what learns and of its running statistics; ``decay`` 0 keeps none.

    The first steps count for more, as in timm, so that the beginning is soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.pairs: dict[torch.Tensor, torch.Tensor] = {}  # what is averaged: the average

    def update(self, model: Model) -> None:
        """Take in the weights after a step."""
        if not self.decay:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        learning = (p for p in model.parameters() if p.requires_grad)
        running = (b for b in model.buffers() if b.is_floating_point())
        moving: list[torch.Tensor] = [*learning, *running]
        known = [t for t in moving if t in self.pairs]
        self.pairs |= {t: t.detach().clone() for t in moving if t not in self.pairs}
        if known:
            averages = [self.pairs[t] for t in known]
            blend = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            blend(averages, [t.detach() for t in known], self.steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model with the average as its weights."""
        self.keep()
        try:
            yield
        finally:
            self.keep()

    def keep(self) -> None:
        """Swap the weights and their average."""
        for tensor, average in self.pairs.items():
            now = tensor.detach().clone()
            tensor.data.copy_(average)
            average.copy_(now)


def set_learning(model: Model, groups: list[Group]) -> None:
    """Let exactly the parameters in ``groups`` learn."""
    learning = {id(p) for g in groups for p in g["params"]}
    for p in model.parameters():
        p.requires_grad = id(p) in learning
        p.grad = None


def _optimizer(
    config: Config, groups: list[Group], steps: int, old: torch.optim.Optimizer | None
) -> tuple[torch.optim.Optimizer, Any]:
    """A new optimizer and its scheduler, with the state of the parameters that went on learning."""
    choice = config["optimizer"]
    # Optimizers write into the groups they are given; the plan's own must stay as they are.
    given = [dict(g) for g in groups]
    answer = choice.plugin.give({"groups": given, "steps": steps}, choice.params)
    try:
        optimizer, scheduler = answer
    except TypeError:
        raise PluginError(
            f"optimizer plugin {choice.name!r} must return an optimizer and a scheduler"
        ) from None
    if old is not None:
        learning = {p for g in groups for p in g["params"]}
        optimizer.state.update({p: s for p, s in old.state.items() if p in learning})
    return optimizer, scheduler


def _set_step(scheduler: Any, step: int) -> None:
    """Set the learning rates of a step: timm's schedulers take its number, torch's count."""
    if hasattr(scheduler, "step_update"):
        scheduler.step_update(step)
        return
    with warnings.catch_warnings():  # after a change of what learns, torch's catches up at once
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        while scheduler.last_epoch < step:
            scheduler.step()
