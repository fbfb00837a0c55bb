"""The checks of tasks: labels and targets, logits and predictions, the loss and the reports.

Shapes: N examples, L logits, K numbers in a prediction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotl.data.labels import natural_key
from autotl.errors import did_you_mean
from autotl.space.plugin import AnyPlugin
from autotl.space.task import Task
from autotl.tasks import metrics_for, rescale
from autotl.testing.harness import are_close
from autotl.testing.losses import find_loss_problems
from autotl.testing.toy_tasks import (
    CLASSES,
    COUNT,
    FORMS,
    ToyTask,
    available_plugins,
    make_toy_tasks,
)
from autotl.testing.violations import Violations, describe, first_line

TOLERANCE = 1e-3
"""Relative and absolute, of numbers that should be equal up to rounding."""

Check = Callable[[ToyTask], Iterator[str]]


def check_task(plugin: AnyPlugin, violations: Violations) -> None:
    """Check that a task declares what it must, and does what ``autotl.Task`` describes.

    Args:
        plugin: The plugin.
        violations: Where violations are added.
    """
    if problem := _find_declaration_problem(plugin):
        violations.add(problem)
        return
    task: Task = plugin.function()
    for problem in _find_label_problems(task):
        violations.add(problem)
    toys = make_toy_tasks(task)
    if not toys:
        violations.add(
            f"parses and fits none of the toy labels ({', '.join(FORMS)}); return some of its own "
            f"from toy(count), which is called with {COUNT}"
        )
    for toy in toys:
        for check in CHECKS:
            before = violations.sentences
            with violations.catch():
                for problem in check(toy):
                    violations.add(problem)
            if violations.sentences != before:
                break  # what follows would break in the same way


def _find_declaration_problem(plugin: AnyPlugin) -> str:
    """What is wrong with the class, or ''."""
    cls: Any = plugin.function
    if not isinstance(cls, type) or not issubclass(cls, Task):
        return "is no subclass of autotl.Task; derive it from it"
    if missing := sorted(cls.__abstractmethods__):
        return f"does not define {', '.join(missing)}; autotl.Task describes them"
    for name in ("name", "default_metric", "constant_noun"):
        if not isinstance(getattr(cls, name, None), str):
            return f"has no {name}; set it in the class, to a text"
    if cls.name != plugin.name:
        return f"has the name {cls.name!r} in its class; set both names to one"
    suited = metrics_for(cls(), available_plugins(plugin))
    if cls.default_metric not in suited:
        return (
            f"has the default metric {cls.default_metric!r}, which does not suit it; "
            f"{did_you_mean(cls.default_metric, suited)}; write tasks=[{cls.name!r}] in a metric"
        )
    return ""


def _find_label_problems(task: Task) -> Iterator[str]:
    """What is wrong with what a task does with labels of any form."""
    for form, labels in FORMS.items():
        reason = task.recognise(labels)
        if not isinstance(reason, str):
            yield f"returns {describe(reason)} from recognise; return a reason, or ''"
            return
        if labels is CLASSES and reason:
            yield (
                f"recognises plain classes for its own ({reason}), so that every data set would "
                "have it; return '' from recognise unless labels show that they are for it"
            )
        try:
            task.prepare(labels).parse(labels[0])
        except ValueError:
            pass  # they are no labels of it
        except Exception as error:  # a plugin may raise anything
            yield (
                f"raises {type(error).__name__} for {form}, such as {labels[0]!r}: "
                f"{first_line(error)}; raise a ValueError from parse, whose message users see"
            )
    if task.recognise([]):
        yield "recognises a data set without labels for its own; return '' from recognise"


def _check_labels(toy: ToyTask) -> Iterator[str]:
    """Labels are parsed once, and name outputs."""
    task = toy.task
    for label in toy.labels:
        if not isinstance(label, str) or not label:
            yield f"parses a label as {label!r}; return a text that is not empty"
            return
        if task.parse(label) != label:
            yield (
                f"parses the text {label!r} of a label as {task.parse(label)!r}; return the text "
                "of a text as it is"
            )
        names: Any = task.names(label)
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            yield f"names the outputs {names!r} of the label {label!r}; return a list of texts"
            return
    if problem := _find_json_problem(task.constants):
        yield f"has constants that are no values of JSON ({problem}); convert them in fit"
    if not task.outputs or not all(isinstance(name, str) for name in task.outputs):
        yield f"has the outputs {task.outputs!r} after fit; give it a name for each"


def _check_fit(toy: ToyTask) -> Iterator[str]:
    """``fit`` returns another task and leaves the first one as it was."""
    task = type(toy.task)((), toy.task.constants)
    outputs = sorted({name for label in toy.labels for name in task.names(label)}, key=natural_key)
    fitted: Any = task.fit(toy.labels, outputs)
    if not isinstance(fitted, type(task)) or fitted is task or task.outputs:
        yield "changes itself in fit; return another task: type(self)(outputs, constants)"


def _check_targets(toy: ToyTask) -> Iterator[str]:
    """Targets have one row for each example, and can be formatted and parsed again."""
    task, targets, n = toy.task, toy.targets, len(toy.labels)
    if not isinstance(targets, np.ndarray) or targets.dtype == object or len(targets) != n:
        yield f"encodes {n} labels as {describe(targets)}; return numbers [N] or [N, ...]"
        return
    if not np.array_equal(task.encode(toy.labels[:1]), targets[:1]):
        yield "encodes a label alone differently from the same one among others"
    for label, target in zip(toy.labels, targets, strict=True):
        text: Any = task.format(target)
        if not isinstance(text, str):
            yield f"formats a target as {describe(text)}; return the text of a label"
            return
        if not np.allclose(task.encode([task.parse(text)]), target, TOLERANCE, TOLERANCE):
            yield f"formats the target of {label!r} as {text!r}, which is another label"
            return
    strata = task.strata(targets)
    is_valid = isinstance(strata, np.ndarray) and len(strata) == n
    if not is_valid or (strata.dtype.kind, strata.ndim) not in {("i", 1), ("b", 2)}:
        yield f"has strata {describe(strata)} of {n} targets; return int64 [N] or bool [N, S]"


def _check_network(toy: ToyTask) -> Iterator[str]:
    """Targets are expanded to the shape of logits; ``invert`` inverts ``activate``."""
    task, n, width = toy.task, len(toy.labels), toy.task.num_logits
    if not isinstance(width, int) or width < 1:
        yield f"has {width!r} logits; num_logits is a number above 0"
        return
    if problem := _find_shape_problem(toy.expanded, (n, width)):
        yield f"expands targets to {problem}"
        return
    logits = toy.random_logits(3.0)
    predictions: Any = task.activate(logits)
    size = predictions.shape[1] if getattr(predictions, "ndim", 0) == 2 else 1
    if problem := _find_shape_problem(predictions, (n, size)):
        yield f"activates logits {describe(logits)} to {problem}"
        return
    if not are_close(task.activate(logits[:1]), predictions[:1], TOLERANCE):
        yield "activates the logits of an example alone differently from the same among others"
    if task.has_probabilities and not bool(((predictions >= 0) & (predictions <= 1)).all()):
        yield "has predictions that are no probabilities; write has_probabilities = False"
    for own in (predictions, toy.task.activate(toy.random_logits(0.0))):
        inverted = task.invert(own)
        if problem := _find_shape_problem(inverted, (n, width)):
            yield f"inverts predictions {describe(own)} to {problem}"
            return
        if not are_close(task.activate(inverted), own, TOLERANCE):
            yield "has an invert that does not invert activate: activate(invert(p)) is not p"
            return
    array = predictions.numpy()
    if not np.allclose(rescale(task, array, 1.0), array, TOLERANCE, TOLERANCE):
        yield "has an invert or activate that is wrong in float64, in which calibration computes"


def _check_constant(toy: ToyTask) -> Iterator[str]:
    """The constant is a prediction, and has a description."""
    constant: Any = toy.task.constant(toy.targets)
    expected = toy.predict(toy.random_logits())[0]
    if np.shape(constant) != expected.shape:
        yield f"has the constant {describe(constant)}; return a prediction, {describe(expected)}"
    elif not isinstance(toy.task.describe_constant(constant), str):
        yield "describes its constant by something else than a text"


def _check_loss(toy: ToyTask) -> Iterator[str]:
    """The loss is a mean that leads to right predictions."""
    width = toy.task.num_logits

    def weighted(weights: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda logits, targets: toy.task.loss(logits, targets, weights=weights)

    def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = toy.task.loss(logits, targets, label_smoothing=0.1)
        return loss

    for loss in (toy.task.loss, smoothed, weighted(torch.arange(width) + 0.5)):
        if problems := list(find_loss_problems(loss, toy)):
            yield from problems
            return
    expected = float(toy.task.loss(toy.random_logits(), toy.expanded))
    equal = float(weighted(torch.ones(width))(toy.random_logits(), toy.expanded))
    if not np.isclose(expected, equal, TOLERANCE, TOLERANCE):
        yield f"has the loss {equal:.4g} with equal weights of 1, but {expected:.4g} without"


def _check_soft_targets(toy: ToyTask) -> Iterator[str]:
    """A model that learns from predictions comes to predict the same."""
    task, shape = toy.task, (len(toy.labels), toy.task.num_logits)
    if not task.can_be_taught:
        return
    logits = toy.random_logits()
    for temperature in (1.0, 2.0):
        targets = task.soften(task.activate(logits), temperature)
        if problem := _find_shape_problem(targets, shape):
            yield f"softens predictions to {problem}"
            return
        own = (logits / temperature).requires_grad_()
        task.loss(own, targets).backward()
        if own.grad is None or float(own.grad.abs().max()) * len(toy.labels) > TOLERANCE:
            yield (
                f"softens predictions at the temperature {temperature:g} to targets for which the "
                "loss of the logits themselves is not the smallest; write soften = Task.soften if "
                "a model cannot learn from the predictions of another one"
            )
            return


def _check_reports(toy: ToyTask) -> Iterator[str]:
    """What is reported has values of JSON."""
    task, targets = toy.task, toy.targets
    predictions = toy.predict(toy.random_logits())
    folds = np.arange(len(targets)) % 3
    calibration: Any = task.calibrate(targets, predictions, folds)
    if problem := _find_json_problem(calibration) or _find_calibration_problem(calibration):
        yield f"calibrates to {describe(calibration)} ({problem}); return values of JSON with n"
        return
    calibrations: list[dict[str, Any]] = [{}, calibration]
    for own in calibrations:
        details = task.details(targets, predictions, own)
        if problem := _find_json_problem(details) or _find_details_problem(details, task.outputs):
            yield f"has details that cannot be reported ({problem})"
        described = task.describe(predictions[0], own)
        if problem := _find_json_problem(described):
            yield f"describes a prediction by what is no value of JSON ({problem})"
        elif "prediction" not in described:
            yield "describes a prediction without the key 'prediction': what is predicted"


def _check_restoring(toy: ToyTask) -> Iterator[str]:
    """A task that is made from its outputs and constants does the same."""
    description = json.loads(json.dumps(toy.task.to_json()))
    constants = description.get("constants")
    if description.get("name") != toy.task.name or constants != toy.task.constants:
        yield f"is saved as {description}; return its name and constants from to_json"
        return
    other = type(toy.task)(toy.task.outputs, constants)
    logits = toy.random_logits()
    same_targets = np.array_equal(other.encode(toy.labels), toy.targets)
    if not same_targets or not are_close(other.activate(logits), toy.task.activate(logits), 1e-6):
        yield (
            "is another task when it is loaded; keep what fit finds out in constants, and nothing "
            "in other attributes"
        )


CHECKS: Sequence[Check] = (
    _check_labels,
    _check_fit,
    _check_targets,
    _check_network,
    _check_constant,
    _check_loss,
    _check_soft_targets,
    _check_reports,
    _check_restoring,
)


def _find_shape_problem(tensor: Any, shape: tuple[int, ...]) -> str:
    """What a value is, and should be, if it is not a finite ``float32`` of this shape; or ''."""
    if not isinstance(tensor, Tensor) or tensor.shape != shape or tensor.dtype != torch.float32:
        return f"{describe(tensor)}; return float32 {list(shape)}"
    return "" if bool(tensor.isfinite().all()) else "numbers that are not finite"


def _find_json_problem(value: Any) -> str:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return first_line(error)
    return ""


def _find_calibration_problem(calibration: Any) -> str:
    if not isinstance(calibration, dict):
        return "no dict"
    if calibration and not isinstance(calibration.get("n"), int):
        return "without n, the number of examples"
    temperature = calibration.get("temperature", 1.0)
    return "" if temperature > 0 else f"its temperature is {temperature}"


def _find_details_problem(details: Any, outputs: Sequence[str]) -> str:
    rows = details.get("per_class") if isinstance(details, Mapping) else None
    if not isinstance(rows, list) or len(rows) != len(outputs):
        return f"per_class is no list of {len(outputs)} outputs"
    if any(not {"class", "n", "score"} <= set(row) for row in rows):
        return "per_class lacks class, n or score"
    return ""
