"""One scale for all images of a file type, whatever a single image or pixel says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autotl.data import check, decode, scale
from autotl.data.scale import Sample, Scale, fit_scales, from_json, to_json
from autotl.space.plugin import Example


def write(folder: Path, arrays: list[np.ndarray], suffix: str = ".tif") -> list[Example]:
    """Files of grey values, alternately of two classes."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for i, array in enumerate(arrays):
        file = folder / f"{i}{suffix}"
        Image.fromarray(array).save(file)
        examples.append(Example(file.name, file, "ab"[i % 2]))
    return examples


def noise(white: float, dtype: Any, seed: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, white, (side, side)).astype(dtype)


def fit(tmp_path: Path, arrays: list[np.ndarray], suffix: str = ".tif") -> dict[str, Scale]:
    return dict(check(write(tmp_path, arrays, suffix), "here").scales)


@pytest.mark.parametrize(
    ("dtype", "largest", "white"),
    [
        (np.uint16, 900, 1023),
        (np.uint16, 2500, 4095),
        (np.uint16, 4000, 4095),
        (np.uint16, 10_000, 16383),
        (np.uint16, 50_000, 65535),
        (np.uint16, 2, 1.0),
        (np.int32, 200, 255),
        (np.float32, 0.9, 1),
        (np.float32, 200, 255),
    ],
)
def test_white_is_a_usual_level(tmp_path: Path, dtype: Any, largest: float, white: float) -> None:
    arrays = [noise(largest, dtype, seed) for seed in range(12)]
    number = "float" if dtype == np.float32 else "integer"
    assert fit(tmp_path, arrays) == {f"TIFF {number}": (0, white)}


def test_values_that_use_little_of_a_usual_level_get_a_scale_of_their_own(tmp_path: Path) -> None:
    kelvin = [290 + noise(20, np.float32, seed) for seed in range(12)]
    black, white = fit(tmp_path / "a", kelvin)["TIFF float"]
    assert 290 <= black < 290.5
    assert 309.5 < white <= 310
    hounsfield = [(noise(4000, np.int32, seed) - 1000) for seed in range(12)]
    black, white = fit(tmp_path / "b", hounsfield)["TIFF integer"]
    assert -1000 <= black < -900
    assert 2900 < white <= 3000


def test_one_value_has_one_brightness_in_all_images(tmp_path: Path) -> None:
    """A value of 2000 was 125 in an image with 4095, and 8 in one with 4096."""
    arrays = [noise(4000, np.uint16, seed) for seed in range(12)]
    for array in arrays:
        array[:8] = 2000
    arrays[3][15, 15] = 65535  # a hot pixel
    arrays[4][15, 15] = 4096
    dataset = check(write(tmp_path, arrays), "here")
    assert dataset.scales == {"TIFF integer": (0, 4095)}
    pixels = [decode(e.item, 16, "nearest", dataset.scales)[0, 0, 0] for e in dataset.examples]
    assert set(pixels) == {round(2000 * 255 / 4095)}


@pytest.mark.parametrize("nothing", [-9999.0, np.nan, np.inf, -3.4028235e38])
def test_no_data_take_no_contrast_and_are_black(tmp_path: Path, nothing: float) -> None:
    arrays = [noise(1, np.float32, seed) for seed in range(12)]
    for array in arrays:
        array[:5] = nothing
        array[8, 8], array[8, 9] = 0.5, 1.01
    dataset = check(write(tmp_path, arrays), "here")
    assert dataset.scales == {"TIFF float": (0, 1)}
    pixels = decode(dataset.examples[0].item, 16, "nearest", dataset.scales)
    assert (pixels[:5] == 0).all()
    assert pixels[8, 8:10, 0].tolist() == [128, 255]


def test_gdals_tag_names_the_value_without_data(tmp_path: Path) -> None:
    arrays = [noise(1000, np.int32, seed) for seed in range(4)]
    file = tmp_path / "a.tif"
    arrays[0][:8] = 50_000
    Image.fromarray(arrays[0]).save(file, tiffinfo={scale.GDAL_NODATA: "50000"})
    with Image.open(file) as image:
        image.load()
        assert scale.sample(image).quantiles.max() < 1000
        assert (scale.to_8_bits(image, {"TIFF integer": Scale(0, 1023)})[:8] == 0).all()


def test_each_file_type_has_its_own_scale(tmp_path: Path) -> None:
    tiffs = write(tmp_path / "t", [noise(4000, np.uint16, s) for s in range(6)])
    pngs = write(tmp_path / "p", [noise(60_000, np.uint16, 9 + s) for s in range(6)], ".png")
    dataset = check([*tiffs, *pngs], "here")
    assert dataset.scales == {"PNG integer": (0, 65535), "TIFF integer": (0, 4095)}


def test_images_of_8_bits_have_no_scale(tmp_path: Path) -> None:
    assert fit(tmp_path, [noise(255, np.uint8, seed) for seed in range(12)], ".png") == {}


def test_an_unknown_type_has_the_scale_of_its_numbers_or_the_full_one(tmp_path: Path) -> None:
    [tiff] = write(tmp_path, [np.full((4, 4), 2000, np.uint16)])
    for scales, value in (({"PNG integer": Scale(0, 4000)}, 128), ({}, 8)):
        assert decode(tiff.item, 4, "nearest", scales)[0, 0, 0] == value
    [real] = write(tmp_path, [np.full((4, 4), 0.5, np.float32)])
    assert decode(real.item, 4, "nearest", {"PNG integer": Scale(0, 4000)})[0, 0, 0] == 128


def test_the_scale_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Packed images depend on the scale, and the scale on all images."""
    arrays = [noise(4000, np.uint16, seed) for seed in range(12)]
    first = check(write(tmp_path, arrays), "here")
    assert check(write(tmp_path, arrays), "here").fingerprint == first.fingerprint
    arrays[0] *= 16
    assert check(write(tmp_path, arrays), "here").fingerprint != first.fingerprint


def test_images_without_values_have_a_scale() -> None:
    assert fit_scales([Sample("TIFF float", np.zeros(0, np.float32))]) == {"TIFF float": (0, 1)}
    zeros = Sample("TIFF integer", np.zeros(64, np.float32))
    assert fit_scales([zeros]) == {"TIFF integer": (0, 1)}


def test_scales_are_written_and_read() -> None:
    scales = {"TIFF float": Scale(-1.5, 2.25)}
    assert from_json(to_json(scales)) == scales
    [line] = scale.describe(scales)
    assert line == "TIFF float: -1.5 is black, 2.25 is white"


@pytest.mark.parametrize(
    "values", [[1, 1], [2, 1], [0], "01", [0, "1"], [0, float("nan")], [0, 1e300], None, [True, 2]]
)
def test_damaged_scales_are_rejected(values: Any) -> None:
    with pytest.raises(ValueError, match="TIFF"):
        from_json({"TIFF integer": values})
