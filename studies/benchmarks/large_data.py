"""Many images and classes: time and memory of a check, a search with one probe, and a report.

    python studies/benchmarks/large_data.py FOLDER --sizes 10000/100,50000/500,200000/2000

For each size, images of 32 x 32 px are drawn into class folders below FOLDER, unless an earlier
run did, and three commands run one after the other, each in a process of its own: ``autotl data
check``, ``autotl search`` with a linear probe as the only trial, and ``autotl report``. Memory is
the largest resident set of the process, which includes the pages of packed images and features
that are mapped from disk, and what libraries take before any image is opened. The slope is that
between the last two sizes, and gives the extrapolation. The table is Markdown; ``--out`` writes
the numbers as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE, PATTERN = 32, 4
"""Sides of an image and of the coarse pattern that it shows, in pixels."""

STEPS = ("check", "search", "report")
EXTRAPOLATED = 1_000_000


class Size(NamedTuple):
    """A number of images and of classes."""

    images: int
    classes: int


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    cpu_seconds: float
    mebibytes: float


UNITS = ("s", "CPU s", "MiB")
"""Those of the fields of ``Cost``."""


def main() -> None:
    """Draw the images, run the commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the images and the studies are written")
    parser.add_argument("--sizes", default="10000/100,50000/500,200000/2000")
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--head", default="linear")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sizes = [Size(*map(int, size.split("/"))) for size in options.sizes.split(",")]
    search = ["--backbone", options.backbone, "--head", options.head, "--epochs", options.epochs]
    costs: dict[Size, dict[str, Cost]] = {}
    for size in sizes:
        source = options.folder / f"{size.images}-{size.classes}"
        draw_images(source, size)
        costs[size] = {
            step: measure(step, source, options.folder / f"runs-{source.name}", search)
            for step in options.steps.split(",")
        }
        print(size, costs[size], file=sys.stderr, flush=True)
    for line in format_table(costs):
        print(line)
    if options.out:
        rows = [{**size._asdict(), "steps": _as_dict(steps)} for size, steps in costs.items()]
        options.out.write_text(json.dumps(rows, indent=1))


def _as_dict(steps: dict[str, Cost]) -> dict[str, dict[str, float]]:
    return {step: cost._asdict() for step, cost in steps.items()}


def draw_images(folder: Path, size: Size) -> None:
    """Draw images into class folders; a folder that is complete is left as it is."""
    if (folder / "complete.txt").exists():
        return
    with ProcessPoolExecutor() as pool:
        draw = partial(_draw_class, folder, size)
        for _ in pool.map(draw, range(size.classes), chunksize=16):
            pass
    (folder / "complete.txt").write_text("complete\n")


def _draw_class(folder: Path, size: Size, number: int) -> None:
    """Draw the images of a class: its coloured pattern, changed for each image, and noise.

    What changes is coarse too, and large enough that no image is a near-copy of another one.
    """
    path = folder / f"class{number:05}"
    path.mkdir(parents=True, exist_ok=True)
    pattern = np.random.default_rng((0, number)).normal(0, 40, (PATTERN, PATTERN, 3))
    random = np.random.default_rng((1, number))
    for i in range(number, size.images, size.classes):
        coarse = 128 + pattern + random.normal(0, 20, pattern.shape)
        pixels = coarse.repeat(SIDE // PATTERN, 0).repeat(SIDE // PATTERN, 1)
        pixels += random.normal(0, 8, pixels.shape)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        # Every tenth is a PNG, which is slower to decode.
        image.save(path / (f"{i:07}.png" if i // size.classes % 10 == 0 else f"{i:07}.jpg"))


def measure(step: str, source: Path, out: Path, search: Sequence[object]) -> Cost:
    """Run a command in a process of its own and measure it.

    Args:
        step: One of ``STEPS``.
        source: The folder with images.
        out: The folder of the study, which a search begins anew.
        search: Options of a search.
    """
    words: list[object] = {
        "check": ["data", "check", source],
        "search": [
            *["search", source, "--trials", 1, "--freeze", "linear_probe", "--size", SIDE, *search],
            *["--augment", "none", "--no-history", "--study", "large", "--out", out],
        ],
        "report": ["report", "large", "--out", out],
    }[step]
    if step == "search":
        shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    began, log = time.monotonic(), out.parent / f"{source.name}-{step}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "autotl", *map(str, words)], stdout=file, stderr=file
        )
        # Unlike getrusage(RUSAGE_CHILDREN), this is of one process.
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise SystemExit(f"autotl {words[0]} failed; see {log}")
    unit = 1 if sys.platform == "darwin" else 1024
    seconds, cpu_seconds = time.monotonic() - began, usage.ru_utime + usage.ru_stime
    return Cost(seconds, cpu_seconds, usage.ru_maxrss * unit / 2**20)


def format_table(costs: dict[Size, dict[str, Cost]]) -> list[str]:
    """The lines of the table: sizes, the slope between the last two, and the extrapolation."""
    steps = list(next(iter(costs.values())))
    cells = [f"{step}, {unit}" for step in steps for unit in UNITS]
    lines = [_row("images", "classes", *cells), "|---" * (2 + len(cells)) + "|"]
    for size, of in costs.items():
        values = [f"{value:,.0f}" for step in steps for value in of[step]]
        lines.append(_row(f"{size.images:,}", f"{size.classes:,}", *values))
    if len(costs) > 1:
        (first, before), (last, after) = list(costs.items())[-2:]
        slopes = [
            (b - a) / (last.images - first.images) * EXTRAPOLATED
            for step in steps
            for a, b in zip(before[step], after[step], strict=True)
        ]
        ends = [value for step in steps for value in after[step]]
        rest = 1 - last.images / EXTRAPOLATED
        lines.append(_row("per million more", "", *(f"{slope:,.0f}" for slope in slopes)))
        values = [f"{a + slope * rest:,.0f}" for a, slope in zip(ends, slopes, strict=True)]
        classes = f"{last.classes * EXTRAPOLATED // last.images:,}"
        lines.append(_row(f"{EXTRAPOLATED:,} (extrapolated)", classes, *values))
    return lines


def _row(*values: str) -> str:
    return "| " + " | ".join(values) + " |"


if __name__ == "__main__":
    main()
