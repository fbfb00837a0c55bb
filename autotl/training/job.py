"""The job of fine-tuning a model, and the results of an epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.data import Batches
from autotl.errors import OutOfTime
from autotl.frozen import FeatureCache
from autotl.models import Device
from autotl.training.checkpoint import Checkpoint
from autotl.training.compute import ComputeSettings
from autotl.training.contrastive import Contrast
from autotl.training.teacher import Teacher


@dataclass(frozen=True)
class Epoch:
    """The results of one epoch of fine-tuning.

    Attributes:
        number: Number of the epoch, from 1.
        loss: Mean training loss: that of the task, in nats for a classification, plus the penalties
            of the strategy.
        score: Score on the validation split, in the study's metric; NaN without that split.
        seconds: Wall time of the epoch, with validation.
        trained_parameters: Parameters that have been trained so far, in this epoch or before.
        predictions: Predictions ``[N, K]`` for the validation split; None without that split.
    """

    number: int
    loss: float
    score: float
    seconds: float
    trained_parameters: int
    predictions: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)


@dataclass
class Job:
    """The job of fine-tuning a model: on which data, for how long, on which device.

    Attributes:
        train: Batches of the training split.
        validation: Batches of the validation split; None trains without validation.
        epochs: Number of epochs.
        score: Rates predictions ``[N, K]`` for the validation split.
        device: The device, with the type that autocast uses there.
        seed: Seed of everything that is random in the training.
        deadline: The reading of ``time.monotonic()`` after which ``OutOfTime`` is raised.
        keep_completed_epochs: Whether a training that the deadline ends inside a later epoch than
            the first results in the model after its last complete epoch, instead of ``OutOfTime``.
        patience: Number of consecutive epochs without a better score after which the training ends;
            None for no limit.
        higher_is_better: Whether a higher score is a better one.
        checkpoint: Where the state after each epoch is saved, and from where an interrupted
            training continues; None for no checkpoints.
        cache: The cache of activations of frozen layers.
        data_id: Identifies the data set in the cache. None shares no activations with other jobs.
        views: Number of views of a training image whose activations are cached: the image itself
            and augmented ones. Later epochs use the same views again, so that the frozen layers run
            no more often than that.
        label_smoothing: Fraction of a label that is spread over all classes (Szegedy et al. 2015,
            arXiv:1512.00567).
        ema: Decay of an exponential moving average of the weights over the steps. The average
            replaces the weights for validation and after the training (Polyak & Juditsky 1992,
            SIAM J. Control Optim. 30). 0 for no average.
        teacher: What the model learns from besides the labels; None for the labels alone.
        contrast: What the model learns from two views of each image, instead of the labels; None
            for the labels.
        compute: How to compute, from ``Cost.compute``.
        micro_batch_sizes: Largest batch that fitted in memory where a larger one did not, by
            ``cost_key``. A training begins with twice that. A caller that stores these with its
            study passes them in again; they are plain values.
        measured_costs: What ``measure_cost`` measured, by ``cost_key``; to be stored likewise.
        on_step: Called before every step.
        unlabelled: Returns batches of the unlabelled examples that this training may use, always
            the same object; their targets mean nothing. None if there are none.
    """

    train: Batches
    validation: Batches | None
    epochs: int
    score: Callable[[NDArray[np.float32]], float]
    device: Device
    seed: int = 0
    deadline: float | None = None
    keep_completed_epochs: bool = False
    patience: int | None = None
    higher_is_better: bool = True
    checkpoint: Checkpoint | None = None
    cache: FeatureCache = field(default_factory=FeatureCache)
    data_id: Hashable = None
    views: int = 4
    label_smoothing: float = 0.0
    ema: float = 0.0
    teacher: Teacher | None = None
    contrast: Contrast | None = None
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    micro_batch_sizes: MutableMapping[str, int] = field(default_factory=dict)
    measured_costs: MutableMapping[str, Any] = field(default_factory=dict)
    on_step: Callable[[], object] = lambda: None
    unlabelled: Callable[[], Batches] | None = None

    @property
    def num_validation_examples(self) -> int:
        """Number of images in the validation split; 0 without one."""
        return self.validation.num_examples if self.validation else 0

    def check_time(self) -> None:
        """Call ``on_step``, then raise ``OutOfTime`` if the deadline has passed."""
        self.on_step()
        self.check_deadline()

    def check_deadline(self) -> None:
        """Raise ``OutOfTime`` if the deadline has passed."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime("the time budget ended inside an epoch")
