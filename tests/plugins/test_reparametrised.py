"""Reparametrisations: initial and merged weights, trained parameters, copies and autocast."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from freezing import (
    TIMM_MODELS,
    build_network,
    norm_names,
    perturb,
    random_images,
    single,
    train_as,
)
from torch import nn
from torch.nn.utils import parametrize
from toy import config, job, model

from autotl import Incompatible
from autotl.frozen import split_point
from autotl.models import merge_parametrizations
from autotl.training import fine_tune, measure_cost, predict

EVERY = pytest.mark.parametrize("name", [None, *TIMM_MODELS])
CHANGES = pytest.mark.parametrize("strategy", [("lora", {"fraction": 1.0}), ("scale_shift", {})])


@EVERY
@CHANGES
def test_the_initial_change_is_zero(name: Any, strategy: Any) -> None:
    net = build_network(name).eval()
    images = random_images(net)
    with torch.no_grad():
        before = net(images)
        assert train_as(net, strategy[0], **strategy[1])
        assert torch.equal(net.eval()(images), before)


@EVERY
@CHANGES
def test_merged_weights_give_the_same_output_and_have_the_original_names(
    name: Any, strategy: Any
) -> None:
    net = build_network(name).eval()
    names, images = list(net.state_dict()), random_images(net)
    count = sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        before = net(images)
        train_as(net, strategy[0], **strategy[1])
        perturb(net)
        changed = net.eval()(images)
        assert (changed - before).abs().max() > 1e-4
        merge_parametrizations(net)
        torch.testing.assert_close(net(images), changed, rtol=1e-4, atol=1e-6)
    # torch moves a merged weight behind the other parameters of its layer.
    assert sorted(net.state_dict()) == sorted(names)
    assert sum(p.numel() for p in net.parameters()) == count
    build_network(name).load_state_dict(net.state_dict(), strict=True)


@CHANGES
def test_the_original_weights_are_not_trained(strategy: Any) -> None:
    net = model()
    before = {n: p.clone() for n, p in net.backbone.named_parameters()}
    trained = train_as(net, strategy[0], **strategy[1])
    assert not any(n.endswith("original") for n in trained)
    steps = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        net.train()(random_images(net)).square().sum().backward()
        steps.step()
    for n, p in net.backbone.named_parameters():
        if n.endswith("original"):
            assert torch.equal(p, before[n.replace(".parametrizations", "")[: -len(".original")]])
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@CHANGES
def test_a_copy_is_trained_independently(strategy: Any) -> None:
    net = build_network("test_vit").eval()
    images = random_images(net)
    train_as(net, strategy[0], **strategy[1])
    perturb(net)
    with torch.no_grad():
        before = net(images)
        other = copy.deepcopy(net)
        torch.testing.assert_close(other(images), before)
        assert len(list(other.parameters())) == len(list(net.parameters()))  # sharing is kept
        perturb(other)
        assert not torch.equal(other(images), before)
        assert torch.equal(net(images), before)
        merge_parametrizations(other)


@CHANGES
@pytest.mark.parametrize("name", TIMM_MODELS)
def test_a_change_is_computed_in_float32_under_autocast(name: str, strategy: Any) -> None:
    net = build_network(name)
    train_as(net, strategy[0], **strategy[1])
    perturb(net)
    changed = [m for m in net.modules() if parametrize.is_parametrized(m, "weight")]
    with torch.autocast("cpu", torch.bfloat16):
        weights = [m.weight for m in changed]
        net.train()(random_images(net)).float().square().sum().backward()
    assert all(torch.equal(w, m.weight) for w, m in zip(weights, changed, strict=True))
    trained = [p for p in net.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert all(p.dtype == torch.float32 for p in trained)


def test_new_parameters_have_the_dtype_of_the_weights() -> None:
    net = model().double()
    train_as(net, "lora", fraction=1.0)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    net = model().double()
    train_as(net, "scale_shift")
    assert {p.dtype for p in net.parameters()} == {torch.float64}


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", [None, *TIMM_MODELS])
def test_lora_changes_the_ungrouped_layers_of_the_last_blocks(name: Any, fraction: float) -> None:
    net = build_network(name)
    blocks = net.blocks
    count = -(-fraction * len(blocks) // 1)
    last = {id(p) for block in blocks[-int(count) :] for p in block}
    layers = dict(net.backbone.named_modules())
    candidates = {n for n, m in layers.items() if isinstance(m, nn.Linear | nn.Conv2d)}
    ungrouped = {n for n in candidates if getattr(layers[n], "groups", 1) == 1}
    expected = {n for n in ungrouped if id(layers[n].weight) in last}
    trained = train_as(net, "lora", fraction=fraction)
    assert trained == {
        f"{n}.parametrizations.weight.0.{p}" for n in expected for p in ("down", "up")
    }
    if name == "test_efficientnet":
        assert any(m.groups > 1 for m in layers.values() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1), (6, 4, 3, 3)])
def test_a_low_rank_change_is_the_product_of_two_matrices(shape: tuple[int, ...]) -> None:
    layer: Any = nn.Linear(4, 6) if len(shape) == 2 else nn.Conv2d(4, 6, shape[-1])
    net = model()
    net.backbone.stages[2] = layer
    weight = layer.weight.detach().clone()
    train_as(net, "lora", fraction=0.1, rank=2, alpha=6.0)
    change = layer.parametrizations.weight[0]
    assert change.down.shape == (2, weight[0].numel())
    assert change.down.std() > 0
    with torch.no_grad():
        change.up.normal_()
    matrix = 6.0 / 2 * change.up.double() @ change.down.double()
    difference = layer.weight.double() - weight
    torch.testing.assert_close(difference, matrix.reshape(shape), rtol=1e-4, atol=1e-6)
    assert torch.linalg.matrix_rank(difference.flatten(1), atol=1e-4) == 2


def test_lora_is_incompatible_without_a_layer_to_change() -> None:
    net = model()
    net.backbone.stages[2] = nn.Sequential(nn.Conv2d(24, 24, 3, groups=24), nn.BatchNorm2d(24))
    with pytest.raises(Incompatible, match="no ungrouped convolution"):
        train_as(net, "lora", fraction=0.1)


def test_the_blocks_before_lora_can_be_cached() -> None:
    net = model()
    train_as(net, "lora", fraction=0.5)
    point = split_point.find_split_point(net, random_images(net))
    assert point is not None
    assert point.name == "stages.0"
    with torch.no_grad():
        whole = net.eval()(random_images(net))
        assert torch.equal(point.suffix(point.prefix(random_images(net)).clone()), whole)


@pytest.mark.parametrize("name", TIMM_MODELS)
def test_scale_shift_has_a_scale_and_shift_for_each_channel(name: str) -> None:
    net = build_network(name)
    layers = {n: m for n, m in net.backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    before = copy.deepcopy(layers)
    norms = norm_names(net)
    trained = train_as(net, "scale_shift")
    scales = {f"{n}.parametrizations.weight.0.scale" for n in layers}
    shifts = {f"{n}.parametrizations.bias.0.shift" for n, m in before.items() if m.bias is not None}
    assert trained - norms - scales == shifts  # the bias shares the scale of its weight
    assert trained >= norms
    layer = next((m for m in layers.values() if "bias" in m.parametrizations), None)
    if layer is not None:
        assert layer.parametrizations.bias[0].scale is layer.parametrizations.weight[0].scale
    perturb(net)
    for n, layer in layers.items():
        inputs = torch.randn(2, 64, layer.in_features) if isinstance(layer, nn.Linear) else None
        if inputs is None:
            inputs = torch.randn(2, layer.in_channels, 16, 16)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        changed = before[n](inputs).movedim(axis, -1) * layer.parametrizations.weight[0].scale
        if layer.bias is not None:
            changed = changed + layer.parametrizations.bias[0].shift
        torch.testing.assert_close(layer(inputs).movedim(axis, -1), changed, rtol=1e-4, atol=1e-5)


def test_layers_are_scaled_also_without_norms() -> None:
    assert train_as(model(backbone=single), "scale_shift") == {
        "stem.0.parametrizations.weight.0.scale"
    }


@CHANGES
def test_training_ends_with_the_parameter_names_of_the_architecture(strategy: Any) -> None:
    names = sorted(model().state_dict())
    net, run = model(), job(3)
    before = model().state_dict()
    chosen = config(freeze=strategy)
    assert measure_cost(net, chosen, run).epoch_seconds > 0
    assert sorted(net.state_dict()) == names  # costs are measured on a copy
    epochs = list(fine_tune(net, chosen, run))
    assert sorted(net.state_dict()) == names
    changed = {n for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
    assert changed >= {f"backbone.stages.{i}.0.weight" for i in range(3)}
    assert run.validation is not None
    assert run.score(predict(net, run.validation, run.device)) == epochs[-1].score
