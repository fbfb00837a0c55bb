"""The checks of each kind of plugin, before a model is trained with it.

Each returns whether the plugin can be trained with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autotl.models import plan_groups
from autotl.space.plugin import AnyPlugin, Balance
from autotl.space.space import Choice
from autotl.space.task import DEFAULT_TASK
from autotl.testing import network
from autotl.testing.augmentations import check_augmentation
from autotl.testing.configurations import Params
from autotl.testing.harness import PluginHarness
from autotl.testing.losses import check_loss
from autotl.testing.model_inputs import check_model_input
from autotl.testing.unlabelled import check_unlabelled
from autotl.testing.violations import Violations, describe


def select_member(plugin: AnyPlugin, violations: Violations) -> AnyPlugin | None:
    """Select the plugin itself, or the first default member of a family of backbones, untrained.

    Violations that are added later are those of that member. None if there is no such member.
    """
    if not plugin.members or plugin.family:
        return plugin
    names = plugin.members((), "cpu", None)
    if not names:
        violations.add(
            "is a family without default members; test a member: "
            f"check(registry.load().get_untrained('backbone', {plugin.name + ':NAME'!r}))"
        )
        return None
    if plugin.members(names[:1], "cpu", None) != names[:1]:
        violations.add(
            "does not list its own members: members() must return the name of a member alone for "
            "that name"
        )
        return plugin
    member = plugin.member(names[0], None)
    violations.plugin = member
    return member


def check_backbone(harness: PluginHarness, params: Params) -> bool:
    """Check the encoding of inputs, and the shape and type of the features."""
    model = harness.build(harness.make_config(params)).eval()
    if not check_model_input(harness, model, params):
        return False
    module: Any = model.backbone
    width = getattr(module, "head_hidden_size", None) or module.num_features
    inputs = harness.make_inputs()
    if not network.check_output(harness, model.features, inputs, width, params):
        return False
    harness.check_copying(model, params)
    return True


def check_head(harness: PluginHarness, params: Params) -> bool:
    """Check the shape and type of the logits, and that the head is trained or can be fitted."""
    model, inputs = harness.build(harness.make_config(params)).eval(), harness.make_inputs()
    with torch.no_grad():
        features = model.features(inputs)
    network.fit_head(model.head, features, harness.cycle_targets(len(inputs)))
    if not network.check_output(harness, model.head, features, harness.task.num_logits, params):
        return False
    harness.check_copying(model, params)
    if params != harness.plugin.defaults:
        return True
    network.check_head_for_tasks(harness, features, params)
    return not harness.plugin.suits(DEFAULT_TASK) or network.check_learning(harness, params)


def check_freeze(harness: PluginHarness, params: Params) -> bool:
    """Check the groups and their learning rates, for one epoch and for many."""
    for epochs in (1, 12):
        model = harness.build(harness.make_config(params))
        for groups in plan_groups(model, Choice(harness.plugin, params), epochs):
            for rate in (g["lr"] for g in groups):
                if not isinstance(rate, int | float) or not 0 < rate < math.inf:
                    harness.violations.add(
                        f"returns a group with lr={rate!r}; a learning rate is a number above 0, "
                        "and frozen parameters are in no group",
                        params,
                    )
                    return False
    return True


def check_optimizer(harness: PluginHarness, params: Params) -> bool:
    """Check that the optimizer has exactly the groups' parameters and rates, and a scheduler."""
    violations, model = harness.violations, harness.build(harness.make_config(params))
    head, backbone = list(model.head.parameters()), list(model.backbone.parameters())
    groups = [
        {"params": head, "lr": 1e-2},
        {"params": backbone, "lr": 1e-3, "weight_decay": 0.0},
    ]
    result: Any = harness.plugin.call({"groups": groups, "steps": 20}, params)
    is_pair = isinstance(result, tuple | list) and len(result) == 2
    if not is_pair or not isinstance(result[0], torch.optim.Optimizer):
        violations.add(
            f"returns {describe(result)}; return a torch.optim.Optimizer and a scheduler", params
        )
        return False
    optimizer, scheduler = result
    if not hasattr(scheduler, "step_update") and not hasattr(scheduler, "last_epoch"):
        violations.add(
            f"returns {type(scheduler).__name__} as scheduler; return one of torch's, or one of "
            "timm's, which are set by the step",
            params,
        )
        return False
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    if len(parameters) != len(set(parameters)) or set(parameters) != {*head, *backbone}:
        violations.add(
            f"optimizes {len(parameters)} parameters where its groups have "
            f"{len(head) + len(backbone)}; include each of them once, and no other",
            params,
        )
        return False
    rates = {p: g.get("initial_lr", g["lr"]) for g in optimizer.param_groups for p in g["params"]}
    if not math.isclose(rates[head[0]], 10 * rates[backbone[0]], rel_tol=1e-3):
        violations.add(
            f"changes the learning rates 0.01 and 0.001 to {rates[head[0]]:g} and "
            f"{rates[backbone[0]]:g}; keep their ratio, which the freeze strategy chose",
            params,
        )
    decays = [
        g.get("weight_decay", 0.0)
        for g in optimizer.param_groups
        if backbone[0] in set(g["params"])
    ]
    if any(decays):
        violations.add(
            f"uses weight_decay={decays[0]:g} for a group with weight_decay=0; values of a group "
            "take precedence",
            params,
        )
    return True


def check_balance(harness: PluginHarness, params: Params) -> bool:
    """Check for one finite number for each class, or None, whatever the class counts."""
    for counts in ([15, 12, 9], [12, 12, 12], [40, 1, 0]):
        result: Any = harness.plugin.call({"counts": counts}, params)
        if not isinstance(result, Balance):
            harness.violations.add(f"returns {describe(result)}; return an autotl.Balance", params)
            return False
        for name, values in vars(result).items():
            if values is None:
                continue
            valid = len(values) == len(counts) and all(math.isfinite(v) for v in values)
            if valid and name != "offsets":
                valid = min(values) >= 0 and max(values[:2]) > 0
            if not valid:
                harness.violations.add(
                    f"returns {name}={list(values)} for {counts} examples; return one finite "
                    f"number for each class{'' if name == 'offsets' else ', not below 0'}",
                    params,
                )
                return False
    return True


CHECKS: Mapping[str, Callable[[PluginHarness, Params], bool]] = {
    "backbone": check_backbone,
    "freeze": check_freeze,
    "head": check_head,
    "augment": check_augmentation,
    "optimizer": check_optimizer,
    "balance": check_balance,
    "unlabelled": check_unlabelled,
    "loss": check_loss,
}
