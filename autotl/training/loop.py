"""The training of one model, epoch by epoch."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotl.data import resident
from autotl.errors import Diverged, OutOfTime, PluginError
from autotl.frozen.activations import Activations
from autotl.models import Group, Model, merge_parametrizations, plan_groups
from autotl.space.space import Config
from autotl.training.batch_norm import require_layers
from autotl.training.checkpoint import pack_optimizer, select_tensors, unpack_optimizer
from autotl.training.inputs import Inputs
from autotl.training.job import Epoch, Job
from autotl.training.loss import TrainingLoss
from autotl.training.memory import convert_out_of_memory, retry_when_out_of_memory
from autotl.training.random_state import RandomState
from autotl.training.weight_average import WeightAverage


def fine_tune(model: Model, config: Config, job: Job) -> Iterator[Epoch]:
    """Train ``model`` with the configuration ``config``; yield after each epoch.

    A caller that stops iterating prunes the training; the model is fully trained when all epochs
    have been consumed, which are fewer if the score has not improved for ``job.patience`` epochs,
    or if the deadline passes and ``job.keep_completed_epochs`` is set. The learning rates follow
    one schedule over all epochs. When a strategy changes which parameters are trainable, the
    optimizer is rebuilt, and the state of the parameters that remain trainable is carried over.

    A head with a ``fit`` is fitted before the first epoch. If the backbone is frozen, it is not
    trained any further.

    The global random number generators and cuDNN's settings are left as the host process had them,
    also between epochs.

    Args:
        model: Is trained in place.
        config: The configuration that the model was built from.
        job: The data and the settings.

    Yields:
        What each epoch measured. Of the epochs before a checkpoint, only the last has predictions.

    Raises:
        Diverged: The loss or a prediction is not finite.
        OutOfMemory: A single image does not fit on the device, or what the training itself keeps,
            such as the state of the optimizer.
        OutOfTime: The deadline passed inside an epoch.
        Incompatible: A plugin cannot work with the others.
    """
    device = job.device.torch_device
    start = partial(_start, model, config, job)
    training, random = retry_when_out_of_memory(start, device, "the training")
    try:
        with convert_out_of_memory("the training", device):
            epochs = training.continue_from_checkpoint(random)
        yield from epochs
        while len(epochs) < job.epochs and not _has_stalled(epochs, job):
            with random.active(), convert_out_of_memory("the training", device):
                epoch = training.run_epoch(len(epochs) + 1)
            if epoch is None:
                break
            epochs.append(epoch)
            training.save_checkpoint(epochs, random)
            yield epoch
    finally:
        training.inputs.close()
    with random.active():
        training.finish()


def _start(model: Model, config: Config, job: Job) -> tuple[Training, RandomState]:
    random = RandomState(job.device, job.seed, job.compute.cudnn_benchmark)
    with random.active():
        return Training(model, config, job), random


def _has_stalled(epochs: Sequence[Epoch], job: Job) -> bool:
    """Whether none of the last ``patience`` scores is better than an earlier one."""
    if job.patience is None or len(epochs) <= job.patience:
        return False
    scores = [epoch.score for epoch in epochs]
    best, sign = max if job.higher_is_better else min, 1 if job.higher_is_better else -1
    earlier, latest = scores[: -job.patience], scores[-job.patience :]
    return sign * best(latest) <= sign * best(earlier)


class Training:
    """The training of one model, which the caller runs epoch by epoch, or batch by batch.

    In each epoch the caller calls ``run_epoch``, or ``begin_epoch``, ``step`` for each batch of
    ``inputs.training_batches``, and ``end_epoch``; after the last one it calls ``finish``.

    Args:
        model: Is trained in place.
        config: The configuration that the model was built from.
        job: The data and the settings.
        shared_inputs: The inputs of another training with the same backbone, frozen in all epochs,
            and the same augmentation. Their cached activations are used.
    """

    def __init__(
        self, model: Model, config: Config, job: Job, shared_inputs: Inputs | None = None
    ) -> None:
        self.model, self.config, self.job = model, config, job
        self.shared_inputs = shared_inputs
        if shared_inputs is None:
            resident.relax(job.device.torch_device)  # another process may have needed the memory
        self.inputs = Inputs(model, config, job)
        self.loss = TrainingLoss(self.inputs)
        self._plan = plan_groups(model, config["freeze"], job.epochs)
        self._optimizer: torch.optim.Optimizer | None = None
        self._scheduler: Any = None
        self._signature: Any = None
        self._trained: set[int] = set()
        self._steps = 0
        self._completed: dict[Tensor, Tensor] = {}  # the weights after the last complete epoch
        self._compile_from = 0
        unlabelled = self.inputs.unlabelled
        adapts = unlabelled if unlabelled and unlabelled.method.adapts_batch_norm else None
        if job.compute.compile or adapts:
            with RandomState(job.device, job.seed).active():
                simulated = simulate_strategy(model, config, job.epochs)
                if adapts:
                    require_layers(simulated.model, adapts.name, config["freeze"].name)
            self._compile_from = simulated.last_phase if job.compute.compile else 0

    def run_epoch(self, number: int) -> Epoch | None:
        """Run a whole epoch; None if the deadline passed inside it and earlier ones are kept.

        Raises:
            OutOfTime: The deadline passed, and no earlier epoch is kept.
        """
        self.begin_epoch(number)
        try:
            for batch, targets in self.inputs.training_batches(number):
                self.step(batch, targets)
            return self.end_epoch()
        except OutOfTime:
            if not self.restore_completed_epoch():
                raise
            return None

    def restore_completed_epoch(self) -> bool:
        """Restore the weights after the last complete epoch; return whether they were kept."""
        for tensor, completed in self._completed.items():
            tensor.data.copy_(completed)
        self.loss.average = WeightAverage(0.0)  # it is in the weights of the complete epoch
        return bool(self._completed)

    def begin_epoch(self, number: int) -> None:
        """Begin epoch ``number``, counted from 1: set the trainable parameters of the strategy."""
        self.number, self._start = number, time.monotonic()
        groups = next(self._plan)
        signature = [{**g, "params": [id(p) for p in g["params"]]} for g in groups]
        if signature != self._signature:
            self._signature = signature
            self._set_groups(groups)
        if number == self._compile_from:
            self.loss.compile_backbone()
        self.model.train(self.inputs.trainable)
        self._total_loss = torch.zeros((), device=self.job.device.torch_device)
        self._count = 0

    def step(self, batch: Activations, targets: Tensor) -> None:
        """Train on a batch of ``inputs.training_batches``; if nothing is trained, add its loss.

        In float16 the weights do not change in a step whose gradients overflow; the next ones are
        scaled less. Whether that happened is known on the device alone, so the averaged weights are
        updated in any case.
        """
        self.job.check_time()
        self.loss.progress = self._steps / self._all_steps
        self._steps += 1
        self._count += len(targets)
        if not self.inputs.trainable:
            self._total_loss += self.loss.evaluate(batch, targets) * len(targets)
            return
        assert self._optimizer is not None
        _set_step(self._scheduler, self._steps - 1)
        self._optimizer.zero_grad(set_to_none=True)
        self._total_loss += self.loss.backward(batch, targets) * len(targets)
        scaler = self.loss.scaler
        scaler.unscale_(self._optimizer)  # before a hook of the optimizer clips the gradients
        step = partial(_step, scaler, self._optimizer)
        retry_when_out_of_memory(step, self.job.device.torch_device, "the training")
        scaler.update()
        self.loss.average.update(self.model)

    def end_epoch(self) -> Epoch:
        """Validate the model; return the results of the epoch."""
        number, job = self.number, self.job
        # The only place where the CPU waits for the GPU.
        loss = float(self._total_loss) / self._count
        if not np.isfinite(loss):
            raise Diverged(f"the training loss is {loss} in epoch {number}{self._float16_hint}")
        if self.loss.scaler.get_scale() < 1:  # it is 65,536 in the beginning
            raise Diverged(f"the gradients overflow in epoch {number}{self._float16_hint}")
        score, probabilities = float("nan"), None
        with self.loss.average.applied():
            self.inputs.adapt_batch_norm()
            if job.validation:
                probabilities = self.inputs.predict_validation()
        if probabilities is not None:
            if not np.isfinite(probabilities).all():
                text = f"the predictions are not finite after epoch {number}{self._float16_hint}"
                raise Diverged(text)
            score = job.score(probabilities)
        if job.keep_completed_epochs and job.deadline is not None:
            self._keep_weights()
        count = sum(p.numel() for p in self.model.parameters() if id(p) in self._trained)
        seconds = time.monotonic() - self._start
        return Epoch(number, loss, score, seconds, count, probabilities)

    @property
    def _float16_hint(self) -> str:
        narrow = self.loss.scaler.is_enabled()
        return "; float16 may be too narrow, try --precision float32" if narrow else ""

    def finish(self) -> None:
        """After the last epoch: apply the averaged weights and merge parametrizations."""
        self.loss.average.swap()
        self.model.penalties.clear()
        merge_parametrizations(self.model)

    def save_checkpoint(self, epochs: Sequence[Epoch], random: RandomState) -> None:
        """Save the state after the epochs so far, if it is due."""
        checkpoint, last = self.job.checkpoint, epochs[-1]
        is_last = last.number == self.job.epochs or _has_stalled(epochs, self.job)
        if checkpoint is None or not (checkpoint.keeps_last if is_last else checkpoint.is_due):
            return
        names = {id(tensor): name for name, tensor in self._tensors().items()}
        if self._optimizer and not names.keys() >= set(map(id, self._optimizer.state)):
            return  # an optimizer plugin with parameters of its own
        if self.inputs.unlabelled and not self.inputs.unlabelled.is_stateless:
            return
        trained = [p for p in self.model.parameters() if id(p) in self._trained]
        own = (*trained, *self.model.buffers(), *self._method_tensors().values())
        tensors = {f"weight:{names[id(t)]}": t for t in own}
        tensors |= {f"average:{k}": v for k, v in self.loss.average.state(names).items()}
        tensors |= {f"random:{i}": state for i, state in enumerate(random.torch_states)}
        if last.predictions is not None:
            tensors["predictions"] = torch.from_numpy(last.predictions)
        optimizer: dict[str, dict[str, Any]] = {}
        if self._optimizer:
            states, optimizer = pack_optimizer(self._optimizer, names)
            tensors |= states
        facts = {
            "planned": self.job.epochs,
            "views": self.job.views,
            "steps": self._steps,
            "averaged_steps": self.loss.average.steps,
            "epochs": [asdict(replace(epoch, predictions=None)) for epoch in epochs],
            "optimizer": optimizer,
            "compile": self.job.compute.compile,
            "scaler": self.loss.scaler.state_dict(),
        }
        checkpoint.save(tensors, facts)

    def continue_from_checkpoint(self, random: RandomState) -> list[Epoch]:
        """Restore the state of the job's checkpoint, if there is one; return its epochs."""
        checkpoint = self.job.checkpoint
        plan = {"planned": self.job.epochs, "views": self.job.views}
        if checkpoint is None or not plan.items() <= checkpoint.facts.items():
            return []
        facts = checkpoint.facts
        try:
            tensors = checkpoint.load()
        except ValueError:  # it is damaged
            return []
        scaler = facts.get("scaler", {})  # earlier versions saved none
        is_scaled = self.loss.scaler.is_enabled()
        if bool(scaler) != is_scaled or not self._fits(tensors, len(random.torch_states)):
            return []
        with random.active():
            for number in range(1, len(facts["epochs"]) + 1):  # the strategy must reach this epoch
                self.begin_epoch(number)
        own = self._tensors()
        for name, tensor in select_tensors(tensors, "weight").items():
            own[name].data.copy_(tensor)
        self._steps = facts["steps"]
        averages = select_tensors(tensors, "average")
        self.loss.average.restore(averages, own, facts["averaged_steps"])
        if self._optimizer:
            unpack_optimizer(self._optimizer, own, tensors, facts["optimizer"])
        self.loss.scaler.load_state_dict(scaler)
        random.torch_states = [tensors[f"random:{i}"] for i in range(len(random.torch_states))]
        if self.job.keep_completed_epochs and self.job.deadline is not None:
            self._keep_weights()
        epochs = [Epoch(**values) for values in facts["epochs"]]
        if "predictions" in tensors:
            epochs[-1] = replace(epochs[-1], predictions=tensors["predictions"].numpy())
        return epochs

    def _fits(self, tensors: Mapping[str, Tensor], random_states: int) -> bool:
        """Whether the tensors of a checkpoint are those of this model, on this kind of device."""
        own, saved = self._tensors(), select_tensors(tensors, "weight")
        if len(select_tensors(tensors, "random")) != random_states:
            return False
        # A strategy may add parameters only when its epochs begin.
        return all(own[name].shape == saved[name].shape for name in own.keys() & saved.keys())

    def _tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers by name: those of the model, and of the unlabelled method."""
        named = chain(self.model.named_parameters(), self.model.named_buffers())
        return {**dict(named), **self._method_tensors()}

    def _method_tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers of what is done with unlabelled examples, by name."""
        unlabelled = self.inputs.unlabelled
        if unlabelled is None or unlabelled.module is None:
            return {}
        named = chain(unlabelled.module.named_parameters(), unlabelled.module.named_buffers())
        return {f"unlabelled {name}": tensor for name, tensor in named}

    @property
    def _all_steps(self) -> int:
        """The number of steps in all epochs."""
        return self.job.epochs * self.inputs.passes * len(self.job.train)

    def _keep_weights(self) -> None:
        """Copy all weights that were trained, averaged if the training averages them."""
        with self.loss.average.applied():
            trained = [p for p in self.model.parameters() if id(p) in self._trained]
            self._completed = {t: _copy(t) for t in (*trained, *self.model.buffers())}

    def _set_groups(self, groups: list[Group]) -> None:
        """Make the parameters of ``groups`` trainable; rebuild what depends on them."""
        set_trainable(self.model, groups)
        if self.shared_inputs:
            self.inputs.share_frozen_inputs(self.shared_inputs)
        else:
            self.inputs.find_split_point(self._trained)
        self.loss.update_batch_size()
        if self.number == 1:
            self.inputs.fit_head()
        if self.inputs.trainable:
            self._optimizer, self._scheduler = _make_optimizer(
                self.config, self._add_method(groups), self._all_steps, self._optimizer
            )
        parameters = [p for g in groups for p in g["params"]]
        self._trained |= set(map(id, parameters))
        if self._completed:  # this epoch trains more than the last one did
            self._completed = {p: _copy(p) for p in parameters} | self._completed

    def _add_method(self, groups: list[Group]) -> list[Group]:
        """Add the parameters of the unlabelled method, at the learning rate of the head."""
        unlabelled = self.inputs.unlabelled
        parameters = (
            list(unlabelled.module.parameters()) if unlabelled and unlabelled.module else []
        )
        head = set(map(id, self.model.head.parameters()))
        own = next((g for g in groups if head & set(map(id, g["params"]))), groups[0])
        return [*groups, {**own, "params": parameters}] if parameters else groups


