"""The task of several labels for one example.

Shapes: N examples, B of a batch, C labels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl import Finding, Label, Task, task
from autotl.data.labels import (
    COMMON_SEPARATORS,
    SEPARATOR,
    find_composites,
    is_several,
    natural_key,
)
from autotl.scoring import calibration as scaling
from autotl.scoring.confident_learning import doubt_labels
from autotl.tasks import rank_positive, rescale

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

NO_LABEL = "(none)"
"""The text of an example that has none of several labels."""

FEWEST_POSITIVES = 10
"""A label with fewer examples has the threshold 0.5."""


@task
class Multilabel(Task):
    """Any number of labels for each example: sigmoid and binary cross-entropy.

    Targets and predictions, which are probabilities, are ``float32 [N, C]``. For each label a
    threshold of F1 is chosen on examples that were not trained on.
    """

    name = "multilabel"
    noun, nouns = "label", "labels"
    default_metric = "mean_average_precision"
    constant_noun = "the frequencies of the labels"
    score_noun = "F1"
    activation_code = "logits.sigmoid()"

    def __init__(
        self, outputs: Sequence[str] = (), constants: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(outputs, constants)
        if not isinstance(self._separator, str) or not self._separator:
            raise ValueError(f"the separator {self._separator!r:.60} is not a text")

    def recognise(self, labels: Sequence[Label]) -> str:
        """Labels are lists, or texts that consist of others with a separator between them."""
        for label in labels:
            if is_several(label):
                return f"an example can have several labels, such as {label!r:.80}"
        texts = [label for label in labels if isinstance(label, str)]
        for separator in COMMON_SEPARATORS:
            if composites := find_composites(texts, separator):
                name, parts = next(iter(sorted(composites.items())))
                quoted = " and ".join(map(repr, parts))
                return f"the label {name!r} consists of the labels {quoted}"
        return ""

    def prepare(self, labels: Sequence[Label]) -> Self:
        """Find the separator of labels in texts."""
        texts = [label for label in labels if isinstance(label, str)]
        separators = [s for s in COMMON_SEPARATORS if find_composites(texts, s)]
        separators += [s for s in COMMON_SEPARATORS if any(s in text for text in texts)]
        return type(self)((), {"separator": separators[0] if separators else SEPARATOR})

    def parse(self, label: Label) -> str:
        """Return the labels in natural order, with a semicolon between them."""
        if isinstance(label, str):
            pattern = "|".join(map(re.escape, {SEPARATOR, self._separator}))
            names = re.split(pattern, label) if label != NO_LABEL else []
            if label.strip() and label != NO_LABEL and not any(map(str.strip, names)):
                raise ValueError(
                    f"{label!r:.60} has separators alone; write {NO_LABEL} for no label"
                )
        elif isinstance(label, Sequence | set | frozenset):
            names = [str(name) for name in label]
        else:
            raise ValueError(f"{label!r:.60} is no list of labels")
        if any(SEPARATOR in name for name in names):
            raise ValueError(
                f"a label in {label!r:.60} contains {SEPARATOR!r}, a separator of labels"
            )
        unique = sorted({name.strip() for name in names if name.strip()}, key=natural_key)
        return SEPARATOR.join(unique) or NO_LABEL

    @property
    def _separator(self) -> str:
        separator: str = self.constants.get("separator", SEPARATOR)
        return separator

    def names(self, label: str) -> Sequence[str]:
        """Return the labels."""
        return () if label == NO_LABEL else label.split(SEPARATOR)

    def fit(self, labels: Sequence[str], outputs: Sequence[str]) -> Self:
        """Return the task with these labels."""
        return type(self)(outputs, self.constants)

    def encode(self, labels: Sequence[str]) -> Array:
        """Return 1 for the labels of each example and 0 for others, ``[N, C]``."""
        index = {name: i for i, name in enumerate(self.outputs)}
        targets = np.zeros((len(labels), len(self.outputs)), dtype=np.float32)
        for row, label in zip(targets, labels, strict=True):
            row[[index[name] for name in self.names(label)]] = 1
        return targets

    def format(self, target: Any) -> str:
        """Return the labels of a row of targets or of decisions."""
        names = (name for name, value in zip(self.outputs, target, strict=True) if value > 0.5)
        return SEPARATOR.join(names) or NO_LABEL

    def strata(self, targets: Array) -> NDArray[np.bool_]:
        """Return the labels of each example, and whether it has none, ``bool [N, C + 1]``."""
        present = targets > 0.5
        return np.column_stack([present, ~present.any(1)])

    def expand(self, targets: Tensor) -> Tensor:
        """Return the targets."""
        return targets

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return the sum over the labels of the binary cross-entropy; it is not smoothed."""
        total = functional.binary_cross_entropy_with_logits(
            logits, targets, weights, reduction="sum"
        )
        return total / len(logits)

    def activate(self, logits: Tensor) -> Tensor:
        """Return the sigmoid."""
        return logits.sigmoid()

    def invert(self, predictions: Tensor) -> Tensor:
        """Return the logits of probabilities."""
        smallest = scaling.SMALLEST_PROBABILITY
        if predictions.dtype == torch.float32:
            smallest = max(smallest, torch.finfo(torch.float32).eps / 2)
        return predictions.clamp(smallest, 1 - smallest).logit()

    def soften(self, predictions: Tensor, temperature: float) -> Tensor:
        """Return the probabilities of the labels at a temperature."""
        return (self.invert(predictions) / temperature).sigmoid()

    def constant(self, targets: Array) -> Array:
        """Return the frequency of each label, with one more example of each kind."""
        frequencies: Array = ((targets.sum(0) + 1) / (len(targets) + 2)).astype(np.float32)
        return frequencies

    def details(
        self, targets: Array, predictions: Array, calibration: Mapping[str, Any] = {}
    ) -> dict[str, Any]:
        """Return precision, recall and F1 of each label at its threshold, and of all together."""
        thresholds = self._thresholds(calibration)
        actual, predicted = targets > 0.5, predictions >= thresholds
        correct, total = (actual & predicted).sum(0), actual.sum(0) + predicted.sum(0)
        f1 = [_ratio(2 * c, t) for c, t in zip(correct, total, strict=True)]
        per_class = [
            {
                "class": name,
                "n": int(actual[:, i].sum()),
                "threshold": float(thresholds[i]),
                "precision": _ratio(correct[i], predicted[:, i].sum()),
                "recall": _ratio(correct[i], actual[:, i].sum()),
                "score": f1[i],
            }
            for i, name in enumerate(self.outputs)
        ]
        return {
            "per_class": per_class,
            "at_thresholds": {
                "micro_f1": _ratio(2 * correct.sum(), total.sum()),
                "subset_accuracy": float((actual == predicted).all(1).mean()),
            },
        }

    def _thresholds(self, calibration: Mapping[str, Any]) -> Array:
        default = [0.5] * len(self.outputs)
        return np.array(calibration.get("thresholds") or default, dtype=np.float32)

    def calibrate(self, targets: Array, predictions: Array, folds: Indices) -> dict[str, Any]:
        """Fit a temperature and the threshold of each label that is best for F1."""
        temperature = _fit_temperature(self, targets, predictions, folds)
        scaled = rescale(self, predictions, temperature)
        return {
            "temperature": temperature,
            "thresholds": [
                _best_threshold(targets[:, i], scaled[:, i]) for i in range(targets.shape[1])
            ],
            "n": len(targets),
        }

    def describe(self, prediction: Array, calibration: Mapping[str, Any]) -> dict[str, Any]:
        """Return the labels beyond their thresholds, and the probability of each."""
        chosen = prediction >= self._thresholds(calibration)
        return {
            "prediction": [n for n, own in zip(self.outputs, chosen, strict=True) if own],
            "probabilities": dict(zip(self.outputs, map(float, prediction), strict=True)),
        }

    def decide(self, prediction: Array, calibration: Mapping[str, Any] = {}) -> str:
        """Return the labels beyond their thresholds."""
        return self.format(prediction >= self._thresholds(calibration))

    def find_mistakes(
        self,
        targets: Array,
        predictions: Array,
        calibration: Mapping[str, Any] = {},
        limit: int = 24,
    ) -> list[Finding]:
        """Return the examples whose wrong labels have the largest sum of errors."""
        wrong = (predictions >= self._thresholds(calibration)) != (targets > 0.5)
        severity = (np.abs(predictions - targets) * wrong).sum(1)
        return [
            Finding(i, self.decide(predictions[i], calibration))
            for i in rank_positive(severity, limit)
        ]

    def find_doubtful_labels(
        self, targets: Array, predictions: Array, limit: int = 24
    ) -> list[Finding]:
        """Return those that confident learning finds for each label: ``not 8, also 3``."""
        present = targets > 0.5
        doubt = np.zeros_like(predictions)
        for i, p in enumerate(predictions.T):
            _, doubt[:, i] = doubt_labels(present[:, i].astype(np.int64), np.stack([1 - p, p], 1))
        return [
            Finding(
                i,
                ", ".join(
                    f"{'not' if present[i, j] else 'also'} {self.outputs[j]}"
                    for j in rank_positive(doubt[i], len(self.outputs))
                ),
                float(doubt[i].max()),
            )
            for i in rank_positive(doubt.max(1), limit)
        ]


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part) / float(whole) if whole else None


