"""The checks of models with a plugin's backbone or head: their outputs and their training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autotl.errors import Incompatible
from autotl.models import Model, plan_groups
from autotl.space.space import Choice
from autotl.testing.configurations import Params
from autotl.testing.harness import PluginHarness, are_close
from autotl.testing.violations import describe, first_line

MIN_ACCURACY = 0.8
"""Accuracy that a head must reach on the points of four separate clusters."""

UNTRAINED_HEAD = {
    "head": "is not trained: its parameter {!r} does not change, its gradient is 0 or None; use it "
    "in forward without detach, or make it a buffer",
    "freeze": "does not train {!r} of the head; put the head's parameters into a group",
    "optimizer": "does not change {!r} of the head; step on every parameter of the groups",
}
"""What is reported of a head's parameter that stays the same, by the kind of the plugin."""


def check_output(
    harness: PluginHarness,
    function: Callable[[Tensor], Any],
    batch: Tensor,
    width: int,
    params: Params,
) -> bool:
    """Check that ``function`` returns finite numbers ``[B, width]`` for a batch in eval mode.

    Returns:
        Whether the output can be used.
    """
    violations = harness.violations
    what = "logits" if harness.plugin.kind == "head" else "features"
    with torch.no_grad():
        output = function(batch)
        if not isinstance(output, Tensor) or output.shape != (len(batch), width):
            violations.add(
                f"returns {what} {describe(output)} for {len(batch)} {harness.kind.nouns}; return "
                f"{[len(batch), width]}",
                params,
            )
            return False
        if not output.is_floating_point():
            dtype = str(output.dtype).removeprefix("torch.")
            violations.add(f"returns {what} of {dtype}; return floating-point numbers", params)
            return False
        if not output.isfinite().all():
            violations.add(f"returns {what} that are not finite; look for log(0) and x / 0", params)
            return False
        if not torch.equal(output, function(batch)):
            violations.add(
                f"gives different {what} each time in eval mode; use random numbers in training "
                "only, where self.training is true",
                params,
            )
    return True


def check_single_example(harness: PluginHarness, network: Model, params: Params) -> None:
    """Report a model that predicts an example alone differently from the same one in a batch."""
    inputs, noun = harness.make_inputs(), harness.kind.noun
    with torch.no_grad():
        logits = network.eval()(inputs)
        try:
            alone = network(inputs[:1])
        except Exception as error:  # a plugin may raise anything
            alone = None
            reason = f"{type(error).__name__}: {first_line(error)}"
        else:
            reason = f"it returns {describe(alone)}"
    if alone is None or alone.shape != (1, logits.shape[1]):
        harness.violations.add(
            f"cannot predict a single {noun} ({reason}); keep the batch dimension when it is 1, "
            "and do not use statistics of the batch",
            params,
        )
    elif not are_close(logits[:1], alone, 1e-3):
        harness.violations.add(
            f"predicts one {noun} alone differently from the same {noun} in a batch; in "
            f"eval mode compute each {noun} by itself",
            params,
        )


def check_head_for_tasks(harness: PluginHarness, features: Tensor, params: Params) -> None:
    """Report a head that does not return the logits of every task that it suits.

    Args:
        harness: Builds the models.
        features: Input of the head, ``[B, ...]``.
        params: Values of the head.
    """
    advice = "declare tasks=[...] if it suits only some tasks"
    for toy_task in harness.toy_tasks:
        targets = torch.from_numpy(toy_task.targets)[: len(features)]
        setting = f"for {toy_task.task.name}; {advice}"
        with harness.violations.trying(setting, params), suppress(Incompatible):
            model = harness.build(harness.make_config(params), task=toy_task.task)
            fit_head(model.eval().head, features, targets)
            check_output(harness, model.head, features, toy_task.task.num_logits, params)


def check_learning(harness: PluginHarness, params: Params) -> bool:
    """Report a head that does not learn to separate four clusters of points.

    Returns:
        Whether its logits have a gradient.
    """
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(16)
    positions = [9] if harness.plugin.takes == "map" else []
    centres = torch.randn(4, *[1 for _ in positions], 10)
    features = centres[labels] + 0.3 * torch.randn(64, *positions, 10)
    accuracy = 0.0
    for rate in (0.02, 0.002, 0.2):
        head: nn.Module = harness.plugin.call({"features": 10, "classes": 4}, params)
        if not fit_head(head, features, labels) and not _train_head(head, features, labels, rate):
            harness.violations.add(
                "does not learn: its logits have no gradient; let them depend on its parameters "
                "without detach or no_grad, or give it a fit(features, labels)",
                params,
            )
            return False
        with torch.no_grad():
            correct = head.eval()(features).argmax(1) == labels
        accuracy = max(accuracy, float(correct.float().mean()))
        if accuracy > MIN_ACCURACY:
            return True
    harness.violations.add(
        f"does not learn: after 60 steps of Adam it classifies {accuracy:.0%} of the points of "
        "four separate clusters; does it keep the order of the classes, and does every layer have "
        "a gradient?",
        params,
    )
    return True


def _train_head(head: nn.Module, features: Tensor, labels: Tensor, rate: float) -> bool:
    """Train a head for 60 steps; return whether its logits have a gradient."""
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    for _ in range(60):
        optimizer.zero_grad()
        loss = functional.cross_entropy(head.train()(features), labels)
        if not loss.requires_grad:
            return False
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return True


def fit_head(head: nn.Module, features: Tensor, labels: Tensor) -> bool:
    """Fit a head that has a ``fit``; return whether it has one."""
    fit: Any = getattr(head, "fit", None)
    if fit is None:
        return False
    with torch.no_grad():
        fit(features.float(), labels)
    return True


def check_trained_head(harness: PluginHarness, network: Model, params: Params) -> None:
    """Report a parameter of the head that the training did not change."""
    if harness.plugin.kind not in UNTRAINED_HEAD:
        return
    initial = dict(harness.build(harness.make_config(params)).head.named_parameters())
    for name, parameter in network.head.named_parameters():
        if torch.equal(parameter, initial[name]):
            text = UNTRAINED_HEAD[harness.plugin.kind].format(name)
            harness.violations.add(text, params)
            return


def is_per_example(harness: PluginHarness, others: Mapping[str, Any]) -> bool:
    """Whether training computes each example by itself: no batch statistics, nothing random."""
    plugin = harness.plugin
    network = harness.build(harness.make_config(plugin.defaults, **others))
    if plugin.kind == "freeze":
        list(plan_groups(network, Choice(plugin, plugin.defaults), 2))
        if network.penalties:
            return False
    batch = harness.make_inputs()
    function: Callable[[Tensor], Tensor] = network.features
    with torch.no_grad():
        if plugin.kind == "head":
            batch, function = network.eval().features(batch), network.head
            fit_head(network.head, batch, harness.cycle_targets(len(batch)))
        network.train()
        torch.manual_seed(0)
        together = function(batch)
        torch.manual_seed(0)
        in_halves = torch.cat([function(half) for half in batch.tensor_split(2)])
    return are_close(together, in_halves, 1e-4)
