"""What all trainings of a study share: pictures, device, seeds, and what was computed before."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from autotl import data, events, models
from autotl.data import Batches, Dataset, Resample, Rows
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

DECISIVE = (
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
    """Makes models, and the tasks to train them on.

    Attributes:
        cache: The cache of what frozen parts compute.
        micro: How many pictures fit at once, see ``finetune.Task``.
        measured: What trainings were found to take, see ``finetune.Task``.
    """

    settings: StudyConfig
    dataset: Dataset
    where: Device
    budget: Budget
    listener: Listener
    registry: Registry
    cache: FeatureCache
    micro: MutableMapping[str, int]
    measured: MutableMapping[str, Any]
    _batches: dict[tuple[Any, ...], Batches] = field(default_factory=dict)

    def decisive(self) -> dict[str, Any]:
        """What decides the result of a training besides the configuration."""
        return {key: getattr(self.settings, key) for key in DECISIVE}

    def config(self, row: TrialRow) -> Config:
        """The configuration of a trial that has been, were it in another space."""
        return space.from_json(row.config, self.registry, weights=self.settings.weights)

    def again(
        self, row: TrialRow, network: Model, *parts: str, resample: Resample | None = None
    ) -> Task:
        """The training of a trial that has been, on other parts of the data."""
        known = row.facts
        compute = ComputeSettings(**known.get("setting", {}))
        return self.task(
            network,
            *parts,
            epochs=row.epochs,
            views=known["views"],
            resample=resample,
            compute=compute,
        )

    def task(
        self,
        network: Model,
        *parts: str,
        epochs: int,
        views: int,
        resample: Resample | None = None,
        compute: ComputeSettings | None = None,
    ) -> Task:
        """The training of ``network`` on some parts of the data, or as a ``resample`` divides them.

        On the part ``train`` alone it is scored on the validation part. What frozen parts compute
        of a picture is shared by all of them.
        """
        alone = parts == ("train",)
        held: Batches | None = None
        if resample:
            train = self.batches_of(network, resample.train)
            held = self.batches_of(network, resample.validation)
        else:
            train = self.batches(network, *parts)
            held = self.batches(network, "validation") if alone else None
        metric = metrics.get(self.settings.metric)
        truth = self.dataset.labels[held.indices if held else train.indices]
        return Task(
            train=train,
            validation=held,
            epochs=epochs,
            score=lambda probabilities: metric.score(truth, probabilities),
            where=self.where,
            seed=self.seed(resample),
            cache=self.cache,
            data=self.dataset.fingerprint,
            views=views,
            label_smoothing=self.settings.label_smoothing,
            ema=self.settings.ema,
            compute=compute or ComputeSettings(),
            micro=self.micro,
            measured=self.measured,
            step=lambda: self.listener(events.StepCompleted()),
        )

    def batches(self, network: Model, *parts: str) -> Batches:
        """Batches of some parts of the data, packed at the size that ``network`` expects."""
        key = (network.expects.size, network.expects.interpolation, parts)
        if key not in self._batches:
            self._batches[key] = self.batches_of(network, self.dataset.indices(*parts))
        return self._batches[key]

    def batches_of(self, network: Model, rows: Rows) -> Batches:
        """Batches of the pictures in these places of the data set."""
        expects = network.expects
        with self.budget.stage("pack"):
            packed = data.pack(
                self.dataset,
                expects.size,
                expects.interpolation,
                self.settings.out / "cache",
                lambda what, done, total: self.listener(events.Stage(what, done, total)),
            )
        return Batches(
            packed,
            self.dataset.labels,
            rows,
            self.settings.batch_size,
            self.where.device,
            shuffle_seed=self.settings.seed,
        )

    def seed(self, resample: Resample | None = None) -> int:
        """The study's seed, or that of a run of the finals."""
        return self.settings.seed + (resample.number + 1 if resample else 0)

    def build(self, config: Config, resample: Resample | None = None) -> Model:
        """The network of a configuration, its random part seeded."""
        classes = len(self.dataset.classes)
        size, seed = self.settings.size, self.seed(resample)
        return models.build_model(config, classes, size, self.where, seed)
