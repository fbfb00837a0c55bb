"""The checks of every kind of plugin, and how violations are reported."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from broken_plugins import (
    Wrapped,
    assert_reported,
    wrap_linear,
)
from torch import Tensor, nn

from autotl import (
    Incompatible,
    Range,
    When,
    backbone,
    freeze,
    head,
)
from autotl.errors import PluginError
from autotl.models import Group, Model
from autotl.space import registry
from autotl.space.plugin import AnyPlugin
from autotl.testing import check, examine, toy

BUILT_IN = [
    p
    for p in registry.load()
    if p.kind != "dataset"
    and p.origin.startswith("autotl ")
    and (p.members is None or p.members((), "cpu", None))
]
"""Without families that have no default members, of which one is tested by name."""


def name_of(plugin: AnyPlugin) -> str:
    return f"{plugin.kind}-{plugin.name}"


@pytest.mark.parametrize("plugin", BUILT_IN, ids=name_of)
def test_built_in_plugins_keep_the_contract(plugin: AnyPlugin) -> None:
    assert check(plugin) >= 1


@pytest.mark.parametrize(
    "plugin",
    [toy.convnet, toy.transformer, toy.unfreeze_upper_half, toy.identity, toy.adam],
    ids=name_of,
)
def test_the_companions_keep_the_contract(plugin: AnyPlugin) -> None:
    assert check(plugin) >= 1


def test_the_random_numbers_and_threads_of_the_caller_do_not_change() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    threads = torch.get_num_threads()
    check(toy.linear)
    assert (torch.rand(1), random.random(), np.random.rand()) == before
    assert torch.get_num_threads() == threads


def test_a_plugin_that_is_incompatible_with_the_first_backbone_is_tried_on_the_other() -> None:
    @freeze
    def attention_only(model: Model) -> list[Group]:
        """Train the head and the attention."""
        attention = [p for n, p in model.backbone.named_parameters() if ".attn." in n]
        if not attention:
            raise Incompatible("there is no attention")
        return [{"params": [*model.head.parameters(), *attention], "lr": 1e-3}]

    assert check(attention_only) == 1
    with pytest.raises(
        PluginError, match=r"is incompatible .* \(there is no attention\).*backbone="
    ):
        check(attention_only, backbone=toy.convnet)


def test_defaults_that_work_on_a_convolutional_network_are_tried_on_a_transformer() -> None:
    @freeze
    def stem(model: Model) -> list[Group]:
        """Train the head and the stem."""
        parameters = model.backbone.get_submodule("stem").parameters()
        return [{"params": [*model.head.parameters(), *parameters], "lr": 1e-3}]

    [text] = examine(stem).broken
    assert "raises AttributeError in line" in text
    assert text.endswith("(on a transformer)")


@head
def unused(
    features: int,
    classes: int,
    *,
    depth: Literal[1, 2] = 1,
    width: Annotated[int, Range(8, 64), When(depth=2)] = 16,
) -> nn.Module:
    """Depth is used, width is not."""
    layers = [nn.Linear(features, features) for _ in range(depth - 1)]
    return nn.Sequential(*layers, nn.Linear(features, classes))


class Growing(nn.Linear):
    """Multiplies its logits by the number of passes in training."""

    steps: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.register_buffer("steps", torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            self.steps += 1
        return super().forward(features) * self.steps


@head
def growing(features: int, classes: int) -> nn.Module:
    """Counts its passes and uses the count."""
    return Growing(features, classes)


@head
def unseeded(features: int, classes: int) -> nn.Module:
    """Draws its initial bias from Python's generator."""
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.bias, random.random())
    return layer


@head
def undescribed(features: int, classes: int) -> nn.Module:
    return nn.Linear(features, classes)


@head(requires=["surely-not-installed>=3"])
def lacking(features: int, classes: int) -> nn.Module:
    """Needs a package that does not exist."""
    return nn.Linear(features, classes)


def hiding(module: Any, features: Tensor) -> Tensor:
    try:
        return module.layer(features)
    except RuntimeError:
        return features[:, :3] * 0 + sum(p.sum() for p in module.parameters())


class Hiding(toy.ConvNet):
    """Continues when memory runs out."""

    def forward(self, images: Tensor) -> Tensor:
        try:
            return super().forward(images)
        except torch.OutOfMemoryError:
            return images.mean((2, 3)).repeat(1, 8)


@backbone
def hiding_backbone() -> nn.Module:
    """Four blocks that hide that memory ran out."""
    return Hiding()


BROKEN = [
    (wrap_linear(hiding), "catches torch.OutOfMemoryError"),
    (hiding_backbone, "catches torch.OutOfMemoryError"),
    (unused, "keyword 'width' without effect: 8 and 64 train the same model"),
    (growing, "trains a different model when memory runs out"),
    (unseeded, "gives a different result when it is trained twice with the same seed"),
    (undescribed, "has no docstring"),
    (lacking, "pip install 'surely-not-installed>=3'"),
]


@pytest.mark.parametrize(("plugin", "words"), BROKEN, ids=[f"{p.name}-{w[:25]}" for p, w in BROKEN])
def test_a_violation_is_reported_in_words(plugin: AnyPlugin, words: str) -> None:
    assert_reported(plugin, words)


def test_all_violations_are_reported_at_once_each_once() -> None:
    @head
    def several(
        features: int, classes: int, *, a: bool = False, b: Annotated[int, Range(1, 3)] = 1
    ) -> nn.Module:
        """Neither keyword is used, and predictions are random."""
        return Wrapped(features, classes, lambda m, x: m.layer(nn.functional.dropout(x)))

    broken = examine(several).broken
    assert sum("keyword" in text for text in broken) == 2
    [random_in_eval_mode] = [text for text in broken if "each time in eval mode" in text]
    with pytest.raises(PluginError) as caught:
        check(several)
    assert str(caught.value).splitlines() == list(broken)
    assert "self.training" in random_in_eval_mode


def test_a_default_outside_its_range_is_an_error_of_the_declaration() -> None:
    with pytest.raises(PluginError, match="choose a default inside"):

        @head
        def outside(
            features: int, classes: int, *, dropout: Annotated[float, Range(0, 1)] = 2.0
        ) -> nn.Module:
            """A default outside its range."""
            return nn.Linear(features, classes)


def test_the_progress_of_an_examination_is_reported() -> None:
    steps: list[tuple[int, int]] = []
    examination = examine(toy.linear, progress=lambda *step: steps.append(step))
    assert not examination.broken
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert {total for _, total in steps} == {3}
