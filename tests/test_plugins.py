"""The built-in plugins, each with every default, end and choice that it declares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import REGISTRY, SIDE, config, model, task

from autotl.finetune import fine_tune, predict
from autotl.model import Group, Model, plan
from autotl.plugin import Hyperparameter
from autotl.registry import AnyPlugin

KINDS = ("freeze", "head", "augment", "optimizer")
PLUGINS = [plugin for plugin in REGISTRY if plugin.kind in KINDS]


def name_of(value: Any) -> str | None:
    if isinstance(value, Hyperparameter):
        return value.name
    return f"{value.kind}-{value.name}" if hasattr(value, "kind") else None


def ends(h: Hyperparameter) -> tuple[Any, ...]:
    """The ends of a range, or every choice."""
    if h.range is None:
        return h.choices or ()
    return h.type(h.range.low), h.type(h.range.high)


def values(plugin: AnyPlugin, h: Hyperparameter, value: Any) -> dict[str, Any]:
    """The defaults with ``h`` at ``value``, and at what it depends on where it is asked for."""
    needed = {n: allowed[0] for n, allowed in (h.when.conditions if h.when else {}).items()}
    return {**plugin.defaults, **needed, h.name: value}


def settings() -> Iterator[Any]:
    for plugin in PLUGINS:
        yield pytest.param(plugin, {}, id=f"{name_of(plugin)}-defaults")
        for h in plugin.hyperparameters:
            for value in ends(h):
                name = f"{name_of(plugin)}-{h.name}={value:g}"
                yield pytest.param(plugin, values(plugin, h, value), id=name)


def train(plugin: AnyPlugin, params: dict[str, Any], epochs: int = 2) -> tuple[Model, Any]:
    """A model trained with ``plugin`` and its validation probabilities; dropout is on."""
    chosen: dict[str, Any] = {"freeze": "last_blocks", "head": "linear", "augment": "none"}
    chosen[plugin.kind] = (plugin, params)
    network, run = model(**chosen), task(epochs)
    for epoch in fine_tune(network, config(**chosen), run):
        assert math.isfinite(epoch.loss)
        assert 0 <= epoch.score <= 1
    assert run.validation is not None
    return network, predict(network, run.validation, run.where)


def test_the_plugins_that_are_described_are_there() -> None:
    found = {kind: {p.name for p in PLUGINS if p.kind == kind} for kind in KINDS}
    assert found["freeze"] >= {"linear_probe", "lp_ft", "full", "last_blocks", "gradual"}
    assert found["head"] >= {"linear", "mlp", "cosine"}
    assert found["augment"] >= {"none", "flip_crop", "rand_augment"}
    assert found["optimizer"] >= {"adamw", "sgd"}


@pytest.mark.parametrize("plugin", PLUGINS, ids=name_of)
def test_the_description_is_one_sentence(plugin: AnyPlugin) -> None:
    assert plugin.summary[:1].isupper()
    assert plugin.summary.endswith(".")
    assert 15 < len(plugin.summary) <= 100
    assert ". " not in plugin.summary.partition("(")[0]


@pytest.mark.parametrize(("plugin", "params"), list(settings()))
def test_every_setting_trains(plugin: AnyPlugin, params: dict[str, Any]) -> None:
    network, probabilities = train(plugin, params)
    assert probabilities.shape == (36, 3)
    before = model(head=(plugin, params)) if plugin.kind == "head" else model(head="linear")
    for p, q in zip(network.head.parameters(), before.head.parameters(), strict=True):
        assert not torch.equal(p, q)


HYPERPARAMETERS = [(p, h) for p in PLUGINS for h in p.hyperparameters]


@pytest.mark.parametrize(("plugin", "h"), HYPERPARAMETERS, ids=name_of)
def test_every_hyperparameter_changes_the_training(plugin: AnyPlugin, h: Hyperparameter) -> None:
    results = [train(plugin, values(plugin, h, value))[1] for value in ends(h)]
    for one, other in itertools.pairwise(results):
        assert abs(one - other).max() > 1e-7
    again = train(plugin, values(plugin, h, ends(h)[0]))[1]
    assert (again == results[0]).all()  # so nothing but the value made the difference


# Augmentations.


def pictures(count: int, same: bool = False) -> Tensor:
    random = torch.Generator().manual_seed(3)
    made = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=random)
    return made[:1].expand(count, -1, -1, -1).clone() if same else made


def augmented(plugin: AnyPlugin, params: dict[str, Any], images: Tensor, seed: int = 0) -> Tensor:
    transform = plugin.give({"size": SIDE}, {**plugin.defaults, **params})
    torch.manual_seed(seed)
    made: Tensor = transform(images)
    return made


AUGMENTATIONS = [p for p in PLUGINS if p.kind == "augment"]
RANDOM = [p for p in AUGMENTATIONS if p.name != "none"]


@pytest.mark.parametrize("plugin", AUGMENTATIONS, ids=name_of)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pictures_stay_pictures(plugin: AnyPlugin, layout: torch.memory_format) -> None:
    images = pictures(6).contiguous(memory_format=layout)
    before = images.clone()
    made = augmented(plugin, {}, images)
    assert made.shape == images.shape
    assert made.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(made, augmented(plugin, {}, images.contiguous()))


@pytest.mark.parametrize("plugin", RANDOM, ids=name_of)
def test_each_picture_is_changed_in_its_own_way(plugin: AnyPlugin) -> None:
    made = augmented(plugin, {}, pictures(24, same=True))
    assert len({picture.numpy().tobytes() for picture in made}) > 12


@pytest.mark.parametrize("plugin", RANDOM, ids=name_of)
def test_augmentation_follows_the_seed(plugin: AnyPlugin) -> None:
    images = pictures(8)
    assert torch.equal(augmented(plugin, {}, images, 1), augmented(plugin, {}, images, 1))
    assert not torch.equal(augmented(plugin, {}, images, 1), augmented(plugin, {}, images, 2))


KNOBS = [(p, h) for p in RANDOM for h in p.hyperparameters]


@pytest.mark.parametrize(("plugin", "h"), KNOBS, ids=name_of)
def test_every_hyperparameter_changes_the_pictures(plugin: AnyPlugin, h: Hyperparameter) -> None:
    low, high = (augmented(plugin, {h.name: value}, pictures(16)) for value in ends(h))
    assert not torch.equal(low, high)


def test_none_is_the_identity() -> None:
    images = pictures(4)
    assert torch.equal(augmented(REGISTRY.get("augment", "none"), {}, images), images)


FLIP_CROP = REGISTRY.get("augment", "flip_crop")


def test_the_whole_picture_is_mirrored_half_of_the_time() -> None:
    images = pictures(200, same=True)
    whole = {"smallest": 1.0, "flip": False}
    assert (augmented(FLIP_CROP, whole, images).int() - images).abs().max() <= 1
    made = augmented(FLIP_CROP, {"smallest": 1.0}, images).int()
    kept = (made - images).abs().amax((1, 2, 3)) <= 1
    mirrored = (made - images.flip(3)).abs().amax((1, 2, 3)) <= 1
    assert (kept ^ mirrored).all()
    assert 60 < int(mirrored.sum()) < 140


@pytest.mark.parametrize("smallest", [0.08, 0.5, 0.9])
def test_a_crop_keeps_the_share_that_was_asked_for(smallest: float) -> None:
    side = 64
    along = torch.arange(side, dtype=torch.uint8) * 2 + 60
    ramps = torch.stack([along.expand(side, side), along[:, None].expand(side, side)] * 2)[:3]
    made = augmented(
        FLIP_CROP, {"smallest": smallest, "flip": False}, ramps.expand(300, -1, -1, -1)
    )
    inner = made.double()[:, :, 8:-8, 8:-8]  # the slope of the ramps tells the sides of the crop
    wide = (inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1) / 2 / 47
    high = (inner[:, 1, -1] - inner[:, 1, 0]).mean(1) / 2 / 47
    area, ratio = wide * high, wide / high
    assert area.min() >= smallest - 0.03
    assert area.max() <= 1.03
    assert area.max() - area.min() > 0.8 * (1 - smallest)
    assert ratio.min() >= 3 / 4 - 0.15
    assert ratio.max() <= 4 / 3 + 0.15
    assert ratio.std() > 0.01


# Heads.


@pytest.mark.parametrize("plugin", [p for p in PLUGINS if p.kind == "head"], ids=name_of)
def test_a_head_learns_to_tell_clouds_apart(plugin: AnyPlugin) -> None:
    torch.manual_seed(0)
    made = plugin.give({"features": 10, "classes": 4}, plugin.defaults)
    labels = torch.arange(4).repeat(16)
    features = torch.randn(4, 10)[labels] + 0.3 * torch.randn(64, 10)
    steps = torch.optim.Adam(made.parameters(), lr=0.02)
    for _ in range(60):
        logits = made(features)
        steps.zero_grad()
        nn.functional.cross_entropy(logits, labels).backward()
        steps.step()
    assert logits.shape == (64, 4)
    assert all(p.grad is not None for p in made.parameters())
    assert (made.eval()(features).argmax(1) == labels).float().mean() > 0.9


def give_head(name: str, **params: Any) -> Any:
    plugin = REGISTRY.get("head", name)
    return plugin.give({"features": 10, "classes": 4}, {**plugin.defaults, **params})


def test_an_mlp_is_as_deep_and_wide_as_it_says() -> None:
    def shapes(**params: Any) -> list[tuple[int, ...]]:
        layers = [m for m in give_head("mlp", **params) if isinstance(m, nn.Linear)]
        return [(m.in_features, m.out_features) for m in layers]

    assert shapes(depth=1, width=64, second=99) == [(10, 64), (64, 4)]
    assert shapes(depth=2, width=64, second=99) == [(10, 64), (64, 99), (99, 4)]
    layers = give_head("mlp", depth=2, dropout=0.3)
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.3] * 3


def test_a_cosine_sees_directions_only() -> None:
    made, features = give_head("cosine", scale=20.0), torch.randn(6, 10)
    torch.testing.assert_close(made(features), made(7 * features))
    assert made(features).abs().max() <= 20
    own = made(made.directions)  # each direction is nearest to its own class
    torch.testing.assert_close(own.diagonal(), torch.full((4,), 20.0))


# Freeze strategies.


def plans(name: str, epochs: int, **params: Any) -> tuple[Model, list[list[Group]]]:
    network = model()
    choice = config(freeze=(name, params))["freeze"]
    return network, list(plan(network, choice, epochs))


def learning(groups: list[Group]) -> set[int]:
    return {id(p) for g in groups for p in g["params"]}


def heights(network: Model, groups: list[Group]) -> set[int]:
    """The numbers of the blocks that learn, whole blocks; -1 is the head."""
    found = learning(groups)
    parts = {-1: list(network.head.parameters()), **dict(enumerate(network.blocks))}
    whole = {n for n, part in parts.items() if {id(p) for p in part} <= found}
    assert found == {id(p) for n in whole for p in parts[n]}
    return whole


def test_a_linear_probe_trains_the_head_alone() -> None:
    network, steps = plans("linear_probe", 3, lr=0.02)
    assert all(heights(network, groups) == {-1} for groups in steps)
    assert all(g["lr"] == 0.02 for groups in steps for g in groups)


@pytest.mark.parametrize(("share", "top"), [(0.1, {3}), (0.5, {2, 3}), (0.51, {1, 2, 3})])
def test_last_blocks_trains_the_top_share(share: float, top: set[int]) -> None:
    network, steps = plans("last_blocks", 2, share=share, lr=2e-4)
    assert all(heights(network, groups) == {-1} | top for groups in steps)
    assert all(g["lr"] == 2e-4 for groups in steps for g in groups)


@pytest.mark.parametrize(("probe", "first"), [(0.1, 1), (0.3, 3), (0.6, 6)])
def test_lp_ft_trains_the_head_and_then_everything(probe: float, first: int) -> None:
    network, steps = plans("lp_ft", 10, probe=probe, probe_lr=0.01, lr=1e-4)
    every = {-1, 0, 1, 2, 3}
    assert [heights(network, g) for g in steps] == [{-1}] * first + [every] * (10 - first)
    assert [{g["lr"] for g in groups} for groups in steps] == [{0.01}] * first + [{1e-4}] * (
        10 - first
    )


def test_full_trains_everything_slower_further_down() -> None:
    network, steps = plans("full", 2, lr=1e-3, decay=0.5)
    for groups in steps:
        assert heights(network, groups) == {-1, 0, 1, 2, 3}
        rates = {id(p): g["lr"] for g in groups for p in g["params"]}
        parts = [list(network.head.parameters()), *reversed(network.blocks)]
        for height, part in enumerate(parts):
            assert {rates[id(p)] for p in part} == {1e-3 * 0.5**height}


@pytest.mark.parametrize(("until", "reached"), [(0.3, 2), (0.5, 4), (1.0, 7)])
def test_gradual_goes_down_from_the_top(until: float, reached: int) -> None:
    network, steps = plans("gradual", 8, until=until, lr=1e-3)
    found = [heights(network, groups) for groups in steps]
    assert found[0] == {-1}
    for before, after in itertools.pairwise(found):
        assert before <= after
    for some in found:
        assert some == {-1} | set(range(4 - len(some) + 1, 4))  # the top ones, without gaps
    full = [len(some) == 5 for some in found]
    assert full == [epoch >= reached for epoch in range(8)]
    assert all(g["lr"] == 1e-3 for groups in steps for g in groups)


# Optimizers.


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_norms_and_biases_are_not_decayed(name: str) -> None:
    network = model()
    plugin = REGISTRY.get("optimizer", name)
    groups = [
        {"params": list(network.head.parameters()), "lr": 1e-3},
        {"params": list(network.backbone.parameters()), "lr": 1e-4},
    ]
    made, _ = plugin.give(
        {"groups": groups, "steps": 10}, {**plugin.defaults, "weight_decay": 0.007}
    )
    decay = {id(p): g["weight_decay"] for g in made.param_groups for p in g["params"]}
    assert decay == {id(p): 0.007 if p.ndim > 1 else 0.0 for p in network.parameters()}
    scale = 1.0 if name == "adamw" else plugin.defaults["scale"]
    rate = {id(p): g["initial_lr"] for g in made.param_groups for p in g["params"]}
    expected = {id(p): g["lr"] * scale for g in groups for p in g["params"]}
    assert rate == pytest.approx(expected)
    assert [set(g) for g in groups] == [{"params", "lr"}] * 2  # the plan's own are left alone


def test_sgd_steps_as_nesterov_does() -> None:
    plugin = REGISTRY.get("optimizer", "sgd")
    weight = nn.Parameter(torch.zeros(1, 1))
    made, _ = plugin.give(
        {"groups": [{"params": [weight], "lr": 0.01}], "steps": 10},
        {"scale": 10.0, "momentum": 0.8, "weight_decay": 0.0, "warmup": 0.0},
    )
    weight.grad = torch.ones(1, 1)
    made.step()
    assert weight.item() == pytest.approx(-0.1 * 1.8)
