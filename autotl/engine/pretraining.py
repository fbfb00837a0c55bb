"""Source training: the weights of a backbone for later searches, trained on other data.

What is trained is what a search trains: the data are checked, split and packed, and a linear head
and all layers of the backbone are fine-tuned. Without labels the head is a projection, and views of
images are compared (``self_supervised``). The backbone's tensors are saved, the head is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from autotl import data, models, report, training
from autotl.artifact import weights_folder
from autotl.data import Dataset, Source
from autotl.data.image_kind import STEP, UPSCALING
from autotl.engine import plugin_pretraining
from autotl.engine.ending import name_device_faults
from autotl.engine.inputs import (
    check_metric,
    check_source,
    choose_task_and_metric,
    read_examples,
)
from autotl.engine.search_space import load_plugins, plugins_for
from autotl.engine.self_supervised import (
    Labels,
    choose_augmentation,
    count_scored,
    read_without_labels,
    require_enough,
    score_features,
)
from autotl.engine.source_facts import describe_source_training
from autotl.errors import Incompatible, OutOfTime, PluginError, StudyError, TrialStopped
from autotl.events import Listener, Note, Stage, ignore
from autotl.frozen import FeatureCache
from autotl.models import Device, Model
from autotl.scoring import intervals, metrics
from autotl.scoring.metrics import Metric
from autotl.search.budget import Budget
from autotl.search.context import TrainingContext
from autotl.search.mirroring import measure_mirroring
from autotl.space.plugin import AnyPlugin
from autotl.space.registry import Registry
from autotl.space.space import Choice, Config, Space, default_plugin, to_json
from autotl.study import SOURCE_TRAINING_METHODS, SourceTrainingConfig, StudyConfig
from autotl.training import Contrast, Epoch, Job

SAVE_SECONDS = 2.0
"""The time that is reserved in a budget to write the weights."""


@dataclass(frozen=True)
class SourceTraining:
    """The result of a source training.

    Attributes:
        facts: What is in the header of the file, or in the model card: ``backbone``, ``source``,
            ``fingerprint``, ``task``, ``classes`` (their number), ``train`` and ``held_out``
            (numbers of examples), ``method``, ``labels`` (whether they were used),
            ``started_from``, ``epochs``, ``planned_epochs``, ``stopped`` (why there are fewer),
            ``image_size``, ``channels``, ``metric``, ``score``, ``low`` and ``high`` on ``scored``
            held-out examples (without labels the score may be None), ``seed``, ``batch_size``,
            ``recipe``, ``device``, ``seconds``, ``versions``, ``licence`` and ``budget_seconds``.
            Empty if no epoch was complete.
        file: The weights, or the folder of a family; None if no epoch was complete.
        interrupted: Whether the user interrupted it.
    """

    facts: Mapping[str, Any]
    file: Path | None
    interrupted: bool = False


@dataclass(frozen=True)
class _Trained:
    """The backbone after the last complete epoch, which is None if there is none.

    ``model`` may have been trained further than its ``tensors``.
    """

    model: Model
    tensors: Mapping[str, Any]
    epoch: Epoch | None
    interrupted: bool


@dataclass(frozen=True)
class Prepared:
    """The data of a source training, and the plugins that suit them.

    ``labels`` only score; those that train are in the data set.
    """

    config: SourceTrainingConfig
    settings: StudyConfig
    dataset: Dataset
    metric: Metric
    plugins: Registry
    device: Device
    labels: Labels = field(default_factory=Labels)


def pretrain(
    config: SourceTrainingConfig,
    listener: Listener = ignore,
    plugins: Registry | None = None,
    began: float | None = None,
) -> SourceTraining:
    """Train a backbone on source data, and write its weights and their model card.

    Args:
        config: The settings.
        listener: Called with the events of the progress.
        plugins: The plugins; None for the installed ones and those of ``config.plugin``.
        began: The begin of the budget as a value of ``time.monotonic``; None for now.

    Returns:
        The result; after Ctrl-C that of the last complete epoch, if there is one.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    budget = Budget(config.budget, fixed=SAVE_SECONDS, began=began)
    if config.method not in SOURCE_TRAINING_METHODS:
        with name_device_faults():
            return SourceTraining(*plugin_pretraining.pretrain(config, listener, plugins, budget))
    weights_folder.check_replaceable(config.out, config.backbone)
    with name_device_faults():
        prepared = prepare(config, listener, plugins)
        return train(prepared, budget, listener, config.out)


def prepare(
    config: SourceTrainingConfig, listener: Listener, plugins: Registry | None = None
) -> Prepared:
    """Read, check and split the source data.

    Raises:
        AutoTLError: They cannot be used, or a name does not exist.
    """
    settings = config.as_search()
    plugins = load_plugins(settings, plugins)
    device = models.select_device(settings.device, settings.precision)
    settings, source, metric, labels = _read(config, settings, plugins, listener)
    fitting = plugins_for(settings, plugins, source)
    start = find_backbone(config, fitting).weights
    if config.image_size is None:
        size = start.size if start and start.size else _choose_size(config, source, fitting)
        settings = settings.model_copy(update={"image_size": (size,)})
    dataset = check_source(config, source, listener)
    if config.uses_labels:
        check_metric(metric, dataset)
    else:
        require_enough(dataset)
    return Prepared(config, settings, dataset, metric, fitting, device, labels)


