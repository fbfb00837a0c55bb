"""Regularised strategies: the values and gradients of their penalties."""

from __future__ import annotations

import copy

import pytest
import torch
from freezing import build_and_plan, perturb, plan_epochs, trained_blocks
from torch import Tensor
from toy import config, job, model

from autotl.training import fine_tune, set_trainable


def test_l2_sp_penalises_the_distance_to_the_pretrained_weights() -> None:
    net = model()
    before = [p.detach().clone() for p in net.backbone.parameters()]
    [groups] = plan_epochs(net, "l2_sp", 1, alpha=0.3, lr=1e-4)
    [penalty] = net.penalties
    assert trained_blocks(net, groups) == {-1, 0, 1, 2, 3}
    assert {g["lr"] for g in groups} == {1e-4}
    decays = {id(p): g.get("weight_decay") for g in groups for p in g["params"]}
    assert {decays[id(p)] for p in net.backbone.parameters()} == {0.0}
    assert {decays[id(p)] for p in net.head.parameters()} == {None}
    set_trainable(net, groups)
    assert penalty(torch.zeros(2, 24)) == 0
    perturb(net)
    penalty(torch.zeros(2, 24)).backward()
    total = 0.0
    for p, q in zip(net.backbone.parameters(), before, strict=True):
        total += (p - q).square().sum().item()
        torch.testing.assert_close(p.grad, 0.3 * (p.detach() - q))
    assert penalty(torch.zeros(2, 24)).item() == pytest.approx(0.15 * total, rel=1e-5)
    assert all(p.grad is None for p in net.head.parameters())


def test_a_copy_has_its_own_penalties() -> None:
    net = model()
    plan_epochs(net, "l2_sp", 1, alpha=1.0)
    other = copy.deepcopy(net)
    with torch.no_grad():
        next(other.backbone.parameters()).add_(1.0)
    assert net.penalties[0](torch.zeros(2, 24)) == 0
    assert other.penalties[0](torch.zeros(2, 24)) > 0


def test_a_stronger_penalty_keeps_the_weights_closer() -> None:
    def distance(alpha: float) -> float:
        net, before = model(), model()
        strategy = ("l2_sp", {"alpha": alpha, "lr": 3e-3})
        list(fine_tune(net, config(freeze=strategy, optimizer="sgd"), job(4)))
        pairs = zip(net.backbone.parameters(), before.backbone.parameters(), strict=True)
        return sum((p - q).square().sum().item() for p, q in pairs)

    assert distance(1.0) < 0.9 * distance(1e-4)


def bss_penalty(features: Tensor, eta: float = 1.0, count: int = 1) -> Tensor:
    net = model()
    plan_epochs(net, "bss", 1, eta=eta, count=count)
    [penalty] = net.penalties
    value: Tensor = penalty(features)
    return value


@pytest.mark.parametrize("shape", [(6, 24), (30, 24)])
@pytest.mark.parametrize("count", [1, 3])
def test_bss_is_the_sum_of_the_smallest_squared_singular_values(
    shape: tuple[int, int], count: int
) -> None:
    features = torch.randn(shape, dtype=torch.float64)
    wide = features if shape[0] < shape[1] else features.T
    smallest = torch.linalg.eigvalsh(wide @ wide.T)[:count]  # in ascending order
    penalty = bss_penalty(features.float(), 0.02, count)
    assert penalty.item() == pytest.approx(0.02 * smallest.sum().item(), rel=1e-4)


def test_the_gradient_of_bss_is_that_of_its_formula() -> None:
    features = torch.randn(5, 8, requires_grad=True)
    bss_penalty(features, 0.5).backward()
    left, values, right = torch.linalg.svd(features.detach(), full_matrices=False)
    expected = 0.5 * 2 * values[-1] * torch.outer(left[:, -1], right[-1])
    torch.testing.assert_close(features.grad, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "features",
    [torch.eye(6), torch.ones(6, 9), torch.zeros(6, 9), torch.eye(9)[:6] * 1e4, torch.ones(4, 4)],
    ids=["equal", "one direction", "nothing", "large", "square"],
)
def test_equal_singular_values_have_a_finite_gradient(features: Tensor) -> None:
    features = features.clone().requires_grad_()
    value = bss_penalty(features, count=3)
    value.backward()
    assert value.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_bss_does_not_penalise_a_single_image_and_pools_a_map() -> None:
    single = torch.randn(1, 24, requires_grad=True)
    value = bss_penalty(single)
    value.backward()
    assert value == 0
    assert not single.grad.any()  # type: ignore[union-attr]
    tokens = torch.randn(5, 7, 24)
    torch.testing.assert_close(bss_penalty(tokens), bss_penalty(tokens.mean(1)))


def test_bss_computes_in_float32_under_autocast() -> None:
    features = torch.randn(8, 24, requires_grad=True)
    expected = bss_penalty(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bss_penalty(features), expected)
        low = bss_penalty(features.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, expected, rtol=0.1, atol=0.0)


def test_bss_is_finite_for_features_that_are_not() -> None:
    assert bss_penalty(torch.full((4, 24), float("nan"))).isfinite()
    assert bss_penalty(torch.full((4, 24), float("inf"))).isfinite()


def test_bss_trains_everything() -> None:
    net, steps = build_and_plan("bss", 2, lr=2e-4)
    assert all(trained_blocks(net, groups) == {-1, 0, 1, 2, 3} for groups in steps)
    assert all(g["lr"] == 2e-4 for groups in steps for g in groups)
