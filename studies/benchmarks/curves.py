"""Learning curves of a grid of configurations, recorded once by the library's own fine-tuning.

Run by hand, with ``OMP_NUM_THREADS=1`` for numbers that repeat::

    python studies/benchmarks/curves.py sklearn:digits FOLDER

It keeps the scores and the seconds of each epoch in ``curves-NAME.npz`` beside this file, goes on
where it was stopped, and takes some ten minutes for each source and seed. ``odd`` as a source
asks of the digits whether they are odd.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from time import process_time
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from autotl.space import registry, space
from autotl.space.plugin import Example
from autotl.space.space import Config, Space

HERE = Path(__file__).parent
BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
FREEZE = ("linear_probe", "norms", "last_blocks", "lp_ft", "layer_decay")
WANTED = {
    "backbone": BACKBONES,
    "freeze": FREEZE,
    "head": ("linear", "mlp"),
    "augment": ("none", "flip_crop"),
    "optimizer": ("adamw",),
}
KINDS = ("backbone", "freeze", "head", "augment")  # the first axes of the grid
RATES = 4  # learning rates of each strategy, evenly over the logarithm of its range
SEEDS = 4
EPOCHS = 8
SIDE = 40  # pixels
PICTURES = 256  # half of them to learn from, half to score
AROUND = 0.5  # seconds of a trial besides its epochs: building it, timing a few steps, the database
TRIALS = 30  # the budget: what so many random trials take, none of them pruned


def grid_space(backbones: Iterable[str] = BACKBONES) -> Space:
    """What the grid covers: every keyword but ``lr`` is pinned to its default."""
    plugins = registry.load()
    wanted = {**WANTED, "backbone": tuple(backbones)}
    narrow: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, names in wanted.items():
        for plugin in (plugins.get(kind, name) for name in names):
            pins = {name: v for name, v in plugin.defaults.items() if name != "lr"}
            narrow.setdefault(kind, {})[plugin.name] = pins
    return space.build_space(plugins, wanted, narrow).without("balance")


def rates(chosen: Space, freeze: str) -> NDArray[np.float64]:
    """The learning rates ``[RATES]`` of a strategy in the grid."""
    plugin = next(p for p in chosen.plugins["freeze"] if p.name == freeze)
    limits = next(h.range for h in plugin.hyperparameters if h.name == "lr")
    assert limits
    return np.geomspace(limits.low, limits.high, RATES)


def cell(chosen: Space, config: Config) -> tuple[int, ...]:
    """The place of a configuration in the grid, its learning rate moved to the nearest there."""
    names = (WANTED[kind].index(config[kind].name) for kind in KINDS)
    freeze = config["freeze"]
    distance = np.log(rates(chosen, freeze.name) / freeze.params["lr"])
    return (*names, int(np.abs(distance).argmin()))


@dataclass(frozen=True)
class Curves:
    """What was recorded: ``scores [seeds, cells..., EPOCHS]``, ``seconds [cells..., EPOCHS]``.

    Seconds are the median over seeds and learning rates, which change nothing but noise: the first
    to run a frozen part over the pictures, which all searches have to, is none of the others.
    """

    scores: NDArray[np.float64]
    seconds: NDArray[np.float64]
    chosen: Space
    direction: str = "maximize"

    @property
    def ends(self) -> NDArray[np.float64]:
        """The last score of every cell, higher is better, as a mean over the seeds."""
        sign = 1 if self.direction == "maximize" else -1
        return sign * self.scores[..., -1].mean(0)

    def regret(self, at: tuple[int, ...]) -> float:
        """From 0, the best cell, to 1, the median cell or one that is worse."""
        ends = self.ends
        best = np.nanmax(ends)
        return float(min(1.0, (best - ends[at]) / (best - np.nanmedian(ends))))

    @property
    def budget(self) -> float:
        """Seconds that ``TRIALS`` random trials take."""
        return TRIALS * (AROUND + float(self.seconds.sum(-1).mean()))


def load(source: str, metric: str = "accuracy") -> Curves:
    """The curves of a source, of those backbones and seeds whose grid is complete."""
    found = np.load(file(source))
    known = found["seconds"].shape[:2]
    complete = np.isfinite(found["seconds"]).reshape(*known, -1).all(-1)
    backbones = [i for i in range(len(BACKBONES)) if complete[0, i]]
    if not backbones:
        raise click.ClickException(f"{file(source)} is not complete; run 'record {source}' again")
    seeds = [i for i in range(known[0]) if complete[i, backbones].all()]
    both = np.ix_(seeds, backbones)
    seconds = found["seconds"][both].astype(np.float64)
    typical = np.median(seconds, axis=(0, -2))[..., None, :]
    return Curves(
        found[metric][both].astype(np.float64),
        np.broadcast_to(typical, seconds.shape[1:]),
        grid_space(BACKBONES[i] for i in backbones),
        "maximize" if metric == "accuracy" else "minimize",
    )


def examples(source: str) -> list[Example]:
    """``PICTURES`` examples of a source, drawn at random; ``odd`` has other labels on digits."""
    where = "sklearn:digits" if source == "odd" else source
    found = registry.load().dataset(where).call({"source": where}, {})
    order = np.random.default_rng(0).permutation(len(found))[:PICTURES]
    some = [replace(found[i], split="") for i in order]
    if source == "odd":
        some = [replace(e, label=("even", "odd")[int(e.label) % 2]) for e in some]
    return some


def record(source: str) -> None:
    """Fine-tune every configuration of the grid; the file is written again after every few."""
    import torch
    from sklearn.metrics import log_loss

    from autotl import data, models
    from autotl.data import Batches
    from autotl.errors import Diverged
    from autotl.frozen import FeatureCache
    from autotl.training import Task, fine_tune

    torch.set_num_threads(1)
    where = models.device("cpu")
    dataset = data.check(examples(source), source, validation=0.5, test=0)
    packed = data.pack(dataset, SIDE, "bicubic", Path(gettempdir()) / "autotl-curves")
    part = partial(Batches, packed, dataset.labels, batch_size=32, device=where.device)
    validation = part(dataset.indices("validation"))
    truth = dataset.labels[dataset.indices("validation")]
    chosen, cache = grid_space(), FeatureCache(4 << 30)
    shape = (SEEDS, *(len(WANTED[kind]) for kind in KINDS), RATES, EPOCHS)
    found = {key: np.full(shape, np.nan, np.float32) for key in ("accuracy", "log_loss", "seconds")}
    if file(source).exists():  # go on with what is there, perhaps of fewer seeds
        for key, old in np.load(file(source)).items():
            found[key][: len(old)] = old

    def score(at: tuple[int, ...], probabilities: NDArray[np.float32]) -> float:
        epoch = int(np.isfinite(found["accuracy"][at]).sum())
        classes = range(len(dataset.classes))
        found["accuracy"][at][epoch] = (probabilities.argmax(1) == truth).mean()
        found["log_loss"][at][epoch] = log_loss(truth, probabilities, labels=classes)
        return float(found["accuracy"][at][epoch])

    for at in itertools.product(*map(range, shape[:-1])):
        if np.isfinite(found["seconds"][at]).all():
            continue
        seed, *places, rate = at
        names = {kind: WANTED[kind][i] for kind, i in zip(KINDS, places, strict=True)}
        config = {}
        for kind, plugins in chosen.plugins.items():
            plugin = next(p for p in plugins if p.name == names.get(kind, p.name))
            lr = {"lr": rates(chosen, plugin.name)[rate]} if kind == "freeze" else {}
            config[kind] = space.Choice(plugin, {**plugin.defaults, **lr})
        task = Task(
            train=part(dataset.indices("train"), shuffle_seed=seed),
            validation=validation,
            epochs=EPOCHS,
            score=partial(score, at),
            where=where,
            seed=seed,
            cache=cache,
            data=dataset.fingerprint,
            label_smoothing=0.1,
        )
        for values in found.values():
            values[at] = np.nan
        network = models.build(config, len(dataset.classes), SIDE, where, seed)
        began = process_time()  # of one thread, whatever else runs
        try:
            for epoch in fine_tune(network, config, task):
                now = process_time()
                found["seconds"][at][epoch.number - 1], began = now - began, now
        except Diverged:
            found["seconds"][at] = np.nan_to_num(found["seconds"][at])
        if rate == RATES - 1:
            click.echo(f"{source}: seed {seed}, {', '.join(names.values())}")
            np.savez_compressed(file(source), **found)  # type: ignore[arg-type]


def file(source: str) -> Path:
    """Where the curves of a source are."""
    return HERE / f"curves-{Path(source.split(':')[-1]).name}.npz"


@click.command()
@click.argument("sources", nargs=-1)
def main(sources: tuple[str, ...]) -> None:
    """Record SOURCES; without any, the digits and whether they are odd."""
    for source in sources or ("sklearn:digits", "odd"):
        record(source)


if __name__ == "__main__":
    main()
