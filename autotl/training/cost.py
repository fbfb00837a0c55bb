"""The time and memory of fine-tuning, measured in a few steps, and the fastest way to compute.

Measurements are stored in ``Job.measured_costs`` by ``cost_key``, so that a search measures each
kind of trial once, and a search that is resumed computes as it did before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autotl.data import resident
from autotl.frozen.activations import Activations, concatenate
from autotl.models import Device, Model, blank_batch, build_backbone, fast_inference
from autotl.space.space import Choice, Config
from autotl.training.compute import COMPILE_SECONDS, ComputeSettings, cost_key, openvino_key
from autotl.training.frozen_inputs import FrozenInputs
from autotl.training.inputs import Inputs
from autotl.training.job import Job
from autotl.training.kernels import cuda_kernels
from autotl.training.loop import simulate_strategy
from autotl.training.loss import TrainingLoss
from autotl.training.memory import MicroBatches, retry_when_out_of_memory
from autotl.training.predict import autocast, compute_logits
from autotl.training.random_state import RandomState
from autotl.training.tuning import Times, find_inference_factor, tune_cudnn
from autotl.training.unlabelled import Rows

CPU_IMAGES, CPU_IMAGE_SIDE = 16, 224
"""Number of images that are timed on a CPU, and their side in pixels. Of smaller images more are
timed: an image takes less time in a larger batch of them."""

GPU_IMAGES = 128
"""Number of blank images that are timed on CUDA: a few take as long as one."""

FLOAT32_SPEEDUP = 1.1
"""How many times faster float32 must be to replace the 16-bit type that the device prefers."""

TUNED_FROM = 10.0
"""Seconds of a training from which on cuDNN's algorithms and the batches of inference are timed."""

COMPILE_SPEEDUP = 1.3
"""How many times faster training is at least with ``torch.compile``."""

OPENVINO_MEASURED_FROM = 10.0
"""Seconds in the frozen layers from which on OpenVINO is compared with PyTorch."""

OPENVINO_SAVING = 2.0
"""How many times what compiling for OpenVINO takes must be saved by it."""

OPTIMIZER_FACTOR = 1.1
"""Time of a training step with the optimizer, relative to its forward and backward passes."""

NEW_FRACTION = 1 / 4
"""Fraction of the training images of a resample whose augmented views are not cached yet."""


