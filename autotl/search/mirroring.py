"""Whether augmentations may mirror images, measured once for each study.

A head is fitted on the features of the first backbone without augmentation, and scored on
validation images and on the same images mirrored. If it loses too much, no augmentation of the
search space mirrors. Features of images that are not mirrored are those that the first probe needs,
and are cached for it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from autotl import data, training
from autotl.data import Indices
from autotl.errors import is_machine_fault
from autotl.models import Model
from autotl.scoring.mirroring import Mirroring, score_mirrored
from autotl.search.context import TrainingContext
from autotl.search.outcome import search_error
from autotl.space.space import Choice, Config, Space
from autotl.training import Job

MOST_TRAINING, MOST_SCORED = 500, 300
"""The number of images that the head is fitted on, and scored on."""

FEWEST_SCORED = 50
"""The number of mirrored images for which there must be time."""

FEATURES_FRACTION = 0.1
"""The fraction of the budget for the features of images as they are, which a first probe reuses."""

TIME_FRACTION = 0.02
"""The fraction of the budget in which features of mirrored images are computed."""


def measure_mirroring(space: Space, context: TrainingContext) -> Mirroring | None:
    """Measure whether what is predicted survives mirroring.

    Returns:
        The scores; None if nothing can be measured, or if there is no time for it.
    """
    plugins = {kind: space.find(kind, space.default_order(kind)[0]) for kind in space.plugins}
    config = {kind: Choice(plugin, plugin.defaults) for kind, plugin in plugins.items()}
    if plugins["head"].takes == "map":
        return None
    try:
        features = _compute_features(context.build(config), config, context)
    except Exception as error:  # its trials will report why it cannot be built or run
        if is_machine_fault(error):
            raise search_error(error) from error
        return None
    return score_mirrored(*features) if features else None


def _compute_features(
    model: Model, config: Config, context: TrainingContext
) -> tuple[Any, Any, Any, Any, Any] | None:
    """Compute the arguments of ``score_mirrored``; None if there are too few images or no time."""
    dataset, budget = context.dataset, context.budget
    job = context.job(model, "train", epochs=1, views=1)
    if budget.seconds is not None:  # as the first trial will compute them
        job = replace(job, compute=training.measure_cost(model, config, job).compute)
    fitted, validation = data.fitted_and_scored(dataset, context.settings.seed)
    train = _draw(fitted, MOST_TRAINING, context.settings.seed)
    scored = _draw(validation, MOST_SCORED, context.settings.seed)
    if len(scored) < FEWEST_SCORED:
        return None

    if budget.seconds is not None:
        job.deadline = time.monotonic() + FEATURES_FRACTION * budget.seconds

    def on(indices: Indices) -> Job:
        return replace(job, train=context.batches_of(model, indices), validation=None)

    features = training.extract_backbone_features(model, config, on(train))
    plain = training.extract_backbone_features(model, config, on(scored))
    mirrored_job = on(scored)
    if budget.seconds is not None:
        mirrored_job.deadline = time.monotonic() + TIME_FRACTION * budget.seconds
    mirrored, positions = training.extract_mirrored_features(model, mirrored_job)
    if len(positions) < FEWEST_SCORED:
        return None
    targets = dataset.targets
    return features, targets[train], plain[positions], mirrored, targets[scored[positions]]


def _draw(indices: Indices, most: int, seed: int) -> Indices:
    """Draw at most so many indices, ascending."""
    drawn = np.random.default_rng(seed).permutation(indices)[:most]
    return np.sort(drawn)
