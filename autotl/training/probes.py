"""Linear probes and other heads on one frozen backbone, trained side by side.

The activations of the backbone are read once for all heads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data import Batches
from autotl.errors import OutOfTime, find_device_fault, free_frames
from autotl.models import Device, Model, replace_head
from autotl.space.space import Choice, Config
from autotl.training.augmentation import Augmentation
from autotl.training.frozen_inputs import eval_mode
from autotl.training.inputs import Inputs
from autotl.training.job import Epoch, Job
from autotl.training.kernels import cuda_kernels
from autotl.training.loop import Training, set_trainable, simulate_strategy
from autotl.training.memory import (
    MicroBatches,
    convert_out_of_memory,
    retry_when_out_of_memory,
)
from autotl.training.predict import autocast, split_for_inference
from autotl.training.random_state import RandomState

Result = TypeVar("Result")


@dataclass(frozen=True)
class ProbeEpoch:
    """An epoch of one of the heads.

    Attributes:
        model: The backbone with this head.
        epoch: What the epoch measured.
        last: Whether this was the last epoch of the head. A head that was fitted, and is not
            trained any further, has one epoch.
    """

    model: Model
    epoch: Epoch
    last: bool


def keeps_backbone_frozen(model: Model, config: Config, epochs: int) -> bool:
    """Whether a strategy trains only the head in every epoch, as tested on a copy of the model."""
    simulate = partial(simulate_strategy, model, config, epochs)
    with RandomState(Device(model.device, None), 0).active():
        simulated = retry_when_out_of_memory(simulate, model.device, "a copy of the model")
    return not any(simulated.backbone_trainable)


def train_probes(
    model: Model, configs: Sequence[Config], job: Job
) -> Iterator[list[ProbeEpoch | Exception | None]]:
    """Train a head for each configuration on the backbone of ``model``; yield after each epoch.

    Each head is trained exactly as ``fine_tune`` would train it alone, with random numbers of its
    own, but the activations of the backbone are read once for all heads. The state of the host
    process is left alone as in ``fine_tune``.

    Args:
        model: Built from the first configuration.
        configs: They differ only in the values of a strategy that keeps the backbone frozen, in
            heads with the same input, and in the optimizer.
        job: The data and the settings.

    Yields:
        For each configuration its epoch, or the error that ended it, or None after that. A head
        that the deadline ends after its first epoch, with ``job.keep_completed_epochs``, gets None
        as well; it has the weights after its last complete epoch.

    Raises:
        Exception: Any error of the first configuration before its first step.
    """
    device = job.device.torch_device
    start = partial(_start_first, model, configs[0], job)
    first, host = retry_when_out_of_memory(start, device, "the training")
    try:
        with host.active():
            with first.random.torch_active(), convert_out_of_memory("the training", device):
                first.training.begin_epoch(1)
            runs = [first, *(_start_run(first, config) for config in configs[1:])]
        for number in range(1, job.epochs + 1):
            with host.active(), convert_out_of_memory("the training", device):
                results = _train_epoch(runs, number, last=number == job.epochs)
            yield results
            if not any(run.active for run in runs):
                return
    finally:
        first.training.inputs.close()


def extract_backbone_features(model: Model, config: Config, job: Job) -> NDArray[np.float32]:
    """Compute the features of a frozen backbone for the training images without augmentation.

    Args:
        model: Its backbone is run, unless the features are cached.
        config: The configuration that the model was built from.
        job: Has the images and the cache.

    Returns:
        Features ``[N, ...]``.

    Raises:
        OutOfMemory: They do not fit on the device.
    """

    def extract() -> NDArray[np.float32]:
        with RandomState(job.device, job.seed).active():
            inputs = Inputs(model, config, job)
            set_trainable(model, [{"params": list(model.head.parameters())}])
            try:
                inputs.find_split_point(set())
                features: NDArray[np.float32] = inputs.extract_head_inputs(job.train).cpu().numpy()
            finally:
                inputs.close()
        return features

    return retry_when_out_of_memory(extract, job.device.torch_device, "the features")


def extract_mirrored_features(
    model: Model, job: Job
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute the features of mirrored training images, of as many as there is time for.

    They are not cached.

    Args:
        model: Its backbone is run.
        job: Has the images; the deadline ends the computation.

    Returns:
        Features ``[n, ...]``, and the positions ``[n]`` of their images among the training images.
        The order is random, so that fewer images are a fair sample.
    """
    rows: list[Tensor] = []
    order = np.concatenate(job.train.shuffled_indices(job.seed))
    positions = split_for_inference(order, job.train, job.compute.inference_factor)
    micro_batches = MicroBatches(usual=job.train.batch_size)
    with (
        cuda_kernels(job.device),
        eval_mode(model),
        torch.inference_mode(),
        autocast(job.device),
    ):
        for images, _ in job.train.load(positions):
            with suppress(OutOfTime):
                job.check_time()
                rows.append(micro_batches.map(model.features, images.flip(3)).float())
                continue
            break
    done = np.concatenate([np.empty(0, np.int64), *positions[: len(rows)]])
    return torch.cat(rows).cpu().numpy() if rows else np.empty((0, 0), np.float32), done


