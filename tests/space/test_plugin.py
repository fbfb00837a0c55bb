"""Plugins: decorators, calls and members of families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import autotl
from autotl import augment, backbone, dataset, head
from autotl.errors import PluginError
from autotl.space.kinds import GIVEN_ARGUMENTS
from autotl.space.plugin import Plugin, Weights


def test_a_plugin_has_the_properties_of_its_function() -> None:
    @head
    def plain(features: int, classes: int) -> None:
        """A head without keywords.

        More about it.
        """

    assert plain.summary == "A head without keywords."
    assert (plain.kind, plain.name, plain.order, plain.requires) == ("head", "plain", None, ())


def test_a_function_without_docstring_has_an_empty_summary() -> None:
    @head
    def silent(features: int) -> None: ...

    assert silent.summary == ""


def test_decorators_work_with_and_without_parentheses() -> None:
    def add(features: int, classes: int, *, more: bool = True) -> int:
        return features + classes + more

    bare, called, named = head(add), head()(add), head(name="sum", order=2, requires=["x>=1"])(add)
    for plugin in (bare, called, named):
        assert plugin(1, 2) == 4
        assert plugin(1, classes=2, more=False) == 3
    assert bare == called
    assert (bare.name, named.name) == ("add", "sum")
    assert (named.order, named.requires) == (2, ("x>=1",))


@pytest.mark.parametrize(
    ("decorate", "message"),
    [
        (lambda: head(requires="peft")(lambda features: 0), r"head plugin .*requires=\['peft'\]"),
        (
            lambda: dataset(matches="*.csv")(lambda source: []),
            r"dataset plugin .*matches=\['\*\.csv'\]",
        ),
    ],
)
def test_options_that_must_be_lists_are_checked(decorate: Callable[[], Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        decorate()


@pytest.mark.parametrize("kind", GIVEN_ARGUMENTS)
def test_every_kind_has_a_decorator_and_can_take_all_given_arguments(kind: str) -> None:
    arguments = GIVEN_ARGUMENTS[kind]
    names: dict[str, Any] = {}
    exec(f"def function({', '.join(arguments)}): return {arguments[0]}", names)
    plugin = getattr(autotl, kind)(names["function"])
    assert plugin.kind == kind == getattr(autotl, kind).kind
    context = {name: i for i, name in enumerate(reversed(arguments))}
    assert plugin.call({**context, "other": -1}, {}) == context[arguments[0]]


def test_call_passes_only_the_arguments_in_the_signature() -> None:
    @head
    def second(classes: int, *, size: int = 0, note: str = "") -> tuple[int, int, str]:
        return classes, size, note

    context = {"features": 5, "classes": 3, "size": 224}
    assert second.call(context, {}) == (3, 0, "")  # a keyword is never taken from the context
    assert second.call(context, {"size": 7, "note": "x"}) == (3, 7, "x")
    assert second.takes_argument("classes")
    assert not second.takes_argument("features")
    assert not second.takes_argument("size")

    @augment
    def nothing() -> str:
        return "nothing"

    assert nothing.call(context, {}) == "nothing"


def test_call_follows_the_order_of_the_signature() -> None:
    @head
    def swapped(classes: int, features: int) -> tuple[int, int]:
        return classes, features

    assert swapped.call({"features": 5, "classes": 3}, {}) == (3, 5)


def test_call_gives_no_argument_the_value_of_another() -> None:
    @backbone
    def build(weights: Weights | None = None, size: int | None = None) -> Any:
        return weights, size

    assert build.call({"size": 32}, {}) == (None, 32)


def test_a_member_of_a_family_is_called_with_its_name_and_weights() -> None:
    @backbone(name="family", members=lambda patterns: ["a", "b"])
    def build(name: str, weights: Weights | None) -> tuple[str, Weights | None]:
        return name, weights

    weights = Weights("here")
    a, b = build.member("a", weights), build.member("b", None)
    assert (a.name, a.family, a.given) == ("a", "family", {"name": "a", "weights": weights})
    assert a.call({"size": None}, {}) == ("a", weights)
    assert b.call({"name": "not this", "weights": weights}, {}) == ("b", None)
    assert (build.name, build.family, build.given) == ("family", "", {})  # unchanged


def test_a_plugin_is_immutable() -> None:
    plugin = dataset(matches=["*.x"])(lambda source: source)
    assert isinstance(plugin, Plugin)
    with pytest.raises(AttributeError):
        plugin.name = "other"  # type: ignore[misc]
    assert plugin.matches == ("*.x",)
