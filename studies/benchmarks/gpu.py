"""Speed on a GPU, compared with a plain training loop and with the bare network in the same run.

    python studies/benchmarks/gpu.py

It takes about six minutes on one fast GPU, and downloads nothing: it makes JPEGs of coloured
squares, and trains with random weights, except for EfficientNet-Lite0, whose weights are a package
(extra ``offline``). The *plain loop* is that of ``speed.py``, as a careful user would write it:
channels last, bfloat16, fused AdamW, and a DataLoader with a process for each core that decodes and
augments every image in every epoch. The *bare network* repeats forward, backward and optimizer step
on one batch that is on the GPU already. Nothing can train faster.

The tables are Markdown; ``--out`` gets all results as JSON. ``--device cpu --quick`` tests the
script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import speed
import timm
import torch
from PIL import Image
from torch import nn

from autotl import backbone, data, models, training
from autotl.frozen import FeatureCache
from autotl.space.space import Choice, Config
from autotl.training.predict import autocast

ARCHITECTURES = ("resnet50", "convnext_tiny", "vit_small_patch16_224", "tf_efficientnet_lite0")
PACKAGED = "tf_efficientnet_lite0"
CLASSES, JPEG_SIZE = 10, (320, 240)
Results = dict[str, Any]

FIRST_TRIAL = """
import sys, time
began = time.monotonic()
import autotl
from autotl.events import TrialFinished

def listen(event):
    if isinstance(event, TrialFinished):
        print(time.monotonic() - began, flush=True)
        raise KeyboardInterrupt

data, out, device, backbone = sys.argv[1:]
autotl.search(data, listen, out=out, device=device, backbone=[backbone], budget=300)
"""


def make_photos(folder: Path, count: int) -> None:
    """Write ``count`` noisy JPEGs with a square of the colour of their class."""
    colours = np.random.default_rng(0).integers(60, 200, (CLASSES, 3))

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        label, (width, height) = number % CLASSES, JPEG_SIZE
        pixels = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        pixels = pixels.repeat(8, 0).repeat(8, 1)
        y, x = random.integers(0, height // 2), random.integers(0, width // 2)
        pixels[y : y + height // 2, x : x + width // 2] = colours[label]
        file = folder / f"class{label}" / f"{number}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file, quality=90)

    folder.mkdir()
    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def make_config(bench: speed.Benchmark, name: str) -> Config:
    """Full fine-tuning of an architecture of timm with random weights."""

    @backbone(name=f"random_{name}")
    def build() -> nn.Module:
        return timm.create_model(name, num_classes=0)

    return {**bench.make_config("full", {}), "backbone": Choice(build, {})}


def wait(bench: speed.Benchmark) -> None:
    """Wait for the GPU."""
    if bench.device.torch_device.type == "cuda":
        torch.cuda.synchronize(bench.device.torch_device)


def reset_memory(bench: speed.Benchmark) -> None:
    """Begin to record the peak of the GPU's memory."""
    if bench.device.torch_device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device.torch_device)


def peak_gibibytes(bench: speed.Benchmark) -> float:
    """The peak since ``reset_memory``."""
    if bench.device.torch_device.type != "cuda":
        return 0.0
    return torch.cuda.max_memory_allocated(bench.device.torch_device) / 2**30


def repeat(bench: speed.Benchmark, function: Callable[[], object], seconds: float = 2.0) -> float:
    """The mean seconds of a function, called for at least ``seconds`` after three warm-up calls."""
    for _ in range(3):
        function()
    wait(bench)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for _ in range(5):
            function()
        wait(bench)
        count += 5
    return (time.monotonic() - began) / count


