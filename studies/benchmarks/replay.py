"""Samplers and pruners compared in seconds, on the learning curves that ``curves.py`` recorded.

Run by hand, with the extra ``bench`` for the picture::

    python studies/benchmarks/replay.py digits NAME [--workers 4]

Searches run on the curves: a trial takes the seconds that were recorded, a pruned one those up to
its last epoch. It prints a table and draws ``replay.png``.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import click
import numpy as np
import optuna
from curves import AROUND, EPOCHS, HERE, PICTURES, Curves, cell, load
from numpy.typing import NDArray
from optuna import pruners, samplers
from optuna.trial import TrialState

from autotl.search.portfolio import BACKBONES
from autotl.search.pruner import WorstTenthPruner
from autotl.search.sampler import tpe as broad_tpe
from autotl.search.trials import PROBES

TOGETHER = 2.1
"""How many times faster heads are trained in one pass over the features than one by one."""

cached = cache(load)


@dataclass
class Named:
    """A trial that is asked under other names: how learning rates of strategies are shared.

    ``share`` is ``none``, ``range`` for those of the same range, or ``all``.
    """

    trial: optuna.Trial
    share: str

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """As a trial does."""
        return self.trial.suggest_categorical(name, choices)

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        """As a trial does."""
        return self.trial.suggest_int(name, low, high, log=log, step=step)

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """As a trial does, of a name that may be shared."""
        name = shared(name, low, high, self.share)
        return self.trial.suggest_float(name, low, high, log=log, step=step)


def shared(name: str, low: float, high: float, share: str) -> str:
    """The name under which a learning rate is asked."""
    names = {"none": name, "range": f"freeze.lr {low:g} {high:g}", "all": "freeze.lr"}
    return names[share]


@dataclass(frozen=True)
class Method:
    """A way to search: who draws, who prunes, and whether well-known recipes come first."""

    sampler: Callable[[int], samplers.BaseSampler]
    pruner: Callable[[], pruners.BasePruner] = pruners.NopPruner
    recipes: bool = False
    share: str = "none"


@dataclass
class Search:
    """One search on curves: ``found`` has the seconds and the regret of every new best trial."""

    curves: Curves
    method: Method
    seed: int
    seconds: float = 0.0
    found: list[tuple[float, float]] = field(default_factory=list)
    complete: int = 0
    pruned: int = 0

    def __post_init__(self) -> None:
        self.study = optuna.create_study(
            study_name=f"replay {self.seed}",  # brackets of Hyperband go by the name
            direction=self.curves.direction,
            sampler=self.method.sampler(self.seed),
            pruner=self.method.pruner(),
        )
        self.chosen = self.curves.chosen
        self.scores = self.curves.scores[self.seed % len(self.curves.scores)]
        self.tried: dict[tuple[str, str, str], float] = {}  # the recipes and their scores

    def run(self) -> Search:
        """Search until the budget is spent; a trial that passes its end does not count."""
        while self.seconds < self.curves.budget:
            recipe = self._recipe() if self.method.recipes else None
            params = self._params(recipe) if recipe else {}
            self.seconds += AROUND
            if recipe and recipe[1] == self.chosen.default_order("freeze")[0]:
                self.tried[recipe] = self._trial(params, faster=TOGETHER)
                self._beside(recipe, params)
                continue
            score = self._trial(params)
            if recipe:
                self.tried[recipe] = score
        return self

    def _beside(self, probe: tuple[str, str, str], params: dict[str, Any]) -> None:
        """Heads and learning rates that are tried in one pass with a probe."""
        shared = {name: params[name] for name in ("backbone", "freeze", "augment")}
        heads = [plugin.name for plugin in self.chosen.plugins["head"]]
        for i in range(PROBES - 1):
            self._trial({**shared, "head": heads[i % len(heads)]}, faster=TOGETHER)

    def _trial(self, params: dict[str, Any], faster: float = 1.0) -> float:
        """Run a trial; its score, or minus infinity of one that was pruned or diverged.

        Args:
            params: What it is to draw; the sampler draws the rest.
            faster: How many times faster it is than alone.
        """
        if params:
            self.study.enqueue_trial(params)
        trial = self.study.ask()
        trial.set_user_attr("epochs", self.scores.shape[-1])
        at = cell(self.chosen, self.chosen.suggest(Named(trial, self.method.share)))
        curve, seconds = self.scores[at], self.curves.seconds[at] / faster
        for epoch, score in enumerate(curve, start=1):
            self.seconds += seconds[epoch - 1]
            if not np.isfinite(score):
                self.study.tell(trial, state=TrialState.FAIL)
                return -np.inf
            trial.report(float(score), epoch)
            if epoch < len(curve) and faster == 1 and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                self.pruned += 1
                return -np.inf
        self.study.tell(trial, float(curve[-1]))
        self.complete += 1
        if self.study.best_trial.number == trial.number:
            self.found.append((self.seconds, self.curves.regret(at)))
        return float(curve[-1]) if self.curves.direction == "maximize" else -float(curve[-1])

    def _recipe(self) -> tuple[str, str, str] | None:
        """The next of the recipes that a search of autotl begins with, as it orders them."""
        first, *others = self.chosen.default_order("freeze")
        head = self.chosen.default_order("head")[0]
        backbones = self.chosen.default_order("backbone")
        recipes = [(backbone, first, head) for backbone in backbones]
        if self.tried.keys() >= set(recipes):
            scores = [self.tried[recipe] for recipe in recipes]
            error = 0.5 / (PICTURES / 2) ** 0.5  # of an accuracy, at most
            close = [b for b, s in zip(backbones, scores, strict=True) if s >= max(scores) - error]
            best = close[0]  # the smallest of the close
            promising = [best, *(b for b in backbones if b != best)][:BACKBONES]
            recipes += [(backbone, others[0], head) for backbone in promising]
            recipes += [(best, freeze, head) for freeze in others[1:]]
        return next((recipe for recipe in recipes if recipe not in self.tried), None)

    def _params(self, recipe: tuple[str, str, str]) -> dict[str, Any]:
        backbone, freeze, head = recipe
        flat = self.chosen.defaults(backbone=backbone, freeze=freeze, head=head)
        plugin = next(p for p in self.chosen.plugins["freeze"] if p.name == freeze)
        limits = next(h.range for h in plugin.hyperparameters if h.name == "lr")
        assert limits
        name = f"freeze.{freeze}.lr"
        flat[shared(name, limits.low, limits.high, self.method.share)] = flat.pop(name)
        return flat


def random(seed: int) -> samplers.BaseSampler:
    """Random search."""
    return samplers.RandomSampler(seed=seed)


def tpe(seed: int) -> samplers.BaseSampler:
    """TPE with Optuna's own settings."""
    return samplers.TPESampler(multivariate=True, group=True, seed=seed)


