"""Very many images: how long it takes until the best backbone is known, with and without samples.

    python studies/benchmarks/screening.py FOLDER --size 100000/1000

Images of 32 x 32 px are drawn as by ``large_data.py``. Two searches then probe six backbones with a
linear head: EfficientNet-Lite0, 1 and 2 with their pretrained weights and with random ones. One
compares them on samples first, the other one probes all of them on all images. Both check and pack
the images and probe the first backbone; what counts are the seconds from then to the end of the
last probe.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import timm
from large_data import SIDE, Size, draw_images
from safetensors.torch import save_file

from autotl.store import Store

MODELS = tuple(f"tf_efficientnet_lite{i}" for i in range(3))
RUN = """
import sys
from autotl.cli import main
from autotl.search import screening
screening.FEWEST_EXAMPLES = {fewest}
sys.exit(main())
"""


def main() -> None:
    """Draw the images, run both searches and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the images and the studies are written")
    parser.add_argument("--size", default="100000/1000")
    options = parser.parse_args()
    size = Size(*map(int, options.size.split("/")))
    images = options.folder / options.size.replace("/", "-")
    draw_images(images, size)
    weights = write_random_weights(options.folder / "random")
    print("| compared on samples | probes | seconds | best backbone | accuracy of the probes |")
    print("|---|---|---|---|---|", flush=True)
    for name, fewest, probes in (("yes", 0, 3), ("no", 1 << 60, 2 * len(MODELS))):
        out = options.folder / f"runs-{name}"
        search(images, weights, out, fewest, probes)
        print(describe(name, out), flush=True)


def write_random_weights(folder: Path) -> Path:
    """Write files with random weights of all models."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


def search(images: Path, weights: Path, out: Path, fewest: int, trials: int) -> None:
    """Run a search anew that compares backbones on samples from ``fewest`` images on."""
    shutil.rmtree(out, ignore_errors=True)
    backbones = [MODELS[0], *(f"source:{name}" for name in MODELS), *MODELS[1:]]
    words = ["search", images, "--study", "many", "--out", out, "--weights", weights]
    for name in backbones:
        words += ["--backbone", name]
    words += ["--size", SIDE, "--freeze", "linear_probe", "--head", "linear", "--augment", "none"]
    words += ["--epochs", 2, "--trials", trials, "--no-history"]
    command = [sys.executable, "-c", RUN.format(fewest=fewest), *map(str, words)]
    with (out.parent / f"{out.name}.log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)


def describe(name: str, out: Path) -> str:
    """Return the row of a search."""
    with closing(Store(f"sqlite:///{out}/autotl.db")) as store:
        rows = store.trials("many")
    ends = [row.started + timedelta(seconds=row.seconds) for row in rows if row.seconds]
    seconds = (max(ends) - min(ends)).total_seconds()
    best = max(rows, key=lambda row: row.score or 0.0)
    scores = ", ".join(f"{next(iter(row.config['backbone']))} {row.score:.3f}" for row in rows)
    values = name, len(rows), f"{seconds:,.0f}", next(iter(best.config["backbone"])), scores
    return f"| {' | '.join(map(str, values))} |"


if __name__ == "__main__":
    main()
