"""Freeze strategies: the trained parameters and their learning rates."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from freezing import (
    TIMM_MODELS,
    build_and_plan,
    build_network,
    norm_names,
    single,
    train_as,
    trained_blocks,
)
from torch import nn
from torch.nn.utils import parametrize
from toy import REGISTRY, config, job, model

from autotl import Incompatible
from autotl.models import Model, plan_groups
from autotl.training import fine_tune

EVERY = pytest.mark.parametrize("name", [None, *TIMM_MODELS])
STRATEGIES = [p for p in REGISTRY if p.kind == "freeze"]


def test_a_linear_probe_trains_the_head_alone() -> None:
    net, steps = build_and_plan("linear_probe", 3, lr=0.02)
    assert all(trained_blocks(net, groups) == {-1} for groups in steps)
    assert all(g["lr"] == 0.02 for groups in steps for g in groups)


@pytest.mark.parametrize(("fraction", "last"), [(0.1, {3}), (0.5, {2, 3}), (0.51, {1, 2, 3})])
def test_last_blocks_trains_a_fraction_of_the_blocks(fraction: float, last: set[int]) -> None:
    net, steps = build_and_plan("last_blocks", 2, fraction=fraction, lr=2e-4)
    assert all(trained_blocks(net, groups) == {-1} | last for groups in steps)
    assert all(g["lr"] == 2e-4 for groups in steps for g in groups)


@pytest.mark.parametrize(("probe", "first"), [(0.1, 1), (0.3, 3), (0.6, 6)])
def test_lp_ft_trains_the_head_and_then_everything(probe: float, first: int) -> None:
    net, steps = build_and_plan("lp_ft", 10, probe_fraction=probe, probe_lr=0.01, lr=1e-4)
    every = {-1, 0, 1, 2, 3}
    assert [trained_blocks(net, g) for g in steps] == [{-1}] * first + [every] * (10 - first)
    assert [{g["lr"] for g in groups} for groups in steps] == [{0.01}] * first + [{1e-4}] * (
        10 - first
    )


def test_full_trains_everything_at_one_rate() -> None:
    net, steps = build_and_plan("full", 2, lr=2e-4)
    assert all(trained_blocks(net, groups) == {-1, 0, 1, 2, 3} for groups in steps)
    assert all(g["lr"] == 2e-4 for groups in steps for g in groups)


def test_layer_decay_trains_everything_at_rates_that_decrease_towards_the_stem() -> None:
    net, steps = build_and_plan("layer_decay", 2, lr=1e-3, decay=0.5)
    for groups in steps:
        assert trained_blocks(net, groups) == {-1, 0, 1, 2, 3}
        rates = {id(p): g["lr"] for g in groups for p in g["params"]}
        parts = [list(net.head.parameters()), *reversed(net.blocks)]
        for depth, part in enumerate(parts):
            assert {rates[id(p)] for p in part} == {1e-3 * 0.5**depth}


@pytest.mark.parametrize(("fraction", "first_full"), [(0.3, 2), (0.5, 4), (1.0, 7)])
def test_gradual_unfreezes_from_the_last_block_to_the_stem(
    fraction: float, first_full: int
) -> None:
    net, steps = build_and_plan("gradual", 8, unfreeze_fraction=fraction, lr=1e-3)
    trained = [trained_blocks(net, groups) for groups in steps]
    assert trained[0] == {-1}
    for before, after in itertools.pairwise(trained):
        assert before <= after
    for blocks in trained:
        assert blocks == {-1} | set(range(4 - len(blocks) + 1, 4))  # the last ones, without gaps
    is_full = [len(blocks) == 5 for blocks in trained]
    assert is_full == [epoch >= first_full for epoch in range(8)]
    assert all(g["lr"] == 1e-3 for groups in steps for g in groups)


@pytest.mark.parametrize(
    ("position", "fraction", "chosen"),
    [(0.0, 0.25, {0}), (0.4, 0.25, {1}), (1.0, 0.25, {3}), (1.0, 0.5, {2, 3}), (0.5, 0.5, {1, 2})],
)
def test_surgical_trains_the_blocks_at_the_position(
    position: float, fraction: float, chosen: set[int]
) -> None:
    net, steps = build_and_plan("surgical", 2, position=position, fraction=fraction, lr=3e-4)
    assert all(trained_blocks(net, groups) == {-1} | chosen for groups in steps)
    assert all(g["lr"] == 3e-4 for groups in steps for g in groups)


# Norms and biases.


def bias_names(net: Model) -> set[str]:
    return {n for n, _ in net.backbone.named_parameters() if n.rpartition(".")[2] == "bias"}


@EVERY
def test_norms_trains_norms_and_nothing_else(name: Any) -> None:
    net = build_network(name)
    assert norm_names(net)
    assert train_as(net, "norms") == norm_names(net)


@EVERY
def test_biases_trains_biases_and_nothing_else(name: Any) -> None:
    net = build_network(name)
    assert train_as(net, "biases") == bias_names(net)


@EVERY
def test_norms_and_biases_trains_both(name: Any) -> None:
    net = build_network(name)
    assert train_as(net, "norms_and_biases") == norm_names(net) | bias_names(net)


def test_norms_is_incompatible_with_a_network_without_norms() -> None:
    net = build_network("nf_regnet_b0")
    assert train_as(net, "biases")
    [block, *_] = [m for m in net.modules() if type(m).__name__ == "NormFreeBlock"]
    block.skipinit_gain = nn.Parameter(torch.zeros(()))  # as NFNets have
    with pytest.raises(Incompatible, match="no parameters of the kind"):
        train_as(net, "norms")


@pytest.mark.parametrize("name", ["norms", "biases", "norms_and_biases"])
def test_norms_and_biases_have_the_rate_of_the_head(name: str) -> None:
    _, [groups] = build_and_plan(name, 1, lr=0.004)
    assert [g["lr"] for g in groups] == [0.004]


ONE_BLOCK = {"last_blocks", "surgical", "lora"}
NO_SMALL = {"norms", "biases", "norms_and_biases"}


@pytest.mark.parametrize("plugin", STRATEGIES, ids=lambda p: p.name)
def test_a_plain_backbone_of_one_block_is_trained_or_incompatible(plugin: Any) -> None:
    net = model(backbone=single)
    choice = config(freeze=plugin)["freeze"]
    if plugin.name in ONE_BLOCK | NO_SMALL:
        with pytest.raises(Incompatible, match="only one" if plugin.name in ONE_BLOCK else "kind"):
            list(plan_groups(net, choice, 2))
        assert not any(parametrize.is_parametrized(m) for m in net.modules())
    else:
        assert len(list(plan_groups(net, choice, 2))) == 2


NORMALISED = [("norms", {}), ("biases", {}), ("norms_and_biases", {}), ("scale_shift", {})]


@pytest.mark.parametrize("strategy", NORMALISED, ids=lambda s: s[0])
def test_running_statistics_stay_if_the_weights_are_frozen(strategy: Any) -> None:
    net = model()
    before = {n: b.clone() for n, b in net.backbone.named_buffers()}
    assert before
    list(fine_tune(net, config(freeze=strategy), job(2)))
    assert all(torch.equal(b, before[n]) for n, b in net.backbone.named_buffers())
    other = model()
    list(fine_tune(other, config(freeze="full"), job(2)))  # other strategies update them
    assert not any(torch.equal(b, before[n]) for n, b in other.backbone.named_buffers())
