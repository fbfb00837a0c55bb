"""Reading signatures: hyperparameters and settings, and the messages for broken rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from autotl import Mirrors, Range, When, augment, freeze, head
from autotl.errors import PluginError
from autotl.space.hyperparameter import Hyperparameter

if TYPE_CHECKING:
    from torch import nn

    from autotl.models import Group, Model


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
    """A head with a keyword of every type."""
    return (features, classes, depth, width)  # type: ignore[return-value]


@augment
def mirrored(size: int, *, flip: Annotated[bool, Mirrors()] = True) -> Any:
    """An augmentation that declares that it mirrors."""


def define(code: str, future: bool = True) -> dict[str, Any]:
    """The names that a plugin module with this code defines.

    Args:
        code: The body of the module.
        future: Whether annotations are strings.
    """
    names: dict[str, Any] = {"__name__": "somebody"}
    start = "from __future__ import annotations\n" if future else ""
    start += "from typing import *\nfrom autotl import *\n"
    exec(compile(start + code, "somebody.py", "exec", 0, True), names)
    return names


def hyperparameters(plugin: Any) -> dict[str, Hyperparameter]:
    return {h.name: h for h in plugin.hyperparameters}


def test_hyperparameters_and_settings_are_read() -> None:
    h = hyperparameters(rich)
    assert list(h) == ["depth", "width", "second", "dropout", "norm", "gate"]  # in their order
    assert h["depth"] == Hyperparameter("depth", int, 1, choices=(1, 2))
    assert h["width"] == Hyperparameter("width", int, 256, range=Range(64, 1024, log=True))
    assert h["norm"] == Hyperparameter("norm", bool, True, choices=(False, True))
    assert not h["norm"].mirrors
    assert hyperparameters(mirrored)["flip"].mirrors
    assert (h["dropout"].type, h["dropout"].range) == (float, Range(0, 0.5))
    assert h["second"].when is not None
    assert h["second"].when.conditions == {"depth": (2,)}
    assert h["gate"].when is not None
    assert h["gate"].when.conditions == {"norm": (True, False), "depth": (1,)}
    assert rich.settings == {"note": "plain", "free": None, "bare": 3}
    assert rich.defaults == {
        **{"depth": 1, "width": 256, "second": 16, "dropout": 0, "norm": True, "gate": False}
    }


@pytest.mark.parametrize("future", [True, False])
def test_annotations_may_be_strings_or_not(future: bool) -> None:
    code = "Rate = Annotated[float, Range(1e-5, 1e-1, log=True)]\n@freeze\n"
    code += "def f(model: 'Model', *, b: Literal[1, 2] = 1, lr: Rate = 1e-3, "
    code += "twice: Annotated[Rate, When(b=1)] = 1e-3, s: 'str' = 'x'): ..."
    h = hyperparameters(define(code, future)["f"])
    assert list(h) == ["b", "lr", "twice"]
    assert h["lr"].range == h["twice"].range == Range(1e-5, 1e-1, log=True)
    assert h["twice"].when is not None


def test_given_arguments_may_be_annotated_with_names_for_type_checkers_only() -> None:
    @freeze
    def strategy(model: Model, *, lr: Annotated[float, Range(0.0, 1.0)] = 0.5) -> list[Group]:
        return []

    assert list(hyperparameters(strategy)) == ["lr"]


INVALID = [  # code, and parts of the message: the plugin, the keyword, what to do
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
        ["head plugin 'h'", "'n' depends on 'm'", "not a searched keyword"],
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
]


@pytest.mark.parametrize("future", [True, False])
@pytest.mark.parametrize(("code", "parts"), INVALID, ids=[c.split(" ", 1)[1] for c, _ in INVALID])
def test_a_broken_rule_is_explained(code: str, parts: list[str], future: bool) -> None:
    with pytest.raises(PluginError) as caught:
        define(code, future)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("interval", "part"),
    [
        ("Range(0, 1, log=True)", "low must be positive"),
        ("Range(-1, 1, log=True)", "low must be positive"),
        ("Range(1, 1)", "low must be less than high"),
        ("Range(2, 1)", "low must be less than high"),
        ("Range(float('nan'), 1)", "low must be less than high"),
    ],
)
def test_an_empty_range_is_reported_with_its_plugin(interval: str, part: str) -> None:
    code = f"@head\ndef h(*, n: Annotated[float, {interval}] = 1.0): ..."
    with pytest.raises(PluginError, match=part):
        define(code, future=False)
    with pytest.raises(PluginError, match=f"head plugin 'h': Range.*{part}"):
        define(code)


def test_a_keyword_of_unknown_type_is_reported() -> None:
    with pytest.raises(PluginError, match=r"head plugin 'h'.*'Missing'.*import or define"):
        define("@head\ndef h(*, n: Missing = None): ...")


def test_a_condition_that_never_holds_is_rejected() -> None:
    def never(
        features: int,
        classes: int,
        *,
        depth: Literal[1, 2] = 1,
        width: Annotated[int, Range(8, 16), When(depth=3)] = 8,
    ) -> None:
        """A head with an impossible condition."""

    with pytest.raises(PluginError, match="'width' has the condition depth=3, which never holds"):
        head(never)


def test_a_default_must_be_on_a_step() -> None:
    with pytest.raises(PluginError, match=r"x=0.4 is outside 0.1 to 0.9 in steps of 0.2"):

        @augment
        def off(size: int, *, x: Annotated[float, Range(0.1, 0.9, step=0.2)] = 0.4) -> Any: ...
