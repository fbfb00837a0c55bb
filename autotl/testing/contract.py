"""The checks that hold for every kind of plugin."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from autotl.data import IMAGES
from autotl.errors import Incompatible
from autotl.models import Model
from autotl.space.hyperparameter import Hyperparameter
from autotl.space.input_kind import ANY_INPUT, IMAGE, InputKind
from autotl.space.plugin import AnyPlugin
from autotl.space.requirements import missing_requirements
from autotl.space.space import Choice
from autotl.testing import kinds, model_inputs, network, toy
from autotl.testing.configurations import Params, configurations, extreme_values, with_value
from autotl.testing.datasets import check_dataset
from autotl.testing.harness import PluginHarness, isolated
from autotl.testing.input_kinds import check_kind
from autotl.testing.metrics import check_metric
from autotl.testing.tasks import check_task
from autotl.testing.violations import Violations

LONG_EPOCHS = 8
"""Epochs of training after which a keyword without effect is reported."""

VERY_LONG_EPOCHS = 40
"""The same for methods for unlabelled examples, which wait until the model is sure."""

MEMORY_EXAMPLES = 3
"""Number of examples that fit into memory where it is made to run out."""


@dataclass(frozen=True)
class Examination:
    """The result of examining a plugin.

    Attributes:
        configurations: Number of configurations that were tried.
        broken: A sentence for each violation of the contract.
        notes: A sentence for each thing that is allowed, but may not be intended.
    """

    configurations: int
    broken: tuple[str, ...]
    notes: tuple[str, ...] = ()


Progress = Callable[[int, int], object]
"""Called with the number of steps that are done, and of all steps."""


def examine(
    plugin: AnyPlugin,
    *,
    backbone: AnyPlugin | None = None,
    source: str = "",
    kind: InputKind | None = None,
    progress: Progress = lambda done, total: None,
) -> Examination:
    """Try a plugin as ``check`` does, without raising what it raises.

    Args:
        plugin: See ``check``.
        backbone: See ``check``.
        source: See ``check``.
        kind: See ``check``.
        progress: Called after each step.

    Returns:
        How many configurations were tried, and what is wrong.
    """
    violations = Violations(plugin)
    if missing := missing_requirements(plugin):
        requirements = " ".join(map(repr, missing))
        violations.add(f"needs packages that are not installed: pip install {requirements}")
        return Examination(0, violations.sentences)
    if not plugin.summary:
        violations.add(
            "has no docstring; lists of plugins show its first line: say what it is and which "
            "paper it comes from"
        )
    tried, given_kind = 0, kind or IMAGES
    if not _fits(plugin, given_kind):
        call = "check(plugin, kind=KIND)"
        violations.add(f"is for {plugin.input} inputs, not for {given_kind.nouns}; call {call}")
        return Examination(0, violations.sentences)
    with isolated(), violations.catch():
        if plugin.kind == "dataset":
            check_dataset(plugin, source, violations, given_kind)
            tried = 1
        elif plugin.kind in ("metric", "task"):
            check = check_metric if plugin.kind == "metric" else check_task
            check(plugin, violations)
            tried = 1
        else:
            member = kinds.select_member(plugin, violations)
            if member is not None:
                tried = _try_on_backbones(member, backbone, violations, progress, given_kind)
    return Examination(tried, violations.sentences, _notes(plugin, source))


def examine_input_kind(kind: InputKind, *, backbone: AnyPlugin | None = None) -> Examination:
    """Try a kind of input as ``check_input_kind`` does, without raising what it raises.

    Args:
        kind: See ``check_input_kind``.
        backbone: See ``check_input_kind``.

    Returns:
        What is wrong.
    """
    violations = Violations(kind)
    with isolated(), violations.catch():
        check_kind(kind, backbone, violations)
    notes: tuple[str, ...] = ()
    if backbone is None and kind.backbone_input != IMAGE:
        notes = ("no item was encoded; give a backbone: check_input_kind(kind, backbone=...)",)
    return Examination(1, violations.sentences, notes)


def _fits(plugin: AnyPlugin, kind: InputKind) -> bool:
    """Whether a plugin can be tried on examples of a kind."""
    if plugin.kind == "backbone":
        return plugin.input == kind.backbone_input
    return plugin.kind not in ("augment", "dataset") or plugin.input in (kind.name, ANY_INPUT)


def _notes(plugin: AnyPlugin, source: str) -> tuple[str, ...]:
    notes = [
        f"its keyword {p.name!r} has no type, so it is always {p.default!r} and not searched; "
        "annotate it with a Range, a Literal or bool, or with its type if that is meant"
        for p in inspect.signature(plugin.function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.annotation is p.empty
    ]
    if plugin.kind == "dataset" and not source:
        notes.append("only its declaration was checked; give --source SOURCE to read examples")
    return tuple(notes)


def _try_on_backbones(
    plugin: AnyPlugin,
    backbone: AnyPlugin | None,
    violations: Violations,
    progress: Progress,
    kind: InputKind,
) -> int:
    """Try a plugin on the first compatible backbone, and its defaults on the other one."""
    if backbone is None and plugin.kind != "backbone" and kind.backbone_input != IMAGE:
        needed = f"a backbone of {kind.backbone_input} inputs to try it on"
        violations.add(f"needs {needed}: check(plugin, kind=..., backbone=...)")
        return 0
    toys = (Choice(toy.convnet, {"batchnorm": True}), Choice(toy.transformer, {}))
    tried = 0
    for choice in (Choice(backbone, backbone.defaults),) if backbone else toys:
        if not tried:
            harness = PluginHarness(plugin, choice, violations, kind)
            tried = _try_on(harness, progress)
        elif plugin.kind in ("freeze", "head") and not violations.sentences:
            violations.setting = "on a transformer"
            _try_configuration(PluginHarness(plugin, choice, violations, kind), plugin.defaults)
    if not tried and not violations.sentences:
        reasons = "; ".join(dict.fromkeys(violations.refusals))
        violations.add(
            f"is incompatible with the backbones that it was tried on ({reasons}); name one that "
            "it works with: check(plugin, backbone=...)"
        )
    return tried


def _try_on(harness: PluginHarness, progress: Progress) -> int:
    """Try a plugin on one backbone; return the number of compatible configurations."""
    plugin, violations = harness.plugin, harness.violations
    results: list[tuple[Params, NDArray[np.float32]]] = []
    tried, every = 0, configurations(plugin)
    steps = len(every) + 2 + len(plugin.hyperparameters)
    for number, params in enumerate(every, start=1):
        refusals = len(violations.refusals)
        probabilities = _try_configuration(harness, params)
        progress(number, steps)
        tried += len(violations.refusals) == refusals
        if probabilities is not None:
            results.append((params, probabilities))
        elif params == plugin.defaults:
            return tried  # the other configurations would break in the same way
    with violations.catch():
        _check_reproducibility(harness, results[0][1])
    progress(len(every) + 1, steps)
    with violations.catch():
        _check_short_memory(harness)
    for number, h in enumerate(plugin.hyperparameters, start=len(every) + 2):
        progress(number, steps)
        with violations.catch():
            _check_effect(harness, h, results)
    return tried


def _try_configuration(harness: PluginHarness, params: Params) -> NDArray[np.float32] | None:
    """Check one configuration, and train, save and load a model of it.

    Returns:
        Probabilities ``[N, C]`` of the trained model; None if it cannot be trained.
    """
    with harness.violations.catch(params):
        if harness.plugin.kind == "backbone" or harness.backbone.plugin.input != IMAGE:
            harness.find_size(params)
        if not kinds.CHECKS[harness.plugin.kind](harness, params):
            return None
        model, probabilities = harness.train(params)
        network.check_trained_head(harness, model, params)
        if harness.plugin.kind == "backbone":
            model_inputs.check_saved_input(harness, model, params)
        if harness.plugin.kind in ("backbone", "freeze", "head"):
            harness.check_saving(model, params)
            network.check_single_example(harness, model, params)
        return probabilities
    return None


def _check_reproducibility(harness: PluginHarness, before: NDArray[np.float32]) -> None:
    _, repeated = harness.train(harness.plugin.defaults)
    if not np.array_equal(before, repeated):
        harness.violations.add(
            "gives a different result when it is trained twice with the same seed; draw random "
            "numbers from torch's global generator, which is seeded, and not from random or numpy"
        )


def _check_effect(
    harness: PluginHarness, h: Hyperparameter, results: list[tuple[Params, NDArray[np.float32]]]
) -> None:
    """Report a keyword if two neighbouring values of it train the same model."""
    plugin = harness.plugin
    tried = []
    for value in extreme_values(h):
        params = with_value(plugin, h, value)
        tried += [(value, params, result) for p, result in results if p == params]
    for (one, params, result), (other, other_params, other_result) in itertools.pairwise(tried):
        if not np.array_equal(result, other_result):
            continue
        # A few steps may be too few to show an effect, for example of a warm-up.
        epochs = VERY_LONG_EPOCHS if plugin.kind == "unlabelled" else LONG_EPOCHS
        _, result = harness.train(params, epochs)
        _, other_result = harness.train(other_params, epochs)
        if np.array_equal(result, other_result):
            harness.violations.add(
                f"has a keyword {h.name!r} without effect: {one!r} and {other!r} train the same "
                "model; use it, or do not declare it for the search"
            )
            return


class _OutOfMemoryOnce(TorchFunctionMode):
    """Raises ``OutOfMemoryError`` in the first operation."""

    def __init__(self) -> None:
        self.raised = False
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.raised:
            self.raised = True
            raise torch.OutOfMemoryError("out of memory, simulated by autotl.testing")
        return func(*args, **(kwargs or {}))


class _ShortMemory:
    """Lets memory run out in a part of a model, in training on more than a few examples.

    Args:
        part: ``backbone`` or ``head``.
        examples: The number of examples that fit.

    Attributes:
        error_hidden: Whether the part returned although memory had run out.
    """

    def __init__(self, part: str, examples: int) -> None:
        self.part, self.examples = part, examples
        self.error_hidden = False

    def __call__(self, model: Model) -> None:
        module: Any = getattr(model, self.part)
        forward = module.forward

        def limited(batch: Tensor) -> Tensor:
            if len(batch) <= self.examples or not torch.is_grad_enabled():
                return forward(batch)  # type: ignore[no-any-return]
            with _OutOfMemoryOnce() as memory:
                output: Tensor = forward(batch)
            self.error_hidden |= memory.raised
            return output

        module.forward = limited


def _check_short_memory(harness: PluginHarness) -> None:
    """Report a different result with halved batches, and an error that is caught."""
    plugin = harness.plugin
    others: dict[str, Any] = {}
    part = "head"
    if plugin.kind == "backbone":
        others["freeze"] = toy.full
        part = "backbone"
    elif harness.backbone.plugin is toy.convnet:  # with BatchNorm halves give other results
        others["backbone"] = Choice(toy.convnet, {"batchnorm": False})
    short_memory = _ShortMemory(part, MEMORY_EXAMPLES * harness.rows_per_example)
    try:
        _, with_halves = harness.train(plugin.defaults, prepare=short_memory, **others)
        _, expected = harness.train(plugin.defaults, **others)
    except Incompatible:
        return  # it needs BatchNorm
    if short_memory.error_hidden:
        harness.violations.add(
            "catches torch.OutOfMemoryError, which is a RuntimeError; let it pass, so that the "
            "batch is computed in halves"
        )
    elif plugin.kind == "unlabelled":
        return  # it may compare the examples of a batch
    elif not np.allclose(expected, with_halves, atol=1e-3) and network.is_per_example(
        harness, others
    ):
        harness.violations.add(
            "trains a different model when memory runs out and a batch is computed in halves; let "
            "a step depend only on the gradients"
        )
