"""Small images of noise, as arrays and files, for the tests of ``autotl.data``."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autotl.space.plugin import Example


def noise(seed: int, side: int = 8) -> np.ndarray:
    """An image of noise, ``uint8 [side, side, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def noise_example(name: str, label: str, seed: int, **fields: Any) -> Example:
    """An example with an image of noise; equal seeds give exact copies."""
    return Example(name, noise(seed), label, **fields)


def noise_examples(count: int, classes: str = "ab", split: Any = "") -> list[Example]:
    """``count`` different examples of each class (a letter), all in one given split."""
    names = [f"{split}{c}/{i}" for c in classes for i in range(count)]
    return [noise_example(n, n[len(split)], zlib.crc32(n.encode()), split=split) for n in names]


def noise_files(root: Path, count: int = 3, classes: str = "ab") -> list[Example]:
    """``count`` PNG files of each class; the image of file ``i`` is ``noise(i)``."""
    examples = []
    for seed, name in enumerate(f"{c}/{i}.png" for c in classes for i in range(count)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(seed)).save(root / name)
        examples.append(Example(name, root / name, name[0]))
    return examples


def scene(seed: int, side: int = 96) -> Image.Image:
    """A smooth random image with details."""
    rng = np.random.default_rng(seed)
    layers = sum(
        np.asarray(
            Image.fromarray(rng.uniform(0, 255, (n, n, 3)).astype(np.uint8)).resize((side, side)),
            dtype=float,
        )
        for n in (3, 6, 12)
    )
    return Image.fromarray((np.asarray(layers) / 3).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image, encoded as a JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    with Image.open(file) as opened:
        opened.load()
        return opened
