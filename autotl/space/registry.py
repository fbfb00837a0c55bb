"""The registry of plugins, from installed packages and single files. It loads no model library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from autotl.errors import (
    DataError,
    OtherFamily,
    PluginError,
    WeightsError,
    did_you_mean,
    find_path_fault,
    shorten,
)
from autotl.space.input_kind import ANY_INPUT, IMAGE, InputKind
from autotl.space.kinds import GIVEN_ARGUMENTS, IN_CHANS, RGB
from autotl.space.plugin import FILE, NO_PACKAGE, AnyPlugin, Locate, Weights
from autotl.space.plugin_modules import (
    collect,
    collect_input_kinds,
    import_file,
    installed_entries,
    require_plugin_file,
)
from autotl.space.requirements import missing_requirements

WILDCARDS = set("*?[@")
"""Characters that make a name a pattern for several plugins; ``@`` begins the name of a set."""


@dataclass(frozen=True)
class Excluded:
    """A plugin that the search does not use, with the reason."""

    kind: str
    name: str
    reason: str


class Unfit(NamedTuple):
    """A plugin for another kind of input than the data, with the reason."""

    plugin: AnyPlugin
    reason: str


@dataclass(frozen=True)
class BackboneCriteria:
    """Which backbones may be used, and for what the default set of a family is chosen.

    Args:
        weights: A folder in which pretrained weights are looked for first.
        device: ``cpu``, ``cuda`` or ``mps``; selects the default set.
        seconds: The budget of the search; selects the default set.
        licences: Licences that the weights may have; any if empty.
        max_parameters: Maximum number of parameters of a backbone.
    """

    weights: Path | None = None
    device: str = "cpu"
    seconds: float | None = None
    licences: tuple[str, ...] = ()
    max_parameters: int | None = None

    def rejection_reason(self, weights: Weights) -> str:
        """Why a backbone with these weights is rejected; empty if it is accepted."""
        allowed = [] if weights.is_random else [licence.lower() for licence in self.licences]
        if allowed and weights.licence.lower() not in allowed:
            return f"its weights have the licence {weights.licence}, not {' or '.join(allowed)}"
        count, limit = weights.parameters, self.max_parameters
        if limit is not None and count is not None and count > limit:
            return f"it has {count:,} parameters, more than {limit:,}"
        return ""


NO_CRITERIA = BackboneCriteria()


class Registry:
    """Plugins by kind and name. It is passed as a value; importing a plugin changes nothing global.

    Args:
        plugins: The plugins of the registry.
        broken: Installed plugin modules that could not be imported, with the reason.
        input_kinds: Kinds of input besides images.

    Attributes:
        broken: The argument.
        input_kinds: Kinds of input besides images, by name.
        unfit: Plugins for other kinds of input, which ``for_input`` left out.

    Raises:
        PluginError: Two plugins of a kind, or two kinds of input, have the same name.
    """

    def __init__(
        self,
        plugins: Iterable[AnyPlugin] = (),
        broken: Iterable[Excluded] = (),
        input_kinds: Iterable[InputKind] = (),
    ) -> None:
        self._plugins: dict[str, dict[str, AnyPlugin]] = {kind: {} for kind in GIVEN_ARGUMENTS}
        self.broken = tuple(broken)
        self.unfit: tuple[Unfit, ...] = ()
        self.input_kinds: dict[str, InputKind] = {}
        for kind in input_kinds:
            if self.input_kinds.setdefault(kind.name, kind) is not kind:
                raise PluginError(f"two input kinds are called {kind.name!r}; rename one of them")
        for plugin in plugins:
            first = self._plugins[plugin.kind].setdefault(plugin.name, plugin)
            if first is not plugin:
                raise PluginError(
                    f"two {plugin.kind} plugins are called {plugin.name!r}: one from "
                    f"{first.origin}, one from {plugin.origin}; rename one of them"
                )

    def for_input(self, kind: InputKind) -> Registry:
        """The plugins with which examples of a kind of input can be searched.

        Backbones are those of the kind as which the examples are opened.
        """
        fitting = {"backbone": (kind.backbone_input,), "augment": (kind.name, ANY_INPUT)}
        return self._narrow(
            lambda plugin: plugin.kind not in fitting or plugin.input in fitting[plugin.kind],
            lambda plugin: f"takes {plugin.input} inputs, and the data are {kind.nouns}",
        )

    def for_task(self, task: str) -> Registry:
        """The plugins that suit a task."""
        return self._narrow(lambda plugin: plugin.suits(task), lambda _: f"does not suit {task}")

    def of_input(self, name: str) -> Registry:
        """All plugins except backbones of other kinds of input, which may have the same names."""
        return self._narrow(lambda plugin: plugin.kind != "backbone" or plugin.input == name)

    def for_channels(self, channels: int) -> Registry:
        """The plugins with which images of a number of channels can be searched.

        Every backbone takes RGB, and those that take ``in_chans`` other numbers.
        """
        if channels == RGB:
            return self

        def fits(plugin: AnyPlugin) -> bool:
            of_images = plugin.kind == "backbone" and plugin.input == IMAGE
            return not of_images or plugin.takes_argument(IN_CHANS)

        def give(plugin: AnyPlugin) -> AnyPlugin:
            given = {**plugin.given, IN_CHANS: channels}
            return replace(plugin, given=given) if plugin.takes_argument(IN_CHANS) else plugin

        reason = f"takes images of {RGB} channels, and not of {channels}"
        return self._narrow(fits, lambda _: reason)._change(give)

    def for_backbones(self, patterns: Sequence[str]) -> Registry:
        """The plugins for a search of some backbones.

        If one of them is to have the weights of the folder alone (``owns_folder``), other families
        do not look for weights there, so that both can be compared.

        Args:
            patterns: The names and patterns of the backbones.
        """
        families = (p for p in self._plugins["backbone"].values() if p.members)
        owners = [p for p in families if p.owns_folder]
        if not any(_matches(owner, pattern) for owner in owners for pattern in patterns):
            return self

        def change(plugin: AnyPlugin) -> AnyPlugin:
            if plugin.kind != "backbone" or plugin.owns_folder or not plugin.locate:
                return plugin
            return replace(plugin, locate=_without_folder(plugin.locate))

        return self._change(change)

    def _narrow(
        self,
        fits: Callable[[AnyPlugin], bool],
        reason: Callable[[AnyPlugin], str] | None = None,
    ) -> Registry:
        """The plugins that fit; the others are ``unfit``, for the reason, if there is one."""
        registry = Registry(filter(fits, self._in_order()), self.broken, self.input_kinds.values())
        unfit = (Unfit(p, reason(p)) for p in self if not fits(p)) if reason else ()
        registry.unfit = (*self.unfit, *unfit)
        return registry

    def _change(self, change: Callable[[AnyPlugin], AnyPlugin]) -> Registry:
        """The same plugins, changed."""
        registry = Registry(map(change, self._in_order()), self.broken, self.input_kinds.values())
        registry.unfit = self.unfit
        return registry

    def _in_order(self) -> Iterator[AnyPlugin]:
        """Every plugin as it was registered, which decides what is tried first."""
        return (plugin for of_kind in self._plugins.values() for plugin in of_kind.values())

    def variants(self, name: str) -> dict[str, AnyPlugin]:
        """The families that have a backbone with other weights, by the name that it has there.

        Args:
            name: The name of the backbone in a family, or in a variant of that.
        """
        families = [p for p in self._plugins["backbone"].values() if p.variant_of]
        plain = self.plain_name(name)
        family = self._find_family("backbone", plain)
        own = [p for p in families if family and p.variant_of == family.name]
        return {f"{variant.name}:{plain}": variant for variant in own}

    def plain_name(self, name: str) -> str:
        """The name of a backbone without that of the variant of its family."""
        families = (p.name for p in self._plugins["backbone"].values() if p.variant_of)
        prefix = next((f"{f}:" for f in families if name.startswith(f"{f}:")), "")
        return name.removeprefix(prefix)

    def __iter__(self) -> Iterator[AnyPlugin]:
        """Every plugin, by kind, then by name."""
        return (p for kind in GIVEN_ARGUMENTS for _, p in sorted(self._plugins[kind].items()))

    def names(self, kind: str) -> list[str]:
        """The names of the plugins of one kind, sorted; a family counts as one."""
        return sorted(self._plugins[kind])

    def has(self, kind: str, name: str) -> bool:
        """Whether there is a plugin of that name, or a family with a member of that name."""
        try:
            self._find_family(kind, name)
        except PluginError:
            return False
        return True

    def get(self, kind: str, name: str, weights: Path | None = None) -> AnyPlugin:
        """Get the plugin of that name, or a family's plugin for its member of that name.

        Args:
            kind: A kind of plugin.
            name: The name of a plugin, or of a member of a family.
            weights: A folder in which pretrained weights are looked for first.

        Raises:
            PluginError: There is none of that name; the message has near names.
            WeightsError: The member's pretrained weights cannot be found.
        """
        family = self._find_family(kind, name)
        if family is None:
            return self._plugins[kind][name]
        return family.member(name, family.locate(name, weights) if family.locate else None)

    def get_untrained(self, kind: str, name: str, weights: Path | None = None) -> AnyPlugin:
        """Like ``get``, without looking for pretrained weights: for loading a saved model."""
        family = self._find_family(kind, name)
        return family.member(name, None) if family else self._plugins[kind][name]

    def select(
        self, kind: str, patterns: Sequence[str] = (), criteria: BackboneCriteria = NO_CRITERIA
    ) -> tuple[list[AnyPlugin], list[Excluded]]:
        """Select the plugins of ``kind`` that can be used.

        Args:
            kind: A kind of plugin.
            patterns: Names, glob patterns (``*``, ``?``, ``[``) or a family's sets (``@small``);
                without any, all plugins but ``contrastive`` ones, and the default members of
                families.
            criteria: Which backbones may be used.

        Returns:
            The selected plugins, and those that were excluded with the reason.

        Raises:
            PluginError: A name or pattern matches nothing, or a plugin that was named lacks a
                requirement.
        """
        selected: list[AnyPlugin] = []
        excluded: list[Excluded] = []
        for name in self._match_all(kind, patterns, criteria):
            try:
                plugin = self.get(kind, name, criteria.weights)
            except WeightsError as error:
                excluded.append(Excluded(kind, name, str(error)))
                continue
            if plugin.weights and (reason := criteria.rejection_reason(plugin.weights)):
                excluded.append(Excluded(kind, name, reason))
            elif missing := missing_requirements(plugin):
                reason = f"needs {', '.join(missing)}: pip install {' '.join(map(repr, missing))}"
                if name in patterns:
                    raise PluginError(f"{kind} plugin {name!r} {reason}")
                excluded.append(Excluded(kind, name, reason))
            else:
                selected.append(plugin)
        return selected, excluded

    def dataset(self, source: str, options: Iterable[str] = ()) -> AnyPlugin:
        """Get the dataset plugin that reads ``source``.

        Plugin files take precedence over installed plugins, and those of them that look into the
        source (``accepts``) over those that read all that matches.

        Args:
            source: The data source.
            options: Names of keywords. Plugins that have them take precedence, even one that does
                not accept the source: such a keyword may name the column that it missed.

        Raises:
            DataError: It is empty, there is no such file or folder, or no plugin reads it.
        """
        require_source(source)
        path = Path(source).expanduser()
        text = f"{path.as_posix()}/" if path.is_dir() else source
        latest_first = reversed(self._plugins["dataset"].values())
        matching = [
            plugin
            for plugin in sorted(latest_first, key=_dataset_rank)
            if any(fnmatchcase(text.lower(), p.lower()) for p in plugin.matches)
        ]
        names = set(options)
        with_options = [p for p in matching if names and names <= {*p.defaults, *p.settings}]
        faults = []
        for plugin in with_options or matching:
            try:
                if plugin.accepts is None or plugin.accepts(source):
                    return plugin
            except DataError:
                raise
            except Exception as error:  # a plugin may raise anything on a damaged file
                faults.append(f" ({plugin.name}: {type(error).__name__}: {error})")
        if with_options:
            return with_options[0]
        patterns = dict.fromkeys(m for p in self._plugins["dataset"].values() for m in p.matches)
        readable = ", ".join("folders" if pattern == "*/" else pattern for pattern in patterns)
        raise DataError(
            f"no dataset plugin reads {source!r}{''.join(faults)}; those installed read {readable}"
        )

    def _find_family(self, kind: str, name: str) -> AnyPlugin | None:
        """Find the family that ``name`` is a member of; None if it is a plugin itself."""
        plugins = self._plugins[kind]
        if name in plugins and not plugins[name].members:
            return None
        reasons: list[PluginError] = []
        for family in plugins.values():
            try:
                if _list_members(family, [name], NO_CRITERIA) == [name]:
                    return family
            except PluginError as error:
                reasons.append(error)
        for plugin, unfit in self.unfit:
            if plugin.kind == kind and (plugin.name == name or _matches(plugin, name)):
                raise PluginError(f"{kind} plugin {name!r} {unfit}; name another {kind}")
        near = did_you_mean(name, (p.name for p in plugins.values() if not p.members))
        if reasons and near.startswith("there"):
            raise choose_reason(reasons)
        raise PluginError(f"no {kind} plugin is called {name!r}; {near}")

    def _match_all(
        self, kind: str, patterns: Sequence[str], criteria: BackboneCriteria
    ) -> list[str]:
        """The names that the patterns match, without duplicates; without patterns, all."""
        if patterns:
            names = (name for p in patterns for name in self._match(kind, p, criteria))
            return list(dict.fromkeys(names))
        usual = (p for p in self._plugins[kind].values() if not (p.members or p.contrastive))
        plain = sorted(p.name for p in usual)
        families = self._plugins[kind].values()
        return [*plain, *(m for family in families for m in _list_members(family, (), criteria))]

    def _match(self, kind: str, pattern: str, criteria: BackboneCriteria) -> list[str]:
        """The names that one pattern matches, those of families last."""
        plain = [p.name for p in self._plugins[kind].values() if not p.members]
        names = sorted(n for n in plain if fnmatchcase(n, pattern))
        if not set(pattern) & WILDCARDS:
            if not names:
                self._find_family(kind, pattern)
            return names or [pattern]
        reasons: list[PluginError] = []
        for family in self._plugins[kind].values():
            try:
                names += _list_members(family, [pattern], criteria)
            except PluginError as error:
                reasons.append(error)
        if not names and reasons:
            raise choose_reason(reasons)
        if not names:
            near = did_you_mean(pattern, plain)
            raise PluginError(f"no {kind} matches {pattern!r}; {near}")
        return names


def choose_reason(reasons: Sequence[PluginError]) -> PluginError:
    """Choose what to tell about a name that all families refuse: a near name, or the first."""
    own = [r for r in reasons if not isinstance(r, OtherFamily)] or reasons
    return next((r for r in own if "did you mean" in str(r)), own[0])


def require_source(source: str) -> None:
    """Check that a data source exists, if it is a path.

    Raises:
        DataError: It is empty, no path, or there is no such file or folder.
    """
    if not source.strip():
        raise DataError("the data source is empty; is a variable of the shell not set?")
    if fault := find_path_fault(source):
        raise DataError(f"{shorten(source)} is not a valid path: {fault}")
    path = Path(source).expanduser()
    if ":" not in source and not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file or folder {source!r}; {did_you_mean(path.name, near)}")


def _dataset_rank(plugin: AnyPlugin) -> tuple[bool, bool]:
    """What dataset plugins that match one source are sorted by, the one to take first."""
    is_installed = plugin.origin != NO_PACKAGE and not plugin.origin.startswith(FILE)
    return is_installed, plugin.accepts is None


def _matches(family: AnyPlugin, pattern: str) -> bool:
    """Whether a pattern matches a member of a family."""
    try:
        return bool(_list_members(family, [pattern], NO_CRITERIA))
    except PluginError:
        return False


def _without_folder(locate: Locate) -> Locate:
    """Find the weights of a member as ``locate`` does, but not in the folder of weights."""
    return lambda name, folder: locate(name, None)


def _list_members(
    plugin: AnyPlugin, patterns: Sequence[str], criteria: BackboneCriteria
) -> list[str]:
    """The members of a family that match the patterns; none of a plugin that is not a family."""
    return plugin.members(patterns, criteria.device, criteria.seconds) if plugin.members else []


def load(files: Iterable[Path] = ()) -> Registry:
    """Load every installed plugin, then those in ``files``.

    An installed module that cannot be imported is listed in ``Registry.broken`` and does not
    prevent the others from loading.

    Raises:
        PluginError: A file cannot be imported or defines no plugin, or two names collide.
    """
    files = list(files)
    for file in files:
        require_plugin_file(file)  # before the plugins import their libraries
    plugins: list[AnyPlugin] = []
    kinds: list[InputKind] = []
    broken: list[Excluded] = []
    for entry in installed_entries():
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            module = entry.load()
            plugins += collect(module, origin)
            kinds += collect_input_kinds(module)
        except Exception as error:  # a third-party module may raise anything; it is listed
            reason = f"{origin} cannot be imported: {type(error).__name__}: {error}"
            broken.append(Excluded("module", entry.value, reason))
    for file in files:
        module, origin = import_file(file)
        plugins += collect(module, origin)
        kinds += collect_input_kinds(module)
    return Registry(plugins, broken, dict.fromkeys(kinds))
