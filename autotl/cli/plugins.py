"""``plugins``: what can be searched, and help for who writes more of it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from autotl.cli import templates
from autotl.cli.common import PLUGIN
from autotl.errors import PluginError, did_you_mean
from autotl.space.plugin import GIVEN_ARGUMENTS, Hyperparameter

if TYPE_CHECKING:
    from autotl.space.registry import AnyPlugin, Registry

FORMAT = click.option(
    "--format", "form", type=click.Choice(["table", "json", "markdown"]), default="table"
)
JSON = click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
PACKAGE = click.option("--package", metavar="NAME", help="Only the plugins of this package.")


def _listing(command: Any) -> Any:
    for option in (PACKAGE, PLUGIN, JSON, FORMAT):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@_listing
@click.pass_context
def plugins(ctx: click.Context, /, **options: Any) -> None:
    """List what can be searched, and help to write more.

    Without a command it lists every plugin, as list does.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_plugins, **options)
        return
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            ctx.fail(f"give {param.opts[0]} after {ctx.invoked_subcommand}")


@plugins.command("list")
@_listing
def list_plugins(form: str, as_json: bool, plugin: Sequence[Path], package: str | None) -> None:
    """List every plugin: what it is, what is searched of it, where it comes from."""
    from autotl.space import registry

    found = registry.load(plugin)
    chosen = list(found) if package is None else _of_package(found, package)
    for broken in found.broken:
        click.echo(f"warning: {broken.name} is left out: {broken.reason}", err=True)
    if as_json or form == "json":
        left = [{"module": b.name, "reason": b.reason} for b in found.broken]
        click.echo(json.dumps({"plugins": list(map(_facts, chosen)), "broken": left}, indent=2))
    elif form == "markdown":
        click.echo("\n".join(_markdown(chosen, package)))
    else:
        _table(chosen)


def _of_package(found: Registry, package: str) -> list[AnyPlugin]:
    chosen = [p for p in found if p.origin.partition(" ")[0] == package]
    if not chosen:
        near = did_you_mean(package, {p.origin.partition(" ")[0] for p in found})
        raise PluginError(f"no plugin comes from a package {package!r}; {near}")
    return chosen


@plugins.command("show")
@click.argument("name")
@JSON
@PLUGIN
def show_plugin(name: str, as_json: bool, plugin: Sequence[Path]) -> None:
    """Show all there is to know about the plugins called NAME."""
    from autotl.space import registry

    named = _named(registry.load(plugin), name)
    if as_json:
        whole = [{**_facts(p), "description": _description(p)} for p in named]
        click.echo(json.dumps({"plugins": whole}, indent=2))
        return
    for p in named:
        click.echo(f"{p.kind} {p.name}, from {p.origin}{_lacks(p)}\n\n{_description(p)}\n")
        for h in p.hyperparameters:
            asked = f", asked when {_condition(h)}" if h.when else ""
            click.echo(f"  {h.name} = {h.default}  searched: {h.space}{asked}")
        for setting, default in p.settings.items():
            click.echo(f"  {setting} = {default}  a setting")
        if p.matches:
            click.echo(f"  reads {', '.join(p.matches)}")


def _named(found: Registry, name: str) -> list[AnyPlugin]:
    """The plugins of that name, one of a kind at most."""
    named = [p for p in found if p.name == name]
    if not named:
        near = did_you_mean(name, {p.name for p in found})
        raise PluginError(f"no plugin is called {name!r}; {near}")
    return named


@plugins.command("check")
@click.argument("target", metavar="FILE|NAME")
@click.option("--source", metavar="SOURCE", default="", help="Read by the dataset plugins.")
@PLUGIN
def check_plugins(target: str, source: str, plugin: Sequence[Path]) -> None:
    """Try the plugins in FILE, or those called NAME, on toy data and say what breaks.

    Each is tried at its defaults, at both ends of every range and at every choice. The exit code
    is 1 if anything broke.
    """
    from autotl.space import registry

    if target.endswith(".py") or Path(target).is_file():
        file = Path(target)
        found = registry.load(dict.fromkeys([*plugin, file]))
        chosen = [p for p in found if p.origin.startswith(f"file {file.name} ")]
    else:
        chosen = _named(registry.load(plugin), target)
    from autotl import testing

    broken = 0
    for p in chosen:
        tried = testing.examine(p, source=source if p.kind == "dataset" else "")
        broken += bool(tried.broken)
        many = "" if tried.configurations == 1 else "s"
        unread = p.kind == "dataset" and not source
        note = "; what it returns is checked with --source SOURCE" if unread else ""
        fine = f"{p.kind} {p.name}: ok, {tried.configurations} configuration{many}{note}"
        click.echo("\n".join(tried.broken) or fine)
    if broken:
        sys.exit(1)


