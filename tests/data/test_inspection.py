"""What the check notes of an image when it opens it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from noise_images import noise
from PIL import Image

from autotl.data.inspection import inspect
from autotl.space.plugin import Example


def test_an_image_is_described(tmp_path: Path) -> None:
    Image.fromarray(noise(0, 40)).resize((50, 40)).save(tmp_path / "a.png")
    inspection = inspect(Example("a", tmp_path / "a.png", "x"))
    assert (inspection.problem, inspection.side, inspection.animated) == ("", 40, False)
    assert inspection.thumbnail.shape == (16, 16, 3)
    assert inspection.sample is None
    same = inspect(Example("b", tmp_path / "a.png", "x"))
    assert same.content == inspection.content


def test_a_deep_image_has_a_sample_of_its_values(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 40), 3000, np.uint16)).save(tmp_path / "a.tif")
    sample = inspect(Example("a", tmp_path / "a.tif", "x")).sample
    assert sample is not None
    assert sample.file_type == "TIFF integer"
    assert set(sample.quantiles.tolist()) == {3000}


def test_problems_are_described(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert inspect(Example("a", tmp_path / "a.png", "x")).problem == "the file is empty"
    assert inspect(Example("a", noise(0), "")).problem == "no label"
