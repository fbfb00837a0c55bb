"""What mattered in a search: the kinds of plugins first, then hyperparameters.

Only what had an effect counts, and only what enough trials had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotl.search.ranking import rank
from autotl.space.kinds import SEARCHED_KINDS

if TYPE_CHECKING:
    from autotl.store import TrialRow

MIN_TRIALS = 10
"""The minimum number of complete trials that differ in something, to say how much it mattered."""

MIN_PER_CHOICE = 2
"""The minimum number of trials of a plugin that counts."""


@dataclass(frozen=True)
class Effect:
    """How much of the differences between trials goes with one choice.

    Attributes:
        name: The kind, or the plugin's hyperparameter.
        fraction: Of the variance of the ranks of the trials, adjusted for chance, 0 to 1.
        trials: The number of trials that were compared.
    """

    name: str
    fraction: float
    trials: int


def kind_effects(rows: Sequence[TrialRow], direction: str) -> list[Effect]:
    """How much the choice of the plugin of each kind mattered, the most important first.

    It is the fraction of the variance of the ranks that is between plugins (epsilon squared, Kelley
    1935, PNAS 21).

    Args:
        rows: The trials of a study.
        direction: ``maximize`` or ``minimize``.

    Returns:
        The kinds of which several plugins were tried in enough trials.
    """
    complete = rank(rows, direction)
    effects = []
    for kind in SEARCHED_KINDS:
        names = [next(iter(row.effective_config.get(kind, {})), None) for row in complete]
        pairs = [(name, place) for place, name in enumerate(names) if name is not None]
        groups: dict[str, list[int]] = {}
        for name, place in pairs:
            groups.setdefault(name, []).append(place)
        groups = {name: each for name, each in groups.items() if len(each) >= MIN_PER_CHOICE}
        if len(groups) > 1 and sum(map(len, groups.values())) >= MIN_TRIALS:
            effects.append(_between(kind, list(groups.values())))
    return sorted(effects, key=lambda effect: -effect.fraction)


def hyperparameter_effects(rows: Sequence[TrialRow], direction: str) -> list[Effect]:
    """How much each numeric hyperparameter mattered among the trials that had it.

    It is the squared rank correlation with the score, adjusted for chance.

    Args:
        rows: The trials of a study.
        direction: ``maximize`` or ``minimize``.

    Returns:
        Those that enough trials had, and that mattered, the most important first.
    """
    values: dict[str, list[tuple[float, int]]] = {}
    for place, row in enumerate(rank(rows, direction)):
        for kind, choice in row.effective_config.items():
            for plugin, params in choice.items():
                for key, value in params.items():
                    if isinstance(value, int | float):
                        name = f"{kind} {plugin}: {key}"
                        values.setdefault(name, []).append((float(value), place))
    effects = []
    for name, pairs in values.items():
        n = len(pairs)
        if n >= MIN_TRIALS and len({value for value, _ in pairs}) > 1:
            _, inverse, counts = np.unique(
                [value for value, _ in pairs], return_inverse=True, return_counts=True
            )
            ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # the mean rank of equal values
            squared = float(np.corrcoef(ranks, [place for _, place in pairs])[0, 1]) ** 2
            effects.append(Effect(name, 1 - (1 - squared) * (n - 1) / (n - 2), n))
    return sorted((e for e in effects if e.fraction > 0), key=lambda effect: -effect.fraction)


def _between(name: str, groups: Sequence[Sequence[int]]) -> Effect:
    """The adjusted fraction of the variance of ``groups`` of ranks that is between them."""
    n, k = sum(map(len, groups)), len(groups)
    mean = sum(map(sum, groups)) / n
    total = sum((value - mean) ** 2 for group in groups for value in group)
    within = sum((value - sum(group) / len(group)) ** 2 for group in groups for value in group)
    fraction = 1 - within / (n - k) / (total / (n - 1)) if n > k and total else 0.0
    return Effect(name, max(0.0, fraction), n)
