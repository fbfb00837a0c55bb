"""Kinds of input: a kind of time series, each time with one fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotl import Preview, WeightedText
from autotl.data import IMAGES
from autotl.errors import DataError, PluginError
from autotl.space import registry
from autotl.space.input_kind import InputKind
from autotl.testing import check, check_input_kind, examine_input_kind

PLUGIN = Path(__file__).parents[2] / "plugins" / "examples" / "autotl_series.py"
PLUGINS = registry.load([PLUGIN])
SERIES: Any = PLUGINS.input_kinds["series"]
KERNELS = PLUGINS.get("backbone", "random_kernels")


def variant(**attributes: Any) -> InputKind:
    """The kind of time series with other attributes or methods."""
    attributes["__module__"] = __name__  # otherwise that of ABCMeta
    kind: InputKind = type("Variant", (type(SERIES),), attributes)()
    return kind


def growing(self: Any, item: Any, counts: list[int] = [0]) -> bytes:  # noqa: B006
    counts[0] += 1
    return bytes(counts[0]) + b"x"


def read_nothing(self: Any, argument: str) -> Any:
    return [(argument, np.zeros(0))]


def raise_value_error(self: Any, argument: str) -> Any:
    raise ValueError(argument)


def show_nothing(self: Any, item: Any, scales: Any) -> Any:
    raise ValueError(item)


def raise_late(self: Any, argument: str) -> Any:
    yield argument, np.ones(3)
    raise DataError("no such file")


def show_other(media_type: str, content: bytes = b"x") -> Any:
    return lambda self, item, scales: Preview(media_type, content)


def explain(*weights: float) -> Any:
    parts = tuple(("word", weight) for weight in weights)
    return lambda self, item, class_index, predict: WeightedText(parts)


def toy(self: Any, counts: Any, seed: int = 0) -> Any:
    return SERIES.toy([sum(counts)], seed)


def toy_of_all_classes(self: Any, counts: Any, seed: int = 0) -> Any:
    return SERIES.toy([max(1, count) for count in counts], seed)


def unseeded_toy(self: Any, counts: Any, seed: int = 0) -> Any:
    return SERIES.toy(counts, np.random.SeedSequence().entropy)


def forget(self: Any, item: Any) -> Any:
    return item * 0


BROKEN = [
    ({"noun": " "}, "has no noun"),
    ({"unit": None}, "has no unit"),
    ({"name": "image"}, "is called 'image', which is AutoTL's own name"),
    ({"becomes": "series"}, "becomes itself"),
    ({"toy": toy}, "has toy examples {'0': 9} for the counts (4, 3, 2)"),
    ({"toy": toy_of_all_classes}, "another number of toy examples than asked for"),
    ({"toy": lambda self, counts, seed=0: [1, 2]}, "return a list of autotl.Example"),
    ({"toy": unseeded_toy}, "let toy depend on its seed"),
    ({"content": lambda self, item: str(item)}, "return bytes, not empty"),
    ({"content": lambda self, item: b""}, "return bytes, not empty"),
    ({"content": growing}, "other bytes as content of the same toy examples"),
    ({"content": lambda self, item: b"x"}, "equal bytes as content of toy examples of two classes"),
    ({"show": show_other("video/mp4")}, "shows 'video/mp4', which reports do not show"),
    ({"show": show_other("text/html")}, "shows 'text/html', which reports do not show"),
    ({"show": show_other("audio/wav", bytes(300_000))}, "shows 300,000 bytes"),
    ({"show": show_other("text/plain", b"\xff")}, "raises UnicodeDecodeError"),
    ({"show": lambda self, item, scales: b"x"}, "shows bytes; return an autotl.Preview"),
    ({"explain": explain(0.5, 2)}, "weights from -1 to 1"),
    ({"explain": explain(float("nan"))}, "weights from -1 to 1"),
    ({"read": raise_value_error}, "raises ValueError where a file to read does not exist"),
    ({"read": read_nothing}, "reads a file that does not exist without an error"),
    ({"convert": forget}, "encodes toy examples of different classes equally"),
    ({"convert": lambda self, item: "x"}, "cannot be encoded for a backbone of series inputs"),
    ({"useful_size": lambda self, items, expects: 0.5}, "has the useful size 0.5"),
    ({"measure": lambda self, items: {"samples": 5}}, "measures {'samples': 5}"),
    ({"measure": lambda self, items: {"samples": (5, 5)}}, "a low and a higher number"),
    ({"becomes": "image"}, "cannot be encoded for a backbone of image inputs"),
]


@pytest.mark.parametrize(("attributes", "words"), BROKEN, ids=[words[:30] for _, words in BROKEN])
def test_a_violation_of_an_input_kind_is_reported_in_words(
    attributes: dict[str, Any], words: str
) -> None:
    [sentence] = examine_input_kind(variant(**attributes), backbone=KERNELS).broken
    assert words in sentence
    assert sentence.startswith("input kind ")


def test_a_valid_kind_passes_with_and_without_a_backbone() -> None:
    check_input_kind(SERIES, backbone=KERNELS)
    assert "no item was encoded" in examine_input_kind(SERIES).notes[0]
    assert not examine_input_kind(SERIES, backbone=KERNELS).notes
    check_input_kind(variant(read=raise_late, explain=explain(1, -1, 0)), backbone=KERNELS)


def test_items_are_encoded_with_what_the_kind_measures() -> None:
    def encode(self: Any, item: Any, expects: Any, scales: Any) -> Any:
        return expects.encode(item * scales["height"][1])

    kind = variant(encode=encode, measure=lambda self, items: {"height": (0, np.max(items))})
    with pytest.raises(PluginError, match="measures"):
        check_input_kind(kind, backbone=KERNELS)  # numbers of NumPy are no JSON
    kind = variant(encode=encode, measure=lambda self, items: {"height": (0, float(np.max(items)))})
    check_input_kind(kind, backbone=KERNELS)
    assert check(KERNELS, kind=kind) == 1


def test_a_kind_whose_arguments_are_items_passes() -> None:
    def measure_words(self: Any, argument: str) -> Any:
        return [(argument, np.array([len(word) for word in argument.split("/")], float))]

    check_input_kind(variant(read=measure_words), backbone=KERNELS)


def test_a_kind_that_becomes_images_needs_no_backbone() -> None:
    def draw(self: Any, item: Any) -> Any:
        return np.uint8(np.clip(item[None].repeat(9, 0) * 60 + 120, 0, 255))

    kind = variant(convert=draw, becomes="image")
    assert not examine_input_kind(kind).notes
    check_input_kind(kind)


def test_an_error_of_a_kind_has_its_line() -> None:
    [sentence] = examine_input_kind(variant(show=show_nothing)).broken
    assert "raises ValueError in line" in sentence
    with pytest.raises(PluginError, match="input kind 'series' raises ValueError"):
        check_input_kind(variant(show=show_nothing))


def test_the_kind_of_images_keeps_the_contract_except_for_its_name() -> None:
    [sentence] = examine_input_kind(IMAGES).broken
    assert "AutoTL's own name" in sentence
