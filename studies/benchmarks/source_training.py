"""Source training: Fashion-MNIST as the source of weights for few handwritten digits.

    apt-get install dataset-fashion-mnist
    python studies/benchmarks/source_training.py --out runs/source_training

A small backbone with random weights is trained on images of clothes, and fine-tuned on 10, 50 and
more labels of each digit, with the same recipe as one that is trained from scratch. Both are tested
on the digits that no training of that size and seed used. Intervals are those of the final
selection: seeds are repeats, and digits are examples. The table is Markdown. A result is written to
``results.json`` as soon as it is there, and read by a later run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import autotl
from autotl.events import Event, Note
from autotl.scoring.comparison import Comparison, Results, compare

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package has its files."""

CELLS = ((10, 12), (50, 12), (10, 60), (50, 30), (200, 15))
"""Labels of each digit, and epochs of the fine-tuning: the default, and as many as a training from
scratch needs to converge."""

METHODS = ("scratch", "source")
"""The beginnings of the names of the backbones."""


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/source_training"))
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--examples", type=int, default=60_000, help="images of clothes")
    parser.add_argument("--epochs", type=int, default=5, help="of the source training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clothes", type=Path, default=FOLDER)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    weights = pretrain(options)
    rows = []
    for cell in CELLS:
        results = [
            {method: fine_tune(options, weights, method, cell, seed) for method in METHODS}
            for seed in range(options.seeds)
        ]
        rows.append(describe(cell, results))
    print("| labels of each digit | epochs | from scratch | weights of clothes | gain | |")
    print("|---|---|---|---|---|---|")
    print(*rows, sep="\n")


def pretrain(options: argparse.Namespace) -> Path:
    """Train the backbone on clothes, unless that was done; return the folder of its weights."""
    folder: Path = options.out / "weights"
    if not (folder / f"{options.backbone}.safetensors").exists():
        images, labels = (read_idx(options.clothes / name) for name in (
            "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz",
        ))  # fmt: skip
        chosen = np.random.default_rng(0).permutation(len(images))[: options.examples]
        file = options.out / "clothes.npz"
        np.savez(file, train_images=images[chosen], train_labels=labels[chosen])
        began = time.monotonic()
        result = autotl.pretrain(
            file, options.backbone, print_note, out=folder, image_size=options.size,
            epochs=options.epochs, device="cpu", licence="mit",
        )  # fmt: skip
        took = time.monotonic() - began
        print(f"source training: {took:.0f} s, accuracy {result.facts['score']:.4f}")
    return folder


def print_note(event: Event) -> None:
    """Print the lines about epochs."""
    if isinstance(event, Note):
        print(event.text, flush=True)


def read_idx(file: Path) -> NDArray[np.uint8]:
    """Read a file in the format of MNIST, ``uint8 [N, ...]``."""
    content = gzip.decompress(file.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">i4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def fine_tune(
    options: argparse.Namespace, weights: Path, method: str, cell: tuple[int, int], seed: int
) -> dict[str, Any]:
    """Fine-tune on some labels of each digit; return which test digits are predicted correctly."""
    file = options.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    labels, epochs = cell
    key = f"{method}-{labels}-{epochs}-{seed}"
    if key not in results:
        began = time.monotonic()
        train, test = draw(labels, seed)
        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)
        data = options.out / f"{key}.npz"
        splits = {"train": train, "test": test}
        np.savez(
            data,
            **{f"{name}_images": images[own] for name, own in splits.items()},
            **{f"{name}_labels": digits.target[own] for name, own in splits.items()},
        )
        search = autotl.search(
            data, out=options.out / "runs", backbone=f"{method}:{options.backbone}",
            weights=weights, freeze="full", head="linear", optimizer="adamw", augment="flip_crop",
            space={"augment": {"flip_crop": {"flip": False}}}, trials=1,
            epochs=epochs, image_size=options.size, seed=seed, device="cpu", history=False,
        )  # fmt: skip
        model = autotl.load(search.folder / "model")
        predicted = model.predict_items(list(images[test])).argmax(1)
        correct = predicted == digits.target[test].astype(int)
        results[key] = {
            "test": test.tolist(),
            "correct": correct.astype(int).tolist(),
            "seconds": time.monotonic() - began,
        }
        file.write_text(json.dumps(results))
        print(f"{key}: {correct.mean():.4f} in {results[key]['seconds']:.0f} s", flush=True)
    result: dict[str, Any] = results[key]
    return result


def draw(labels: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the training digits, as many of each class, and the test digits.

    A third of each class, at least, is for the test.
    """
    target = load_digits().target
    train = []
    for digit in range(10):
        own = np.random.default_rng((seed, digit)).permutation(np.flatnonzero(target == digit))
        train.append(own[: min(labels, 2 * len(own) // 3)])
    chosen = np.sort(np.concatenate(train))
    return chosen, np.setdiff1d(np.arange(len(target)), chosen)


def describe(cell: tuple[int, int], results: Sequence[dict[str, dict[str, Any]]]) -> str:
    """A row of the table: the mean, lowest and highest accuracies, and the gain."""
    scores = np.array([[np.mean(r[method]["correct"]) for r in results] for method in METHODS])
    gain = compare_methods(results, scores).standings[1].difference
    cells = [f"{mean:.4f} ({low:.4f} to {high:.4f})" for mean, low, high in zip(
        scores.mean(1), scores.min(1), scores.max(1), strict=True,
    )]  # fmt: skip
    verdict = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not told apart"
    labels, epochs = cell
    used = len(draw(labels, 0)[0]) // 10
    interval = f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    return f"| {used} | {epochs} | {cells[0]} | {cells[1]} | {interval} | {verdict} |"


def compare_methods(
    results: Sequence[dict[str, dict[str, Any]]], scores: NDArray[np.float64]
) -> Comparison:
    """Compare both methods digit by digit, with seeds as repeats."""
    contributions = np.array(
        [np.concatenate([r[method]["correct"] for r in results]) for method in METHODS], np.float64
    )
    tests = [r[METHODS[0]]["test"] for r in results]
    runs = np.repeat(np.arange(len(tests)), [len(test) for test in tests])
    return compare(Results(scores, contributions, runs, np.concatenate(tests)), reference=0)


if __name__ == "__main__":
    main()
