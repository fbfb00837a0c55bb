"""What is recorded of a source training, whatever its method."""

from __future__ import annotations

from typing import Any

from autotl.data import Dataset
from autotl.engine.beginning import versions
from autotl.models import Device
from autotl.space.plugin import Weights
from autotl.study import SourceTrainingConfig

OUT_OF_TIME = "the budget limited them"
"""Why a training that the budget limited has fewer epochs than planned."""

INTERRUPTED = "interrupted"
"""Why a training that Ctrl-C ended has fewer epochs than planned."""


def describe_source_training(
    config: SourceTrainingConfig,
    dataset: Dataset,
    device: Device,
    start: Weights | None,
    epochs: int,
    interrupted: bool,
) -> dict[str, Any]:
    """Return the facts that all methods have, see ``pretraining.SourceTraining``.

    Args:
        config: The settings.
        dataset: The source data.
        device: The device.
        start: The weights from which the training started; None for random ones.
        epochs: The number of complete epochs.
        interrupted: Whether Ctrl-C ended the training.
    """
    stopped = INTERRUPTED if interrupted else ""
    if not stopped and epochs < config.epochs:
        stopped = OUT_OF_TIME
    return {
        "source": dataset.source,
        "fingerprint": dataset.fingerprint,
        "train": len(dataset.indices("train")),
        "held_out": len(dataset.indices("validation")),
        "method": config.method,
        "started_from": start.origin if start else "random weights",
        "epochs": epochs,
        "planned_epochs": config.epochs,
        "stopped": stopped,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "device": str(device),
        "versions": versions(),
        "licence": config.licence,
        "budget_seconds": config.budget,
    }
