"""The images that a loaded model predicts: paths, folders, Pillow images and arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autotl import image_files
from autotl.errors import DataError, find_path_fault, shorten
from autotl.space.kinds import RGB


def list_images(images: Any, channels: int = RGB) -> list[Any]:
    """List the images that are given alone, as a folder, or in a list.

    Args:
        images: A path of an image or of a folder, which stands for all images below it, sorted; a
            Pillow image; an array ``uint8 [H, W]`` or ``[H, W, C]``, or a batch of such arrays; or
            an iterable of these.
        channels: Number of channels of the model's images. C is this number, or 3 for grey images.

    Returns:
        Paths of files, Pillow images and arrays.

    Raises:
        DataError: There is something else, or no image in a folder.
    """
    if isinstance(images, str | Path):
        return list(_list_path(images))
    if isinstance(images, np.ndarray):
        accepted = (RGB, channels) if channels in (1, RGB) else (channels,)
        is_image = images.ndim < 3 or (images.ndim == 3 and images.shape[2] in accepted)
        if images.ndim == 3 and not is_image and images.shape[2] in (1, 2, 3, 4):
            raise DataError(
                f"an array {images.dtype} {list(images.shape)} is neither an image [H, W] or "
                f"[H, W, {channels}] nor a batch of these; convert it, e.g. with Pillow"
            )
        return [images] if is_image else list(images)
    if hasattr(images, "getbands"):  # a Pillow image
        return [images]
    if isinstance(images, Iterable) and not isinstance(images, bytes | dict):
        return [image for inner in images for image in list_images(inner, channels)]
    raise DataError(
        f"{shorten(images)} is not an image: expected a path, a folder, a Pillow image, an array "
        f"uint8 [H, W] or [H, W, {channels}], or a list of these"
    )


def _list_path(name: str | Path) -> Iterator[Path]:
    path = Path(name)
    if fault := find_path_fault(path) if str(name) else "it is empty":
        raise DataError(f"{shorten(str(name))} is not a valid path: {fault}")
    if not path.is_dir():
        yield path
        return
    yield from (path / file for file in list_folder(path).images)


def list_folder(folder: Path) -> image_files.Listing:
    """List the images below a folder, of which there must be one.

    Raises:
        DataError: The folder cannot be listed, or has no image.
    """
    try:
        listing = image_files.list_images(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from None
    if not listing.images:
        issues = list(image_files.describe_unread(listing))
        reason = f"there are {issues[0][1]}" if issues else "it is empty"
        endings = ", ".join(image_files.SUFFIXES)
        raise DataError(
            f"{folder}: no images in this folder; {reason}; expected files with {endings}"
        )
    return listing
