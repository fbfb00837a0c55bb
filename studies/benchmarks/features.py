"""Frozen features under one closed-form head: which of them are worth their cost.

    python studies/benchmarks/features.py photos/ sklearn:digits --size 160 --seeds 5

For each data source, the packaged backbones compute the features of each image and of its mirrored
image once. Two heads are fitted on four fifths of the training images, another four fifths for each
seed, and scored on the test split of the source, or else on a drawn one: logistic regression
as the head of that name, and ridge regression whose penalty is chosen by leave-one-out errors. The
tables are Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from autotl import data, models
from autotl.models import Device, Model, fast_inference
from autotl.space import registry
from autotl.space.registry import Registry
from autotl.space.space import Choice
from autotl.tasks import numbered_classes

BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
HEADS = ("logistic regression", "ridge regression")
PENALTIES = np.logspace(1, 6, 21)
Array = NDArray[np.float32]
Features = dict[tuple[str, str, str], Array]
"""Features ``[N, F]`` by backbone (``lite0``), kind (``pooled`` or ``stages``) and view."""


def main() -> None:
    """Compute the features, fit the heads and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path("runs/features"))
    options = parser.parse_args()
    plugins = registry.load()
    columns: dict[str, dict[tuple[str, str], list[float]]] = {}
    for source in options.data:
        examples = plugins.dataset(source).call({"source": source}, {})
        dataset = data.check(examples, source, seed=0)
        features = compute_features(dataset, plugins, options.size, options.cache)
        columns[Path(source).name] = score_all(dataset, features, options.seeds)
    for head in HEADS:
        print(f"\n{head}, {options.size} px\n")
        print_table(columns, head)


def compute_features(dataset: data.Dataset, plugins: Registry, size: int, cache: Path) -> Features:
    """Compute the features of all images, or read those of an earlier run."""
    file = cache / f"{dataset.fingerprint[:16]}-{size}.npz"
    if file.exists():
        stored = np.load(file)
        return {tuple(key.split(" ")): stored[key] for key in stored.files}  # type: ignore[misc]
    device = models.select_device("cpu", "float32")
    head = plugins.get("head", "stages")
    features: Features = {}
    for name in BACKBONES:
        config = {
            "backbone": Choice(plugins.get("backbone", name), {}),
            "head": Choice(head, head.defaults),
        }
        model = models.build_model(
            config, numbered_classes(len(dataset.outputs)), size, device
        ).eval()
        packed = data.pack(dataset, model.expects, cache)
        indices = np.arange(len(dataset.examples))
        batches = data.Batches(packed, dataset.targets, indices, 32, device.torch_device)
        short = name.rpartition("_")[2]
        for view, rows in compute_views(model, batches, device).items():
            features[short, "stages", view] = rows
            # The pooled features are the last ones of those of the stages.
            features[short, "pooled", view] = rows[:, -model.backbone.num_features :]  # type: ignore[index, operator]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{" ".join(key): rows for key, rows in features.items()})
    return features


@torch.inference_mode()
def compute_views(model: Model, batches: data.Batches, device: Device) -> dict[str, Array]:
    """The features of the images, and of the mirrored images."""
    views: dict[str, list[torch.Tensor]] = {"plain": [], "mirrored": []}
    first = next(iter(batches))[0]
    forward = fast_inference.compile_forward(model.features, model, first, device)
    for images, _ in batches:
        views["plain"].append(forward(images))
        views["mirrored"].append(forward(images.flip(3)))
    return {view: torch.cat(rows).numpy() for view, rows in views.items()}


def score_all(
    dataset: data.Dataset, features: Features, seeds: int
) -> dict[tuple[str, str], list[float]]:
    """Accuracies on the test split for each seed, by head and candidate."""
    pool, test = dataset.indices("train", "validation"), dataset.indices("test")
    labels, scores = dataset.targets[test], defaultdict(list)
    for seed in range(seeds):
        train = draw(dataset.targets, pool, seed)
        outputs: dict[str, tuple[Array, ...]] = {}
        for candidate, parts, fit_on, score_on in candidates():
            views = {
                view: np.concatenate([features[b, kind, view] for b, kind in parts], 1)
                for view in ("plain", "mirrored")
            }
            x = np.concatenate([views[view][train] for view in fit_on])
            y = np.concatenate([dataset.targets[train]] * len(fit_on))
            outputs[candidate] = fit(x, y, [views[view][test] for view in score_on])
        for ensemble, members in ensembles():
            outputs[ensemble] = tuple(
                sum(o) for o in zip(*(outputs[m] for m in members), strict=True)
            )
        for candidate, both in outputs.items():
            for head, output in zip(HEADS, both, strict=True):
                scores[head, candidate].append(float((output.argmax(1) == labels).mean()))
        print(f"seed {seed} of {dataset.source}", file=sys.stderr, flush=True)
    return scores


