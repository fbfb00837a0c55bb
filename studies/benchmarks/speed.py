"""How much faster a list of trainings is than a user's own loop, measured side by side.

Run by hand, on a machine that has nothing else to do:

    python studies/benchmarks/speed.py path/to/photos

The same fixed list of 20 configurations, over all freeze strategies, is trained three times:

- *naive*: Optuna, timm and a DataLoader, as in their tutorials. Float32; every picture is decoded
  in every epoch, and all of the backbone runs whatever is frozen;
- *tuned*: the same with decoded pictures in memory, channels last and bfloat16;
- *ours*: ``finetune`` as a search uses it, with an empty cache to begin with.

What learns, at which rates, is said by the same plugins in all three. Sizes, batches, epochs,
augmentation and split are the same, so the accuracies should be too; they are shown side by side.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from autotl import data, models, training
from autotl.frozen import FeatureCache
from autotl.space import registry
from autotl.space.space import Choice, Config
from autotl.training.inputs import Inputs

PLUGINS = registry.load()
STRATEGIES = (
    "linear_probe", "last_blocks", "lp_ft", "layer_decay", "full", "gradual", "surgical", "norms",
    "biases", "norms_and_biases", "scale_shift", "lora", "l2_sp", "bss",
)  # fmt: skip
OTHERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("linear_probe", {"lr": 1e-3}),
    ("linear_probe", {"lr": 1e-2}),
    ("linear_probe", {"lr": 3e-2}),
    ("last_blocks", {"fraction": 0.2, "lr": 1e-3}),
    ("last_blocks", {"fraction": 0.5, "lr": 1e-3}),
    ("lp_ft", {"probe_fraction": 0.6, "lr": 3e-4}),
)
"""After each strategy with its defaults, as a search goes on with what is cheap."""

SMOOTHING, DECAY, WARMUP = 0.1, 0.02, 0.1


@dataclass(frozen=True)
class Run:
    """One training: how long it took, in seconds, and its accuracy on the validation part."""

    seconds: float
    accuracy: float


@dataclass
class Bench:
    """What all trainings have in common."""

    dataset: data.Dataset
    backbone: str
    size: int
    batch: int
    epochs: int
    train: np.ndarray
    valid: np.ndarray
    seed: int = 0

    def config(self, freeze: str, values: dict[str, Any]) -> Config:
        """A configuration of the list."""
        plain = {"head": "linear", "augment": "flip_crop", "optimizer": "adamw"}
        names = {"backbone": self.backbone, "freeze": freeze, **plain}
        chosen = {kind: PLUGINS.get(kind, name) for kind, name in names.items()}
        values = {"freeze": values, "optimizer": {"weight_decay": DECAY, "warmup": WARMUP}}
        return {k: Choice(p, {**p.defaults, **values.get(k, {})}) for k, p in chosen.items()}

    def build_model(self, config: Config, where: models.Device) -> models.Model:
        """The network of a configuration."""
        return models.build(config, len(self.dataset.classes), self.size, where, self.seed)

    def accuracy(self, probabilities: np.ndarray) -> float:
        """Of the validation part."""
        return float((probabilities.argmax(1) == self.dataset.labels[self.valid]).mean())


# A user's own loop.


class Photos(Dataset):
    """Pictures of some places in the data set, read from their files each time."""

    def __init__(self, bench: Bench, indices: np.ndarray, change: Callable[[Any], Any]) -> None:
        self.bench, self.indices, self.change = bench, indices, change

    def __len__(self) -> int:
        return len(self.indices)

    def picture(self, place: int) -> Any:
        """What is changed: an open picture."""
        return Image.open(self.bench.dataset.examples[self.indices[place]].image).convert("RGB")

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        image = self.change(self.picture(place))
        return image, int(self.bench.dataset.labels[self.indices[place]])


class Decoded(Photos):
    """The same pictures, decoded and resized once, then kept in memory."""

    def __init__(self, bench: Bench, indices: np.ndarray, change: Callable[[Any], Any]) -> None:
        super().__init__(bench, indices, change)
        resize = v2.Compose([v2.Resize((bench.size, bench.size)), v2.PILToTensor()])
        self.cache = [resize(super(Decoded, self).picture(i)) for i in range(len(indices))]

    def picture(self, place: int) -> Tensor:
        """A picture from memory."""
        return self.cache[place]


def loaders(bench: Bench, tuned: bool) -> tuple[DataLoader, DataLoader]:
    """Batches of the training pictures, augmented, and of those for validation."""
    end = [] if tuned else [v2.PILToTensor()]
    size = (bench.size, bench.size)
    augment = [v2.RandomResizedCrop(size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip()]
    kind = Decoded if tuned else Photos
    train = kind(bench, bench.train, v2.Compose([*augment, *end]))
    valid = kind(bench, bench.valid, v2.Compose([v2.Resize(size), *end]))
    workers = 0 if tuned else torch.get_num_threads()
    options: dict[str, Any] = {"batch_size": bench.batch, "num_workers": workers}
    return DataLoader(train, shuffle=True, drop_last=True, **options), DataLoader(valid, **options)


def own_loop(bench: Bench, configs: list[Config], tuned: bool) -> list[Run]:
    """Train them all as a user would, in an Optuna study."""
    train, valid = loaders(bench, tuned)
    runs: list[Run] = []

    def objective(trial: optuna.Trial) -> float:
        config = configs[trial.suggest_int("config", 0, len(configs) - 1)]
        began = time.monotonic()
        accuracy = trained_by_hand(bench, config, train, valid, tuned)
        runs.append(Run(time.monotonic() - began, accuracy))
        print(f"  {'tuned' if tuned else 'naive'} {named(config)}: {runs[-1]}", flush=True)
        return accuracy

    study = optuna.create_study(direction="maximize")
    for i in range(len(configs)):
        study.enqueue_trial({"config": i})
    study.optimize(objective, n_trials=len(configs))
    return runs


def trained_by_hand(
    bench: Bench, config: Config, train: DataLoader, valid: DataLoader, tuned: bool
) -> float:
    """A plain training of one configuration; its accuracy."""
    torch.manual_seed(bench.seed)
    network = bench.build(config, models.Device(torch.device("cpu"), None))
    layout = torch.channels_last if tuned else torch.contiguous_format
    for p in network.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=layout)
    steps, step, optimizer, before = bench.epochs * len(train), 0, None, None

    def logits_of(images: Tensor) -> tuple[Tensor, Tensor]:
        scaled = ((images - network.mean) / network.std).contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            features = network.extract_features(scaled)
            return features.float(), network.head(features).float()

    for groups in models.plan(network, config["freeze"], bench.epochs):
        learning = {p for group in groups for p in group["params"]}
        if before != (before := [(group["lr"], len(group["params"])) for group in groups]):
            for p in network.parameters():
                p.requires_grad = p in learning
            optimizer = torch.optim.AdamW([dict(group) for group in groups], weight_decay=DECAY)
        network.train()
        for images, labels in train:
            rate = (1 + math.cos(math.pi * step / steps)) / 2
            rate = min(rate, step / max(1.0, WARMUP * steps))
            for chosen, group in zip(optimizer.param_groups, groups, strict=True):
                chosen["lr"] = rate * group["lr"]
            features, logits = logits_of(images)
            loss = nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
            for penalty in network.penalties:
                loss = loss + penalty(features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
        network.eval()
        with torch.no_grad():
            found = torch.cat([logits_of(images)[1] for images, _ in valid])
    return bench.accuracy(found.numpy())


# Ours.


def ours(bench: Bench, configs: list[Config], folder: Path) -> list[Run]:
    """Train them all as a search with a budget does, from an empty cache."""
    where = models.select_device("cpu")
    kept, micro, measured_costs = FeatureCache(folder=folder), dict[str, int](), dict[str, Any]()
    runs = []
    for config in configs:
        began = time.monotonic()
        network = bench.build(config, where)
        packed = data.pack(bench.dataset, bench.size, network.input_spec.interpolation, folder)
        labels = bench.dataset.labels
        train, valid = (
            data.Batches(packed, labels, some, bench.batch, where.torch_device, shuffle_seed=seed)
            for some, seed in ((bench.train, bench.seed), (bench.valid, None))
        )
        task = training.Task(
            train,
            valid,
            bench.epochs,
            bench.accuracy,
            where,
            bench.seed,
            cache=kept,
            data_id=bench.dataset.fingerprint,
            label_smoothing=SMOOTHING,
            micro_batch_sizes=micro,
            measured_costs=measured,
        )
        task.compute = training.measure_cost(network, config, task).compute
        *_, last = training.fine_tune(network, config, task)
        runs.append(Run(time.monotonic() - began, last.score))
        print(f"  ours {named(config)}: {runs[-1]}", flush=True)
    print(f"  ours: {kept.usage().bytes / 2**20:.0f} MiB in the cache", flush=True)
    return runs


def share_inside(bench: Bench, folder: Path) -> float:
    """The share of a full fine-tuning's wall time inside forward, backward and step."""
    inside = 0.0

    def timed(owner: Any, name: str) -> Callable[[], None]:
        work = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            began = time.monotonic()
            try:
                return work(*args, **kwargs)
            finally:
                inside += time.monotonic() - began

        setattr(owner, name, call)
        return lambda: setattr(owner, name, work)

    places = (Inputs, "backward"), (Inputs, "predict_validation"), (torch.optim.AdamW, "step")
    undo = [timed(*place) for place in places]
    try:
        [run] = ours(bench, [bench.config("full", {})], folder)
    finally:
        for each in undo:
            each()
    return inside / run.seconds


