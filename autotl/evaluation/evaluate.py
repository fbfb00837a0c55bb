"""Evaluate a saved model on labelled examples: scores with intervals, and results for each class.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.artifact.model_folder import Predictor
from autotl.data import digest_examples, find_same, parse_label
from autotl.errors import DataError, did_you_mean
from autotl.scoring import calibration, intervals, majority, metrics
from autotl.scoring.metrics import METRICS, Metric, Predictions, Targets
from autotl.space.input_kind import InputKind
from autotl.space.plugin import Example
from autotl.space.task import Task
from autotl.tasks import Classification


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    source: str,
    split: str | None = None,
    chosen: Sequence[Metric] = tuple(METRICS.values()),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Predict labelled examples and score the predictions.

    Those that cannot be read, and those of classes that the model does not have, are left out and
    named in the result.

    Args:
        predictor: A loaded model.
        examples: The examples that a dataset plugin returned.
        source: The data source as the user named it, for messages.
        split: ``train``, ``validation`` or ``test``: only the examples of that split.
        chosen: The metrics.
        progress: Called with the number of processed images and the number of all images.

    Returns:
        ``n``, the number of scored images; the entries of ``compute_scores``; ``notes``, sentences
        on what the scores do not cover; and ``unreadable``, ``{"name", "reason"}`` of each image
        that cannot be read.

    Raises:
        DataError: No image is left.
    """
    task = predictor.task
    usable, unknown = _select_usable(examples, source, split, task, predictor.kind)
    unreadable: list[dict[str, str]] = []

    def note_unreadable(index: int, reason: str) -> None:
        unreadable.append({"name": usable[index].name, "reason": reason})

    indices, rows = [], []
    for index, row in predictor.stream([e.item for e in usable], note_unreadable):
        indices.append(index)
        rows.append(row)
        if progress:
            progress(index + 1, len(usable))
    if not rows:
        first, noun = unreadable[0]["reason"], predictor.kind.noun
        raise DataError(f"{source}: no {noun} can be read; error of the first one: {first}")
    targets = task.encode([usable[i].label for i in indices])
    # An example without a group is a sampling unit of its own. Units are numbered as they occur.
    groups = [usable[i].group or f"example {i}" for i in indices]
    unit_of = {group: unit for unit, group in enumerate(dict.fromkeys(groups))}
    units = np.array([unit_of[group] for group in groups])
    scores = compute_scores(targets, np.stack(rows), task, chosen, units)
    trained = _count_trained(predictor, [usable[i] for i in indices], source)
    notes = _describe_useless(scores, task.constant_noun) + _describe_limits(
        predictor, trained, targets, unknown
    )
    notes += predictor.scales.guesses.values()
    return {"n": len(rows), **scores, "notes": notes, "unreadable": unreadable}


def _count_trained(predictor: Predictor, examples: Sequence[Example], source: str) -> int | None:
    """Count the images that the model was trained on; copies are counted, but not near-copies.

    Returns:
        The number; None if there are some, but it is not known how many.
    """
    if predictor.training_images is None:
        return None if predictor.was_trained_on(source) else 0
    return int(np.isin(digest_examples(examples, predictor.kind), predictor.training_images).sum())


def _select_usable(
    examples: Sequence[Example],
    source: str,
    split: str | None,
    task: Task,
    kind: InputKind,
) -> tuple[list[Example], Counter[str]]:
    """Select the examples of a split whose class the model has.

    Returns:
        These examples, and the number of examples of each class that the model does not have.

    Raises:
        DataError: No example is left.
    """
    parsed = (replace(e, label=parse_label(e.label, task)[0]) for e in examples)
    selected = [e for e in parsed if split is None or e.split == split]
    if not selected and split:
        splits = sorted({e.split for e in examples if e.split})
        raise DataError(f"{source} has no split {split!r}; {did_you_mean(split, splits)}")
    if not selected:
        raise DataError(
            f"{source}: no {kind.nouns} found; check the path and the layout of the folder"
        )
    outputs = set(task.outputs)
    usable = [e for e in selected if e.label and outputs.issuperset(task.names(e.label))]
    unknown = Counter(
        name
        for e in selected
        for name in ((set(task.names(e.label)) - outputs) if e.label else [""])
    )
    if not usable:
        raise DataError(
            f"{source}: no {kind.noun} has a label that the model can predict: its {task.nouns} "
            f"are {_shorten(task.outputs)}, the labels are {_shorten(list(unknown))}"
        )
    return usable, unknown


