"""What a plugin author writes with: one decorator for each kind, ``Range`` and ``When``.

A plugin is a function. Left of the ``*`` is what it is given; right of the ``*`` is
what the search chooses, with a default that is tried first:

>>> from typing import Annotated
>>> @head
... def wide(features: int, classes: int, *, width: Annotated[int, Range(64, 1024)] = 256):
...     '''One hidden layer.'''
>>> wide.kind, wide.name, [h.name for h in wide.hyperparameters]
('head', 'wide', ['width'])

This module imports nothing but the standard library, so reading a plugin's search
space costs nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from autotl.errors import PluginError

P = ParamSpec("P")
R = TypeVar("R")

GIVEN_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "backbone": ("name", "weights", "size"),
    "freeze": ("model", "epochs"),
    "head": ("features", "classes"),
    "augment": ("size",),
    "optimizer": ("groups", "steps"),
    "balance": ("counts",),
    "dataset": ("source",),
}
"""What the core can give each kind of plugin. A plugin takes only what it names."""

SEARCHED_KINDS = tuple(kind for kind in GIVEN_ARGUMENTS if kind != "dataset")
"""The kinds of which the search chooses one plugin each, in the order it asks."""

OPTIONAL_KINDS = ("balance",)
"""The searched kinds that a configuration may lack: they are asked only of data that need them."""

HeadInput = Literal["features", "map", "stages"]
"""What a head is fed: the pooled features, the map by position, or those of the last stages."""


IMAGE_SIZE = "image_size"
"""The setting of a backbone that says how large its pictures are."""


@dataclass(frozen=True)
class Range:
    """A closed interval to search, uniform in the value or, with ``log``, in its logarithm.

    With ``step`` only ``low``, ``low + step``, ... are drawn: trials that draw the same value of an
    augmentation share what frozen parts made of its pictures.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if self.step is not None and (self.log or self.step <= 0):
            raise PluginError(f"{self}: a step is above 0, and no range has it with log")
        if not self.low < self.high:
            raise PluginError(f"{self} is empty: low must be less than high")
        if self.log and self.low <= 0:
            raise PluginError(f"{self}: a logarithmic range starts above 0")
        if self.step and not self.is_on_grid(self.high):
            raise PluginError(f"{self}: no number of steps leads from low to high")

    def is_on_grid(self, value: float) -> bool:
        """Whether steps from ``low`` lead to ``value``; always so without a step."""
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-6)


