"""Tasks that break their contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from autotl_plugins.regression import Regression
from broken_plugins import assert_reported
from torch import Tensor, nn

from autotl import Label, Task, head, task
from autotl.space.plugin import AnyPlugin
from autotl.tasks import Classification
from autotl.testing import check, toy_tasks

Numbers = Regression.function


def broken(base: Any = Classification, **attributes: Any) -> AnyPlugin:
    """A task that differs from another one in some attributes."""
    return task(type("broken", (base,), {"name": "broken", "__doc__": "Broken.", **attributes}))


class Mutable(Classification):
    def fit(self, labels: Sequence[str], outputs: Sequence[str]) -> Any:
        self.outputs = tuple(outputs)
        return self


class Remembering(Classification):
    """Keeps what it needs outside of its constants."""

    def fit(self, labels: Sequence[str], outputs: Sequence[str]) -> Any:
        fitted = super().fit(labels, outputs)
        fitted.scale = 2.0  # type: ignore[attr-defined]
        return fitted

    def activate(self, logits: Tensor) -> Tensor:
        return (logits * getattr(self, "scale", 1.0)).softmax(1)

    def invert(self, predictions: Tensor) -> Tensor:
        return predictions.log() / getattr(self, "scale", 1.0)


def sign_of(label: Label) -> str:
    return "+" if float(label) > 0 else "-"  # type: ignore[arg-type]


@task
def function() -> int:
    """Is no class."""
    return 1


class Unfinished(Task):
    """Lacks almost everything."""

    name, default_metric, constant_noun = "Unfinished", "accuracy", "nothing"


def method(value: Any) -> Any:
    return lambda self, *args, **kwargs: value


BROKEN = [
    (function, "is no subclass of autotl.Task"),
    (task(Unfinished), "does not define activate, calibrate, constant"),
    (broken(constant_noun=None), "has no constant_noun; set it in the class"),
    (
        broken(default_metric="acuracy"),
        "'acuracy', which does not suit it; did you mean 'accuracy'",
    ),
    (broken(Numbers), "default metric 'mae', which does not suit it"),
    (broken(recognise=method("always")), "recognises plain classes for its own (always)"),
    (broken(recognise=method(True)), "returns bool from recognise"),
    (broken(parse=lambda self, label: sign_of(label)), "raises TypeError for lists of labels"),
    (broken(parse=method("")), "parses a label as ''"),
    (broken(parse=lambda self, label: f"{label}!"), "return the text of a text as it is"),
    (broken(names=method("abc")), "names the outputs 'abc'"),
    (broken(names=method(())), "has the outputs () after fit"),
    (
        task(type("broken", (Mutable,), {"name": "broken", "__doc__": "B."})),
        "changes itself in fit",
    ),
    (
        task(type("broken", (Remembering,), {"name": "broken", "__doc__": "B."})),
        "is another task when it is loaded",
    ),
    (broken(encode=lambda self, labels: list(labels)), "encodes 24 labels as list"),
    (broken(format=method("a")), "formats the target of 'b' as 'a', which is another label"),
    (broken(strata=method(np.zeros(24))), "has strata float64 [24] of 24 targets"),
    (broken(num_logits=0), "has 0 logits"),
    (broken(expand=lambda self, targets: targets.float()), "expands targets to float32 [24]"),
    (broken(activate=lambda self, logits: logits), "has predictions that are no probabilities"),
    (broken(activate=lambda self, logits: logits.softmax(0)), "an example alone differently"),
    (broken(invert=lambda self, p: p), "activate(invert(p)) is not p"),
    (
        broken(invert=lambda self, p: p.log()[:, 1:]),
        "inverts predictions float32 [24, 3] to float32",
    ),
    (
        broken(soften=lambda self, p, temperature: p),
        "at the temperature 2 to targets for which the loss of the logits themselves is not",
    ),
    (
        broken(soften=lambda self, p, temperature: p[:, 1:]),
        "softens predictions to float32 [24, 2]",
    ),
    (broken(loss=lambda self, x, t, **options: (x - t).square()), "return the mean loss"),
    (
        broken(
            loss=lambda self, x, t, weights=None, **o: (
                (x - t).square().sum(1).mean() * (1 if weights is None else 2)
            )
        ),
        "with equal weights of 1, but",
    ),
    (broken(constant=method(np.float32(1))), "has the constant float32"),
    (broken(calibrate=method({"temperature": 2.0})), "without n, the number of examples"),
    (broken(calibrate=method({"n": 3, "temperature": -1.0})), "its temperature is -1.0"),
    (broken(calibrate=method({"n": np.int64(3)})), "int64 is not JSON serializable"),
    (broken(details=method({"per_class": []})), "per_class is no list of 3 outputs"),
    (broken(details=method({"per_class": [{}] * 3})), "lacks class, n or score"),
    (broken(describe=method({"a": float("nan")})), "describes a prediction by what is no value"),
    (broken(describe=method({})), "without the key 'prediction'"),
    (broken(to_json=method({"name": "other", "constants": {}})), "return its name and constants"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[w[:25] for _, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)


class Signs(Classification):
    """Labels are texts of signs alone."""

    name = "Signs"

    def parse(self, label: Label) -> str:
        if label not in ("+", "-"):
            raise ValueError(f"{label!r} is no sign")
        return str(label)

    def toy(self, count: int) -> Sequence[Label]:
        return ["+", "-"] * (count // 2)


def test_a_task_of_other_labels_returns_some_for_tests() -> None:
    assert check(task(Signs)) == 1
    plugin = task(type("Signs", (Signs,), {"toy": method(()), "__doc__": "Signs."}))
    assert_reported(plugin, "parses and fits none of the toy labels (lists of labels, classes")


def test_every_form_of_labels_is_tried_with_the_task_that_parses_it() -> None:
    fitted = toy_tasks.find_toy_tasks(pooled)
    shapes = sorted((toy.task.name, toy.targets.shape) for toy in fitted)
    assert shapes == [
        ("classification", (24,)),
        ("multilabel", (24, 3)),
        ("ordinal", (24,)),
        ("regression", (24, 1)),
        ("regression", (24, 2)),
    ]


class Squeezed(nn.Linear):
    """Drops the dimension of a single logit."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).squeeze(1)


