"""The modules that define plugins: those of installed packages, and single files."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from autotl.errors import PluginError, did_you_mean
from autotl.space.input_kind import InputKind
from autotl.space.kinds import GIVEN_ARGUMENTS
from autotl.space.plugin import FILE, AnyPlugin, Plugin

GROUP = "autotl"
"""The entry point group in which a package registers its plugin modules."""


def installed_entries() -> list[EntryPoint]:
    """List the plugin modules of installed packages, in the order in which they are loaded."""
    return sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value))


def require_plugin_file(file: Path) -> None:
    """Check that a plugin file exists.

    Raises:
        PluginError: There is no such file.
    """
    if not file.exists():
        near = did_you_mean(file.name, (path.name for path in file.parent.glob("*.py")))
        raise PluginError(f"plugin file {file} cannot be read: there is no such file; {near}")


def import_file(file: Path) -> tuple[ModuleType, str]:
    """Import a plugin file under a name of its own.

    Returns:
        The module, and the origin of its plugins.

    Raises:
        PluginError: It cannot be imported, or defines no plugin.
    """
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
        line = error_line(error, spec.origin)
        raise PluginError(
            f"plugin file {file}{line} raises {type(error).__name__}: {error}"
        ) from error
    origin = f"{FILE}{file.name} sha256:{digest}"
    if not collect(module, origin):
        kinds = ", ".join(f"@{kind}" for kind in GIVEN_ARGUMENTS)
        raise PluginError(f"{file} defines no plugin; decorate a function with one of {kinds}")
    return module, origin


def collect(module: ModuleType, origin: str) -> list[AnyPlugin]:
    """Collect the plugins that ``module`` itself defines, not those it imported."""
    return [
        replace(value, origin=origin)
        for value in vars(module).values()
        if isinstance(value, Plugin) and value.function.__module__ == module.__name__
    ]


def collect_input_kinds(module: ModuleType) -> list[InputKind]:
    """Collect the input kinds at the top level of ``module``."""
    return [value for value in vars(module).values() if isinstance(value, InputKind)]


def error_line(error: BaseException, file: str | None) -> str:
    """The line of ``file`` that raised the error, as ``, line 3``; empty if it was elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    return f", line {lines[-1]}" if lines else ""
