"""What past studies teach a new one: the configurations that did best on similar data.

Data are compared by what is known of them without training: how many classes, how many pictures of
each, how unequal; and by how well each backbone's linear probe did on them, where both studies
have probed it. A configuration from the past is tried early, like a recipe; nothing is taken for
granted because of it (warm starting: Feurer et al. 2015, AAAI; Brazdil et al. 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autotl import report
from autotl.space.space import Space
from autotl.store import Store

MOST = 3
"""How many past studies give a configuration each."""

FARTHEST = 2.0
"""Studies of data that differ more than so much give none."""


@dataclass(frozen=True)
class Profile:
    """What is known of a study's data before anything is fine-tuned on them.

    ``imbalance`` is the size of the largest class over that of the smallest; ``probes`` has the
    score of each backbone's linear probe; ``data`` is the fingerprint of the pictures and labels,
    and ``division`` what they are split by.
    """

    classes: int
    pictures: int  # to train on
    imbalance: float
    probes: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    division: tuple[Any, ...] = ()

    def peeks(self, other: Profile) -> bool:
        """Whether it would learn from ``other`` about its own test part.

        The same pictures divided otherwise have been trained on where this one tests.
        """
        return bool(self.data) and self.data == other.data and self.division != other.division

    def distance(self, other: Profile) -> float:
        """How different the data are: 0 for alike, 1 for e.g. 2.7 times the pictures of a class.

        The sum of the differences of the logarithms, and 10 times that of the probes' scores, on
        average over the backbones that both have probed: a tenth of accuracy counts 1.
        """
        mine, its = self._logarithms(), other._logarithms()
        apart = sum(abs(a - b) for a, b in zip(mine, its, strict=True))
        both = self.probes.keys() & other.probes.keys()
        if both:
            apart += 10 * sum(abs(self.probes[n] - other.probes[n]) for n in both) / len(both)
        return apart

    def _logarithms(self) -> tuple[float, float, float]:
        classes = max(1, self.classes)
        return (
            math.log(classes),
            math.log(max(1, self.pictures) / classes),
            math.log(max(1.0, self.imbalance)),
        )


def profile(store: Store, study: str) -> Profile:
    """The profile of a study's data.

    Raises:
        StudyError: There is no such study.
    """
    facts = store.require(study)
    data = facts.get("data") or {}
    scores: dict[str, float] = {}
    for row in store.trials(study):
        if row.facts.get("probe") and row.score is not None:
            scores |= dict.fromkeys(row.config["backbone"], row.score)
    classes = len(data.get("classes") or ())
    identity = facts.get("identity") or {}
    return Profile(
        classes,
        data.get("train", 0),
        facts.get("imbalance") or 1.0,
        scores,
        data.get("fingerprint", ""),
        tuple(identity.get(key) for key in ("seed", "validation", "test")),
    )


def learn(store: Store, of: Profile, metric: str, space: Space, without: str) -> dict[str, Any]:
    """What did best on the most similar data, by the name of the study; at most ``MOST``.

    Only studies of the same metric count, and only what ``space`` could draw itself.

    Args:
        store: Where the past studies are.
        of: The new data.
        metric: By which the new study chooses.
        space: What it searches.
        without: A study that is not to count, the new one itself.
    """
    found = []
    for name in store.studies():
        facts = store.require(name)
        if name == without or facts.get("metric") != metric:
            continue
        there = profile(store, name)
        if of.peeks(there):
            continue
        best = report.ranked(store.trials(name), facts.get("direction", "maximize"))[:1]
        params = [space.flatten(row.config) for row in best]
        apart = of.distance(there)
        if params and params[0] and apart <= FARTHEST:
            found.append((apart, name, params[0]))
    return {name: params for _, name, params in sorted(found, key=lambda x: x[:2])[:MOST]}
