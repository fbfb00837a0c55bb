"""Evaluate a saved model on labelled examples: scores with intervals, and results for each class.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotl.artifact.predictor import Predictor
from autotl.data import digest_examples, find_same, parse_label
from autotl.errors import DataError, did_you_mean
from autotl.scoring import intervals, majority, metrics
from autotl.scoring.calibration import expected_calibration_error
from autotl.scoring.metrics import METRICS, Metric, Predictions, Targets
from autotl.space.input_kind import InputKind
from autotl.space.plugin import Example
from autotl.space.task import Task
from autotl.tasks import Classification

MAX_MATRIX_CLASSES = 1000
"""The maximum number of classes of a confusion matrix in the result."""

NAMED_PROBLEMS = 5
"""The number of problems with labels that are named, the most frequent ones."""


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    source: str,
    split: str | None = None,
    chosen: Sequence[Metric] = tuple(METRICS.values()),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Predict labelled examples and score the predictions.

    Those that cannot be read, and those whose labels the model cannot predict, are left out and
    named in the result.

    Args:
        predictor: A loaded model.
        examples: The examples that a dataset plugin returned.
        source: The data source as the user named it, for messages.
        split: ``train``, ``validation`` or ``test``: only the examples of that split.
        chosen: The metrics; those of a classification by default.
        progress: Called with the number of processed images and the number of all images.

    Returns:
        ``n``, the number of scored images; the entries of ``compute_scores``; ``notes``, sentences
        on what the scores do not cover; and ``unreadable``, ``{"name", "reason"}`` of each image
        that cannot be read.

    Raises:
        DataError: No image is left.
    """
    task = predictor.task
    usable, left_out = _select_usable(examples, source, split, task, predictor.kind)
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
    scored, predictions = [usable[i] for i in indices], np.stack(rows)
    units, calibration = _number_units(scored), predictor.calibration
    scores = compute_scores(targets, predictions, task, chosen, units, calibration)
    trained = _count_trained(predictor, scored, source)
    notes = [
        *_describe_useless(scores, task),
        *_describe_trained(trained, len(rows), predictor.kind.nouns),
        *_describe_left_out(left_out, predictor),
        *_describe_uncovered(scored, task, predictor.kind.noun),
    ]
    notes += predictor.scales.guesses.values()
    return {"n": len(rows), **scores, "notes": notes, "unreadable": unreadable}


def _number_units(examples: Sequence[Example]) -> NDArray[np.int64]:
    """Number the sampling units as they occur; an example without a group is one of its own."""
    groups = [example.group or f"example {i}" for i, example in enumerate(examples)]
    unit_of = {group: unit for unit, group in enumerate(dict.fromkeys(groups))}
    return np.array([unit_of[group] for group in groups])


def _count_trained(predictor: Predictor, examples: Sequence[Example], source: str) -> int | None:
    """Count the examples that the model was trained on; copies are counted, but not near-copies.

    Returns:
        The number; None if there are some, but it is not known how many.
    """
    if predictor.training_images is None:
        return None if predictor.was_trained_on(source) else 0
    return int(np.isin(digest_examples(examples, predictor.kind), predictor.training_images).sum())


class _LeftOut(NamedTuple):
    """How many examples are left out for each reason.

    Attributes:
        unlabelled: Number of examples without a label.
        unparsed: By why the task cannot parse the label.
        unknown: By the name in the label that is no output of the model.
    """

    unlabelled: int
    unparsed: Counter[str]
    unknown: Counter[str]


def _select_usable(
    examples: Sequence[Example],
    source: str,
    split: str | None,
    task: Task,
    kind: InputKind,
) -> tuple[list[Example], _LeftOut]:
    """Select the examples of a split whose labels the model can predict.

    Returns:
        These examples with their parsed labels, and what is left out.

    Raises:
        DataError: No example is left.
    """
    selected = [e for e in examples if split is None or e.split == split]
    if not selected and split:
        splits = sorted({e.split for e in examples if e.split})
        raise DataError(f"{source} has no split {split!r}; {did_you_mean(split, splits)}")
    if not selected:
        raise DataError(
            f"{source}: no {kind.nouns} found; check the path and the layout of the folder"
        )
    parsed = [parse_label(example.label, task) for example in selected]
    outputs, usable = set(task.outputs), []
    unknown: Counter[str] = Counter()
    for example, (label, _) in zip(selected, parsed, strict=True):
        foreign = [name for name in task.names(label) if name not in outputs] if label else []
        unknown.update(foreign)
        if label and not foreign:
            usable.append(replace(example, label=label))
    unparsed = Counter(problem for _, problem in parsed if problem)
    left_out = _LeftOut(parsed.count(("", "")), unparsed, unknown)
    if not usable:
        raise DataError(
            f"{source}: no {kind.noun} has a label that the model can predict: "
            + _explain_unusable(left_out, task)
        )
    return usable, left_out


