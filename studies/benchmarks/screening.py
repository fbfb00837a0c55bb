"""Very many images: how long it takes until the best backbone is known, with and without samples.

    python studies/benchmarks/screening.py FOLDER --size 100000/1000

Images of 32 x 32 px are drawn as by ``large_data.py``. Two searches then probe six backbones with a
linear head: EfficientNet-Lite0, 1 and 2 with their pretrained weights and with random ones. One
compares them on samples first, the other one probes all of them on all images. Both check and pack
the images and probe the first backbone; what counts are the seconds from then to the end of the
comparison, and to that of the last probe. ``--scale`` divides the sizes of the samples, for fewer
images in the place of more.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import timm
from large_data import SIDE, Size, draw_images
from safetensors.torch import save_file

from autotl import engine, study
from autotl.events import Event, Note, TrialFinished
from autotl.search import screening
from autotl.study import StudyConfig

MODELS = tuple(f"tf_efficientnet_lite{i}" for i in range(3))
BACKBONES = [MODELS[0], *(f"source:{name}" for name in MODELS), *MODELS[1:]]


class Clock(NamedTuple):
    """The seconds of the wall clock, and those that this process has computed."""

    wall: float
    cpu: float


def main() -> None:
    """Draw the images, run both searches and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the images and the studies are written")
    parser.add_argument("--size", default="100000/1000")
    parser.add_argument("--scale", type=int, default=1)
    options = parser.parse_args()
    size = Size(*map(int, options.size.split("/")))
    images = options.folder / options.size.replace("/", "-")
    draw_images(images, size)
    weights = write_random_weights(options.folder / "random")
    screening.FIRST_SAMPLE //= options.scale
    screening.LARGEST_SAMPLE //= options.scale
    print(
        "| compared on samples | probes | compared, s | CPU s | probed, s | CPU s | best backbone |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, fewest, probes in (("yes", 0, 3), ("no", 1 << 60, len(BACKBONES))):
        screening.FEWEST_EXAMPLES = fewest
        settings = configure(images, weights, options.folder / f"runs-{name}")
        compared, probed, best = search(settings, probes)
        numbers = [f"{value:,.0f}" for value in (*compared, *probed)]
        print(f"| {name} | {probes} | {' | '.join(numbers)} | {best} |", flush=True)


def write_random_weights(folder: Path) -> Path:
    """Write files with random weights of all models."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


def configure(images: Path, weights: Path, out: Path) -> StudyConfig:
    """Return the settings of a search that begins anew."""
    shutil.rmtree(out, ignore_errors=True)
    options = {
        "backbone": BACKBONES,
        "weights": weights,
        "out": out,
        "image_size": (SIDE,),
        "freeze": ["linear_probe"],
        "head": ["linear"],
        "augment": ["none"],
        "epochs": 2,
        "trials": len(BACKBONES),
        "history": False,
        "device": "cpu",
        "precision": "float32",
    }
    return study.configure(str(images), options)


def search(settings: StudyConfig, probes: int) -> tuple[Clock, Clock, str]:
    """Run a search up to the end of the last probe.

    Returns:
        The time from the end of the first probe to that of the comparison, that to the last probe,
        and the best backbone.
    """
    ends: list[Clock] = []
    compared: list[Clock] = []

    def listen(event: Event) -> None:
        now = Clock(time.monotonic(), time.process_time())
        if isinstance(event, Note) and "compared on a sample" in event.text:
            compared.append(now)
        if isinstance(event, TrialFinished):
            ends.append(now)
            if len(ends) == probes:
                raise KeyboardInterrupt

    def since_first(end: Clock) -> Clock:
        return Clock(end.wall - ends[0].wall, end.cpu - ends[0].cpu)

    summary = engine.run(settings, listen).summary
    best = next(iter(summary["best"]["config"]["backbone"]))
    return since_first([*compared, ends[0]][0]), since_first(ends[-1]), best


if __name__ == "__main__":
    main()
