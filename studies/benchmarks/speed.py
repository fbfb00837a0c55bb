"""The time of a list of trainings, compared with a user's own training loop.

To be run by hand, on an otherwise idle machine:

    python studies/benchmarks/speed.py path/to/photos

The same fixed list of 20 configurations, over all freeze strategies, is trained three times:

- *naive*: Optuna, timm and a DataLoader, as in their tutorials. Float32; every image is decoded
  in every epoch, and the whole backbone runs whatever is frozen;
- *tuned*: the same with decoded images in memory, channels last and the 16-bit type that the
  device is fastest in, if there is one;
- *autotl*: ``fine_tune`` as a search uses it, with a cache that begins empty.

The same plugins decide in all three which parameters are trained at which rates. Sizes, batches,
epochs, augmentation and split are the same, so the accuracies should be too; they are printed.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
from autotl.tasks import numbered_classes
from autotl.training.inputs import Inputs
from autotl.training.loss import TrainingLoss
from autotl.training.predict import autocast

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
"""Trained besides each strategy with its defaults: a search tries cheap strategies more often."""

SMOOTHING, DECAY, WARMUP = 0.1, 0.02, 0.1


@dataclass(frozen=True)
class Run:
    """One training: its wall time in seconds and its accuracy on the validation split."""

    seconds: float
    accuracy: float


@dataclass
class Benchmark:
    """What all trainings have in common.

    ``workers`` is the number of processes that decode images in a user's own loop.
    """

    dataset: data.Dataset
    backbone: str
    size: int
    batch: int
    epochs: int
    train: np.ndarray
    validation: np.ndarray
    seed: int = 0
    device: models.Device = field(default_factory=lambda: models.select_device("cpu"))
    workers: int = 0

    def make_config(self, freeze: str, values: dict[str, Any]) -> Config:
        """Make a configuration of the list."""
        others = {"head": "linear", "augment": "flip_crop", "optimizer": "adamw"}
        names = {"backbone": self.backbone, "freeze": freeze, **others}
        chosen = {kind: PLUGINS.get(kind, name) for kind, name in names.items()}
        values = {"freeze": values, "optimizer": {"weight_decay": DECAY, "warmup": WARMUP}}
        return {k: Choice(p, {**p.defaults, **values.get(k, {})}) for k, p in chosen.items()}

    def build(self, config: Config, device: models.Device) -> models.Model:
        """Build the model of a configuration."""
        classes = len(self.dataset.outputs)
        return models.build_model(config, numbered_classes(classes), self.size, device, self.seed)

    def accuracy(self, probabilities: np.ndarray) -> float:
        """The accuracy on the validation split."""
        return float((probabilities.argmax(1) == self.dataset.targets[self.validation]).mean())


# A user's own loop.


class Photos(Dataset):
    """Some images of the data set, read from their files each time."""

    def __init__(
        self, bench: Benchmark, indices: np.ndarray, transform: Callable[[Any], Any]
    ) -> None:
        self.bench, self.indices, self.transform = bench, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, position: int) -> Any:
        """Load an image before it is transformed."""
        example = self.bench.dataset.examples[self.indices[position]]
        return Image.open(example.item).convert("RGB")

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        image = self.transform(self.load(position))
        return image, int(self.bench.dataset.targets[self.indices[position]])


class Decoded(Photos):
    """The same images, decoded and resized once, and held in memory."""

    def __init__(
        self, bench: Benchmark, indices: np.ndarray, transform: Callable[[Any], Any]
    ) -> None:
        super().__init__(bench, indices, transform)
        resize = v2.Compose([v2.Resize((bench.size, bench.size)), v2.PILToTensor()])
        self.images = [resize(super(Decoded, self).load(i)) for i in range(len(indices))]

    def load(self, position: int) -> Tensor:
        """An image from memory."""
        return self.images[position]


def make_loaders(bench: Benchmark, decoded: bool) -> tuple[DataLoader, DataLoader]:
    """Make loaders of the training images, augmented, and of the validation images.

    Args:
        bench: The benchmark.
        decoded: Decode the images once, and augment them in this process; otherwise
            ``bench.workers`` processes decode and augment them in every epoch.
    """
    end = [] if decoded else [v2.PILToTensor()]
    size = (bench.size, bench.size)
    augment = [v2.RandomResizedCrop(size, scale=(0.5, 1.0)), v2.RandomHorizontalFlip()]
    kind = Decoded if decoded else Photos
    train = kind(bench, bench.train, v2.Compose([*augment, *end]))
    validation = kind(bench, bench.validation, v2.Compose([v2.Resize(size), *end]))
    workers = 0 if decoded else bench.workers
    options: dict[str, Any] = {"batch_size": bench.batch, "num_workers": workers}
    options |= {"pin_memory": bench.device.torch_device.type == "cuda"}
    if workers:
        options |= {"persistent_workers": True, "prefetch_factor": 4}
    train_loader = DataLoader(train, shuffle=True, drop_last=True, **options)
    return train_loader, DataLoader(validation, **options)


def train_with_own_loop(
    bench: Benchmark, configs: list[Config], tuned: bool, decoded: bool | None = None
) -> Iterator[Run]:
    """Train one configuration after the other as a user would, in an Optuna study.

    Args:
        bench: The benchmark.
        configs: The configurations.
        tuned: See ``train_by_hand``.
        decoded: See ``make_loaders``; None for the value of ``tuned``.
    """
    train, validation = make_loaders(bench, tuned if decoded is None else decoded)
    study = optuna.create_study(direction="maximize")
    for number in range(len(configs)):
        study.enqueue_trial({"config": number})
    for _ in configs:
        trial = study.ask()
        config = configs[trial.suggest_int("config", 0, len(configs) - 1)]
        start = time.monotonic()
        accuracy = train_by_hand(bench, config, train, validation, tuned)
        run = Run(time.monotonic() - start, accuracy)
        study.tell(trial, accuracy)
        print(f"  {'tuned' if tuned else 'naive'} {describe(config)}: {run}", flush=True)
        yield run


def train_by_hand(
    bench: Benchmark,
    config: Config,
    train: DataLoader,
    validation: Iterable[tuple[Tensor, Tensor]],
    tuned: bool,
    compiled: bool = False,
    on_epoch: Callable[[], object] = lambda: None,
) -> float:
    """Train one configuration in a simple loop; return its accuracy, NaN without validation.

    Args:
        bench: The benchmark.
        config: The configuration.
        train: Batches of the training images.
        validation: Batches of the validation images; empty for none.
        tuned: Train in channels last and in the device's 16-bit type, whose gradients are scaled if
            it is float16, with one kernel for the optimizer and cuDNN's fastest algorithms.
        compiled: Compile the backbone for training.
        on_epoch: Called after each epoch.
    """
    torch.manual_seed(bench.seed)
    device = bench.device if tuned else replace(bench.device, autocast=None)
    network = bench.build(config, replace(device, autocast=None))
    compute = make_forward(network, device, tuned, compiled)
    scaler = torch.amp.GradScaler(
        device.torch_device.type, enabled=device.autocast is torch.float16
    )
    steps, step, optimizer, before = bench.epochs * len(train), 0, None, None
    with user_kernels(device, tuned):
        for groups in models.plan_groups(network, config["freeze"], bench.epochs):
            trainable = {p for group in groups for p in group["params"]}
            if before != (before := [(group["lr"], len(group["params"])) for group in groups]):
                for p in network.parameters():
                    p.requires_grad = p in trainable
                copies = [dict(group) for group in groups]
                optimizer = torch.optim.AdamW(copies, weight_decay=DECAY, fused=tuned or None)
            network.train()
            for images, labels in train:
                rate = (1 + math.cos(math.pi * step / steps)) / 2
                rate = min(rate, step / max(1.0, WARMUP * steps))
                for chosen, group in zip(optimizer.param_groups, groups, strict=True):
                    chosen["lr"] = rate * group["lr"]
                features, logits = compute(images)
                labels = labels.to(device.torch_device, non_blocking=True)
                loss = nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
                for penalty in network.penalties:
                    loss = loss + penalty(features)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                step += 1
            network.eval()
            with torch.no_grad():
                parts = [compute(images)[1] for images, _ in validation]
            on_epoch()
    return bench.accuracy(torch.cat(parts).float().cpu().numpy()) if parts else math.nan


def make_forward(
    network: models.Model, device: models.Device, tuned: bool, compiled: bool = False
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return what computes features and logits, in float32, of a batch of a loader.

    Args:
        network: Its weights get the memory format.
        device: The device and the type to compute in.
        tuned: Compute in channels last.
        compiled: Compile the backbone, for training alone: the last batch of the validation split
            is smaller, and would be compiled once more.
    """
    memory_format = torch.channels_last if tuned else torch.contiguous_format
    for p in network.parameters():
        if p.ndim == 4:
            p.data = p.data.contiguous(memory_format=memory_format)
    in_training = network.extract_features
    if compiled:
        torch._dynamo.reset()
        in_training = torch.compile(network.extract_features, dynamic=False)

    def compute(images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(device.torch_device, non_blocking=True)
        prepared = network.preprocessing(images).contiguous(memory_format=memory_format)
        extract = in_training if network.training else network.extract_features
        with autocast(device):
            features = extract(prepared)
            return features.float(), network.head(features).float()

    return compute


@contextmanager
def user_kernels(device: models.Device, tuned: bool) -> Iterator[None]:
    """Let CUDA kernels be chosen as a careful user does, who needs no repeatable results."""
    if device.torch_device.type != "cuda" or not tuned:
        yield
        return
    with training.cuda_kernels(device, benchmark=True):  # which restores what is changed
        torch.backends.cudnn.deterministic = False
        yield


# AutoTL.


class Searcher:
    """Trains as a search with a budget does, with a cache that begins empty.

    Args:
        bench: The benchmark.
        folder: For the packed images and the cached features.
    """

    def __init__(self, bench: Benchmark, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.cache = FeatureCache(folder=folder)
        self._batches: dict[str, tuple[data.Batches, data.Batches]] = {}
        self._micro_batch_sizes, self._measured_costs = dict[str, int](), dict[str, Any]()

    def batches(self, network: models.Model) -> tuple[data.Batches, data.Batches]:
        """The training and the validation images for the input of a model."""
        bench, key = self.bench, network.expects.key
        if key not in self._batches:
            packed = data.pack(bench.dataset, network.expects, self.folder)
            self._batches[key] = tuple(
                data.Batches(
                    packed, bench.dataset.targets, indices, bench.batch, bench.device.torch_device,
                    shuffle_seed=bench.seed,
                )
                for indices in (bench.train, bench.validation)
            )  # fmt: skip
        return self._batches[key]

    def job(self, network: models.Model) -> training.Job:
        """The job of a trial."""
        bench = self.bench
        return training.Job(
            *self.batches(network),
            bench.epochs,
            bench.accuracy,
            bench.device,
            bench.seed,
            cache=self.cache,
            data_id=bench.dataset.fingerprint,
            label_smoothing=SMOOTHING,
            micro_batch_sizes=self._micro_batch_sizes,
            measured_costs=self._measured_costs,
        )

    def train(self, config: Config) -> Run:
        """Train a configuration, as a trial does."""
        start = time.monotonic()
        network = self.bench.build(config, self.bench.device)
        job = self.job(network)
        job.compute = training.measure_cost(network, config, job).compute
        *_, last = training.fine_tune(network, config, job)
        run = Run(time.monotonic() - start, last.score)
        print(f"  autotl {describe(config)}: {run}", flush=True)
        return run


def compute_fraction(bench: Benchmark, folder: Path) -> float:
    """The fraction of a full fine-tuning's wall time in forward, backward and optimizer steps."""
    inside = 0.0

    def add_timer(owner: Any, name: str) -> Callable[[], None]:
        function = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            start = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                inside += time.monotonic() - start

        setattr(owner, name, call)
        return lambda: setattr(owner, name, function)

    methods = (
        (TrainingLoss, "backward"),
        (Inputs, "predict_validation"),
        (torch.optim.AdamW, "step"),
    )
    undo = [add_timer(*method) for method in methods]
    try:
        run = Searcher(bench, folder).train(bench.make_config("full", {}))
    finally:
        for restore in undo:
            restore()
    return inside / run.seconds


# Results.


def describe(config: Config) -> str:
    """A short description of a configuration."""
    values = " ".join(f"{k}={v:g}" for k, v in config["freeze"].params.items())
    return f"{config['freeze'].name} {values}"


def make_configs(bench: Benchmark, quick: bool) -> Iterator[Config]:
    """Make the list: a linear probe, ``OTHERS``, then each other strategy with its defaults."""
    first, *names = STRATEGIES if not quick else ("linear_probe", "last_blocks", "full")
    yield bench.make_config(first, {})
    for name, values in OTHERS if not quick else OTHERS[:2]:
        yield bench.make_config(name, values)
    for name in names:
        yield bench.make_config(name, {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", help="Folder of labelled images.")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="Name of a backbone.")
    parser.add_argument("--size", type=int, default=128, help="Image size in pixels.")
    parser.add_argument("--batch", type=int, default=32, help="Batch size.")
    parser.add_argument("--epochs", type=int, default=5, help="Number of epochs.")
    parser.add_argument("--images", type=int, help="Number of training images; all by default.")
    parser.add_argument("--seeds", type=int, default=2, help="Number of seeds.")
    parser.add_argument("--workers", type=int, default=torch.get_num_threads(), help="Processes.")
    parser.add_argument(
        "--quick", action="store_true", help="Train 5 instead of 20 configurations."
    )
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    source = options.data
    dataset = data.check(data.read_source(source, PLUGINS).examples, source)
    random = np.random.default_rng(0)
    train, validation = (random.permutation(dataset.indices(p)) for p in ("train", "validation"))
    count = options.images or len(train)
    train, validation = np.sort(train[:count]), np.sort(validation[: max(1, count // 3)])
    common = (dataset, options.backbone, options.size, options.batch, options.epochs)
    runs: dict[str, list[list[Run]]] = {"naive": [], "tuned": [], "autotl": []}
    for seed in range(options.seeds):
        bench = Benchmark(*common, train, validation, seed, workers=options.workers)
        configs = list(make_configs(bench, options.quick))
        with tempfile.TemporaryDirectory() as folder:  # the cache begins empty for every seed
            searcher = Searcher(bench, Path(folder))
            runs["autotl"].append([searcher.train(config) for config in configs])
            size = searcher.cache.usage().bytes / 2**20
            print(f"  autotl: {size:.0f} MiB in the cache", flush=True)
        for kind in ("tuned", "naive"):
            own = train_with_own_loop(bench, configs, tuned=kind == "tuned")
            runs[kind].append(list(own))
    with tempfile.TemporaryDirectory() as folder:
        inside = compute_fraction(bench, Path(folder))
    print_results(configs, runs)
    print(f"full fine-tuning: {inside:.0%} of the wall time is inside forward, backward and step")


def print_results(configs: list[Config], runs: dict[str, list[list[Run]]]) -> None:
    """Print mean seconds and accuracies of each configuration over the seeds, and ratios."""
    seconds = {k: np.array([[r.seconds for r in seed] for seed in v]) for k, v in runs.items()}
    accuracy = {k: np.array([[r.accuracy for r in seed] for seed in v]) for k, v in runs.items()}
    print(f"\n{'seconds (accuracy)':44s}" + "".join(f"{kind:>18s}" for kind in runs))
    for i, config in enumerate(configs):
        cells = (f"{seconds[k][:, i].mean():8.1f} ({accuracy[k][:, i].mean():.3f})" for k in runs)
        print(f"{describe(config):44s}" + "".join(f"{cell:>18s}" for cell in cells))
    frozen = [i for i, c in enumerate(configs) if c["freeze"].name == "linear_probe"]
    rest = [i for i in range(len(configs)) if i not in frozen]
    groups = {"all": list(range(len(configs))), "frozen, after the first": frozen[1:], "rest": rest}
    for name, indices in groups.items():
        total = {k: float(seconds[k][:, indices].sum(1).mean()) for k in runs}
        ratios = (f"{total[k] / total['autotl']:.1f} x over {k}" for k in ("naive", "tuned"))
        print(f"{name}: {total['autotl']:.1f} s, {', '.join(ratios)}")
    for kind in ("naive", "tuned"):
        gap = (accuracy["autotl"] - accuracy[kind]).mean(1)
        spread = f" +- {statistics.stdev(gap):.4f} over the seeds" if len(gap) > 1 else ""
        print(f"accuracy, autotl minus {kind}: {gap.mean():+.4f}{spread}")


if __name__ == "__main__":
    main()
