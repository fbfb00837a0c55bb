"""Decoding of images of many formats, and mapping in threads."""

from __future__ import annotations

import os
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_images import noise
from PIL import ExifTags, Image

from autotl.data import IMAGES, ImageInput, decode, match_channels
from autotl.data import image as image_module
from autotl.data.image import map_in_threads
from autotl.data.scale import Scale
from autotl.errors import DataError


def save_and_decode(path: Path, image: Image.Image, **options: Any) -> np.ndarray:
    image.save(path, **options)
    return decode(path, 8, "bilinear")


def test_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for name in ("a.png", "a.tif"):
        pixels = save_and_decode(tmp_path / name, Image.fromarray(ramp))
        assert np.abs(pixels[..., 0] - ramp / 257).max() <= 1
        assert (pixels == pixels[..., :1]).all()


def test_deep_images_are_scaled_by_the_scale_of_their_type(tmp_path: Path) -> None:
    ramp = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    pixels = decode(tmp_path / "a.tif", 8, "bilinear", {"TIFF integer": Scale(0, 4095)})
    assert np.abs(pixels[..., 0] - ramp * (255 / 4095)).max() <= 1


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (4, 0, 8, 8))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (save_and_decode(tmp_path / "clear.png", clear) == 255).all()
    for name, transparency in (("index.png", 0), ("bytes.png", bytes([0, 255]))):
        pixels = save_and_decode(tmp_path / name, palette, transparency=transparency)
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[0, 7].tolist() == [0, 0, 255]
    half = save_and_decode(tmp_path / "half.png", Image.new("LA", (8, 8), (0, 128)))
    assert np.abs(half.astype(int) - 127).max() <= 1


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 8), "black")
    image.paste("white", (0, 0, 8, 8))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed after a quarter turn clockwise: white at the top
    pixels = save_and_decode(tmp_path / "a.jpg", image, exif=exif)
    assert pixels[:3].min() > 200
    assert pixels[-3:].max() < 50


def test_other_modes_become_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), "red").convert("CMYK")
    pixels = save_and_decode(tmp_path / "a.tif", red)
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 2
    assert (save_and_decode(tmp_path / "a.png", Image.new("L", (8, 8), 77)) == 77).all()
    assert (save_and_decode(tmp_path / "b.png", Image.new("1", (8, 8), 1)) == 255).all()
    frames = [Image.new("RGB", (8, 8), c) for c in ("lime", "blue")]
    first = save_and_decode(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert (first == [0, 255, 0]).all()
    assert (decode(np.full((4, 6), 9, np.uint8), 8, "nearest") == 9).all()


def test_images_become_grey(tmp_path: Path) -> None:
    scales = {"PNG integer": Scale(0, 65535)}
    deep = Image.fromarray(np.full((8, 8), 257 * 77, np.uint16))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    images = {"L": Image.new("L", (8, 8), 77), "RGB": Image.new("RGB", (8, 8), (77, 77, 77))}
    for name, image in {**images, "I": deep, "RGBA": clear}.items():
        image.save(tmp_path / f"{name}.png")
        grey = decode(tmp_path / f"{name}.png", 8, "bicubic", scales, channels=1)
        assert grey.shape == (8, 8, 1)
        assert (grey == (255 if name == "RGBA" else 77)).all()
    colour = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    expected = np.array(Image.fromarray(colour).convert("L"))
    assert (decode(colour, 8, "nearest", channels=1)[..., 0] == expected).all()


def test_each_channel_of_other_images_is_resized(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (12, 10, 6), dtype=np.uint8)
    pixels = decode(array, 8, "bilinear", channels=6)
    assert pixels.shape == (8, 8, 6)
    for channel in range(6):
        alone = decode(np.ascontiguousarray(array[..., channel]), 8, "bilinear", channels=1)
        assert (pixels[..., channel] == alone[..., 0]).all()
    Image.fromarray(array[..., :4], "RGBA").save(tmp_path / "near_infrared.tif")
    from_file = decode(tmp_path / "near_infrared.tif", 8, "bilinear", channels=4)
    assert (from_file == pixels[..., :4]).all()


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((8, 8, 6), 3, "it has 6 channels and not 3; a search takes them with --in-chans 6"),
        ((8, 8, 6), 1, "it has 6 channels and not 1; a search takes them with --in-chans 6"),
        ((8, 8, 6), 4, "it has 6 channels and not 4; a search takes them with --in-chans 6"),
        ((8, 8), 4, "it has 1 channel and not 4"),
    ],
)
def test_another_number_of_channels_is_named(
    tmp_path: Path, shape: tuple[int, ...], channels: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        decode(np.zeros(shape, np.uint8), 8, "bilinear", channels=channels)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    if channels == 4:
        with pytest.raises(DataError, match=r"a\.png: it has 3 channels and not 4; replace"):
            decode(tmp_path / "a.png", 8, "bilinear", channels=channels)


def test_the_key_of_images_in_rgb_is_that_of_earlier_versions() -> None:
    rgb = ImageInput(96, (0.5,) * 3, (0.2,) * 3, "bicubic")
    assert (rgb.key, rgb.shape) == ("96-bicubic-2", (96, 96, 3))
    assert set(rgb.describe()) == {"size", "mean", "std", "interpolation"}
    grey = ImageInput(96, (0.5,), (0.2,), "bicubic", 1)
    assert (grey.key, grey.shape) == ("96-bicubic-2-1ch", (96, 96, 1))
    assert grey.describe()["channels"] == 1


def test_the_mean_is_that_of_the_weights_that_timm_sums_or_repeats() -> None:
    assert match_channels((0.1, 0.2, 0.6), 3) == (0.1, 0.2, 0.6)
    assert match_channels((0.1, 0.2, 0.6), 1) == pytest.approx((0.3,))
    assert match_channels((0.1, 0.2, 0.6), 2) == (0.1, 0.2)
    assert match_channels((0.1, 0.2, 0.6), 5) == (0.1, 0.2, 0.6, 0.1, 0.2)
    assert match_channels((0.5,), 4) == (0.5,)


def test_previews_show_the_first_three_channels() -> None:
    array = np.zeros((40, 40, 6), np.uint8)
    array[..., 0], array[..., 4] = 200, 255
    shown = Image.open(BytesIO(IMAGES.show(array, {}).content))
    assert np.abs(np.array(shown).astype(int) - [200, 0, 0]).max() < 5
    two = Image.open(BytesIO(IMAGES.show(array[..., 3:5], {}).content))
    assert np.array(two).max() < 5


def test_images_are_resized_without_cropping() -> None:
    wide = np.zeros((10, 100, 3), np.uint8)
    wide[:, :10] = wide[:, -10:] = 255
    pixels = decode(wide, 10, "box")
    assert pixels.shape == (10, 10, 3)
    assert (pixels[:, [0, -1]] == 255).all()
    assert (pixels[:, 1:-1] == 0).all()


def test_interpolation_is_chosen_by_timms_names() -> None:
    pixels = {name: decode(noise(1, 64), 8, name) for name in ("bicubic", "nearest", "random")}
    assert (pixels["random"] == pixels["bicubic"]).all()
    assert (pixels["nearest"] == noise(1, 64)[4::8, 4::8]).all()
    assert pixels["bicubic"].std() < pixels["nearest"].std()  # antialiased


def test_a_large_jpeg_decoded_at_reduced_size_looks_the_same(tmp_path: Path) -> None:
    y, x = np.mgrid[:1024, :1024]
    wave = (127 + 60 * np.sin(x / 50) + 60 * np.cos(y / 70)).astype(np.uint8)
    Image.fromarray(wave).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as full:
        exact = np.asarray(full.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))
    pixels = decode(tmp_path / "a.jpg", 64, "bicubic")
    assert np.abs(pixels.astype(int) - exact).max() <= 4


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic")
    (tmp_path / "a.heic").rename(tmp_path / "a.jpg")  # the suffix does not matter
    pixels = decode(tmp_path / "a.jpg", 8, "bicubic")
    assert np.abs(pixels.astype(int) - [200, 40, 40]).max() <= 4


