"""The plugins, read from the source of their modules without importing them.

Importing the plugins imports PyTorch. A misspelt name, or a value outside of what a plugin
declares, is reported before that, if the sources tell enough.
"""

from __future__ import annotations

import ast
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autotl.errors import PluginError
from autotl.space import hyperparameter
from autotl.space.kinds import GIVEN_ARGUMENTS
from autotl.space.plugin import AnyPlugin, Plugin
from autotl.space.plugin_modules import installed_entries
from autotl.space.signature import read_signature

TYPES: Mapping[str, object] = {kind.__name__: kind for kind in (bool, int, float, str, tuple)}
"""The built-in names that the keywords of a plugin may use."""

NAMES = {
    "typing": (typing, ("Annotated", "Literal")),
    "autotl": (hyperparameter, ("Mirrors", "Range", "When")),
    "autotl.space.hyperparameter": (hyperparameter, ("Mirrors", "Range", "When")),
}
"""The names that keywords may use, by the module that they are imported from."""


class _Unclear(Exception):
    """The source of a module does not tell which plugins it defines."""


@dataclass(frozen=True)
class _Source:
    """A plugin in the source of a module; ``module`` is the name of an installed one, or empty.

    A task is a class, which has no keywords. ``options`` are those of its decorator.
    """

    kind: str
    name: str
    options: Mapping[str | None, ast.expr]
    function: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    tree: ast.Module
    module: str = ""

    @property
    def is_family(self) -> bool:
        """Whether it is a family of plugins."""
        return "members" in self.options


@dataclass(frozen=True)
class Declarations:
    """The plugins that the sources declare.

    Attributes:
        names: The names of each kind, those of families too. A kind is missing if its names are
            known only after the import.
    """

    names: Mapping[str, set[str]]
    _sources: tuple[_Source, ...] = ()

    def is_family(self, kind: str, name: str) -> bool:
        """Whether the plugin of that name is a family."""
        return any((s.kind, s.name, s.is_family) == (kind, name, True) for s in self._sources)

    def keywords(self, kind: str, name: str) -> AnyPlugin | None:
        """A plugin with the keywords of that name; None if the source does not tell them.

        Its function does nothing.
        """
        source = next((s for s in self._sources if (s.kind, s.name) == (kind, name)), None)
        return _read_keywords(source) if source else None

    def suits(self, kind: str, name: str, task: str) -> bool:
        """Whether the plugin of that name is for a task, as far as the source tells that."""
        sources = [s for s in self._sources if (s.kind, s.name) == (kind, name)]
        return not sources or any(_suits(source, task) for source in sources)

    def has_own_targets(self, task: str) -> bool:
        """Whether a task is derived from ``autotl.Task`` itself and not from a classification."""
        functions = [s.function for s in self._sources if (s.kind, s.name) == ("task", task)]
        classes = [f for f in functions if isinstance(f, ast.ClassDef)]
        return any(ast.unparse(b) in ("Task", "autotl.Task") for c in classes for b in c.bases)

    def families(self, kind: str) -> list[AnyPlugin]:
        """The families of a kind, whose modules are imported; none if that fails."""
        sources = (s for s in self._sources if s.kind == kind and s.is_family)
        modules = dict.fromkeys(source.module for source in sources)
        try:
            values = [value for name in modules for value in vars(import_module(name)).values()]
        except Exception:  # a third-party module may raise anything; the registry lists it
            return []
        plugins = [value for value in values if isinstance(value, Plugin)]
        return [plugin for plugin in plugins if plugin.kind == kind and plugin.members]


