"""Recording the calls of a backbone's modules, and finding where it can be split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import SIDE, Backbone, model

from autotl import backbone
from autotl.frozen import tracing
from autotl.models import Model


@pytest.fixture
def network() -> Model:
    return model().eval()


def differentiable_images(count: int = 1) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE).mul(255).requires_grad_()


def test_calls_are_recorded_in_order_with_their_parents_and_outputs(network: Model) -> None:
    calls, features = tracing.record_calls(network, differentiable_images())
    names = [call.name for call in calls]
    assert names[0] == "stem"
    assert names.index("stages") < names.index("stages.0") < names.index("stages.1")
    first = names.index("stages.0")
    assert calls[0].parent is None
    assert [names[i] for i in tracing.enclosing_calls(calls, first)] == ["stages"]
    assert calls[first].order < calls[names.index("stages")].order
    assert calls[first].has_gradient
    assert calls[first].output.device.type == "meta"
    assert calls[first].output.shape == calls[first].shape
    assert features is not None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_parameters_of_an_output_are_those_it_was_computed_from(network: Model) -> None:
    stages = network.backbone.stages
    with tracing.requires_grad(network.backbone, True):
        calls, features = tracing.record_calls(network, torch.rand(1, 3, SIDE, SIDE))
    [second_stage] = [call for call in calls if call.name == "stages.1"]
    used = [network.backbone.stem, stages[0], stages[1]]
    expected = {id(p) for module in used for p in module.parameters()}
    assert tracing.parameters_of(second_stage.node) == expected
    every = {id(p) for p in network.backbone.parameters()}
    assert tracing.parameters_of(features) == every


@pytest.mark.parametrize("value", [True, False])
def test_requires_grad_is_restored(network: Model, value: bool) -> None:
    parameters = list(network.backbone.parameters())
    for i, p in enumerate(parameters):
        p.requires_grad = i % 2 == 0
    with tracing.requires_grad(network.backbone, value):
        assert all(p.requires_grad == value for p in parameters)
    assert [p.requires_grad for p in parameters] == [i % 2 == 0 for i in range(len(parameters))]


def boundary_names(network: Model) -> list[str]:
    network.eval()
    with tracing.requires_grad(network.backbone, False):
        calls, features = tracing.record_calls(network, differentiable_images())
    return [calls[i].name for i in tracing.find_boundaries(network, calls, features)]


@pytest.mark.parametrize("info", [None, [], [{"module": "elsewhere"}], [{"num_chs": 8}, "stem"]])
def test_a_backbone_that_names_no_stages_can_be_split_after_its_blocks(info: Any) -> None:
    @backbone
    def without_stages() -> nn.Module:
        module = Backbone()
        module.feature_info = info
        return module

    names = boundary_names(model(backbone=without_stages))
    assert [name for name in names if name in {"stem", "stages.0", "stages.1"}] == [
        "stem",
        "stages.0",
        "stages.1",
    ]


def test_a_module_that_another_path_bypasses_is_no_boundary() -> None:
    class Residual(Backbone):
        def forward(self, images: Tensor) -> Tensor:
            stem = self.stem(images)
            return self.forward_head(self.stages(stem)) + stem.mean((1, 2, 3))[:, None]

    @backbone
    def residual() -> nn.Module:
        return Residual()

    names = boundary_names(model(backbone=residual))
    assert "stem" in names
    assert not [name for name in names if name.startswith("stages")]


def test_single_tensor_takes_the_tensor_of_a_nested_output() -> None:
    tensor = torch.ones(2)
    assert tracing.single_tensor((tensor, (8, 8))) is tensor
    assert tracing.single_tensor((tensor, tensor)) is None
    assert tracing.single_tensor(8) is None