def _read(
    config: SourceTrainingConfig, settings: StudyConfig, plugins: Registry, listener: Listener
) -> tuple[StudyConfig, Source, Metric, Labels]:
    """Read the source data, with their labels apart if the method does not use them.

    Returns:
        The settings, the examples, the metric and the labels.
    """
    if config.uses_labels:
        source = read_examples(settings, plugins)
        return *choose_task_and_metric(settings, source, plugins, listener), Labels()
    source, labels = read_without_labels(settings, plugins)
    what = f"{len(labels.classes)} classes only score the features" if labels.classes else ""
    listener(Note(f"{config.method} uses no labels{what and f'; {what}'}"))
    return settings, source, metrics.get("accuracy"), labels


def _choose_size(config: SourceTrainingConfig, source: Source, plugins: Registry) -> int:
    """Choose the size of the inputs: that of the backbone, or a smaller one for small images.

    What is trained from scratch gains nothing from images that are enlarged.
    """
    plugin = plugins.get_untrained("backbone", config.backbone)
    choice = Choice(plugin, plugin.defaults)
    expects = models.build_backbone(choice, None)[1]
    useful = source.kind.useful_size(data.draw_items(source.examples), expects)
    if useful is not None and config.start == "scratch":
        useful = STEP * math.ceil(useful / UPSCALING / STEP)
    if useful is None or useful >= expects.size:
        return expects.size
    try:
        return models.build_backbone(choice, useful)[1].size
    except Incompatible:
        return expects.size


def find_backbone(config: SourceTrainingConfig, plugins: Registry) -> AnyPlugin:
    """Find the plugin of the backbone with the weights from which the training starts.

    Raises:
        PluginError: There is none, or a search would not look for its weights in a folder.
        WeightsError: Its pretrained weights cannot be found.
    """
    name = config.backbone
    if config.start == "pretrained":
        plugin = plugins.get("backbone", name, config.weights)
    else:
        plugin = plugins.get_untrained("backbone", name)
    if not plugin.family:
        raise PluginError(
            f"the backbone {name!r} comes from {plugin.origin} and has its own weights; name a "
            "model of timm, whose weights a search finds in a folder"
        )
    return plugin


