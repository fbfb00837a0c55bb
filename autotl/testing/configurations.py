"""The configurations with which a plugin is tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotl.space.hyperparameter import Hyperparameter
from autotl.space.plugin import AnyPlugin

Params = Mapping[str, Any]


def extreme_values(h: Hyperparameter) -> tuple[Any, ...]:
    """Both ends of a hyperparameter's range, or all its choices."""
    if h.range is None:
        return h.choices or ()
    return h.type(h.range.low), h.type(h.range.high)


def with_value(plugin: AnyPlugin, h: Hyperparameter, value: Any) -> dict[str, Any]:
    """The plugin's defaults with ``h`` set to ``value``, and with the conditions of ``h`` met."""
    by_name = {other.name: other for other in plugin.hyperparameters}
    required: dict[str, Any] = {}
    unresolved = [h]
    while unresolved:
        when = unresolved.pop().when
        for name, values in (when.conditions if when else {}).items():
            default = by_name[name].default
            required.setdefault(name, default if default in values else values[0])
            unresolved.append(by_name[name])
    return {**plugin.defaults, **required, h.name: value}


def configurations(plugin: AnyPlugin) -> list[dict[str, Any]]:
    """List the defaults, then each keyword at the ends of its range or at each of its choices.

    Args:
        plugin: Any plugin.

    Returns:
        Keyword values, without duplicates; the defaults come first.
    """
    every = [plugin.defaults]
    for h in plugin.hyperparameters:
        every += [with_value(plugin, h, value) for value in extreme_values(h)]
    return [params for i, params in enumerate(every) if params not in every[:i]]