@plugins.command("new")
@click.argument("kind", type=click.Choice(list(GIVEN_ARGUMENTS)))
@click.argument("name")
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path(), metavar="DIR")
def new_plugin(kind: str, name: str, folder: Path) -> None:
    """Write NAME.py with a plugin of KIND that works, and test_NAME.py that checks it."""
    from autotl.space import registry

    templates.refuse_name(kind, name)
    if name in registry.load().names(kind):
        raise PluginError(f"there is a {kind} plugin called {name!r} already; choose another name")
    texts = templates.render(kind, name)
    if there := [file for file in texts if (folder / file).exists()]:
        raise PluginError(f"{folder / there[0]} is there already; choose another name or --dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (folder / file).write_text(text)
    except OSError as error:
        raise PluginError(f"{folder} cannot be written: {error.strerror}") from None
    plugin, test = (shlex.quote(str(folder / file)) for file in texts)
    click.echo(f"wrote {plugin} and {test}\n\nCheck it:  autotl plugins check {plugin}")
    if kind == "dataset":
        click.echo(f"Read it:   autotl data check {name}:30 --plugin {plugin}")
    else:
        click.echo(f"Search:    autotl search DATA --plugin {plugin} --{kind} {name}")


# A plugin in words, in JSON and in Markdown.


def _description(plugin: AnyPlugin) -> str:
    import inspect

    return inspect.getdoc(plugin.function) or "(no description)"


def _missing(plugin: AnyPlugin) -> list[str]:
    """What is not installed; a requirement that cannot be read counts as that."""
    from autotl.space import registry

    try:
        return registry.missing_requirements(plugin)
    except PluginError:
        return list(plugin.requires)


def _lacks(plugin: AnyPlugin) -> str:
    lacks = _missing(plugin)
    return f"  (missing: pip install {shlex.join(lacks)})" if lacks else ""


def _source(plugin: AnyPlugin) -> str:
    """The paper that the first line of a docstring ends with, in brackets; ``""`` without one."""
    found = re.search(r"\(([^()]*\b(?:1[89]|20)\d\d\b[^()]*)\)\.?$", plugin.summary)
    return found[1] if found else ""


def _facts(plugin: AnyPlugin) -> dict[str, Any]:
    """A plugin as JSON holds it."""
    lacks = _missing(plugin)
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "summary": plugin.summary,
        "source": _source(plugin),
        "origin": plugin.origin,
        "order": plugin.order,
        "requires": list(plugin.requires),
        "missing": lacks,
        "install": f"pip install {shlex.join(lacks)}" if lacks else "",
        "hyperparameters": list(map(_hyperparameter, plugin.hyperparameters)),
        "settings": {name: _plain(value) for name, value in plugin.settings.items()},
        **({"takes": plugin.takes} if plugin.kind == "head" else {}),
        **({"mixes": plugin.mixes} if plugin.kind == "augment" else {}),
        **({"matches": list(plugin.matches)} if plugin.kind == "dataset" else {}),
        **({"family": bool(plugin.members)} if plugin.kind == "backbone" else {}),
    }


def _hyperparameter(h: Hyperparameter) -> dict[str, Any]:
    known = {"name": h.name, "type": h.type.__name__, "default": h.default}
    if h.range is None:
        searched: dict[str, Any] = {"choices": list(h.choices or ())}
    else:
        searched = {"low": h.range.low, "high": h.range.high, "log": h.range.log}
        searched |= {"step": h.range.step} if h.range.step else {}
    when = {name: list(values) for name, values in h.when.conditions.items()} if h.when else {}
    return {**known, **searched, **({"when": when} if when else {})}


def _plain(value: Any) -> Any:
    """A default as JSON can hold it."""
    return value if isinstance(value, str | int | float | None) else repr(value)


def _condition(h: Hyperparameter) -> str:
    conditions = h.when.conditions if h.when else {}
    return " and ".join(f"{n} is {' or '.join(map(str, v))}" for n, v in conditions.items())


def _keywords(plugin: AnyPlugin, code: str = "") -> Iterable[str]:
    """``share 0.1 to 0.9, default 0.3`` for each keyword; names between marks of ``code``."""
    for h in plugin.hyperparameters:
        searched = h.space.replace(" | ", " or ")
        when = f", if {_condition(h)}" if h.when else ""
        yield f"{code}{h.name}{code} {searched}, default {h.default}{when}"
    for name, value in plugin.settings.items():
        yield f"{code}{name}{code} a setting, default {value}"


def _table(chosen: Sequence[AnyPlugin]) -> None:
    kinds = max(len(p.kind) for p in chosen)
    names = max(len(p.name) for p in chosen)
    for p in chosen:
        name = click.style(f"{p.name:{names}}", bold=True)
        origin = click.style(f"[{p.origin}]", dim=True)
        click.echo(f"{p.kind:{kinds}}  {name}  {p.summary}  {origin}{_lacks(p)}")
        if keywords := "; ".join(_keywords(p)):
            click.echo(f"    {click.style(keywords, dim=True)}")


def _markdown(chosen: Sequence[AnyPlugin], package: str | None) -> Iterable[str]:
    """The lines of a document with a table for each kind."""
    of = f" --package {package}" if package else ""
    yield f"# Plugins{f' of {package}' if package else ''}"
    yield ""
    yield f"Made with `autotl plugins list --format markdown{of}`. The search chooses the keywords"
    yield "that have a range or several values; their defaults are tried first."
    for kind in dict.fromkeys(p.kind for p in chosen):
        yield from ("", f"## {kind}", "", "| name | what it is | keywords |", "|---|---|---|")
        for p in (p for p in chosen if p.kind == kind):
            needs = f" Needs {', '.join(p.requires)}." if p.requires else ""
            keywords = "<br>".join(_keywords(p, "`"))
            cells = f"`{p.name}`", _linked(p.summary) + needs, keywords
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _linked(text: str) -> str:
    """With papers as links."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[\g<0>](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.[^\s)]+)", r"[\g<0>](https://doi.org/\1)", text)
