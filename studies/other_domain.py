"""Digits of another kind, without labels: what the images of the target domain add.

    OMP_NUM_THREADS=1 python studies/other_domain.py --seeds 2

One domain is scikit-learn's handwritten digits (8 x 8 pixels); the other one is digits rendered
from the fonts of this machine, in colour, rotated, on a cluttered background. A small network with
random weights is trained on them, so that what it knows comes from these images alone. Labelled
images of one train, images of the other one are the target: some are unlabelled, others test. The
table has both directions, and compares each recipe with the best of those that use the source
alone, by the mean over the seeds. Intervals (95 %) are of the paired differences, whose variance is
that between seeds plus that between test images. A second table has the rank correlation (Spearman)
of scores without labels with the accuracy over all trainings, and the accuracy of the training
that such a score chooses. Both are Markdown. On Debian ``apt-get install fonts-dejavu
fonts-liberation fonts-freefont-ttf`` installs the fonts of the published tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from few_labels import Trainings, interval
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import stats
from torch import Tensor, nn

from autotl import backbone, data
from autotl.data import Batches
from autotl.models import Model
from autotl.scoring.metrics import WITHOUT_LABELS
from autotl.space import registry, space
from autotl.space.kinds import SEARCHED_KINDS
from autotl.space.space import Choice, Config

FONTS = Path("/usr/share/fonts")
SIDE = 32


class Small(nn.Module):
    """Three convolutions with BatchNorm, each followed by a pooling of 2 x 2."""

    num_features = 96
    feature_info: ClassVar = [{"module": f"layer{i}"} for i in range(3)]
    pretrained_cfg: ClassVar = {
        "input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.25,) * 3,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, self.num_features)
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            layers = (convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))
            self.add_module(f"layer{i}", nn.Sequential(*layers))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features ``[B, 96]`` of images ``[B, 3, 32, 32]``."""
        for layer in self.children():
            images = layer(images)
        return images.mean((2, 3))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Say which parameters are of which layer, as timm's networks do."""
        return {"stem": "^layer0", "blocks": r"^layer(\d+)"}


@backbone
def small() -> nn.Module:
    """A small network with random weights."""
    return Small()


BASE = {"freeze": {"full": {"lr": 1e-2}}, "head": {"linear": {}}, "optimizer": {"adamw": {}}}
PLAIN = {**BASE, "augment": {"flip_crop": {"flip": False, "min_scale": 0.8}}}
STRONG = {**BASE, "augment": {"rand_augment": {"flip": False}}}

SOURCE_ONLY: dict[str, dict[str, Any]] = {
    "source only": PLAIN,
    "source only, RandAugment": STRONG,
}
ADAPTED: dict[str, dict[str, Any]] = {
    "AdaBN": {**PLAIN, "unlabelled": {"adabn": {}}},
    "CORAL": {**PLAIN, "unlabelled": {"coral": {}}},
    "MMD": {**PLAIN, "unlabelled": {"mmd": {}}},
    "DANN": {**PLAIN, "unlabelled": {"dann": {}}},
    "information maximisation": {**PLAIN, "unlabelled": {"information": {"mu": 1}}},
}


def find_fonts() -> list[Path]:
    """Return the files of fonts of Latin letters; symbols and italics are left out."""
    unwanted = ("symbol", "oblique", "italic", "math", "emoji")
    files = sorted(FONTS.rglob("*.ttf"))
    return [file for file in files if not any(word in file.name.lower() for word in unwanted)]


def render(folder: Path, fonts: Sequence[Path], each: int, seed: int = 0) -> Path:
    """Write ``each`` images of every digit into class folders; return the folder."""
    random = np.random.default_rng(seed)
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            render_one(digit, fonts[random.integers(len(fonts))], random).save(
                folder / str(digit) / f"{i:03}.png"
            )
    return folder


