"""Compare samplers and pruners by time, on the learning curves that ``curves.py`` recorded.

Run by hand, with the extra ``bench`` for the figure::

    python studies/benchmarks/replay.py digits NAME [--workers 4]

A replayed trial takes the seconds that were recorded; a pruned one those up to its last epoch. The
script prints a table and saves ``replay.png``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import click
import numpy as np
import optuna
from covering import choose_recipes
from curves import (
    EPOCHS,
    HERE,
    IMAGES,
    KINDS,
    OVERHEAD,
    PLUGINS,
    Cell,
    Curves,
    cell_index,
    learning_rates,
    load,
)
from numpy.typing import NDArray
from optuna import pruners, samplers
from optuna.trial import FixedTrial, TrialState

from autotl.search.portfolio import BACKBONES
from autotl.search.pruner import make_pruner
from autotl.search.sampler import make_sampler
from autotl.search.trial_queue import HEADS
from autotl.space.space import Space

PROBE_SPEEDUP = 2.1
"""Speedup of training heads in one pass over the features, over training them one by one."""

Recipe = tuple[str, str, str]
"""Backbone, freeze strategy and head, with their default hyperparameters."""

load_once = cache(load)


@dataclass
class RenamingTrial:
    """A trial in which the learning rates of several strategies may be one parameter.

    ``sharing`` is ``none``, ``range`` for one parameter for each range, or ``all``.
    """

    trial: optuna.Trial
    sharing: str

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Suggest a choice as ``optuna.Trial`` does."""
        return self.trial.suggest_categorical(name, choices)

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        """Suggest an integer as ``optuna.Trial`` does."""
        return self.trial.suggest_int(name, low, high, log=log, step=step)

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """Suggest a number as ``optuna.Trial`` does, under a name that may be shared."""
        name = learning_rate_name(name, low, high, self.sharing)
        return self.trial.suggest_float(name, low, high, log=log, step=step)


def learning_rate_name(name: str, low: float, high: float, sharing: str) -> str:
    """Return the name of the parameter for a learning rate of a given range."""
    names = {"none": name, "range": f"freeze.lr {low:g} {high:g}", "all": "freeze.lr"}
    return names[sharing]


@dataclass(frozen=True)
class Method:
    """A way to search: the sampler, the pruner, and whether default recipes are tried first.

    ``covering`` is the number of recipes that are chosen from the curves of other data sets, in the
    place of those that are tried after the probes and the default recipe; ``per_second`` divides
    what they gain by what they cost.
    """

    sampler: Callable[[int], samplers.BaseSampler]
    pruner: Callable[[], pruners.BasePruner] = pruners.NopPruner
    recipes: bool = False
    sharing: str = "none"
    covering: int = 0
    per_second: bool = False