def measure_bare(bench: speed.Benchmark, config: Config) -> tuple[float, float]:
    """Images a second of the bare network in training and in inference."""
    network = bench.build(config, bench.device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
    device, size = bench.device.torch_device, bench.size
    images = torch.randint(0, 256, (bench.batch, size, size, 3), dtype=torch.uint8, device=device)
    images = images.permute(0, 3, 1, 2)
    labels = torch.arange(bench.batch, device=device) % CLASSES

    def step() -> None:
        with autocast(bench.device):
            logits = network(images)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode(), autocast(bench.device):
            network(images)

    network.train()
    trained = bench.batch / repeat(bench, step)
    network.eval()
    return trained, bench.batch / repeat(bench, infer)


def measure_plain(
    bench: speed.Benchmark, config: Config, loaders: tuple[Any, Any], epochs: int
) -> tuple[float, float]:
    """Images a second of the plain loop in training and in inference."""
    train, validation = loaders

    def epoch_seconds(count: int) -> float:
        began = time.monotonic()
        speed.train_by_hand(replace(bench, epochs=count), config, train, [], tuned=True)
        wait(bench)
        return time.monotonic() - began

    epoch_seconds(1)  # starts the processes of the loader
    images = len(train) * bench.batch
    trained = images * epochs / epoch_seconds(epochs)
    network = bench.build(config, bench.device).eval()

    def infer() -> float:
        began = time.monotonic()
        with torch.inference_mode(), autocast(bench.device):
            for batch, _ in validation:
                network(batch.to(bench.device.torch_device, non_blocking=True))
        wait(bench)
        return len(bench.validation) / (time.monotonic() - began)

    infer()
    return trained, infer()


def make_job(bench: speed.Benchmark, folder: Path, network: models.Model) -> training.Job:
    """The job of a benchmark, as a search makes it."""
    packed = data.pack(bench.dataset, bench.size, network.expects.interpolation, folder)
    train, validation = (
        data.Batches(
            packed, bench.dataset.targets, indices, bench.batch, bench.device.torch_device,
            shuffle_seed=seed,
        )
        for indices, seed in ((bench.train, bench.seed), (bench.validation, None))
    )  # fmt: skip
    return training.Job(
        train, validation, bench.epochs, bench.accuracy, bench.device, bench.seed,
        cache=FeatureCache(folder=folder), data_id=bench.dataset.fingerprint,
        label_smoothing=speed.SMOOTHING,
    )  # fmt: skip


def measure_ours(
    bench: speed.Benchmark, config: Config, folder: Path, epochs: int
) -> tuple[float, float]:
    """Images a second of ``fine_tune`` and of ``predict``."""
    network = bench.build(config, bench.device)
    job = make_job(replace(bench, epochs=epochs + 1), folder, network)
    batches = job.validation
    assert batches is not None
    job.validation = None
    seconds = [epoch.seconds for epoch in training.fine_tune(network, config, job)]
    trained = len(bench.train) / statistics.mean(seconds[1:])
    training.predict(network, batches, bench.device)
    began = time.monotonic()
    training.predict(network, batches, bench.device)
    return trained, len(bench.validation) / (time.monotonic() - began)


@contextmanager
def record_utilization(percents: list[int]) -> Iterator[None]:
    """Append the utilization of the first visible GPU, in percent, every tenth of a second."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen(
            [*query, "-lms", "100", "-i", "0"], stdout=subprocess.PIPE, text=True
        )
    except OSError:
        yield
        return
    try:
        yield
    finally:
        process.terminate()
        lines = (process.communicate()[0] or "").split()
        percents += [int(line) for line in lines if line.isdigit()]


def measure_utilization(bench: speed.Benchmark, folder: Path, epochs: int) -> float | None:
    """Mean utilization of the GPU while ResNet-50 is fine-tuned; None without nvidia-smi."""
    config = make_config(bench, "resnet50")
    network = bench.build(config, bench.device)
    job = make_job(replace(bench, epochs=epochs), folder, network)
    percents: list[int] = []
    run = training.fine_tune(network, config, job)
    next(run)  # without what happens once
    with record_utilization(percents):
        for _ in run:
            pass
    middle = percents[2:-2]
    return statistics.mean(middle) if middle else None


def measure_first_trial(bench: speed.Benchmark, photos: Path, folder: Path) -> float:
    """Seconds from the start of Python to the result of the first trial of a search."""
    words = [sys.executable, "-c", FIRST_TRIAL, photos, folder, bench.device.torch_device, PACKAGED]
    output = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if not output.stdout:
        raise SystemExit(f"the search failed: {output.stderr}")
    return float(output.stdout.splitlines()[0])


def measure_architectures(
    bench: speed.Benchmark, folder: Path, names: tuple[str, ...], epochs: int
) -> Results:
    """Images a second of each architecture, and peak memory of the first."""
    loaders = speed.make_loaders(bench, decoded=False)
    results: Results = {}
    for name in names:
        config = make_config(bench, name)
        bare = measure_bare(bench, config)
        reset_memory(bench)
        plain = measure_plain(bench, config, loaders, epochs)
        peaks = [peak_gibibytes(bench)]
        reset_memory(bench)
        ours = measure_ours(bench, config, folder, epochs)
        peaks.append(peak_gibibytes(bench))
        results[name] = {
            "bare": bare, "plain": plain, "autotl": ours,
            "peak_gib": {"plain": peaks[0], "autotl": peaks[1]},
        }  # fmt: skip
        print(f"  {name}: {results[name]}", flush=True)
    return results


def measure_list(bench: speed.Benchmark, quick: bool) -> Results:
    """Seconds of each configuration of ``speed.py`` in the plain loop and in AutoTL."""
    bench = replace(bench, backbone=PACKAGED)
    configs = list(speed.make_configs(bench, quick))
    with tempfile.TemporaryDirectory() as folder:  # the cache begins empty
        ours = speed.train_with_autotl(bench, configs, Path(folder))
    plain = speed.train_with_own_loop(bench, configs, tuned=True, decoded=False)
    names = [speed.describe(config) for config in configs]
    runs = {"autotl": ours, "plain": plain}
    return {
        "configurations": names,
        "seconds": {kind: [run.seconds for run in each] for kind, each in runs.items()},
        "accuracy": {kind: [run.accuracy for run in each] for kind, each in runs.items()},
    }


def print_table(results: Results) -> None:
    """Print all results as Markdown."""
    print(f"\n{results['device']}, PyTorch {results['torch']}: {results['settings']}\n")
    print(
        "| architecture | | plain loop | AutoTL | bare network | AutoTL / plain | AutoTL / bare |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, result in results["architectures"].items():
        for i, what in enumerate(("training", "inference")):
            plain, ours, bare = (result[kind][i] for kind in ("plain", "autotl", "bare"))
            print(
                f"| {name} | {what}, images/s | {plain:,.0f} | {ours:,.0f} | {bare:,.0f} "
                f"| {ours / plain:.1f} | {ours / bare:.2f} |"
            )
        peaks = result["peak_gib"]
        print(f"| | peak memory, GiB | {peaks['plain']:.1f} | {peaks['autotl']:.1f} | | | |")
    seconds, names = results["list"]["seconds"], results["list"]["configurations"]
    frozen = [i for i, name in enumerate(names) if name.startswith("linear_probe")][1:]
    total = {kind: sum(each) for kind, each in seconds.items()}
    probes = {k: 60 * len(frozen) / sum(each[i] for i in frozen) for k, each in seconds.items()}
    accuracy = {k: statistics.mean(each) for k, each in results["list"]["accuracy"].items()}
    print("\n| | plain loop | AutoTL | ratio | goal |")
    print("|---|---|---|---|---|")
    print(
        f"| {len(names)} configurations, s | {total['plain']:.1f} | {total['autotl']:.1f} "
        f"| {total['plain'] / total['autotl']:.1f} | 8 |"
    )
    print(f"| their mean accuracy | {accuracy['plain']:.3f} | {accuracy['autotl']:.3f} | | |")
    print(
        f"| frozen trials a minute, after the first | {probes['plain']:.1f} "
        f"| {probes['autotl']:.1f} | {probes['autotl'] / probes['plain']:.0f} | 50 |"
    )
    if results["utilization"] is not None:
        print(f"| GPU busy in fine-tuning, % | | {results['utilization']:.0f} | | 90 |")
    print(f"| start to the first trial, s | | {results['first_trial']:.1f} | | |")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="JSON file for all results.")
    parser.add_argument("--quick", action="store_true", help="Small images and few of them.")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = models.select_device(options.device)
    quick = options.quick
    count, size, batch, epochs = (160, 64, 16, 1) if quick else (2560, 224, 64, 3)
    names = ("resnet50", PACKAGED) if quick else ARCHITECTURES
    with tempfile.TemporaryDirectory() as name:
        photos, cache = Path(name, "photos"), Path(name, "cache")
        make_photos(photos, count)
        cache.mkdir()
        source = data.read_source(str(photos), speed.PLUGINS)
        dataset = data.check(source.examples, str(photos))
        indices = [dataset.indices(split) for split in ("train", "validation")]
        bench = speed.Benchmark(dataset, PACKAGED, size, batch, epochs, *indices, device=device)
        results: Results = {
            "device": str(device),
            "torch": torch.__version__,
            "settings": f"{len(indices[0])} training images of {size} px, batches of {batch}",
            "first_trial": measure_first_trial(bench, photos, Path(name, "runs")),
            "architectures": measure_architectures(bench, cache, names, epochs),
            "utilization": measure_utilization(bench, cache, 2 if quick else 10),
            "list": measure_list(bench, quick),
        }
    print_table(results)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