def extract_features(
    model: Model,
    batches: Batches,
    device: Device,
    augment: Choice | None = None,
    view: int = 1,
) -> NDArray[np.float32]:
    """Compute the features of images, which are not cached.

    Args:
        model: Its backbone is run.
        batches: The images.
        device: The device and the type to compute in.
        augment: An augmentation that does not mix images; None for the images as they are.
        view: The number of the view: an image looks the same in it each time.

    Returns:
        Features ``[N, F]``, in the order of the images.

    Raises:
        OutOfMemory: They do not fit on the device.
    """
    positions = split_for_inference(np.arange(batches.num_examples), batches)
    sizes = MicroBatches(usual=batches.batch_size)
    augmentation = augment and Augmentation(augment, model.expects, model.task, device.torch_device)

    def extract() -> NDArray[np.float32]:
        rows: list[Tensor] = []
        with cuda_kernels(device), eval_mode(model), torch.inference_mode(), autocast(device):
            for own, (images, _) in zip(positions, batches.load(positions), strict=True):
                if augmentation:
                    images = augmentation.make_view(images, batches.indices[own], view)
                rows.append(sizes.map(model.features, images).float())
        features: NDArray[np.float32] = torch.cat(rows).cpu().numpy()
        return features

    return retry_when_out_of_memory(extract, device.torch_device, "the features")


class _Run:
    """One of the trainings, with random numbers and errors of its own."""

    def __init__(self, training: Training, random: RandomState) -> None:
        self.training, self.random = training, random
        self.error: Exception | None = None
        self._error_returned = False
        self._completed = False
        self.seconds = 0.0  # in this epoch

    @property
    def active(self) -> bool:
        """Whether it is neither completed nor ended by an error."""
        return not (self._completed or self.error)

    def call(self, method: Callable[..., Result], *arguments: Any) -> Result | None:
        """Call a method of the training; return None if the run is not active or fails."""
        if not self.active:
            return None
        start = time.monotonic()
        try:
            device = self.training.job.device.torch_device
            with self.random.torch_active(), convert_out_of_memory("the training", device):
                return method(self.training, *arguments)
        except Exception as error:  # of one head; the others continue
            if find_device_fault(error):
                raise
            self.stop(error)
            return None
        finally:
            self.seconds += time.monotonic() - start

    def stop(self, error: Exception) -> None:
        """End the run with an error, or, out of time, with its last complete epoch."""
        if isinstance(error, OutOfTime) and self.training.restore_completed_epoch():
            self.training.finish()
            self._completed = True
        else:
            free_frames(error)  # what failed must not take memory
            self.error = error

    def end_epoch(self, last: bool) -> ProbeEpoch | Exception | None:
        """End the epoch; return what ``train_probes`` yields for this run."""
        epoch = self.call(Training.end_epoch)
        if epoch is None:
            returned, self._error_returned = self._error_returned, True
            return None if returned else self.error
        if last or not self.training.inputs.trainable:  # more epochs would change nothing
            self.call(Training.finish)
            self._completed = True
        seconds, self.seconds = self.seconds, 0.0
        return ProbeEpoch(self.training.model, replace(epoch, seconds=seconds), self._completed)


def _start_first(model: Model, config: Config, job: Job) -> tuple[_Run, RandomState]:
    """Start the first training; return with it the states of NumPy and Python.

    All runs share these; torch's are per run.
    """
    host, random = (
        RandomState(job.device, job.seed, job.compute.cudnn_benchmark) for _ in range(2)
    )
    with host.active(), random.torch_active():
        return _Run(Training(model, config, job), random), host


def _start_run(first: _Run, config: Config) -> _Run:
    """Start the training of another head on the backbone of the first run."""
    training, began = first.training, time.monotonic()
    job = training.job

    def start() -> _Run:
        model = replace_head(training.model, config["head"], job.seed)
        random = RandomState(job.device, job.seed)
        with random.torch_active():
            return _Run(Training(model, config, job, shared_inputs=training.inputs), random)

    try:
        run = retry_when_out_of_memory(start, job.device.torch_device, "the head")
    except Exception as error:
        if find_device_fault(error):
            raise
        run = _Run(training, RandomState(job.device, job.seed))
        run.error = error
    run.seconds = time.monotonic() - began
    run.call(lambda training: training.job.check_time())
    run.call(Training.begin_epoch, 1)
    return run


def _train_epoch(
    runs: Sequence[_Run], number: int, last: bool
) -> list[ProbeEpoch | Exception | None]:
    """Train all runs for an epoch, on the batches of the first of them that trains its head."""
    if number > 1:
        for run in runs:
            run.call(Training.begin_epoch, number)
    source = next((run for run in runs if run.training.inputs.trainable), runs[0])
    batches = source.training.inputs.training_batches(number)
    while True:
        try:
            with source.random.torch_active():
                batch = next(batches, None)
        except OutOfTime as error:
            if number == 1:
                raise
            for run in runs:
                if run.active:
                    run.stop(error)
            batch = None
        if batch is None:
            return [run.end_epoch(last) for run in runs]
        inputs, targets = batch
        for run in runs:
            # If there was no room for cached activations, these are images, for all runs.
            run.training.inputs.frozen = source.training.inputs.frozen
            run.call(Training.step, inputs, targets)
