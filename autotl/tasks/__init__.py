"""Tasks: the one that every data set of named classes has, and how the task of others is found."""

from autotl.tasks.choice import choose_task, find_task, restore_task
from autotl.tasks.classification import (
    CLASSIFICATION,
    Classification,
    numbered_classes,
    rank_positive,
)
from autotl.tasks.metric_choice import find_metric, find_metric_without_labels, metrics_for
from autotl.tasks.rescaling import measure_difference, rescale
from autotl.tasks.without_labels import ANY, WithoutLabels

__all__ = [
    "ANY",
    "CLASSIFICATION",
    "Classification",
    "WithoutLabels",
    "choose_task",
    "find_metric",
    "find_metric_without_labels",
    "find_task",
    "measure_difference",
    "metrics_for",
    "numbered_classes",
    "rank_positive",
    "rescale",
    "restore_task",
]
