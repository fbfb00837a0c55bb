"""Plugins: what is read from a signature, and what an author is told who breaks a rule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

import autotl
from autotl import Range, When, augment, backbone, dataset, freeze, head
from autotl.errors import PluginError
from autotl.space.plugin import GIVEN_ARGUMENTS, SEARCHED_KINDS, Hyperparameter, Plugin, Weights

if TYPE_CHECKING:
    from torch import nn

    from autotl.models import Group, Model

FUTURE = "from __future__ import annotations\n"


@head
def rich(
    features: int,
    classes: int,
    *,
    depth: Literal[1, 2] = 1,
    width: Annotated[int, Range(64, 1024, log=True)] = 256,
    second: Annotated[int, Range(8, 64), When(depth=2)] = 16,
    dropout: Annotated[float, Range(0, 0.5)] = 0,
    norm: bool = True,
    gate: Annotated[bool, When(norm=(True, False), depth=1)] = False,
    note: str = "plain",
    free: Any = None,
    bare=3,  # noqa: ANN001
) -> nn.Module:
    """A head with a keyword of every sort.

    More about it.
    """
    return (features, classes, depth, width)  # type: ignore[return-value]


def define(code: str, future: bool = True) -> dict[str, Any]:
    """The names that a plugin module of this text defines."""
    names: dict[str, Any] = {"__name__": "somebody"}
    start = "from typing import *\nfrom autotl import *\n"
    exec(compile((FUTURE if future else "") + start + code, "somebody.py", "exec", 0, True), names)
    return names


def found(plugin: Any) -> dict[str, Hyperparameter]:
    return {h.name: h for h in plugin.hyperparameters}


def test_a_signature_is_read() -> None:
    h = found(rich)
    assert list(h) == ["depth", "width", "second", "dropout", "norm", "gate"]  # in their order
    assert h["depth"] == Hyperparameter("depth", int, 1, choices=(1, 2))
    assert h["width"] == Hyperparameter("width", int, 256, range=Range(64, 1024, log=True))
    assert h["norm"] == Hyperparameter("norm", bool, True, choices=(False, True))
    assert (h["dropout"].type, h["dropout"].range) == (float, Range(0, 0.5))
    assert h["second"].when is not None
    assert h["second"].when.conditions == {"depth": (2,)}
    assert h["gate"].when is not None
    assert h["gate"].when.conditions == {"norm": (True, False), "depth": (1,)}
    assert rich.settings == {"note": "plain", "free": None, "bare": 3}
    assert rich.defaults == {
        **{"depth": 1, "width": 256, "second": 16, "dropout": 0, "norm": True, "gate": False}
    }
    assert rich.summary == "A head with a keyword of every sort."
    assert (rich.kind, rich.name, rich.order, rich.requires) == ("head", "rich", None, ())


def test_a_function_without_docstring_has_an_empty_summary() -> None:
    @head
    def silent(features: int) -> None: ...

    assert silent.summary == ""


@pytest.mark.parametrize("future", [True, False])
def test_annotations_may_be_strings_or_not(future: bool) -> None:
    code = "Rate = Annotated[float, Range(1e-5, 1e-1, log=True)]\n@freeze\n"
    code += "def f(model: 'Model', *, b: Literal[1, 2] = 1, lr: Rate = 1e-3, "
    code += "twice: Annotated[Rate, When(b=1)] = 1e-3, s: 'str' = 'x'): ..."
    h = found(define(code, future)["f"])
    assert list(h) == ["b", "lr", "twice"]
    assert h["lr"].range == h["twice"].range == Range(1e-5, 1e-1, log=True)
    assert h["twice"].when is not None


def test_what_is_given_may_be_annotated_with_names_that_only_type_checkers_see() -> None:
    @freeze
    def strategy(model: Model, *, lr: Annotated[float, Range(0.0, 1.0)] = 0.5) -> list[Group]:
        return []

    assert list(found(strategy)) == ["lr"]


BROKEN = [  # code, then what the message must say: the plugin, the keyword, what to do
    (
        "@head\ndef h(features, size): ...",
        ["head plugin 'h'", "'size'", "features, classes", "'*'"],
    ),
    ("@head\ndef h(features, *rest): ...", ["head plugin 'h'", "'rest'", "after a '*'"]),
    ("@head\ndef h(features, **rest): ...", ["head plugin 'h'", "'rest'", "after a '*'"]),
    ("@head\ndef h(*, n: bool): ...", ["head plugin 'h'", "'n'", "needs a default"]),
    (
        "@head\ndef h(*, n: Annotated[int, Range(1, 5)] = 6): ...",
        ["head plugin 'h'", "n=6 is outside 1 to 5", "choose a default inside"],
    ),
    (
        "@head\ndef h(*, n: Annotated[float, Range(1e-05, 0.1, log=True)] = 1.0): ...",
        ["head plugin 'h'", "n=1.0 is outside 1e-05 to 0.1 (log)"],
    ),
    ("@head\ndef h(*, n: Annotated[int, Range(1, 5)] = 2.0): ...", ["'h'", "n=2.0", "1 to 5"]),
    ("@head\ndef h(*, n: Annotated[int, Range(0, 5)] = True): ...", ["'h'", "n=True", "0 to 5"]),
    ("@head\ndef h(*, n: Literal['a', 'b'] = 'c'): ...", ["'h'", "n='c' is outside a | b"]),
    ("@head\ndef h(*, n: Literal[1, 2] = True): ...", ["'h'", "n=True is outside 1 | 2"]),
    ("@head\ndef h(*, n: bool = 1): ...", ["'h'", "n=1 is outside False | True"]),
    (
        "@head\ndef h(*, n: Annotated[bool, When(m=1)] = True, m: Literal[1, 2] = 1): ...",
        ["head plugin 'h'", "'n' depends on 'm'", "before it", "move it up"],
    ),
    (
        "@head\ndef h(*, m: int = 1, n: Annotated[bool, When(m=1)] = True): ...",
        ["head plugin 'h'", "'n' depends on 'm'", "no searched keyword"],
    ),
    (
        "@head\ndef h(*, n: Annotated[str, Range(1, 5)] = 'a'): ...",
        ["head plugin 'h'", "'n' has a Range", "annotate it int or float"],
    ),
    (
        "@head\ndef h(*, n: Annotated[int | None, Range(1, 5)] = 2): ...",
        ["head plugin 'h'", "'n' has a Range", "annotate it int or float"],
    ),
    (
        "@head\ndef h(*, n: Annotated[int, Range(0.5, 5)] = 2): ...",
        ["head plugin 'h'", "'n' is an int", "whole numbers"],
    ),
    (
        "@head\ndef h(*, n: Literal['a', None] = None): ...",
        ["head plugin 'h'", "'n' can be a | None", "choose among"],
    ),
    ("@head(requires='peft')\ndef h(): ...", ["head plugin 'h'", "requires=['peft']"]),
    ("@dataset(matches='*.csv')\ndef d(source): ...", ["dataset plugin 'd'", "matches=['*.csv']"]),
]


@pytest.mark.parametrize("future", [True, False])
@pytest.mark.parametrize(("code", "parts"), BROKEN, ids=[c.split(" ", 1)[1] for c, _ in BROKEN])
def test_a_broken_rule_is_named(code: str, parts: list[str], future: bool) -> None:
    with pytest.raises(PluginError) as caught:
        define(code, future)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("interval", "part"),
    [
        ("Range(0, 1, log=True)", "starts above 0"),
        ("Range(-1, 1, log=True)", "starts above 0"),
        ("Range(1, 1)", "low must be less than high"),
        ("Range(2, 1)", "low must be less than high"),
        ("Range(float('nan'), 1)", "low must be less than high"),
    ],
)
def test_an_impossible_range_is_named_with_its_plugin(interval: str, part: str) -> None:
    code = f"@head\ndef h(*, n: Annotated[float, {interval}] = 1.0): ..."
    with pytest.raises(PluginError, match=part):
        define(code, future=False)
    with pytest.raises(PluginError, match=f"head plugin 'h': Range.*{part}"):
        define(code)


def test_a_keyword_of_unknown_type_is_named() -> None:
    with pytest.raises(PluginError, match=r"head plugin 'h'.*'Missing'.*import or define"):
        define("@head\ndef h(*, n: Missing = None): ...")


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


@pytest.mark.parametrize("kind", GIVEN_ARGUMENTS)
def test_every_kind_has_its_decorator_and_takes_all_it_can_be_given(kind: str) -> None:
    names = define(
        f"@{kind}\ndef p({', '.join(GIVEN_ARGUMENTS[kind])}): return {GIVEN_ARGUMENTS[kind][0]}"
    )
    plugin = names["p"]
    assert plugin.kind == kind == getattr(autotl, kind).kind
    context = {name: i for i, name in enumerate(reversed(GIVEN_ARGUMENTS[kind]))}
    assert plugin.call({**context, "other": -1}, {}) == context[GIVEN_ARGUMENTS[kind][0]]


def test_the_search_chooses_of_all_kinds_but_datasets() -> None:
    assert set(GIVEN_ARGUMENTS) - set(SEARCHED_KINDS) == {"dataset"}


def test_give_passes_only_what_is_named() -> None:
    @head
    def second(classes: int, *, size: int = 0, note: str = "") -> tuple[int, int, str]:
        return classes, size, note

    context = {"features": 5, "classes": 3, "size": 224}
    assert second.call(context, {}) == (3, 0, "")  # a keyword is the search's, whatever its name
    assert second.call(context, {"size": 7, "note": "x"}) == (3, 7, "x")

    @augment
    def nothing() -> str:
        return "nothing"

    assert nothing.call(context, {}) == "nothing"


def test_give_follows_the_order_of_the_signature() -> None:
    @head
    def swapped(classes: int, features: int) -> tuple[int, int]:
        return classes, features

    assert swapped.call({"features": 5, "classes": 3}, {}) == (3, 5)


def allowed(type: type, choices: Any = None, range: Range | None = None) -> Hyperparameter:
    return Hyperparameter("x", type, None, choices, range)


@pytest.mark.parametrize(
    ("h", "yes", "no"),
    [
        (allowed(int, range=Range(0, 4)), [0, 4], [-1, 5, 2.0, 2.5, True, False, "2", None]),
        (
            allowed(float, range=Range(0, 1)),
            [0, 1, 0.0, 0.5],
            [-1e-9, 1.1, math.nan, math.inf, True, "0.5", None],
        ),
        (allowed(bool, (False, True)), [True, False], [0, 1, 1.0, "True", None]),
        (allowed(int, (1, 2)), [1, 2], [True, 1.0, 3, "1"]),
        (allowed(float, (0.0, 1.0)), [0.0, 1.0], [0, 1, False, True]),
        (allowed(str, ("a", "b")), ["a", "b"], ["c", "", None]),
        (allowed(int), [], [1, None]),
    ],
)
def test_allows_is_strict(h: Hyperparameter, yes: list[Any], no: list[Any]) -> None:
    assert [v for v in yes if not h.allows(v)] == []
    assert [v for v in no if h.allows(v)] == []


@pytest.mark.parametrize(
    ("h", "text"),
    [
        (allowed(float, range=Range(1e-5, 0.1, log=True)), "1e-05 to 0.1 (log)"),
        (allowed(float, range=Range(0, 0.123456789)), "0.0 to 0.123456789"),
        (allowed(int, range=Range(1, 2000001)), "1 to 2000001"),
        (allowed(str, ("a", "b")), "a | b"),
    ],
)
def test_the_space_of_a_keyword_is_told_exactly(h: Hyperparameter, text: str) -> None:
    assert h.space == text


def test_when_needs_every_condition() -> None:
    when = When(depth=(1, 2), norm=True)
    assert when.applies({"depth": 2, "norm": True, "other": 0})
    assert not when.applies({"depth": 2, "norm": False})
    assert not when.applies({"depth": 3, "norm": True})
    assert not when.applies({"norm": True})


def test_a_member_of_a_family() -> None:
    @backbone(name="family", members=lambda patterns: ["a", "b"])
    def build(name: str, weights: Weights | None) -> tuple[str, Weights | None]:
        return name, weights

    here = Weights("here")
    a, b = build.member("a", here), build.member("b", None)
    assert (a.name, a.family, a.given) == ("a", "family", {"name": "a", "weights": here})
    assert a.call({"size": None}, {}) == ("a", here)
    assert b.call({"name": "not this", "weights": here}, {}) == ("b", None)
    assert (build.name, build.family, build.given) == ("family", "", {})  # as it was


def test_a_plugin_is_a_value() -> None:
    assert isinstance(rich, Plugin)
    with pytest.raises(AttributeError):
        rich.name = "other"  # type: ignore[misc]
    assert dataset(matches=["*.x"])(lambda source: source).matches == ("*.x",)


def test_a_condition_that_never_holds_is_refused() -> None:
    def never(
        features: int,
        classes: int,
        *,
        depth: Literal[1, 2] = 1,
        width: Annotated[int, Range(8, 16), When(depth=3)] = 8,
    ) -> None:
        """Waits for ever."""

    with pytest.raises(PluginError, match="'width' waits for depth=3, which is never drawn"):
        head(never)


def test_a_condition_may_be_a_list() -> None:
    assert When(depth=[1, 2]).applies({"depth": 2})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Range(1, 10, log=True, step=1), "no range has it with log"),
        (lambda: Range(0, 1, step=-0.5), "a step is above 0"),
        (lambda: Range(0, 1, step=0.3), "no number of steps"),
    ],
)
def test_steps_that_lead_nowhere(make: Any, says: str) -> None:
    with pytest.raises(PluginError, match=says):
        make()


def test_a_default_is_on_a_step() -> None:
    with pytest.raises(PluginError, match=r"x=0.4 is outside 0.1 to 0.9 in steps of 0.2"):

        @augment
        def off(size: int, *, x: Annotated[float, Range(0.1, 0.9, step=0.2)] = 0.4) -> Any: ...