def draw(labels: NDArray[np.int64], pool: data.Indices, seed: int) -> data.Indices:
    """Draw four fifths of the images of each class."""
    random = np.random.default_rng(seed)
    parts = [random.permutation(pool[labels[pool] == label]) for label in np.unique(labels)]
    return np.sort(np.concatenate([part[: round(0.8 * len(part))] for part in parts]))


Parts = Sequence[tuple[str, str]]


def candidates() -> Iterator[tuple[str, Parts, Sequence[str], Sequence[str]]]:
    """Name, parts of the features, and the views to fit on and to score on."""
    names = [name.rpartition("_")[2] for name in BACKBONES]
    plain, both = ("plain",), ("plain", "mirrored")
    for name in names:
        parts = [(name, "pooled")]
        yield name, parts, plain, plain
        yield f"{name}, scored on mirrored images", parts, plain, ("mirrored",)
        yield f"{name}, mean of both views", parts, plain, both
        yield f"{name}, fitted on both views", parts, both, plain
        yield f"{name}, fitted on both, mean of both", parts, both, both
        yield f"{name}, stages", [(name, "stages")], plain, plain
    for count in (2, 3):
        for members in combinations(names, count):
            text = " + ".join(members)
            yield text, [(name, "pooled") for name in members], plain, plain
            yield f"{text}, stages", [(name, "stages") for name in members], plain, plain


def ensembles() -> Iterator[tuple[str, list[str]]]:
    """Name and members of ensembles of heads, each on one backbone."""
    names = [name.rpartition("_")[2] for name in BACKBONES]
    for count in (2, 3):
        for members in combinations(names, count):
            for kind in ("", ", stages"):
                text = f"ensemble of {', '.join(members)}{kind}"
                yield text, [f"{member}{kind}" for member in members]


def fit(x: Array, y: NDArray[np.int64], scored: Sequence[Array]) -> tuple[Array, Array]:
    """Fit both heads on ``x [N, F]``, and return their mean outputs for some views.

    Features are standardised, and rotated into the N dimensions that ``x`` spans. The heads are the
    same then, because their penalties do not depend on the axes. Outputs are probabilities of the
    logistic regression, and regressed labels of the ridge regression, ``[n, C]``.

    Args:
        x: Features of training images.
        y: Their labels ``[N]``; each class occurs.
        scored: Views of other images, each ``[n, F]``.
    """
    mean, std = x.mean(0), x.std(0)
    std[std < 1e-5] = 1.0
    x, *others = ((each - mean) / std for each in (x, *scored))
    values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
    used = values > 1e-6 * values[-1]
    values, vectors = values[used], vectors[:, used]
    axes = x.T @ (vectors / np.sqrt(values))
    x, *others = (each @ axes for each in (x, *others))
    logistic = LogisticRegression(C=0.03, max_iter=100, tol=1e-3).fit(x, y)
    weights, bias = ridge(values, vectors, np.eye(y.max() + 1)[y])
    outputs = (
        np.mean([logistic.predict_proba(view) for view in others], 0),
        np.mean([view @ weights + bias for view in others], 0),
    )
    return outputs


def ridge(
    values: NDArray[np.float64], vectors: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve a ridge regression with the penalty that has the smallest leave-one-out error.

    Args:
        values: Eigenvalues ``[R]`` of the Gram matrix of the features.
        vectors: Its eigenvectors ``[N, R]``; the features are these times the roots of ``values``.
        targets: One-hot labels ``[N, C]``.

    Returns:
        Weights ``[R, C]`` and biases ``[C]``.
    """
    bias = targets.mean(0)
    projected = vectors.T @ (targets - bias)
    errors = []
    for penalty in PENALTIES:
        shrunk = values / (values + penalty)
        leverage = vectors**2 @ shrunk + 1 / len(targets)
        residuals = targets - bias - vectors @ (shrunk[:, None] * projected)
        errors.append(float(np.square(residuals / (1 - leverage)[:, None]).mean()))
    penalty = PENALTIES[int(np.argmin(errors))]
    return np.sqrt(values)[:, None] * projected / (values + penalty)[:, None], bias


def print_table(columns: dict[str, dict[tuple[str, str], list[float]]], head: str) -> None:
    """Print the mean accuracy over the seeds for each candidate and data source."""
    print("| features | " + " | ".join(columns) + " | mean |")
    print("|---" * (len(columns) + 2) + "|")
    for name in [name for name, *_ in (*candidates(), *ensembles())]:
        means = [float(np.mean(scores[head, name])) for scores in columns.values()]
        cells = [f"{value:.3f}" for value in [*means, float(np.mean(means))]]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
