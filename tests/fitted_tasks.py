"""Tasks other than classification, fitted to a few labels, with a calibration of each."""

from __future__ import annotations

from typing import Any, NamedTuple

from autotl.space import registry
from autotl.space.task import Label, Task
from autotl.tasks import find_task


class Fitted(NamedTuple):
    """A fitted task, and a calibration for it."""

    task: Task
    calibration: dict[str, Any]


def fit(name: str, labels: list[Label]) -> Task:
    """Fit the task called ``name`` to labels."""
    task = find_task(name, registry.load()).prepare(labels)
    texts = [task.parse(label) for label in labels]
    return task.fit(texts, sorted({name for text in texts for name in task.names(text)}))


FITTED = {
    "multilabel": Fitted(
        fit("multilabel", [["cat", "dog"], ["owl"], []]), {"n": 9, "thresholds": [0.3, 0.5, 0.7]}
    ),
    "ordinal": Fitted(fit("ordinal", ["1", "2", "3"]), {}),
    "regression": Fitted(
        fit("regression", [2.0, 30.0]), {"n": 99, "half_widths": [1.5], "level": 0.95}
    ),
    "numbers": Fitted(
        fit("regression", [{"x": 0.0, "y": 100.0}, {"x": 2.0, "y": 500.0}]),
        {"n": 99, "half_widths": [0.5, 40.0], "level": 0.95},
    ),
}
"""By what is predicted: several labels, ordered classes, a number, or several numbers."""
