"""The kind of input: texts."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autotl import Example, InputKind, ModelInput, WeightedText
from autotl.errors import DataError, did_you_mean, find_path_fault, shorten
from autotl.space.input_kind import PredictItems

from .tables import SUFFIXES as TABLE_SUFFIXES
from .tables import read_texts

TEXT_SUFFIXES = (".txt", ".text", ".md")
"""The suffixes of the files that contain one text each."""

PARTS = 60
"""Number of parts of a text, most often words, whose effect on a prediction is explained."""

BATCH = 20
"""Number of modified texts that are predicted at once."""

QUANTILE = 0.95
"""The fraction of the texts that need not be cut off at the size that is chosen."""

TOY_WORDS = {
    "animals": ["cat", "dog", "horse", "rabbit", "fox", "owl"],
    "food": ["bread", "cheese", "apple", "soup", "rice", "honey"],
    "weather": ["rain", "snow", "wind", "storm", "fog", "sunshine"],
    "music": ["piano", "violin", "drum", "song", "choir", "flute"],
}
TOY_FILLERS = [
    *("the", "a", "one", "some", "we", "they", "saw", "had", "liked", "with", "and", "of"),
    *("near", "today", "there"),
]


class Text(InputKind):
    """Texts: items are strings."""

    name = "text"
    noun = "text"
    nouns = "texts"
    unit = "tokens"

    def content(self, item: Any) -> bytes:
        """The text in UTF-8.

        Raises:
            ValueError: It is empty, or no text.
        """
        if not isinstance(item, str):
            raise ValueError(f"not a text but {type(item).__name__}")
        return super().content(item)

    def read(self, argument: str) -> Iterator[tuple[str, str]]:
        """Yield the texts of a text file, a folder of these, or a table; or the argument itself."""
        path, near = Path(argument), ""
        if not find_path_fault(argument):
            path = path.expanduser()
            if path.is_dir():
                return _read_folder(path)
            if path.exists():
                return _read_file(path, argument)
            names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            near = f"; {did_you_mean(path.name, names)}" if names else ""
        is_file = path.suffix.lower() in TEXT_SUFFIXES + TABLE_SUFFIXES
        if is_file or re.fullmatch(r"(~|\.\.?)?/\S*", argument):
            raise DataError(
                f"there is no file {shorten(argument)}{near}; if it is a text, give it on the "
                "standard input with -"
            )
        if not argument.strip():
            raise DataError("the text is empty; is a variable of the shell not set?")
        return iter([(" ".join(argument.split()), argument)])

    def useful_size(self, items: Sequence[Any], expects: ModelInput) -> int | None:
        """The number of tokens of nearly all texts, a multiple of 8, at most that of ``expects``.

        Computers multiply matrices with such sides faster.
        """
        from .tokens import Tokens

        if not isinstance(expects, Tokens) or not items:
            return None
        lengths = sorted(map(expects.count, items))
        length = lengths[math.ceil(QUANTILE * len(lengths)) - 1]
        return min(expects.size, 8 * math.ceil(length / 8))

    def explain(self, item: Any, class_index: int, predict: PredictItems) -> WeightedText:
        """Weigh words by how much lower the probability is without them.

        This is occlusion (Zeiler & Fergus 2014, arXiv:1311.2901). The weights are relative to the
        largest one. In a long text, the parts are several words each.
        """
        parts = _split(item)
        variants = ["".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
        if len(parts) == 1:
            return WeightedText(((parts[0], 1.0),))
        texts = [item, *variants]
        batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        whole, *without = (float(row[class_index]) for batch in batches for row in predict(batch))
        effects = [whole - probability for probability in without]
        largest = max(map(abs, effects)) or 1.0
        return WeightedText(tuple((p, e / largest) for p, e in zip(parts, effects, strict=True)))

    def toy(self, counts: Sequence[int], seed: int = 0) -> list[Example]:
        """Sentences with words of their class, of up to four classes."""
        if len(counts) > len(TOY_WORDS):
            raise ValueError(f"there are {len(TOY_WORDS)} classes of toy texts, not {len(counts)}")
        chance = random.Random(seed)
        classes = list(TOY_WORDS.items())[: len(counts)]
        return [
            Example(f"{label}/{i}", _make_sentence(words, chance), label)
            for i in range(max(counts, default=0))
            for (label, words), count in zip(classes, counts, strict=True)
            if i < count
        ]


def _read_folder(folder: Path) -> Iterator[tuple[str, str]]:
    files = find_text_files(folder)
    if not files:
        raise DataError(f"{folder}: no text files; their names end in {', '.join(TEXT_SUFFIXES)}")
    return ((path.as_posix(), read_text_file(folder / path)) for path in files)


def find_text_files(folder: Path) -> list[Path]:
    """The text files anywhere below a folder, relative to it and sorted; no hidden ones.

    Raises:
        DataError: The folder cannot be listed.
    """
    from autotl.image_files import list_images

    try:
        others = list_images(folder).others
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error
    return [path for path in others if path.name.lower().endswith(TEXT_SUFFIXES)]


def _read_file(path: Path, argument: str) -> Iterator[tuple[str, str]]:
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return ((f"{argument}:{number}", cell) for number, cell in read_texts(path))
    if suffix in TEXT_SUFFIXES:
        return iter([(argument, read_text_file(path))])
    readable = ", ".join(TEXT_SUFFIXES + TABLE_SUFFIXES)
    raise DataError(f"{argument} is not a file of texts; their names end in {readable}")


def read_text_file(path: Path) -> str:
    """Read the text in a file.

    Raises:
        DataError: It cannot be read, or is not in UTF-8.
    """
    if not path.is_file():  # opening a pipe may wait forever
        raise DataError(f"{path}: not a file; check the path")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; check the path") from error


def _split(item: str) -> list[str]:
    """Divide a text into at most ``PARTS`` parts: words with the space around them."""
    words = re.findall(r"\s*\S+\s*", item) or [item]
    size = math.ceil(len(words) / PARTS)
    return ["".join(words[i : i + size]) for i in range(0, len(words), size)]


def _make_sentence(words: Sequence[str], chance: random.Random) -> str:
    fillers = chance.choices(TOY_FILLERS, k=chance.randint(3, 8))
    chosen = fillers + chance.choices(words, k=2)
    chance.shuffle(chosen)
    return " ".join(chosen)


text = Text()
"""The kind that AutoTL finds."""
