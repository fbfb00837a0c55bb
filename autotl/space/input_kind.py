"""Kinds of input, such as images or sentences, and how their examples are encoded for a backbone.

An ``InputKind`` knows what an *item* is (the content of an example: a file, an array, a string),
reads items for predictions and shows them in reports. A ``ModelInput`` belongs to a backbone: it
encodes an item as an array of fixed shape, which is packed, batched and fed to the backbone.

A package adds a kind by an instance of ``InputKind`` at the top level of a plugin module, a dataset
plugin and backbones with ``input="its name"``. A kind that ``becomes`` another one converts its
items to those, and has the backbones of that kind: recordings become images as spectrograms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.errors import DataError
from autotl.space import item_defaults

if TYPE_CHECKING:
    import numpy as np

    from autotl.space.plugin import Example

IMAGE = "image"
"""The name of the kind that plugins are of by default."""

ANY_INPUT = "any"
"""Stands for every kind, for augmentations that do not depend on it."""


@dataclass(frozen=True)
class Preview:
    """A small view of an item for a report.

    Args:
        media_type: ``text/plain`` (UTF-8), or an ``image/...`` or ``audio/...`` that browsers show.
        content: The bytes of the text or of the file.
    """

    media_type: str
    content: bytes


@dataclass(frozen=True)
class WeightedText:
    """An explanation of a prediction in words.

    Args:
        parts: The parts of the text in order, each with the weight of its support for the class,
            from -1 (speaks against it) to 1.
    """

    parts: tuple[tuple[str, float], ...]


PredictItems = Callable[[Sequence[Any]], Any]
"""Predicts items: the probabilities ``float32 [N, C]`` of ``N`` items."""


class ModelInput(ABC):
    """The input that a backbone expects: its attribute ``expects``.

    Attributes:
        kind: Name of the kind of the items.
        size: The size in the unit of the kind: the side of an image in pixels, or a number of
            tokens or samples.
        shape: Shape of an encoded item, ``(size,)`` by default. Items of three dimensions are
            images ``[H, W, channels]``, whose batches are ``[B, channels, H, W]``; batches of
            others are ``[B, *shape]``.
        dtype: NumPy's name of the type of an encoded item, e.g. ``uint8``.
        key: Identifies the encoding in file names: inputs with equal keys encode items equally. It
            depends on all that ``encode`` depends on: a vocabulary enters by a digest. By default
            it is the kind and the shape.
        has_padding: Whether encoded items may be padded. The backbone's maps ``[B, positions, F]``
            are then zeros at the padded positions, which heads that take ``padding`` leave out.
    """

    kind: str
    size: int
    dtype: str = "float32"
    has_padding: bool = False

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """``(size,)``."""
        return (self.size,)

    @cached_property
    def key(self) -> str:
        """The kind and the shape, such as ``series-128``."""
        return "-".join([self.kind, *map(str, self.shape)])

    @abstractmethod
    def encode(self, item: Any) -> Any:
        """Encode an item as an array of this shape and type.

        Raises:
            Exception: The item cannot be read.
        """

    def make_preprocessing(self) -> Any:
        """A ``torch.nn.Module`` that prepares a batch on the device, or None if it need not be.

        It gets a batch of encoded items, and returns what the backbone takes.
        """
        return None

    def save(self, folder: Path) -> None:  # noqa: B027  most inputs need no files
        """Write the files, such as a vocabulary, that ``encode`` and the backbone are built from.

        They travel with the model. A backbone plugin that takes ``saved`` gets this folder when a
        model is loaded, instead of pretrained weights.

        Args:
            folder: An empty folder.
        """

    def describe(self) -> dict[str, Any]:
        """The description for ``config.json`` and for exports: values of JSON."""
        return {"kind": self.kind, "size": self.size, "key": self.key}


class InputKind:
    """A kind of input: examples whose items are files (``Path``), texts, arrays or anything else.

    A subclass sets the words below and defines ``toy_item``, by which its plugins are tested. For
    items that are neither files nor texts nor arrays of numbers it defines ``content`` too.

    Attributes:
        name: Its name, which plugins give as ``input``.
        noun: What one example is called in sentences, e.g. ``sentence``.
        nouns: The plural.
        unit: The unit of sizes, e.g. ``tokens``.
        becomes: The kind to which ``convert`` converts items, whose backbones are used; if empty,
            this kind itself.
        suffixes: The suffixes, in lower case, of the files of a folder that ``read`` opens; all
            files if empty.
    """

    name: str
    noun: str
    nouns: str
    unit: str
    becomes: str = ""
    suffixes: Sequence[str] = ()

    @property
    def backbone_input(self) -> str:
        """The kind of the backbones that are used."""
        return self.becomes or self.name

    def content(self, item: Any) -> bytes:
        """The bytes that identify an item: items with equal bytes are copies.

        By default those of a file, a text, or an array of finite numbers.

        Raises:
            Exception: The item cannot be read; the message is shown to the user.
        """
        return item_defaults.identify(item)

    def show(self, item: Any, scales: Mapping[str, Any]) -> Preview:
        """A preview of an item for the report.

        By default lines of an array ``[N]`` or ``[rows, N]``, and text of other items.

        Args:
            item: The item.
            scales: What ``measure`` returned for the data set.

        Raises:
            Exception: The item cannot be read.
        """
        return Preview(*item_defaults.show(item))

    def open_file(self, file: Path) -> Any:
        """The item in a file that ``read`` is asked for; by default the file itself.

        Raises:
            Exception: The file cannot be read; the message is shown to the user.
        """
        return file

    def read(self, argument: str) -> Iterable[tuple[str, Any]]:
        """Yield the name and the item of each example that an argument of ``predict`` stands for.

        By default what ``open_file`` returns for a file, or for each file below a folder.

        Args:
            argument: What a user typed, such as a file or a folder.

        Raises:
            DataError: There is nothing of this kind.
        """
        for file in item_defaults.find_files(argument, self.nouns, self.suffixes):
            try:
                item = self.open_file(file)
                if not isinstance(item, Path):  # a file is opened later
                    self.content(item)
            except Exception as error:  # a plugin may raise anything
                reason = str(error).partition("\n")[0] or type(error).__name__
                raise DataError(f"{file} cannot be read as {self.noun}: {reason}") from error
            yield str(file), item

    def find_file(self, item: Any) -> Path | None:
        """The file that an item is in, which must not be in a folder that AutoTL replaces."""
        return item if isinstance(item, Path) else None

    def convert(self, item: Any) -> Any:
        """Convert an item to one of the kind ``becomes``."""
        return item

    def measure(self, items: Sequence[Any]) -> Mapping[str, tuple[float, float]]:
        """Measure on a whole data set what ``encode`` has to know of it, such as a duration.

        It is stored with the model, and ``encode`` gets it for new items too. It belongs to what
        identifies the data set.

        Args:
            items: The items that can be read.

        Returns:
            Names with a low and a higher number each, e.g. ``{"seconds": (0, 4.5)}``.
        """
        return {}

    def encode(self, item: Any, expects: ModelInput, scales: Mapping[str, Any]) -> Any:
        """Encode an item for a backbone.

        Args:
            item: The item.
            expects: The input of the backbone.
            scales: What ``measure`` returned for the data set of the model; empty before that.

        Raises:
            Exception: The item cannot be read.
        """
        return expects.encode(self.convert(item))

    def useful_size(self, items: Sequence[Any], expects: ModelInput) -> int | None:
        """The size beyond which inputs tell nothing more of most items; None if unknown.

        It is chosen for a search unless the user or the budget demand another one.

        Args:
            items: A sample of the items.
            expects: The input of a backbone at its own size, which is not exceeded.
        """
        return None

    def explain(self, item: Any, class_index: int, predict: PredictItems) -> WeightedText | None:
        """Explain why an item was predicted to be of a class; None if that is not possible.

        Args:
            item: The item.
            class_index: Index of the class.
            predict: Predicts modified items.
        """
        return None

    def toy_item(self, label: int, random: np.random.Generator) -> Any:
        """Make an item of an easy class, by which plugins of this kind are tested.

        Args:
            label: Number of the class, from 0.
            random: Draws all that is random in it.
        """
        raise NotImplementedError(f"define toy_item of {type(self).__name__}")

    def toy(self, counts: Sequence[int], seed: int = 0) -> list[Example]:
        """Make examples of easy classes, by default by ``toy_item``.

        Args:
            counts: Number of examples of each class.
            seed: Seed of what is random in them.
        """
        import numpy as np

        from autotl.space.plugin import Example

        random = np.random.default_rng(seed)
        return [
            Example(f"{label}/{i}", self.toy_item(label, random), str(label))
            for label, count in enumerate(counts)
            for i in range(count)
        ]
