"""Large images: decoded within bounded memory, to the pixels that they would have without that."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from PIL import Image, ImageOps

from autotl.data import decode, large_images
from autotl.data.image import open_upright, to_rgb
from autotl.errors import DataError


def image_of(mode: str, width: int = 90, height: int = 70) -> Image.Image:
    """A smooth image with some noise, in a mode of Pillow."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    pixels = (ramp + generator.integers(0, 50, (height, width, 4))).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    image = Image.fromarray(pixels, "RGBA" if mode in ("RGBA", "LA") else None)
    return image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)


def open_rgb(file: Path, side: int) -> Image.Image:
    return to_rgb(open_upright(file, side), {})


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_images, "LARGE_PIXELS", 100)
    monkeypatch.setattr(large_images, "STRIP_PIXELS", 90 * 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_strips_have_the_pixels_of_the_whole_image(
    tmp_path: Path, all_are_large: None, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    options = {"transparency": 3} if mode == "P" else {}
    image_of(mode).save(file, **options)
    reduced = open_rgb(file, 8)
    assert reduced.size == (23, 18)  # a quarter, rounded up
    monkeypatch.setattr(large_images, "LARGE_PIXELS", 90 * 70)
    whole = open_rgb(file, 8)
    assert whole.size == (90, 70)
    assert np.abs(np.asarray(reduced, int) - np.asarray(whole.reduce(4), int)).max() <= 1


def test_a_large_deep_image_is_not_reduced(tmp_path: Path, all_are_large: None) -> None:
    image_of("I;16").save(tmp_path / "a.tif")
    opened = open_upright(tmp_path / "a.tif", 8)
    assert (opened.mode, opened.size, opened.format) == ("I;16", (90, 70), "TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_images_are_upright(
    tmp_path: Path, all_are_large: None, ending: str, orientation: int
) -> None:
    image, exif = image_of("RGB"), Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"a.{ending}", exif=exif)
    with Image.open(tmp_path / f"a.{ending}") as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB").resize((4, 4))
    small = open_rgb(tmp_path / f"a.{ending}", 8).resize((4, 4))
    assert np.abs(np.asarray(small, int) - np.asarray(upright, int)).max() <= 8


def test_the_limit_of_pillow_does_not_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_of("RGB").save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode(tmp_path / "a.png", 8, "bicubic").shape == (8, 8, 3)


def test_a_limit_can_be_set_and_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("P", (2000, 1000)).save(tmp_path / "a.png")
    for limit, message in (
        ("1.5", r"2000 x 1000 pixels are 2 megapixels, more than the limit of 1\.5, .* AUTOTL_MAX"),
        ("many", "AUTOTL_MAX_MEGAPIXELS='many' is not a number"),
    ):
        monkeypatch.setenv("AUTOTL_MAX_MEGAPIXELS", limit)
        with pytest.raises(DataError, match=message):
            decode(tmp_path / "a.png", 8, "bicubic")
    monkeypatch.setenv("AUTOTL_MAX_MEGAPIXELS", "2")
    decode(tmp_path / "a.png", 8, "bicubic")


def test_the_bytes_in_flight_are_bounded() -> None:
    bound, lock, taken = large_images._Bound(100), Lock(), [0, 0]
    most: list[int] = []
    alone: list[bool] = []

    def take(part: int) -> None:
        with bound.take(part):
            with lock:
                taken[0], taken[1] = taken[0] + part, taken[1] + 1
                (alone if part > 100 else most).append(taken[0] if part <= 100 else taken[1] == 1)
            with lock:
                taken[0], taken[1] = taken[0] - part, taken[1] - 1

    parts = random.Random(0).choices([10, 40, 70, 250], k=400)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, parts))
    assert max(most) <= 100
    assert all(alone)
    assert taken == [0, 0]


def test_bytes_are_released_after_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    image_of("RGB").save(file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError):
        decode(file, 8, "bicubic")
    assert large_images._in_flight._taken == 0
