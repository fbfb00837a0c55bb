"""Classification: one class for each example. It is the task unless the labels tell another.

Shapes: N examples, B of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl.scoring import confident_learning, majority, metrics
from autotl.scoring.calibration import SMALLEST_PROBABILITY, expected_calibration_error
from autotl.scoring.calibration import calibrate as fit_temperature
from autotl.space.task import DEFAULT_TASK, Finding, Label, Task

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float32]


class Classification(Task):
    """One class for each example: softmax, cross-entropy, a temperature.

    Targets are indices of classes, ``int64 [N]``, predictions probabilities, ``[N, C]``.
    """

    name = DEFAULT_TASK
    default_metric = "accuracy"
    constant_noun = "the most frequent class"
    score_noun = "recall"
    has_classes = True
    activation_code = "logits.softmax(1)"

    def parse(self, label: Label) -> str:
        """Return the name of a class; a number is a name too."""
        if isinstance(label, float | int):
            return f"{label:.15g}"
        if not isinstance(label, str):
            raise ValueError(f"the label {label!r:.60} is not the name of one class")
        return label

    def names(self, label: str) -> Sequence[str]:
        """Return the class."""
        return (label,)

    def fit(self, labels: Sequence[str], outputs: Sequence[str]) -> Self:
        """Return the task with these classes."""
        return type(self)(outputs)

    def encode(self, labels: Sequence[str]) -> Labels:
        """Return the index of each label's class, ``[N]``."""
        index = {name: i for i, name in enumerate(self.outputs)}
        return np.array([index[label] for label in labels], dtype=np.int64)

    def format(self, target: Any) -> str:
        """Return the name of a class."""
        return self.outputs[int(target)]

    def strata(self, targets: Labels) -> Labels:
        """Return the classes, ``[N]``."""
        return targets

    def expand(self, targets: Tensor) -> Tensor:
        """Return labels ``int64 [B]`` one-hot, ``float32 [B, C]``."""
        return functional.one_hot(targets, len(self.outputs)).float()

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return the cross-entropy in nats."""
        return functional.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing)

    def activate(self, logits: Tensor) -> Tensor:
        """Return the softmax ``[B, C]`` of logits ``[B, C]``."""
        return logits.softmax(1)

    def invert(self, predictions: Tensor) -> Tensor:
        """Return the logarithms of probabilities ``[B, C]``."""
        return predictions.clamp(min=SMALLEST_PROBABILITY).log()

    def soften(self, predictions: Tensor, temperature: float) -> Tensor:
        """Return the probabilities ``[B, C]`` at a temperature."""
        return (self.invert(predictions) / temperature).softmax(1)

    def constant(self, targets: Labels) -> Probabilities:
        """Return the frequencies ``[C]`` of the classes, with one more example of each."""
        return majority.constant_probabilities(targets, len(self.outputs))

    def describe_constant(self, constant: Probabilities) -> str:
        """Return the name of the most frequent class."""
        return self.outputs[int(constant.argmax())]

    def details(
        self, targets: Labels, predictions: Probabilities, calibration: Mapping[str, Any] = {}
    ) -> dict[str, Any]:
        """Return the recall of each class, the confusion matrix, and the calibration error.

        For many classes, their precision and the pairs that are confused most often are returned
        instead of the matrix.
        """
        per_class = majority.class_recalls(targets, predictions, self.outputs)
        matrix = metrics.confusion_matrix(targets, predictions)
        details = {
            "per_class": per_class,
            "confusion_matrix": matrix,
            "ece": expected_calibration_error(targets, predictions),
        }
        if matrix:
            return details
        precisions = majority.class_precisions(targets, predictions)
        for entry, precision in zip(per_class, precisions, strict=True):
            entry["precision"] = precision
        return {**details, "confused_pairs": metrics.confused_pairs(targets, predictions)}

    def calibrate(
        self, targets: Labels, predictions: Probabilities, folds: Labels
    ) -> dict[str, Any]:
        """Fit a temperature, see ``scoring.calibration``."""
        return fit_temperature(targets, predictions, folds)

    def describe(self, prediction: Probabilities, calibration: Mapping[str, Any]) -> dict[str, Any]:
        """Return the most probable class, and the probability of each."""
        return {
            "prediction": self.outputs[int(prediction.argmax())],
            "probabilities": dict(zip(self.outputs, map(float, prediction), strict=True)),
        }

    def decide(self, prediction: Probabilities, calibration: Mapping[str, Any] = {}) -> str:
        """Return the most probable class."""
        return self.outputs[int(prediction.argmax())]

    def find_mistakes(
        self,
        targets: Labels,
        predictions: Probabilities,
        calibration: Mapping[str, Any] = {},
        limit: int = 24,
    ) -> list[Finding]:
        """Return the most confident wrong predictions."""
        guesses = predictions.argmax(1)
        wrong = predictions.max(1) * (guesses != targets)
        return self._list(guesses, predictions, wrong, limit)

    def find_doubtful_labels(
        self, targets: Labels, predictions: Probabilities, limit: int = 24
    ) -> list[Finding]:
        """Return those that confident learning finds, see ``scoring.confident_learning``."""
        guesses, doubt = confident_learning.doubt_labels(targets, predictions)
        return self._list(guesses, predictions, doubt, limit)

    def _list(
        self, guesses: Labels, predictions: Probabilities, severity: Any, limit: int
    ) -> list[Finding]:
        """List the examples with the largest ``severity [N]`` above 0."""
        return [
            Finding(i, self.outputs[guesses[i]], float(predictions[i, guesses[i]]))
            for i in rank_positive(severity, limit)
        ]


def rank_positive(values: NDArray[Any], limit: int) -> list[int]:
    """Return the indices of the largest values ``[N]`` above 0, the largest first."""
    order = np.argsort(-values, kind="stable")[:limit]
    return [int(i) for i in order if values[i] > 0]


CLASSIFICATION = Classification()
"""The task before its classes are known."""


def numbered_classes(count: int) -> Classification:
    """Return the task of classes without names, which are numbered from 0."""
    return Classification([str(number) for number in range(count)])
