"""Speed on a GPU, compared with a plain training loop and with the bare network in the same run.

    python studies/benchmarks/gpu.py

It takes less than six minutes on one fast GPU, and downloads nothing: it makes JPEGs of coloured
squares, and trains with random weights, except for EfficientNet-Lite0, whose weights are a package
(extra ``offline``). The *plain loop* is that of ``speed.py``, as a careful user would write it:
channels last, the device's 16-bit type, cuDNN's fastest algorithms, fused AdamW, and a DataLoader
with persistent processes and pinned memory that decodes and augments every image in every epoch.
The *bare network* repeats forward, backward and step on one batch that is on the GPU already.

How many images are used follows from the speed of the plain loop, so that all of it fits into
``--minutes``. Compiling, which takes longest, comes last, and only as long as there is time.

The table is Markdown, on the standard output; ``--out`` gets all results as JSON.
``--device cpu --quick`` tests the script.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_speed
import gpu_table
import numpy as np
import optuna
import speed
import torch
from PIL import Image

from autotl import data, models
from autotl.data.image import count_cores

PACKAGED = "tf_efficientnet_lite0"
CLASSES = 10
COMPILE_SECONDS = 60.0
"""Time for compiling the first architecture; what it took decides about the others."""

FULL_TRIALS = 12
"""About so many configurations of the list take as long as a full fine-tuning, or half of it."""

TRIAL_SECONDS = 2.0
"""What building and measuring take in a trial of either loop, at most."""

FIRST_TRIAL = """
import os, sys, time
began = time.monotonic()
import autotl
from autotl.events import TrialFinished

def listen(event):
    if isinstance(event, TrialFinished):
        if event.status != "complete":
            sys.exit(f"the first trial is {event.status}: {event.reason}")
        print(time.monotonic() - began, flush=True)
        os._exit(0)

