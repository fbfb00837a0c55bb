"""What ``gpu.py`` measures of one architecture: images a second, memory, how busy the GPU is.

The *bare network* repeats forward, backward and step on one batch that is on the device already.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import speed
import timm
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from autotl import backbone, models, training
from autotl.artifact.predictor import Predictor
from autotl.space.space import Choice, Config
from autotl.training.loop import Training
from autotl.training.predict import INFERENCE_FACTOR, autocast

EPOCHS = 3
"""Epochs of a training whose speed is measured; what happens once is in the first."""

PLANNED_EPOCHS = 20
"""Epochs of the training for which AutoTL chooses how to compute: what pays in a usual one."""

BUSY_SECONDS = 8.0
"""Duration of the training during which the utilization of the GPU is read."""

SAMPLE_SECONDS = 0.2
Results = dict[str, Any]


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


@contextmanager
def peak_memory(bench: speed.Benchmark) -> Iterator[list[float]]:
    """Append the peak of the memory of the GPU's tensors inside, in GiB; nothing on a CPU."""
    peaks: list[float] = []
    device = bench.device.torch_device
    if device.type != "cuda":
        yield peaks
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    yield peaks
    peaks.append(torch.cuda.max_memory_allocated(device) / 2**30)


def repeat(bench: speed.Benchmark, function: Callable[[], object], seconds: float) -> float:
    """The mean seconds of a function, called for at least ``seconds`` after five warm-up calls."""
    calls, began = 0, 0.0
    while not calls or time.monotonic() - began < seconds:
        for _ in range(5):
            function()
        wait(bench)
        # The first five are not counted.
        calls, began = (calls + 5, began) if began else (0, time.monotonic())
    return (time.monotonic() - began) / calls


# The bare network.


def measure_bare(
    bench: speed.Benchmark, config: Config, compute: training.ComputeSettings, seconds: float
) -> Results:
    """Images a second of the bare network in training and in inference.

    Precision, optimizer, clipping and cuDNN's settings are those of AutoTL, so that the loops are
    compared. ``any_kernels`` is the training with cuDNN's fastest algorithms, which may differ from
    run to run.
    """
    device = compute.apply_to(bench.device)
    ours = training.cuda_kernels(device, benchmark=compute.cudnn_benchmark)
    with ours:
        step = make_step(bench, config, device)
        trained = bench.batch / repeat(bench, step, seconds)
    with speed.user_kernels(device, tuned=True):
        free = bench.batch / repeat(bench, make_step(bench, config, device), seconds)
    network = bench.build(config, bench.device).eval()
    factor = compute.inference_factor or INFERENCE_FACTOR
    on_gpu = device.torch_device.type == "cuda"
    inferred = 0.0
    for count in (bench.batch, factor * bench.batch) if on_gpu else (bench.batch,):
        images, _ = make_batch(bench, count)

        def infer(images: torch.Tensor = images) -> None:
            with torch.inference_mode(), autocast(device):
                network(images)

        with training.cuda_kernels(device):
            inferred = max(inferred, count / repeat(bench, infer, seconds / 2))
    return {"training": trained, "any_kernels": free, "inference": inferred}


