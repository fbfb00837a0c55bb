"""Fine-tune one model, an epoch at a time. Knows torch; has never heard of Optuna.

Shapes: N pictures in a part, B in a batch, F features, C classes.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl import cut
from autotl.cache import Features
from autotl.cut import Cut
from autotl.data import Batches
from autotl.errors import Diverged, OutOfMemory, OutOfTime, PluginError
from autotl.model import Device, Group, Model, plan
from autotl.space import Config


@dataclass(frozen=True)
class Epoch:
    """What one epoch of fine-tuning measured."""

    number: int  # from 1
    loss: float  # mean training cross-entropy, nats
    score: float  # on validation, in the study's metric; NaN without a validation part
    seconds: float
    learned: int  # parameters that have learned so far, in this epoch or before


@dataclass
class Task:
    """What a model is fine-tuned on, and how far.

    ``score`` rates probabilities ``[N, C]`` of the validation part; ``deadline`` is a reading of
    ``time.monotonic``; ``kept`` shares what frozen backbones compute, under keys that begin with
    ``data`` (None shares nothing). A frozen part sees ``views`` augmented views of a picture, which
    are kept; later epochs see them again, so that it runs no more often than that.
    ``label_smoothing`` is the share of a label that all classes get (Szegedy et al. 2015,
    arXiv:1512.00567).
    """

    train: Batches
    validation: Batches | None
    epochs: int
    score: Callable[[NDArray[np.float32]], float]
    where: Device
    seed: int = 0
    deadline: float | None = None
    kept: Features = field(default_factory=Features)
    data: Hashable = None
    views: int = 4
    label_smoothing: float = 0.0
    step: Callable[[], object] = lambda: None  # called at every step

    @property
    def validation_pictures(self) -> int:
        """How many pictures the validation part has."""
        return self.validation.pictures if self.validation else 0

    def check_time(self) -> None:
        """Raise ``OutOfTime`` when the deadline has passed; called before every step."""
        self.step()
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime("the time budget ended inside an epoch")


def fine_tune(model: Model, config: Config, task: Task) -> Iterator[Epoch]:
    """Train ``model`` as ``config`` says; yield after each epoch.

    The caller prunes by not asking for the next epoch, and gets the trained model by asking for
    all of them. The learning rates follow one schedule over all epochs; when a strategy changes
    what learns, the optimizer is rebuilt and the state of what goes on learning is carried over.

    Raises:
        Diverged: The loss or a prediction is not finite.
        OutOfMemory: A single picture does not fit on the device.
        OutOfTime: The deadline passed inside an epoch.
        Incompatible: A plugin cannot work with the others.
    """
    torch.manual_seed(task.seed)
    inputs = _Inputs(model, config, task)
    steps = task.epochs * len(task.train)
    optimizer: torch.optim.Optimizer | None = None
    signature: Any = None
    learned: set[int] = set()
    for number, groups in enumerate(plan(model, config["freeze"], task.epochs), start=1):
        began = time.monotonic()
        if signature != (signature := [([id(p) for p in g["params"]], g["lr"]) for g in groups]):
            set_learning(model, groups)
            optimizer, scheduler = _optimizer(config, groups, steps, optimizer)
            inputs.recut(learned)
            learned |= {id(p) for g in groups for p in g["params"]}
        model.train()
        total = torch.zeros((), device=task.where.device)
        for i, (batch, labels) in enumerate(inputs.training(number)):
            task.check_time()
            _set_step(scheduler, (number - 1) * len(task.train) + i)
            assert optimizer is not None
            optimizer.zero_grad(set_to_none=True)
            total += inputs.backward(batch, labels) * len(labels)
            optimizer.step()
        loss = float(total) / task.train.pictures
        if not np.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {number}")
        score = float("nan")
        if task.validation:
            if not np.isfinite(found := inputs.validation()).all():
                raise Diverged(f"the predictions are not finite after epoch {number}")
            score = task.score(found)
        count = sum(p.numel() for p in model.parameters() if id(p) in learned)
        yield Epoch(number, loss, score, time.monotonic() - began, count)


def set_learning(model: Model, groups: list[Group]) -> None:
    """Let exactly the parameters in ``groups`` learn."""
    learning = {id(p) for g in groups for p in g["params"]}
    for p in model.parameters():
        p.requires_grad = id(p) in learning
        p.grad = None


class _Inputs:
    """Batches for the model: pictures, or where there is a cut, what its frozen part made of them.

    The two differ only in what is fed and which part of the model runs.
    """

    def __init__(self, model: Model, config: Config, task: Task) -> None:
        self.model, self.task = model, task
        backbone, augment = config["backbone"], config["augment"]
        self.augment = augment.plugin.give({"size": model.expects.size}, augment.params)
        self.backbone_key = (task.data, backbone.name, str(dict(backbone.params)), model.expects)
        self.augment_key = (augment.name, str(dict(augment.params)))
        self.micro = math.ceil(task.train.pictures / len(task.train))  # all of the largest batch
        self.cut: Cut | None = None
        self.kept = task.kept

    def recut(self, learned: set[int]) -> None:
        """Cut the model below what learns now; ``learned`` has the ids of all that ever did."""
        images, _ = next(iter(self.task.train))
        self.cut = cut.find(self.model, images[:4])
        if self.cut is None:
            return
        activations = self.run_below(images[:4])
        count = self.task.train.pictures * self.views + self.task.validation_pictures
        if activations[0].numel() * activations.element_size() * count > self.task.kept.limit / 2:
            self.cut = None  # too big to keep; the frozen part runs again in every epoch
        elif self.task.data is None or self.cut.parameters & learned:
            self.kept = Features(self.task.kept.limit)  # no longer what other trials would find

    @property
    def views(self) -> int:
        """How many augmented views are kept of a picture."""
        return min(self.task.views, self.task.epochs)

    def training(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches ``(pictures or activations [B, ...], labels [B])`` of one epoch."""
        batches = self.task.train
        if self.cut is None:
            for images, labels in batches.epoch(epoch):
                yield self.augment(images), labels
            return
        activations = self._activations("train", batches, (epoch - 1) % self.views)
        for rows, labels in batches.rows(epoch):
            yield activations[rows], labels

    def validation(self) -> NDArray[np.float32]:
        """Probabilities ``[N, C]`` of the validation part."""
        part = self.task.validation
        assert part is not None
        if self.cut is None:
            return predict(self.model, part, self.task.where, self.task.check_time)
        activations = self._activations("validation", part, None)
        self.model.eval()
        with torch.inference_mode(), autocast(self.task.where):
            parts = activations.split(part.batch_size)  # type: ignore[no-untyped-call]
            # Layers that work in place must not spoil what is kept.
            logits = [self.cut.above(some.clone()) for some in parts]
        return probabilities(torch.cat(logits))

    def backward(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of the mean loss of a batch; return that loss, detached.

        When memory runs out, the batch is done again in halves, quarters, ... of its pictures:
        the gradients stay those of the whole batch.
        """
        network = self.cut.above if self.cut else self.model
        while True:
            try:
                loss = torch.zeros((), device=labels.device)
                # Nearly equal parts: no picture is left alone, which breaks BatchNorm.
                count = math.ceil(len(labels) / self.micro)
                parts = zip(batch.tensor_split(count), labels.tensor_split(count), strict=True)
                for part, truth in parts:
                    with autocast(self.task.where):
                        logits = network(part)
                    share = len(truth) / len(labels)
                    loss_of_part = functional.cross_entropy(
                        logits.float(), truth, label_smoothing=self.task.label_smoothing
                    )
                    partial = loss_of_part * share
                    partial.backward()  # type: ignore[no-untyped-call]
                    loss += partial.detach()
                return loss
            except RuntimeError as error:  # torch.OutOfMemoryError is one
                if not _is_out_of_memory(error):
                    raise
            if self.micro == 1:
                raise OutOfMemory("one picture alone does not fit on the device")
            self.micro = max(1, min(self.micro, len(labels)) // 2)
            self.model.zero_grad(set_to_none=True)
            if labels.device.type == "cuda":
                torch.cuda.empty_cache()

    def _activations(self, part: str, batches: Batches, view: int | None) -> Tensor:
        """Activations ``[N, ...]`` in the order of ``batches``; view None is not augmented."""
        assert self.cut is not None

        def compute() -> Tensor:
            found = []
            for images, _ in batches:
                self.task.check_time()
                found.append(self.run_below(images if view is None else self.augment(images)))
            return torch.cat(found)

        # The view's own random numbers, so that it is the same whichever trial computes it.
        devices = [self.task.where.device] if self.task.where.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(view or 0)
            key = (*self.backbone_key, self.cut.name, part)
            return self.kept.get(key if view is None else (*key, view, self.augment_key), compute)

    def run_below(self, images: Tensor) -> Tensor:
        """Activations ``[B, ...]`` of the frozen part."""
        assert self.cut is not None
        training = self.model.training
        self.model.eval()
        with torch.inference_mode(), autocast(self.task.where):
            activations = _in_halves(self.cut.below, images)
        self.model.train(training)
        return activations.clone()  # outside inference mode, so that autograd may use it


def predict(
    model: Model,
    batches: Batches,
    where: Device,
    check_time: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Probabilities ``[N, C]`` of the pictures in ``batches``, in their order."""
    model.eval()
    found = []
    for images, _ in batches:
        check_time()
        found.append(_logits(model, images, where))
    return probabilities(torch.cat(found))


def _logits(model: Model, images: Tensor, where: Device) -> Tensor:
    with torch.inference_mode(), autocast(where):
        return _in_halves(model, images).float()


def _in_halves(work: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """``work(batch)``; where memory does not suffice, of its halves, quarters, ..."""
    try:
        return work(batch)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    if len(batch) == 1:
        raise OutOfMemory("one picture alone does not fit on the device")
    if batch.device.type == "cuda":
        torch.cuda.empty_cache()
    return torch.cat([_in_halves(work, half) for half in batch.tensor_split(2)])


def probabilities(logits: Tensor) -> NDArray[np.float32]:
    """Logits ``[N, C]`` to probabilities ``[N, C]``."""
    found: NDArray[np.float32] = logits.float().softmax(1).cpu().numpy()
    return found


def autocast(where: Device) -> contextlib.AbstractContextManager[Any]:
    """Run in the type that ``where`` computes fastest in."""
    enabled = where.autocast is not None
    return torch.autocast(where.device.type, dtype=where.autocast, enabled=enabled)


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


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
    inputs = _Inputs(trial, config, task)
    inputs.recut(set())
    trial.train()
    images, labels = next(iter(task.train))
    batch, below = images, 0.0
    if inputs.cut:
        batch = inputs.run_below(images)
        below = _seconds(lambda: inputs.run_below(inputs.augment(images)), task.where)
    train, valid = task.train.pictures / len(labels), task.validation_pictures / len(labels)
    above = _seconds(lambda: inputs.backward(batch, labels), task.where)
    # The optimizer's step comes on top; validation runs forward only.
    epoch = above * (1.1 * train + valid / 3)
    few, plain = images[:4], Device(task.where.device, None)
    whole = _seconds(lambda: _logits(trial.eval(), few, plain), plain) / len(few)
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


def milliseconds_per_picture(model: Model, images: Tensor, where: Device) -> float:
    """How long the model takes for one picture of a batch ``uint8 [B, 3, S, S]``; best of three."""
    model.eval()
    times = [_seconds(lambda: _logits(model, images, where), where) for _ in range(3)]
    return 1000 * min(times) / len(images)
