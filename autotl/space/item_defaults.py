"""What a kind of input does with its items unless it does better: identify, find and show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl import image_files
from autotl.errors import DataError, did_you_mean, find_path_fault, shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN_CHARACTERS = 2000
"""Number of characters of a text that are shown."""

SHOWN_LINES, SHOWN_POINTS = 8, 300
"""Number of the rows of an array that are drawn as lines, and of the points of a line."""

WIDTH, HEIGHT = 100, 60
"""Size of the view of an array, in units of the drawing."""


def identify(item: Any) -> bytes:
    """The bytes of a file (a ``Path``), of a text, or of an array of numbers with its shape.

    Raises:
        ValueError: A text or an array is empty, or has numbers that are not finite.
        TypeError: It is something else.
        OSError: The file cannot be read.
    """
    import numpy as np  # only where there are items

    if isinstance(item, Path):
        if not item.is_file():  # opening a pipe may wait forever
            raise FileNotFoundError(f"there is no file {item}")
        return item.read_bytes()
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        if not item.strip():
            raise ValueError("the text is empty")
        return item.encode()
    array = as_numbers(item)
    if array is None:
        raise TypeError(f"{type(item).__name__} is no file, text or array; define content")
    if not array.size or not np.isfinite(array).all():
        raise ValueError("it has no numbers, or some that are not finite")
    return repr((array.dtype.str, array.shape)).encode() + array.tobytes()


def as_numbers(item: Any) -> NDArray[Any] | None:
    """An item as an array of numbers; None if it is none."""
    import numpy as np

    array = np.asarray(item)
    return array if array.dtype.kind in "biufc" else None


def find_files(argument: str, nouns: str, suffixes: Sequence[str]) -> list[Path]:
    """The file that a user named, or all files below a folder, sorted.

    Args:
        argument: What the user typed.
        nouns: What the files contain, for messages.
        suffixes: The suffixes of the files of a folder, in lower case; any if empty.

    Raises:
        DataError: There are no such files.
    """
    if fault := find_path_fault(argument):
        raise DataError(f"there is no file or folder {shorten(argument)}: {fault}")
    path = Path(argument).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"there is no file or folder {shorten(argument)}; "
            f"{did_you_mean(path.name, names) if names else 'check the path'}"
        )
    try:
        listing = image_files.list_images(path)
    except OSError as error:
        raise DataError(f"{argument} cannot be listed: {error.strerror}") from None
    below = sorted([*listing.images, *listing.others])
    files = [path / f for f in below if not suffixes or f.name.lower().endswith(tuple(suffixes))]
    if not files:
        ends = f"; the names of their files end in {', '.join(suffixes)}" if suffixes else ""
        raise DataError(f"{argument} has no {nouns}{ends}")
    return files


def show(item: Any) -> tuple[str, bytes]:
    """A view of an item: lines of an array ``[N]`` or ``[rows, N]``, else the beginning as a text.

    Returns:
        The media type and the content.
    """
    array = None if isinstance(item, str | Path) else as_numbers(item)
    if array is not None and array.ndim in (1, 2) and array.size > 1 and array.dtype.kind != "c":
        return "image/svg+xml", _draw(array.reshape(-1, array.shape[-1])).encode()
    text = str(item)
    beginning = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
    return "text/plain", beginning.encode()


def _draw(rows: NDArray[Any]) -> str:
    """A drawing with one line for each row, all with the same scale, in SVG."""
    drawn = rows[:SHOWN_LINES, :: -(-rows.shape[1] // SHOWN_POINTS)].astype(float)
    low, high = float(drawn.min()), float(drawn.max())
    heights = HEIGHT * (high - drawn) / ((high - low) or 1)
    step = WIDTH / max(1, drawn.shape[1] - 1)
    lines = "".join(
        f'<polyline points="{" ".join(f"{i * step:.1f},{y:.1f}" for i, y in enumerate(row))}"/>'
        for row in heights
    )
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg {box}><g fill="none" stroke="teal">{lines}</g></svg>'
