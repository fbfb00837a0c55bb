"""Continued pretraining in a search: a backbone is trained on with the images of the data.

They are those of the training split and the unlabelled ones, and no label is used. The weights are
cached by what they depend on, as those of source data are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotl import data
from autotl.artifact import weights_folder
from autotl.data import Dataset
from autotl.engine.pretraining import SAVE_SECONDS, Prepared, train
from autotl.engine.self_supervised import require_enough
from autotl.engine.source_weights import FOLDER, is_usable
from autotl.errors import StudyError
from autotl.events import Listener, Note
from autotl.models import Device
from autotl.scoring import metrics
from autotl.search.budget import PRETRAINING_FRACTION, Budget
from autotl.space.plugin import AnyPlugin
from autotl.space.registry import Registry
from autotl.space.space import Space
from autotl.store import StudyFacts
from autotl.study import SourceTrainingConfig, StudyConfig
from autotl.tasks import ANY, WithoutLabels

EPOCHS = 30
"""The number of epochs, if there is time for them."""

RATE = 3e-4
"""The learning rate: lower than that from scratch, because the weights are good already."""


def continue_pretraining(
    settings: StudyConfig,
    plugins: Registry,
    search_space: Space,
    dataset: Dataset,
    device: Device,
    budget: Budget,
    listener: Listener,
    earlier: StudyFacts | None,
) -> StudyConfig:
    """Train the first pretrained backbone on, unless such weights are cached.

    Args:
        settings: The settings of the study.
        plugins: The plugins that suit the data.
        search_space: The search space, which has the backbone.
        dataset: The data, checked and split.
        device: The device.
        budget: The wall-clock budget, of which ``PRETRAINING_FRACTION`` may be used.
        listener: Called with the events of the progress.
        earlier: The facts of the study that is continued; None for a new one.

    Returns:
        The settings, with the names of all backbones, among them that with the new weights after
        the untouched one, and with the folder of the weights. They are unchanged after a training
        that stopped before an epoch was complete, of which a warning says why.

    Raises:
        AutoTLError: The user can resolve it; the message says how.
        KeyboardInterrupt: The user interrupted the training.
    """
    plugin, variant = _choose_backbone(search_space, plugins)
    with budget.stage("pretraining"):
        limit = None if budget.seconds is None else PRETRAINING_FRACTION * budget.seconds
        prepared = _prepare(settings, plugin, plugins, dataset, device, limit)
        folder = settings.out / "cache" / FOLDER / _digest(prepared, plugin)
        facts = weights_folder.read_facts(weights_folder.weights_file(folder, plugin.name))
        if is_usable(facts, limit, earlier):
            listener(Note(f"the weights of {plugin.name} after continued pretraining are cached"))
        else:
            try:
                _train(prepared, Budget(limit, fixed=SAVE_SECONDS), listener, folder)
            except StudyError as stopped:  # such as a budget that is too short for an epoch
                text = f"{stopped}; the search goes on with the untouched weights"
                listener(Note(text, warning=True))
                return settings
    names = [name for name in search_space.default_order("backbone") if name != variant]
    names.insert(names.index(plugin.name) + 1, variant)
    return settings.model_copy(update={"backbone": tuple(names), "weights": folder})


def _choose_backbone(search_space: Space, plugins: Registry) -> tuple[AnyPlugin, str]:
    """Choose the first pretrained backbone that has a variant with the weights of a folder.

    Returns:
        The backbone, and the name of that variant.

    Raises:
        StudyError: There is none.
    """
    for name in search_space.default_order("backbone"):
        plugin = search_space.find("backbone", name)
        variants = plugins.variants(name).items() if plugins.plain_name(name) == name else ()
        own = [variant for variant, family in variants if family.owns_folder]
        if own and not plugin.has_random_weights:
            return plugin, own[0]
    raise StudyError(
        "--continue-pretraining needs a pretrained model of timm among the backbones; give one "
        "with --backbone, such as resnet18"
    )


def _prepare(
    settings: StudyConfig,
    plugin: AnyPlugin,
    plugins: Registry,
    dataset: Dataset,
    device: Device,
    limit: float | None,
) -> Prepared:
    """Prepare a source training without labels on the images that the search may train with."""
    config = SourceTrainingConfig(
        data=settings.data,
        backbone=plugin.name,
        method="simclr",
        start="pretrained",
        epochs=EPOCHS,
        lr=RATE,
        budget=limit,
        image_size=settings.size,
        in_chans=settings.in_chans,
        seed=settings.seed,
        licence=plugin.weights.licence if plugin.weights else "unknown",
        plugin=settings.plugin,
        device=settings.device,
        precision=settings.precision,
    )
    images = select_training_images(dataset)
    require_enough(images)
    own = config.as_search()
    return Prepared(config, own, images, metrics.get("accuracy"), plugins, device)


def select_training_images(dataset: Dataset) -> Dataset:
    """Return the examples that a search may train with, without their labels, as one split.

    They are those of the training split, and the unlabelled ones beside the validation and the
    test split: no copies or near-copies of an example there.
    """
    train = dataset.indices("train")
    others = dataset.unlabelled_beside(dataset.indices("validation"))
    joined = data.join_unlabelled(dataset, others)
    chosen = joined.indices("train")
    decisive = [dataset.identity, train.tolist(), others.tolist()]
    return replace(
        joined,
        fingerprint=hashlib.sha256(json.dumps(decisive).encode()).hexdigest(),
        task=WithoutLabels((ANY,)),
        examples=tuple(
            replace(joined.examples[i], label=ANY, split="train") for i in chosen.tolist()
        ),
        targets=np.zeros(len(chosen), np.int64),
        splits=("train",) * len(chosen),
        issues=(),
        units=joined.units[chosen],
        digests=joined.digests[chosen],
        target="",
    )


def _digest(prepared: Prepared, plugin: AnyPlugin) -> str:
    """A digest of everything on which the weights depend, except the time that there is."""
    keys = {"backbone", "method", "start", "epochs", "lr", "image_size", "in_chans", "seed"}
    config: Mapping[str, Any] = prepared.config.model_dump(mode="json", include=keys)
    origin = plugin.weights.origin if plugin.weights else ""
    decisive = [config, origin, prepared.dataset.fingerprint]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _train(prepared: Prepared, budget: Budget, listener: Listener, folder: Path) -> None:
    config, dataset = prepared.config, prepared.dataset
    of_budget = ""
    if budget.seconds is not None:
        percent = f"{PRETRAINING_FRACTION:.0%}".replace("%", " %")
        of_budget = f", for at most {budget.seconds:.0f} s, {percent} of the budget"
    count, nouns = len(dataset.examples), dataset.kind.nouns
    text = f"continuing the pretraining of {config.backbone} by {config.method} on {count} {nouns}"
    listener(Note(f"{text}{of_budget}"))
    if train(prepared, budget, listener, folder).interrupted:
        raise KeyboardInterrupt
