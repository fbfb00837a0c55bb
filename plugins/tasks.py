"""Tasks: one class, several labels, numbers, and ordered classes.

Shapes: N examples, B of a batch, C classes or labels, T numbers.
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
from autotl.data.labels import COMMON_SEPARATORS, find_composites, join_names, natural_key
from autotl.errors import DataError
from autotl.scoring import calibration as scaling
from autotl.scoring.confident_learning import doubt_labels
from autotl.tasks import Classification, rank_positive, rescale

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

NO_LABEL = "(none)"
"""The text of an example that has none of several labels."""

SEPARATOR = ";"
"""Between several labels, or several numbers, of one example in a text."""

FEWEST_POSITIVES = 10
"""A label with fewer examples has the threshold 0.5."""

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
class OneClass(Classification):
    """One class for each example: softmax and cross-entropy."""

    name = "classification"


@task
class Ordinal(Classification):
    """Classes with an order, such as stars: that of their names, '2' before '10'.

    Logit k is that of being beyond class k for an example that is not before it (continuation
    ratios; CORN: Shi et al. 2021, arXiv:2111.08851), so the loss is the cross-entropy of the
    probabilities of the classes.
    """

    name = "ordinal"
    default_metric = "quadratic_kappa"
    activation_code = (
        "-nn.functional.pad(nn.functional.pad(nn.functional.logsigmoid(logits).cumsum(1).exp(), "
        "(1, 0), value=1.0), (0, 1)).diff(dim=1)"
    )

    @property
    def num_logits(self) -> int:
        """One less than there are classes."""
        return len(self.outputs) - 1

    def expand(self, targets: Tensor) -> Tensor:
        """Return for each class but the last whether the label is beyond it, ``[B, C - 1]``."""
        classes = torch.arange(self.num_logits, device=targets.device)
        return (targets[:, None] > classes).float()

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return the cross-entropy in nats; it is not smoothed."""
        reached = functional.pad(targets, (1, 0), value=1.0)[:, :-1]
        beyond = targets * functional.logsigmoid(logits)
        within = (reached - targets) * functional.logsigmoid(-logits)
        return -(beyond + within).sum(1).mean()

    def activate(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes ``[B, C]``."""
        beyond = functional.logsigmoid(logits).cumsum(1).exp()
        upper = functional.pad(beyond, (1, 0), value=1.0)
        return upper - functional.pad(beyond, (0, 1))

    def invert(self, predictions: Tensor) -> Tensor:
        """Return the logits ``[B, C - 1]`` of probabilities ``[B, C]``."""
        p = predictions.clamp(min=scaling.SMALLEST_PROBABILITY)
        beyond = p.flip(1).cumsum(1).flip(1)
        return beyond[:, 1:].log() - p[:, :-1].log()

    def find_mistakes(
        self,
        targets: Indices,
        predictions: Array,
        calibration: Mapping[str, Any] = {},
        limit: int = 24,
    ) -> list[Finding]:
        """Return the wrong predictions: the farthest, and of those the most confident ones."""
        guesses = predictions.argmax(1)
        distance = np.abs(guesses - targets)
        severity = np.where(distance > 0, distance - 1 + predictions.max(1), 0)
        return self._list(guesses, predictions, severity, limit)


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
            if _is_several(label):
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


def _is_several(label: Any) -> bool:
    """Whether a label is a list of labels."""
    return isinstance(label, Sequence | set | frozenset) and not isinstance(label, str | bytes)


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
        if not present or any(_is_several(label) for label in present):
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
        mean, std = (like.new_tensor(self.constants[key]) for key in ("mean", "std"))
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

    def constant(self, targets: Array) -> Array:
        """Return the means ``[T]``."""
        means: Array = targets.mean(0, dtype=np.float64).astype(np.float32)
        return means

    def describe_constant(self, constant: Array) -> str:
        """Return the means."""
        return self.format(constant)

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
