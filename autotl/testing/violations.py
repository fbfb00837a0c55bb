"""The violations of a plugin or an input kind, collected as sentences for its author."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from autotl.errors import Diverged, Incompatible, OutOfMemory, PluginError
from autotl.space.input_kind import InputKind
from autotl.space.plugin import AnyPlugin
from autotl.testing.configurations import Params


@dataclass
class Violations:
    """The violations of the contract; one of several configurations is reported once.

    Attributes:
        plugin: The plugin, or the input kind.
        setting: What the plugin is tried on, if that should be reported.
        refusals: The messages of ``Incompatible`` errors, which are no violations.
    """

    plugin: AnyPlugin | InputKind
    setting: str = ""
    refusals: list[str] = field(default_factory=list)
    _circumstances: dict[str, list[str]] = field(default_factory=dict)  # by violation

    def add(self, violation: str, params: Params | None = None) -> None:
        """Add a violation, with the values under which it occurred if those are no defaults."""
        defaults = {} if isinstance(self.plugin, InputKind) else self.plugin.defaults
        changed = {k: v for k, v in (params or {}).items() if v != defaults.get(k)}
        values = ", ".join(f"{k}={v!r}" for k, v in changed.items())
        circumstance = " ".join(filter(None, (f"with {values}" if values else "", self.setting)))
        self._circumstances.setdefault(violation, []).append(circumstance)

    @property
    def sentences(self) -> tuple[str, ...]:
        """All violations, each once."""
        sentences = []
        for violation, circumstances in self._circumstances.items():
            more = f" and {len(circumstances) - 1} more" if len(circumstances) > 1 else ""
            suffix = f" ({circumstances[0]}{more})" if circumstances[0] else ""
            sentences.append(f"{self._subject} {violation}{suffix}")
        return tuple(sentences)

    @contextlib.contextmanager
    def catch(self, params: Params | None = None) -> Iterator[None]:
        """Add any error that is raised inside, with its line in the plugin's file."""
        try:
            yield
        except Incompatible as reason:
            self.refusals.append(str(reason))
        except Diverged as error:
            self.add(f"diverges on easy data: {error}; narrow the range", params)
        except OutOfMemory:
            self.add(
                "runs out of memory with a single example, or raises torch.OutOfMemoryError itself",
                params,
            )
        except PluginError as error:
            self.add(str(error).removeprefix(f"{self._subject} "), params)
        except Exception as error:  # a plugin may raise anything
            text = first_line(error)
            self.add(f"raises {type(error).__name__}{self._line(error)}: {text}", params)

    @contextlib.contextmanager
    def trying(self, setting: str, params: Params | None = None) -> Iterator[None]:
        """Report ``setting`` with all violations inside, and catch errors."""
        before, self.setting = self.setting, setting
        try:
            with self.catch(params):
                yield
        finally:
            self.setting = before

    @property
    def _subject(self) -> str:
        if isinstance(self.plugin, InputKind):
            return f"input kind {getattr(self.plugin, 'name', type(self.plugin).__name__)!r}"
        return f"{self.plugin.kind} plugin {self.plugin.name!r}"

    def _line(self, error: Exception) -> str:
        plugin = self.plugin
        file = inspect.getfile(type(plugin) if isinstance(plugin, InputKind) else plugin.function)
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        return f" in line {lines[-1]}" if lines else ""


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]


def describe(value: Any) -> str:
    """Describe a value: type and shape of a tensor, ``float32 [8, 3]``, or the name of its type."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, tuple | list) and len(value) < 4:
        return f"({', '.join(map(describe, value))})"
    return type(value).__name__
