"""Descriptions of plugins as text, JSON and Markdown."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from autotl.errors import PluginError
from autotl.space.hyperparameter import Hyperparameter

if TYPE_CHECKING:
    from autotl.space.plugin import AnyPlugin


def description(plugin: AnyPlugin) -> str:
    """Return the complete docstring of a plugin."""
    return inspect.getdoc(plugin.function) or "(no description)"


def to_text(plugin: AnyPlugin) -> Iterator[str]:
    """Yield the lines of the full description of a plugin."""
    yield f"{plugin.kind} {plugin.name}, from {plugin.origin}{_install_hint(plugin)}"
    yield from ("", description(plugin), "")
    for h in plugin.hyperparameters:
        condition = f", only if {_condition(h)}" if h.when else ""
        use = "--data-option" if plugin.kind == "dataset" else "searched"
        yield f"  {h.name} = {h.default}  {use}: {h.domain}{condition}"
    for name, default in plugin.settings.items():
        yield f"  {name} = {'none' if default == '' else default}  not searched"
    if plugin.matches:
        yield f"  reads {', '.join(plugin.matches)}"


def to_table(plugins: Sequence[AnyPlugin]) -> Iterator[str]:
    """Yield a line for each plugin and one for its keywords, styled for a terminal."""
    kind_width = max(len(p.kind) for p in plugins)
    name_width = max(len(p.name) for p in plugins)
    for p in plugins:
        name = click.style(f"{p.name:{name_width}}", bold=True)
        origin = click.style(f"[{p.origin}]", dim=True)
        yield f"{p.kind:{kind_width}}  {name}  {p.summary}  {origin}{_install_hint(p)}"
        if keywords := "; ".join(_keywords(p)):
            yield f"    {click.style(keywords, dim=True)}"


def to_json(plugin: AnyPlugin) -> dict[str, Any]:
    """Return the description of a plugin as values that JSON supports."""
    missing = _missing_requirements(plugin)
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "summary": plugin.summary,
        "source": _paper(plugin),
        "origin": plugin.origin,
        "order": plugin.order,
        "requires": list(plugin.requires),
        "missing": missing,
        "install": f"pip install {shlex.join(missing)}" if missing else "",
        "hyperparameters": list(map(_hyperparameter_to_json, plugin.hyperparameters)),
        "settings": {
            name: value if isinstance(value, str | int | float | None) else repr(value)
            for name, value in plugin.settings.items()
        },
        **({"takes": plugin.takes} if plugin.kind == "head" else {}),
        **({"mixes": plugin.mixes} if plugin.kind == "augment" else {}),
        **({"matches": list(plugin.matches)} if plugin.kind == "dataset" else {}),
        **({"family": bool(plugin.members)} if plugin.kind == "backbone" else {}),
    }


def _hyperparameter_to_json(h: Hyperparameter) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": h.name, "type": h.type.__name__, "default": h.default}
    if h.range is None:
        facts |= {"choices": list(h.choices or ())}
    else:
        facts |= {"low": h.range.low, "high": h.range.high, "log": h.range.log}
        facts |= {"step": h.range.step} if h.range.step else {}
    if h.when:
        facts["when"] = {name: list(values) for name, values in h.when.conditions.items()}
    return facts


def to_markdown(plugins: Sequence[AnyPlugin], package: str | None) -> Iterator[str]:
    """Yield the lines of a document with a table for each kind."""
    option = f" --package {package}" if package else ""
    yield f"# Plugins{f' of {package}' if package else ''}"
    yield ""
    yield f"Made with `autotl plugins list --format markdown{option}`. The search chooses values"
    yield "for the keywords that have a range or several values; their defaults are tried first."
    for kind in dict.fromkeys(p.kind for p in plugins):
        yield from ("", f"## {kind}", "", "| name | description | keywords |", "|---|---|---|")
        for p in (p for p in plugins if p.kind == kind):
            requires = f" Requires {', '.join(p.requires)}." if p.requires else ""
            keywords = "<br>".join(_keywords(p, quote="`"))
            cells = f"`{p.name}`", _with_links(p.summary) + requires, keywords
            yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _with_links(text: str) -> str:
    """Turn arXiv and DOI identifiers into Markdown links."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[\g<0>](https://arxiv.org/abs/\1)", text)
    return re.sub(r"doi:(10\.[^\s)]+)", r"[\g<0>](https://doi.org/\1)", text)


def _paper(plugin: AnyPlugin) -> str:
    """Return the citation in parentheses at the end of a docstring's first line, or ``""``."""
    match = re.search(r"\(([^()]*\b(?:1[89]|20)\d\d\b[^()]*)\)\.?$", plugin.summary)
    return match[1] if match else ""


def _missing_requirements(plugin: AnyPlugin) -> list[str]:
    """Return the requirements that are not installed; an invalid one counts as missing."""
    from autotl.space.requirements import missing_requirements

    try:
        return missing_requirements(plugin)
    except PluginError:
        return list(plugin.requires)


def _install_hint(plugin: AnyPlugin) -> str:
    missing = _missing_requirements(plugin)
    return f"  (missing: pip install {shlex.join(missing)})" if missing else ""


def _condition(h: Hyperparameter) -> str:
    """Describe when a hyperparameter is used: ``depth is 1 or 2``."""
    conditions = h.when.conditions if h.when else {}
    return " and ".join(f"{n} is {' or '.join(map(str, v))}" for n, v in conditions.items())


def _keywords(plugin: AnyPlugin, quote: str = "") -> Iterator[str]:
    """Yield ``dropout 0.1 to 0.9, default 0.3`` for each keyword, its name between ``quote``."""
    for h in plugin.hyperparameters:
        domain = h.domain.replace(" | ", " or ")
        condition = f", if {_condition(h)}" if h.when else ""
        yield f"{quote}{h.name}{quote} {domain}, default {h.default}{condition}"
    for name, value in plugin.settings.items():
        yield f"{quote}{name}{quote} not searched, default {'none' if value == '' else value}"
