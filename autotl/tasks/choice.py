"""Which task a data set has: the one that the user names, or that the labels tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotl.errors import PluginError
from autotl.space.registry import Registry
from autotl.space.task import AUTO, DEFAULT_TASK, Label, Task
from autotl.tasks.classification import CLASSIFICATION


def find_task(name: str, plugins: Registry) -> Task:
    """Return the task called ``name``, which is not fitted yet.

    Raises:
        PluginError: There is none; the message has near names.
    """
    if name == DEFAULT_TASK:
        return CLASSIFICATION
    task = plugins.get("task", name)()
    if not isinstance(task, Task):
        raise PluginError(f"task plugin {name!r} is no subclass of autotl.Task; derive it from it")
    return task


def choose_task(name: str, labels: Sequence[Label], plugins: Registry) -> tuple[Task, str]:
    """Choose the task of a data set.

    Args:
        name: The name of a task, or ``AUTO``.
        labels: The labels of all examples.
        plugins: The plugins.

    Returns:
        The task, which can parse the labels but is not fitted yet, and why the labels tell it; ''
        for classification, and for one that is named.

    Raises:
        PluginError: There is no such task.
    """
    if name != AUTO:
        return find_task(name, plugins).prepare(labels), ""
    for own in plugins.names("task"):
        task = find_task(own, plugins)
        if reason := task.recognise(labels):
            return task.prepare(labels), reason
    return CLASSIFICATION, ""


def restore_task(description: Mapping[str, Any], outputs: Sequence[str], plugins: Registry) -> Task:
    """Return the task that ``Task.to_json`` described; {} stands for classification.

    Raises:
        PluginError: There is no such task.
    """
    name = description.get("name", DEFAULT_TASK)
    return type(find_task(name, plugins))(outputs, description.get("constants"))
