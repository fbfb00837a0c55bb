"""What a model is fine-tuned on, and what an epoch of it measured."""

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
from autotl.training.compute import ComputeSettings


@dataclass(frozen=True)
class Epoch:
    """What one epoch of fine-tuning measured."""

    number: int  # from 1
    loss: float  # mean training cross-entropy with what a strategy adds to it, nats
    score: float  # on validation, in the study's metric; NaN without a validation part
    seconds: float
    trained_parameters: int  # parameters that have learned so far, in this epoch or before


@dataclass
class Task:
    """What a model is fine-tuned on, and how far.

    ``score`` rates probabilities ``[N, C]`` of the validation part; ``deadline`` is a reading of
    ``time.monotonic``; ``cache`` is the cache of what frozen backbones compute, which is shared if
    ``data`` names the data (None shares nothing). A frozen part sees ``views`` views of a
    picture, itself and augmented ones, which are kept; later epochs see them again, so that it runs
    no more often than that.
    ``label_smoothing`` is the share of a label that all classes get (Szegedy et al. 2015,
    arXiv:1512.00567). ``ema`` is the share of the past in an average of the weights over the steps,
    which takes their place when the model is asked (Polyak & Juditsky 1992, SIAM J. Control
    Optim. 30); 0 for none.

    ``compute`` is how to compute, from ``Cost.compute``. ``micro`` remembers how many pictures fit
    at once, and ``measured`` what was measured, each by backbone, size, device and what learns. A
    caller that keeps these two with its study hands them in again: they hold plain values.
    """

    train: Batches
    validation: Batches | None
    epochs: int
    score: Callable[[NDArray[np.float32]], float]
    where: Device
    seed: int = 0
    deadline: float | None = None
    cache: FeatureCache = field(default_factory=FeatureCache)
    data: Hashable = None
    views: int = 4
    label_smoothing: float = 0.0
    ema: float = 0.0
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    micro: MutableMapping[str, int] = field(default_factory=dict)
    measured: MutableMapping[str, Any] = field(default_factory=dict)
    step: Callable[[], object] = lambda: None  # called at every step

    @property
    def num_validation_examples(self) -> int:
        """How many pictures the validation part has."""
        return self.validation.num_examples if self.validation else 0

    def check_time(self) -> None:
        """Raise ``OutOfTime`` when the deadline has passed; called before every step."""
        self.step()
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime("the time budget ended inside an epoch")
