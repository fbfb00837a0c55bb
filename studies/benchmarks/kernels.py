"""What keeping memory and avoiding slow kernels bring on a CPU: times as ratios, in Markdown.

    python studies/benchmarks/cpu_kernels.py tf_efficientnet_lite0 resnet50 --threads 2

Each case runs in a process of its own, as memory that is kept cannot be given up again. A row has
the time of the plain case over that of ours: a training step of everything, and a forward pass.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

CASES = (("float32", False, False), ("float32", True, False))
HALF = (("bfloat16", False, False), ("bfloat16", False, True), ("bfloat16", True, True))
BATCH = 32


def main() -> None:
    """Run the cases of each architecture, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--case", help="Run one case alone, and print its times.")
    options = parser.parse_args()
    if options.case:
        kind, keep, avoid = json.loads(options.case)
        print(json.dumps(times(options.names[0], options.size, options.threads, kind, keep, avoid)))
        return
    heads = ("architecture", "type", "memory kept", "slow kernels avoided", "step", "forward")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name in options.names:
        for cases in (CASES, HALF):
            plain: list[float] = []
            for case in cases:
                command = [sys.executable, __file__, name, "--case", json.dumps(case)]
                command += ["--threads", str(options.threads), "--size", str(options.size)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                took = json.loads(done.stdout)
                plain = plain or took
                ratios = [f"{before / now:.2f} x" for before, now in zip(plain, took, strict=True)]
                said = ["yes" if is_so else "" for is_so in case[1:]]
                print("| " + " | ".join([name, case[0], *said, *ratios]) + " |", flush=True)


def times(
    name: str, size: int, threads: int, kind: str, keep: bool, avoid: bool
) -> tuple[float, float]:
    """Seconds of a training step and of a forward pass, the best of four after a first."""
    import timm
    import torch

    from autotl.cli import process
    from autotl.models import cpu_kernels

    if keep:
        process.keep_freed_memory()
    torch.set_num_threads(threads)
    network = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last)
    if avoid:
        cpu_kernels.avoid(network, half=True)
    images = torch.randn(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
            answer: torch.Tensor = network(images)
        return answer

    def step() -> None:
        network.train()
        forward().float().pow(2).mean().backward()

    @torch.inference_mode()
    def ask() -> None:
        network.eval()
        forward()

    return best(step), best(ask)


def best(work: Callable[[], object]) -> float:
    """The shortest of four times, after a first that does not count."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took[1:])


if __name__ == "__main__":
    main()