class When:
    """Asks for a keyword only if an earlier one has one of these values: ``When(depth=(1, 2))``."""

    def __init__(self, **conditions: Any) -> None:
        self.conditions = {
            name: tuple(values) if isinstance(values, tuple | list) else (values,)
            for name, values in conditions.items()
        }

    def applies(self, drawn: Mapping[str, Any]) -> bool:
        """Whether every condition holds in ``drawn``, the values drawn so far."""
        return all(drawn.get(name) in allowed for name, allowed in self.conditions.items())


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword of a plugin that the search may choose."""

    name: str
    type: type
    default: Any
    choices: tuple[Any, ...] | None = None
    range: Range | None = None
    when: When | None = None

    def allows(self, value: Any) -> bool:
        """Whether ``value`` is one that the search may draw."""
        if self.choices is not None:
            return any(value == c and type(value) is type(c) for c in self.choices)
        number = isinstance(value, int if self.type is int else int | float)
        if self.range is None or isinstance(value, bool) or not number:
            return False
        return bool(self.range.low <= value <= self.range.high)

    def can_draw(self, value: Any) -> bool:
        """Whether the search itself could draw ``value``, by steps where there are any."""
        return self.allows(value) and (self.range is None or self.range.is_on_grid(value))

    @property
    def space(self) -> str:
        """What is searched, for people: ``1e-05 to 0.1 (log)`` or ``1 | 2``."""
        if self.range is None:
            return " | ".join(str(c) for c in self.choices or ())
        low, high = self.type(self.range.low), self.type(self.range.high)
        step = f" in steps of {self.range.step:g}" if self.range.step else ""
        return f"{low} to {high}{' (log)' if self.range.log else ''}{step}"


@dataclass(frozen=True)
class Example:
    """One labelled picture, as a dataset plugin returns it.

    ``image`` is a file, or ``uint8 [H, W]`` or ``[H, W, 3]``. ``name`` identifies the example to
    people and is unique in its source. An empty ``label`` is reported as a problem of the data;
    an empty ``split`` leaves the choice to AutoTL. Examples that share a ``group`` (a patient,
    a video) never end up in different splits.
    """

    name: str
    image: Any
    label: str
    split: Literal["", "train", "validation", "test"] = ""
    group: str = ""


@dataclass(frozen=True)
class Weights:
    """Where pretrained weights come from. Without a ``file`` the backbone fetches them itself.

    ``parameters`` counts those of the backbone without a classifier; None where it is not known.
    """

    origin: str
    licence: str = "unknown"
    file: Path | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Balance:
    """How training makes up for classes of unequal size: one number for each class, or None.

    ``weights`` multiply the loss of a class, ``offsets`` are added to its training logits, and
    ``sampling`` is the relative chance of drawing a picture of it.
    """

    weights: Sequence[float] | None = None
    offsets: Sequence[float] | None = None
    sampling: Sequence[float] | None = None


Members = Callable[[Sequence[str], str, float | None], list[str]]
Locate = Callable[[str, Path | None], Weights]


@dataclass(frozen=True)
class Plugin(Generic[P, R]):
    """A function with what was read from its signature; calling it calls the function.

    A family stands for many backbones: ``members`` names those that match some patterns (for
    none, the default set for a device and a budget in seconds), ``locate`` finds the weights of
    one or raises ``WeightsError``, and ``member`` gives the plugin of one.

    A backbone that is given ``size`` has the setting ``image_size``, in pixels, which goes before
    the study's; narrowed to several values it is searched.
    """

    kind: str
    name: str
    function: Callable[P, R]
    hyperparameters: tuple[Hyperparameter, ...]
    settings: Mapping[str, Any]
    requires: tuple[str, ...] = ()
    order: int | None = None
    matches: tuple[str, ...] = ()
    members: Members | None = None
    locate: Locate | None = None
    takes: HeadInput = "features"
    mixes: bool = False
    origin: str = "a notebook or script"
    family: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of every hyperparameter."""
        return {h.name: h.default for h in self.hyperparameters}

    def call(self, context: Mapping[str, Any], params: Mapping[str, Any]) -> R:
        """Call the function with the part of ``context`` its signature names, and ``params``."""
        values = dict(params)
        context = {**context, **self.given}
        if size := values.pop(IMAGE_SIZE, None):
            context["size"] = size
        parameters = inspect.signature(self.function).parameters.values()
        given = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
        return self.function(*[context[n] for n in given if n in context], **values)

    def member(self, name: str, weights: Weights | None) -> Plugin[P, R]:
        """The family's plugin for the one member ``name``; without weights it starts random."""
        return replace(self, name=name, family=self.name, given={"name": name, "weights": weights})