def read_declarations(files: Iterable[Path] = ()) -> Declarations:
    """Read which plugins there are.

    Args:
        files: Files with more plugins than those that are installed.

    Returns:
        The plugins; none if a module makes plugins in another way than by decorating functions.
        A kind that has a family in a file is missing.
    """
    sources: list[_Source] = []
    try:
        modules = [*_installed_modules(), *(("", file) for file in files)]
        for module, file in modules:
            sources += _read(file, module)
    except (_Unclear, OSError, SyntaxError, ValueError):  # the import reports what is wrong
        return Declarations({})
    unclear = {source.kind for source in sources if source.is_family and not source.module}
    names: dict[str, set[str]] = {kind: set() for kind in GIVEN_ARGUMENTS if kind not in unclear}
    for source in sources:
        if source.kind in names:
            names[source.kind].add(source.name)
    return Declarations(names, tuple(sources))


def _installed_modules() -> Iterator[tuple[str, Path]]:
    """Yield the names and the files of the installed plugin modules, as the registry sorts them."""
    for entry in installed_entries():
        try:
            spec = find_spec(entry.module)
        except ImportError:
            continue  # it cannot be imported either
        if spec is not None:
            if not spec.origin or not spec.origin.endswith(".py"):
                raise _Unclear
            yield entry.module, Path(spec.origin)


def _suits(source: _Source, task: str) -> bool:
    names, tasks = _read_constants(source), source.options.get("tasks")
    if tasks is None or not _try_to_run(ast.Assign([ast.Name("tasks", ast.Store())], tasks), names):
        return True
    return not names["tasks"] or task in names["tasks"]


def _read_keywords(source: _Source) -> AnyPlugin | None:
    """Make a plugin with the keywords in a source, by running their annotations and defaults alone.

    Names that these use are known if they are imported from ``NAMES``, or are constants that use
    only such names.
    """
    names = _read_constants(source)
    if isinstance(source.function, ast.ClassDef):
        return None
    arguments = source.function.args
    for argument in (*arguments.posonlyargs, *arguments.args):
        argument.annotation = None
    stub = ast.FunctionDef(source.function.name, arguments, [ast.Pass()], [])
    if not _try_to_run(ast.copy_location(stub, source.function), names):
        return None
    function = names[source.function.name]
    try:
        hyperparameters, settings = read_signature(source.kind, function)
    except PluginError:  # the import reports it
        return None
    return Plugin(source.kind, source.name, function, hyperparameters, settings)


def _read_constants(source: _Source) -> dict[str, Any]:
    """The names that keywords and options of a source may use, with their values."""
    names: dict[str, Any] = {"__builtins__": {}, "__name__": source.module, **TYPES}
    for node in source.tree.body:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module in NAMES:
            module, exported = NAMES[node.module]
            own = {a.asname or a.name: a.name for a in node.names if a.name in exported}
            names |= {name: getattr(module, of) for name, of in own.items()}
        elif isinstance(node, ast.Assign):
            _try_to_run(node, names)
    return names


def _try_to_run(node: ast.stmt, names: dict[str, Any]) -> bool:
    """Run a statement that uses only some names; return whether that was possible."""
    module = ast.fix_missing_locations(ast.Module([node], []))
    try:
        exec(compile(module, "<plugin>", "exec", dont_inherit=True), names)
    except Exception:  # it uses other names, or is wrong, which the import reports
        return False
    return True


def _read(file: Path, module: str) -> Iterator[_Source]:
    """Yield the plugins of a module."""
    tree = ast.parse(file.read_bytes())
    nodes = list(ast.walk(tree))
    decorators = _imported_kinds(nodes)
    uses = sum(_kind(node, decorators) is not None for node in nodes)
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
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
            if isinstance(function, ast.ClassDef) and "name" not in options:
                name = _class_name(function)
            if None in options or not isinstance(name, ast.Constant):
                raise _Unclear
            own = str(name.value or function.name)
            yield _Source(kind, own, options, function, tree, module)
    if uses:
        raise _Unclear


def _class_name(task: ast.ClassDef) -> ast.expr:
    """Return the value of the attribute ``name`` of a class, or the name of the class."""
    for node in task.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "name":
            return node.value
    return ast.Constant(task.name)


def _imported_kinds(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Return the kind of each name, such as ``head`` or ``autotl.head``, that is a decorator."""
    kinds: dict[str, str] = {}
    for node in nodes:
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
