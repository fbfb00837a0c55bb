"""How good a saved model is on labelled pictures: scores with intervals, and which classes fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.artifact.model_folder import Predictor
from autotl.errors import DataError, did_you_mean
from autotl.scoring import calibration, metrics
from autotl.scoring.metrics import Labels, Probabilities
from autotl.space.plugin import Example


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    source: str,
    split: str | None = None,
    names: Sequence[str] = tuple(metrics.METRICS),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Ask a model about labelled pictures, and score its answers.

    Pictures that cannot be read, and those of classes that the model does not know, are left out
    and named.

    Args:
        predictor: A loaded model.
        examples: What a dataset plugin returned.
        source: What the user called the data, for messages.
        split: Only the examples of that part: ``train``, ``validation`` or ``test``.
        names: Of the metrics.
        progress: Told how many pictures are done, of how many.

    Returns:
        ``n`` pictures scored; ``metrics``, each ``{"score", "low", "high"}`` (95 % intervals; None
        where it cannot be computed); ``ece``, the expected calibration error; ``per_class``, a
        list of ``{"class", "n", "recall", "precision", "f1"}``; ``confusion_matrix``, rows the truth and
        columns the answer; ``notes``, what the scores do not cover; and ``unreadable``, ``{"name",
        "reason"}`` of each such picture.

    Raises:
        DataError: No picture is left.
        StudyError: No metric has that name.
    """
    for name in names:
        metrics.get(name)
    chosen = [e for e in examples if split is None or e.split == split]
    if not chosen:
        has = sorted({e.split for e in examples if e.split})
        raise DataError(
            f"{source} has no part {split!r}; {did_you_mean(split, has)}"
            if split
            else f"{source}: no pictures found; check the path and how it is laid out"
        )
    number = {name: i for i, name in enumerate(predictor.classes)}
    usable = [e for e in chosen if e.label in number]
    unknown = Counter(e.label for e in chosen if e.label not in number)
    if not usable:
        raise DataError(
            f"{source}: no picture has a label that the model knows: it knows "
            f"{_some(predictor.classes)}, the data have {_some(list(unknown))}"
        )
    unreadable: list[dict[str, str]] = []

    def failed(place: int, reason: str) -> None:
        unreadable.append({"name": usable[place].name, "reason": reason})

    places, rows = [], []
    for place, row in predictor.stream([e.image for e in usable], failed):
        places.append(place)
        rows.append(row)
        if progress:
            progress(place + 1, len(usable))
    if not rows:
        raise DataError(f"{source}: no picture can be read; the first: {unreadable[0]['reason']}")
    labels = np.array([number[usable[i].label] for i in places], dtype=np.int64)
    groups: dict[str, int] = {}
    own = [usable[i].group or f"picture {i}" for i in places]
    units = np.array([groups.setdefault(group, len(groups)) for group in own])
    return {
        "n": len(rows),
        **score(labels, np.stack(rows), predictor.classes, names, units),
        "notes": [*_notes(predictor, source, labels, unknown)],
        "unreadable": unreadable,
    }


def score(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    names: Sequence[str] = tuple(metrics.METRICS),
    units: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """The metrics with their intervals, the calibration error, and the table of classes.

    ``units`` is what each picture belongs to, see ``metrics.score_interval``.
    """
    from sklearn.metrics import precision_recall_fscore_support

    every = np.arange(len(classes))
    guesses = probabilities.argmax(1)
    precision, recall, f1, counts = precision_recall_fscore_support(
        labels, guesses, labels=every, zero_division=np.nan
    )
    table = [
        {
            "class": name,
            "n": int(counts[i]),
            "recall": _number(recall[i]),
            "precision": _number(precision[i]),
            "f1": _number(f1[i]) if counts[i] else None,
        }
        for i, name in enumerate(classes)
    ]
    return {
        "metrics": {name: _interval(name, labels, probabilities, units) for name in names},
        "ece": calibration.expected_calibration_error(labels, probabilities),
        "per_class": table,
        "confusion": metrics.confusion_matrix(labels, probabilities),
    }


def _interval(
    name: str, labels: Labels, probabilities: Probabilities, units: NDArray[np.int64] | None
) -> dict[str, float | None]:
    metric = metrics.get(name)
    found = metric.score(labels, probabilities)
    if not np.isfinite(found):
        return {"score": None, "low": None, "high": None}
    low, high = metrics.score_interval(metric, labels, probabilities, units=units)
    return {"score": found, "low": low, "high": high}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _notes(predictor: Predictor, source: str, labels: Labels, unknown: Counter[str]) -> list[str]:
    """What the scores do not cover, in sentences."""
    notes = []
    if predictor.made_from(source):
        notes.append(
            "the model was made from these data; where it has learned from a picture, its answer "
            "proves little"
        )
    for name, count in unknown.items():
        what = f"{count} pictures of {name!r}, a class that the model does not know; "
        hint = did_you_mean(name, predictor.classes)
        notes.append(f"left out: {what}{hint}" if name else f"left out: {count} without a label")
    missing = [name for i, name in enumerate(predictor.classes) if i not in set(labels.tolist())]
    if missing:
        notes.append(f"no picture of {_some(missing)}: the scores do not cover what it does there")
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(map(repr, names[:6])) + more
