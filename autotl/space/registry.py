"""Collect plugins: installed ones by entry point, single files by path. Loads no model library."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from autotl.errors import DataError, PluginError, WeightsError, did_you_mean
from autotl.space.plugin import GIVEN_ARGUMENTS, Plugin, Weights

GROUP = "autotl"
"""The entry point group that a package registers its plugin modules in."""

AnyPlugin = Plugin[..., Any]

SEVERAL = set("*?[@")
"""Characters by which a pattern may stand for several plugins; ``@`` begins a family's set."""


@dataclass(frozen=True)
class Excluded:
    """A plugin that the search does not use, with the reason."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class BackboneCriteria:
    """On what terms a backbone is taken, and for what the default set of a family is meant.

    ``weights`` is a folder to look for pretrained weights in first; ``licences`` are those that
    the weights may have (any, if none is named); ``max_parameters`` is the most a backbone may
    have; ``device`` and ``seconds``, the budget, decide which backbones are worth trying.
    """

    weights: Path | None = None
    device: str = "cpu"
    seconds: float | None = None
    licences: tuple[str, ...] = ()
    max_parameters: int | None = None

    def refuse(self, weights: Weights) -> str:
        """Why a backbone with these weights is not taken, or ``""``."""
        allowed = [licence.lower() for licence in self.licences]
        if allowed and weights.licence.lower() not in allowed:
            return f"its weights have the licence {weights.licence}, not {' or '.join(allowed)}"
        size, most = weights.parameters, self.max_parameters
        if most is not None and size is not None and size > most:
            return f"it has {size / 1e6:.1f} M parameters, more than {most / 1e6:.1f} M"
        return ""


ANY = BackboneCriteria()


class Registry:
    """Plugins by kind and name. A value, passed down; importing a plugin changes nothing global.

    Args:
        plugins: The plugins to hold.
        broken: Installed plugin modules that could not be imported, with the reason.

    Raises:
        PluginError: Two plugins of a kind have one name.
    """

    def __init__(self, plugins: Iterable[AnyPlugin] = (), broken: Iterable[Excluded] = ()) -> None:
        self._plugins: dict[str, dict[str, AnyPlugin]] = {kind: {} for kind in GIVEN_ARGUMENTS}
        self.broken = tuple(broken)
        for plugin in plugins:
            known = self._plugins[plugin.kind].setdefault(plugin.name, plugin)
            if known is not plugin:
                raise PluginError(
                    f"two {plugin.kind} plugins are called {plugin.name!r}: one from "
                    f"{known.origin}, one from {plugin.origin}; rename one of them"
                )

    def __iter__(self) -> Iterator[AnyPlugin]:
        """Every plugin, by kind, then by name."""
        return (p for kind in GIVEN_ARGUMENTS for _, p in sorted(self._plugins[kind].items()))

    def names(self, kind: str) -> list[str]:
        """The names of the plugins of one kind, sorted; a family counts as one."""
        return sorted(self._plugins[kind])

    def has(self, kind: str, name: str) -> bool:
        """Whether there is a plugin of that name, or a family that it is a member of."""
        try:
            self._family(kind, name)
        except PluginError:
            return False
        return True

    def get(self, kind: str, name: str, weights: Path | None = None) -> AnyPlugin:
        """The plugin of that name, or a family's plugin for its member of that name.

        Raises:
            PluginError: There is none of that name; the message has near names.
            WeightsError: The member's pretrained weights cannot be had.
        """
        family = self._family(kind, name)
        if family is None:
            return self._plugins[kind][name]
        return family.member(name, family.locate(name, weights) if family.locate else None)

    def without_weights(self, kind: str, name: str, weights: Path | None = None) -> AnyPlugin:
        """Like ``get``, without looking for pretrained weights: for loading a saved model."""
        family = self._family(kind, name)
        return family.member(name, None) if family else self._plugins[kind][name]

    def select(
        self, kind: str, patterns: Sequence[str] = (), terms: BackboneCriteria = ANY
    ) -> tuple[list[AnyPlugin], list[Excluded]]:
        """The plugins of ``kind`` that can be used, and those that were left out and why.

        Args:
            kind: A kind of plugin.
            patterns: Names, glob patterns (``*``, ``?``, ``[``) or a family's sets (``@small``);
                none means all plugins, and of a family its default members.
            terms: On which backbones are taken.

        Raises:
            PluginError: A name or pattern fits nothing.
        """
        chosen: dict[str, AnyPlugin] = {}
        out: list[Excluded] = []
        for name in self._match(kind, patterns, terms):
            try:
                plugin = self.get(kind, name, terms.weights)
            except WeightsError as error:
                out.append(Excluded(kind, name, str(error)))
                continue
            weights = plugin.given.get("weights")
            if weights and (reason := terms.refuse(weights)):
                out.append(Excluded(kind, name, reason))
                continue
            if lacks := missing_requirements(plugin):
                reason = f"needs {', '.join(lacks)}: pip install {' '.join(map(repr, lacks))}"
                if name in patterns:
                    raise PluginError(f"{kind} plugin {name!r} {reason}")
                out.append(Excluded(kind, name, reason))
            else:
                chosen[name] = plugin
        return list(chosen.values()), out

    def dataset(self, source: str) -> AnyPlugin:
        """The dataset plugin that reads ``source``.

        Raises:
            DataError: There is no such file or folder, or no plugin reads it.
        """
        path = Path(source).expanduser()
        if ":" not in source and not path.exists():
            near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DataError(
                f"there is no file or folder {source!r}; {did_you_mean(path.name, near)}"
            )
        text = f"{path.as_posix()}/" if path.is_dir() else source
        # Files come after what is installed: where both read it, the user's own does.
        for plugin in reversed(self._plugins["dataset"].values()):
            if any(fnmatchcase(text.lower(), pattern.lower()) for pattern in plugin.matches):
                return plugin
        reads = ", ".join(m for p in self._plugins["dataset"].values() for m in p.matches)
        raise DataError(f"no dataset plugin reads {source!r}; those installed read {reads}")

    def _family(self, kind: str, name: str) -> AnyPlugin | None:
        """The family that ``name`` is a member of; None for a plugin of its own."""
        plugins = self._plugins[kind]
        if name in plugins and not plugins[name].members:
            return None
        reason: PluginError | None = None
        for family in plugins.values():
            if family.members:
                try:
                    if family.members([name], ANY.device, ANY.seconds) == [name]:
                        return family
                except PluginError as error:
                    reason = error
        near = did_you_mean(name, (p.name for p in plugins.values() if not p.members))
        if reason and near.startswith("there"):
            raise reason
        raise PluginError(f"no {kind} plugin is called {name!r}; {near}")

    def _match(self, kind: str, patterns: Sequence[str], terms: BackboneCriteria) -> list[str]:
        plain = [p.name for p in self._plugins[kind].values() if not p.members]
        families = [p for p in self._plugins[kind].values() if p.members]
        if not patterns:
            return [*sorted(plain), *(m for f in families for m in _members(f, (), terms))]
        names: list[str] = []
        for pattern in patterns:
            found = sorted(n for n in plain if fnmatchcase(n, pattern))
            if not found and not set(pattern) & SEVERAL:
                self._family(kind, pattern)
                found = [pattern]
            reason: PluginError | None = None
            for family in families if set(pattern) & SEVERAL else ():
                try:
                    found += _members(family, [pattern], terms)
                except PluginError as error:
                    reason = error
            if not found:
                raise reason or PluginError(
                    f"no {kind} fits {pattern!r}; {did_you_mean(pattern, plain)}"
                )
            names += found
        return list(dict.fromkeys(names))


def _members(family: AnyPlugin, patterns: Sequence[str], terms: BackboneCriteria) -> list[str]:
    return family.members(patterns, terms.device, terms.seconds) if family.members else []


def collect(module: ModuleType, origin: str) -> list[AnyPlugin]:
    """The plugins that ``module`` itself defines, not those it imported."""
    return [
        replace(value, origin=origin)
        for value in vars(module).values()
        if isinstance(value, Plugin) and value.function.__module__ == module.__name__
    ]


def load(files: Iterable[Path] = ()) -> Registry:
    """Every installed plugin, then those in ``files``.

    An installed module that cannot be imported is kept as ``Registry.broken``; it does not stop
    the others.

    Raises:
        PluginError: A file cannot be imported or defines no plugin, or two names collide.
    """
    plugins: list[AnyPlugin] = []
    broken: list[Excluded] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            plugins += collect(entry.load(), origin)
        except Exception as error:  # a stranger's module may raise anything; it is listed
            reason = f"{origin} cannot be imported: {type(error).__name__}: {error}"
            broken.append(Excluded("module", entry.value, reason))
    for file in files:
        plugins += _import(file)
    return Registry(plugins, broken)


def _import(file: Path) -> list[AnyPlugin]:
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise PluginError(f"plugin file {file} cannot be read: {error.strerror}") from None
    spec = importlib.util.spec_from_file_location(f"autotl_file_{file.stem}_{digest}", file)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin file {file} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except PluginError as error:
        raise PluginError(f"{file}: {error}") from None
    except (Exception, SystemExit) as error:
        line = _line_in(error, spec.origin)
        raise PluginError(
            f"plugin file {file}{line} raises {type(error).__name__}: {error}"
        ) from error
    if not (found := collect(module, f"file {file.name} sha256:{digest}")):
        kinds = ", ".join(f"@{kind}" for kind in GIVEN_ARGUMENTS)
        raise PluginError(f"{file} defines no plugin; decorate a function with one of {kinds}")
    return found


def _line_in(error: BaseException, file: str | None) -> str:
    """Where in ``file`` the error was raised, as ``, line 3``."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno}"
    lines = []
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f", line {lines[-1]}" if lines else ""


def missing_requirements(plugin: AnyPlugin) -> list[str]:
    """The requirements of ``plugin`` that are not installed in a version that serves.

    Raises:
        PluginError: A requirement is not written as in pyproject.
    """
    lacks = []
    for text in plugin.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise PluginError(
                f"{plugin.kind} plugin {plugin.name!r} from {plugin.origin} requires {text!r}; "
                "write a list such as ['peft>=0.10']"
            ) from None
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            served = requirement.specifier.contains(version(requirement.name), prereleases=True)
        except PackageNotFoundError:
            served = False
        if not served:
            lacks.append(text)
    return lacks
