"""The portfolio: recipes that are tried before the sampler chooses configurations.

Plugins declare an order, and a recipe consists of the defaults of its plugins. The recipes are
tried in this order:

1. the first freeze strategy (the linear probe, if it is in the space) on the first backbone;
   with backbones with random weights, then a strategy that trains all layers on each of them, and
   on the pretrained backbones of their architectures, with the same number of epochs; with weights
   of the user beside public ones of the same backbone, the default recipe on both;
2. the default recipe: the second strategy on the first backbone;
3. the plugins that the user added with ``--plugin``, in the place of those of the default recipe;
4. recipes 1 and 2 with the second plugin for unlabelled examples, if there are many of those; if
   they are of another domain, the default recipe first with other plugins that are made for that;
5. the first strategy on the other backbones, while there is time for probing; of very many
   examples, on those that are the best on a sample (``screening``);
6. the best configurations of earlier studies on similar data;
7. the first strategy with the other heads on the most promising backbone; from the third head on,
   also on the next ones while there is time for probing, for ensembles of several backbones;
8. the second strategy on the most promising backbones;
9. the other strategies on the most promising backbone, and for examples of another domain the
   default recipe with the plugins that step 4 left;
10. the first strategy on backbones for which there was no time before, for a better ensemble.

All but the second part of the first step is for pretrained backbones: a head on random features
tells nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from autotl.search.ranking import PASSING, standard_error
from autotl.space.kinds import FREEZE_FROM_SCRATCH
from autotl.space.plugin import FILE, AnyPlugin
from autotl.space.space import Space
from autotl.store import ScreeningFacts, TrialRow

WARM_START = "learned from"
"""The first part of the name of a recipe from an earlier study; the second is the study."""

BACKBONES = 3
"""The number of most promising backbones that are fine-tuned with the second strategy and that get
the heads from the third on, and of those that are probed even if there is little time."""

ADAPTATIONS = 2
"""The number of plugins for another domain that are tried early, besides the second of all, those
with the lowest order first. Each takes as long as the default recipe; a short budget has few such.
"""

Names = tuple[str, ...]
Recipe = tuple[Names, dict[str, Any]]
"""The name of a recipe, in parts, and the parameters of its trial."""

Tried = Mapping[Names, TrialRow]
"""The trial of each recipe by the name of the recipe."""


@dataclass(frozen=True)
class Portfolio:
    """The recipes of one study.

    Attributes:
        space: The search space.
        warm_start: Returns the best parameters of earlier studies by the name of the study; it is
            called after the other backbones have been probed.
        first_trial: Number of the first trial of this run. Recipes that failed or were out of time
            in earlier runs are tried a second time.
        unlabelled: Whether methods for unlabelled examples are tried early, and for which.
    """

    space: Space
    warm_start: Callable[[], Mapping[str, Mapping[str, Any]]]
    first_trial: int = 0
    unlabelled: Literal["", "own domain", "other domain"] = ""

    def next_recipe(
        self,
        ranked: Sequence[TrialRow],
        tried: Tried,
        *,
        probing: bool = True,
        screening: ScreeningFacts | None = None,
    ) -> Recipe | None:
        """Return the next recipe to try; None if all have been tried, or the next one must wait.

        Args:
            ranked: The complete trials, best first.
            tried: The trials of recipes so far.
            probing: Whether there is time to probe further backbones.
            screening: The backbones as they were compared on samples; None if they were not.
        """
        done = {names: row for names, row in tried.items() if self._was_tried(row)}
        probes_run = any(self.is_probe(n) and row.status == "running" for n, row in done.items())
        for recipe in self._recipes(ranked, done, probing, screening):
            if recipe is None and probes_run:
                return None  # another worker runs a probe: which backbones are promising?
            if recipe and recipe[0] not in done:
                return recipe
        return None

    def cheapest_parameters(self, ranked: Sequence[TrialRow]) -> dict[str, Any]:
        """Return parameters of a trial that is cheap, because its features are cached.

        They are the first strategy, the most promising backbone and the default augmentation. The
        sampler chooses the other parameters.
        """
        promising = self._promising(ranked)
        names = {"backbone": promising[0]} if promising else {}
        kinds = ("augment", *names)
        defaults = self.space.defaults(**names).items()
        return {n: v for n, v in defaults if n == "freeze" or n.split(".")[0] in kinds}

    @cached_property
    def comparison(self) -> tuple[Names, ...]:
        """The names of the recipes that compare weights of one backbone; none without several.

        They have the same strategy, which is that of random weights if there are any, and the same
        number of epochs.
        """
        order = [self.space.find("backbone", n) for n in self.space.default_order("backbone")]
        if self.space.untrained:
            strategy = self._from_scratch
            compared = {_architecture(p) for p in order if p.has_random_weights}
        else:
            strategy = self._default_strategy
            counts = Counter(map(_architecture, order))
            own = (_architecture(p) for p in order if p.owns_folder)
            compared = {architecture for architecture in own if counts[architecture] > 1}
        names = [p.name for p in order if _architecture(p) in compared - {""}]
        return tuple((name, strategy, self._heads[0]) for name in names)

    def comparison_is_left(self, tried: Tried) -> bool:
        """Whether one of the recipes of the comparison has not been tried."""
        return not all(n in tried and self._was_tried(tried[n]) for n in self.comparison)

    def is_probe(self, recipe: Sequence[str]) -> bool:
        """Whether a recipe is the first strategy with the first head, on any backbone."""
        return tuple(recipe[1:]) == self._first

    def leads_heads(self, recipe: Sequence[str]) -> bool:
        """Whether a recipe is the first strategy with the second head, on any backbone.

        Other heads are trained together with it.
        """
        return tuple(recipe[1:]) in {(self._strategies[0], head) for head in self._other_heads[:1]}

    def is_default(self, recipe: Sequence[str]) -> bool:
        """Whether a recipe is the default recipe, on any backbone.

        That of backbones with random weights trains all layers.
        """
        untrained = bool(recipe) and recipe[0] in self.space.untrained
        strategy = self._from_scratch if untrained else self._default_strategy
        return tuple(recipe[1:]) == (strategy, self._heads[0])

    def is_cheap(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration has the first of several strategies, which is the cheapest."""
        several = len(self.space.plugins["freeze"]) > 1
        return several and self._first[0] in config.get("freeze", {})

    @property
    def first_probe(self) -> Names:
        """The name of the recipe that is tried first; empty without pretrained backbones."""
        return (self._pretrained[0], *self._first) if self._pretrained else ()

    def unprobed(self, tried: Tried) -> list[str]:
        """The pretrained backbones but the first that were not probed, in their order."""
        first, head = self._first
        done = {names for names, row in tried.items() if self._was_tried(row)}
        return [name for name in self._pretrained[1:] if (name, first, head) not in done]

    @property
    def _pretrained(self) -> list[str]:
        """The backbones without random weights, in their order."""
        order = self.space.default_order("backbone")
        return [name for name in order if name not in self.space.untrained]

    @property
    def _first(self) -> tuple[str, str]:
        return self._strategies[0], self._heads[0]

    @property
    def _strategies(self) -> list[str]:
        return self.space.default_order("freeze")

    @property
    def _default_strategy(self) -> str:
        """The strategy of the default recipe: the second one, if there are two."""
        return self._strategies[:2][-1]

    @property
    def _from_scratch(self) -> str:
        """The strategy of backbones with random weights."""
        return self.space.from_scratch[0].name

    @property
    def _heads(self) -> list[str]:
        return self.space.default_order("head")

    @property
    def _other_heads(self) -> list[str]:
        """The heads that are tried after the first: those with an order, or else any one."""
        names = [plugin.name for plugin in self.space.plugins["head"]]
        return self._heads[1:] or [name for name in names if name != self._heads[0]][:1]

    def _was_tried(self, row: TrialRow) -> bool:
        """Whether a trial of a recipe has a result, or had its chance in this run."""
        if row.status == "interrupted":
            return False
        return not (row.status in PASSING and row.number < self.first_trial)

    def _recipes(
        self,
        ranked: Sequence[TrialRow],
        tried: Tried,
        probing: bool,
        screening: ScreeningFacts | None,
    ) -> Iterator[Recipe | None]:
        """Yield all recipes in their order; None before those that depend on the probes."""
        first, head = self._first
        pretrained = self._pretrained
        if pretrained:
            yield self._default(pretrained[0], first, head)
        yield from (self._default(*names) for names in self.comparison)
        if not pretrained:
            return
        smallest, *others = pretrained
        if screening:
            unscreened = [name for name in others if name not in screening.backbones]
            others = [*(n for n in screening.promising if n in others), *unscreened]
        if self._default_strategy != first:
            yield self._default(smallest, self._default_strategy, head)
        yield from self._user_plugins(smallest)
        yield from self._with_unlabelled(smallest)
        if probing:
            yield from (self._default(backbone, first, head) for backbone in others)
        yield None
        for name, params in self.warm_start().items():
            yield self._learned(name, params)
        promising = self._promising(ranked)
        for position, other in enumerate(self._other_heads):
            # Others are trained together with the second head, so its other backbones gain little.
            count = BACKBONES if position and probing else 1
            yield from (self._default(backbone, first, other) for backbone in promising[:count])
        latencies = _latencies(ranked)
        for position, freeze in enumerate(self._strategies[1:]):
            count = 1 if position else BACKBONES
            yield from self._with_strategy(freeze, head, count, promising, latencies, tried)
        for method in self._adaptations[ADAPTATIONS:]:
            yield self._adapted(smallest, self._default_strategy, method)
        yield from (self._default(backbone, first, head) for backbone in others[: BACKBONES - 1])

    def _user_plugins(self, backbone: str) -> Iterator[Recipe]:
        """Yield the default recipe with each plugin of a file of the user, one at a time."""
        recipe = {"backbone": backbone, "freeze": self._default_strategy, "head": self._heads[0]}
        for kind, plugins in self.space.plugins.items():
            for plugin in plugins:
                if plugin.origin.startswith(FILE):
                    names = {**recipe, kind: plugin.name}
                    yield tuple(names.values()), self.space.defaults(**names)

    def _with_unlabelled(self, backbone: str) -> Iterator[Recipe]:
        """Yield recipes with plugins for unlabelled examples, one at a time.

        They are the first two with the second of the plugins that declare an order; for another
        domain, before that the default recipe with other plugins that are made for that.
        """
        if not self.unlabelled or "unlabelled" not in self.space.plugins:
            return
        for method in self._adaptations[:ADAPTATIONS]:
            yield self._adapted(backbone, self._default_strategy, method)
        for method in self.space.default_order("unlabelled")[1:2]:
            for freeze in self._strategies[:2]:
                yield self._adapted(backbone, freeze, method)

    @property
    def _adaptations(self) -> list[str]:
        """The other plugins for unlabelled examples of another domain; none if these are not."""
        if self.unlabelled != "other domain" or "unlabelled" not in self.space.plugins:
            return []
        made = [p for p in self.space.plugins["unlabelled"] if p.across_domains]
        made.sort(key=lambda p: math.inf if p.order is None else p.order)
        second = self.space.default_order("unlabelled")[1:2]
        return [p.name for p in made if p.name not in second]

    def _adapted(self, backbone: str, freeze: str, method: str) -> Recipe:
        """Return the recipe of defaults with a plugin for unlabelled examples."""
        names = {"backbone": backbone, "freeze": freeze, "head": self._heads[0]}
        names["unlabelled"] = method
        return tuple(names.values()), self.space.defaults(**names)

    def _with_strategy(
        self,
        freeze: str,
        head: str,
        count: int,
        promising: Sequence[str],
        latencies: Mapping[str, float],
        tried: Tried,
    ) -> Iterator[Recipe]:
        """Yield recipes of a strategy on the ``count`` most promising backbones.

        After a backbone that was out of time, slower backbones are skipped.
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

    def _learned(self, study: str, params: Mapping[str, Any]) -> Recipe:
        """Return the recipe from an earlier study.

        If it consists of defaults, it has the name of that recipe, so that it is not tried twice.
        """
        kinds = ("backbone", "freeze", FREEZE_FROM_SCRATCH, "head")
        names = [params[kind] for kind in kinds if kind in params]
        if len(names) == 3 and (default := self._default(*names))[1] == params:
            return default
        return (WARM_START, study), dict(params)

    def _default(self, backbone: str, freeze: str, head: str) -> Recipe:
        params = self.space.defaults(backbone=backbone, freeze=freeze, head=head)
        return (backbone, freeze, head), params

    def _promising(self, ranked: Sequence[TrialRow]) -> list[str]:
        """Return the backbones whose probes completed, the most promising first.

        Backbones within one standard error of the best score count as equally good. They are sorted
        by size, the smallest first (the one-standard-error rule, Breiman et al. 1984), and then by
        LogME, the highest first. The others follow by score.
        """
        freeze, head = self._first
        probes = [r for r in ranked if freeze in r.config["freeze"] and head in r.config["head"]]
        if "unlabelled" in self.space.plugins:
            none = self.space.default_order("unlabelled")[0]
            probes = [r for r in probes if none in r.config.get("unlabelled", {none: {}})]
        if not probes or (best := probes[0].score) is None:
            return []
        error = standard_error(probes[0])
        close = [r for r in probes if r.score is not None and abs(r.score - best) <= error]
        close.sort(key=lambda r: (r.parameters or 0, -(r.facts.logme or 0.0)))
        ordered = [*close, *(r for r in probes if r not in close)]
        here = {plugin.name for plugin in self.space.plugins["backbone"]}
        names = dict.fromkeys(name for r in ordered for name in r.config["backbone"])
        return [name for name in names if name in here]  # this run may exclude some


def _architecture(backbone: AnyPlugin) -> str:
    """What a backbone has in common with those that differ in their weights; '' if unknown."""
    return backbone.weights.architecture if backbone.weights else ""


def _latencies(ranked: Sequence[TrialRow]) -> dict[str, float]:
    """Return the measured latencies of backbones in milliseconds per image."""
    return {
        name: row.facts.ms_per_item
        for row in ranked
        if row.facts.ms_per_item is not None
        for name in row.config["backbone"]
    }
