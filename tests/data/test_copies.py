"""Copies and near-copies of images: what counts as one, and what does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from noise_images import jpeg, noise, scene
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from autotl.data import copies
from autotl.data.copies import digest_examples, find_copies, find_near_copies
from autotl.space.plugin import Example


def stack(*images: Image.Image) -> np.ndarray:
    return np.stack([copies.make_thumbnail(image) for image in images])


def pairs(thumbnails: np.ndarray) -> list[list[int]]:
    return sorted(find_near_copies(thumbnails).tolist())


def keys(examples: list[Example]) -> list[str]:
    opened = [copies.open_for_thumbnail(e.item) for e in examples]
    contents = [Path(e.item).read_bytes().hex() for e in examples]
    return find_copies(examples, [copies.make_thumbnail(o) for o in opened], contents)


def test_files_with_equal_pixels_are_copies(tmp_path: Path) -> None:
    image = scene(0)
    exif = Image.Exif()
    exif[0x010E] = "a description"
    info = PngInfo()
    info.add_text("Comment", "a comment")
    image.save(tmp_path / "a.png", compress_level=1)
    image.save(tmp_path / "b.png", compress_level=9, pnginfo=info)
    image.save(tmp_path / "c.bmp")
    turned = image.transpose(Image.Transpose.ROTATE_90)
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.save(tmp_path / "d.png", exif=sideways)
    image.save(tmp_path / "e.jpg", quality=90)
    image.save(tmp_path / "f.jpg", quality=90, exif=exif)
    names = sorted(p.name for p in tmp_path.iterdir())
    key = dict(zip(names, keys([Example(n, tmp_path / n, "a") for n in names]), strict=True))
    assert key["a.png"] == key["b.png"] == key["c.bmp"] == key["d.png"]
    assert key["e.jpg"] == key["f.jpg"] != key["a.png"]


def test_equal_thumbnails_are_not_enough(tmp_path: Path) -> None:
    image = scene(0)
    image.save(tmp_path / "a.png")
    pixels = np.array(image)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.new("RGB", (40, 40), "white").save(tmp_path / "c.png")
    Image.new("RGB", (40, 50), "white").save(tmp_path / "d.png")
    examples = [Example(n, tmp_path / n, "a") for n in ("a.png", "b.png", "c.png", "d.png")]
    assert len(set(keys(examples))) == 4
    thumbnails = [copies.make_thumbnail(copies.open_for_thumbnail(e.item)) for e in examples]
    assert (thumbnails[0] == thumbnails[1]).all()


def test_deep_images_of_equal_values_are_copies(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (40, 40)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "b.tif")
    Image.fromarray(values + np.uint16(1)).save(tmp_path / "c.tif")
    one, two, other = keys([Example(n, tmp_path / n, "a") for n in ("a.png", "b.tif", "c.tif")])
    assert one == two != other


def test_near_copies_are_images_encoded_again_resized_or_a_little_moved() -> None:
    for seed in range(5):
        image = scene(seed)
        small, large = image.resize((48, 48)), image.resize((150, 150))
        moved = Image.fromarray(np.roll(np.array(image), 1, axis=1))
        brighter = image.point(lambda value: min(255, value + 5))
        for other in (jpeg(image, 50), small, large, moved, brighter):
            assert pairs(stack(scene(99), image, other)) == [[1, 2]]


def test_different_images_are_not_near_copies() -> None:
    assert pairs(stack(*(scene(seed) for seed in range(200)))) == []
    assert pairs(stack(*(Image.fromarray(noise(seed, 48)) for seed in range(200)))) == []


def test_plain_images_are_never_near_copies() -> None:
    plain = [Image.new("RGB", (64, 64), (200, 200, 200 + i)) for i in range(20)]
    table = []
    for i in range(20):
        image = Image.new("RGB", (64, 64), "white")
        image.paste("black", (3 * i, 20, 3 * i + 6, 44))  # one object, at different positions
        table.append(image)
    assert pairs(stack(*plain)) == []
    assert pairs(stack(*table)) == []


def test_colours_distinguish_images() -> None:
    grey = np.array(scene(0))
    assert pairs(stack(Image.fromarray(grey), Image.fromarray(grey[..., [1, 2, 0]]))) == []


def test_many_images_are_compared_without_comparing_all_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = [scene(seed, 32) for seed in range(300)]
    thumbnails = stack(*images, *(jpeg(image, 60) for image in images))
    expected = pairs(thumbnails)
    assert len(expected) >= 290
    monkeypatch.setattr(copies, "ALL_PAIRS", 0)
    assert pairs(thumbnails) == expected


def test_no_images_have_no_pairs() -> None:
    assert pairs(np.zeros((0, 16, 16, 3), np.uint8)) == []
    assert pairs(stack(scene(0))) == []


def test_digests_identify_images(tmp_path: Path) -> None:
    scene(0).save(tmp_path / "a.png")
    scene(0).save(tmp_path / "b.png", compress_level=1)
    scene(1).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes(b"no image")
    a, b, c, d = digest_examples([Example(n, tmp_path / f"{n}.png", "") for n in "abcd"])
    assert a == b != c
    assert d == 0