def train(prepared: Prepared, budget: Budget, listener: Listener, out: Path) -> SourceTraining:
    """Train the backbone and save its weights.

    Args:
        prepared: The data.
        budget: The wall-clock budget.
        listener: Called with the events of the progress.
        out: The folder of weights.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    config, began = prepared.config, time.monotonic()
    with weights_folder.temporary_folder(out) as folder:
        context = _make_context(prepared, folder, budget, listener)
        recipe = _choose_recipe(prepared, context, listener)
        try:
            trained = _fine_tune(context, prepared, recipe, budget, listener)
            if trained.epoch is None:
                return SourceTraining({}, None, interrupted=True)
            scored = _describe_score(context, prepared, recipe, trained)
        except TrialStopped as stop:
            raise StudyError(f"the source training stopped: {stop}; {_advise(stop)}") from None
    facts = {
        **_describe_training(prepared, recipe, trained),
        **scored,
        "seconds": round(time.monotonic() - began, 1),
    }
    file = weights_folder.save(out, config.backbone, trained.tensors, facts)
    return SourceTraining(facts, file, trained.interrupted)


def _make_context(
    prepared: Prepared, folder: Path, budget: Budget, listener: Listener
) -> TrainingContext:
    return TrainingContext(
        prepared.settings.model_copy(update={"out": folder}),
        prepared.dataset,
        prepared.metric,
        prepared.device,
        budget,
        listener,
        prepared.plugins,
        FeatureCache(0, folder),  # without room for files, images are packed in memory if they fit
        {},
        {},
    )


def _choose_recipe(prepared: Prepared, context: TrainingContext, listener: Listener) -> Config:
    """Choose the plugins, and measure with labels whether images may be mirrored."""
    config, plugins = prepared.config, prepared.plugins
    [freeze, *_] = [p for p in plugins if p.kind == "freeze" and p.from_scratch]
    chosen = {"backbone": find_backbone(config, plugins), "freeze": freeze}
    if config.uses_labels:
        augment = default_plugin(plugins, "augment")
        chosen["head"] = default_plugin(plugins, "head")
        chosen["augment"] = plugins.get("augment", config.augment) if config.augment else augment
    else:
        chosen["head"] = training.projection
        chosen["augment"] = choose_augmentation(plugins, config.augment)
    chosen["optimizer"] = default_plugin(plugins, "optimizer")
    space = Space({kind: (plugin,) for kind, plugin in chosen.items()})
    may_measure = config.uses_labels and space.may_mirror
    if may_measure and (measured := measure_mirroring(space, context)):
        listener(Note(report.describe_mirroring({**vars(measured), "survives": measured.survives})))
        space = space if measured.survives else space.without_mirroring()
    recipe = {kind: Choice(p, p.defaults) for kind, (p,) in space.plugins.items()}
    if config.lr is not None:
        recipe["freeze"] = Choice(freeze, {**freeze.defaults, "lr": config.lr})
    return recipe


def _fine_tune(
    context: TrainingContext,
    prepared: Prepared,
    recipe: Config,
    budget: Budget,
    listener: Listener,
) -> _Trained:
    """Train; return the backbone after the last complete epoch."""
    model = context.build(recipe)
    job = context.job(model, "train", epochs=context.settings.epochs, views=1)
    scored = 0
    if not prepared.config.uses_labels:
        job = replace(job, validation=None, contrast=Contrast())
        scored = count_scored(prepared.dataset, prepared.labels)
    if budget.seconds:
        job = _plan(job, training.measure_cost(model, recipe, job), budget, scored)
    tensors: dict[str, Any] = {}
    last, interrupted, metric = None, False, context.metric.name
    listener(Stage("training", 0, job.epochs))
    try:
        for epoch in training.fine_tune(model, recipe, job):
            tensors, last = weights_folder.copy_backbone(model), epoch
            text = f"epoch {epoch.number} of {job.epochs}: loss {epoch.loss:.4f}"
            score = f", {metric} {report.format_score(epoch.score)}" if job.validation else ""
            listener(Note(f"{text}{score}, {epoch.seconds:.1f} s"))
            listener(Stage("training", epoch.number, job.epochs))
    except KeyboardInterrupt:
        interrupted = True
    return _Trained(model, tensors, last, interrupted)


def _plan(job: Job, cost: training.Cost, budget: Budget, scored: int) -> Job:
    """Plan as many epochs as there is time for, at least one.

    The features of ``scored`` images are computed after the last one.
    """
    usable = budget.usable() - scored * cost.prediction_seconds
    in_time = takewhile(
        lambda count: cost.training_seconds(count, job.views) <= usable, range(1, job.epochs + 1)
    )
    job = replace(job, epochs=max(in_time, default=1), compute=cost.compute)
    job.deadline = time.monotonic() + max(0.0, usable)
    job.keep_completed_epochs = True
    return job


def _advise(stop: TrialStopped) -> str:
    if isinstance(stop, OutOfTime):
        return "give a larger --budget, or a smaller --image-size"
    if isinstance(stop, Incompatible):
        return "try another --augment or --image-size"
    return "try another --lr, --batch-size or --image-size"


def _describe_labels(prepared: Prepared) -> dict[str, Any]:
    if prepared.config.uses_labels:
        dataset = prepared.dataset
        return {
            "task": dataset.task.name,
            "classes": len(dataset.outputs),
            "labels": "used for training",
        }
    classes = len(prepared.labels.classes)
    return {
        "task": "",
        "classes": classes or None,
        "labels": f"not used for training{', only for the held-out score' if classes else ''}",
    }


def _describe_score(
    context: TrainingContext, prepared: Prepared, recipe: Config, trained: _Trained
) -> dict[str, Any]:
    """The score on the held-out examples: of the predictions, or of the features without labels."""
    dataset, epoch = prepared.dataset, trained.epoch
    assert epoch is not None
    if not prepared.config.uses_labels:
        trained.model.backbone.load_state_dict(dict(trained.tensors))
        score = score_features(context, trained.model, recipe["augment"], prepared.labels)
        return {
            "metric": score.metric,
            "score": score.value,
            "low": score.low,
            "high": score.high,
            "scored": score.images,
        }
    assert epoch.predictions is not None
    indices = dataset.indices("validation")
    low, high = intervals.score_interval(
        prepared.metric, dataset.targets[indices], epoch.predictions, dataset.units[indices]
    )
    low, high = (limit if math.isfinite(limit) else epoch.score for limit in (low, high))
    return {
        "metric": prepared.metric.name,
        "score": epoch.score,
        "low": low,
        "high": high,
        "scored": len(indices),
    }


def _describe_training(prepared: Prepared, recipe: Config, trained: _Trained) -> dict[str, Any]:
    config, epoch = prepared.config, trained.epoch
    assert epoch is not None
    start = recipe["backbone"].plugin.weights
    return {
        "backbone": config.backbone,
        **describe_source_training(
            config, prepared.dataset, prepared.device, start, epoch.number, trained.interrupted
        ),
        **_describe_labels(prepared),
        "channels": config.in_chans,
        "image_size": trained.model.expects.size,
        "recipe": report.describe_config(to_json(recipe)),
    }
