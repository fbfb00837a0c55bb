"""The parameter groups that a freeze strategy returns, and their checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from autotl.errors import PluginError
from autotl.models.model import Model
from autotl.space.space import Choice

Group = dict[str, Any]
"""A parameter group as torch.optim takes it: ``{"params": ..., "lr": ...}``."""


def plan_groups(model: Model, choice: Choice, epochs: int) -> Iterator[list[Group]]:
    """Yield the groups of trainable parameters, once for each epoch.

    A parameter that is in no group is frozen. A strategy that is a generator is advanced only when
    an epoch begins; its last list is used for all epochs that remain. The learning rates of the
    backbone's parameters are multiplied by its ``lr_scale``, if it has one.

    Args:
        model: The model to train.
        choice: The freeze strategy.
        epochs: Number of epochs.

    Raises:
        Incompatible: The strategy does not work with this model.
        PluginError: A group breaks the contract; the message names the plugin.
    """
    result = choice.plugin.call({"model": model, "epochs": epochs}, choice.params)
    steps = result if isinstance(result, Iterator) else iter([result])
    groups: list[Group] = []
    for _ in range(epochs):
        if (step := next(steps, None)) is not None:
            # The parameters may be a generator, which is empty the second time.
            groups = [{**g, "params": list(g["params"])} for g in step]
            groups = [g for g in groups if g["params"]]
            _check_groups(model, groups, choice.name)
            groups = _scale_rates(model, groups)
        yield groups


def _check_groups(model: Model, groups: list[Group], name: str) -> None:
    """Raise PluginError where the groups of the plugin ``name`` break the contract."""
    who = f"freeze plugin {name!r}"
    trainable = [id(p) for g in groups for p in g["params"]]
    if len(set(trainable)) != len(trainable):
        raise PluginError(f"{who} puts a parameter in two groups; each must be in one")
    if foreign := set(trainable) - {id(p) for p in model.parameters()}:
        raise PluginError(
            f"{who} returns {len(foreign)} parameters that are not the model's; "
            "return only parameters of the model it is given"
        )
    head = {id(p) for p in model.head.parameters()}
    if head and not head & set(trainable):
        raise PluginError(
            f"{who} freezes the head, which starts from random weights; "
            "add model.head.parameters() to a group"
        )
    if any("lr" not in g for g in groups):
        raise PluginError(f"{who} returns a group without 'lr', its learning rate")


def _scale_rates(model: Model, groups: list[Group]) -> list[Group]:
    """Multiply the rates of the backbone's parameters; the head's become groups of their own."""
    scale: float = getattr(model.backbone, "lr_scale", 1.0)
    if scale == 1:
        return groups
    head = {id(p) for p in model.head.parameters()}
    scaled = []
    for group in groups:
        for is_head, rate in ((True, group["lr"]), (False, group["lr"] * scale)):
            if params := [p for p in group["params"] if (id(p) in head) == is_head]:
                scaled.append({**group, "params": params, "lr": rate})
    return scaled


def merge_parametrizations(model: nn.Module) -> None:
    """Merge parametrizations such as LoRA into the weights, which keep their original names."""
    for module in list(model.modules()):
        for name in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