def _fit_temperature(labels: Task, targets: Array, predictions: Array, folds: Indices) -> float:
    """Fit the temperature of sigmoids; 1 if that of other folds does not reduce the loss."""
    from scipy.optimize import minimize_scalar

    def loss(of: NDArray[np.bool_], log_temperature: float) -> float:
        scaled = rescale(labels, predictions[of], math.exp(log_temperature)).astype(np.float64)
        p = np.clip(scaled, scaling.SMALLEST_PROBABILITY, 1 - 1e-7)
        own = targets[of]
        losses = -(own * np.log(p) + (1 - own) * np.log(1 - p))
        # One example more that may be anything, as in ``scoring.calibration``.
        pseudo = -(np.log(p) + np.log(1 - p)).mean() / 2
        return float((losses.mean(1).sum() + pseudo) / (len(own) + 1))

    def fit(of: NDArray[np.bool_]) -> float:
        limit = math.log(scaling.MAX_TEMPERATURE)
        optimum = minimize_scalar(lambda t: loss(of, t), bounds=(-limit, limit), method="bounded")
        return float(optimum.x)

    gains = [
        (loss(folds == fold, 0.0) - loss(folds == fold, fit(folds != fold))) * (folds == fold).sum()
        for fold in np.unique(folds)
    ]
    return math.exp(fit(np.ones(len(targets), dtype=bool))) if sum(gains) > 0 else 1.0


def _best_threshold(targets: Array, probabilities: Array) -> float:
    """The threshold with the best F1, between two probabilities; 0.5 for few examples."""
    actual = targets > 0.5
    positives = int(actual.sum())
    if min(positives, len(actual) - positives) < FEWEST_POSITIVES:
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, correct = probabilities[order], actual[order].cumsum()
    f1 = 2 * correct / (positives + np.arange(1, len(actual) + 1))
    last_of_equal = np.append(ranked[1:] != ranked[:-1], True)
    best = int(np.where(last_of_equal, f1, -1).argmax())
    following = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + following) / 2)