def compute_scores(
    targets: Targets,
    predictions: Predictions,
    task: Task,
    chosen: Sequence[Metric] = tuple(METRICS.values()),
    units: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Compute the metrics with their intervals, and what else the task has.

    Args:
        targets: ``[N, ...]``.
        predictions: ``[N, K]``.
        task: What is predicted.
        chosen: The metrics.
        units: Sampling unit of each image, see ``intervals.score_interval``, ``[N]``.

    Returns:
        ``metrics``, by name ``{"score", "low", "high"}`` with a 95 % interval, ``majority``, the
        score of a constant prediction, such as the frequencies of the classes, and
        ``beats_majority``, whether the predictions are better beyond chance; all None where the
        metric is undefined. ``majority_class``, the constant prediction; and of a classification
        ``ece``, the expected calibration error; ``per_class``, a list of ``{"class", "n",
        "recall", "precision", "f1"}``; and ``confusion``, the confusion matrix with a row for each
        label and a column for each prediction. Other tasks have their ``details``.
    """
    units = np.arange(len(targets)) if units is None else units
    constant = task.constant(targets)
    scores = {
        "metrics": {
            metric.name: _score_with_interval(metric, targets, predictions, units, constant)
            for metric in chosen
        },
        "majority_class": task.describe_constant(constant),
    }
    if not isinstance(task, Classification):
        return {**scores, **task.details(targets, predictions)}
    return {
        **scores,
        "ece": calibration.expected_calibration_error(targets, predictions),
        "per_class": _score_classes(targets, predictions, task.outputs),
        "confusion": metrics.confusion_matrix(targets, predictions),
    }


def _score_classes(
    labels: Targets, probabilities: Predictions, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Recall, precision and F1 of each class, None where they are undefined."""
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, counts = precision_recall_fscore_support(
        labels, probabilities.argmax(1), labels=np.arange(len(classes)), zero_division=np.nan
    )
    return [
        {
            "class": name,
            "n": int(counts[i]),
            "recall": _finite_or_none(recall[i]),
            "precision": _finite_or_none(precision[i]),
            "f1": _finite_or_none(f1[i]) if counts[i] else None,
        }
        for i, name in enumerate(classes)
    ]


def _score_with_interval(
    metric: Metric,
    targets: Targets,
    predictions: Predictions,
    units: NDArray[np.int64],
    constant: Predictions,
) -> dict[str, Any]:
    score = metric.score(targets, predictions)
    keys = ("score", "low", "high", "majority", "beats_majority")
    if not np.isfinite(score):
        return dict.fromkeys(keys)
    low, high = intervals.score_interval(metric, targets, predictions, units=units)
    compared = majority.compare_with_constant(metric, targets, predictions, constant, units)
    baseline = (compared.score, compared.is_beaten) if compared else (None, None)
    return dict(zip(keys, (score, low, high, *baseline), strict=True))


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _describe_useless(scores: Mapping[str, Any], noun: str) -> list[str]:
    """Warn of scores that are not better than those of a constant prediction, called ``noun``."""
    equal = [
        name for name, metric in scores["metrics"].items() if metric["beats_majority"] is False
    ]
    if not equal:
        return []
    return [
        f"by {', '.join(equal)}, the model may be no better than always predicting "
        f"{noun}, {scores['majority_class']!r}"
    ]


def _describe_limits(
    predictor: Predictor, trained: int | None, targets: Targets, unknown: Counter[str]
) -> list[str]:
    """Describe in sentences what the scores do not cover."""
    notes, nouns = [], predictor.kind.nouns
    if trained != 0:
        number = "some of these" if trained is None else f"{trained} of the {len(targets)}"
        notes.append(
            f"the model was trained on {number} {nouns}; its scores on new {nouns} will be lower"
        )
    for name, count in unknown.items():
        if name:
            same = find_same(name, predictor.classes)
            hint = f"is it {same!r}?" if same else did_you_mean(name, predictor.classes)
            noun = predictor.task.noun
            notes.append(
                f"left out: {count} {nouns} of {name!r}, not a {noun} of the model; {hint}"
            )
        else:
            notes.append(f"left out: {count} {nouns} without a label")
    if targets.ndim > 1:
        return notes
    present = set(targets.tolist())
    missing = [name for i, name in enumerate(predictor.classes) if i not in present]
    if missing:
        noun = predictor.kind.noun
        notes.append(f"no {noun} of {_shorten(missing)}: the scores do not cover these classes")
    return notes


def _shorten(names: Sequence[str]) -> str:
    """Join the first 6 names, and say how many others there are."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(map(repr, names[:6])) + more