@dataclass
class Search:
    """One search on curves.

    Attributes:
        curves: The recorded learning curves.
        method: The way to search.
        seed: Seed of the sampler; also selects one of the recorded seeds.
        others: The curves of the other data sets, from which recipes may be chosen.
        seconds: Replayed time so far.
        improvements: Seconds and regret of every trial that was the best when it completed.
        complete: Number of completed trials.
        pruned: Number of pruned trials.
    """

    curves: Curves
    method: Method
    seed: int
    others: Sequence[Curves] = ()
    seconds: float = 0.0
    improvements: list[tuple[float, float]] = field(default_factory=list)
    complete: int = 0
    pruned: int = 0

    def __post_init__(self) -> None:
        self.study = optuna.create_study(
            study_name=f"replay {self.seed}",  # Hyperband chooses brackets by a hash of the name
            direction=self.curves.direction,
            sampler=self.method.sampler(self.seed),
            pruner=self.method.pruner(),
        )
        self.space = self.curves.space
        self.scores = self.curves.scores[self.seed % len(self.curves.scores)]
        self.recipe_scores: dict[Recipe, float] = {}

    def run(self) -> Search:
        """Search until the budget is spent; results after its end do not count."""
        while self.seconds < self.curves.budget:
            recipe = self._next_recipe() if self.method.recipes else None
            if recipe:
                params = self._recipe_params(recipe)
            else:
                cell = next(self._covering, None)
                params = cell_params(self.space, cell) if cell else {}
            self.seconds += OVERHEAD
            if recipe and recipe[1:] == self._leader:
                self.recipe_scores[recipe] = self._run_trial(params, speedup=PROBE_SPEEDUP)
                self._run_heads(params)
                continue
            score = self._run_trial(params)
            if recipe:
                self.recipe_scores[recipe] = score
        return self

    @cached_property
    def _covering(self) -> Iterator[Cell]:
        """The recipes from other data sets, chosen when all other recipes have been tried."""
        if not self.method.covering:
            return iter(())
        tried = [FixedTrial(self._recipe_params(recipe)) for recipe in self.recipe_scores]
        given = [cell_index(self.space, self.space.suggest(trial)) for trial in tried]
        count, per_second = self.method.covering, self.method.per_second
        return iter(choose_recipes(self.others, count, per_second=per_second, given=given))

    @property
    def _leader(self) -> tuple[str, str]:
        """The first strategy and the second head, with which other heads are trained."""
        heads = [plugin.name for plugin in self.space.plugins["head"]]
        first = self.space.default_order("head")[0]
        return self.space.default_order("freeze")[0], next(h for h in heads if h != first)

    def _run_heads(self, params: dict[str, Any]) -> None:
        """Run the other heads and learning rates that are trained in one pass."""
        shared = {name: params[name] for name in ("backbone", "freeze", "augment")}
        heads = [plugin.name for plugin in self.space.plugins["head"]]
        for i in range(HEADS - 1):
            self._run_trial({**shared, "head": heads[i % len(heads)]}, speedup=PROBE_SPEEDUP)

    def _run_trial(self, params: dict[str, Any], speedup: float = 1.0) -> float:
        """Run a trial.

        Args:
            params: Fixed parameters; the sampler draws the others.
            speedup: How many times faster the trial is than recorded; such trials are not pruned.

        Returns:
            The score, higher is better; minus infinity if the trial was pruned or diverged.
        """
        if params:
            self.study.enqueue_trial(params)
        trial = self.study.ask()
        config = self.space.suggest(RenamingTrial(trial, self.method.sharing))
        cell = cell_index(self.space, config)
        curve, seconds = self.scores[cell], self.curves.seconds[cell] / speedup
        for epoch, score in enumerate(curve, start=1):
            self.seconds += seconds[epoch - 1]
            if not np.isfinite(score):
                self.study.tell(trial, state=TrialState.FAIL)
                return -np.inf
            trial.report(float(score), epoch)
            if epoch < len(curve) and speedup == 1 and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                self.pruned += 1
                return -np.inf
        self.study.tell(trial, float(curve[-1]))
        self.complete += 1
        if self.study.best_trial.number == trial.number:
            self.improvements.append((self.seconds, self.curves.regret(cell)))
        return float(curve[-1]) if self.curves.direction == "maximize" else -float(curve[-1])

    def _next_recipe(self) -> Recipe | None:
        """Return the next default recipe, in the order of ``autotl.search.portfolio``."""
        first, *others = self.space.default_order("freeze")
        head = self.space.default_order("head")[0]
        backbones = self.space.default_order("backbone")
        probes = [(backbone, first, head) for backbone in backbones]
        recipes = [probes[0], (backbones[0], others[0], head), *probes[1:]]
        if self.recipe_scores.keys() >= set(recipes):
            scores = [self.recipe_scores[probe] for probe in probes]
            error = 0.5 / (IMAGES / 2) ** 0.5  # largest standard error of an accuracy
            close = [b for b, s in zip(backbones, scores, strict=True) if s >= max(scores) - error]
            best = close[0]  # the smallest of these
            promising = [best, *(b for b in backbones if b != best)][:BACKBONES]
            recipes.append((best, *self._leader))
            if not self.method.covering:
                recipes += [(backbone, others[0], head) for backbone in promising]
                recipes += [(best, freeze, head) for freeze in others[1:]]
        return next((recipe for recipe in recipes if recipe not in self.recipe_scores), None)

    def _recipe_params(self, recipe: Recipe) -> dict[str, Any]:
        backbone, freeze, head = recipe
        params = self.space.defaults(backbone=backbone, freeze=freeze, head=head)
        plugin = self.space.find("freeze", freeze)
        limits = next(h.range for h in plugin.hyperparameters if h.name == "lr")
        assert limits
        name = f"freeze.{freeze}.lr"
        shared_name = learning_rate_name(name, limits.low, limits.high, self.method.sharing)
        params[shared_name] = params.pop(name)
        return params