def render_one(digit: int, font: Path, random: np.random.Generator) -> Image.Image:
    """Render one digit in a random colour, size, place and rotation on lines and boxes."""
    image = Image.new("RGB", (SIDE, SIDE), draw_colour(random, 0, 110))
    clutter = ImageDraw.Draw(image)
    for _ in range(random.integers(2, 6)):
        ends = [tuple(pair) for pair in random.integers(0, SIDE, (2, 2)).tolist()]
        clutter.line(ends, fill=draw_colour(random, 0, 180), width=int(random.integers(1, 3)))
    left, top = random.integers(0, SIDE, 2).tolist()
    clutter.rectangle((left, top, left + 7, top + 5), fill=draw_colour(random, 0, 180))
    mask = Image.new("L", (SIDE, SIDE))
    size = int(random.integers(SIDE * 3 // 4, SIDE * 5 // 4))
    place = tuple((SIDE / 2 + random.normal(0, SIDE / 20, 2)).tolist())
    ImageDraw.Draw(mask).text(
        place, str(digit), fill=255, font=ImageFont.truetype(str(font), size), anchor="mm"
    )
    mask = mask.rotate(float(random.normal(0, 12)), resample=Image.Resampling.BILINEAR)
    image.paste(Image.new("RGB", image.size, draw_colour(random, 130, 256)), mask=mask)
    return image


def draw_colour(random: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    """Draw a colour with channels from ``low`` to below ``high``."""
    red, green, blue = random.integers(low, high, 3).tolist()
    return red, green, blue


class Study(Trainings):
    """A source and a target, and the trainings on them.

    Args:
        source: The data source with labels.
        target: The data source whose labels only score.
        images: How many images of each are used.
        folder: Folder for packed images and cached features.
    """

    def __init__(self, source: str, target: str, images: int, folder: Path) -> None:
        self.plugins = registry.load()
        both = [data.read_source(name, self.plugins) for name in (source, target)]
        read, other = (
            each._replace(
                examples=[
                    example.__class__(example.name, example.item, example.label)
                    for example in data.sample_examples(each.examples, images, 0)
                ]
            )
            for each in both
        )
        joined = data.join_domains(read, other, (source, target), 0, 0.02, 0.4)
        dataset = data.check(
            joined.examples, source, validation=0, test=0,
            unlabelled=joined.unlabelled,
        )  # fmt: skip
        super().__init__(dataset, SIDE, folder)

    def run(self, config: Config, seed: int, epochs: int) -> NDArray[np.float32]:
        """Train on the source; return the predictions for the target's test, ``[n, C]``."""
        own, test = self.dataset.unlabelled, self.dataset.indices("test")

        def unlabelled(model: Model) -> Batches:
            return Batches(
                data.pack(own, model.expects, self.folder), np.zeros(len(own), np.int64),
                self.dataset.unlabelled_beside(test), 32, self.device.torch_device,
                shuffle_seed=seed, data_id=own.fingerprint,
            )  # fmt: skip

        train = self.dataset.indices("train")
        return self.train(config, train, unlabelled, seed, epochs)


def main() -> None:
    """Train all recipes in both directions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=[], help="Parts of the names of recipes.")
    parser.add_argument("--cache", type=Path, default=Path("runs/other_domain"))
    options = parser.parse_args()
    if not (fonts := find_fonts()):
        sys.exit(f"there are no fonts in {FONTS}; on Debian: apt-get install fonts-dejavu")
    print(f"{len(fonts)} fonts", file=sys.stderr)
    rendered = str(render(options.cache / "rendered", fonts, options.images // 10))
    pairs = {
        "handwritten to rendered": ("sklearn:digits", rendered),
        "rendered to handwritten": (rendered, "sklearn:digits"),
    }
    results: dict[tuple[str, str], NDArray[np.float64]] = {}
    scores: dict[str, list[list[float]]] = {direction: [] for direction in pairs}
    for direction, (source, target) in pairs.items():
        study = Study(source, target, options.images, options.cache)
        for name, recipe in {**SOURCE_ONLY, **ADAPTED}.items():
            if options.only and not any(part in name for part in options.only):
                continue
            kinds = [kind for kind in SEARCHED_KINDS if kind != "backbone"]
            config = space.from_json(recipe, study.plugins, kinds=kinds)
            config["backbone"] = Choice(small, {})
            began = time.monotonic()
            every = [study.run(config, seed, options.epochs) for seed in range(options.seeds)]
            right = np.array([study.find_right(each) for each in every], dtype=np.float64)
            results[name, direction] = right
            scores[direction] += [
                [accuracy, *(m.score(None, each) for m in WITHOUT_LABELS.values())]
                for accuracy, each in zip(right.mean(1), every, strict=True)
            ]
            seconds = (time.monotonic() - began) / options.seeds
            accuracy = results[name, direction].mean()
            print(f"{name}, {direction}: {accuracy:.4f}, {seconds:.1f} s", file=sys.stderr)
    print_table(results, list(pairs))
    print_agreement(scores)


def print_table(results: dict[tuple[str, str], NDArray[np.float64]], pairs: Sequence[str]) -> None:
    """Print accuracies, and differences to the best recipe that uses the source alone."""
    columns = [text for pair in pairs for text in (pair, "difference")]
    print(f"| recipe | {' | '.join(columns)} |\n|---{'|---:' * len(columns)}|")
    for name in dict.fromkeys(name for name, _ in results):
        cells = []
        for pair in pairs:
            own = {key: right for key, right in results.items() if key[1] == pair}
            best = max(
                (key for key in own if key[0] in SOURCE_ONLY), key=lambda key: own[key].mean()
            )
            difference, half = interval(results[name, pair], own[best])
            text = "best without" if name == best[0] else f"{difference:+.3f} ± {half:.3f}"
            cells += [f"{results[name, pair].mean():.3f}", text]
        print(f"| {name} | {' | '.join(cells)} |")


def print_agreement(scores: dict[str, list[list[float]]]) -> None:
    """Print how well scores without labels order the trainings, as the accuracy does.

    Args:
        scores: For each direction the accuracy of each training, and its scores without labels.
    """
    print(f"\n| score without labels | {' | '.join(scores)} |\n|---{'|---:' * len(scores)}|")
    for number, name in enumerate(WITHOUT_LABELS, start=1):
        cells = []
        for rows in scores.values():
            accuracies, others = np.array(rows)[:, [0, number]].T
            chosen = accuracies[others.argmax()]
            rank = stats.spearmanr(accuracies, others).statistic
            cells.append(f"{rank:+.2f}, chooses {chosen:.3f} of {accuracies.max():.3f}")
        print(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
