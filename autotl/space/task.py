"""Tasks: what a model predicts of an example, such as its class, several labels or numbers.

A ``Task`` turns the labels of the data into *targets*, and what the network computes (*logits*)
into *predictions*; it has the loss, a metric and the calibration that suit them. A package or a
plugin file adds a task by a class that is decorated with ``@task``.

Shapes: N examples, B of a batch, L logits, K numbers in a prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

Label = str | float | Sequence[str] | Mapping[str, float]
"""The label of an example, as a dataset plugin gives it: a text, such as a class, a number, several
labels, or several numbers by name. A task turns it into a text of one form."""

AUTO = "auto"
"""In the place of a task's name: the task that the labels tell."""

DEFAULT_TASK = "classification"
"""The name of the task that a data set has unless its labels tell another."""


@dataclass(frozen=True)
class Finding:
    """An example to inspect: its prediction is wrong, or its label is doubtful.

    Attributes:
        index: Its position in the arrays of targets and predictions.
        guess: What is predicted, or doubted, as a text.
        probability: That of the guess; None where it has none.
    """

    index: int
    guess: str
    probability: float | None = None


class Task(ABC):
    """What is predicted of an example, and how that is learned and scored.

    A task is made without outputs, and ``fit`` returns the one that is fitted to the labels of a
    data set. It is not changed after that, and travels with the model.

    Attributes:
        name: Its name.
        noun: What one output is called in sentences, e.g. ``class``.
        nouns: The plural.
        default_metric: The name of the metric that is optimised unless another one is given.
        constant_noun: What a model predicts that does not look at the example, for sentences, e.g.
            ``the most frequent class``.
        score_noun: What ``details`` computes as the score of one output, e.g. ``recall``.
        has_classes: Whether each example has one class, whose probabilities sum to 1, so that there
            are recalls, a confusion matrix and a balanced accuracy.
        has_probabilities: Whether predictions are probabilities.
        activation_code: ``activate`` as an expression of PyTorch, of a tensor ``logits [B, L]`` and
            ``config``, the content of a saved model's ``config.json``: for the code in model cards,
            where it is used if it computes the same. Empty if there is none.
        outputs: The names of what is predicted: classes, labels or quantities.
        constants: What else ``fit`` found out from the labels: values of JSON.

    Args:
        outputs: The names of the outputs; empty before ``fit``.
        constants: See above.

    Raises:
        ValueError: The constants are not those that ``fit`` finds, as in a damaged file.
    """

    name: ClassVar[str]
    noun: ClassVar[str] = "class"
    nouns: ClassVar[str] = "classes"
    default_metric: ClassVar[str]
    constant_noun: ClassVar[str]
    score_noun: ClassVar[str] = "score"
    has_classes: ClassVar[bool] = False
    has_probabilities: ClassVar[bool] = True
    activation_code: ClassVar[str] = ""

    def __init__(
        self, outputs: Sequence[str] = (), constants: Mapping[str, Any] | None = None
    ) -> None:
        self.outputs = tuple(outputs)
        self.constants = dict(constants or {})

    # ---------------------------------------------------------------- labels and targets

    def recognise(self, labels: Sequence[Label]) -> str:
        """Return why labels are probably for this task, e.g. ``all labels are numbers``, or ''.

        Args:
            labels: The labels of all examples, as the data set gives them.
        """
        return ""

    def prepare(self, labels: Sequence[Label]) -> Self:
        """Return the task that can parse labels of this data set.

        Args:
            labels: The labels of all examples, as the data set gives them.
        """
        return self

    def parse(self, label: Label) -> str:
        """Return the text of a label in the one form that this task has for it.

        The text of a text is itself.

        Args:
            label: What a dataset plugin gave; not a missing label.

        Raises:
            ValueError: It is no label of this task, or a fitted task needs more than it has; the
                message is shown to the user.
        """
        if not isinstance(label, str):
            raise ValueError(f"the label {label!r:.60} is not a text")
        return label

    def names(self, label: str) -> Sequence[str]:
        """Return the outputs that a parsed label names; none if labels are numbers."""
        return ()

    @abstractmethod
    def fit(self, labels: Sequence[str], outputs: Sequence[str]) -> Self:
        """Return the task that is fitted to a data set.

        Args:
            labels: The parsed labels of the usable examples outside the test split.
            outputs: All outputs that labels name, in natural order.

        Raises:
            DataError: Nothing can be learned from these labels.
        """

    @abstractmethod
    def encode(self, labels: Sequence[str]) -> Any:
        """Return the targets ``[N]`` or ``[N, ...]`` of parsed labels, a NumPy array."""

    @abstractmethod
    def format(self, target: Any) -> str:
        """Return the parsed label of the target of one example."""

    @abstractmethod
    def strata(self, targets: Any) -> Any:
        """Return by what splits are stratified.

        Returns:
            ``int64 [N]``, one stratum for each example, or ``bool [N, S]``, several of ``S``.
        """

    def toy(self, count: int) -> Sequence[Label]:
        """Return labels with which tests try the task; none for usual ones.

        Usual labels are classes, lists of labels, and numbers: what it parses of these.

        Args:
            count: Number of labels, at least 12.
        """
        return ()

    # ---------------------------------------------------------------- the network

    @property
    def num_logits(self) -> int:
        """The number L of logits that a head returns."""
        return len(self.outputs)

    @abstractmethod
    def expand(self, targets: Any) -> Any:
        """Return targets ``[B, ...]`` as the loss takes them, ``float32 [B, L]`` (tensors)."""

    @abstractmethod
    def loss(
        self, logits: Any, targets: Any, *, weights: Any = None, label_smoothing: float = 0.0
    ) -> Any:
        """Return the mean loss of a batch, a scalar.

        Args:
            logits: ``float32 [B, L]``.
            targets: As ``expand`` returns them, possibly mixed, ``float32 [B, L]``.
            weights: Weight of each output, ``[L]``; None for equal ones.
            label_smoothing: Fraction of a label that is spread over all classes, where a task
                has something like it.
        """

    @abstractmethod
    def activate(self, logits: Any) -> Any:
        """Return the predictions ``float32 [B, K]`` of logits ``float32 [B, L]`` (tensors)."""

    @abstractmethod
    def invert(self, predictions: Any) -> Any:
        """Return logits ``[B, L]`` whose activation is ``predictions [B, K]`` (tensors)."""

    def soften(self, predictions: Any, temperature: float) -> Any:
        """Return predictions of another model as targets to learn from; None if that has no sense.

        Args:
            predictions: ``float32 [B, K]`` (tensors).
            temperature: By which both this model's logits and those of the other are divided.

        Returns:
            ``float32 [B, L]``: the ``loss`` of logits with these targets is the smallest for the
            other model's logits divided by the temperature.
        """
        return None

    @property
    def can_be_taught(self) -> bool:
        """Whether a model can learn from the predictions of another one, see ``soften``."""
        return type(self).soften is not Task.soften

    # ---------------------------------------------------------------- scores and calibration

    @abstractmethod
    def constant(self, targets: Any) -> Any:
        """Return the prediction ``float32 [K]`` of a model that does not look at the example.

        Args:
            targets: Those of the training examples, ``[N, ...]``.
        """

    def describe_constant(self, constant: Any) -> str:
        """Describe what ``constant`` returns for a sentence."""
        return self.constant_noun

    @abstractmethod
    def details(
        self, targets: Any, predictions: Any, calibration: Mapping[str, Any] = {}
    ) -> dict[str, Any]:
        """Return results beyond the metric, as values of JSON for reports.

        ``per_class`` is a list with ``class``, ``n`` and ``score`` of each output.

        Args:
            targets: ``[N, ...]``.
            predictions: ``[N, K]``.
            calibration: What ``calibrate`` returned; empty without a calibration.
        """

    @abstractmethod
    def calibrate(self, targets: Any, predictions: Any, folds: Any) -> dict[str, Any]:
        """Calibrate predictions of examples that were not trained on.

        Args:
            targets: ``[N, ...]``.
            predictions: ``[N, K]``.
            folds: Fold of each example, ``[N]``, with at least two different values.

        Returns:
            Values of JSON, with ``n``, the number of examples, and maybe ``temperature``, by which
            logits are divided; ``{}`` if there is nothing to calibrate.
        """

    @abstractmethod
    def describe(self, prediction: Any, calibration: Mapping[str, Any]) -> dict[str, Any]:
        """Return a prediction ``[K]`` as values of JSON for people and programs.

        Args:
            prediction: Activated, after the logits were divided by the temperature.
            calibration: What ``calibrate`` returned; empty without a calibration.

        Returns:
            ``prediction``, a label that ``parse`` takes: a class, a list of labels, a number, or
            numbers by name; ``probabilities``, by the name of each output, if the task has them;
            and other values in the form of ``prediction``, such as ``low`` and ``high``.
        """

    # ---------------------------------------------------------------- reports

    def decide(self, prediction: Any, calibration: Mapping[str, Any] = {}) -> str:
        """Return what is predicted as the text of a label, see ``format``.

        Args:
            prediction: ``[K]``, after the logits were divided by the temperature.
            calibration: What ``calibrate`` returned; empty without a calibration.
        """
        return self.format(prediction)

    def find_mistakes(
        self, targets: Any, predictions: Any, calibration: Mapping[str, Any] = {}, limit: int = 24
    ) -> list[Finding]:
        """Return the examples with the largest errors, the largest first.

        Args:
            targets: ``[N, ...]``.
            predictions: ``[N, K]``.
            calibration: What ``calibrate`` returned; empty without a calibration.
            limit: The maximum number of examples.
        """
        return []

    def find_doubtful_labels(
        self, targets: Any, predictions: Any, limit: int = 24
    ) -> list[Finding]:
        """Return the examples whose labels are probably wrong, the most doubtful first.

        Args:
            targets: ``[N, ...]``.
            predictions: ``[N, K]``, of models that were not trained on the example.
            limit: The maximum number of examples.
        """
        return []

    def to_json(self) -> dict[str, Any]:
        """Return the name and the constants, from which a saved model's task is restored."""
        return {"name": self.name, "constants": self.constants}
