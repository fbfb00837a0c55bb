"""Tasks fitted to toy labels, on which heads, losses, metrics and tasks are tried.

Shapes: N examples, L logits, K numbers in a prediction.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl.data.labels import natural_key
from autotl.errors import DataError, PluginError, did_you_mean
from autotl.space import plugin_modules, registry
from autotl.space.plugin import AnyPlugin
from autotl.space.registry import Registry
from autotl.space.task import Label, Task
from autotl.tasks import find_task

COUNT = 24
"""Number of toy labels."""

STEPS, RATE = 300, 0.1
"""Steps and learning rate of Adam, by which logits are fitted to targets."""

SEVERAL: Sequence[Label] = [["a", "b"], ["c"], [], ["a"], ["b", "c"], ["a", "c"]] * (COUNT // 6)
CLASSES: Sequence[Label] = ["a", "b", "c"] * (COUNT // 3)
NUMBERS: Sequence[Label] = [0.75 + 7 * i % COUNT for i in range(COUNT)]
NAMED: Sequence[Label] = [{"x": 0.5 + i, "y": 0.25 * (5 * i % COUNT) - 2} for i in range(COUNT)]
COUNTS: Sequence[Label] = [float(5 * i % COUNT) for i in range(COUNT)]
FORMS: Mapping[str, Sequence[Label]] = {
    "lists of labels": SEVERAL,
    "classes": CLASSES,
    "numbers": NUMBERS,
    "numbers by name": NAMED,
    "whole numbers": COUNTS,
}
"""Labels of every form that a dataset plugin may give."""

GROUPS = ((SEVERAL,), (CLASSES,), (NUMBERS, NAMED), (COUNTS,))
"""The labels that a task is tried with: those of the first group that it parses."""


@dataclass(frozen=True)
class ToyTask:
    """A task that is fitted to toy labels.

    Attributes:
        task: The task.
        labels: Parsed labels, ``[N]``.
    """

    task: Task
    labels: tuple[str, ...]

    @cached_property
    def targets(self) -> NDArray[Any]:
        """The targets of the labels, ``[N, ...]``."""
        targets: NDArray[Any] = self.task.encode(self.labels)
        return targets

    @cached_property
    def expanded(self) -> Tensor:
        """The targets as the loss takes them, ``float32 [N, L]``."""
        expanded: Tensor = self.task.expand(torch.from_numpy(self.targets))
        return expanded

    def random_logits(self, scale: float = 1.0) -> Tensor:
        """Logits ``float32 [N, L]`` from a normal distribution, always the same."""
        generator = torch.Generator().manual_seed(0)
        return scale * torch.randn(len(self.labels), self.task.num_logits, generator=generator)

    def fit_logits(self, loss: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Minimise a loss over the logits ``[N, L]`` themselves.

        Args:
            loss: Of logits and targets ``[N, L]``; that of the task by default.
        """
        logits = self.random_logits().requires_grad_()
        adam = torch.optim.Adam([logits], lr=RATE)
        for _ in range(STEPS):
            adam.zero_grad()
            (loss or self.task.loss)(logits, self.expanded).backward()
            adam.step()
        return logits.detach()

    def constant_logits(self) -> Tensor:
        """The logits ``[N, L]`` of a model that does not look at the example."""
        constant = torch.from_numpy(np.asarray(self.task.constant(self.targets), np.float32))
        logits: Tensor = self.task.invert(constant.repeat(len(self.labels), 1))
        return logits

    def predict(self, logits: Tensor) -> NDArray[np.float32]:
        """Return the predictions ``float32 [N, K]`` of logits ``[N, L]``."""
        predictions: NDArray[np.float32] = self.task.activate(logits).numpy()
        return predictions


def fit_toy_task(task: Task, labels: Sequence[Label]) -> ToyTask:
    """Return a task that is fitted to labels.

    Raises:
        ValueError: They are no labels of it.
        DataError: It cannot be fitted to them.
    """
    task = task.prepare(labels)
    parsed = [task.parse(label) for label in labels]
    outputs = sorted({name for label in parsed for name in task.names(label)}, key=natural_key)
    return ToyTask(task.fit(parsed, outputs), tuple(parsed))


def make_toy_tasks(task: Task) -> list[ToyTask]:
    """Return a task fitted to its own toy labels, or to those that it parses; maybe none."""
    if own := task.toy(COUNT):
        return [fit_toy_task(task, own)]
    for group in GROUPS:
        fitted = []
        for labels in group:
            try:
                fitted.append(fit_toy_task(task, labels))
            except (ValueError, TypeError, DataError):
                continue  # labels of another form
        if fitted:
            return fitted
    return []


def available_plugins(plugin: AnyPlugin) -> Registry:
    """Return the installed plugins, and those in the module of ``plugin``."""
    installed = registry.load()
    module = sys.modules.get(plugin.function.__module__)
    own = plugin_modules.collect(module, plugin.origin) if module else []
    others = [p for p in own if p.name not in installed.names(p.kind)]
    return Registry([*installed, *others], input_kinds=installed.input_kinds.values())


def find_toy_tasks(plugin: AnyPlugin) -> list[ToyTask]:
    """Return the tasks that a plugin suits.

    Raises:
        PluginError: It names a task that there is not, or that cannot be tried.
    """
    plugins = available_plugins(plugin)
    names = plugins.names("task")
    toys: list[ToyTask] = []
    for name in plugin.tasks or names:
        if name not in names:
            raise PluginError(f"names the task {name!r}; {did_you_mean(name, names)}")
        try:
            own = make_toy_tasks(find_task(name, plugins))
        except Exception:  # another plugin may raise anything
            own = []
        if plugin.tasks and not own:
            raise PluginError(
                f"names the task {name!r}, which cannot be tried; see: autotl plugins check {name}"
            )
        toys += own
    return toys
