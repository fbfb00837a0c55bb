"""The task of numbers.

Shapes: N examples, B of a batch, T numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from autotl import Finding, Label, Task, task
from autotl.data.labels import (
    SEPARATOR,
    is_several,
    join_names,
)
from autotl.errors import DataError
from autotl.tasks import rank_positive

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

LEVEL = 0.95
"""The fraction of true numbers in an interval of predictions."""

BINS = 10
"""The number of quantiles by which splits of numbers are stratified. Labels with no more different
values are taken for names of classes."""

FAR_OUT = 3.0
"""Errors that are more than this many interquartile ranges outside the quartiles are outliers."""

LARGEST, SMALLEST_STD = 1e18, 1e-18
"""The largest number and the smallest standard deviation: float32 can hold their squares."""

SCATTERED = 300
"""The largest number of examples whose predictions are stored for a figure."""


@task
class Regression(Task):
    """One number or several for each example: the Huber loss of standardised targets.

    Targets and predictions are ``float32 [N, T]`` in the unit of the labels. The means and
    standard deviations by which they are standardised travel with the model. Predictions have
    intervals by split conformal prediction (Vovk et al. 2005; Lei et al. 2018, JASA 113).
    """

    name = "regression"
    noun, nouns = "number", "numbers"
    default_metric = "mae"
    constant_noun = "the mean"
    score_noun = "R\u00b2"
    has_probabilities = False
    activation_code = (
        'logits * torch.tensor(config["task"]["constants"]["std"]) '
        '+ torch.tensor(config["task"]["constants"]["mean"])'
    )

    def __init__(
        self, outputs: Sequence[str] = (), constants: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(outputs, constants)
        for key, smallest in (("mean", -LARGEST), ("std", SMALLEST_STD)) if outputs else ():
            values = self.constants.get(key)
            if not isinstance(values, list) or len(values) != len(outputs):
                raise ValueError(f"{key} = {values!r:.60}: expected one number for each output")
            if not all(type(v) in (int, float) and smallest <= v <= LARGEST for v in values):
                raise ValueError(
                    f"{key} = {values!r:.60}: expected numbers from {smallest:g} to {LARGEST:g}"
                )

    def recognise(self, labels: Sequence[Label]) -> str:
        """Labels are numbers: with decimals, or whole ones of which most are different."""
        present = [label for label in labels if label != "" and not _is_nan(label)]
        if not present or any(is_several(label) for label in present):
            return ""
        several = [label for label in present if isinstance(label, Mapping)]
        if len(several) == len(present):
            names = dict.fromkeys(name for label in several for name in label)
            return f"labels are numbers by name: {join_names(list(names))}"
        try:
            values = [float(label) for label in present]  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return ""
        different = len(set(values))
        if not values or different <= BINS or not all(map(math.isfinite, values)):
            return ""
        whole = all(value.is_integer() for value in values)
        are_names = whole and not any(isinstance(label, float) for label in present)
        if are_names and 2 * different <= len(values):  # each class has two examples
            return ""
        return f"all labels are numbers, with {different:,} different values"

    def parse(self, label: Label) -> str:
        """Return the number, or the names and numbers with an equals sign between them."""
        if isinstance(label, str) and "=" in label:
            pairs = [part.rpartition("=") for part in label.split(SEPARATOR)]
            label = {name: _to_number(value) for name, _, value in pairs}
        if isinstance(label, Mapping):
            values = {name: _to_number(value) for name, value in label.items()}
            text = SEPARATOR.join(f"{name}={value!r}" for name, value in values.items())
        else:
            values = {"value": _to_number(label)}
            text = repr(values["value"])
        if missing := [name for name in self.outputs if name not in values]:
            raise ValueError(f"the label {label!r:.60} has no number {missing[0]!r}")
        return text

    def _values(self, label: str) -> dict[str, float]:
        """The numbers of a parsed label by name."""
        if "=" not in label:
            return {"value": float(label)}
        pairs = (part.rpartition("=") for part in label.split(SEPARATOR))
        return {name: float(value) for name, _, value in pairs}

    def fit(self, labels: Sequence[str], outputs: Sequence[str]) -> Self:
        """Return the task with the means and standard deviations of these labels."""
        names = self._values(labels[0]).keys() if labels else {}
        if wrong := next((text for text in labels if self._values(text).keys() != names), ""):
            expected, actual = ", ".join(names), ", ".join(self._values(wrong))
            raise DataError(f"some examples have the numbers {expected}, others {actual}")
        values = np.array([list(self._values(label).values()) for label in labels])
        mean, std = values.mean(0), values.std(0)
        if (constant := np.flatnonzero(std < SMALLEST_STD)).size:
            name = list(names)[constant[0]]
            raise DataError(
                f"{name} is {mean[constant[0]]:g} for all examples; nothing can be learned"
            )
        return type(self)(list(names), {"mean": mean.tolist(), "std": std.tolist()})

    def encode(self, labels: Sequence[str]) -> Array:
        """Return the numbers ``[N, T]``."""
        rows = [[self._values(label)[name] for name in self.outputs] for label in labels]
        return np.array(rows, dtype=np.float32).reshape(len(labels), len(self.outputs))

    def format(self, target: Any) -> str:
        """Return the number, or the names and numbers."""
        values = {name: float(f"{v:.6g}") for name, v in zip(self.outputs, target, strict=True)}
        if self.outputs == ("value",):
            return f"{values['value']:g}"
        return SEPARATOR.join(f"{name}={value:g}" for name, value in values.items())

    def strata(self, targets: Array) -> Indices:
        """Return the quantile of each number, or of the first principal component of several."""
        values = (targets - targets.mean(0)) / np.maximum(targets.std(0), 1e-12)
        component = np.linalg.svd(values[:100_000], full_matrices=False)[2][0]
        ranks = np.argsort(np.argsort(values @ component, kind="stable"), kind="stable")
        bins = max(1, min(BINS, len(targets) // BINS))
        quantiles: Indices = ranks * bins // max(1, len(targets))
        return quantiles

    def _scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.tensor([self.constants["mean"], self.constants["std"]], dtype=like.dtype)
        mean, std = values.to(like.device, non_blocking=like.is_cuda)  # without waiting for a GPU
        return mean, std

    def expand(self, targets: Tensor) -> Tensor:
        """Return standardised targets."""
        return self.invert(targets)

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return the Huber loss of standardised targets, summed over the numbers."""
        terms = functional.huber_loss(logits, targets, reduction="none")
        return (terms if weights is None else terms * weights).sum(1).mean()

    def activate(self, logits: Tensor) -> Tensor:
        """Return numbers in the unit of the labels."""
        mean, std = self._scale(logits)
        return logits * std + mean

    def invert(self, predictions: Tensor) -> Tensor:
        """Return standardised numbers."""
        mean, std = self._scale(predictions)
        return (predictions - mean) / std

    def soften(self, predictions: Tensor, temperature: float) -> Tensor:
        """Return standardised numbers, divided by the temperature as logits are."""
        return self.invert(predictions) / temperature

    def constant(self, targets: Array) -> Array:
        """Return the means ``[T]``."""
        means: Array = targets.mean(0, dtype=np.float64).astype(np.float32)
        return means

    def describe_constant(self, constant: Array) -> str:
        """Return the means, with four digits."""
        return self.format([float(f"{value:.4g}") for value in constant])

    def details(
        self, targets: Array, predictions: Array, calibration: Mapping[str, Any] = {}
    ) -> dict[str, Any]:
        """Return errors of each number, and some pairs of true and predicted numbers.

        ``coverage`` is the fraction of true numbers in the intervals of a calibration.
        """
        errors = predictions.astype(np.float64) - targets
        half_widths = calibration.get("half_widths")
        inside = (np.abs(errors) <= half_widths).mean(0) if half_widths else None
        squares = (errors**2).mean(0).tolist()
        variances = targets.var(0, dtype=np.float64).tolist()
        r2 = [_one_minus(*pair) for pair in zip(squares, variances, strict=True)]
        chosen = np.random.default_rng(0).permutation(len(targets))[:SCATTERED]
        return {
            "per_class": [
                {
                    "class": name,
                    "n": len(targets),
                    "mae": float(np.abs(errors[:, i]).mean()),
                    "rmse": math.sqrt(squares[i]),
                    **({"coverage": float(inside[i])} if inside is not None else {}),
                    "score": r2[i],
                }
                for i, name in enumerate(self.outputs)
            ],
            "scatter": np.stack([targets[chosen], predictions[chosen]], 2).round(6).tolist(),
        }

    def calibrate(self, targets: Array, predictions: Array, folds: Indices) -> dict[str, Any]:
        """Find half the width of an interval that has ``LEVEL`` of all true numbers.

        ``coverage`` is what intervals from the other folds have, averaged over the folds.
        """
        errors = np.abs(predictions.astype(np.float64) - targets)
        inside = np.concatenate(
            [errors[folds == f] <= _conformal(errors[folds != f]) for f in np.unique(folds)]
        )
        half_widths = _conformal(errors)
        if not np.isfinite(half_widths).all():
            return {}
        return {
            "level": LEVEL,
            "half_widths": half_widths.tolist(),
            "coverage": float(inside.mean()),
            "n": len(targets),
        }

    def describe(self, prediction: Array, calibration: Mapping[str, Any]) -> dict[str, Any]:
        """Return the numbers and the limits of their intervals."""
        values = {"prediction": prediction.astype(np.float64)}
        if half_widths := calibration.get("half_widths"):
            values["low"] = values["prediction"] - half_widths
            values["high"] = values["prediction"] + half_widths
        if self.outputs == ("value",):
            return {key: float(value[0]) for key, value in values.items()}
        return {
            key: dict(zip(self.outputs, map(float, value), strict=True))
            for key, value in values.items()
        }

    def find_mistakes(
        self,
        targets: Array,
        predictions: Array,
        calibration: Mapping[str, Any] = {},
        limit: int = 24,
    ) -> list[Finding]:
        """Return the examples with the largest errors, in standard deviations of the numbers."""
        errors = predictions.astype(np.float64) - targets
        return self._list(predictions, errors, np.abs(errors) / self.constants["std"], limit)

    def find_doubtful_labels(
        self, targets: Array, predictions: Array, limit: int = 24
    ) -> list[Finding]:
        """Return the examples whose errors are outliers.

        They are more than three times the interquartile range outside the quartiles of all errors
        ("far out" of Tukey 1977, Exploratory Data Analysis).
        """
        errors = predictions.astype(np.float64) - targets
        low, high = np.quantile(errors, [0.25, 0.75], axis=0)
        outside = np.maximum(low - errors, errors - high) - FAR_OUT * (high - low)
        return self._list(predictions, errors, outside / self.constants["std"], limit)

    def _list(
        self, predictions: Array, errors: NDArray[np.float64], severity: Any, limit: int
    ) -> list[Finding]:
        """List the examples with the largest ``severity [N, T]`` above 0."""
        names = [""] if self.outputs == ("value",) else [f"{name}=" for name in self.outputs]
        return [
            Finding(
                i,
                SEPARATOR.join(
                    f"{name}{value:.4g} ({error:+.3g})"
                    for name, value, error in zip(names, predictions[i], errors[i], strict=True)
                ),
            )
            for i in rank_positive(severity.max(1), limit)
        ]


def _is_nan(label: Any) -> bool:
    return isinstance(label, float) and math.isnan(label)


def _to_number(label: Any) -> float:
    """The finite number that a label is.

    Raises:
        ValueError: It is none.
    """
    try:
        value = float(label)
    except (TypeError, ValueError):
        raise ValueError(f"the label {label!r:.60} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"the label {label!r:.60} is not finite")
    if abs(value) > LARGEST:
        raise ValueError(f"the label {label!r:.60} is larger than {LARGEST:g}")
    return value


def _one_minus(error: float, variance: float) -> float | None:
    return 1 - error / variance if variance > 0 else None


def _conformal(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The quantile ``[T]`` of errors ``[n, T]`` for intervals that hold for a new example too.

    It is the ``ceil((n + 1) * LEVEL)``-th smallest error, and infinite for too few of them.
    """
    n = len(errors)
    rank = math.ceil((n + 1) * LEVEL)
    if rank > n:
        return np.full(errors.shape[1], math.inf)
    quantile: NDArray[np.float64] = np.sort(errors, axis=0)[rank - 1]
    return quantile
