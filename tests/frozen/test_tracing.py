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


def some_images(count: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8)


def test_calls_are_recorded_in_order_with_their_parents_and_outputs(network: Model) -> None:
    images = some_images()
    traced = tracing.trace(network, images)
    calls = traced.calls
    names = [call.name for call in calls]
    assert names[0] == "stem"
    assert names.index("stages") < names.index("stages.0") < names.index("stages.1")
    first = names.index("stages.0")
    assert calls[0].parent is None
    assert [names[i] for i in tracing.enclosing_calls(calls, first)] == ["stages"]
    assert calls[first].order < calls[names.index("stages")].order
    assert calls[first].depends
    assert calls[first].output is not None
    [output], _ = calls[first].output
    assert output.device.type == "meta"
    assert output.shape == calls[first].shape
    assert traced.features.depends
    assert traced.prepared.shape == images.shape
    assert traced.prepared.dtype == torch.float32
    assert traced.read == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert "extract_features" not in vars(network)


def test_parameters_of_an_output_are_those_it_was_computed_from(network: Model) -> None:
    stages = network.backbone.stages
    traced = tracing.trace(network, some_images())
    [second_stage] = [call for call in traced.calls if call.name == "stages.1"]
    used = [network.backbone.stem, stages[0], stages[1]]
    expected = {id(p) for module in used for p in module.parameters()}
    assert tracing.parameters_of(second_stage.node) == expected
    every = {id(p) for p in network.backbone.parameters()}
    assert tracing.parameters_of(traced.features) == every


class Operations(nn.Module):
    """Computes features by a function, between the calls of modules that return their input."""

    num_features, pretrained_cfg = 3, {"input_size": (3, SIDE, SIDE)}

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(3))
        self.other = nn.Parameter(torch.ones(3))
        self.before, self.after = nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.after(self.function(self, self.before(images.mean((2, 3)))))
        return features


def trace_operations(function: Any) -> tuple[tracing.Trace, Any]:
    """The trace of ``Operations``, and the backbone."""
    plugin = backbone(name="operations")(lambda: Operations(function))
    network = model(backbone=plugin).eval()
    return tracing.trace(network, some_images(2)), network.backbone


def write_in_place(module: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :1] += x[:, 1:2]
    return y


def write_through_a_view(module: Any, x: Tensor) -> Tensor:
    y = torch.zeros(2, 3)
    row = y[0]
    y.t()[1].copy_(x[:, 0])
    return row.expand(2, 3)


def detached(module: Any, x: Tensor) -> Tensor:
    return x.detach().argsort().float()


def in_a_mask(module: Any, x: Tensor) -> Tensor:
    return (x > 1).int().cumsum(1).float()


def by_data(module: Any, x: Tensor) -> Tensor:
    return x.data * 2


def scripted(module: Any, x: Tensor) -> Tensor:
    return torch.nn.functional.gelu(torch.as_strided(x, (2, 3), (3, 1)))


def only_shapes(module: Any, x: Tensor) -> Tensor:
    return torch.ones_like(x) + x.new_zeros(2, 3) + module.weight.expand_as(x)


@pytest.mark.parametrize(
    ("function", "depends"),
    [
        (write_in_place, True),
        (write_through_a_view, True),
        (detached, True),
        (in_a_mask, True),
        (by_data, True),
        (scripted, True),
        (only_shapes, False),
    ],
)
def test_what_depends_on_the_input(function: Any, depends: bool) -> None:
    traced, module = trace_operations(function)
    before, after = traced.calls
    assert before.depends
    assert after.depends == depends
    assert traced.features.depends == depends
    used = {id(module.weight)} if function is only_shapes else set()
    assert tracing.parameters_of(traced.features) == used


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda module, x: x * 2, 0),
        (lambda module, x: x * 2 if x.mean() > 0 else x, 1),
        (lambda module, x: x + len(x.nonzero()), 1),
        (lambda module, x: x + x[x > 0].sum(), 1),
        (lambda module, x: x + x[:, [1, 0, 2]], 0),
        (lambda module, x: x * module.weight.sum().item(), 0),
        (lambda module, x: x + float(torch.equal(x, x)), 1),
    ],
)
def test_values_of_the_input_that_code_reads_are_recorded(function: Any, count: int) -> None:
    traced, _ = trace_operations(function)
    assert len(traced.read) == count


def test_parameters_that_share_a_storage_are_told_apart() -> None:
    plugin = backbone(name="shared")(lambda: Operations(lambda module, x: x + module.other))
    network = model(backbone=plugin).eval()
    used = network.backbone.other
    network.backbone.weight.data, used.data = torch.ones(6).chunk(2)
    traced = tracing.trace(network, some_images())
    assert tracing.parameters_of(traced.features) == {id(used)}


def boundary_names(network: Model) -> list[str]:
    traced = tracing.trace(network.eval(), some_images())
    return [traced.calls[b.call].name for b in tracing.find_boundaries(network, traced)]


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
