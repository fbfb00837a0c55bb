"""The recipes that are tried before the sampler chooses: a search is no worse than they are.

First the first freeze strategy in order, a linear probe if one is in the space, on every backbone.
Then what did best on similar data in earlier studies. Then the other heads in order with that
strategy on the most promising backbone; the next strategy in order on the few most promising
backbones; and the other strategies in order on the most promising one. Plugins declare their order,
and their defaults are the recipes; each cites its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotl.space.space import Space
from autotl.store import TrialRow

WARM_START = "learned from"
"""The first name of a recipe from an earlier study; its second name is that study's."""

BACKBONES = 3
"""How many of the most promising backbones are fine-tuned with the second strategy in order."""

Names = tuple[str, ...]
Recipe = tuple[Names, dict[str, Any]]
"""The names of a recipe, and the parameters of its trial."""

Tried = Mapping[Names, TrialRow]
"""The trials of recipes by their names."""


@dataclass(frozen=True)
class Portfolio:
    """The recipes of one study.

    Attributes:
        space: What is searched.
        validation_size: Sampling units of the validation split, for standard errors.
        warm_start: Returns parameters that did best in earlier studies, by the names of these;
            called once the backbones have been probed.
        first_trial: Number of the first trial of this run: recipes that were out of time in
            earlier runs are tried again.
    """

    space: Space
    validation_size: int
    warm_start: Callable[[], Mapping[str, Mapping[str, Any]]]
    first_trial: int = 0

    def next_recipe(self, ranked: Sequence[TrialRow], tried: Tried) -> Recipe | None:
        """The next recipe to try; None when all have been tried.

        Args:
            ranked: The complete trials, best first.
            tried: The trials of recipes so far.
        """
        done = {names: row for names, row in tried.items() if self._counts(row)}
        for names, params in self._recipes(ranked, done):
            if names not in done:
                return names, params
        return None

    def cheapest_parameters(self, ranked: Sequence[TrialRow]) -> dict[str, Any]:
        """Parameters of the cheapest kind of trial, for when others do not fit into the budget.

        That is the first strategy in order on the most promising backbone with the first
        augmentation, whose features are cached. The rest is left to the sampler.
        """
        promising = self._promising(ranked)
        names = {"backbone": promising[0]} if promising else {}
        kinds = ("augment", *names)
        defaults = self.space.defaults(**names).items()
        return {n: v for n, v in defaults if n == "freeze" or n.split(".")[0] in kinds}

    def is_probe(self, recipe: Sequence[str]) -> bool:
        """Whether a recipe is the first strategy with the first head on some backbone."""
        return tuple(recipe[1:]) == self._first

    def is_cheap(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration has the first strategy in order."""
        return self._first[0] in config.get("freeze", {})

    @property
    def _first(self) -> tuple[str, str]:
        return self.space.default_order("freeze")[0], self.space.default_order("head")[0]

    def _counts(self, row: TrialRow) -> bool:
        """Whether a recipe was really tried: not where an earlier run had no time for it."""
        if row.status == "interrupted":
            return False
        return not (row.status == "out_of_time" and row.number < self.first_trial)

    def _recipes(self, ranked: Sequence[TrialRow], tried: Tried) -> Iterator[Recipe]:
        """All recipes in their order."""
        first, head = self._first
        backbones = self.space.default_order("backbone")
        yield from (self._default(backbone, first, head) for backbone in backbones)
        if not tried.keys() >= {(backbone, first, head) for backbone in backbones}:
            return  # which backbones are promising is not known yet
        for name, params in self.warm_start().items():
            yield (WARM_START, name), dict(params)
        promising = self._promising(ranked)
        for other in self.space.default_order("head")[1:]:
            yield from (self._default(backbone, first, other) for backbone in promising[:1])
        latencies = _latencies(ranked)
        for position, freeze in enumerate(self.space.default_order("freeze")[1:]):
            count = 1 if position else BACKBONES
            yield from self._with_strategy(freeze, head, count, promising, latencies, tried)

    def _with_strategy(
        self,
        freeze: str,
        head: str,
        count: int,
        promising: Sequence[str],
        latencies: Mapping[str, float],
        tried: Tried,
    ) -> Iterator[Recipe]:
        """A strategy on the ``count`` most promising backbones that there is time for.

        Where there was no time for one backbone, slower ones are skipped.
        """
        too_slow = float("inf")  # milliseconds per image
        for backbone in promising:
            if not count or latencies.get(backbone, 0.0) >= too_slow:
                continue
            yield self._default(backbone, freeze, head)
            row = tried.get((backbone, freeze, head))
            if row and row.status == "out_of_time":
                too_slow = latencies.get(backbone, too_slow)
            else:
                count -= 1

    def _default(self, backbone: str, freeze: str, head: str) -> Recipe:
        params = self.space.defaults(backbone=backbone, freeze=freeze, head=head)
        return (backbone, freeze, head), params

    def _promising(self, ranked: Sequence[TrialRow]) -> list[str]:
        """The backbones whose probes completed, most promising first.

        Those within a standard error of the best count as equally good, and of these the smaller
        comes first (the one-standard-error rule, Breiman et al. 1984), of equals the one with the
        higher LogME.
        """
        freeze, head = self._first
        probes = [r for r in ranked if freeze in r.config["freeze"] and head in r.config["head"]]
        if not probes or (best := probes[0].score) is None:
            return []
        error = (max(0.0, best * (1 - best)) / max(1, self.validation_size)) ** 0.5
        close = [r for r in probes if r.score is not None and abs(r.score - best) <= error]
        close.sort(key=lambda r: (r.parameters or 0, -(r.facts.logme or 0.0)))
        ordered = [*close, *(r for r in probes if r not in close)]
        here = {plugin.name for plugin in self.space.plugins["backbone"]}
        names = dict.fromkeys(name for r in ordered for name in r.config["backbone"])
        return [name for name in names if name in here]  # a run may exclude some


def _latencies(ranked: Sequence[TrialRow]) -> dict[str, float]:
    """Milliseconds per image of the backbones whose latency was measured."""
    return {
        name: row.facts.ms_per_item
        for row in ranked
        if row.facts.ms_per_item is not None
        for name in row.config["backbone"]
    }