@dataclass(frozen=True)
class Cost:
    """An estimate of the time and memory of ``fine_tune``; all times are in seconds.

    Attributes:
        view_seconds: To run the frozen layers once over the training images.
        epoch_seconds: To train on all training images once and validate.
        setup_seconds: Whatever the number of epochs.
        backbone_epoch_fraction: Fraction of the epochs in which more than the head is trained;
            1 where the head alone is trained in all of them. Of the other epochs, only the views
            that they compute count.
        probe_view_seconds: To run the whole backbone once over the training images, in the epochs
            that train the head alone before others train more.
        prediction_seconds: To predict one image in float32.
        forward_seconds: The forward pass of one image in training.
        backward_seconds: The backward pass of one image, down to the lowest trainable layer.
        activation_bytes: Of one image at the split point; 0 without one.
        peak_bytes: Peak memory of a training step; None where the device does not report it.
        compile_seconds: To compile the backbone with ``torch.compile`` for all sizes of batches, in
            each training; 0 if it is not compiled.
        compiled_fraction: Fraction of the epochs in which it may be compiled: the last ones, whose
            trainable parameters are the same.
        compute: The fastest settings, for ``Job.compute``.
    """

    view_seconds: float
    epoch_seconds: float
    setup_seconds: float
    backbone_epoch_fraction: float
    prediction_seconds: float
    probe_view_seconds: float = 0.0
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    activation_bytes: int = 0
    peak_bytes: int | None = None
    compile_seconds: float = 0.0
    compiled_fraction: float = 1.0
    compute: ComputeSettings = field(default_factory=ComputeSettings)

    def training_seconds(self, epochs: int, views: int = 4, folds: int = 1) -> float:
        """Seconds of a training of ``epochs`` epochs on ``views`` cached views.

        Args:
            epochs: Number of epochs.
            views: Number of views.
            folds: Number of folds of a cross-validation, with a training for each. What the first
                one has not cached are the augmented views of the images that it validates on.
        """
        seconds = self.setup_seconds + folds * self.compile_seconds
        seconds += folds * self._epochs_seconds(epochs)
        seconds += self.view_seconds * min(views, epochs)
        seconds += self.probe_view_seconds * min(views, self._probe_epochs(epochs))
        if folds > 1:
            seconds += self.new_view_seconds(epochs, views) / NEW_FRACTION / (folds - 1)
        return seconds

    def repeat_seconds(self, epochs: int, views: int = 4) -> float:
        """Seconds of the same training on another resample of the data."""
        seconds = self.compile_seconds + self.new_view_seconds(epochs, views)
        return seconds + self._epochs_seconds(epochs)

    def new_view_seconds(self, epochs: int, views: int = 4) -> float:
        """Seconds to run the frozen layers over another resample of the data.

        A quarter of its training images is new to it. The activations of all other images, and
        those of all images without augmentation, are cached.
        """
        probed = max(0, min(views, self._probe_epochs(epochs)) - 1)
        new = self.view_seconds * (min(views, epochs) - 1) + self.probe_view_seconds * probed
        return new * NEW_FRACTION

    def affordable_views(self, maximum: int, seconds: float) -> int:
        """The number of views, from 1 to ``maximum``, that are computed in ``seconds``."""
        return max(1, min(maximum, int(seconds / max(self.view_seconds, 1e-9))))

    def compiled(self, job: Job, epochs: int, seconds: float) -> Cost:
        """The cost with ``torch.compile``, if that pays in ``epochs`` epochs and there is time.

        Compiling is not interrupted by a deadline, so there must be time for it and for an
        uncompiled training.

        Args:
            job: Has the device and the training images.
            epochs: Number of epochs.
            seconds: The maximum seconds of everything but compiling and what it takes.
        """
        if job.device.torch_device.type != "cuda" or self.view_seconds:
            return self
        sizes = 1 if job.train.num_examples % len(job.train) == 0 else 2
        compiling = sizes * COMPILE_SECONDS
        saved = (1 - 1 / COMPILE_SPEEDUP) * self.compiled_fraction * epochs * self.epoch_seconds
        if saved <= compiling or compiling > seconds:
            return self
        compute = replace(self.compute, compile=True)
        return replace(self, compile_seconds=compiling, compute=compute)

    def facts(self) -> dict[str, Any]:
        """What is stored with a trial: milliseconds and bytes per image, and bytes of a step."""
        return {
            "forward_ms": 1000 * self.forward_seconds,
            "backward_ms": 1000 * self.backward_seconds,
            "activation_bytes": self.activation_bytes,
            "peak_bytes": self.peak_bytes,
        }

    def _probe_epochs(self, epochs: int) -> int:
        """The number of epochs that train the head alone before others train more."""
        return round((1 - self.backbone_epoch_fraction) * epochs)

    def _epochs_seconds(self, epochs: int) -> float:
        return self.epoch_seconds * self.backbone_epoch_fraction * epochs


@dataclass(frozen=True)
class _Timing:
    """Seconds per image, and what was found out with them.

    Attributes:
        prefix: Through the frozen layers; 0 without a split point.
        forward: The forward pass of the other layers.
        step: The forward and backward pass of the other layers; 0 where nothing is trained.
        prediction: Through the whole model, in float32.
        activation_bytes: Of one image at the split point; 0 without one.
        peak_bytes: See ``Cost``.
        autocast: Whether autocast was on.
        tuning: Seconds in which cuDNN times its algorithms for a size of batches; 0 if it does not.
        inference_factor: See ``ComputeSettings``.
    """

    prefix: float
    forward: float
    step: float
    prediction: float
    activation_bytes: int
    peak_bytes: int | None
    autocast: bool
    tuning: float = 0.0
    inference_factor: int | None = None


def measure_cost(model: Model, config: Config, job: Job) -> Cost:
    """Time a few steps on a copy of the model, unless such a model was measured before.

    The steps train what the strategy trains in its last epoch, which is the most that it ever does.
    What epochs that train the head alone compute once follows from the forward pass.

    Args:
        model: Is left as it is.
        config: The configuration that the model was built from.
        job: What the model would be trained on. The measurement is added to its
            ``measured_costs``.

    Returns:
        The estimated cost.

    Raises:
        OutOfMemory: A single image does not fit on the device, or not even a copy of the model.
    """
    measure = partial(_measure_cost, model, config, job)
    return retry_when_out_of_memory(measure, job.device.torch_device, "the model")


