"""AutoTL: searches for the best way to fine-tune a pretrained model on your data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import autotl.search  # noqa: F401  the package is loaded first, so that the function keeps its name
from autotl.errors import AutoTLError, Incompatible
from autotl.space.hyperparameter import Mirrors, Range, When
from autotl.space.input_kind import ANY_INPUT, InputKind, ModelInput, Preview, WeightedText
from autotl.space.plugin import (
    Balance,
    Example,
    Issue,
    Uniform,
    Weights,
    augment,
    backbone,
    balance,
    dataset,
    freeze,
    head,
    loss,
    metric,
    optimizer,
    task,
    unlabelled,
)
from autotl.space.task import Finding, Label, Task
from autotl.space.unlabelled import Outputs, UnlabelledMethod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotl.artifact.predictor import Predictor
    from autotl.engine import Result, SourceTraining
    from autotl.events import Listener

__version__ = "0.1.0"


def search(data: str | Path, listener: Listener | None = None, **options: Any) -> Result:
    """Search for the best transfer configuration: ``search("photos/", budget="10m")``.

    Args:
        data: A folder, a file or another source of labelled images, or a study file.
        listener: Called with the events of the progress, see ``autotl.events``.
        options: The options of ``autotl search`` by name: ``backbone=["resnet*"], trials=20``.

    Returns:
        The result, with ``best``, ``predict(images)`` and ``summary``.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    from autotl import engine, events, study  # torch is loaded only when needed

    return engine.run(study.configure(str(data), options), listener or events.ignore)


def load(folder: str | Path, plugin: Sequence[str | Path] = ()) -> Predictor:
    """Load the model in a model folder: ``load("runs/photos/model").predict(["new.jpg"])``.

    Args:
        folder: The model folder that a search or ``autotl train`` wrote.
        plugin: Python files with the plugins that the model was built from, if any.

    Raises:
        ArtifactError: The folder is incomplete, or a plugin that it needs is not available.
        PluginError: A plugin file cannot be imported.
    """
    from autotl.artifact import model_folder
    from autotl.space import registry

    return model_folder.load(Path(folder), registry.load(Path(file) for file in plugin))


def pretrain(
    data: str | Path, backbone: str, listener: Listener | None = None, **options: Any
) -> SourceTraining:
    """Train the weights of a backbone on source data: ``pretrain("birds/", "resnet18")``.

    Args:
        data: A folder, a file or another source of labelled images.
        backbone: A model of timm.
        listener: Called with the events of the progress, see ``autotl.events``.
        options: The options of ``autotl pretrain`` by name, ``start`` for ``--from``:
            ``out="weights", epochs=50``.

    Returns:
        The ``file`` with the weights, and ``facts`` about them.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    from autotl import engine, events, study

    settings = study.configure_source_training(str(data), {"backbone": backbone, **options})
    return engine.pretrain(settings, listener or events.ignore)


def work(study: str, listener: Listener | None = None, **options: Any) -> bool:
    """Join the search of a study that another process runs: ``work("photos", out="/shared/runs")``.

    Args:
        study: The name of the study.
        listener: Called with the events of the progress, see ``autotl.events``.
        options: ``storage``, ``out``, ``data``, ``device`` and ``wait``, see ``autotl worker``.

    Returns:
        Whether the user interrupted the worker.

    Raises:
        AutoTLError: An error that the user can resolve; the message says how.
    """
    from autotl import engine, events

    return engine.work(study, listener=listener or events.ignore, **options)


__all__ = [
    "ANY_INPUT",
    "AutoTLError",
    "Balance",
    "Example",
    "Finding",
    "Incompatible",
    "InputKind",
    "Issue",
    "Label",
    "Mirrors",
    "ModelInput",
    "Outputs",
    "Preview",
    "Range",
    "Task",
    "Uniform",
    "UnlabelledMethod",
    "WeightedText",
    "Weights",
    "When",
    "augment",
    "backbone",
    "balance",
    "dataset",
    "freeze",
    "head",
    "load",
    "loss",
    "metric",
    "optimizer",
    "pretrain",
    "search",
    "task",
    "unlabelled",
    "work",
]
