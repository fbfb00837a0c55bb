"""Optimizers: weight decay, update rules, learning rate schedule and gradient clipping."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from toy import REGISTRY, config, job, model

from autotl.models import Group
from autotl.training import fine_tune

NAMES = [p.name for p in REGISTRY if p.kind == "optimizer"]
EVERY = pytest.mark.parametrize("name", NAMES)


def build_optimizer(
    name: str, groups: list[Group], steps: int = 10, **params: Any
) -> tuple[Any, Any]:
    plugin = REGISTRY.get("optimizer", name)
    built: tuple[Any, Any] = plugin.call(
        {"groups": groups, "steps": steps}, {**plugin.defaults, **params}
    )
    return built


def lr_scale(name: str) -> float:
    return float(REGISTRY.get("optimizer", name).defaults.get("lr_scale", 1.0))


def one_parameter(values: Any, lr: float = 0.01) -> tuple[nn.Parameter, list[Group]]:
    weight = nn.Parameter(torch.tensor(values))
    return weight, [{"params": [weight], "lr": lr}]


def test_the_built_in_optimizers_are_registered() -> None:
    assert set(NAMES) >= {"adamw", "sgd", "lion"}


@EVERY
def test_norms_and_biases_are_not_decayed(name: str) -> None:
    network = model()
    groups = [
        {"params": list(network.head.parameters()), "lr": 1e-3},
        {"params": list(network.backbone.parameters()), "lr": 1e-4},
    ]
    optimizer, _ = build_optimizer(name, groups, weight_decay=0.007)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decay == {id(p): 0.007 if p.ndim > 1 else 0.0 for p in network.parameters()}
    rate = {id(p): g["initial_lr"] for g in optimizer.param_groups for p in g["params"]}
    expected = {id(p): g["lr"] * lr_scale(name) for g in groups for p in g["params"]}
    assert rate == pytest.approx(expected)
    assert [set(g) for g in groups] == [{"params", "lr"}] * 2  # the given groups are not changed


@EVERY
def test_a_group_keeps_its_own_decay(name: str) -> None:
    network = model()
    groups = [
        {"params": list(network.head.parameters()), "lr": 1e-3},
        {"params": list(network.backbone.parameters()), "lr": 1e-4, "weight_decay": 0.5},
    ]
    optimizer, _ = build_optimizer(name, groups, weight_decay=0.007)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {decay[id(p)] for p in network.backbone.parameters()} == {0.5}
    assert {decay[id(p)] for p in network.head.parameters()} == {0.007, 0.0}


@EVERY
def test_weight_decay_is_proportional_to_the_learning_rate(name: str) -> None:
    weight, groups = one_parameter([[4.0]])
    optimizer, _ = build_optimizer(name, groups, weight_decay=0.1, warmup=0.0)
    weight.grad = torch.zeros(1, 1)
    optimizer.step()
    shrunk = 4 * (1 - 0.01 * lr_scale(name) * 0.1)
    # SGD's decay is part of the gradient, which Nesterov's momentum multiplies by 1.9.
    expected = 4 * (1 - 0.01 * lr_scale(name) * 0.1 * 1.9) if name == "sgd" else shrunk
    assert weight.item() == pytest.approx(expected, rel=1e-6)


@EVERY
def test_the_learning_rate_warms_up_and_decays_by_a_cosine_to_zero(name: str) -> None:
    _, groups = one_parameter([[0.0]])
    optimizer, schedule = build_optimizer(name, groups, steps=100, warmup=0.2)
    rates = []
    for step in range(101):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"] / (0.01 * lr_scale(name)))
    for step in range(20):
        assert rates[step] == pytest.approx(step / 20)
    for step in range(20, 101):
        assert rates[step] == pytest.approx((1 + math.cos(math.pi * step / 100)) / 2, abs=1e-9)


def test_adamw_is_fused_if_all_parameters_allow_it() -> None:
    for dtype, fused in ((torch.float32, True), (torch.complex64, False)):
        parameter = nn.Parameter(torch.ones(2, 2, dtype=dtype))
        optimizer, _ = build_optimizer("adamw", [{"params": [parameter], "lr": 0.1}], warmup=0.0)
        assert all(bool(g["fused"]) == fused for g in optimizer.param_groups)


def test_sgd_has_nesterov_momentum() -> None:
    weight, groups = one_parameter([[0.0]])
    optimizer, _ = build_optimizer(
        "sgd", groups, lr_scale=10.0, momentum=0.8, weight_decay=0.0, warmup=0.0
    )
    weight.grad = torch.ones(1, 1)
    optimizer.step()
    assert weight.item() == pytest.approx(-0.1 * 1.8)


def test_the_update_of_lion_is_a_sign() -> None:
    weight, groups = one_parameter([[0.0, 0.0]])
    optimizer, _ = build_optimizer("lion", groups, lr_scale=0.5, weight_decay=0.0, warmup=0.0)
    weight.grad = torch.tensor([[1e-3, -2.0]])
    optimizer.step()
    assert weight.tolist() == [pytest.approx([-0.005, 0.005])]
    weight.grad = torch.tensor([[-1e-6, 0.0]])  # the momentum of the first step dominates
    optimizer.step()
    assert weight.tolist() == [pytest.approx([-0.01, 0.01])]


# Clipping.


@EVERY
def test_a_long_gradient_is_scaled_down_over_all_groups(name: str) -> None:
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
    groups = [{"params": [p], "lr": 1e-3} for p in parameters]
    optimizer, _ = build_optimizer(name, groups, clip=2.0)
    directions = [torch.randn(p.shape) for p in parameters]
    for p, d in zip(parameters, directions, strict=True):
        p.grad = d * 100
    optimizer.step()
    length = math.sqrt(sum(d.square().sum().item() for d in directions))
    for p, d in zip(parameters, directions, strict=True):
        torch.testing.assert_close(p.grad, d * 2.0 / length, rtol=1e-4, atol=0.0)


@EVERY
def test_a_short_gradient_is_not_changed(name: str) -> None:
    weight, groups = one_parameter([[1.0, 2.0]])
    optimizer, _ = build_optimizer(name, groups, clip=2.0)
    weight.grad = torch.tensor([[1.2, -1.5]])
    optimizer.step()
    assert weight.grad.tolist() == [pytest.approx([1.2, -1.5])]


def test_a_clipped_step_is_shorter() -> None:
    moved = []
    for clip in (0.5, 50.0):
        weight, groups = one_parameter([[0.0]])
        plain = {"lr_scale": 10.0, "momentum": 0.8, "weight_decay": 0.0, "warmup": 0.0}
        optimizer, _ = build_optimizer("sgd", groups, clip=clip, **plain)
        weight.grad = torch.full((1, 1), 30.0)
        optimizer.step()
        moved.append(weight.item())
    assert moved == pytest.approx([-0.1 * 1.8 * 0.5, -0.1 * 1.8 * 30], rel=1e-4)


@EVERY
def test_parameters_without_a_gradient_are_skipped(name: str) -> None:
    weight, groups = one_parameter([[1.0]])
    groups.append({"params": [nn.Parameter(torch.ones(2, 2))], "lr": 0.1})
    optimizer, _ = build_optimizer(name, groups, clip=1.0)
    weight.grad = torch.full((1, 1), 8.0)
    optimizer.step()
    assert weight.grad.item() == pytest.approx(1.0)
    assert torch.equal(groups[1]["params"][0], torch.ones(2, 2))


@EVERY
def test_clipping_of_a_copy_does_not_affect_the_original(name: str) -> None:
    weight, groups = one_parameter([[1.0]])
    optimizer, _ = build_optimizer(name, groups, clip=1.0, warmup=0.0)
    other = copy.deepcopy(optimizer)
    [copied] = [p for g in other.param_groups for p in g["params"]]
    weight.grad, copied.grad = torch.full((1, 1), 8.0), torch.full((1, 1), 9.0)
    before = copied.detach().clone()
    other.step()
    assert weight.grad.item() == 8.0
    assert weight.item() == 1.0
    assert not torch.equal(copied, before)
    optimizer.step()
    assert weight.grad.item() == pytest.approx(1.0)


@EVERY
def test_clipping_and_momentum_continue_when_parameters_are_unfrozen(name: str) -> None:
    """LP-FT rebuilds the optimizer after the first epoch and transfers its state."""
    network, norms = model(), []
    chosen = config(
        freeze=("lp_ft", {"probe_fraction": 0.3}),
        optimizer=(name, {"clip": 1e-3}),
    )
    before = {n: p.clone() for n, p in network.named_parameters()}
    for _ in fine_tune(network, chosen, job(3)):
        squares = [p.grad.square().sum() for p in network.parameters() if p.grad is not None]
        norms.append((len(squares), math.sqrt(sum(squares))))
    assert [count for count, _ in norms] == [2, 14, 14]
    assert [length for _, length in norms] == pytest.approx([1e-3] * 3, rel=2e-3)
    assert all(not torch.equal(p, before[n]) for n, p in network.named_parameters())


def test_a_schedule_of_a_single_step_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Timm warns of it, once for each trial."""
    network = model()
    for name in ("adamw", "sgd", "lion"):
        plugin = REGISTRY.get_untrained("optimizer", name)
        groups = [{"params": list(network.head.parameters()), "lr": 1e-3}]
        optimizer, _ = plugin.call({"groups": groups, "steps": 1}, plugin.defaults)
        assert optimizer.param_groups[0]["lr"] > 0
    assert not caplog.records
