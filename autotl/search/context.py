"""The context that all trainings of a study share: images, device, seeds and cached features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from autotl import data, events, training
from autotl.data import Batches, Dataset, Indices, Packed, Resample, Unlabelled
from autotl.events import Listener
from autotl.frozen import FeatureCache
from autotl.models import Device, Model
from autotl.scoring.metrics import Metric
from autotl.search.budget import Budget
from autotl.space import space
from autotl.space.input_kind import IMAGE, ModelInput
from autotl.space.kinds import IN_CHANS, RGB
from autotl.space.registry import Registry
from autotl.space.space import Config
from autotl.store import TrialRow
from autotl.study import StudyConfig
from autotl.training import Checkpoint, ComputeSettings, Job

DECISIVE_SETTINGS = (
    "task",
    "metric",
    "seed",
    "batch_size",
    "label_smoothing",
    "ema",
    "validation",
    "folds",
    "test",
    "precision",
)
"""The settings on which the result of a training depends, besides its configuration."""

MANY_UNLABELLED = 2.0
"""How many unlabelled examples for each labelled one are clearly more."""


@dataclass(frozen=True)
class TrainingContext:
    """The context that all trainings of a study share; it builds models and their training jobs.

    Attributes:
        settings: The settings of the study.
        dataset: The examples with their labels and splits.
        metric: The metric that is optimised.
        device: The device on which models are trained.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        registry: The plugins of this run.
        cache: The cache of the features of frozen prefixes.
        micro_batch_sizes: Numbers of images that fit into memory at once, see ``training.Job``.
        measured_costs: Times of training steps, see ``training.Job``.
    """

    settings: StudyConfig
    dataset: Dataset
    metric: Metric
    device: Device
    budget: Budget
    listener: Listener
    registry: Registry
    cache: FeatureCache
    micro_batch_sizes: MutableMapping[str, int]
    measured_costs: MutableMapping[str, Any]
    _batches: dict[tuple[Any, ...], Batches] = field(default_factory=dict)
    _packed: dict[str, Packed] = field(default_factory=dict)

    def decisive_settings(self) -> dict[str, Any]:
        """Return the values of ``DECISIVE_SETTINGS``, and the number of channels if not RGB."""
        values = {key: getattr(self.settings, key) for key in DECISIVE_SETTINGS}
        channels = self.settings.in_chans
        return values if channels == RGB else {**values, IN_CHANS: channels}

    def config(self, row: TrialRow) -> Config:
        """Return the configuration of a trial, which may be of another search space."""
        return space.from_json(row.config, self.registry, weights=self.settings.weights)

    def can_combine(self, rows: Sequence[TrialRow]) -> bool:
        """Whether the models of trials can be members of one ensemble: images can be resized."""
        return self.dataset.kind.backbone_input == IMAGE or len({r.facts.input for r in rows}) == 1

    @property
    def first_fold(self) -> Resample | None:
        """The first fold of the data; None if trials are scored on a validation split."""
        return None if self.dataset.folds is None else data.fold(self.dataset, 0)

    @property
    def tries_unlabelled(self) -> Literal["", "own domain", "other domain"]:
        """Whether methods for unlabelled examples are tried early, and which.

        They are if there are clearly more unlabelled than labelled training examples, or if these
        are of another domain.
        """
        if self.dataset.target:
            return "other domain"
        labelled = len(self.dataset.indices("train"))
        many = len(self.dataset.unlabelled) >= MANY_UNLABELLED * labelled
        return "own domain" if many else ""

    def build(
        self, config: Config, resample: Resample | None = None, size: int | None = None
    ) -> Model:
        """Build the model of a configuration, with random weights that depend on ``seed``.

        Args:
            config: The configuration.
            resample: The examples to train it on; None for splits of the data.
            size: The size of its input; None for that of the study.

        Raises:
            Incompatible: Two plugins, or the backbone and the size, do not go together.
            OutOfMemory: It does not fit on the device.
        """
        return training.build_model(
            config,
            self.dataset.task,
            size or self.settings.size,
            self.device,
            self.seed(resample),
        )

    def seed(self, resample: Resample | None = None) -> int:
        """Return the seed of the study, or that of the training on ``resample``."""
        return self.settings.seed + (resample.number + 1 if resample else 0)

    def retraining(
        self, row: TrialRow, model: Model, *splits: str, resample: Resample | None = None
    ) -> Job:
        """Make the job to retrain the model of a trial on other splits or on a resample.

        Args:
            row: The trial.
            model: A new model of its configuration.
            splits: The splits to train on, without ``resample``.
            resample: The examples to train and validate on.
        """
        return self.job(
            model,
            *splits,
            epochs=row.epochs,
            views=row.facts.views,
            resample=resample,
            compute=ComputeSettings(**row.facts.compute),
        )

    def job(
        self,
        model: Model,
        *splits: str,
        epochs: int,
        views: int,
        resample: Resample | None = None,
        compute: ComputeSettings | None = None,
    ) -> Job:
        """Make the job to train a model on some splits of the data, or on a resample.

        The model is validated on the validation split if it is trained on the split ``train``
        alone. All jobs share the cached features.

        Args:
            model: The model.
            splits: The splits to train on, without ``resample``.
            epochs: The number of epochs.
            views: The number of views of each image whose features are cached.
            resample: The examples to train and validate on.
            compute: The settings that were measured to be fastest; None for the defaults.
        """
        validation: Batches | None = None
        if resample:
            train = self.batches_of(model, resample.train)
            validation = self.batches_of(model, resample.validation)
        else:
            train = self.batches(model, *splits)
            validation = self.batches(model, "validation") if splits == ("train",) else None
        return self._make_job(model, train, validation, self.seed(resample), epochs, views, compute)

    def feature_job(
        self, model: Model, indices: Indices, compute: ComputeSettings | None = None
    ) -> Job:
        """Make the job to compute features of some training examples, and nothing else.

        The examples are read from the packed ones, or encoded one by one if all are not packed yet
        for this input. The features are those that a trial of the same backbone needs.

        Args:
            model: The model.
            indices: Indices of the examples, ``[n]``.
            compute: As in ``job``.
        """
        packed = self._packed.get(self._packed_key(model.expects, self.dataset))
        packed = packed or data.open_or_encode(
            self.dataset, model.expects, self.settings.out / "cache"
        )
        epochs, views = self.settings.epochs, self.settings.views
        batches = self._make_batches(packed, indices)
        return self._make_job(model, batches, None, self.seed(), epochs, views, compute)

    def _make_job(
        self,
        model: Model,
        train: Batches,
        validation: Batches | None,
        seed: int,
        epochs: int,
        views: int,
        compute: ComputeSettings | None,
    ) -> Job:
        metric = self.metric
        targets = self.dataset.targets[(validation or train).indices]
        return Job(
            train=train,
            validation=validation,
            epochs=epochs,
            score=lambda predictions: metric.score(targets, predictions),
            device=self.device,
            seed=seed,
            higher_is_better=metric.higher_is_better,
            cache=self.cache,
            data_id=self.dataset.fingerprint,
            views=views,
            label_smoothing=self.settings.label_smoothing,
            ema=self.settings.ema,
            compute=compute or ComputeSettings(),
            micro_batch_sizes=self.micro_batch_sizes,
            measured_costs=self.measured_costs,
            on_step=lambda: self.listener(events.StepCompleted()),
            unlabelled=self._unlabelled_batches(model, validation),
        )

    def checkpoint(self, config: Config, fold: int = 0) -> Checkpoint:
        """Return the checkpoint of the trial of a configuration, which may not exist yet.

        Args:
            config: The configuration.
            fold: The number of the fold that validates; 0 without folds.
        """
        keys = ("name", "image_size", "epochs", "patience")
        decisive = [
            {key: getattr(self.settings, key) for key in keys},
            space.to_json(config),
            self.decisive_settings(),
            self.dataset.identity,
        ]
        digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        folder = self.settings.out / "cache" / "checkpoints"
        path = folder / f"{digest[:32]}{f'-{fold}' if fold else ''}.safetensors"
        return Checkpoint(path, keeps_last=fold + 1 < (self.settings.folds or 1))

    def batches(self, model: Model, *splits: str) -> Batches:
        """Return batches of some splits of the data at the input size of ``model``."""
        key = (model.expects.key, splits)
        if key not in self._batches:
            self._batches[key] = self.batches_of(model, self.dataset.indices(*splits))
        return self._batches[key]

    def batches_of(self, model: Model, indices: Indices) -> Batches:
        """Return batches of the examples at ``indices [n]`` of the data set."""
        return self._make_batches(self._pack(model.expects), indices)

    def _make_batches(self, packed: Packed, indices: Indices) -> Batches:
        return Batches(
            packed,
            self.dataset.targets,
            indices,
            self.settings.batch_size,
            self.device.torch_device,
            shuffle_seed=self.settings.seed,
        )

    def _unlabelled_batches(
        self, model: Model, validation: Batches | None
    ) -> Callable[[], Batches] | None:
        """Return batches of the unlabelled examples to train with beside those that validate.

        They are packed only if a training uses them.
        """
        unlabelled = self.dataset.unlabelled
        if not len(unlabelled):
            return None
        validates = validation.indices if validation else np.empty(0, np.int64)

        @cache
        def make() -> Batches:
            return Batches(
                self._pack(model.expects, unlabelled),
                np.zeros(len(unlabelled), np.int64),
                self.dataset.unlabelled_beside(validates),
                self.settings.batch_size,
                self.device.torch_device,
                shuffle_seed=self.settings.seed,
                data_id=unlabelled.fingerprint,
            )

        return make

    def _pack(self, expects: ModelInput, unlabelled: Unlabelled | None = None) -> Packed:
        """Return all labelled or all unlabelled examples for one input; they are packed once."""
        examples = self.dataset if unlabelled is None else unlabelled
        key = self._packed_key(expects, examples)
        if key not in self._packed:
            self.cache.reserve(data.packed_bytes(examples, expects))
            with self.budget.stage("pack"):
                self._packed[key] = data.pack(
                    examples,
                    expects,
                    self.settings.out / "cache",
                    lambda what, done, total: self.listener(events.Stage(what, done, total)),
                    make_room=self.cache.make_room,
                    warn=lambda text: self.listener(events.Note(text, warning=True)),
                )
        return self._packed[key]

    @staticmethod
    def _packed_key(expects: ModelInput, examples: Dataset | Unlabelled) -> str:
        return f"{expects.key} {examples.fingerprint}"
