"""Many images without labels and few with one: what a training without labels adds before.

    python studies/self_supervised.py photos/ --backbone resnet18 --size 64 --labels 5 10 --seeds 3
    python studies/self_supervised.py photos/ --backbone resnet18 --start pretrained --rate 3e-4

The backbone is trained on all training images by SimCLR, without labels, or for comparison with
the labels of all of them; the test images are not used. Then a few images of each class have a
label, other ones for each seed, and a linear probe or all layers are trained on them, from these
weights and from the untouched ones. All are scored on the test split of the data. The table has
means over the seeds, and the differences to the untouched weights with the same recipe. Intervals
(95 %) are of the paired differences, whose variance is that between seeds plus that between test
images. The table is Markdown. Weights are kept in the cache folder, and are not trained twice.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from few_labels import PLAIN, Study, interval
from numpy.typing import NDArray

import autotl
from autotl.space import space
from autotl.space.space import Config

RECIPES: dict[str, dict[str, Any]] = {
    "linear probe": {**PLAIN, "freeze": {"linear_probe": {}}, "head": {"linear": {}}},
    "all layers": {**PLAIN, "freeze": {"full": {}}, "head": {"linear": {}}},
}
UNTOUCHED = "untouched"
METHODS = ("simclr", "supervised")
"""How all training images are trained on before; the second one uses their labels."""

Results = dict[tuple[str, str, int], NDArray[np.float64]]
"""Which test images are right ``[seeds, images]``, by recipe, weights and number of labels."""


def pretrain(options: argparse.Namespace, method: str, seed: int) -> Path:
    """Train weights on all training images, unless that was done; return their folder."""
    name = f"{method}-{options.start}-{options.size}-{options.epochs}-{options.rate}-{seed}"
    folder: Path = options.cache / "weights" / name
    if not (folder / f"{options.backbone}.safetensors").exists():
        began = time.monotonic()
        result = autotl.pretrain(
            options.data,
            options.backbone,
            out=folder,
            method=method,
            start=options.start,
            epochs=options.epochs if method == "simclr" else options.supervised_epochs,
            lr=options.rate,
            batch_size=options.batch_size,
            image_size=options.size,
            seed=seed,
            device="cpu",
            precision="float32",
        )
        facts, seconds = result.facts, time.monotonic() - began
        score = f"{facts['metric']} {facts['score']:.4f}"
        print(f"{name}: {score} on {facts['scored']} images, {seconds:.0f} s", file=sys.stderr)
    return folder


def make_config(
    study: Study, options: argparse.Namespace, recipe: Mapping[str, Any], folder: Path | None
) -> Config:
    """Make the configuration of a recipe with the untouched weights, or with those of a folder."""
    prefix = "source:" if folder else "scratch:" if options.start == "scratch" else ""
    backbone = {"backbone": {f"{prefix}{options.backbone}": {}}}
    return space.from_json({**backbone, **recipe}, study.plugins, weights=folder)


def run(study: Study, options: argparse.Namespace) -> Results:
    """Train all recipes from all weights."""
    results: Results = {}
    for weights in (UNTOUCHED, *options.methods):
        for name in options.recipes:
            recipe = RECIPES[name]
            for labels in options.labels:
                right = []
                for seed in range(options.seeds):
                    folder = None if weights == UNTOUCHED else pretrain(options, weights, seed)
                    config = make_config(study, options, recipe, folder)
                    right.append(study.run(config, labels, seed, options.few_epochs))
                results[name, weights, labels] = np.array(right, dtype=np.float64)
                accuracy = results[name, weights, labels].mean()
                print(f"{name}, {weights}, {labels} labels: {accuracy:.4f}", file=sys.stderr)
    return results


def print_table(results: Results, counts: list[int]) -> None:
    """Print accuracies, and differences to the untouched weights with the same recipe."""
    columns = [text for n in counts for text in (f"{n} labels a class", "difference")]
    print(f"| recipe | weights | {' | '.join(columns)} |\n|---|---{'|---:' * len(columns)}|")
    for name, weights in dict.fromkeys((name, weights) for name, weights, _ in results):
        cells = []
        for n in counts:
            right = results[name, weights, n]
            difference, half = interval(right, results[name, UNTOUCHED, n])
            text = "" if weights == UNTOUCHED else f"{difference:+.3f} ± {half:.3f}"
            cells += [f"{right.mean():.3f}", text]
        print(f"| {name} | {weights} | {' | '.join(cells)} |")


def main() -> None:
    """Train all weights and recipes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--start", choices=["scratch", "pretrained"], default="scratch")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--recipes", choices=RECIPES, nargs="+", default=list(RECIPES))
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=100, help="Epochs of SimCLR.")
    parser.add_argument("--supervised-epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3, help="Learning rate on all images.")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--few-epochs", type=int, default=60, help="Epochs on the few labels.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("runs/self_supervised"))
    options = parser.parse_args()
    study = Study(options.data, options.size, options.cache)
    print_table(run(study, options), options.labels)


if __name__ == "__main__":
    main()
