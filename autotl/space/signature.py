"""Read the hyperparameters and settings of a plugin from its signature.

What stands left of the ``*`` is given by the core; what stands right of it has a default and is a
hyperparameter if its annotation is ``bool``, a ``Literal`` or has a ``Range``, else a setting.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from autotl.errors import PluginError
from autotl.space.hyperparameter import Hyperparameter, Mirrors, Range, When
from autotl.space.kinds import GIVEN_ARGUMENTS, IMAGE_SIZE


def read_signature(
    kind: str, function: Callable[..., Any]
) -> tuple[tuple[Hyperparameter, ...], dict[str, Any]]:
    """Read the hyperparameters of a plugin function and its settings.

    Args:
        kind: The kind of plugin, a key of ``GIVEN_ARGUMENTS``.
        function: The function that was decorated.

    Returns:
        The hyperparameters in the order of the signature, and the default of each setting.

    Raises:
        PluginError: The signature breaks a rule; the message names the plugin and the keyword.
    """
    plugin = f"{kind} plugin {function.__name__!r}"
    parameters = list(inspect.signature(function).parameters.values())
    hints = _keyword_hints(plugin, function, parameters)
    hyperparameters: dict[str, Hyperparameter] = {}
    settings: dict[str, Any] = {}
    if kind == "backbone" and any(p.name == "size" for p in parameters):
        settings[IMAGE_SIZE] = None
    for p in parameters:
        if p.kind is not p.KEYWORD_ONLY:
            _check_given(plugin, kind, p.name)
            continue
        if p.default is p.empty:
            raise PluginError(f"{plugin}: {p.name!r} needs a default; it is tried first.")
        hyperparameter = _parse_annotation(p.name, hints.get(p.name), p.default)
        if hyperparameter is None:
            settings[p.name] = p.default
            continue
        _check_domain(plugin, hyperparameter)
        _check_conditions(plugin, hyperparameter, hyperparameters)
        hyperparameters[p.name] = hyperparameter
    return tuple(hyperparameters.values()), settings


def _keyword_hints(
    plugin: str, function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> dict[str, Any]:
    """Resolve the annotations of the keywords, which may be strings."""
    # Only the keywords' hints are resolved, so a plugin may keep torch behind TYPE_CHECKING.
    holder = SimpleNamespace(
        __annotations__={p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}
    )
    names = getattr(function, "__globals__", None) or vars(sys.modules[function.__module__])
    try:
        return get_type_hints(holder, globalns=names, include_extras=True)
    except PluginError as error:
        raise PluginError(f"{plugin}: {error}") from None
    except NameError as error:
        raise PluginError(
            f"{plugin}: the type of a keyword cannot be resolved, {error}. Annotations right of "
            "the '*' are evaluated at once: import or define that name at the top of the module."
        ) from None


def _check_given(plugin: str, kind: str, name: str) -> None:
    if name not in GIVEN_ARGUMENTS[kind]:
        raise PluginError(
            f"{plugin} asks for {name!r}, but a {kind} is given "
            f"{', '.join(GIVEN_ARGUMENTS[kind])}. If the search should choose {name!r}, put it "
            "after a '*' with a default."
        )


def _parse_annotation(name: str, hint: Any, default: Any) -> Hyperparameter | None:
    """The hyperparameter that a keyword declares; None for a setting."""
    annotated = get_origin(hint) is Annotated
    base, notes = (get_args(hint)[0], get_args(hint)[1:]) if annotated else (hint, ())
    interval = next((n for n in notes if isinstance(n, Range)), None)
    when = next((n for n in notes if isinstance(n, When)), None)
    if base is bool:
        mirrors = any(isinstance(n, Mirrors) for n in notes)
        return Hyperparameter(name, bool, default, (False, True), None, when, mirrors)
    if get_origin(base) is Literal:
        return Hyperparameter(name, type(default), default, get_args(base), None, when)
    return Hyperparameter(name, base, default, None, interval, when) if interval else None


def _check_domain(plugin: str, h: Hyperparameter) -> None:
    """Check that the type fits the range or the choices, and that the default is inside."""
    if h.range is not None and h.type not in (int, float):
        raise PluginError(f"{plugin}: {h.name!r} has a Range, so annotate it int or float.")
    if (
        h.type is int
        and h.range
        and any(number % 1 for number in (h.range.low, h.range.high, h.range.step or 0))
    ):
        raise PluginError(f"{plugin}: {h.name!r} is an int; give whole numbers to its Range.")
    if not all(isinstance(c, str | int | float) for c in h.choices or ()):
        raise PluginError(
            f"{plugin}: {h.name!r} can be {h.domain}, but a recipe can hold only strings, numbers "
            "and bools; choose among those."
        )
    if not h.can_draw(h.default):
        raise PluginError(
            f"{plugin}: {h.name}={h.default!r} is outside {h.domain}; choose a default inside."
        )


def _check_conditions(
    plugin: str, h: Hyperparameter, earlier: Mapping[str, Hyperparameter]
) -> None:
    """Check that every condition of ``h`` is on an earlier hyperparameter and can hold."""
    for name, values in (h.when.conditions if h.when else {}).items():
        if name not in earlier:
            raise PluginError(
                f"{plugin}: {h.name!r} depends on {name!r}, which is not a searched keyword "
                "before it; move it up."
            )
        if impossible := [v for v in values if not earlier[name].allows(v)]:
            raise PluginError(
                f"{plugin}: {h.name!r} has the condition {name}={impossible[0]!r}, which never "
                f"holds; {name} can be {earlier[name].domain}."
            )
