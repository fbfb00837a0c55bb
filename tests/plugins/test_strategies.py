"""Freeze strategies: what learns, how fast, and what is added to the weights or to the loss."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from toy import REGISTRY, Backbone, config, model, task

from autotl import Incompatible, backbone
from autotl.frozen import split_point
from autotl.models import Group, Model, merge_parametrizations, plan_groups
from autotl.training import fine_tune, measure, predict, set_trainable

REAL = ("test_vit", "test_resnet", "test_efficientnet")
EVERY = pytest.mark.parametrize("name", [None, *REAL])
STRATEGIES = [p for p in REGISTRY if p.kind == "freeze"]


def network(name: Any = None) -> Model:
    """The toy or a model of timm with random weights, at 32 pixels."""
    return model(backbone=name, size=32) if name else model()


def pictures(made: Model, count: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(3)
    side = made.expects.size
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def planned(made: Model, name: str, epochs: int = 2, **params: Any) -> list[list[Group]]:
    return list(plan_groups(made, config(freeze=(name, params))["freeze"], epochs))


def plans(name: str, epochs: int, **params: Any) -> tuple[Model, list[list[Group]]]:
    made = model()
    return made, planned(made, name, epochs, **params)


def learning(groups: list[Group]) -> set[int]:
    return {id(p) for g in groups for p in g["params"]}


def learn(made: Model, name: str, **params: Any) -> set[str]:
    """The names of what learns in the backbone, once ``made`` is set to; the head always does."""
    groups = planned(made, name, **params)[-1]
    set_trainable(made, groups)
    assert all(p.requires_grad for p in made.head.parameters())
    return {n for n, p in made.backbone.named_parameters() if p.requires_grad}


def heights(made: Model, groups: list[Group]) -> set[int]:
    """The numbers of the blocks that learn, whole blocks; -1 is the head."""
    found = learning(groups)
    parts = {-1: list(made.head.parameters()), **dict(enumerate(made.blocks))}
    whole = {n for n, part in parts.items() if {id(p) for p in part} <= found}
    assert found == {id(p) for n in whole for p in parts[n]}
    return whole


def stir(made: Model) -> None:
    """Change everything that learns."""
    with torch.no_grad():
        for p in made.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape).mul(0.1))


@backbone
def single() -> nn.Module:
    """The toy in one block, without norms or biases."""
    made = Backbone()
    made.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.ReLU())
    made.stages, made.group_matcher = nn.Identity(), None
    return made


# Blocks.


def test_a_linear_probe_trains_the_head_alone() -> None:
    made, steps = plans("linear_probe", 3, lr=0.02)
    assert all(heights(made, groups) == {-1} for groups in steps)
    assert all(g["lr"] == 0.02 for groups in steps for g in groups)


@pytest.mark.parametrize(("share", "top"), [(0.1, {3}), (0.5, {2, 3}), (0.51, {1, 2, 3})])
def test_last_blocks_trains_the_top_share(share: float, top: set[int]) -> None:
    made, steps = plans("last_blocks", 2, share=share, lr=2e-4)
    assert all(heights(made, groups) == {-1} | top for groups in steps)
    assert all(g["lr"] == 2e-4 for groups in steps for g in groups)


@pytest.mark.parametrize(("probe", "first"), [(0.1, 1), (0.3, 3), (0.6, 6)])
def test_lp_ft_trains_the_head_and_then_everything(probe: float, first: int) -> None:
    made, steps = plans("lp_ft", 10, probe=probe, probe_lr=0.01, lr=1e-4)
    every = {-1, 0, 1, 2, 3}
    assert [heights(made, g) for g in steps] == [{-1}] * first + [every] * (10 - first)
    assert [{g["lr"] for g in groups} for groups in steps] == [{0.01}] * first + [{1e-4}] * (
        10 - first
    )


def test_full_trains_everything_at_one_rate() -> None:
    made, steps = plans("full", 2, lr=2e-4)
    assert all(heights(made, groups) == {-1, 0, 1, 2, 3} for groups in steps)
    assert all(g["lr"] == 2e-4 for groups in steps for g in groups)


def test_layer_decay_trains_everything_slower_further_down() -> None:
    made, steps = plans("layer_decay", 2, lr=1e-3, decay=0.5)
    for groups in steps:
        assert heights(made, groups) == {-1, 0, 1, 2, 3}
        rates = {id(p): g["lr"] for g in groups for p in g["params"]}
        parts = [list(made.head.parameters()), *reversed(made.blocks)]
        for height, part in enumerate(parts):
            assert {rates[id(p)] for p in part} == {1e-3 * 0.5**height}


@pytest.mark.parametrize(("until", "reached"), [(0.3, 2), (0.5, 4), (1.0, 7)])
def test_gradual_goes_down_from_the_top(until: float, reached: int) -> None:
    made, steps = plans("gradual", 8, until=until, lr=1e-3)
    found = [heights(made, groups) for groups in steps]
    assert found[0] == {-1}
    for before, after in itertools.pairwise(found):
        assert before <= after
    for some in found:
        assert some == {-1} | set(range(4 - len(some) + 1, 4))  # the top ones, without gaps
    full = [len(some) == 5 for some in found]
    assert full == [epoch >= reached for epoch in range(8)]
    assert all(g["lr"] == 1e-3 for groups in steps for g in groups)


@pytest.mark.parametrize(
    ("place", "share", "chosen"),
    [(0.0, 0.25, {0}), (0.4, 0.25, {1}), (1.0, 0.25, {3}), (1.0, 0.5, {2, 3}), (0.5, 0.5, {1, 2})],
)
def test_surgery_is_where_it_was_asked_for(place: float, share: float, chosen: set[int]) -> None:
    made, steps = plans("surgical", 2, place=place, share=share, lr=3e-4)
    assert all(heights(made, groups) == {-1} | chosen for groups in steps)
    assert all(g["lr"] == 3e-4 for groups in steps for g in groups)


# Small parameters.


def of_norms(made: Model) -> set[str]:
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
    found = {n for n, m in made.backbone.named_modules() if isinstance(m, kinds)}
    return {n for n, _ in made.backbone.named_parameters() if n.rpartition(".")[0] in found}


def of_biases(made: Model) -> set[str]:
    return {n for n, _ in made.backbone.named_parameters() if n.rpartition(".")[2] == "bias"}


@EVERY
def test_norms_trains_norms_and_nothing_else(name: Any) -> None:
    made = network(name)
    assert of_norms(made)
    assert learn(made, "norms") == of_norms(made)


@EVERY
def test_biases_trains_biases_and_nothing_else(name: Any) -> None:
    made = network(name)
    assert learn(made, "biases") == of_biases(made)


@EVERY
def test_norms_and_biases_trains_both(name: Any) -> None:
    made = network(name)
    assert learn(made, "norms_and_biases") == of_norms(made) | of_biases(made)


def test_a_network_without_norms_is_not_one_of_norms() -> None:
    made = network("nf_regnet_b0")
    assert learn(made, "biases")
    [block, *_] = [m for m in made.modules() if type(m).__name__ == "NormFreeBlock"]
    block.skipinit_gain = nn.Parameter(torch.zeros(()))  # as NFNets have
    with pytest.raises(Incompatible, match="no parameters of the kind"):
        learn(made, "norms")


@pytest.mark.parametrize("name", ["norms", "biases", "norms_and_biases"])
def test_the_small_parameters_have_the_heads_rate(name: str) -> None:
    _, [groups] = plans(name, 1, lr=0.004)
    assert [g["lr"] for g in groups] == [0.004]


ONE_BLOCK = {"last_blocks", "surgical", "lora"}
NO_SMALL = {"norms", "biases", "norms_and_biases"}


@pytest.mark.parametrize("plugin", STRATEGIES, ids=lambda p: p.name)
def test_a_plain_backbone_of_one_block_is_trained_or_incompatible(plugin: Any) -> None:
    made = model(backbone=single)
    choice = config(freeze=plugin)["freeze"]
    if plugin.name in ONE_BLOCK | NO_SMALL:
        with pytest.raises(Incompatible, match="only one" if plugin.name in ONE_BLOCK else "kind"):
            list(plan_groups(made, choice, 2))
        assert not any(parametrize.is_parametrized(m) for m in made.modules())
    else:
        assert len(list(plan_groups(made, choice, 2))) == 2


NORMALISED = [("norms", {}), ("biases", {}), ("norms_and_biases", {}), ("scale_shift", {})]


@pytest.mark.parametrize("strategy", NORMALISED, ids=lambda s: s[0])
def test_statistics_stay_where_the_weights_do(strategy: Any) -> None:
    made = model()
    before = {n: b.clone() for n, b in made.backbone.named_buffers()}
    assert before
    list(fine_tune(made, config(freeze=strategy), task(2)))
    assert all(torch.equal(b, before[n]) for n, b in made.backbone.named_buffers())
    other = model()
    list(fine_tune(other, config(freeze="full"), task(2)))  # the others move them
    assert not any(torch.equal(b, before[n]) for n, b in other.backbone.named_buffers())


# Changes of the weights.

CHANGES = pytest.mark.parametrize("strategy", [("lora", {"share": 1.0}), ("scale_shift", {})])


@EVERY
@CHANGES
def test_a_change_is_none_at_first(name: Any, strategy: Any) -> None:
    made = network(name).eval()
    images = pictures(made)
    with torch.no_grad():
        before = made(images)
        assert learn(made, strategy[0], **strategy[1])
        assert torch.equal(made.eval()(images), before)


@EVERY
@CHANGES
def test_merged_weights_compute_the_same_under_their_own_names(name: Any, strategy: Any) -> None:
    made = network(name).eval()
    names, images = list(made.state_dict()), pictures(made)
    whole = sum(p.numel() for p in made.parameters())
    with torch.no_grad():
        before = made(images)
        learn(made, strategy[0], **strategy[1])
        stir(made)
        changed = made.eval()(images)
        assert (changed - before).abs().max() > 1e-4
        merge_parametrizations(made)
        torch.testing.assert_close(made(images), changed, rtol=1e-4, atol=1e-6)
    # torch puts a merged weight behind what its layer had.
    assert sorted(made.state_dict()) == sorted(names)
    assert sum(p.numel() for p in made.parameters()) == whole
    network(name).load_state_dict(made.state_dict(), strict=True)


@CHANGES
def test_the_weights_themselves_stay(strategy: Any) -> None:
    made = model()
    before = {n: p.clone() for n, p in made.backbone.named_parameters()}
    found = learn(made, strategy[0], **strategy[1])
    assert not any(n.endswith("original") for n in found)
    steps = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        made.train()(pictures(made)).square().sum().backward()
        steps.step()
    for n, p in made.backbone.named_parameters():
        if n.endswith("original"):
            assert torch.equal(p, before[n.replace(".parametrizations", "")[: -len(".original")]])
    assert all(p.grad is not None for p in made.parameters() if p.requires_grad)


@CHANGES
def test_a_copy_learns_on_its_own(strategy: Any) -> None:
    made = network("test_vit").eval()
    images = pictures(made)
    learn(made, strategy[0], **strategy[1])
    stir(made)
    with torch.no_grad():
        before = made(images)
        other = copy.deepcopy(made)
        torch.testing.assert_close(other(images), before)
        assert len(list(other.parameters())) == len(list(made.parameters()))  # what is shared, is
        stir(other)
        assert not torch.equal(other(images), before)
        assert torch.equal(made(images), before)
        merge_parametrizations(other)


@CHANGES
@pytest.mark.parametrize("name", REAL)
def test_a_change_is_computed_in_full_under_autocast(name: str, strategy: Any) -> None:
    made = network(name)
    learn(made, strategy[0], **strategy[1])
    stir(made)
    changed = [m for m in made.modules() if parametrize.is_parametrized(m, "weight")]
    with torch.autocast("cpu", torch.bfloat16):
        weights = [m.weight for m in changed]
        made.train()(pictures(made)).float().square().sum().backward()
    assert all(torch.equal(w, m.weight) for w, m in zip(weights, changed, strict=True))
    small = [p for p in made.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small)
    assert all(p.dtype == torch.float32 for p in small)


def test_new_parameters_have_the_type_of_the_weights() -> None:
    made = model().double()
    learn(made, "lora", share=1.0)
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    made = model().double()
    learn(made, "scale_shift")
    assert {p.dtype for p in made.parameters()} == {torch.float64}


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", [None, *REAL])
def test_lora_changes_the_plain_layers_of_the_top_share(name: Any, share: float) -> None:
    made = network(name)
    blocks = made.blocks
    count = -(-share * len(blocks) // 1)
    inside = {id(p) for block in blocks[-int(count) :] for p in block}
    layers = dict(made.backbone.named_modules())
    plain = {n for n, m in layers.items() if isinstance(m, nn.Linear | nn.Conv2d)}
    plain = {n for n in plain if getattr(layers[n], "groups", 1) == 1}
    expected = {n for n in plain if id(layers[n].weight) in inside}
    found = learn(made, "lora", share=share)
    assert found == {f"{n}.parametrizations.weight.0.{p}" for n in expected for p in ("down", "up")}
    if name == "test_efficientnet":
        assert any(m.groups > 1 for m in layers.values() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1), (6, 4, 3, 3)])
def test_a_low_rank_change_is_the_product_of_two_matrices(shape: tuple[int, ...]) -> None:
    layer: Any = nn.Linear(4, 6) if len(shape) == 2 else nn.Conv2d(4, 6, shape[-1])
    made = model()
    made.backbone.stages[2] = layer
    weight = layer.weight.detach().clone()
    learn(made, "lora", share=0.1, rank=2, alpha=6.0)
    change = layer.parametrizations.weight[0]
    assert change.down.shape == (2, weight[0].numel())
    assert change.down.std() > 0
    with torch.no_grad():
        change.up.normal_()
    matrix = 6.0 / 2 * change.up.double() @ change.down.double()
    difference = layer.weight.double() - weight
    torch.testing.assert_close(difference, matrix.reshape(shape), rtol=1e-4, atol=1e-6)
    assert torch.linalg.matrix_rank(difference.flatten(1), atol=1e-4) == 2


def test_lora_needs_a_layer_to_change() -> None:
    made = model()
    made.backbone.stages[2] = nn.Sequential(nn.Conv2d(24, 24, 3, groups=24), nn.BatchNorm2d(24))
    with pytest.raises(Incompatible, match="no plain convolution"):
        learn(made, "lora", share=0.1)


def test_lora_leaves_what_lies_below_to_be_kept() -> None:
    made = model()
    learn(made, "lora", share=0.5)
    found = split_point.find(made, pictures(made))
    assert found is not None
    assert found.name == "stages.0"
    with torch.no_grad():
        whole = made.eval()(pictures(made))
        assert torch.equal(found.suffix(found.prefix(pictures(made)).clone()), whole)


@pytest.mark.parametrize("name", REAL)
def test_a_scale_and_shift_is_that_of_every_channel(name: str) -> None:
    made = network(name)
    layers = {
        n: m for n, m in made.backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)
    }
    before = copy.deepcopy(layers)
    norms = of_norms(made)
    found = learn(made, "scale_shift")
    scales = {f"{n}.parametrizations.weight.0.scale" for n in layers}
    shifts = {f"{n}.parametrizations.bias.0.shift" for n, m in before.items() if m.bias is not None}
    assert found - norms - scales == shifts  # the scale of a bias is its weight's
    assert found >= norms
    some = next((m for m in layers.values() if "bias" in m.parametrizations), None)
    if some is not None:
        assert some.parametrizations.bias[0].scale is some.parametrizations.weight[0].scale
    stir(made)
    for n, layer in layers.items():
        inputs = torch.randn(2, 64, layer.in_features) if isinstance(layer, nn.Linear) else None
        if inputs is None:
            inputs = torch.randn(2, layer.in_channels, 16, 16)
        axis = -1 if isinstance(layer, nn.Linear) else 1
        changed = before[n](inputs).movedim(axis, -1) * layer.parametrizations.weight[0].scale
        if layer.bias is not None:
            changed = changed + layer.parametrizations.bias[0].shift
        torch.testing.assert_close(layer(inputs).movedim(axis, -1), changed, rtol=1e-4, atol=1e-5)


def test_a_layer_without_norms_is_scaled_all_the_same() -> None:
    assert learn(model(backbone=single), "scale_shift") == {
        "stem.0.parametrizations.weight.0.scale"
    }


@CHANGES
def test_training_ends_with_the_architectures_own_weights(strategy: Any) -> None:
    names = sorted(model().state_dict())
    made, run = model(), task(3)
    before = model().state_dict()
    chosen = config(freeze=strategy)
    assert measure(made, chosen, run).epoch > 0
    assert sorted(made.state_dict()) == names  # costs are measured on a copy
    epochs = list(fine_tune(made, chosen, run))
    assert sorted(made.state_dict()) == names
    changed = {n for n, t in made.state_dict().items() if not torch.equal(t, before[n])}
    assert changed >= {f"backbone.stages.{i}.0.weight" for i in range(3)}
    assert run.validation is not None
    assert run.score(predict(made, run.validation, run.where)) == epochs[-1].score


# Penalties.


def test_l2_sp_pulls_back_to_the_pretrained_weights() -> None:
    made = model()
    before = [p.detach().clone() for p in made.backbone.parameters()]
    [groups] = planned(made, "l2_sp", 1, alpha=0.3, lr=1e-4)
    [penalty] = made.penalties
    assert heights(made, groups) == {-1, 0, 1, 2, 3}
    assert {g["lr"] for g in groups} == {1e-4}
    decays = {id(p): g.get("weight_decay") for g in groups for p in g["params"]}
    assert {decays[id(p)] for p in made.backbone.parameters()} == {0.0}
    assert {decays[id(p)] for p in made.head.parameters()} == {None}
    set_trainable(made, groups)
    assert penalty(torch.zeros(2, 24)) == 0
    stir(made)
    penalty(torch.zeros(2, 24)).backward()
    total = 0.0
    for p, q in zip(made.backbone.parameters(), before, strict=True):
        total += (p - q).square().sum().item()
        torch.testing.assert_close(p.grad, 0.3 * (p.detach() - q))
    assert penalty(torch.zeros(2, 24)).item() == pytest.approx(0.15 * total, rel=1e-5)
    assert all(p.grad is None for p in made.head.parameters())


def test_the_penalties_of_a_copy_are_its_own() -> None:
    made = model()
    planned(made, "l2_sp", 1, alpha=1.0)
    other = copy.deepcopy(made)
    with torch.no_grad():
        next(other.backbone.parameters()).add_(1.0)
    assert made.penalties[0](torch.zeros(2, 24)) == 0
    assert other.penalties[0](torch.zeros(2, 24)) > 0


def test_the_weights_stay_nearer_the_stronger_they_are_pulled() -> None:
    def moved(alpha: float) -> float:
        made, before = model(), model()
        strategy = ("l2_sp", {"alpha": alpha, "lr": 3e-3})
        list(fine_tune(made, config(freeze=strategy, optimizer="sgd"), task(4)))
        pairs = zip(made.backbone.parameters(), before.backbone.parameters(), strict=True)
        return sum((p - q).square().sum().item() for p, q in pairs)

    assert moved(1.0) < 0.9 * moved(1e-4)


def spectral(features: Tensor, eta: float = 1.0, count: int = 1) -> Tensor:
    made = model()
    planned(made, "bss", 1, eta=eta, count=count)
    [penalty] = made.penalties
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
    found = spectral(features.float(), 0.02, count)
    assert found.item() == pytest.approx(0.02 * smallest.sum().item(), rel=1e-4)


def test_the_gradient_of_bss_is_that_of_its_formula() -> None:
    features = torch.randn(5, 8, requires_grad=True)
    spectral(features, 0.5).backward()
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
    value = spectral(features, count=3)
    value.backward()
    assert value.isfinite()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_bss_leaves_a_picture_alone_and_pools_a_map() -> None:
    alone = torch.randn(1, 24, requires_grad=True)
    value = spectral(alone)
    value.backward()
    assert value == 0
    assert not alone.grad.any()  # type: ignore[union-attr]
    tokens = torch.randn(5, 7, 24)
    torch.testing.assert_close(spectral(tokens), spectral(tokens.mean(1)))


def test_bss_computes_in_float32_under_autocast() -> None:
    features = torch.randn(8, 24, requires_grad=True)
    expected = spectral(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectral(features), expected)
        low = spectral(features.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, expected, rtol=0.1, atol=0.0)


def test_bss_leaves_a_diverged_loss_to_be_told() -> None:
    assert spectral(torch.full((4, 24), float("nan"))).isfinite()
    assert spectral(torch.full((4, 24), float("inf"))).isfinite()


def test_bss_trains_everything() -> None:
    made, steps = plans("bss", 2, lr=2e-4)
    assert all(heights(made, groups) == {-1, 0, 1, 2, 3} for groups in steps)
    assert all(g["lr"] == 2e-4 for groups in steps for g in groups)
