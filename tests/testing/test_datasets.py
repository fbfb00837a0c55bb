"""Dataset plugins."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotl import (
    Example,
    dataset,
)
from autotl.errors import PluginError
from autotl.space import registry
from autotl.space.plugin import AnyPlugin
from autotl.testing import check, examine

PLUGIN = Path(__file__).parents[2] / "plugins" / "examples" / "autotl_series.py"


def reading(make: Callable[[], Any], matches: tuple[str, ...] = ("made:*",)) -> AnyPlugin:
    @dataset(name="read", matches=list(matches))
    def read(source: str) -> Any:
        """Two images, with a fault."""
        return make()

    return read


def two(**changes: Any) -> list[Example]:
    values: dict[str, Any] = {"item": np.zeros((4, 4, 3), np.uint8), **changes}
    return [Example("a", label="x", **values), Example("b", label="y", **values)]


def labelled(*labels: Any) -> list[Example]:
    return [Example(str(i), np.zeros((4, 4), np.uint8), label) for i, label in enumerate(labels)]


def test_a_valid_dataset_plugin_passes() -> None:
    assert check(reading(two), source="made:up") == 1
    assert check(reading(two)) == 1


@pytest.mark.parametrize("labels", [(1, 2.5), (["a"], ("b", "a"), []), ({"x": 1}, {"x": 2.5}, "")])
def test_labels_may_be_numbers_lists_and_numbers_by_name(labels: tuple[Any, ...]) -> None:
    assert check(reading(lambda: labelled(*labels)), source="made:up") == 1


@pytest.mark.parametrize(
    ("plugin", "words"),
    [
        (reading(two, ()), "does not declare which sources it reads"),
        (reading(two, ("other:*",)), "none of these patterns matches 'made:up'"),
        (reading(lambda: [("a", 1)]), "return a list of autotl.Example"),
        (reading(lambda: iter(two())), "return a list of autotl.Example"),
        (reading(lambda: [*two(), *two()]), "names several examples 'a'"),
        (reading(lambda: two(split="valid")), "gives 'a' the split 'valid'"),
        (reading(lambda: two(item="no/such.png")), "a file that exists"),
        (reading(lambda: two(item=np.zeros((4, 4)))), "the image float64 [4, 4]"),
        (reading(lambda: two()[:1]), "fewer than two classes"),
        (reading(lambda: labelled({"x": 1}, {"x": 1}, "")), "fewer than two classes"),
        (reading(lambda: labelled("a", None)), "the label None; a label is a text, a number"),
        (reading(lambda: labelled([1, 2], ["a"])), "the label [1, 2]; a label is a text"),
        (reading(lambda: labelled({"x": "1"}, {"x": 2})), "the label {'x': '1'}; a label is"),
        (
            reading(
                lambda: random.sample(
                    [*two(), Example(str(random.random()), two()[0].item, "x")], 3
                )
            ),
            "the second time",
        ),
    ],
)
def test_a_violation_of_a_dataset_plugin_is_reported_in_words(
    plugin: AnyPlugin, words: str
) -> None:
    with pytest.raises(PluginError) as caught:
        check(plugin, source="made:up")
    assert words in str(caught.value)


def test_the_items_of_another_kind_are_read_by_it() -> None:
    plugins = registry.load([PLUGIN])
    series = plugins.input_kinds["series"]

    def read(items: list[Any], accepts: bool = True) -> AnyPlugin:
        @dataset(name="read", input="series", matches=["made:*"], accepts=lambda source: accepts)
        def read(source: str) -> list[Example]:
            """Time series."""
            return [Example(str(i), item, str(i % 2)) for i, item in enumerate(items)]

        return read

    valid = [np.ones(3), np.zeros(4)]
    assert check(read(valid), source="made:up", kind=series) == 1
    [sentence] = examine(read([*valid, np.zeros(0)]), source="made:up", kind=series).broken
    assert "gives '2' the series float64 [0]; the series input cannot read it" in sentence
    [sentence] = examine(read(valid, accepts=False), source="made:up", kind=series).broken
    assert "does not accept 'made:up'" in sentence


def test_the_built_in_dataset_plugin_that_needs_no_file_passes() -> None:
    sklearn = registry.load().dataset("sklearn:digits")
    assert check(sklearn, source="sklearn:digits") == 1
