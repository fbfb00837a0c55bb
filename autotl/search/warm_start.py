"""Warm start: the best configurations of earlier studies on similar data.

Data sets are compared without training: by the number of classes, the number of images per class,
the class imbalance, and the scores of the linear probes on backbones that both studies have probed.
A configuration of an earlier study is tried early, like a recipe (Feurer et al. 2015, AAAI; Brazdil
et al. 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from autotl.search.ranking import rank
from autotl.space.input_kind import IMAGE
from autotl.space.space import Space
from autotl.space.task import DEFAULT_TASK
from autotl.store import Store, existing_url
from autotl.study import StudyConfig

MOST_STUDIES = 3
"""The maximum number of earlier studies from which one configuration each is tried."""

LARGEST_DISTANCE = 2.0
"""The maximum distance between the data of two studies, see ``Profile.distance``."""


@dataclass(frozen=True)
class Profile:
    """Properties of a study's data that are known before fine-tuning.

    Attributes:
        classes: Number of classes.
        train: Number of training images.
        imbalance: Size of the largest class over that of the smallest.
        probes: Score of each backbone's linear probe.
        fingerprint: The fingerprint of the images and labels.
        split: The values of the settings on which the split of the data depends.
        kind: The name of the kind of input.
        task: The name of the task.
    """

    classes: int
    train: int
    imbalance: float
    probes: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    split: tuple[Any, ...] = ()
    kind: str = IMAGE
    task: str = DEFAULT_TASK

    def leaks_into(self, other: Profile) -> bool:
        """Whether ``other`` may have trained on images of the test split of this study.

        This is the case if both have the same data with different splits.
        """
        same = bool(self.fingerprint) and self.fingerprint == other.fingerprint
        return same and self.split != other.split

    def distance(self, other: Profile) -> float:
        """Return the distance between the data of two studies.

        It is the sum of the absolute differences of the logarithms of the number of classes, of
        images per class and of the imbalance, plus 10 times the mean absolute difference of the
        probes' scores. A factor of 2.7 or a difference of 0.1 in accuracy thus counts 1.
        """
        logarithms = zip(self._logarithms(), other._logarithms(), strict=True)
        distance = sum(abs(a - b) for a, b in logarithms)
        both = self.probes.keys() & other.probes.keys()
        if both:
            distance += 10 * sum(abs(self.probes[n] - other.probes[n]) for n in both) / len(both)
        return distance

    def _logarithms(self) -> tuple[float, float, float]:
        classes = max(1, self.classes)
        return (
            math.log(classes),
            math.log(max(1, self.train) / classes),
            math.log(max(1.0, self.imbalance)),
        )


def profile(store: Store, study: str) -> Profile:
    """Return the profile of a study's data.

    Raises:
        StudyError: There is no such study.
    """
    facts = store.study(study)
    scores: dict[str, float] = {}
    for row in store.trials(study):
        if row.facts.is_probe and row.score is not None:
            scores |= dict.fromkeys(row.config["backbone"], row.score)
    identity = facts.identity or {}
    return Profile(
        len(facts.data.classes),
        facts.data.train,
        facts.data.imbalance,
        scores,
        facts.data.fingerprint,
        tuple(identity.get(key) for key in ("seed", "validation", "folds", "test")),
        facts.data.kind,
        facts.data.task,
    )


def learn(
    earlier: Store, data: Profile, metric: str, space: Space, exclude: str
) -> dict[str, dict[str, Any]]:
    """Return the best parameters of the most similar studies, by the name of the study.

    Only studies with the same metric and kind of input are considered, whose parameters ``space``
    can draw.

    Args:
        earlier: The database with the earlier studies.
        data: The profile of the new data.
        metric: The metric of the new study.
        space: The search space of the new study.
        exclude: The name of a study that is ignored: the new one.

    Returns:
        The distinct parameters of at most ``MOST_STUDIES`` studies, the most similar first.
    """
    similar = []
    for name in earlier.studies():
        facts = earlier.study(name)
        if name == exclude or facts.metric != metric:
            continue
        other = profile(earlier, name)
        if (data.kind, data.task) != (other.kind, other.task) or data.leaks_into(other):
            continue
        best = rank(earlier.trials(name), facts.direction)[:1]
        params = [space.flatten(row.config) for row in best]
        distance = data.distance(other)
        if params and params[0] and distance <= LARGEST_DISTANCE:
            similar.append((distance, name, params[0]))
    similar.sort(key=lambda entry: entry[:2])
    distinct: dict[str, dict[str, Any]] = {}
    for _, name, candidate in similar:
        if candidate not in distinct.values() and len(distinct) < MOST_STUDIES:
            distinct[name] = candidate
    return distinct


def recall(store: Store, settings: StudyConfig, space: Space) -> dict[str, dict[str, Any]]:
    """Return the best parameters of earlier studies, as they were at the first call for a study.

    The first call stores its result, so that a study that is continued tries the same recipes.

    Raises:
        StoreError: The database that ``settings.learn_from`` names cannot be read.
    """
    if not settings.history:
        return {}
    facts = store.study(settings.name)
    stored, metric = facts.warm_start, facts.metric
    if stored is not None:
        return {name: params for name, params in stored.items() if _can_draw(space, params)}
    data = profile(store, settings.name)
    if settings.learn_from:
        with closing(Store(existing_url(settings.learn_from))) as earlier:
            parameters = learn(earlier, data, metric, space, settings.name)
    else:
        parameters = learn(store, data, metric, space, settings.name)
    store.update_study(settings.name, warm_start=parameters)
    return parameters


def _can_draw(space: Space, params: Mapping[str, Any]) -> bool:
    """Whether the search space contains these parameters."""
    domains = space.hyperparameters
    return all(n in domains and domains[n].can_draw(v) for n, v in params.items())