def recipes(
    pruner: Callable[[], pruners.BasePruner] = pruners.NopPruner,
    sampler: Callable[[int], samplers.BaseSampler] = broad_tpe,
    share: str = "none",
) -> Method:
    """As autotl searches: the well-known recipes, then its own sampler."""
    return Method(sampler, pruner, recipes=True, share=share)


OURS = "recipes, broad TPE + worst tenth"
METHODS = {
    "random": Method(random),
    "TPE": Method(tpe),
    "TPE + ASHA": Method(tpe, partial(pruners.SuccessiveHalvingPruner, 1, 2)),
    "TPE + Hyperband": Method(tpe, partial(pruners.HyperbandPruner, 1, EPOCHS, 2)),
    OURS: recipes(WorstTenthPruner),
    "... TPE of Optuna": recipes(WorstTenthPruner, sampler=tpe),
    "... one rate for a range": recipes(WorstTenthPruner, share="range"),
    "... one rate for all": recipes(WorstTenthPruner, share="all"),
    "... no pruner": recipes(),
    "... median": recipes(partial(pruners.MedianPruner, 5, EPOCHS // 3)),
    "... ASHA": recipes(partial(pruners.SuccessiveHalvingPruner, 1, 2)),
}
DRAWN = ("random", "TPE", "TPE + ASHA", "TPE + Hyperband", OURS)


def regrets(search: Search, points: int = 121) -> NDArray[np.float64]:
    """The regret of the best trial so far at ``points`` even moments of the budget; 1 before."""
    moments = np.linspace(0, search.curves.budget, points)
    ends, values = zip((0.0, 1.0), *search.found, strict=True)
    return np.array(values)[np.searchsorted(ends, moments, side="right") - 1]


def interval(runs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 95 % bootstrap interval of the mean of ``runs [N, points]`` (Efron 1979)."""
    drawn = np.random.default_rng(0).integers(len(runs), size=(1000, len(runs)))
    low, high = np.quantile(runs[drawn].mean(1), (0.025, 0.975), axis=0)
    return low, high


def reached(regret: NDArray[np.float64], level: float) -> float:
    """The share of the budget after which a mean ``regret [points]`` is at ``level``, or inf."""
    below = np.flatnonzero(regret <= level)
    return float(below[0] / (len(regret) - 1)) if len(below) else np.inf


def table(
    found: dict[str, list[NDArray[np.float64]]], counts: dict[str, NDArray[np.float64]]
) -> str:
    """Rows of Markdown: the mean over the data sets of what each method came to."""
    heads = ("search", "mean regret", "at 1/6", "at 1/3", "at the end", "random's end after")
    lines = ["| " + " | ".join((*heads, "complete", "pruned")) + " |", "|---" * 8 + "|"]
    for name, runs in found.items():
        mean = np.mean([r.mean(0) for r in runs], axis=0)
        low, high = interval(np.mean(runs, axis=0).mean(1, keepdims=True))
        pairs = zip(runs, found["random"], strict=True)
        ends = [reached(r.mean(0), x.mean(0)[-1]) for r, x in pairs]
        after = ", ".join(f"{share:.2f}" for share in ends)
        parts = [f"{mean[(len(mean) - 1) * k // 6]:.3f}" for k in (1, 2, 6)]
        area = f"{mean.mean():.3f} ({low[0]:.3f} to {high[0]:.3f})"
        many = [f"{count:.0f}" for count in counts[name]]
        lines.append("| " + " | ".join([name, area, *parts, after, *many]) + " |")
    return "\n".join(lines)


def draw(found: dict[str, list[NDArray[np.float64]]], curves: dict[str, Curves]) -> None:
    """``replay.png``: a panel for each data set, regret against seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(5 * len(curves), 4), squeeze=False)
    for i, (name, one) in enumerate(curves.items()):
        axis = axes[0, i]
        for method in (m for m in DRAWN if m in found):
            runs = found[method][i]
            moments = np.linspace(0, one.budget, runs.shape[1])
            [line] = axis.plot(moments, runs.mean(0), label=method)
            axis.fill_between(moments, *interval(runs), color=line.get_color(), alpha=0.15, lw=0)
        axis.set(title=name, xlabel="replayed seconds", ylabel="normalised regret", ylim=(0, 1))
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "replay.png", dpi=80)


def quiet() -> None:
    """Keep Optuna from saying what is known."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


@click.command()
@click.argument("sources", nargs=-1)
@click.option("--seeds", default=30, help="How many searches of each method.")
@click.option("--metric", default="accuracy", type=click.Choice(["accuracy", "log_loss"]))
@click.option("--only", multiple=True, help="A method; several may be given.")
@click.option("--workers", default=1, help="Processes to use.")
def main(
    sources: tuple[str, ...], seeds: int, metric: str, only: tuple[str, ...], workers: int
) -> None:
    """Let searches run on the curves of SOURCES, and say how soon they found what."""
    curves = {source: load(source, metric) for source in sources or ("digits", "odd")}
    found: dict[str, list[NDArray[np.float64]]] = {}
    counts = {}
    with ProcessPoolExecutor(workers) as pool:
        for name in ("random", *only) if only else METHODS:
            each = itertools.product([name], curves, [metric], range(seeds))
            runs = list(pool.map(_run, *zip(*each, strict=True)))
            found[name] = np.array_split([run for run, _ in runs], len(curves))
            counts[name] = np.mean([count for _, count in runs], axis=0)
            click.echo(name, err=True)
    click.echo(table(found, counts))
    if metric == "accuracy" and not only:
        draw(found, curves)


def _run(
    name: str, source: str, metric: str, seed: int
) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """One search in a process of its own: its regrets, and its complete and pruned trials."""
    quiet()
    search = Search(cached(source, metric), METHODS[name], seed).run()
    return regrets(search), (search.complete, search.pruned)


if __name__ == "__main__":
    main()
