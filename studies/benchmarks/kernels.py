"""Measure the speedup from keeping freed memory and from avoiding slow kernels on a CPU.

    python studies/benchmarks/kernels.py tf_efficientnet_lite0 resnet50 --threads 2

Prints a table in Markdown. Its ratios are the time without either measure over the time with the
measures of the row, for a training step of the whole network and for a forward pass. Each case runs
in a process of its own, because memory that is kept cannot be returned.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

# Each case: precision, whether freed memory is kept, whether slow kernels are avoided.
FLOAT32_CASES = (("float32", False, False), ("float32", True, False))
BFLOAT16_CASES = (
    ("bfloat16", False, False),
    ("bfloat16", False, True),
    ("bfloat16", True, True),
)
BATCH_SIZE = 32


def main() -> None:
    """Run the cases of each architecture, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", help="Names of timm architectures.")
    parser.add_argument("--threads", type=int, default=2, help="Number of threads (2).")
    parser.add_argument("--size", type=int, default=224, help="Side of the images, pixels (224).")
    parser.add_argument("--case", help="A single case in JSON, whose times are printed.")
    options = parser.parse_args()
    if options.case:
        times = measure(options.names[0], options.size, options.threads, *json.loads(options.case))
        print(json.dumps(times))
        return
    columns = ("architecture", "type", "memory kept", "slow kernels avoided", "step", "forward")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name in options.names:
        for cases in (FLOAT32_CASES, BFLOAT16_CASES):
            baseline: list[float] = []
            for case in cases:
                command = [sys.executable, __file__, name, "--case", json.dumps(case)]
                command += ["--threads", str(options.threads), "--size", str(options.size)]
                process = subprocess.run(command, check=True, capture_output=True, text=True)
                times = json.loads(process.stdout)
                baseline = baseline or times
                ratios = [f"{b / t:.2f} x" for b, t in zip(baseline, times, strict=True)]
                measures = ["yes" if applied else "" for applied in case[1:]]
                print("| " + " | ".join([name, case[0], *measures, *ratios]) + " |", flush=True)


def measure(
    name: str, size: int, threads: int, precision: str, keep_memory: bool, avoid_kernels: bool
) -> tuple[float, float]:
    """Measure the seconds of a training step and of a forward pass.

    Args:
        name: Name of a timm architecture.
        size: Side of the images in pixels.
        threads: Number of threads.
        precision: ``float32`` or ``bfloat16``.
        keep_memory: Whether freed memory is kept by the process.
        avoid_kernels: Whether slow kernels are avoided.
    """
    import timm
    import torch

    from autotl.cli import process
    from autotl.models import cpu_kernels

    if keep_memory:
        process.keep_freed_memory()
    torch.set_num_threads(threads)
    network = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last)
    if avoid_kernels:
        cpu_kernels.apply_workarounds(network, bfloat16=True)
    images = torch.randn(BATCH_SIZE, 3, size, size).contiguous(memory_format=torch.channels_last)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            logits: torch.Tensor = network(images)
        return logits

    def train_step() -> None:
        network.train()
        forward().float().pow(2).mean().backward()

    @torch.inference_mode()
    def infer() -> None:
        network.eval()
        forward()

    return shortest_time(train_step), shortest_time(infer)


def shortest_time(work: Callable[[], object]) -> float:
    """The shortest of four times in seconds, after a first call that is not counted."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times[1:])


if __name__ == "__main__":
    main()
