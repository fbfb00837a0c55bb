"""Which recipes are tried before the sampler chooses: the search is no worse than they are.

First comes the first strategy in line, a linear probe if one is in the space, on every backbone.
Then what did best on similar data before. Then the other heads in line with that strategy, on the
most promising backbone; the next strategy in line, on the few most promising ones; and the other
strategies in line, on the first of them. The plugins say who is in line, and their defaults are the
recipes; each cites where it comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.space.space import Space
from autotl.store import TrialRow

RECIPE = "recipe"
"""The attribute of a trial that says which recipe it is, as a list of names."""

PAST = "learned from"

BACKBONES = 3
"""The most promising, which are all fine-tuned by the strategy in line after the first."""


@dataclass(frozen=True)
class Portfolio:
    """The recipes of one study, put in its queue one after the other.

    Attributes:
        study: Optuna's.
        space: What is searched.
        pictures: How many the validation part has; those that belong together count for one.
        past: Gives parameters that did best before, by the name of the study that found them;
            asked when the backbones have been probed.
        earlier: Trials that the study had before: this run may have the time that they had not.
    """

    study: optuna.Study
    space: Space
    pictures: int
    past: Callable[[], Mapping[str, Mapping[str, Any]]]
    earlier: int = 0

    def enqueue(self, ranked: Sequence[TrialRow]) -> None:
        """Put the next recipe in the queue, unless something is there or all have been tried.

        Args:
            ranked: The complete trials, best first.
        """
        if self.waiting():
            return
        tried = self._tried()
        for recipe, params in self._recipes(ranked, tried):
            if recipe not in tried:
                self.study.enqueue_trial(params, user_attrs={RECIPE: list(recipe)})
                return

    def enqueue_cheap(self, ranked: Sequence[TrialRow]) -> None:
        """Queue what is cheapest, for when there was no time for what the sampler chose.

        That is the first strategy in line on the most promising backbone with the first
        augmentation: most of it has been computed. The rest is left to the sampler.
        """
        if self.waiting():
            return
        promising = self._promising(ranked)
        names = {"backbone": promising[0]} if promising else {}
        kinds = ("augment", *names)
        usual = self.space.defaults(**names).items()
        params = {n: v for n, v in usual if n == "freeze" or n.split(".")[0] in kinds}
        self.study.enqueue_trial(params)

    def waiting(self) -> bool:
        """Whether a trial is in the queue."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def is_probe(self, trial: optuna.Trial | FrozenTrial) -> bool:
        """Whether a trial is the first strategy with the first head on some backbone."""
        return tuple(trial.user_attrs.get(RECIPE, ())[1:]) == self._first

    def is_cheap(self, trial: optuna.Trial | FrozenTrial) -> bool:
        """Whether a trial has the first strategy in line, where there are others."""
        return trial.params.get("freeze") == self._first[0]

    @property
    def _first(self) -> tuple[str, str]:
        return self.space.default_order("freeze")[0], self.space.default_order("head")[0]

    def _tried(self) -> dict[tuple[str, ...], str]:
        """How each recipe ended that was begun."""
        tried = {}
        for trial in self.study.get_trials(deepcopy=False):
            recipe, status = (trial.user_attrs.get(key) for key in (RECIPE, "status"))
            if recipe and not (status == "out_of_time" and trial.number < self.earlier):
                tried[tuple(recipe)] = status or ""
        return tried

    def _recipes(
        self, ranked: Sequence[TrialRow], tried: Mapping[tuple[str, ...], str]
    ) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        """The recipes in order: their names, and the parameters to draw."""
        first, head = self._first
        backbones = self.space.default_order("backbone")
        yield from (self._default(backbone, first, head) for backbone in backbones)
        if not tried.keys() >= {(backbone, first, head) for backbone in backbones}:
            return  # what is promising is not known yet
        for name, params in self.past().items():
            yield (PAST, name), dict(params)
        promising = self._promising(ranked)
        for other in self.space.default_order("head")[1:]:
            yield from (self._default(backbone, first, other) for backbone in promising[:1])
        times = _times(ranked)
        for place, freeze in enumerate(self.space.default_order("freeze")[1:]):
            wanted = 1 if place else BACKBONES
            late = float("inf")  # milliseconds of one that there was no time for
            for backbone in promising:
                if not wanted or times.get(backbone, 0.0) >= late:
                    continue
                yield self._default(backbone, freeze, head)
                if tried.get((backbone, freeze, head)) == "out_of_time":
                    late = times.get(backbone, late)
                else:
                    wanted -= 1

    def _default(
        self, backbone: str, freeze: str, head: str
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        params = self.space.defaults(backbone=backbone, freeze=freeze, head=head)
        return (backbone, freeze, head), params

    def _promising(self, ranked: Sequence[TrialRow]) -> list[str]:
        """The backbones that came to the end of the first recipe, best first.

        Those within a standard error of the best count as equally good, and of these the smaller
        comes first (the one-standard-error rule, Breiman et al. 1984), of equals the one with the
        higher LogME.
        """
        freeze, head = self._first
        probes = [r for r in ranked if freeze in r.config["freeze"] and head in r.config["head"]]
        if not probes or (best := probes[0].score) is None:
            return []
        error = (max(0.0, best * (1 - best)) / max(1, self.pictures)) ** 0.5
        close = [r for r in probes if r.score is not None and abs(r.score - best) <= error]
        close.sort(key=lambda r: (r.parameters or 0, -(r.facts.get("logme") or 0.0)))
        ordered = [*close, *(r for r in probes if r not in close)]
        here = {plugin.name for plugin in self.space.plugins["backbone"]}
        names = dict.fromkeys(name for r in ordered for name in r.config["backbone"])
        return [name for name in names if name in here]  # a run may leave out some


def _times(ranked: Sequence[TrialRow]) -> dict[str, float]:
    """Milliseconds that backbones take for a picture, of those that were measured."""
    return {
        name: row.facts["ms_per_item"]
        for row in ranked
        if "ms_per_item" in row.facts
        for name in row.config["backbone"]
    }
