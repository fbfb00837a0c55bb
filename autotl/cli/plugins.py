"""The ``plugins`` commands: list, show, check and create plugins."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from autotl import files
from autotl.cli import plugin_formats, templates
from autotl.cli.common import PATH, PLUGIN, SOURCE
from autotl.cli.progress_bar import ProgressBar
from autotl.errors import PluginError, did_you_mean
from autotl.space.kinds import GIVEN_ARGUMENTS

if TYPE_CHECKING:
    from autotl.space.input_kind import InputKind
    from autotl.space.plugin import AnyPlugin
    from autotl.space.registry import Registry
    from autotl.testing import Examination

LIST_FORMAT = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "markdown"]),
    default="table",
    help="Format of the output (default: table).",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Output as JSON (default: as text).")
PACKAGE = click.option(
    "--package", metavar="NAME", help="Package whose plugins are listed (default: all packages)."
)


def _list_options(command: Any) -> Any:
    for option in (PACKAGE, PLUGIN, JSON, LIST_FORMAT):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@_list_options
@click.pass_context
def plugins(ctx: click.Context, /, **options: Any) -> None:
    """List, show, check and create plugins.

    Without a subcommand, all plugins are listed.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_plugins, kind=None, **options)
        return
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE:
            ctx.fail(f"{param.opts[0]} must be given after {ctx.invoked_subcommand}")


@plugins.command("list")
@click.argument("kind", type=click.Choice(list(GIVEN_ARGUMENTS)), required=False)
@_list_options
def list_plugins(
    kind: str | None,
    output_format: str,
    as_json: bool,
    plugin: Sequence[Path],
    package: str | None,
) -> None:
    """List the plugins, or those of KIND, with description, hyperparameters and origin."""
    from autotl.space import registry

    available = registry.load(plugin)
    listed = list(available) if package is None else _from_package(available, package)
    listed = [p for p in listed if kind in (None, p.kind)]
    for broken in available.broken:
        click.echo(f"warning: {broken.name} cannot be loaded: {broken.reason}", err=True)
    if as_json or output_format == "json":
        broken_modules = [{"module": b.name, "reason": b.reason} for b in available.broken]
        facts = [plugin_formats.to_json(p) for p in listed]
        click.echo(json.dumps({"plugins": facts, "broken": broken_modules}, indent=2))
    elif output_format == "markdown":
        click.echo("\n".join(plugin_formats.to_markdown(listed, package)))
    else:
        click.echo("\n".join(plugin_formats.to_table(listed)))


def _from_package(available: Registry, package: str) -> list[AnyPlugin]:
    listed = [p for p in available if p.origin.partition(" ")[0] == package]
    if not listed:
        hint = did_you_mean(package, {p.origin.partition(" ")[0] for p in available})
        raise PluginError(f"no plugin comes from a package {package!r}; {hint}")
    return listed


@plugins.command("show")
@click.argument("name")
@JSON
@PLUGIN
def show_plugin(name: str, as_json: bool, plugin: Sequence[Path]) -> None:
    """Show the full description of the plugins called NAME."""
    from autotl.space import registry

    named = _plugins_called(name, registry.load(plugin))
    if as_json:
        facts = [
            {**plugin_formats.to_json(p), "description": plugin_formats.description(p)}
            for p in named
        ]
        click.echo(json.dumps({"plugins": facts}, indent=2))
    else:
        for p in named:
            click.echo("\n".join(plugin_formats.to_text(p)))


def _plugins_called(name: str, available: Registry) -> list[AnyPlugin]:
    """Return the plugins called ``name``, at most one of each kind.

    Raises:
        PluginError: There is none.
    """
    named = [p for p in available if p.name == name]
    if not named and ":" in name and available.has("backbone", name):
        named = [available.get_untrained("backbone", name)]  # a member of a family
    if not named:
        hint = did_you_mean(name, {p.name for p in available})
        raise PluginError(f"no plugin is called {name!r}; {hint}")
    return named


