"""Metrics by name: those of classification, and those of plugins."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.errors import (
    AutoTLError,
    PluginError,
    StudyError,
    did_you_mean,
    is_machine_fault,
)
from autotl.scoring.metrics import METRICS, WITHOUT_LABELS, Metric
from autotl.space.plugin import AnyPlugin
from autotl.space.plugin_modules import error_line
from autotl.space.registry import Registry
from autotl.space.task import Task
from autotl.tasks.classification import Classification


def find_metric(name: str, task: Task, plugins: Registry) -> Metric:
    """Return the metric called ``name``.

    Args:
        name: The name.
        task: The task that it is for.
        plugins: The plugins.

    Raises:
        StudyError: There is no such metric, or it does not suit the task; the message names others.
    """
    suited = metrics_for(task, plugins)
    if name in suited:
        return suited[name]
    if name in WITHOUT_LABELS:
        problem = f"the metric {name!r} is for examples without labels, and these have labels"
    elif name in METRICS or name in plugins.names("metric"):
        problem = f"the metric {name!r} does not suit {task.name}"
    else:
        problem = f"no metric is called {name!r}"
    raise StudyError(f"{problem}; {did_you_mean(name, suited)}")


def find_metric_without_labels(name: str, task: Task) -> Metric:
    """Return the metric of predictions for examples without labels; '' for the default.

    Raises:
        StudyError: It needs labels, or the task has no such metric.
    """
    if not isinstance(task, Classification):
        raise StudyError(
            f"the target has no labels, and predictions of {task.name} cannot be scored without "
            "any; give some examples of the target a label"
        )
    chosen = name or next(iter(WITHOUT_LABELS))
    if chosen not in WITHOUT_LABELS:
        raise StudyError(
            f"the metric {name!r} needs labels, and the target has none; leave out --metric for "
            f"{' or '.join(WITHOUT_LABELS)}, or give some examples of the target a label"
        )
    return WITHOUT_LABELS[chosen]


def metrics_for(task: Task, plugins: Registry) -> dict[str, Metric]:
    """Return the metrics that suit a task, by name."""
    own = dict(METRICS) if isinstance(task, Classification) else {}
    for name in plugins.names("metric"):
        plugin = plugins.get("metric", name)
        if plugin.suits(task.name):
            own.setdefault(name, _make_metric(plugin))
    return own


def _make_metric(plugin: AnyPlugin) -> Metric:
    """Make the metric of a plugin, which returns the score or what each example contributes."""

    def per_example(targets: Any, predictions: Any) -> NDArray[np.float64]:
        try:
            return np.asarray(plugin.function(targets, predictions), np.float64)
        except Exception as error:  # a plugin may raise anything
            if isinstance(error, AutoTLError) or is_machine_fault(error):
                raise
            line = error_line(error, inspect.getsourcefile(plugin.function))
            raise PluginError(
                f"the metric plugin {plugin.name!r}{line} raises {type(error).__name__}: {error}"
            ) from error

    def score(targets: Any, predictions: Any) -> float:
        return float(np.mean(per_example(targets, predictions)))

    return Metric(
        plugin.name,
        plugin.direction,
        score,
        per_example if plugin.per_example else None,
        plugin.bounds,
        plugin.has_unit,
    )