@head
def squeezed(features: int, classes: int) -> nn.Module:
    """Fails for a single number."""
    return Squeezed(features, classes)


@head
def pooled(features: int, classes: int) -> nn.Module:
    """A linear layer."""
    return nn.Linear(features, classes)


class Counting(nn.Linear):
    """Is fitted to indices of classes."""

    def fit(self, features: Tensor, labels: Tensor) -> None:
        for i in range(len(self.weight)):
            mean = features[labels == i].mean(0)
            self.weight[i], self.bias[i] = mean, -mean.square().sum() / 2


@head
def counting(features: int, classes: int) -> nn.Module:
    """Is fitted to classes."""
    return Counting(features, classes)


@head(tasks=["classification"])
def counting_classes(features: int, classes: int) -> nn.Module:
    """Is fitted to classes, as it says."""
    return Counting(features, classes)


@head(tasks=["regression"])
def squeezed_number(features: int, classes: int) -> nn.Module:
    """Fails for a single number."""
    return Squeezed(features, classes)


@head(tasks=["regression", "multilabel"])
def numbers(features: int, classes: int) -> nn.Module:
    """A linear layer."""
    return nn.Linear(features, classes)


def test_a_head_is_tried_on_every_task_that_it_suits() -> None:
    assert_reported(squeezed, "float32 [8] for 8 images; return [8, 1] (for regression; declare")
    assert_reported(counting, "(for multilabel; declare tasks=[...] if it suits only some tasks")
    assert_reported(squeezed_number, "float32 [8] for 8 images; return [8, 1]")
    for plugin in (pooled, counting_classes, numbers):
        assert check(plugin) == 1