@plugins.command("check")
@click.argument("target", metavar="FILE|NAME", type=SOURCE)
@click.option(
    "--source",
    metavar="SOURCE",
    type=SOURCE,
    default="",
    help="Data source for the dataset plugins to read (default: none, only the signature is "
    "checked).",
)
@PLUGIN
def check_plugins(target: str, source: str, plugin: Sequence[Path]) -> None:
    """Test the plugins in FILE, or those called NAME, on toy data and report violations.

    Input kinds are tested too. Each plugin is tested with its defaults, with both ends of every
    range and with every choice. The exit code is 1 if anything is wrong.
    """
    click.echo(f"checking {target}", err=True)  # the libraries take seconds to load
    from autotl.space import plugin_modules, registry

    if target.endswith(".py") or Path(target).is_file():
        file = Path(target)
        available = registry.load(dict.fromkeys([*plugin, file]))
        checked = [p for p in available if p.origin.startswith(f"file {file.name} ")]
        modules = {sys.modules[p.function.__module__] for p in checked}
        kinds = {kind for module in modules for kind in plugin_modules.collect_input_kinds(module)}
    else:
        available = registry.load(plugin)
        kinds = {kind for name, kind in available.input_kinds.items() if name == target}
        only_kinds = kinds and target not in {p.name for p in available}
        checked = [] if only_kinds else _plugins_called(target, available)
    all_fine = True
    for kind in sorted(kinds, key=lambda kind: str(kind.name)):
        all_fine &= _check_kind(kind, available)
    for p in checked:
        all_fine &= _check_plugin(p, source if p.kind == "dataset" else "", available)
    if not all_fine:
        sys.exit(1)


def _check_kind(kind: InputKind, available: Registry) -> bool:
    """Test an input kind and print the result; return whether it is fine."""
    from autotl import testing

    examination = testing.examine_input_kind(kind, backbone=_backbone_of(kind, available))
    _print_examination(examination, f"input kind {kind.name}: ok")
    return not examination.broken


def _check_plugin(p: AnyPlugin, source: str, available: Registry) -> bool:
    """Test a plugin and print the result; return whether it is fine."""
    from autotl import testing
    from autotl.data import IMAGES, find_kind
    from autotl.space.input_kind import ANY_INPUT

    kind = IMAGES if p.input == ANY_INPUT else find_kind(p.input, available)
    backbone = _backbone_of(kind, available)
    with ProgressBar(f"{p.kind} {p.name}", 0) as bar:
        examination = testing.examine(
            p, source=source, kind=kind, backbone=backbone, progress=bar.update
        )
    plural = "" if examination.configurations == 1 else "s"
    passed = f"{p.kind} {p.name}: ok, {examination.configurations} configuration{plural}"
    if p.kind == "dataset" and not source:
        passed = f"{p.kind} {p.name}: not read"
    _print_examination(examination, passed)
    return not examination.broken


def _backbone_of(kind: InputKind, available: Registry) -> AnyPlugin | None:
    """A backbone for the items of a kind; None if those are images, or if there is none."""
    from autotl.space.input_kind import IMAGE

    for p in available if kind.backbone_input != IMAGE else ():
        if p.kind == "backbone" and p.input == kind.backbone_input:
            for name in p.members((), "cpu", None) if p.members else [p.name]:
                return available.get_untrained("backbone", name)
    return None


def _print_examination(examination: Examination, passed: str) -> None:
    lines = examination.broken or [passed]
    click.echo("\n".join([*lines, *(f"  note: {note}" for note in examination.notes)]))


@plugins.command("new")
@click.argument("kind", type=click.Choice(list(templates.PLUGIN)))
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=PATH,
    default=Path(),
    metavar="DIR",
    help="Folder for the two files (default: the current folder).",
)
def new_plugin(kind: str, name: str, folder: Path) -> None:
    """Write NAME.py with a working plugin of KIND, and test_NAME.py that tests it.

    For the KIND input it is a kind of input, such as a kind of measurement, with a dataset and a
    backbone.
    """
    from autotl.space import registry
    from autotl.space.input_kind import ANY_INPUT, IMAGE

    templates.require_valid_name(kind, name)
    available, is_input = registry.load(), kind == templates.INPUT
    names = available.input_kinds if is_input else available.names(kind)
    if name in names or (is_input and name in (IMAGE, ANY_INPUT)):
        described = f"an {kind} kind" if is_input else f"a {kind} plugin"
        raise PluginError(f"there is {described} called {name!r} already; choose another name")
    texts = templates.render(kind, name)
    if existing := [file for file in texts if (folder / file).exists()]:
        raise PluginError(f"{folder / existing[0]} exists already; choose another name or --dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            files.write_text(folder / file, text)
    except OSError as error:
        raise PluginError(
            f"{folder} cannot be written ({error.strerror}); choose another folder with --dir"
        ) from None
    plugin, test = (shlex.quote(str(folder / file)) for file in texts)
    click.echo(f"wrote {plugin} and {test}\n\nCheck it:  autotl plugins check {plugin}")
    if kind in ("dataset", templates.INPUT):
        click.echo(f"Read it:   autotl data check {name}:30 --plugin {plugin}")
    if kind == templates.INPUT:
        click.echo(f"Search:    autotl search {name}:30 --plugin {plugin} --trials 3")
    elif kind != "dataset":
        click.echo(f"Search:    autotl search DATA --plugin {plugin} --{kind} {name}")
