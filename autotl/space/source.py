"""What the code of a plugin is: a digest of its source, and the versions of its libraries."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from autotl.space.plugin import Plugin

INSTALLED = {"site-packages", "dist-packages"}
"""Folders of installed packages."""


@cache
def source_digest(module: str) -> str:
    """Return a digest of the source of a module and of what it imports, which may change.

    Imports are followed, also those inside functions, into the module's own package and into
    modules that are not installed. Of other packages the version counts, and AutoTL is left out:
    what it computes has a version of its own.

    Args:
        module: Name of an imported module. One without a file, such as a notebook, has an empty
            source.
    """
    own = module.partition(".")[0]
    sources: dict[str, str] = {}
    versions: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        spec = _find(name)
        sources[name] = _read(spec)
        for imported in _imports(sources[name], spec):
            top = imported.partition(".")[0]
            if top in ("autotl", "__future__") or top in sys.stdlib_module_names:
                continue
            if top == own or not _is_installed(imported):
                waiting.append(imported)
            else:
                versions[top] = _version(top)
    text = repr((sorted(sources.items()), sorted(versions.items())))
    return hashlib.sha256(text.encode()).hexdigest()


def library_versions(plugin: Plugin[..., Any]) -> dict[str, str]:
    """The versions of the distributions that a plugin comes from and requires, by their names.

    AutoTL is left out, as in ``source_digest``, and so is what is not installed.
    """
    versions = {}
    with suppress(InvalidVersion):  # it is from a file
        name, _, number = plugin.origin.partition(" ")
        versions[name] = str(Version(number))
    for text in plugin.requires:
        name = Requirement(text).name
        with suppress(PackageNotFoundError):  # not for this platform
            versions[name] = version(name)
    versions.pop("autotl", None)
    return versions


def _find(name: str) -> ModuleSpec | None:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded.__spec__
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # such as a name that is not a module
        return None


def _read(spec: ModuleSpec | None) -> str:
    try:
        return Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    except (OSError, ValueError):  # built in, or compiled
        return ""


def _version(package: str) -> str:
    """Return the version of an installed package, as it states it or as pip knows it."""
    loaded = sys.modules.get(package)
    stated = vars(loaded).get("__version__") if loaded else None  # getattr may warn
    if stated is None:
        with suppress(PackageNotFoundError):
            return version(package)
    return str(stated or "")


def _is_installed(name: str) -> bool:
    spec = _find(name.partition(".")[0])
    return spec is None or not INSTALLED.isdisjoint(Path(spec.origin or "").parts)


def _imports(source: str, spec: ModuleSpec | None) -> Iterator[str]:
    """Yield the absolute names of the modules that a source may import."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = (spec.parent or "") if spec else ""
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