def _measure_cost(model: Model, config: Config, job: Job) -> Cost:
    with RandomState(job.device, job.seed).active():
        simulated = simulate_strategy(model, config, job.epochs)
        trial, backbone_trainable = simulated.model, simulated.backbone_trainable
        key = cost_key(trial, config, job.device)
        if key not in job.measured_costs:
            job.measured_costs[key] = asdict(_time_in_fastest_type(trial, config, job, key))
        timing = _Timing(**job.measured_costs[key])
        device = ComputeSettings(autocast=timing.autocast).apply_to(job.device)
        openvino = job.measured_costs.get(openvino_key(trial, config, device), {})
        trains = trial.backbone_trainable or not hasattr(trial.head, "fit")
        inputs = Inputs(trial, config, job)
        inputs.trainable = trains
        augmentation = _time_augmentation(inputs) if trains else 0.0
    backbone_epochs = sum(backbone_trainable)
    fraction = backbone_epochs / job.epochs if backbone_epochs else 1.0
    cost = _estimate_cost(timing, augmentation, fraction, job, openvino, inputs.extra_rows)
    return replace(cost, compiled_fraction=1 - (simulated.last_phase - 1) / job.epochs)


def _estimate_cost(
    timing: _Timing,
    augmentation: float,
    fraction: float,
    job: Job,
    openvino: Mapping[str, Any],
    rows: Rows,
) -> Cost:
    """Estimate the cost from seconds per image, of which ``augmentation`` for augmenting it.

    ``openvino`` has what ``_compare_with_openvino`` measured, if it was called, and ``rows`` how
    many unlabelled examples there are.
    """
    train, validation = job.train.num_examples, job.num_validation_examples + rows.adapted
    cached_rows, passed = train + rows.unlabelled, train * rows.passes
    has_split_point = timing.activation_bytes > 0
    prefix, compiling, openvino_from = timing.prefix, 0.0, 0
    saved = prefix * (1 - 1 / openvino.get("speedup", 1.0))
    if saved > 0:
        openvino_from = math.ceil(OPENVINO_SAVING * openvino["seconds"] / saved)
    if 0 < openvino_from <= cached_rows:
        prefix, compiling = prefix - saved, openvino["seconds"]
    view = augmentation + prefix
    cached = False
    if has_split_point:  # activations that are slower to read than to compute are not cached
        count = cached_rows * min(job.views, job.epochs) + validation
        device, row_bytes = job.device.torch_device, timing.activation_bytes
        cached = job.cache.seconds_to_read(row_bytes, count, device) < view
    # Validation runs forward only, and so does what adapts BatchNorm, which counts there.
    epoch = OPTIMIZER_FACTOR * passed * timing.step + validation * timing.forward
    if not cached:
        fed = passed * rows.relative
        epoch += fed * (augmentation + timing.prefix) + validation * timing.prefix
    compute = ComputeSettings(
        autocast=timing.autocast,
        # Without a split point in the last epoch there may be one in earlier epochs.
        cache_activations=cached or not has_split_point,
        cudnn_benchmark=timing.tuning > 0,
        inference_factor=timing.inference_factor,
        openvino_from=openvino_from,
    )
    # Pooled features are always faster to read than to compute.
    whole = prefix + timing.forward if fraction < 1 else 0.0
    return Cost(
        view_seconds=cached_rows * view if cached else 0.0,
        epoch_seconds=epoch,
        setup_seconds=(compiling + validation * prefix if cached else 0.0)
        + validation * whole
        + 2 * timing.tuning,  # batches have two sizes
        backbone_epoch_fraction=fraction,
        probe_view_seconds=cached_rows * (augmentation + whole) if fraction < 1 else 0.0,
        prediction_seconds=timing.prediction,
        forward_seconds=timing.prefix + timing.forward,
        backward_seconds=max(0.0, timing.step - timing.forward),
        activation_bytes=timing.activation_bytes,
        peak_bytes=timing.peak_bytes,
        compute=compute,
    )