def test_heic_has_the_limit_of_pixels_and_is_upright(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (128, 64), (200, 40, 40))
    image.paste((40, 40, 200), (0, 0, 64, 64))  # the left half is blue
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: blue is above then
    pillow_heif.from_pillow(image).save(tmp_path / "a.heic", exif=exif.tobytes())
    pixels = decode(tmp_path / "a.heic", 8, "bicubic")
    assert pixels[1, :, 2].min() > 150 > pixels[-2, :, 2].max()
    assert (decode(BytesIO((tmp_path / "a.heic").read_bytes()), 8, "bicubic") == pixels).all()
    monkeypatch.setenv("AUTOTL_MAX_MEGAPIXELS", "0.005")
    with pytest.raises(DataError, match="more than the limit"):
        decode(tmp_path / "a.heic", 8, "bicubic")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            b"\0\0\0\x18ftypheic" + bytes(200),
            r'HEIC is read only with: pip install "autotl\[heif\]"',
        ),
        (bytes(128) + b"DICM" + bytes(50), "DICOM is not read; convert it"),
    ],
)
def test_formats_that_are_not_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    (tmp_path / "a.png").write_bytes(head)
    with pytest.raises(DataError, match=message):
        decode(tmp_path / "a.png", 8, "bicubic")


def test_the_error_names_the_unreadable_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"text")
    with pytest.raises(DataError, match=r"a\.jpg: not an image that Pillow can read; replace"):
        decode(tmp_path / "a.jpg", 8, "bicubic")
    with pytest.raises(DataError, match="the array: float64"):
        decode(np.zeros((8, 8)), 8, "bicubic")


def test_results_come_in_order_and_stop_at_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "count_cores", lambda: 4)
    results: list[int] = []
    second_done = threading.Event()

    def identity(i: int) -> int:
        if i == 0:
            assert second_done.wait(60)  # item 0 ends after item 1
        if i == 1:
            second_done.set()
        return i if i != 200 else 1 // 0

    with pytest.raises(ZeroDivisionError):
        map_in_threads(identity, range(1000), results.append, "", None)
    assert results == list(range(200))


def test_all_cores_work_on_the_items_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "count_cores", lambda: 3)
    monkeypatch.setattr(image_module, "MAX_BEGUN", 4)
    barrier = threading.Barrier(3)  # broken after a minute with fewer threads
    last_begun = threading.Event()

    def wait_for_others(i: int) -> int:
        if i < 3:
            barrier.wait(60)
        if i == 5:  # begins before item 6 is complete
            assert last_begun.wait(60)
        if i == 6:
            last_begun.set()
        return i

    results: list[int] = []
    map_in_threads(wait_for_others, range(7), results.append, "", None)
    assert results == list(range(7))


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert image_module.count_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert image_module.count_cores() == 1