def _read(
    kind: str, function: Callable[..., Any]
) -> tuple[tuple[Hyperparameter, ...], dict[str, Any]]:
    """The hyperparameters of ``function`` and its plain settings.

    Raises:
        PluginError: The signature breaks a rule; the message names the plugin and the keyword.
    """
    who = f"{kind} plugin {function.__name__!r}"
    parameters = inspect.signature(function).parameters.values()
    # Only the keywords' hints are resolved, so a plugin may keep torch behind TYPE_CHECKING.
    holder = SimpleNamespace(
        __annotations__={p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
    )
    try:
        hints = get_type_hints(holder, globalns=function.__globals__, include_extras=True)
    except PluginError as error:
        raise PluginError(f"{who}: {error}") from None
    except NameError as error:
        raise PluginError(
            f"{who}: the type of a keyword cannot be read, {error}. What stands right of the '*' "
            "is read at once: import or define that name at the top of the module."
        ) from None
    found: dict[str, Hyperparameter] = {}
    settings: dict[str, Any] = {}
    if kind == "backbone" and any(p.name == "size" for p in parameters):
        settings[IMAGE_SIZE] = None
    for p in parameters:
        if p.kind is not p.KEYWORD_ONLY:
            if p.name not in GIVEN_ARGUMENTS[kind]:
                can = ", ".join(GIVEN_ARGUMENTS[kind])
                raise PluginError(
                    f"{who} asks for {p.name!r}, but a {kind} is given {can}. If the search "
                    f"should choose {p.name!r}, put it after a '*' with a default."
                )
            continue
        if p.default is p.empty:
            raise PluginError(f"{who}: {p.name!r} needs a default; it is tried first.")
        if (h := _hyperparameter(p.name, hints.get(p.name), p.default)) is None:
            settings[p.name] = p.default
            continue
        if h.range is not None and h.type not in (int, float):
            raise PluginError(f"{who}: {p.name!r} has a Range, so annotate it int or float.")
        if (
            h.type is int
            and h.range
            and any(number % 1 for number in (h.range.low, h.range.high, h.range.step or 0))
        ):
            raise PluginError(f"{who}: {p.name!r} is an int; give whole numbers to its Range.")
        if not all(isinstance(c, str | int | float) for c in h.choices or ()):
            raise PluginError(
                f"{who}: {p.name!r} can be {h.space}; a recipe can hold only texts, numbers and "
                "bools, so choose among those."
            )
        if unknown := set(h.when.conditions if h.when else ()) - set(found):
            raise PluginError(
                f"{who}: {p.name!r} depends on {sorted(unknown)[0]!r}, which is no searched "
                "keyword before it; move it up."
            )
        for name, values in (h.when.conditions if h.when else {}).items():
            if never := [v for v in values if not found[name].allows(v)]:
                raise PluginError(
                    f"{who}: {p.name!r} waits for {name}={never[0]!r}, which is never drawn; "
                    f"{name} can be {found[name].space}."
                )
        if not h.can_draw(h.default):
            raise PluginError(
                f"{who}: {p.name}={p.default!r} is outside {h.space}; choose a default inside."
            )
        found[p.name] = h
    return tuple(found.values()), settings


def _hyperparameter(name: str, hint: Any, default: Any) -> Hyperparameter | None:
    annotated = get_origin(hint) is Annotated
    base, notes = (get_args(hint)[0], get_args(hint)[1:]) if annotated else (hint, ())
    interval = next((n for n in notes if isinstance(n, Range)), None)
    when = next((n for n in notes if isinstance(n, When)), None)
    if base is bool:
        return Hyperparameter(name, bool, default, (False, True), None, when)
    if get_origin(base) is Literal:
        return Hyperparameter(name, type(default), default, get_args(base), None, when)
    return Hyperparameter(name, base, default, None, interval, when) if interval else None


class Kind:
    """A decorator that makes a function a plugin of one kind; works with and without parentheses.

    Args of the decorator:
        name: What the plugin is called, if not like the function.
        requires: Distributions it needs, in pyproject's words: ``["peft>=0.10"]``.
        order: Its place among the defaults that are tried before the sampler chooses (1 is
            first). Plugins without one are left to the sampler.
        matches: For a dataset: the sources it reads, as glob patterns (a folder ends in ``/``).
        takes: For a head, what it is fed: pooled ``features [B, F]``; the ``map [B, positions,
            F]``, whatever the architecture; or ``stages [B, F]``, the means of the last stages'
            maps and the pooled features in a row.
        mixes: For an augmentation: it takes and returns pictures and targets ``[B, C]``.
        members, locate: For a family of backbones, see ``Plugin``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @overload
    def __call__(self, function: Callable[P, R], /) -> Plugin[P, R]: ...
    @overload
    def __call__(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        requires: Sequence[str] = (),
        order: int | None = None,
        matches: Iterable[str] = (),
        members: Members | None = None,
        locate: Locate | None = None,
        takes: HeadInput = "features",
        mixes: bool = False,
    ) -> Callable[[Callable[P, R]], Plugin[P, R]]: ...
    def __call__(
        self,
        function: Callable[P, R] | None = None,
        /,
        *,
        name: str | None = None,
        requires: Sequence[str] = (),
        matches: Iterable[str] = (),
        **options: Any,
    ) -> Any:
        """Turn ``function`` into a ``Plugin``, or make the decorator that does."""

        def register(function: Callable[P, R]) -> Plugin[P, R]:
            for option, value in (("requires", requires), ("matches", matches)):
                if isinstance(value, str):
                    who = f"{self.kind} plugin {function.__name__!r}"
                    raise PluginError(f"{who}: {option} is a list, write {option}=[{value!r}].")
            return Plugin(
                self.kind,
                name or function.__name__,
                function,
                *_read(self.kind, function),
                requires=tuple(requires),
                matches=tuple(matches),
                **options,
            )

        return register if function is None else register(function)


backbone = Kind("backbone")
freeze = Kind("freeze")
head = Kind("head")
augment = Kind("augment")
optimizer = Kind("optimizer")
balance = Kind("balance")
dataset = Kind("dataset")