def cell_params(grid: Space, cell: Cell) -> dict[str, Any]:
    """Return the parameters of a cell of the grid."""
    *indices, rate = cell
    names = {kind: PLUGINS[kind][i] for kind, i in zip(KINDS, indices, strict=True)}
    params = grid.defaults(**names)
    freeze = names["freeze"]
    params[f"freeze.{freeze}.lr"] = float(learning_rates(grid, freeze)[rate])
    return params


def random(seed: int) -> samplers.BaseSampler:
    """Make a random sampler."""
    return samplers.RandomSampler(seed=seed)


def optuna_tpe(seed: int) -> samplers.BaseSampler:
    """Make Optuna's TPE sampler with its default settings."""
    return samplers.TPESampler(seed=seed)


def recipes_first(
    pruner: Callable[[], pruners.BasePruner] = pruners.NopPruner,
    sampler: Callable[[int], samplers.BaseSampler] = make_sampler,
    sharing: str = "none",
) -> Method:
    """Describe a search that tries the default recipes first, as autotl does."""
    return Method(sampler, pruner, recipes=True, sharing=sharing)


WARMUP = EPOCHS // 2
OUR_PRUNER = partial(make_pruner, EPOCHS)
METHOD = recipes_first(OUR_PRUNER)
AUTOTL = "autotl: recipes, own TPE, worst tenth pruned"
NO_PRUNER = "... without a pruner"
METHODS = {
    "random": Method(random),
    "Optuna's TPE": Method(optuna_tpe),
    "Optuna's TPE + ASHA": Method(optuna_tpe, partial(pruners.SuccessiveHalvingPruner, 1, 2)),
    "Optuna's TPE + Hyperband": Method(optuna_tpe, partial(pruners.HyperbandPruner, 1, EPOCHS, 2)),
    AUTOTL: METHOD,
    "... four recipes that cover the other data sets": replace(METHOD, covering=4),
    "... the same, chosen by gain per second": replace(METHOD, covering=4, per_second=True),
    "... Optuna's TPE": recipes_first(OUR_PRUNER, sampler=optuna_tpe),
    "... one learning rate for each range": recipes_first(OUR_PRUNER, sharing="range"),
    "... one learning rate for all": recipes_first(OUR_PRUNER, sharing="all"),
    NO_PRUNER: recipes_first(),
    "... worst quarter pruned": recipes_first(
        partial(pruners.PercentilePruner, 75, 10, WARMUP, n_min_trials=10)
    ),
    "... worst half pruned": recipes_first(partial(pruners.MedianPruner, 10, WARMUP)),
    "... ASHA": recipes_first(partial(pruners.SuccessiveHalvingPruner, 1, 2)),
}
PLOTTED = ("random", "Optuna's TPE", "Optuna's TPE + ASHA", "Optuna's TPE + Hyperband", AUTOTL)


def regret_over_time(search: Search, points: int = 121) -> NDArray[np.float64]:
    """Return the regret of the best trial at ``points`` even times of the budget; 1 before any."""
    times = np.linspace(0, search.curves.budget, points)
    improved_at, regrets = zip((0.0, 1.0), *search.improvements, strict=True)
    return np.array(regrets)[np.searchsorted(improved_at, times, side="right") - 1]


