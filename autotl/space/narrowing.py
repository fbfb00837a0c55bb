"""Narrow a plugin: pin keywords to a value, or search them in a part of their domain."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autotl.errors import StudyError, did_you_mean
from autotl.space.hyperparameter import Hyperparameter, Range
from autotl.space.kinds import SEARCHED_KINDS
from autotl.space.plugin import AnyPlugin


def narrow_plugin(plugin: AnyPlugin, values: Mapping[str, Any]) -> AnyPlugin:
    """Narrow some keywords of a plugin.

    Args:
        plugin: The plugin; it is not changed.
        values: By keyword: a value to pin it, ``[low, high]`` to narrow a range, or a list of
            values to narrow choices. A setting with a list of values is searched.

    Raises:
        StudyError: A keyword is unknown, or a value is outside the domain that is declared.
    """
    if not values:
        return plugin
    check_keywords(plugin, values)
    hyperparameters = [
        _narrow(plugin, h, values[h.name]) if h.name in values else h
        for h in plugin.hyperparameters
    ]
    for name in sorted(set(values) & set(plugin.settings)):
        choices = values[name] if isinstance(values[name], list) else [values[name]]
        hyperparameters.append(Hyperparameter(name, type(choices[0]), choices[0], tuple(choices)))
    return replace(plugin, hyperparameters=tuple(hyperparameters))


def require_kinds(narrowed: Iterable[str]) -> None:
    """Raise ``StudyError`` if one of the kinds of plugins that are narrowed is not searched."""
    if unknown := sorted(set(narrowed) - set(SEARCHED_KINDS)):
        raise StudyError(
            f"[space.{unknown[0]}] is not a searched kind of plugin; "
            f"{did_you_mean(unknown[0], SEARCHED_KINDS)}"
        )


def require_names(kind: str, tables: Iterable[str], names: Collection[str]) -> None:
    """Raise ``StudyError`` if a plugin that is narrowed is not one of ``names``."""
    if unknown := sorted(set(tables) - set(names)):
        raise StudyError(
            f"[space.{kind}.{unknown[0]}] does not match a plugin of this study; "
            f"{did_you_mean(unknown[0], names)}"
        )


def mirrors_by_choice(hyperparameter: Hyperparameter) -> bool:
    """Whether the search chooses if images are mirrored: a keyword that is not pinned."""
    return hyperparameter.mirrors and len(hyperparameter.choices or ()) > 1


def pin_unmirrored(plugin: AnyPlugin) -> AnyPlugin:
    """Pin the keywords to False by which the search chooses whether images are mirrored."""
    names = [h.name for h in plugin.hyperparameters if mirrors_by_choice(h)]
    return narrow_plugin(plugin, dict.fromkeys(names, False))


def check_keywords(plugin: AnyPlugin, values: Mapping[str, Any]) -> None:
    """Raise ``StudyError`` if ``plugin`` lacks a keyword that ``values`` names."""
    keywords = [*plugin.defaults, *plugin.settings]
    if unknown := sorted(set(values) - set(keywords)):
        raise StudyError(
            f"{plugin.kind} plugin {plugin.name!r} has no keyword {unknown[0]!r}; "
            f"{did_you_mean(unknown[0], keywords)}"
        )


def check_values(plugin: AnyPlugin, values: Mapping[str, Any]) -> None:
    """Raise ``StudyError`` if a value is outside the domain that ``plugin`` declares."""
    for h in plugin.hyperparameters:
        if h.name in values and not h.allows(values[h.name]):
            raise StudyError(
                f"{plugin.kind} plugin {plugin.name!r} declares {h.name} = {h.domain}, "
                f"not {values[h.name]!r:.60}"
            )


def _narrow(plugin: AnyPlugin, h: Hyperparameter, value: Any) -> Hyperparameter:
    """One hyperparameter with the domain that ``value`` leaves of it."""
    where = f"[space.{plugin.kind}.{plugin.name}] {h.name}"
    is_list = isinstance(value, list | tuple)
    values = list(value) if is_list else [value]
    for v in values:
        if not h.allows(v):
            raise StudyError(f"{where} = {v!r} is outside what the plugin declares: {h.domain}")
    if h.range is not None and is_list:
        if len(values) != 2 or values[0] >= values[1]:
            raise StudyError(f"{where} = {value!r}: give [low, high], or one value to pin it")
        return _narrow_range(h, h.range, values)
    if not values:
        raise StudyError(f"{where} = []: give at least one value of {h.domain}")
    default = h.default if h.default in values else values[0]
    return replace(h, range=None, choices=tuple(values), default=default)


def _narrow_range(h: Hyperparameter, declared: Range, limits: Sequence[Any]) -> Hyperparameter:
    """``h`` between two limits; steps are counted from the lower one, if one fits between them."""
    low, high = limits
    default = min(max(h.default, low), high)
    step = declared.step
    if step and step <= high - low:
        high = low + step * math.floor((high - low) / step + 1e-6)
        default = h.type(low + step * round((min(default, high) - low) / step))
        return replace(h, range=Range(low, high, step=step), default=default)
    return replace(h, range=Range(low, high, declared.log), default=default)
