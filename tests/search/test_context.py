"""What all trainings of a study share, and the jobs that it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import FAST

from autotl import Example, data, engine, events, models, study, training
from autotl.data import IMAGES, Source
from autotl.errors import OutOfMemory
from autotl.events import Event, Stage, StepCompleted
from autotl.frozen import FeatureCache
from autotl.models import Model, select_device
from autotl.scoring.metrics import METRICS
from autotl.search.budget import Budget
from autotl.search.context import DECISIVE_SETTINGS, TrainingContext
from autotl.space import registry, space
from autotl.space.space import Config
from autotl.store import TrialFacts, TrialRow
from autotl.training import ComputeSettings, Job

PARAMS = {"lr": 1e-3}
ROW = TrialRow(
    7,
    "complete",
    "",
    {
        "backbone": {"tiny": {}},
        "freeze": {"linear_probe": PARAMS},
        "head": {"linear": {"dropout": 0.1}},
        "augment": {"none": {}},
        "optimizer": {"adamw": {"weight_decay": 0.01, "warmup": 0.1}},
    },
    0.5,
    2,
    100,
    10,
    1.0,
    datetime.now(UTC),
    TrialFacts(views=3, compute={"autocast": False, "cache_activations": True, "compile": False}),
)


@pytest.fixture(scope="module")
def shown() -> list[Event]:
    return []


@pytest.fixture(scope="module")
def context(
    configure: Callable[..., study.StudyConfig],
    tmp_path_factory: pytest.TempPathFactory,
    shown: list[Event],
) -> TrainingContext:
    settings = configure(tmp_path_factory.mktemp("context"), seed=5)
    plugins = registry.load(settings.plugin)
    examples = list(plugins.dataset(settings.data).call({"source": settings.data}, {}))
    dataset = engine.load_dataset(settings, Source(examples, [], IMAGES), events.ignore)
    device = select_device("cpu", "float32")
    cache = FeatureCache()
    return TrainingContext(
        settings,
        dataset,
        METRICS["accuracy"],
        device,
        Budget(None),
        shown.append,
        plugins,
        cache,
        {},
        {},
    )


@pytest.fixture(scope="module")
def config(context: TrainingContext) -> Config:
    return context.config(ROW)


@pytest.fixture(scope="module")
def model(context: TrainingContext, config: Config) -> Model:
    return context.build(config)


def weights(model: Model) -> list[Any]:
    return [value.numpy() for value in model.head.state_dict().values()]


def test_the_configuration_of_an_earlier_trial_is_restored(config: Config) -> None:
    assert space.to_json(config) == ROW.config


def test_a_model_is_built_from_the_seed(
    context: TrainingContext, config: Config, model: Model
) -> None:
    again = context.build(config)
    resample = data.resample(context.dataset, 0, context.settings.seed)
    other = context.build(config, resample)
    assert all(map(np.array_equal, weights(model), weights(again)))
    assert not all(map(np.array_equal, weights(model), weights(other)))
    assert (context.seed(), context.seed(resample)) == (5, 6)


def test_on_the_training_split_a_task_is_scored_on_the_validation_split(
    context: TrainingContext, model: Model
) -> None:
    job = context.job(model, "train", epochs=2, views=3)
    assert job.validation
    assert set(job.train.indices) == set(context.dataset.indices("train"))
    assert set(job.validation.indices) == set(context.dataset.indices("validation"))
    assert (job.epochs, job.views, job.seed) == (2, 3, 5)
    labels = context.dataset.targets[job.validation.indices]
    assert job.score(np.eye(3, dtype=np.float32)[labels]) == 1.0
    refit = context.job(model, "train", "validation", epochs=2, views=3)
    assert refit.validation is None
    assert len(refit.train.indices) == len(job.train.indices) + len(labels)


def test_features_of_few_examples_are_those_of_a_trial_though_not_all_are_packed(
    context: TrainingContext, config: Config, model: Model, tmp_path: Path
) -> None:
    cache = FeatureCache(folder=tmp_path / "cache")
    settings = context.settings.model_copy(update={"out": tmp_path})
    own = replace(context, settings=settings, cache=cache, _packed={}, _batches={})
    few = own.dataset.indices("train")[:5]
    features = training.extract_backbone_features(model, config, own.feature_job(model, few))
    assert cache.usage().entries == 1
    job = own.job(model, "train", epochs=1, views=1)
    every = training.extract_backbone_features(model, config, job)
    assert (every[:5] == features).all()
    assert cache.usage().entries == 2  # the packed images, and the same features
    again = own.feature_job(model, few)
    assert again.train.packed is job.train.packed


def test_on_a_resample_a_task_has_its_two_parts(context: TrainingContext, model: Model) -> None:
    resample = data.resample(context.dataset, 1, context.settings.seed)
    job = context.job(model, epochs=2, views=3, resample=resample)
    assert job.validation
    assert set(job.train.indices) == set(resample.train)
    assert set(job.validation.indices) == set(resample.validation)
    assert job.seed == 5 + 2


def test_a_retraining_does_what_the_trial_did(context: TrainingContext, model: Model) -> None:
    job = context.retraining(ROW, model, "train")
    assert (job.epochs, job.views) == (ROW.epochs, 3)
    assert job.compute == ComputeSettings(autocast=False)
    fewer = replace(ROW, facts=TrialFacts())
    assert context.retraining(fewer, model, "train").compute == ComputeSettings()


def test_batches_of_a_split_are_made_once(context: TrainingContext, model: Model) -> None:
    first, second = context.batches(model, "test"), context.batches(model, "test")
    assert first is second
    assert first is not context.batches(model, "train")
    assert len(first.indices) == len(context.dataset.indices("test"))


def test_tasks_share_what_was_measured(context: TrainingContext, model: Model) -> None:
    one, two = (context.job(model, "train", epochs=n, views=1) for n in (1, 2))
    assert one.micro_batch_sizes is two.micro_batch_sizes is context.micro_batch_sizes
    assert one.measured_costs is two.measured_costs is context.measured_costs
    assert one.cache is two.cache is context.cache


def test_progress_is_shown(context: TrainingContext, model: Model, shown: list[Event]) -> None:
    shown.clear()
    context.job(model, "train", epochs=1, views=1).on_step()
    assert shown == [StepCompleted()]
    shown.clear()
    out = context.settings.out / "elsewhere"
    elsewhere = replace(
        context, settings=context.settings.model_copy(update={"out": out}), _packed={}
    )
    elsewhere.batches_of(model, context.dataset.indices("test"))
    assert {type(event) for event in shown} == {Stage}
    assert Path(out / "cache").is_dir()
    assert "pack" in elsewhere.budget.stages


def test_the_decisive_settings(context: TrainingContext) -> None:
    settings = context.decisive_settings()
    assert tuple(settings) == DECISIVE_SETTINGS
    assert (settings["seed"], settings["batch_size"]) == (5, FAST["batch_size"])


def test_a_model_that_does_not_fit_on_the_device_is_out_of_memory(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(models, "build_model", fail)
    with pytest.raises(OutOfMemory, match="the model does not fit"):
        context.build(context.config(ROW))


def test_unlabelled_images_of_a_group_that_validates_or_tests_are_not_trained_on(
    context: TrainingContext, model: Model, tmp_path: Path
) -> None:
    """In a trial, in a repeat and in the refit."""
    settings = context.settings.model_copy(update={"out": tmp_path})
    items = context.dataset.examples
    labelled = [replace(e, group=e.name) for e in items]
    noise = np.random.default_rng(0).integers(0, 256, (len(items), 8, 8, 3), dtype=np.uint8)
    unlabelled = tuple(
        Example(f"u/{e.name}", noise[i], "", "unlabelled", e.name) for i, e in enumerate(items)
    )
    source = Source(labelled, [], IMAGES, unlabelled=unlabelled)
    dataset = engine.load_dataset(settings, source, events.ignore)
    own = replace(context, settings=settings, dataset=dataset, _packed={}, _batches={})

    def groups_of(job: Job) -> set[str]:
        assert job.unlabelled is not None
        assert job.unlabelled() is job.unlabelled()
        return {dataset.unlabelled.examples[i].group for i in job.unlabelled().indices}

    def named(*splits: str) -> set[str]:
        return {dataset.examples[i].group for i in dataset.indices(*splits)}

    trial = own.job(model, "train", epochs=1, views=1)
    assert groups_of(trial) == named("train")
    assert trial.unlabelled is not None
    assert trial.unlabelled().data_id == dataset.unlabelled.fingerprint
    refit = own.job(model, "train", "validation", epochs=1, views=1)
    assert groups_of(refit) == named("train", "validation")
    resample = data.resample(dataset, 0, 0)
    repeat = own.job(model, epochs=1, views=1, resample=resample)
    assert groups_of(repeat) == {dataset.examples[i].group for i in resample.train}
    assert context.job(model, "train", epochs=1, views=1).unlabelled is None
