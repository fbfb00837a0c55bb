"""The weights of a search with source data: trained first, and compared with others.

They are cached by what they depend on, so that a study that is continued, and others with the same
source data, use the same weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autotl.artifact import weights_folder
from autotl.data import Dataset
from autotl.engine.pretraining import SAVE_SECONDS, Prepared, prepare, train
from autotl.engine.source_facts import OUT_OF_TIME
from autotl.errors import StudyError
from autotl.events import Listener, Note
from autotl.search.budget import Budget
from autotl.space.registry import Registry
from autotl.store import StudyFacts
from autotl.study import SourceTrainingConfig, StudyConfig

SOURCE_FRACTION = 0.4
"""The fraction of the budget that the source training may take."""

FOLDER = "sources"
"""The folder in the cache with the weights of source trainings."""


def train_source_weights(
    settings: StudyConfig,
    plugins: Registry,
    budget: Budget,
    listener: Listener,
    earlier: StudyFacts | None,
) -> tuple[StudyConfig, Dataset | None]:
    """Train the weights of the backbone on the source data, unless they are cached.

    Args:
        settings: The settings of the study.
        plugins: The plugins.
        budget: The wall-clock budget, of which ``SOURCE_FRACTION`` may be used.
        listener: Called with the events of the progress.
        earlier: The facts of the study that is continued; None for a new one.

    Returns:
        The settings, with the backbone with these weights, with random and with public weights, the
        folder of the weights, and the size of the images that they were trained on, unless another
        one is given; and the source data. Without source data, the settings are unchanged.

    Raises:
        AutoTLError: The user can resolve it; the message says how.
        KeyboardInterrupt: The user interrupted the training.
    """
    if settings.source is None:
        return settings, None
    name = _find_name(settings, plugins)
    limit = None if budget.seconds is None else SOURCE_FRACTION * budget.seconds
    config = SourceTrainingConfig(
        data=settings.source,
        backbone=name,
        budget=limit,
        image_size=settings.size,
        in_chans=settings.in_chans,
        seed=settings.seed,
        plugin=settings.plugin,
        device=settings.device,
        precision=settings.precision,
    )
    with budget.stage("source"):
        own = Budget(limit, fixed=SAVE_SECONDS)
        prepared = prepare(config, listener, plugins)
        folder = settings.out / "cache" / FOLDER / _digest(prepared)
        file = weights_folder.weights_file(folder, name)
        facts: Mapping[str, Any] = weights_folder.read_facts(file)
        if is_usable(facts, limit, earlier):
            text = f"the weights of {name} that were trained on {settings.source} are cached"
            listener(Note(text))
        else:
            facts = _train(prepared, own, listener, folder)
    others = sorted(plugins.variants(name).items(), key=lambda item: not item[1].owns_folder)
    changed = {
        "backbone": (*(variant for variant, _ in others), name),
        "weights": folder,
        "image_size": settings.image_size or (facts["image_size"],),
    }
    return settings.model_copy(update=changed), prepared.dataset


def warn_of_shared(source: Dataset | None, dataset: Dataset, listener: Listener) -> None:
    """Warn of examples that are in the source data and in those of the search, by their content."""
    if source is None:
        return
    shared = np.isin(dataset.digests, source.digests)
    if shared.any():
        tested = int(shared[dataset.indices("test")].sum())
        text = (
            f"{shared.sum()} of the {len(shared)} {dataset.kind.nouns} are in the source data too, "
            f"{tested} of them in the test split: scores may be too good; remove them from one of "
            "the two"
        )
        listener(Note(text, warning=True))


def _find_name(settings: StudyConfig, plugins: Registry) -> str:
    """The name of the backbone without that of its weights.

    Raises:
        StudyError: There are several, or its weights cannot be compared with others.
    """
    names = {plugins.plain_name(name) for name in settings.backbone}
    if len(names) != 1:
        raise StudyError(
            "source data train the weights of one backbone; give one --backbone, such as resnet18"
        )
    [name] = names
    if not plugins.variants(name):
        raise StudyError(f"source data cannot train {name}; give a model of timm as --backbone")
    return name


def _digest(prepared: Prepared) -> str:
    """A digest of everything on which the weights depend, except the time that there is."""
    config = prepared.config.model_dump(
        mode="json", include={"backbone", "method", "start", "epochs", "in_chans", "seed"}
    )
    decisive = [config, prepared.settings.image_size, prepared.dataset.fingerprint]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def is_usable(facts: Mapping[str, Any], limit: float | None, earlier: StudyFacts | None) -> bool:
    """Whether cached weights have all epochs, or as many as there is time for.

    The trials of a study that is continued have these weights, whatever the time was.
    """
    if not facts or earlier or not facts.get("stopped"):
        return bool(facts)
    before = facts.get("budget_seconds")
    is_longer = limit is None or not isinstance(before, int | float) or limit > before
    return facts["stopped"] == OUT_OF_TIME and not is_longer


def _train(
    prepared: Prepared, budget: Budget, listener: Listener, folder: Path
) -> Mapping[str, Any]:
    """Train the weights; return what is known of them."""
    config = prepared.config
    of_budget = ""
    if budget.seconds is not None:
        percent = f"{SOURCE_FRACTION:.0%}".replace("%", " %")
        of_budget = f", for at most {budget.seconds:.0f} s, {percent} of the budget"
    listener(Note(f"training {config.backbone} on {config.data}{of_budget}"))
    result = train(prepared, budget, listener, folder)
    if result.interrupted:
        raise KeyboardInterrupt
    return result.facts