def _explain_unusable(left_out: _LeftOut, task: Task) -> str:
    """Explain why no label can be predicted."""
    if left_out.unparsed and not left_out.unknown:
        return next(iter(left_out.unparsed))
    labels = [*left_out.unknown, *left_out.unparsed, *([""] if left_out.unlabelled else [])]
    return f"its {task.nouns} are {_shorten(task.outputs)}, the labels are {_shorten(labels)}"


def compute_scores(
    targets: Targets,
    predictions: Predictions,
    task: Task,
    chosen: Sequence[Metric] = tuple(METRICS.values()),
    units: NDArray[np.int64] | None = None,
    calibration: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Compute the metrics with their intervals, and what else the task has.

    Args:
        targets: ``[N, ...]``.
        predictions: ``[N, K]``.
        task: What is predicted.
        chosen: The metrics; those of a classification by default.
        units: Sampling unit of each example, see ``intervals.score_interval``, ``[N]``.
        calibration: That of the model, such as thresholds of labels.

    Returns:
        ``metrics``, by name ``{"score", "low", "high"}`` with a 95 % interval, ``majority``, the
        score of a constant prediction, such as the frequencies of the classes, and
        ``beats_majority``, whether the predictions are better beyond chance; all None where the
        metric is undefined. ``majority_class``, the constant prediction; and of a classification
        ``ece``, the expected calibration error; ``per_class``, a list of ``{"class", "n",
        "recall", "precision", "f1"}``; ``confusion``, the confusion matrix with a row for each
        label and a column for each prediction, empty for more than ``MAX_MATRIX_CLASSES`` classes;
        and ``confused_pairs``, a list of ``{"class", "prediction", "n"}`` of the most frequent
        errors. Other tasks have their ``details``.
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
        details = task.details(targets, predictions, calibration)
        details.pop("scatter", None)  # a sample of the examples, for figures
        return {**scores, **details}
    return {
        **scores,
        "ece": expected_calibration_error(targets, predictions),
        "per_class": _score_classes(targets, predictions, task.outputs),
        "confusion": metrics.confusion_matrix(targets, predictions, MAX_MATRIX_CLASSES),
        "confused_pairs": [
            {"class": task.outputs[true], "prediction": task.outputs[guess], "n": count}
            for true, guess, count in metrics.confused_pairs(targets, predictions)
        ],
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


def _describe_useless(scores: Mapping[str, Any], task: Task) -> list[str]:
    """Warn of scores that are not better than those of a constant prediction."""
    equal = [
        name for name, metric in scores["metrics"].items() if metric["beats_majority"] is False
    ]
    if not equal:
        return []
    constant = scores["majority_class"]
    name = "" if constant == task.constant_noun else f", {constant!r}"
    return [
        f"by {', '.join(equal)}, the model may be no better than always predicting "
        f"{task.constant_noun}{name}"
    ]


def _describe_trained(trained: int | None, count: int, nouns: str) -> Iterator[str]:
    """Warn of examples that the model was trained on; None is an unknown number of them."""
    if trained != 0:
        number = "some of these" if trained is None else f"{trained} of the {count}"
        yield f"the model was trained on {number} {nouns}; its scores on new {nouns} will be lower"


def _describe_left_out(left_out: _LeftOut, predictor: Predictor) -> Iterator[str]:
    """Describe the labels of the examples that are not scored."""
    nouns, noun = predictor.kind.nouns, predictor.task.noun
    for name, count in left_out.unknown.items():
        same = find_same(name, predictor.classes)
        hint = f"is it {same!r}?" if same else did_you_mean(name, predictor.classes)
        yield f"left out: {count} {nouns} of {name!r}, not a {noun} of the model; {hint}"
    named = left_out.unparsed.most_common(NAMED_PROBLEMS)
    for problem, count in named:
        yield f"left out: {count} {nouns}: {problem}"
    if others := left_out.unparsed.total() - sum(count for _, count in named):
        yield f"left out: {others} other {nouns} with labels that cannot be used"
    if left_out.unlabelled:
        yield f"left out: {left_out.unlabelled} {nouns} without a label"


def _describe_uncovered(examples: Sequence[Example], task: Task, noun: str) -> Iterator[str]:
    """Name the classes or labels that no example has."""
    present = {name for example in examples for name in task.names(example.label)}
    missing = [name for name in task.outputs if name not in present]
    if missing and task.has_probabilities:
        yield f"no {noun} of {_shorten(missing)}: the scores do not cover these {task.nouns}"


def _shorten(names: Sequence[str]) -> str:
    """Join the first 6 names, and say how many others there are."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(map(repr, names[:6])) + more