def _time_in_fastest_type(trial: Model, config: Config, job: Job, key: str) -> _Timing:
    """Time a few steps in the faster of autocast and float32, where the device has both.

    Which one is faster is measured twice for a backbone, image size and device: with a trainable
    and with a frozen backbone. Memory format is channels last in either; of six architectures none
    was slower so.
    """
    state = "trained" if trial.backbone_trainable else "frozen"
    type_key = f"{key.rpartition(', ')[0]}, {state}"
    default = job.device.autocast is not None
    steps = _Steps(trial, config, job, job.measured_costs.get(type_key, default))
    timing = steps.time()
    if job.device.autocast and type_key not in job.measured_costs:
        others = _Steps(trial, config, job, autocast=False)
        float32 = others.time()
        if FLOAT32_SPEEDUP * (float32.prefix + float32.step) < timing.prefix + timing.step:
            steps, timing = others, float32
        job.measured_costs[type_key] = timing.autocast
    return steps.tune(timing)


class _Steps:
    """A few steps of a training, to be timed with autocast or in float32.

    Args:
        trial: The model.
        config: Its configuration.
        job: What it would be trained on.
        autocast: Whether autocast is on.
    """

    def __init__(self, trial: Model, config: Config, job: Job, autocast: bool) -> None:
        self._trial, self._device = trial, job.device.torch_device
        compute = ComputeSettings(autocast=autocast)
        self._inputs = Inputs(trial, config, replace(job, compute=compute, teacher=None))
        self._inputs.find_split_point(set())
        images, labels = next(iter(job.train))
        if self._device.type == "cpu" and images.ndim == 4:
            # An image of a few takes as long as one of a whole batch.
            count = max(CPU_IMAGES, CPU_IMAGES * CPU_IMAGE_SIDE**2 // images.shape[-1] ** 2)
            images, labels = images[:count], labels[:count]
        batch: Activations = self._inputs.frozen.compute(images) if self._inputs.frozen else images
        # As many as with unlabelled examples.
        self._batch = concatenate([batch] * self._inputs.extra_rows.relative)
        self._images, self._targets = images, trial.task.expand(labels)
        self._loss = TrainingLoss(self._inputs)

    def time(self) -> _Timing:
        """Time the steps, and the prediction of an image in float32."""
        trial, inputs, n = self._trial.train(), self._inputs, len(self._targets)
        prefix, activation_bytes = 0.0, 0
        if frozen := inputs.frozen:
            activation_bytes = frozen.row_bytes
            prefix = _time(lambda: frozen.compute(self._images), inputs.job.device)
            _compare_with_openvino(frozen, self._images, prefix)
        peak_bytes = None
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        forward, step = self._measure()
        if self._device.type == "cuda":
            peak_bytes = torch.cuda.max_memory_allocated(self._device)
            peak_bytes -= resident.resident_bytes(self._device)
        trial.zero_grad(set_to_none=True)
        half, in_float32 = self._images[: n // 2 or 1], Device(self._device, None)
        with cuda_kernels(in_float32):
            prediction = _time(lambda: compute_logits(trial.eval(), half, in_float32), in_float32)
        autocast = inputs.job.compute.autocast
        return _Timing(
            prefix / n, forward / len(self._batch), step / n, prediction / len(half),
            activation_bytes, peak_bytes, autocast,
        )  # fmt: skip

    def tune(self, timing: _Timing) -> _Timing:
        """Find the fastest algorithms of cuDNN and batches of inference, where it may pay."""
        job, count = self._inputs.job, len(self._targets)
        views = min(job.views, job.epochs)
        trained = job.epochs * (timing.step or timing.forward) + views * timing.prefix
        if self._device.type != "cuda" or job.train.num_examples * trained < TUNED_FROM:
            return timing
        usual = timing.forward * len(self._batch), timing.step * count
        trial, steps = self._trial.train(), job.epochs * len(job.train)
        (forward, step), seconds = tune_cudnn(self._measure, usual, self._inputs.device, steps)
        trial.zero_grad(set_to_none=True)
        infer = partial(_time_inference, trial.eval(), self._images, self._inputs)
        return replace(
            timing,
            forward=forward / len(self._batch),
            step=step / count,
            tuning=seconds,
            inference_factor=find_inference_factor(infer, job.train.num_examples // count),
        )

    def _measure(self) -> Times:
        """Time the layers after the split point; 0 for the backward pass if nothing is trained."""
        loss, device = self._loss, self._inputs.device
        forward = _time(partial(_forward, loss, self._batch, self._targets), device)
        if not self._inputs.trainable:
            return forward, 0.0
        return forward, _time(lambda: loss.backward(self._batch, self._targets), device)


def _compare_with_openvino(frozen: FrozenInputs, images: Tensor, seconds: float) -> None:
    """Measure how many times faster than PyTorch OpenVINO is, if much is to be computed.

    It is measured once for a backbone, image size and type; the speedup of other split points is
    much the same.

    Args:
        frozen: The frozen layers.
        images: ``uint8 [B, C, S, S]``.
        seconds: What they take in PyTorch.
    """
    job = frozen.job
    key = openvino_key(frozen.model, frozen.config, frozen.device)
    count = job.train.num_examples * min(job.views, job.epochs) + job.num_validation_examples
    if (
        key in job.measured_costs
        or images.ndim != 4
        or not fast_inference.is_available(frozen.device)
        or seconds * count / len(images) < OPENVINO_MEASURED_FROM
    ):
        return
    start = time.monotonic()
    if frozen.compile_prefix(images):
        compiling = time.monotonic() - start
        speedup = max(1.0, seconds / _time(lambda: frozen.compute(images), frozen.device))
        job.measured_costs[key] = {"speedup": speedup, "seconds": compiling}


def _time_inference(trial: Model, images: Tensor, inputs: Inputs, factor: int) -> float:
    """Time the forward pass of a batch that is ``factor`` times larger than ``images``."""
    larger = torch.cat([images] * factor)  # in the same memory format

    def infer() -> Tensor:
        with torch.inference_mode(), cuda_kernels(inputs.device), autocast(inputs.device):
            logits: Tensor = trial(larger)  # in halves, an error of memory would not be seen
            return logits

    return _time(infer, inputs.device)


def _forward(loss: TrainingLoss, batch: Activations, targets: Tensor) -> None:
    with torch.inference_mode():
        loss.evaluate(batch, targets)


def _time_augmentation(inputs: Inputs) -> float:
    """Measure the seconds that augmenting one image takes."""
    images, labels = next(iter(inputs.job.train))
    if images.device.type != "cuda":  # which takes as long to augment few images
        images, labels = images[:CPU_IMAGES], labels[:CPU_IMAGES]
    inputs.augmentation.detect_identity(images, labels)
    return _time(lambda: inputs.augmentation(images, labels), inputs.job.device) / len(labels)


def _time(function: Callable[[], object], device: Device) -> float:
    """Measure the seconds of the second call of a function; the first one warms up."""
    for _ in range(2):
        start = time.monotonic()
        function()
        if device.torch_device.type == "cuda":
            torch.cuda.synchronize(device.torch_device)
    return time.monotonic() - start


def measure_forward(backbone: Choice, size: int | None, device: Device) -> tuple[float, int]:
    """Measure the seconds per example of a forward pass of a batch.

    Args:
        backbone: The plugin and its values.
        size: Size of the inputs, e.g. height and width of images in pixels; None for that of the
            backbone.
        device: The device and the type to compute in.

    Returns:
        The seconds, and the size that was measured, which may be another one that is a value of the
        backbone.

    Raises:
        Exception: Whatever a backbone raises that cannot take inputs of this size.
    """
    network, expects = build_backbone(backbone, size)
    size = expects.size
    model = Model(network, nn.Identity(), expects)
    move = partial(model.to, device.torch_device)
    model = retry_when_out_of_memory(move, device.torch_device, "the model").eval()
    count = GPU_IMAGES if device.torch_device.type == "cuda" else CPU_IMAGES
    inputs, sizes = blank_batch(expects, count, device.torch_device), MicroBatches()
    with RandomState(device, 0).active():
        seconds = _time(lambda: compute_logits(model, inputs, device, sizes), device)
    return seconds / count, size
