"""What earlier studies teach a new one: the configurations that did best on similar data.

Data sets are compared without training: by the number of classes, the number of images per class,
the class imbalance, and the score of each backbone's linear probe, where both studies have probed
it. A configuration from an earlier study is tried early, like a recipe (warm starting: Feurer et
al. 2015, AAAI; Brazdil et al. 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from autotl.search.leaderboard import rank
from autotl.space.space import Space
from autotl.store import Store, existing_url
from autotl.study import StudyConfig

MOST_STUDIES = 3
"""How many earlier studies give a configuration each."""

LARGEST_DISTANCE = 2.0
"""Studies of data that differ more than this give none."""


@dataclass(frozen=True)
class Profile:
    """What is known of a study's data before anything is fine-tuned on them.

    Attributes:
        classes: Number of classes.
        train: Number of training images.
        imbalance: Size of the largest class over that of the smallest.
        probes: Score of each backbone's linear probe.
        fingerprint: Of the images and labels.
        split: The settings that decide how the data are split.
    """

    classes: int
    train: int
    imbalance: float
    probes: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    split: tuple[Any, ...] = ()

    def leaks_into(self, other: Profile) -> bool:
        """Whether the other study has trained on images of this one's test split.

        That is so for the same data with another split.
        """
        same = bool(self.fingerprint) and self.fingerprint == other.fingerprint
        return same and self.split != other.split

    def distance(self, other: Profile) -> float:
        """How different the data are: 0 for alike, 1 for e.g. 2.7 times the images per class.

        The sum of the differences of the logarithms, plus 10 times the mean difference of the
        probes' scores over the backbones that both have probed: a tenth of accuracy counts 1.
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
    """The profile of a study's data.

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
        tuple(identity.get(key) for key in ("seed", "validation", "test")),
    )


def learn(
    library: Store, of: Profile, metric: str, space: Space, without: str
) -> dict[str, dict[str, Any]]:
    """The best parameters of the most similar studies, by their names; ``MOST_STUDIES`` at most.

    Only studies of the same metric count, and only parameters that ``space`` could draw itself.

    Args:
        library: Where the earlier studies are.
        of: The new data.
        metric: By which the new study selects.
        space: What it searches.
        without: A study that does not count, the new one itself.
    """
    similar = []
    for name in library.studies():
        facts = library.study(name)
        if name == without or facts.metric != metric:
            continue
        other = profile(library, name)
        if of.leaks_into(other):
            continue
        best = rank(library.trials(name), facts.direction)[:1]
        params = [space.flatten(row.config) for row in best]
        distance = of.distance(other)
        if params and params[0] and distance <= LARGEST_DISTANCE:
            similar.append((distance, name, params[0]))
    similar.sort(key=lambda entry: entry[:2])
    return {name: params for _, name, params in similar[:MOST_STUDIES]}


def recall(store: Store, settings: StudyConfig, space: Space) -> dict[str, dict[str, Any]]:
    """What did best on similar data, as it was when the study first asked.

    Raises:
        StoreError: The database that ``settings.learn_from`` names cannot be read.
    """
    if not settings.history:
        return {}
    stored = store.study(settings.name).warm_start
    if stored is not None:
        return {name: params for name, params in stored.items() if _can_draw(space, params)}
    here = profile(store, settings.name)
    if settings.learn_from:
        with closing(Store(existing_url(settings.learn_from))) as library:
            parameters = learn(library, here, settings.metric, space, settings.name)
    else:
        parameters = learn(store, here, settings.metric, space, settings.name)
    store.update_study(settings.name, warm_start=parameters)
    return parameters


def _can_draw(space: Space, params: Mapping[str, Any]) -> bool:
    """Whether the space can still draw these parameters."""
    domains = space.hyperparameters
    return all(n in domains and domains[n].can_draw(v) for n, v in params.items())