data, out, device, backbone, size = sys.argv[1:]
autotl.search(
    data, listen, out=out, device=device, backbone=[backbone], image_size=int(size), budget=300
)
"""


@dataclass(frozen=True)
class Settings:
    """What is measured on how much data; ``seconds`` is the shortest time of one measurement."""

    architectures: tuple[str, ...] = (
        PACKAGED, "resnet50", "convnext_tiny", "vit_small_patch16_224",
    )  # fmt: skip
    photos: int = 8192
    photo_size: tuple[int, int] = (500, 375)  # about the mean of ImageNet's
    image_size: int = 224
    batch: int = 64
    epochs: int = 3
    seconds: float = 1.0
    workers: int = min(32, count_cores())


QUICK = Settings(("test_resnet",), 48, (64, 48), 32, 8, 1, 0.01, 0)


class Benchmark:
    """All measurements, one after the other.

    Args:
        settings: What is measured.
        device: The device.
        minutes: The time for all.
        folder: For temporary files.
        quick: Whether the script is tested.
    """

    def __init__(
        self, settings: Settings, device: models.Device, minutes: float, folder: Path, quick: bool
    ) -> None:
        self.settings, self.folder, self.quick = settings, folder, quick
        self.began = time.monotonic()
        self.end = self.began + 60 * minutes
        photos = folder / "photos"
        make_photos(photos, settings)
        start = time.monotonic()
        source = data.read_source(str(photos), speed.PLUGINS)
        dataset = data.check(source.examples, str(photos), validation=0.2, test=0.0)
        check = time.monotonic() - start
        indices = [np.sort(dataset.indices(split)) for split in ("train", "validation")]
        self.bench = speed.Benchmark(
            dataset, PACKAGED, settings.image_size, settings.batch, settings.epochs, *indices,
            device=device, workers=settings.workers,
        )  # fmt: skip
        self.results: dict[str, Any] = {
            "device": str(device), "torch": torch.__version__, "cores": count_cores(),
            "settings": "", "check": check, "first_trial": None, "architectures": {}, "busy": {},
            "list": {"configurations": []}, "missing": {}, "stages": {},
        }  # fmt: skip
        self.small, self.failed = self.take_images(16 * settings.batch), False

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def attempt(self, name: str, measure: Callable[[], None]) -> None:
        """Measure something; a failure is printed and noted, and the rest is measured."""
        print(f"{name}: {self.left:.0f} s left", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            with redirect_stdout(sys.stderr):
                measure()
        except Exception as error:  # of any part; the script ends with an error
            traceback.print_exc()
            self.results["missing"][name] = f"{type(error).__name__}: {error}".splitlines()[0]
            self.failed = True
        self.results["stages"][name] = time.monotonic() - began
        self.results["seconds"] = time.monotonic() - self.began

    def run(self) -> None:
        """Measure everything."""
        self.attempt("time to the first trial", self.measure_first_trial)
        self.attempt("amount of data", self.choose_images)
        loaders = speed.make_loaders(self.small, decoded=False)
        for name in self.settings.architectures:
            self.attempt(name, lambda name=name: self.measure_architecture(name, *loaders))
        self.attempt("utilization", self.measure_busy)
        self.attempt("list of configurations", self.measure_list)
        for name in sorted(self.results["architectures"], key=PACKAGED.__eq__):  # that one last
            self.attempt(f"{name}, compiled", lambda name=name: self.measure_compiled(name))

    def measure_first_trial(self) -> None:
        """Seconds from the start of Python to the result of the first trial of a search."""
        device = str(self.bench.device.torch_device)
        words = [self.folder / "photos", self.folder / "runs", device, PACKAGED, self.bench.size]
        command = [sys.executable, "-c", FIRST_TRIAL, *map(str, words)]
        output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if not output.stdout:
            raise RuntimeError(f"the search failed: {output.stderr.strip()[-500:]}")
        self.results["first_trial"] = float(output.stdout.split()[0])

    def choose_images(self) -> None:
        """Choose how many images an architecture is measured with: an epoch of a second or so."""
        if not self.quick:
            train, _ = speed.make_loaders(self.small, decoded=False)
            config = self.small.make_config("full", {})
            rate, _ = gpu_speed.measure_plain(self.small, config, train)
            self.small = self.take_images(max(8 * self.bench.batch, round(rate)))

    def take_images(self, count: int) -> speed.Benchmark:
        """The benchmark with some of the images; batches have one size."""
        train, validation = self.bench.train, self.bench.validation
        count = min(count, len(train)) // self.bench.batch * self.bench.batch
        return replace(self.bench, train=train[:count], validation=validation[: -(-count // 4)])

    def measure_architecture(self, name: str, train: Any, validation: Any) -> None:
        """Images a second, memory and the fraction of time in steps, of one architecture."""
        config = gpu_speed.make_config(self.small, name)
        searcher = speed.Searcher(self.small, self.folder)
        ours, compute = gpu_speed.measure_ours(self.small, config, searcher)
        bare = gpu_speed.measure_bare(self.small, config, compute, self.settings.seconds)
        with gpu_speed.peak_memory(self.small) as peak:
            rate, once = gpu_speed.measure_plain(self.small, config, train)
        files = gpu_speed.measure_plain_inference(self.small, config, validation)
        plain = {
            "training": rate, "seconds_once": once, "compiled": None, "inference_files": files,
            "peak_gib": max(peak, default=None),
        }  # fmt: skip
        self.results["architectures"][name] = {"autotl": ours, "bare": bare, "plain": plain}

    def measure_busy(self) -> None:
        """The utilization of the GPU while an architecture is fine-tuned."""
        name = "resnet50" if not self.quick else self.settings.architectures[0]
        config = gpu_speed.make_config(self.small, name)
        searcher = speed.Searcher(self.small, self.folder)
        busy = gpu_speed.measure_busy(self.small, config, searcher)
        self.results["busy"] = {**busy, "architecture": name} if busy else {}

    def measure_list(self) -> None:
        """Seconds of each configuration of ``speed.py``, in AutoTL and in the plain loop.

        One follows the other, so that both have trained the same ones when the time is up.
        """
        bench = self.take_images(self.plan_list())
        configs = list(speed.make_configs(bench, self.quick))
        if self.quick:
            small = gpu_speed.make_config(bench, self.settings.architectures[0])
            configs = [{**config, "backbone": small["backbone"]} for config in configs]
        end = self.end - COMPILE_SECONDS / 2
        result: dict[str, Any] = {
            "configurations": [], "planned": len(configs), "images": len(bench.train),
            "seconds": {"autotl": [], "plain": []}, "accuracy": {"autotl": [], "plain": []},
            "frozen": {},
        }  # fmt: skip
        self.results["list"] = result
        with tempfile.TemporaryDirectory() as folder:
            searcher = speed.Searcher(bench, Path(folder))
            plain = speed.train_with_own_loop(bench, configs, tuned=True, decoded=False)
            for config in configs:
                if result["configurations"] and time.monotonic() > end and not self.quick:
                    break
                runs = {"autotl": searcher.train(config), "plain": next(plain)}
                result["configurations"].append(speed.describe(config))
                for kind, run in runs.items():
                    result["seconds"][kind].append(run.seconds)
                    result["accuracy"][kind].append(run.accuracy)
            result["frozen"] = self.repeat_frozen(searcher, configs[0])
        self.results["settings"] = self.describe(bench)

    def repeat_frozen(self, searcher: speed.Searcher, probe: Any) -> dict[str, Any]:
        """Train heads on the frozen backbone, whose features are cached, for a few seconds."""
        began, trials = time.monotonic(), 0
        while not trials or time.monotonic() - began < 3 * self.settings.seconds:
            rate = 1e-3 * 1.1 ** (trials % 30)
            choice = replace(probe["freeze"], params={**probe["freeze"].params, "lr": rate})
            searcher.train({**probe, "freeze": choice})
            trials += 1
        return {"trials": trials, "seconds": time.monotonic() - began}

    def plan_list(self) -> int:
        """The number of training images with which the list of configurations fits in the time."""
        if self.quick:
            return len(self.small.train)
        speeds = self.results["architectures"][PACKAGED]
        plain, ours = speeds["plain"]["training"], speeds["autotl"]["training"]
        # Validation images are a quarter of the training images.
        seconds = self.bench.epochs * (20 * 1.25 / plain + FULL_TRIALS * 1.1 / ours)
        usable = self.left - COMPILE_SECONDS - 20 * TRIAL_SECONDS - 5
        return max(8 * self.bench.batch, round(usable / seconds))

    def measure_compiled(self, name: str) -> None:
        """Images a second of the plain loop with a compiled backbone, if there is time."""
        took = [r["plain"]["seconds_compile"] for r in self.results["architectures"].values()
                if "seconds_compile" in r["plain"]]  # fmt: skip
        plain = self.results["architectures"][name]["plain"]
        epochs = gpu_speed.EPOCHS * len(self.small.train) / plain["training"]
        needed = (1.3 * max(took) if took else COMPILE_SECONDS) + epochs
        if self.left < needed or self.quick:
            why = f"it may take {needed:.0f} s, and {self.left:.0f} s are left"
            self.results["missing"][f"{name}, compiled"] = "left out" if self.quick else why
            return
        train, _ = speed.make_loaders(self.small, decoded=False)
        config = gpu_speed.make_config(self.small, name)
        began = time.monotonic()
        try:
            with limit_time(self.left):
                measured = gpu_speed.measure_plain(self.small, config, train, compiled=True)
        except Exception:  # the compiler turns the error into one of its own
            if self.left > 0:
                raise
            self.results["missing"][f"{name}, compiled"] = "the time was up"
            return
        plain["compiled"] = measured[0]
        plain["seconds_compile"] = time.monotonic() - began - epochs

    def describe(self, of_list: speed.Benchmark) -> str:
        """What was measured on which data."""
        width, height = self.settings.photo_size
        return (
            f"JPEGs of {width} x {height} pixels at {self.bench.size} px, batches of "
            f"{self.bench.batch}, {self.bench.workers} processes decode for the plain loop; "
            f"{len(self.small.train):,} training images for each architecture, "
            f"{len(of_list.train):,} in {self.bench.epochs} epochs for the list"
        )


@contextmanager
def limit_time(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` in the main thread when the time is up, where the system can."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError("the time was up")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def make_photos(folder: Path, settings: Settings) -> None:
    """Write noisy JPEGs with a square of the colour of their class."""
    colours = np.random.default_rng(0).integers(60, 200, (CLASSES, 3))
    width, height = settings.photo_size

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        label = number % CLASSES
        pixels = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        pixels = pixels.repeat(8, 0).repeat(8, 1)[:height, :width]
        y, x = random.integers(0, height // 2), random.integers(0, width // 2)
        pixels[y : y + height // 2, x : x + width // 2] = colours[label]
        Image.fromarray(pixels).save(folder / f"class{label}" / f"{number}.jpg", quality=90)

    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
    with ThreadPoolExecutor(count_cores()) as pool:
        list(pool.map(write, range(settings.photos)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto", help="As of autotl search.")
    parser.add_argument("--minutes", type=float, default=5.5, help="Time for all of it (5.5).")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="JSON file.")
    parser.add_argument("--quick", action="store_true", help="Test the script on tiny images.")
    options = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = models.select_device(options.device, options.precision)
    if device.torch_device.type == "cuda":
        torch.cuda.set_device(device.torch_device)  # also for memory that is pinned
    settings = QUICK if options.quick else Settings()
    with tempfile.TemporaryDirectory() as name:
        benchmark = Benchmark(settings, device, options.minutes, Path(name), options.quick)
        benchmark.run()
    results = benchmark.results
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1))
    print(gpu_table.make_document(results))
    return int(benchmark.failed)


if __name__ == "__main__":
    sys.exit(main())
