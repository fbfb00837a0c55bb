"""The names of plugins, read from the source of their modules without importing them.

Importing the plugins imports PyTorch. A misspelt name is reported before that, if the sources tell
the names of all plugins of its kind.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from autotl.space.kinds import GIVEN_ARGUMENTS
from autotl.space.registry import GROUP


class _Unclear(Exception):
    """The source of a module does not tell which plugins it defines."""


def declared_names(files: Iterable[Path] = ()) -> dict[str, set[str]]:
    """Return the names of all plugins by kind.

    Args:
        files: Files with more plugins than those that are installed.

    Returns:
        The names of each kind. A kind is missing if its names are known only after the import: it
        has a family, or a module makes plugins in another way than by decorating functions.
    """
    names: dict[str, set[str]] = {kind: set() for kind in GIVEN_ARGUMENTS}
    families: set[str] = set()
    try:
        for file in [*_installed_modules(), *files]:
            for kind, name, is_family in _read(file):
                names[kind].add(name)
                if is_family:
                    families.add(kind)
    except (_Unclear, OSError, SyntaxError, ValueError):  # the import reports what is wrong
        return {}
    return {kind: own for kind, own in names.items() if kind not in families}


def _installed_modules() -> Iterator[Path]:
    """Yield the files of the installed plugin modules."""
    for entry in entry_points(group=GROUP):
        try:
            spec = find_spec(entry.module)
        except ImportError:
            continue  # it cannot be imported either
        if spec is not None:
            if not spec.origin or not spec.origin.endswith(".py"):
                raise _Unclear
            yield Path(spec.origin)


def _read(file: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield kind and name of each plugin of a module, and whether it is a family."""
    tree = ast.parse(file.read_bytes())
    decorators = _imported_kinds(tree)
    uses = sum(_kind(node, decorators) is not None for node in ast.walk(tree))
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in function.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            kind = _kind(call.func if call else decorator, decorators)
            if kind is None:
                _require_foreign(decorator, tree)
                continue
            uses -= 1
            options = {k.arg: k.value for k in call.keywords} if call else {}
            name = options.get("name", ast.Constant(function.name))
            if None in options or not isinstance(name, ast.Constant):
                raise _Unclear
            yield kind, str(name.value or function.name), "members" in options
    if uses:
        raise _Unclear


def _imported_kinds(tree: ast.Module) -> dict[str, str]:
    """Return the kind of each name, such as ``head`` or ``autotl.head``, that is a decorator."""
    kinds: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "autotl":
                    module = alias.asname or alias.name
                    kinds |= {f"{module}.{kind}": kind for kind in GIVEN_ARGUMENTS}
                elif alias.name.startswith("autotl."):
                    raise _Unclear
        elif isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                raise _Unclear
            if node.module in ("autotl", "autotl.space.plugin"):
                kinds |= {
                    a.asname or a.name: a.name for a in node.names if a.name in GIVEN_ARGUMENTS
                }
    return kinds


def _kind(node: ast.AST, decorators: dict[str, str]) -> str | None:
    """Return the kind of plugin that a node makes, if it is a decorator of one."""
    if isinstance(node, ast.Name | ast.Attribute):
        return decorators.get(ast.unparse(node))
    return None


def _require_foreign(decorator: ast.expr, tree: ast.Module) -> None:
    """Check that a decorator is of the standard library or of PyTorch, and makes no plugin."""
    root = ast.unparse(decorator).partition("(")[0].partition(".")[0]
    origins = {
        (alias.asname or alias.name).partition(".")[0]: getattr(node, "module", None) or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    top = str(origins.get(root, "")).partition(".")[0]
    if top != "torch" and top not in sys.stdlib_module_names:
        raise _Unclear