def make_batch(bench: speed.Benchmark, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images ``uint8 [B, 3, S, S]`` as AutoTL keeps them, and labels, on the device."""
    device, size = bench.device.torch_device, bench.size
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, device=device)
    labels = torch.arange(count, device=device) % len(bench.dataset.outputs)
    return images.permute(0, 3, 1, 2), labels


def make_step(
    bench: speed.Benchmark, config: Config, device: models.Device
) -> Callable[[], object]:
    """A training step of the bare network."""
    network = bench.build(config, bench.device)
    groups = [dict(group) for group in next(models.plan_groups(network, config["freeze"], 1))]
    training.set_trainable(network, groups)
    network.train()
    choice = config["optimizer"]
    optimizer, _ = choice.plugin.call({"groups": groups, "steps": 1000}, choice.params)
    in_float16 = device.autocast is torch.float16
    scaler = torch.amp.GradScaler(device.torch_device.type, enabled=in_float16)
    images, labels = make_batch(bench, bench.batch)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device):
            logits = network(images)
        loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=speed.SMOOTHING)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    return step


# The plain loop.


def measure_plain(
    bench: speed.Benchmark, config: Config, train: DataLoader, compiled: bool = False
) -> tuple[float, float]:
    """Images a second of the plain loop's epochs after the first, and the first one's more seconds.

    The latter are those of building the network, of cuDNN's choice and of compiling.
    """
    stamps = [time.monotonic()]

    def on_epoch() -> None:
        wait(bench)
        stamps.append(time.monotonic())

    longer = replace(bench, epochs=EPOCHS)
    speed.train_by_hand(longer, config, train, [], True, compiled, on_epoch)
    seconds = (stamps[-1] - stamps[1]) / (EPOCHS - 1)
    return len(train) * bench.batch / seconds, stamps[1] - stamps[0] - seconds


def measure_plain_inference(
    bench: speed.Benchmark, config: Config, validation: DataLoader
) -> float:
    """Images a second of a loop that decodes files and predicts them."""
    compute = speed.make_forward(
        bench.build(config, replace(bench.device, autocast=None)).eval(), bench.device, True
    )

    def infer() -> float:
        began = time.monotonic()
        with torch.inference_mode(), speed.user_kernels(bench.device, tuned=True):
            logits = [compute(images)[1] for images, _ in validation]
        torch.cat(logits).cpu()
        return len(bench.validation) / (time.monotonic() - began)

    infer()
    return infer()


# AutoTL.


def measure_ours(
    bench: speed.Benchmark, config: Config, searcher: speed.Searcher
) -> tuple[Results, training.ComputeSettings]:
    """What AutoTL reaches with the same images, and how it chose to compute."""
    network = bench.build(config, bench.device)
    job = searcher.job(network)
    validation, job.validation, job.epochs = job.validation, None, EPOCHS
    assert validation is not None
    planned = replace(job, epochs=PLANNED_EPOCHS)
    job.compute = training.measure_cost(network, config, planned).compute
    with peak_memory(bench) as peak, time_steps(bench) as spans:
        counts, stamps = [], []
        for _ in training.fine_tune(network, config, job):
            counts.append(len(spans))
            stamps.append(time.monotonic())
    wait(bench)
    seconds = stamps[-1] - stamps[0]
    inside = sum(end(start) for start, end in spans[counts[0] :])

    device = job.compute.apply_to(bench.device)

    def predict() -> float:
        began = time.monotonic()
        training.predict(network, validation, device, factor=job.compute.inference_factor)
        return len(bench.validation) / (time.monotonic() - began)

    predictor = Predictor(network, network.task, bench.device)
    items = [bench.dataset.examples[i].item for i in bench.validation]

    def predict_files() -> float:
        began = time.monotonic()
        predictor.predict_items(items)
        return len(items) / (time.monotonic() - began)

    predict(), predict_files()
    return {
        "training": len(bench.train) * (EPOCHS - 1) / seconds,
        "in_steps": inside / seconds,
        "inference": predict(),
        "inference_files": predict_files(),
        "peak_gib": max(peak, default=None),
    }, job.compute


@contextmanager
def time_steps(bench: speed.Benchmark) -> Iterator[list[Any]]:
    """Append the start and a function of it, which returns the seconds, of each training step.

    On a GPU they are events in its own order of work, whatever the CPU does meanwhile.
    """
    original, spans = Training.step, list[Any]()
    on_gpu = bench.device.torch_device.type == "cuda"

    def mark() -> Any:
        if not on_gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def step(self: Training, *arguments: Any) -> None:
        start = mark()
        original(self, *arguments)
        end = mark()
        spans.append((start, lambda s: s.elapsed_time(end) / 1000 if on_gpu else end - s))

    Training.step = step
    try:
        yield spans
    finally:
        Training.step = original


# How busy the GPU is.


def measure_busy(bench: speed.Benchmark, config: Config, searcher: speed.Searcher) -> Results:
    """The percentage of time in which the GPU computes during the fine-tuning of AutoTL."""
    if bench.device.torch_device.type != "cuda":
        return {}
    network = bench.build(config, bench.device)
    job = searcher.job(network)
    job.validation, job.epochs = None, 1000
    planned = replace(job, epochs=PLANNED_EPOCHS)
    job.compute = training.measure_cost(network, config, planned).compute
    with closing(training.fine_tune(network, config, job)) as run:
        next(run)  # without what happens once
        began = time.monotonic()
        with read_utilization(bench.device.torch_device) as percents:
            while time.monotonic() - began < BUSY_SECONDS:
                next(run)
        if percents:
            return {"percent": statistics.mean(percents), "by": "nvidia-smi"}
        return profile_busy(lambda: next(run))


def profile_busy(function: Callable[[], object]) -> Results:
    """The percentage of the time of a function in which kernels run or memory is copied."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        began = time.monotonic()
        function()
        seconds = time.monotonic() - began
    spans = [
        (event.time_range.start, event.time_range.end)  # microseconds
        for event in profiled.events() or ()
        if event.device_type == DeviceType.CUDA
    ]
    if not spans:
        raise RuntimeError("neither nvidia-smi nor torch.profiler tells how busy the GPU is")
    return {"percent": 100 * union(spans) / 1e6 / seconds, "by": "torch.profiler"}


def union(spans: list[tuple[float, float]]) -> float:
    """The total length of intervals that may overlap."""
    total, last = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


@contextmanager
def read_utilization(device: torch.device) -> Iterator[list[float]]:
    """Collect the utilization of a GPU in percent; nothing where nvidia-smi does not tell it.

    Its numbers of GPUs are not those of this process, which may see only some of them.
    """
    percents: list[float] = []
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    command = ["nvidia-smi", "-i", name, "--query-gpu=utilization.gpu"]
    command += ["--format=csv,noheader,nounits"]
    ended = threading.Event()

    def read() -> None:
        ended.wait(1.0)  # what is read describes up to a second before
        while not ended.wait(SAMPLE_SECONDS):
            output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            if output.strip().isdigit() and not ended.is_set():
                percents.append(float(output))

    if shutil.which("nvidia-smi") is None:
        yield percents
        return
    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield percents
    finally:
        ended.set()
        thread.join()
