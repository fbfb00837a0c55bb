"""What all trainings of a study share: images, device, seeds, and cached features."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from autotl import data, events, models
from autotl.data import Batches, Dataset, Indices, Resample
from autotl.events import Listener
from autotl.frozen import FeatureCache
from autotl.models import Device, Model
from autotl.scoring import metrics
from autotl.search.budget import Budget
from autotl.space import space
from autotl.space.registry import Registry
from autotl.space.space import Config
from autotl.store import TrialRow
from autotl.study import StudyConfig
from autotl.training import ComputeSettings, Task

DECISIVE_SETTINGS = (
    "metric",
    "seed",
    "batch_size",
    "label_smoothing",
    "ema",
    "validation",
    "test",
    "precision",
)
"""The settings that decide the result of a training besides its configuration."""


@dataclass(frozen=True)
class TrainingContext:
    """Builds models, and the tasks to train them on.

    Attributes:
        settings: What the study was asked to do.
        dataset: Checked and split.
        device: Where models are trained.
        budget: The wall clock.
        listener: Is notified of progress.
        registry: The plugins of this run.
        cache: The cache of what frozen prefixes compute.
        micro_batch_sizes: How many images fit into memory at once, see ``training.Task``.
        measured_costs: How long training steps took, see ``training.Task``.
    """

    settings: StudyConfig
    dataset: Dataset
    device: Device
    budget: Budget
    listener: Listener
    registry: Registry
    cache: FeatureCache
    micro_batch_sizes: MutableMapping[str, int]
    measured_costs: MutableMapping[str, Any]
    _batches: dict[tuple[Any, ...], Batches] = field(default_factory=dict)

    def decisive_settings(self) -> dict[str, Any]:
        """The settings that decide the result of a training besides its configuration."""
        return {key: getattr(self.settings, key) for key in DECISIVE_SETTINGS}

    def config(self, row: TrialRow) -> Config:
        """The configuration of an earlier trial, even of another search space."""
        return space.from_json(row.config, self.registry, weights=self.settings.weights)

    def build(self, config: Config, resample: Resample | None = None) -> Model:
        """The model of a configuration; what starts random is seeded."""
        classes, size = len(self.dataset.classes), self.settings.size
        return models.build_model(config, classes, size, self.device, self.seed(resample))

    def seed(self, resample: Resample | None = None) -> int:
        """The seed of the study, or that of a repeat of the final selection."""
        return self.settings.seed + (resample.number + 1 if resample else 0)

    def retraining(
        self, row: TrialRow, model: Model, *splits: str, resample: Resample | None = None
    ) -> Task:
        """The task to train a model as an earlier trial was, on other splits or a resample."""
        return self.task(
            model,
            *splits,
            epochs=row.epochs,
            views=row.facts.views,
            resample=resample,
            compute=ComputeSettings(**row.facts.compute),
        )

    def task(
        self,
        model: Model,
        *splits: str,
        epochs: int,
        views: int,
        resample: Resample | None = None,
        compute: ComputeSettings | None = None,
    ) -> Task:
        """The task to train ``model`` on some splits of the data, or on a resample of them.

        On the split ``train`` alone it is scored on the validation split. Cached features are
        shared by all tasks.
        """
        validation: Batches | None = None
        if resample:
            train = self.batches_of(model, resample.train)
            validation = self.batches_of(model, resample.validation)
        else:
            train = self.batches(model, *splits)
            validation = self.batches(model, "validation") if splits == ("train",) else None
        metric = metrics.get(self.settings.metric)
        labels = self.dataset.labels[(validation or train).indices]
        return Task(
            train=train,
            validation=validation,
            epochs=epochs,
            score=lambda probabilities: metric.score(labels, probabilities),
            device=self.device,
            seed=self.seed(resample),
            cache=self.cache,
            data_id=self.dataset.fingerprint,
            views=views,
            label_smoothing=self.settings.label_smoothing,
            ema=self.settings.ema,
            compute=compute or ComputeSettings(),
            micro_batch_sizes=self.micro_batch_sizes,
            measured_costs=self.measured_costs,
            on_step=lambda: self.listener(events.StepCompleted()),
        )

    def batches(self, model: Model, *splits: str) -> Batches:
        """Batches of some splits of the data, packed at the input size of ``model``."""
        key = (model.input_spec.size, model.input_spec.interpolation, splits)
        if key not in self._batches:
            self._batches[key] = self.batches_of(model, self.dataset.indices(*splits))
        return self._batches[key]

    def batches_of(self, model: Model, indices: Indices) -> Batches:
        """Batches of the images at these indices of the data set."""
        spec = model.input_spec
        with self.budget.stage("pack"):
            packed = data.pack(
                self.dataset,
                spec.size,
                spec.interpolation,
                self.settings.out / "cache",
                lambda what, done, total: self.listener(events.Stage(what, done, total)),
            )
        return Batches(
            packed,
            self.dataset.labels,
            indices,
            self.settings.batch_size,
            self.device.torch_device,
            shuffle_seed=self.settings.seed,
        )