# What is shown.


def named(config: Config) -> str:
    """A configuration in short."""
    values = " ".join(f"{k}={v:g}" for k, v in config["freeze"].params.items())
    return f"{config['freeze'].name} {values}"


def chosen(bench: Bench, quick: bool) -> Iterator[Config]:
    """The list: each strategy with its defaults, then some again."""
    for name in STRATEGIES if not quick else ("linear_probe", "last_blocks", "full"):
        yield bench.config(name, {})
    for name, values in OTHERS if not quick else OTHERS[:2]:
        yield bench.config(name, values)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="a folder of labelled pictures")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pictures", type=int, help="of the training part; all unless given")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--quick", action="store_true", help="a list of 5 instead of 20")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dataset = data.check(PLUGINS.dataset(given.data).call({"source": given.data}, {}), given.data)
    random = np.random.default_rng(0)
    train, valid = (random.permutation(dataset.indices(p)) for p in ("train", "validation"))
    count = given.num_examples or len(train)
    common = (dataset, given.backbone, given.size, given.batch, given.epochs)
    runs: dict[str, list[list[Run]]] = {"naive": [], "tuned": [], "ours": []}
    for seed in range(given.seeds):
        bench = Bench(*common, np.sort(train[:count]), np.sort(valid[: max(1, count // 3)]), seed)
        configs = list(chosen(bench, given.quick))
        with tempfile.TemporaryDirectory() as folder:  # nothing is kept from seed to seed
            runs["ours"].append(ours(bench, configs, Path(folder)))
        runs["tuned"].append(own_loop(bench, configs, tuned=True))
        runs["naive"].append(own_loop(bench, configs, tuned=False))
    with tempfile.TemporaryDirectory() as folder:
        inside = share_inside(bench, Path(folder))
    show(configs, runs)
    print(f"full fine-tuning: {inside:.0%} of the wall time is inside forward, backward and step")


def show(configs: list[Config], runs: dict[str, list[list[Run]]]) -> None:
    """Print seconds and accuracies of each configuration, means over the seeds, and ratios."""
    seconds = {k: np.array([[r.seconds for r in seed] for seed in v]) for k, v in runs.items()}
    right = {k: np.array([[r.accuracy for r in seed] for seed in v]) for k, v in runs.items()}
    print(f"\n{'seconds (accuracy)':44s}" + "".join(f"{kind:>18s}" for kind in runs))
    for i, config in enumerate(configs):
        cells = (f"{seconds[k][:, i].mean():8.1f} ({right[k][:, i].mean():.3f})" for k in runs)
        print(f"{named(config):44s}" + "".join(f"{cell:>18s}" for cell in cells))
    frozen = [i for i, c in enumerate(configs) if c["freeze"].name == "linear_probe"]
    rest = [i for i in range(len(configs)) if i not in frozen]
    parts = {"the list": range(len(configs)), "frozen, after the first": frozen[1:], "rest": rest}
    for name, some in parts.items():
        took = {k: float(seconds[k][:, list(some)].sum(1).mean()) for k in runs}
        ratios = (f"{took[k] / took['ours']:.1f} x over {k}" for k in ("naive", "tuned"))
        print(f"{name}: {took['ours']:.1f} s, {', '.join(ratios)}")
    for kind in ("naive", "tuned"):
        gap = (right["ours"] - right[kind]).mean(1)
        spread = f" +- {statistics.stdev(gap):.4f} over the seeds" if len(gap) > 1 else ""
        print(f"accuracy, ours minus {kind}: {gap.mean():+.4f}{spread}")


if __name__ == "__main__":
    main()