def _copy(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, also one that is there already."""
    return tensor.detach().to("cpu", copy=True)


def set_trainable(model: Model, groups: list[Group]) -> None:
    """Make exactly the parameters in ``groups`` trainable, and drop all gradients."""
    trainable = {id(p) for g in groups for p in g["params"]}
    for p in model.parameters():
        p.requires_grad = id(p) in trainable
        p.grad = None


@dataclass(frozen=True)
class SimulatedStrategy:
    """What a freeze strategy does in its epochs.

    Attributes:
        model: A copy of the model as it is in the last epoch, with what the strategy adds to it
            (LoRA).
        backbone_trainable: For each epoch, whether a parameter of the backbone is trainable in it.
        last_phase: The first of the last epochs with the same trainable parameters, from 1.
    """

    model: Model
    backbone_trainable: list[bool]
    last_phase: int


def simulate_strategy(model: Model, config: Config, epochs: int) -> SimulatedStrategy:
    """Run the freeze strategy over all epochs, on a copy of the model and without training.

    Args:
        model: Is left as it is.
        config: Its freeze strategy is run.
        epochs: Number of epochs.
    """
    simulated = copy.deepcopy(model)
    backbone_trainable = []
    last_phase, trainable = 1, set[int]()
    for number, groups in enumerate(plan_groups(simulated, config["freeze"], epochs), 1):
        set_trainable(simulated, groups)
        backbone_trainable.append(simulated.backbone_trainable)
        before, trainable = trainable, {id(p) for g in groups for p in g["params"]}
        if trainable != before:
            last_phase = number
    return SimulatedStrategy(simulated, backbone_trainable, last_phase)


def _make_optimizer(
    config: Config, groups: list[Group], steps: int, old: torch.optim.Optimizer | None
) -> tuple[torch.optim.Optimizer, Any]:
    """Make an optimizer and its scheduler; copy the state of parameters that ``old`` trained."""
    choice = config["optimizer"]
    # Optimizers write into the groups that they are given; those of the plan must not change.
    copies = [dict(g) for g in groups]
    result = choice.plugin.call({"groups": copies, "steps": steps}, choice.params)
    try:
        optimizer, scheduler = result
    except TypeError:
        raise PluginError(
            f"optimizer plugin {choice.name!r} must return an optimizer and a scheduler"
        ) from None
    if old is not None:
        trainable = {p for g in groups for p in g["params"]}
        optimizer.state.update({p: s for p, s in old.state.items() if p in trainable})
    return optimizer, scheduler


def _step(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
    """Step an optimizer so that it can step again after an error.

    An optimizer allocates the state of a parameter in its first step, and takes one that memory ran
    out for half-way for complete. So all that it began in the failed step is removed. A group of
    parameters before the one that failed is stepped twice, at the first learning rate of warm-up.
    """
    begun = set(optimizer.state)
    try:
        scaler.step(optimizer)
    except RuntimeError:
        for parameter in optimizer.state.keys() - begun:
            del optimizer.state[parameter]
        raise


def _set_step(scheduler: Any, step: int) -> None:
    """Set the learning rates of a step: timm's schedulers take its number, torch's count steps."""
    if hasattr(scheduler, "step_update"):
        scheduler.step_update(step)
        return
    # A torch scheduler that was rebuilt in a later epoch first catches up, before any step of its
    # optimizer, about which torch warns.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        while scheduler.last_epoch < step:
            scheduler.step()
