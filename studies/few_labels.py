"""A few labels for each class, and many images without one: what the unlabelled images add.

    python studies/few_labels.py photos/ --labels 5 20 --seeds 5 --size 96

Of the training images of each class, a few keep their label, other ones for each seed; all others
are unlabelled. Recipes with and without unlabelled images are trained on them, with one backbone,
and scored on the test split of the data. The table compares each with the best of those that use
labelled images alone, by the mean over the seeds. Intervals (95 %) are of the paired differences,
whose variance is that between seeds plus that between test images. The table is Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from autotl import data, training
from autotl.data import Batches, Dataset
from autotl.frozen import FeatureCache
from autotl.models import Model, select_device
from autotl.space import registry, space
from autotl.space.space import Config
from autotl.training import Job, fine_tune

BACKBONE = {"backbone": {"tf_efficientnet_lite0": {}}}
PLAIN = {"augment": {"flip_crop": {"flip": False}}, "optimizer": {"adamw": {}}}
FROZEN = ("linear", "cosine", "stages", "stages_logistic", "lda", "nearest_mean")
"""Heads on frozen layers."""

LONG = 60
"""Epochs of recipes whose names say "long": with few labels an epoch has few steps."""

SUPERVISED: dict[str, dict[str, Any]] = {
    **{name: {**PLAIN, "freeze": {"linear_probe": {}}, "head": {name: {}}} for name in FROZEN},
    "last blocks": {**PLAIN, "freeze": {"last_blocks": {"fraction": 0.1}}, "head": {"linear": {}}},
}
SUPERVISED |= {f"{n}, long": SUPERVISED[n] for n in ("linear", "cosine", "stages", "last blocks")}


def with_method(recipe: str, method: str, **values: Any) -> dict[str, Any]:
    """Return a recipe that also uses unlabelled images."""
    return {**SUPERVISED[recipe], "unlabelled": {method: values}}


UNLABELLED = {
    f"{recipe} + {method}": with_method(recipe, method)
    for recipe, methods in (
        ("linear", ("pseudo_labels", "fixmatch", "flexmatch", "mean_teacher", "information")),
        ("stages", ("pseudo_labels", "fixmatch", "mean_teacher", "information")),
        ("stages_logistic", ("pseudo_labels", "fixmatch")),
        ("lda", ("pseudo_labels", "fixmatch")),
        ("last blocks", ("information",)),
    )
    for method in methods
}


class Trainings:
    """Trainings on a data set, scored on its test split.

    Args:
        dataset: The data set.
        size: Side of the images in pixels.
        folder: Folder for packed images and cached features.
    """

    def __init__(self, dataset: Dataset, size: int, folder: Path) -> None:
        self.dataset, self.size, self.folder = dataset, size, folder
        self.device = select_device("cpu", "float32")
        self.cache = FeatureCache(None, folder)

    def batches(
        self, model: Model, indices: NDArray[np.int64], shuffle_seed: int | None = None
    ) -> Batches:
        """Return batches of the examples at ``indices [n]``, in the size of a model's input."""
        packed, device = data.pack(self.dataset, model.expects, self.folder), self.device
        targets = self.dataset.targets
        return Batches(packed, targets, indices, 32, device.torch_device, shuffle_seed=shuffle_seed)

    def train(
        self,
        config: Config,
        indices: NDArray[np.int64],
        unlabelled: Callable[[Model], Batches],
        seed: int,
        epochs: int,
    ) -> NDArray[np.float32]:
        """Train on the examples at ``indices``; return the predictions for the test, ``[n, C]``."""
        dataset, test = self.dataset, self.dataset.indices("test")
        model = training.build_model(config, dataset.task, self.size, self.device, seed)
        truth = dataset.targets[test]
        job = Job(
            train=self.batches(model, indices, seed),
            validation=self.batches(model, test),
            epochs=epochs,
            score=lambda predictions: float((predictions.argmax(1) == truth).mean()),
            device=self.device,
            seed=seed,
            cache=self.cache,
            data_id=dataset.fingerprint,
            label_smoothing=0.1,
            unlabelled=cache(lambda: unlabelled(model)),
        )
        *_, last = fine_tune(model, config, job)
        assert last.predictions is not None
        return last.predictions

    def find_right(self, predictions: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Say which predictions ``[n, C]`` for the test images are right, ``[n]``."""
        right: NDArray[np.bool_] = (
            predictions.argmax(1) == self.dataset.targets[self.dataset.indices("test")]
        )
        return right


class Study(Trainings):
    """The images, and the trainings on some of their labels.

    Args:
        source: The data source, with a test split.
        size: Side of the images in pixels.
        folder: Folder for packed images and cached features.
    """

    def __init__(self, source: str, size: int, folder: Path) -> None:
        self.plugins = registry.load()
        read = data.read_source(source, self.plugins)
        super().__init__(data.check(read.examples, source, seed=0), size, folder)

    def run(self, config: Config, labels: int, seed: int, epochs: int) -> NDArray[np.bool_]:
        """Train on ``labels`` images of each class; return which test images are right, ``[n]``."""
        dataset = self.dataset
        train = dataset.indices("train", "validation")
        order = np.random.default_rng(seed).permutation(train)
        classes = range(len(dataset.outputs))
        few = [order[dataset.targets[order] == c][:labels] for c in classes]
        labelled = np.sort(np.concatenate(few))
        others = np.setdiff1d(train, labelled)
        unlabelled = lambda model: self.batches(model, others)  # noqa: E731
        return self.find_right(self.train(config, labelled, unlabelled, seed, epochs))


def interval(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean difference of two results ``[seeds, images]``, and half its interval."""
    difference = one - other
    seeds, images = difference.shape
    between_seeds = difference.mean(1).var(ddof=1) / seeds if seeds > 1 else 0.0
    between_images = difference.mean(0).var(ddof=1) / images
    quantile = stats.t.ppf(0.975, max(1, seeds - 1)) if seeds > 1 else 1.96
    half = np.sqrt(quantile**2 * between_seeds + 1.96**2 * between_images)
    return float(difference.mean()), float(half)


def main() -> None:
    """Train all recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--without", nargs="*", default=[], help="Parts of the names of recipes.")
    parser.add_argument("--cache", type=Path, default=Path("runs/few_labels"))
    options = parser.parse_args()
    study = Study(options.data, options.size, options.cache)
    results: dict[tuple[str, int], NDArray[np.float64]] = {}
    for name, recipe in {**SUPERVISED, **UNLABELLED}.items():
        if any(part in name for part in options.without):
            continue
        config = space.from_json({**BACKBONE, **recipe}, study.plugins)
        for labels in options.labels:
            began = time.monotonic()
            epochs = LONG if "long" in name else options.epochs
            right = [study.run(config, labels, seed, epochs) for seed in range(options.seeds)]
            results[name, labels] = np.array(right, dtype=np.float64)
            seconds = (time.monotonic() - began) / options.seeds
            accuracy = results[name, labels].mean()
            print(f"{name}, {labels} labels: {accuracy:.4f}, {seconds:.1f} s", file=sys.stderr)
    print_table(results, options.labels)


def print_table(results: dict[tuple[str, int], NDArray[np.float64]], counts: list[int]) -> None:
    """Print accuracies, and differences to the best recipe without unlabelled images."""
    columns = [text for n in counts for text in (f"{n} labels a class", "difference")]
    print(f"| recipe | {' | '.join(columns)} |\n|---{'|---:' * len(columns)}|")
    best = {
        n: max((name for name in SUPERVISED if (name, n) in results), key=lambda of: mean[of, n])
        for mean in ({key: right.mean() for key, right in results.items()},)
        for n in counts
    }
    for name in dict.fromkeys(name for name, _ in results):
        cells = []
        for n in counts:
            right = results[name, n]
            difference, half = interval(right, results[best[n], n])
            text = "best without" if name == best[n] else f"{difference:+.3f} ± {half:.3f}"
            cells += [f"{right.mean():.3f}", text]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
