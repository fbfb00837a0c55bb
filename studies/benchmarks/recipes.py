"""Single recipes on one data set: accuracy on the test split against input size, strategy and time.

    python studies/benchmarks/recipes.py photos freeze=last_blocks,size=224,epochs=3 \
        freeze=linear_probe,head=logistic_regression,size=224,epochs=1,train=part

Each recipe is trained once on train + validation, or with ``train=part`` on train alone, and scored
on the test split after every epoch. Without values it is the default recipe on the smallest
packaged backbone; ``flip=false`` mirrors no images. The table is Markdown. CPU seconds include the
caching of features, which later recipes of the same size reuse.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from autotl import data, models, training
from autotl.data import Batches
from autotl.frozen import FeatureCache
from autotl.space import registry
from autotl.space.space import Choice
from autotl.tasks import numbered_classes
from autotl.training import Job

DEFAULTS = {
    "backbone": "tf_efficientnet_lite0",
    "freeze": "last_blocks",
    "head": "linear",
    "augment": "flip_crop",
    "optimizer": "adamw",
    "size": "224",
    "epochs": "6",
    "views": "4",
    "seed": "0",
    "train": "all",
}
KINDS = ("backbone", "freeze", "head", "augment", "optimizer")


def main() -> None:
    """Train the recipes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("recipes", nargs="+", metavar="KEY=VALUE,...")
    parser.add_argument("--cache", type=Path, default=Path("runs/recipes"))
    options = parser.parse_args()
    plugins = registry.load()
    examples = data.read_source(options.data, plugins).examples
    dataset = data.check(examples, options.data, seed=0)
    print("| recipe | test accuracy | accuracy by epoch | CPU seconds |\n" + "|---" * 4 + "|")
    for text in options.recipes:
        given = dict(pair.split("=") for pair in text.split(","))
        began = time.process_time()
        scores = train(dataset, plugins, {**DEFAULTS, **given}, options.cache)
        took = time.process_time() - began
        curve = " ".join(f"{score:.3f}" for score in scores)
        print(f"| {text} | {scores[-1]:.3f} | {curve} | {took:.0f} |", flush=True)


def train(
    dataset: data.Dataset, plugins: registry.Registry, recipe: dict[str, str], cache: Path
) -> list[float]:
    """Train a recipe; return its accuracy on the test split after each epoch."""
    config = {}
    for kind in KINDS:
        plugin = plugins.get(kind, recipe[kind])
        params = plugin.defaults
        if kind == "freeze" and "lr" in recipe:
            params["lr"] = float(recipe["lr"])
        if kind == "augment" and "flip" in recipe:
            params["flip"] = recipe["flip"] == "true"
        config[kind] = Choice(plugin, params)
    device = models.select_device("auto", "auto")
    seed, size = int(recipe["seed"]), int(recipe["size"])
    model = models.build_model(config, numbered_classes(len(dataset.outputs)), size, device, seed)
    packed = data.pack(dataset, model.expects, cache)
    splits = ("train",) if recipe["train"] == "part" else ("train", "validation")
    labels = dataset.targets[dataset.indices("test")]

    def batches(indices: data.Indices) -> Batches:
        torch_device = device.torch_device
        return Batches(packed, dataset.targets, indices, 32, torch_device, shuffle_seed=seed)

    job = Job(
        batches(dataset.indices(*splits)),
        batches(dataset.indices("test")),
        int(recipe["epochs"]),
        lambda probabilities: float((probabilities.argmax(1) == labels).mean()),
        device,
        seed=seed,
        cache=FeatureCache(None, cache),
        data_id=dataset.fingerprint,
        views=int(recipe["views"]),
        label_smoothing=0.1,
    )
    job.compute = training.measure_cost(model, config, job).compute
    return [epoch.score for epoch in training.fine_tune(model, config, job)]


if __name__ == "__main__":
    main()