def bootstrap_interval(
    runs: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 95 % bootstrap interval of the mean of ``runs [N, points]`` (Efron 1979)."""
    drawn = np.random.default_rng(0).integers(len(runs), size=(1000, len(runs)))
    low, high = np.quantile(runs[drawn].mean(1), (0.025, 0.975), axis=0)
    return low, high


def time_to_reach(regret: NDArray[np.float64], level: float) -> float:
    """Return the fraction of the budget at which ``regret [points]`` is first at ``level``.

    Infinity if that is never the case.
    """
    reached = np.flatnonzero(regret <= level)
    return float(reached[0] / (len(regret) - 1)) if len(reached) else np.inf


def format_table(
    regrets: dict[str, list[NDArray[np.float64]]], counts: dict[str, NDArray[np.float64]]
) -> str:
    """Format a Markdown table with a row for each method, averaged over the data sets.

    Args:
        regrets: For each method, an array ``[seeds, points]`` for each data set.
        counts: For each method, the mean numbers of completed and pruned trials.
    """
    titles = ("search", "mean regret", "at 1/6", "at 1/3", "at the end", "time to match random")
    lines = ["| " + " | ".join((*titles, "complete", "pruned")) + " |", "|---" * 8 + "|"]
    for name, runs in regrets.items():
        mean = np.mean([r.mean(0) for r in runs], axis=0)
        low, high = bootstrap_interval(np.mean(runs, axis=0).mean(1, keepdims=True))
        pairs = zip(runs, regrets["random"], strict=True)
        times = [time_to_reach(r.mean(0), x.mean(0)[-1]) for r, x in pairs]
        cells = [name, f"{mean.mean():.3f} ({low[0]:.3f} to {high[0]:.3f})"]
        cells += [f"{mean[(len(mean) - 1) * k // 6]:.3f}" for k in (1, 2, 6)]
        cells.append(", ".join(f"{time:.2f}" for time in times))
        cells += [f"{count:.0f}" for count in counts[name]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(regrets: dict[str, list[NDArray[np.float64]]], curves: dict[str, Curves]) -> None:
    """Save ``replay.png``: regret against seconds, a panel for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(5 * len(curves), 4), squeeze=False)
    for i, (source, recorded) in enumerate(curves.items()):
        axis = axes[0, i]
        for method in (m for m in PLOTTED if m in regrets):
            runs = regrets[method][i]
            times = np.linspace(0, recorded.budget, runs.shape[1])
            [line] = axis.plot(times, runs.mean(0), label=method)
            color = line.get_color()
            axis.fill_between(times, *bootstrap_interval(runs), color=color, alpha=0.15, lw=0)
        axis.set(title=source, xlabel="replayed seconds", ylabel="normalised regret", ylim=(0, 1))
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "replay.png", dpi=80)


@click.command()
@click.argument("sources", nargs=-1)
@click.option("--seeds", default=30, show_default=True, help="Number of searches of each method.")
@click.option(
    "--metric",
    default="accuracy",
    show_default=True,
    type=click.Choice(["accuracy", "log_loss"]),
    help="Metric that is optimised.",
)
@click.option("--only", multiple=True, help="Method to replay; may be repeated (default: all).")
@click.option("--workers", default=1, show_default=True, help="Number of processes.")
def main(
    sources: tuple[str, ...], seeds: int, metric: str, only: tuple[str, ...], workers: int
) -> None:
    """Replay searches on the curves of SOURCES and print their regret over time."""
    sources = sources or ("digits", "odd")
    curves = {source: load(source, metric) for source in sources}
    regrets: dict[str, list[NDArray[np.float64]]] = {}
    counts = {}
    with ProcessPoolExecutor(workers) as pool:
        for name in ("random", *only) if only else METHODS:
            jobs = itertools.product([name], curves, [metric], range(seeds), [sources])
            results = list(pool.map(_run_search, *zip(*jobs, strict=True)))
            regrets[name] = np.array_split([regret for regret, _ in results], len(curves))
            counts[name] = np.mean([count for _, count in results], axis=0)
            click.echo(name, err=True)
    click.echo(format_table(regrets, counts))
    if metric == "accuracy" and not only:
        plot(regrets, curves)


def _run_search(
    name: str, source: str, metric: str, seed: int, sources: Sequence[str]
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Run one search in a worker: its regret over time, and its completed and pruned trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    others = [load_once(other, metric) for other in sources if other != source]
    search = Search(load_once(source, metric), METHODS[name], seed, others).run()
    return regret_over_time(search), (search.complete, search.pruned)


if __name__ == "__main__":
    main()
