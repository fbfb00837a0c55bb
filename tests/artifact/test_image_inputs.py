"""A loaded model takes one image or many: paths, folders, Pillow images and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import write_images
from PIL import Image
from toy import CPU, model

from autotl.artifact.image_inputs import list_images
from autotl.artifact.predictor import Predictor
from autotl.errors import DataError
from autotl.tasks import Classification


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_images(tmp_path_factory.mktemp("inputs") / "photos", count=3)
    (folder / "red" / "._0.png").write_text("metadata")
    (folder / "red" / "notes.txt").write_text("no image")
    return folder


def test_paths_and_folders(photos: Path) -> None:
    red = [photos / "red" / f"{i}.png" for i in range(3)]
    assert list_images(str(red[0])) == list_images(red[0]) == [red[0]]
    assert list_images(photos / "red") == list_images([str(photos / "red")]) == red
    assert list_images(iter([red[1], photos / "red"])) == [red[1], *red]
    assert len(list_images(photos)) == 9
    assert list_images([]) == []


def test_arrays_and_their_batches() -> None:
    shapes = {(9, 7): 1, (9, 7, 3): 1, (2, 9, 7): 2, (2, 9, 7, 3): 2}
    for shape, count in shapes.items():
        assert len(list_images(np.zeros(shape, np.uint8))) == count
    assert len(list_images([np.zeros((9, 7), np.uint8)] * 3)) == 3


def test_arrays_have_the_channels_of_the_model() -> None:
    for channels in (1, 2, 6):
        shapes = {(9, 7, channels): 1, (2, 9, 7, channels): 2, (9, 7): 1, (5, 9, 7): 5}
        for shape, count in shapes.items():
            assert len(list_images(np.zeros(shape, np.uint8), channels)) == count
    with pytest.raises(DataError, match=r"neither an image \[H, W\] or \[H, W, 6\]"):
        list_images(np.zeros((9, 7, 3), np.uint8), 6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (3, "3 is not an image: expected a path"),
        (None, "None is not an image"),
        (b"photo.jpg", "is not an image"),
        ("", "it is empty"),
        ("x" * 300, "file name too long"),
        (["a\0b"], "null character"),
    ],
)
def test_what_is_no_image_is_named(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_images(images)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in this folder"):
        list_images(tmp_path)


def test_all_forms_of_an_image_have_the_same_prediction(photos: Path) -> None:
    predictor = Predictor(model().eval(), Classification(["a", "b", "c"]), CPU)
    file = photos / "blue" / "1.png"
    [expected] = predictor.predict([file])
    with Image.open(file) as opened:
        pixels = np.asarray(opened)
        forms = [str(file), opened, opened.convert("RGBA"), pixels, pixels[None], [pixels]]
        for form in forms:
            assert predictor.predict(form) == [pytest.approx(expected, abs=1e-6)]
    assert len(predictor.predict(photos / "blue")) == 3


def test_a_pillow_image_is_turned_upright(photos: Path) -> None:
    predictor = Predictor(model().eval(), Classification(["a", "b", "c"]), CPU)
    with Image.open(photos / "red" / "0.png") as opened:
        turned = opened.transpose(Image.Transpose.ROTATE_90)
        turned.getexif()[0x0112] = 6  # to be rotated by 270 degrees
        assert predictor.predict(turned) == [pytest.approx(predictor.predict(opened)[0], abs=1e-6)]


def test_an_image_that_cannot_be_read_is_an_error(photos: Path) -> None:
    predictor = Predictor(model().eval(), Classification(["a", "b", "c"]), CPU)
    with pytest.raises(DataError, match="the image: only 1 x 1 pixels"):
        predictor.predict(Image.new("RGB", (1, 1)))
    with pytest.raises(DataError, match=r"float64 .* is neither uint8"):
        predictor.predict(np.zeros((4, 4)))
