"""Record the learning curves of a grid of configurations with the library's own fine-tuning.

Run by hand, with ``OMP_NUM_THREADS=1`` for reproducible numbers::

    python studies/benchmarks/curves.py sklearn:digits FOLDER

The scores and seconds of every epoch are saved in ``curves-NAME.npz`` in this folder. A recording
that was interrupted is resumed; it takes some ten minutes for each source and seed. The source
``odd`` is the digits, labelled as odd or even.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from time import process_time
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray

from autotl.space import registry, space
from autotl.space.plugin import Example
from autotl.space.space import Config, Space
from autotl.tasks import numbered_classes

HERE = Path(__file__).parent
BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")
FREEZE = ("linear_probe", "norms", "last_blocks", "lp_ft", "layer_decay")
PLUGINS = {
    "backbone": BACKBONES,
    "freeze": FREEZE,
    "head": ("linear", "mlp"),
    "augment": ("none", "flip_crop"),
    "optimizer": ("adamw",),
}
KINDS = ("backbone", "freeze", "head", "augment")  # the first axes of the grid
LEARNING_RATES = 4  # of each strategy, evenly over the logarithm of its range
SEEDS = 4
EPOCHS = 8
IMAGE_SIZE = 40  # pixels
IMAGES = 256  # half of them for training, half for validation
OVERHEAD = 0.5  # seconds of a trial besides its epochs: building, timing steps, the database
Cell = tuple[int, ...]
"""Index of a configuration in the grid: its plugins by ``KINDS``, then its learning rate."""

TRIALS = 30  # the budget is the time of so many random trials without pruning


def grid_space(backbones: Iterable[str] = BACKBONES) -> Space:
    """Build the space of the grid: every hyperparameter but ``lr`` is fixed to its default."""
    plugins = registry.load()
    names_by_kind = {**PLUGINS, "backbone": tuple(backbones)}
    fixed: dict[str, dict[str, dict[str, Any]]] = {}
    for kind, names in names_by_kind.items():
        for plugin in (plugins.get(kind, name) for name in names):
            values = {name: v for name, v in plugin.defaults.items() if name != "lr"}
            fixed.setdefault(kind, {})[plugin.name] = values
    grid = space.build_space(plugins, names_by_kind, fixed)
    return grid.without_kind("balance").without_kind("unlabelled")


def learning_rates(grid: Space, freeze: str) -> NDArray[np.float64]:
    """Return the learning rates ``[LEARNING_RATES]`` of a strategy in the grid."""
    plugin = next(p for p in grid.plugins["freeze"] if p.name == freeze)
    limits = next(h.range for h in plugin.hyperparameters if h.name == "lr")
    assert limits
    return np.geomspace(limits.low, limits.high, LEARNING_RATES)


def cell_index(grid: Space, config: Config) -> tuple[int, ...]:
    """Return the index of a configuration in the grid, with the nearest learning rate."""
    indices = (PLUGINS[kind].index(config[kind].name) for kind in KINDS)
    freeze = config["freeze"]
    distance = np.log(learning_rates(grid, freeze.name) / freeze.params["lr"])
    return (*indices, int(np.abs(distance).argmin()))


@dataclass(frozen=True)
class Curves:
    """The learning curves of a grid.

    Attributes:
        scores: Validation scores ``[seeds, cells..., EPOCHS]``.
        seconds: Seconds of the epochs ``[cells..., EPOCHS]``, as medians over seeds and learning
            rates, which differ by noise alone. The exception is the trial that is the first to
            compute the features of a frozen backbone; every search pays that once.
        space: The space of the grid.
        direction: ``"maximize"`` or ``"minimize"``, of the scores.
    """

    scores: NDArray[np.float64]
    seconds: NDArray[np.float64]
    space: Space
    direction: Literal["maximize", "minimize"] = "maximize"

    @property
    def final_scores(self) -> NDArray[np.float64]:
        """The last score of every cell, averaged over seeds; higher is better."""
        means: NDArray[np.float64] = self.scores[..., -1].mean(0)
        return means if self.direction == "maximize" else -means

    def regret(self, cell: tuple[int, ...]) -> float:
        """Return the regret of a cell: 0 for the best, 1 for the median or a worse one."""
        scores = self.final_scores
        best = np.nanmax(scores)
        return float(min(1.0, (best - scores[cell]) / (best - np.nanmedian(scores))))

    @property
    def budget(self) -> float:
        """Seconds of ``TRIALS`` random trials."""
        return TRIALS * (OVERHEAD + float(self.seconds.sum(-1).mean()))


def load(source: str, metric: str = "accuracy") -> Curves:
    """Load the curves of a source: the backbones and seeds whose grid is complete.

    Raises:
        ClickException: No backbone is complete.
    """
    recorded = np.load(curves_file(source))
    shape = recorded["seconds"].shape[:2]
    complete = np.isfinite(recorded["seconds"]).reshape(*shape, -1).all(-1)
    backbones = [i for i in range(len(BACKBONES)) if complete[0, i]]
    if not backbones:
        raise click.ClickException(
            f"{curves_file(source)} is not complete: record the rest with 'curves.py {source}'"
        )
    seeds = [i for i in range(shape[0]) if complete[i, backbones].all()]
    selected = np.ix_(seeds, backbones)
    seconds = recorded["seconds"][selected].astype(np.float64)
    medians = np.median(seconds, axis=(0, -2))[..., None, :]
    return Curves(
        recorded[metric][selected].astype(np.float64),
        np.broadcast_to(medians, seconds.shape[1:]),
        grid_space(BACKBONES[i] for i in backbones),
        "maximize" if metric == "accuracy" else "minimize",
    )


def load_examples(source: str) -> list[Example]:
    """Draw ``IMAGES`` examples of a source at random; ``odd`` is digits labelled as odd or even."""
    from autotl import data

    location = "sklearn:digits" if source == "odd" else source
    available = data.read_source(location, registry.load()).examples
    order = np.random.default_rng(0).permutation(len(available))[:IMAGES]
    examples = [replace(available[i], split="") for i in order]
    if source == "odd":
        examples = [replace(e, label=("even", "odd")[int(e.label) % 2]) for e in examples]
    return examples


def record(source: str) -> None:
    """Fine-tune every configuration of the grid and save the curves after every few."""
    import torch
    from sklearn.metrics import log_loss

    from autotl import data, models
    from autotl.data import Batches
    from autotl.errors import Diverged
    from autotl.frozen import FeatureCache
    from autotl.training import Job, fine_tune

    torch.set_num_threads(1)
    device = models.select_device("cpu")
    dataset = data.check(load_examples(source), source, validation=0.5, test=0)
    expects = data.ImageInput(IMAGE_SIZE, (0.5,) * 3, (0.5,) * 3, "bicubic")
    packed = data.pack(dataset, expects, Path(gettempdir()) / "autotl-curves")
    make_batches = partial(
        Batches, packed, dataset.targets, batch_size=32, device=device.torch_device
    )
    validation = make_batches(dataset.indices("validation"))
    labels = dataset.targets[dataset.indices("validation")]
    grid, cache = grid_space(), FeatureCache(4 << 30)
    shape = (SEEDS, *(len(PLUGINS[kind]) for kind in KINDS), LEARNING_RATES, EPOCHS)
    curves = {
        key: np.full(shape, np.nan, np.float32) for key in ("accuracy", "log_loss", "seconds")
    }
    if curves_file(source).exists():  # resume; the file may have fewer seeds
        for key, old in np.load(curves_file(source)).items():
            curves[key][: len(old)] = old

    def record_score(cell: tuple[int, ...], probabilities: NDArray[np.float32]) -> float:
        epoch = int(np.isfinite(curves["accuracy"][cell]).sum())
        classes = range(len(dataset.outputs))
        curves["accuracy"][cell][epoch] = (probabilities.argmax(1) == labels).mean()
        curves["log_loss"][cell][epoch] = log_loss(labels, probabilities, labels=classes)
        return float(curves["accuracy"][cell][epoch])

    for cell in itertools.product(*map(range, shape[:-1])):
        if np.isfinite(curves["seconds"][cell]).all():
            continue
        seed, *indices, rate = cell
        names = {kind: PLUGINS[kind][i] for kind, i in zip(KINDS, indices, strict=True)}
        config = {}
        for kind, plugins in grid.plugins.items():
            plugin = next(p for p in plugins if p.name == names.get(kind, p.name))
            lr = {"lr": learning_rates(grid, plugin.name)[rate]} if kind == "freeze" else {}
            config[kind] = space.Choice(plugin, {**plugin.defaults, **lr})
        job = Job(
            train=make_batches(dataset.indices("train"), shuffle_seed=seed),
            validation=validation,
            epochs=EPOCHS,
            score=partial(record_score, cell),
            device=device,
            seed=seed,
            cache=cache,
            data_id=dataset.fingerprint,
            label_smoothing=0.1,
        )
        for values in curves.values():
            values[cell] = np.nan
        network = models.build_model(
            config, numbered_classes(len(dataset.outputs)), IMAGE_SIZE, device, seed
        )
        start = process_time()  # of one thread, whatever else runs
        try:
            for epoch in fine_tune(network, config, job):
                now = process_time()
                curves["seconds"][cell][epoch.number - 1], start = now - start, now
        except Diverged:
            curves["seconds"][cell] = np.nan_to_num(curves["seconds"][cell])
        if rate == LEARNING_RATES - 1:
            click.echo(f"{source}: seed {seed}, {', '.join(names.values())}")
            np.savez_compressed(curves_file(source), **curves)  # type: ignore[arg-type]


def curves_file(source: str) -> Path:
    """Return the path of the recorded curves of a source."""
    return HERE / f"curves-{Path(source.split(':')[-1]).name}.npz"


@click.command()
@click.argument("sources", nargs=-1)
def main(sources: tuple[str, ...]) -> None:
    """Record the learning curves of SOURCES (default: sklearn:digits and odd)."""
    for source in sources or ("sklearn:digits", "odd"):
        record(source)


if __name__ == "__main__":
    main()
