"""The training of one model, an epoch at a time."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from autotl.errors import Diverged, PluginError
from autotl.models import Group, Model, merge_parametrizations, plan_groups
from autotl.space.space import Config
from autotl.training.inputs import Inputs
from autotl.training.task import Epoch, Task


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
    training = Training(model, config, task)
    try:
        for number in range(1, task.epochs + 1):
            training.begin(number)
            for batch, targets in training.inputs.training(number):
                training.step(batch, targets)
            yield training.end()
    finally:
        training.inputs.close()
    training.finish()


class Training:
    """One model in training, driven from outside: ``begin``, a ``step`` for each batch, ``end``.

    Args:
        model: What is trained.
        config: How.
        task: On what.
        beside: The inputs of another training with the same backbone, wholly frozen, and the same
            augmentation: what they keep serves this one too.
    """

    def __init__(
        self, model: Model, config: Config, task: Task, beside: Inputs | None = None
    ) -> None:
        self.model, self.config, self.task, self.beside = model, config, task, beside
        self.inputs = Inputs(model, config, task)
        self._plan = plan_groups(model, config["freeze"], task.epochs)
        self._average = _Average(task.ema)
        self._optimizer: torch.optim.Optimizer | None = None
        self._scheduler: Any = None
        self._signature: Any = None
        self._learned: set[int] = set()
        self._steps = 0

    def begin(self, number: int) -> None:
        """Begin an epoch, numbered from 1: let learn what the strategy says."""
        self.number, self._began = number, time.monotonic()
        groups = next(self._plan)
        signature = [([id(p) for p in g["params"]], g["lr"]) for g in groups]
        if signature != self._signature:
            self._signature = signature
            self._let_learn(groups)
        self.model.train(self.inputs.learns)
        self._total = torch.zeros((), device=self.task.where.device)

    def _let_learn(self, groups: list[Group]) -> None:
        set_trainable(self.model, groups)
        if self.beside:
            self.inputs.join(self.beside)
        else:
            self.inputs.recut(self._learned)
        if self.number == 1:
            self.inputs.fit_head()
        if self.inputs.learns:
            steps = self.task.epochs * len(self.task.train)
            made = _optimizer(self.config, groups, steps, self._optimizer)
            self._optimizer, self._scheduler = made
        self._learned |= {id(p) for g in groups for p in g["params"]}

    def step(self, batch: Tensor, targets: Tensor) -> None:
        """Learn from a batch of ``inputs.training``; where nothing learns, only its loss counts."""
        self.task.check_time()
        self._steps += 1
        if not self.inputs.learns:
            with torch.no_grad():
                self._total += self.inputs.loss(batch, targets) * len(targets)
            return
        assert self._optimizer is not None
        _set_step(self._scheduler, self._steps - 1)
        self._optimizer.zero_grad(set_to_none=True)
        self._total += self.inputs.backward(batch, targets) * len(targets)
        self._optimizer.step()
        self._average.update(self.model)

    def end(self) -> Epoch:
        """End the epoch: what it measured, with the score on validation."""
        number, task = self.number, self.task
        loss = (
            float(self._total) / task.train.num_examples
        )  # the only time that a GPU is waited for
        if not np.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {number}")
        score = float("nan")
        if task.validation:
            with self._average.in_place():
                found = self.inputs.validation()
            if not np.isfinite(found).all():
                raise Diverged(f"the predictions are not finite after epoch {number}")
            score = task.score(found)
        count = sum(p.numel() for p in self.model.parameters() if id(p) in self._learned)
        return Epoch(number, loss, score, time.monotonic() - self._began, count)

    def finish(self) -> None:
        """After the last epoch: keep the averaged weights, merge what was reparametrised."""
        self._average.keep()
        self.model.penalties.clear()
        merge_parametrizations(self.model)


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


def set_trainable(model: Model, groups: list[Group]) -> None:
    """Let exactly the parameters in ``groups`` learn."""
    learning = {id(p) for g in groups for p in g["params"]}
    for p in model.parameters():
        p.requires_grad = id(p) in learning
        p.grad = None


def simulate_strategy(model: Model, config: Config, epochs: int) -> tuple[Model, list[bool]]:
    """What a strategy will do, on a copy: as it learns in the end, and when its backbone learns.

    Args:
        model: Is left as it is.
        config: Its strategy is asked.
        epochs: How many.

    Returns:
        The copy, with what the strategy adds to it (LoRA), and for each epoch whether any
        parameter of the backbone learns in it.
    """
    trial = copy.deepcopy(model)
    learns = []
    for groups in plan_groups(trial, config["freeze"], epochs):
        set_trainable(trial, groups)
        learns.append(trial.backbone_trainable)
    return trial, learns


def _optimizer(
    config: Config, groups: list[Group], steps: int, old: torch.optim.Optimizer | None
) -> tuple[torch.optim.Optimizer, Any]:
    """A new optimizer and its scheduler, with the state of the parameters that went on learning."""
    choice = config["optimizer"]
    # Optimizers write into the groups they are given; the plan's own must stay as they are.
    given = [dict(g) for g in groups]
    answer = choice.plugin.call({"groups": given, "steps": steps}, choice.params)
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
