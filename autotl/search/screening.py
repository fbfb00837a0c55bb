"""Screening: very many examples are sampled to compare backbones before these are probed on all.

A probe computes the features of all training examples, which takes hours for a million of them,
and which of two backbones is the better one is clear from some thousands. So the backbones are
compared by successive halving over backbones and examples (Jamieson & Talwalkar 2016, AISTATS): all
of them on a small sample, the better half on twice as many examples, and so on, until as many are
left as the portfolio probes in any case. The score is that of a linear head in closed form on the
cached features, which the probes need anyway.

One worker of a study does this, once; until its result is stored, the others train cheap trials.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import optuna

from autotl import data, training
from autotl.data import Dataset, Indices
from autotl.errors import OutOfTime, is_machine_fault
from autotl.events import Note, Stage
from autotl.models import Model
from autotl.scoring.linear_head import score_linear_head
from autotl.search.budget import PROBING_FRACTION
from autotl.search.context import TrainingContext
from autotl.search.leaderboard import Leaderboard
from autotl.search.outcome import classify, search_error
from autotl.search.portfolio import BACKBONES, Portfolio, Recipe
from autotl.space.space import Config
from autotl.store import ScreeningFacts, Store
from autotl.training import ComputeSettings, Job

FEWEST_EXAMPLES = 40_000
"""The number of training examples from which on backbones are compared on samples: five times the
first sample. With fewer, the samples would take about as long as the probes that they save."""

FEWEST_BACKBONES = 3
"""The number of backbones from which on they are compared; two are probed in any case."""

FIRST_SAMPLE, SMALLEST_SAMPLE, LARGEST_SAMPLE = 8_000, 1_000, 32_000
"""The number of examples of the first sample; the smallest number, if there is no time for more;
and the largest number, up to which it is doubled."""

SCORED_FRACTION = 1 / 4
"""The fraction of a sample that scores the head, whose standard error is then below 0.012."""

FEWEST_PER_CLASS = 6
"""The number of examples of a class that the head is fitted to. If a sample has too few for all
classes, it has those of randomly chosen classes."""

FINALISTS = BACKBONES - 1
"""The number of backbones that are probed on all examples, besides the first one."""

TIME_FRACTION = PROBING_FRACTION / 3
"""The fraction of the budget that this may take."""

Score = Callable[[str, int], float]
"""Scores a backbone on so many examples."""


class Screening:
    """Compares the backbones of a study on samples.

    Args:
        store: The database.
        context: The context of all trainings of the study.
        portfolio: The recipes.
        leaderboard: The trials so far.
    """

    def __init__(
        self, store: Store, context: TrainingContext, portfolio: Portfolio, leaderboard: Leaderboard
    ) -> None:
        self.store, self.context = store, context
        self.portfolio, self.leaderboard = portfolio, leaderboard
        self._facts: ScreeningFacts | None = None
        self._compute: dict[str, ComputeSettings] = {}

    @property
    def facts(self) -> ScreeningFacts | None:
        """The result, which any worker may have stored; None if there is none yet."""
        if self._facts is None and self.is_possible:
            self._facts = self.store.study(self.context.settings.name).screening
        return self._facts

    @cached_property
    def is_possible(self) -> bool:
        """Whether the examples are very many, and there are backbones and features to compare."""
        space, context = self.portfolio.space, self.context
        head = space.find("head", space.default_order("head")[0])
        fitted, _ = data.fitted_and_scored(context.dataset, context.settings.seed)
        enough = len(self.portfolio.unprobed({})) >= FEWEST_BACKBONES
        return len(fitted) >= FEWEST_EXAMPLES and enough and head.takes == "features"

    def precedes(self, recipe: Recipe | None) -> bool:
        """Whether the backbones are to be compared before a recipe is tried.

        They are if it is the first probe of several that would take longer than there is time for
        probing, each as long as that of the first backbone, which is one of the fastest.
        """
        if recipe is None or not self.is_possible or self.facts is not None:
            return False
        recipes = self.leaderboard.recipes
        left = self.portfolio.unprobed(recipes)
        is_next = self.portfolio.is_probe(recipe[0]) and recipe[0][0] in left
        if not is_next or len(left) < FEWEST_BACKBONES:
            return False
        budget, first = self.context.budget.seconds, recipes.get(self.portfolio.first_probe)
        if budget is None or first is None or first.status != "complete":
            return True
        return first.seconds * len(left) > PROBING_FRACTION * budget

    def run(self) -> None:
        """Compare the backbones that have not been probed yet, and store the result.

        Raises:
            StoreError: The disk is full, say.
            GpuError: The GPU cannot be used any more.
        """
        context, budget, first = self.context, self.context.budget, FIRST_SAMPLE
        names = self.portfolio.unprobed(self.leaderboard.recipes)
        seconds = min(TIME_FRACTION * (budget.seconds or math.inf), budget.usable())
        deadline = time.monotonic() + seconds
        if budget.seconds is not None:
            one = sum(self._measure(names)) * _count_passes(len(names))
            first = int(min(first, seconds / max(one, 1e-9)))
        facts = ScreeningFacts(backbones=names, promising=names)
        if first >= SMALLEST_SAMPLE:
            samples = draw_samples(context.dataset, first, context.settings.seed)

            def score(name: str, count: int) -> float:
                return self._score(name, samples.choose(count), deadline)

            facts = compare_by_halving(names, score, first, samples.largest, self._steps)
        self.store.update_study(context.settings.name, screening=facts)
        self._facts = facts
        if facts.samples:
            context.listener(Note(_describe(facts, context.dataset.kind.nouns)))

    def _steps(self, names: Sequence[str], count: int) -> Iterator[str]:
        """Yield the names of a round, and report each as a step."""
        step = f"comparing {len(names)} backbones on {count:,} {self.context.dataset.kind.nouns}"
        for done, name in enumerate(names):
            self.context.listener(Stage(step, done, len(names)))
            yield name

    def _measure(self, names: Sequence[str]) -> Iterator[float]:
        """Yield the seconds of the features of one example for each backbone that has some."""
        dataset, seed = self.context.dataset, self.context.settings.seed
        indices = np.sort(draw_samples(dataset, FIRST_SAMPLE, seed).fitted[:LARGEST_SAMPLE])
        for name in names:
            with _failures(name, {}):  # they are reported where it is scored
                config, model, job = self._make_job(name, indices)
                cost = training.measure_cost(model, config, job)
                self._compute[name] = cost.compute
                yield cost.forward_seconds

    def _score(self, name: str, sample: tuple[Indices, Indices], deadline: float) -> float:
        """Return the score of a backbone whose head is fitted to a part of a sample.

        Args:
            name: The name of the backbone.
            sample: See ``Samples.choose``.
            deadline: The reading of ``time.monotonic()`` at which the features must be computed.

        Raises:
            OutOfTime: The deadline passed.
        """
        targets, (fitted, scored) = self.context.dataset.targets, sample
        indices = np.sort(np.concatenate(sample))
        config, model, job = self._make_job(name, indices)
        job.deadline = deadline
        job.check_deadline()
        features = training.extract_backbone_features(model, config, job)
        train, others = (features[np.searchsorted(indices, part)] for part in sample)
        return score_linear_head(train, targets[fitted], others, targets[scored])

    def _make_job(self, name: str, indices: Indices) -> tuple[Config, Model, Job]:
        """Return the probe of a backbone, its model, and the job to compute features."""
        space, context = self.portfolio.space, self.context
        freeze, head = (space.default_order(kind)[0] for kind in ("freeze", "head"))
        defaults = space.defaults(backbone=name, freeze=freeze, head=head)
        config = space.suggest(optuna.trial.FixedTrial(defaults))
        model = context.build(config, context.first_fold)
        return config, model, context.feature_job(model, indices, self._compute.get(name))


@dataclass(frozen=True)
class Samples:
    """Samples of the examples, of which a larger one has all examples of a smaller one.

    Attributes:
        fitted: Indices of the examples that heads are fitted to, in the order in which samples take
            them, ``[n]``.
        scored: Those of the examples that score the heads, ``[m]``.
    """

    fitted: Indices
    scored: Indices

    @property
    def largest(self) -> int:
        """The number of examples of the largest sample."""
        return min(LARGEST_SAMPLE, len(self.fitted) + len(self.scored))

    def choose(self, count: int) -> tuple[Indices, Indices]:
        """Return the examples ``[n]`` and ``[m]`` of a sample of at most ``count``."""
        scored = self.scored[: round(SCORED_FRACTION * count)]
        return self.fitted[: count - len(scored)], scored


def draw_samples(dataset: Dataset, first: int, seed: int) -> Samples:
    """Draw samples, stratified as splits are; of other strata than one for each example at random.

    They have no example of the test split, and heads are scored on examples of the split that
    scores trials.

    Args:
        dataset: The data set.
        first: The number of examples of the smallest sample, which decides how many classes there
            are.
        seed: The seed of the draw.
    """
    fitted, scored = data.fitted_and_scored(dataset, seed)
    strata, random = dataset.task.strata(dataset.targets), np.random.default_rng(seed)
    if strata.ndim == 1:
        most = max(2, int((1 - SCORED_FRACTION) * first) // FEWEST_PER_CLASS)
        chosen = random.permutation(np.unique(strata[fitted]))[:most]
        fitted, scored = (each[np.isin(strata[each], chosen)] for each in (fitted, scored))
    ordered = data.order_by_stratum(fitted, strata[fitted], FEWEST_PER_CLASS, seed)
    return Samples(ordered, random.permutation(scored))


def compare_by_halving(
    names: Sequence[str],
    score: Score,
    first: int,
    largest: int,
    steps: Callable[[Sequence[str], int], Iterable[str]] = lambda names, _: names,
) -> ScreeningFacts:
    """Score backbones on a sample, the better half of them on twice as many examples, and so on.

    Of equal scores the earlier name is the better one. Those that fail come last. Once the time has
    elapsed, the last complete round counts, and in the first round those that were scored.

    Args:
        names: The names of the backbones.
        score: Scores a backbone on so many examples; it may raise any error.
        first: The number of examples in the first round.
        largest: The number of examples up to which that is doubled.
        steps: Called with the names and the number of examples of a round; returns the names.

    Returns:
        All names in order, of which ``FINALISTS`` are promising, or all if none has a score.
    """
    scores: dict[str, list[float]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    samples: list[int] = []
    remaining, worse, count = list(names), list[str](), first
    with suppress(OutOfTime):
        while len(remaining) > FINALISTS:
            samples.append(count)
            for name in steps(remaining, count):
                with _failures(name, failed):
                    scores[name].append(score(name, count))
            remaining = _sort([name for name in remaining if name not in failed], scores)
            half = max(FINALISTS, math.ceil(len(remaining) / 2))
            remaining, worse = remaining[:half], [*remaining[half:], *worse]
            count = min(2 * count, largest)
    remaining = [name for name in remaining if name not in failed]
    if len(samples) == 1:  # the time may have elapsed in the first round
        remaining = _sort(remaining, scores)
    done = {name: values for name, values in scores.items() if values}
    if not done:  # what is wrong may be the sample
        return ScreeningFacts(backbones=list(names), promising=list(names), failed=failed)
    return ScreeningFacts(
        samples=samples,
        backbones=[*remaining, *worse, *failed],
        promising=remaining[:FINALISTS],
        scores=done,
        failed=failed,
    )


def _sort(names: Sequence[str], scores: Mapping[str, Sequence[float]]) -> list[str]:
    """Sort names by their last score, the best first, and those without any last."""
    return sorted(names, key=lambda name: -scores[name][-1] if scores[name] else math.inf)


def _count_passes(backbones: int) -> float:
    """Return how many examples are computed for a backbone on average, in first samples.

    Each round but the first computes half as many as the first one: the others are cached.
    """
    return 1 + max(0, math.ceil(math.log2(max(1, backbones) / FINALISTS)) - 1) / 2


@contextmanager
def _failures(name: str, failed: dict[str, str]) -> Iterator[None]:
    """Add the reason of an error inside to ``failed``, unless it is of the time or the machine."""
    try:
        yield
    except OutOfTime:
        raise
    except Exception as error:
        if is_machine_fault(error):
            raise search_error(error) from error
        failed[name] = classify(error)[1]


def _describe(facts: ScreeningFacts, nouns: str) -> str:
    failed = "".join(f"; {name} failed: {reason}" for name, reason in facts.failed.items())
    return (
        f"{len(facts.scores)} backbones were compared on a sample of {facts.samples[0]:,} "
        f"{nouns} or more; {' and '.join(facts.promising)} will be probed on all{failed}"
    )
