"""The checks of methods for unlabelled examples: what they return, their loss, their selection."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autotl.space.unlabelled import Outputs, UnlabelledMethod
from autotl.testing import toy
from autotl.testing.configurations import Params
from autotl.testing.harness import PluginHarness
from autotl.testing.violations import describe

LABELLED, PROGRESS = 12, (0.0, 0.5, 0.99)
"""The number of labelled examples in a step, and the moments at which a loss is computed."""

LARGE = 60.0
"""Logits of a network that is sure: their probabilities are 0 and 1 in float32."""

Step = tuple[Outputs, Outputs, Outputs]


def check_unlabelled(harness: PluginHarness, params: Params) -> bool:
    """Check the method that a plugin returns, and what it computes of outputs.

    Returns:
        Whether it can be trained with.
    """
    given = {"classes": len(toy.COLOURS), "features": toy.WIDTH}
    method: Any = harness.plugin.call(given, params)
    problems = list(_find_method_problems(method))
    if not problems:
        torch.manual_seed(0)
        if method.loss is not None:
            problems += _find_loss_problems(method)
        if method.select is not None:
            problems += _find_selection_problems(method)
    for problem in problems:
        harness.violations.add(problem, params)
    if problems:
        return False
    harness.rows_per_example = 1 + 2 * method.mu
    harness.companions["head"] = toy.linear if method.loss or not method.select else toy.means
    if method.loss and method.select:
        harness.train(params, freeze=toy.head_alone, head=toy.means)
    return True


def _find_method_problems(method: Any) -> Iterator[str]:
    """Find what is wrong with what a plugin returns."""
    if not isinstance(method, UnlabelledMethod):
        yield f"returns {describe(method)}; return an autotl.UnlabelledMethod"
        return
    for name, lowest in (("mu", 1), ("rounds", 1)):
        value: Any = getattr(method, name)
        if type(value) is not int or value < lowest:
            yield f"returns {name}={value!r}; it is a whole number, at least {lowest}"
    if not 0 <= method.teacher_decay < 1:
        yield f"returns teacher_decay={method.teacher_decay!r}; it is from 0 to below 1"
    for name in ("loss", "select"):
        value = getattr(method, name)
        if value is not None and not callable(value):
            yield f"returns {name}={describe(value)}; it is a function or None"
    if type(method.adapts_batch_norm) is not bool:
        yield f"returns adapts_batch_norm={method.adapts_batch_norm!r}; it is True or False"
    if method.teacher_decay and method.loss is None:
        yield "returns a teacher_decay without a loss that uses the teacher"


def _make_step(method: UnlabelledMethod, factor: float, repeats: int = 1) -> Step:
    """Make random outputs of a step, always the same ones; the unlabelled ones are repeated."""
    generator = torch.Generator().manual_seed(0)
    classes, count = len(toy.COLOURS), LABELLED * method.mu

    def make(size: int, targets: Tensor | None = None, times: int = 1) -> Outputs:
        logits = factor * torch.randn(size, classes, generator=generator)
        features = torch.randn(size, toy.WIDTH, generator=generator)
        logits, features = (t.repeat(times, 1).requires_grad_() for t in (logits, features))
        return Outputs(logits, features, targets)

    targets = torch.eye(classes)[toy.cycle_labels(LABELLED)]
    weak = make(count, times=repeats)
    if method.teacher_decay:
        weak = Outputs(weak.logits.detach(), weak.features.detach())
    return make(LABELLED, targets), weak, make(count, times=repeats)


def _find_loss_problems(method: UnlabelledMethod) -> Iterator[str]:
    """Find what is wrong with the loss of a method; what follows an error is not tried."""
    loss: Any = method.loss
    for progress in PROGRESS:
        step = _make_step(method, 3.0)
        value: Any = loss(*step, progress)
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            yield f"has the loss {describe(value)}; return a scalar, float32 []"
            return
    if _is_changed(step, _make_step(method, 3.0)):
        yield "changes the outputs that it is given; compute new tensors"
        return
    if not value.requires_grad:
        yield "has a loss without gradient; compute it from the outputs in torch, without detach"
        return
    for factor in (0.0, LARGE):
        if not _is_finite(loss, _make_step(method, factor)):
            yield (
                f"has a loss or a gradient that is not finite for logits up to {factor:.0f}; clamp "
                "the arguments of log and what is divided by, such as the number of chosen examples"
            )
            return
    yield from _find_memory(loss, method)
    one, two = (_compute(copy.deepcopy(loss), _make_step(method, 3.0, n)) for n in (1, 2))
    if abs(two - one) > 0.5 * abs(one) + 1e-3:
        yield (
            f"has the loss {one:.4g} for some unlabelled examples and {two:.4g} for the same ones "
            "twice; return the mean over the examples"
        )


def _find_memory(loss: Any, method: UnlabelledMethod) -> Iterator[str]:
    """Find state of a loss that a checkpoint does not have."""
    advice = "keep what it remembers in buffers of an nn.Module of fixed shapes"
    if not isinstance(loss, nn.Module):
        one, other = (_compute(loss, _make_step(method, 3.0)) for _ in range(2))
        if one != other:
            yield f"has another loss for the same outputs the second time; {advice}"
        return
    before = copy.deepcopy(loss)
    _compute(loss, _make_step(method, 3.0))
    try:
        before.load_state_dict(loss.state_dict())
    except RuntimeError as error:
        yield f"cannot be saved and loaded again: {str(error).splitlines()[-1].strip()}; {advice}"
        return
    one, other = (_compute(module, _make_step(method, 3.0)) for module in (loss, before))
    if one != other:
        yield f"has another loss after it is saved and loaded again; {advice}"


def _compute(loss: Any, step: Step) -> float:
    """Compute the loss of a step in the middle of a training."""
    return float(loss(*step, 0.5).detach())


def _is_changed(step: Step, expected: Step) -> bool:
    pairs = zip(step, expected, strict=True)
    return not all(
        torch.equal(one.logits, other.logits) and torch.equal(one.features, other.features)
        for one, other in pairs
    )


def _is_finite(loss: Any, step: Step) -> bool:
    """Whether a loss and its gradients are finite."""
    value: Tensor = loss(*step, 0.99)
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call]
    gradients = (t.grad for outputs in step for t in (outputs.logits, outputs.features))
    return bool(value.isfinite()) and all(g is None or g.isfinite().all() for g in gradients)


def _find_selection_problems(method: UnlabelledMethod) -> Iterator[str]:
    """Find what is wrong with the selection of a method."""
    select: Any = method.select
    for factor in (0.0, 3.0, LARGE):
        predictions = (factor * torch.randn(30, len(toy.COLOURS))).softmax(1)
        for number in range(1, method.rounds + 1):
            chosen = select(predictions, number)
            if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or len(chosen) != 30:
                yield f"selects {describe(chosen)} of 30 examples; return bool [U]"
                return
