"""Source training by a method of the backbone's own family, such as masked language modelling.

The data are read, checked and split as for the methods that are built in. What is written is a
folder of the family, with a model card.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotl import files, models
from autotl.artifact import weights_folder
from autotl.data import Dataset
from autotl.engine.inputs import check_source
from autotl.engine.search_space import load_plugins, plugins_for
from autotl.engine.self_supervised import read_without_labels, require_enough
from autotl.engine.source_facts import describe_source_training
from autotl.errors import (
    OutOfMemory,
    OutOfTime,
    PluginError,
    StudyError,
    TrialStopped,
    did_you_mean,
)
from autotl.events import Listener, Note, Stage
from autotl.models import Device
from autotl.search.budget import Budget
from autotl.space.plugin import AnyPlugin
from autotl.space.pretraining import Pretrained, Pretraining, PretrainingMethod
from autotl.space.registry import Registry
from autotl.study import SOURCE_TRAINING_METHODS, SourceTrainingConfig
from autotl.training.kernels import cuda_kernels
from autotl.training.memory import convert_out_of_memory

FAMILY_SEPARATOR = ":"
"""What separates the prefix of a family from the name of a model, as in ``hf:roberta-base``."""


def pretrain(
    config: SourceTrainingConfig, listener: Listener, plugins: Registry | None, budget: Budget
) -> tuple[dict[str, Any], Path, bool]:
    """Train a backbone by a method of its family.

    Args:
        config: The settings.
        listener: Called with the events of the progress.
        plugins: The plugins; None for the installed ones and those of ``config.plugin``.
        budget: The wall-clock budget.

    Returns:
        The facts of the training, the folder with the weights, and whether Ctrl-C ended it.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
        KeyboardInterrupt: The user interrupted it before an epoch was complete.
    """
    began, settings = time.monotonic(), config.as_search()
    plugins = load_plugins(settings, plugins)
    source, _ = read_without_labels(settings, plugins)
    plugin, method = _find_method(config, plugins_for(settings, plugins, source))
    target = config.out / Path(config.backbone.rpartition(FAMILY_SEPARATOR)[2]).name
    weights_folder.check_folder_replaceable(target)
    device = models.select_device(settings.device, settings.precision)
    dataset = check_source(config, source, listener)
    require_enough(dataset)
    with weights_folder.temporary_folder(config.out) as folder:
        task = _describe_task(config, plugin, dataset, device, budget, listener, folder, target)
        listener(Stage("training", 0, config.epochs))
        trained = _train(method, task, device)
        facts = _describe(config, plugin, dataset, device, trained, time.monotonic() - began)
        weights_folder.save_folder(folder, target, source.kind.nouns, facts)
    return facts, target, trained.interrupted


def _train(method: PretrainingMethod, task: Pretraining, device: Device) -> Pretrained:
    """Call the method of a family.

    Raises:
        StudyError: The training stops, because there is no more time, say.
        StoreError: The weights cannot be written.
        Exception: Any other error of the method is its own.
    """
    try:
        with cuda_kernels(device), convert_out_of_memory("a batch", device.torch_device):
            return method(task)
    except TrialStopped as stop:
        raise StudyError(f"the source training stopped: {stop}{_advise(stop)}") from None
    except OSError as error:
        if not files.is_write_error(error, task.folder):
            raise
        raise weights_folder.write_error(task.target, error) from None


def _advise(stop: TrialStopped) -> str:
    if isinstance(stop, OutOfTime):
        return "; give a larger --budget, or a smaller --size"
    if isinstance(stop, OutOfMemory):
        return "; give a smaller --batch-size or --size"
    return ""


def _find_method(
    config: SourceTrainingConfig, plugins: Registry
) -> tuple[AnyPlugin, PretrainingMethod]:
    """Find the backbone, with weights if the training starts from them, and the method.

    Raises:
        PluginError: There is no such backbone or method.
        WeightsError: The weights cannot be found.
    """
    plugin = plugins.get_untrained("backbone", config.backbone)
    method = plugin.pretraining.get(config.method)
    if method is None:
        names = [*SOURCE_TRAINING_METHODS, *plugin.pretraining]
        near = did_you_mean(config.method, names)
        raise PluginError(f"no method for {config.backbone} is called {config.method!r}; {near}")
    if config.start == "pretrained":
        plugin = plugins.get("backbone", config.backbone, config.weights)
    return plugin, method


def _describe_task(
    config: SourceTrainingConfig,
    plugin: AnyPlugin,
    dataset: Dataset,
    device: Device,
    budget: Budget,
    listener: Listener,
    folder: Path,
    target: Path,
) -> Pretraining:
    """Return what the method is given."""

    def report(epoch: int, text: str) -> None:
        listener(Note(f"epoch {epoch} of {config.epochs}: {text}"))
        listener(Stage("training", epoch, config.epochs))

    train, held_out = (
        [dataset.examples[i].item for i in dataset.indices(split).tolist()]
        for split in ("train", "validation")
    )
    return Pretraining(
        name=config.backbone,
        weights=plugin.weights,
        train=train,
        held_out=held_out,
        folder=folder,
        target=target,
        epochs=config.epochs,
        batch_size=config.batch_size,
        size=config.image_size,
        lr=config.lr,
        seed=config.seed,
        device=device,
        seconds_left=lambda: math.inf if budget.seconds is None else budget.usable(),
        report=report,
    )


def _describe(
    config: SourceTrainingConfig,
    plugin: AnyPlugin,
    dataset: Dataset,
    device: Device,
    trained: Pretrained,
    seconds: float,
) -> dict[str, Any]:
    """Return the facts of a training, as those of the methods that are built in."""
    own = asdict(trained)
    interrupted = own.pop("interrupted")
    common = describe_source_training(
        config, dataset, device, plugin.weights, trained.epochs, interrupted
    )
    return {
        "name": config.backbone,
        **common,
        "labels": "not used for training",
        "scored": common["held_out"] if trained.score is not None else 0,
        "seconds": round(seconds, 1),
        **own,
    }
