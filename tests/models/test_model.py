"""Building a network, the blocks it is frozen by, and the plans that say what learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import CPU, SIDE, Backbone, config, model, toy

from autotl import backbone, freeze, head
from autotl.errors import PluginError
from autotl.models import Device, Group, Model, device, plan_groups
from autotl.training import set_trainable

BF16 = device("cpu", "bfloat16")
SMALL = {
    "test_resnet": 32,
    "test_vit": 32,
    "test_convnext": 32,
    "test_efficientnet": 32,
    "test_mambaout": 32,
    "mobilenetv3_small_050": 32,
}


def pictures(count: int = 4, side: int = SIDE) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


@backbone
def unordered() -> nn.Module:
    """A backbone that declares no groups and has a parameter of its own."""

    class Unordered(Backbone):
        group_matcher = None

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    return Unordered()


@backbone
def ungrouped() -> nn.Module:
    """A backbone that declares groups, but cannot say which."""

    class Ungrouped(Backbone):
        def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
            raise KeyError("stem")

    return Ungrouped()


# Build.


def test_pictures_become_logits() -> None:
    logits = model()(pictures(5))
    assert logits.shape == (5, 3)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_pictures_are_normalised_as_the_backbone_was_trained() -> None:
    network = model()
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = pictures()
    network(images)
    torch.testing.assert_close(seen[0], (images / 255 - 0.5) / 0.2)
    own = model(backbone="test_resnet", size=32)  # each channel has its own mean and deviation
    cfg = own.backbone.pretrained_cfg
    mean, std = (torch.tensor(cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    own.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = pictures(2, 32)
    own(images)
    torch.testing.assert_close(seen[1], (images / 255 - mean) / std)


def test_the_head_is_as_wide_as_what_the_backbone_returns() -> None:
    network = model(backbone="mobilenetv3_small_050", size=32)
    assert network.backbone.num_features == 288  # but the pooled features are wider
    assert network.eval().features(pictures(2, 32)).shape == (2, 1024)
    assert network(pictures(2, 32)).shape == (2, 3)


def test_the_size_is_the_backbones_unless_given() -> None:
    assert model().expects.size == SIDE
    assert model(size=24).expects.size == 24
    assert model().expects.interpolation == "bicubic"


def test_the_same_seed_builds_the_same_network() -> None:
    one, same, other = (model(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["head.1.weight"], other["head.1.weight"])


def test_preprocessing_is_not_kept_with_the_weights() -> None:
    assert not {"mean", "std"} & set(model().state_dict())


@backbone
def mute() -> nn.Module:
    """A backbone that says nothing about itself."""
    return nn.Flatten()


@backbone
def number() -> Any:
    """No backbone at all."""
    return 7


@head
def nothing(features: int, classes: int) -> Any:
    """No head at all."""
    return None


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"backbone": mute}, "backbone 'mute' does not speak timm's protocol"),
        ({"backbone": number}, "backbone plugin 'number' returned int"),
        ({"head": nothing}, "head plugin 'nothing' returned NoneType"),
    ],
)
def test_what_breaks_the_contract_is_named(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        model(**chosen)


# Blocks.


@pytest.mark.parametrize("name", [*SMALL, toy, unordered, ungrouped])
def test_blocks_hold_every_parameter_once_from_stem_to_top(name: Any) -> None:
    network = model(backbone=name, size=SMALL.get(name, SIDE) if isinstance(name, str) else SIDE)
    ids = [id(p) for block in network.blocks for p in block]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in network.backbone.parameters()}
    assert len(network.blocks) >= 2
    # The order is that of the forward pass: what is higher is reached later.
    names = {id(p): n for n, p in network.backbone.named_parameters()}
    owners: list[str] = []
    for module_name, module in network.backbone.named_modules():
        module.register_forward_hook(lambda *_, n=module_name: owners.append(n))
    network.eval()(pictures(1, network.expects.size))
    place = {n: i for i, n in reversed(list(enumerate(owners)))}

    def reached(block: list[nn.Parameter]) -> list[int]:
        found = [names[id(p)].rpartition(".")[0] for p in block]
        return [place[owner] for owner in found if owner]  # the model's own have no place

    spans = [r for block in network.blocks if (r := reached(block))]
    assert spans == sorted(spans, key=min)
    assert max(spans[0]) < min(spans[-1])


def test_a_backbone_without_groups_is_taken_by_its_children() -> None:
    network = model(backbone=unordered)
    shapes = [len(block) for block in network.blocks]
    assert shapes == [1, 3, 9]  # its own parameter, the stem, the stages
    assert len(model().blocks) == 4  # with groups, each stage is a block


# Train mode.


def learn(network: Model, *modules: nn.Module) -> None:
    set_trainable(network, [{"params": [p for m in modules for p in m.parameters()]}])


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in module.named_buffers() if "running" in n}


def test_frozen_parts_keep_their_statistics_and_learning_parts_do_not() -> None:
    network = model()
    top = network.backbone.stages[2]
    learn(network, network.head, top)
    before = statistics(network.backbone)
    network.train()
    network(pictures(8))
    after = statistics(network.backbone)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in before if n.startswith("stages.2.")}
    assert top[1].training
    assert not network.backbone.stages[1][1].training


def test_nothing_is_dropped_in_a_frozen_part() -> None:
    network = model(head=("linear", {"dropout": 0.5}))
    network.backbone.stages[1].append(nn.Dropout(0.5))
    learn(network, network.head)
    network.train()
    images = pictures()
    assert torch.equal(network.features(images), network.features(images))
    assert not torch.equal(network(images), network(images))  # the head learns, so it drops
    learn(network, network.head, network.backbone.stages[1])
    network.train()
    assert not torch.equal(network.features(images), network.features(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    assert not any(m.training for m in network.modules())


# Plans.


def plans(network: Model, plugin: Any, epochs: int = 3) -> list[list[Group]]:
    return list(plan_groups(network, config(freeze=plugin)["freeze"], epochs))


def test_a_group_may_be_a_generator() -> None:
    @freeze
    def lazy(model: Model) -> list[Group]:
        return [{"params": (p for p in model.head.parameters()), "lr": 1.0, "momentum": 0.5}]

    network = model()
    for groups in plans(network, lazy):
        assert groups == [{"params": list(network.head.parameters()), "lr": 1.0, "momentum": 0.5}]


def test_the_last_list_stands_and_no_list_is_asked_for_early() -> None:
    asked = []

    @freeze
    def phases(model: Model, epochs: int) -> Iterator[list[Group]]:
        for lr in (1.0, 2.0):
            asked.append(lr)
            yield [{"params": model.head.parameters(), "lr": lr}, {"params": [], "lr": 5.0}]

    network = model()
    steps = plan_groups(network, config(freeze=phases)["freeze"], 4)
    assert next(steps)[0]["lr"] == 1.0
    assert asked == [1.0]
    rest = list(steps)
    assert [[g["lr"] for g in groups] for groups in rest] == [[2.0]] * 3  # none without parameters
    assert all(g["params"] == list(network.head.parameters()) for groups in rest for g in groups)
    assert [g[0]["lr"] for g in plans(network, phases, 1)] == [1.0]  # as many as there are epochs


def test_a_strategy_is_told_the_epochs() -> None:
    told = []

    @freeze
    def curious(model: Model, epochs: int) -> list[Group]:
        told.append(epochs)
        return [{"params": model.head.parameters(), "lr": 1.0}]

    plans(model(), curious, 5)
    assert told == [5]


def test_a_head_without_parameters_need_not_learn() -> None:
    @head
    def still(features: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Identity())

    @freeze
    def below(model: Model) -> list[Group]:
        return [{"params": model.backbone.parameters(), "lr": 1.0}]

    assert len(plans(model(head=still), below)) == 3


Groups = Callable[[Model], list[Group]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            lambda m: [{"params": m.parameters(), "lr": x} for x in (1, 2)],
            "parameter in two groups",
        ),
        (lambda m: [{"params": [*m.head.parameters()] * 2, "lr": 1}], "parameter in two groups"),
        (
            lambda m: [{"params": [*m.head.parameters(), nn.Parameter(torch.ones(1))], "lr": 1}],
            "returns 1 parameters that are not the model's",
        ),
        (lambda m: [{"params": m.backbone.parameters(), "lr": 1}], "freezes the head"),
        (lambda m: [], "freezes the head"),
        (lambda m: [{"params": m.head.parameters()}], "without 'lr'"),
    ],
)
def test_a_broken_plan_is_named(groups: Groups, message: str) -> None:
    network = model()

    @freeze
    def careless(model: Model) -> list[Group]:
        return groups(model)

    with pytest.raises(PluginError, match=f"freeze plugin 'careless' .*{message}"):
        plans(network, careless)


def test_a_plan_that_breaks_later_is_named_when_it_does() -> None:
    @freeze
    def late(model: Model, epochs: int) -> Iterator[list[Group]]:
        yield [{"params": model.head.parameters(), "lr": 1.0}]
        yield [{"params": model.backbone.parameters(), "lr": 1.0}]

    steps = plan_groups(model(), config(freeze=late)["freeze"], 3)
    next(steps)
    with pytest.raises(PluginError, match="'late' freezes the head"):
        next(steps)


# Devices and types.


def test_a_named_device_is_taken() -> None:
    assert device("cpu", "float32") == CPU == Device(torch.device("cpu"), None)
    assert torch.device("cpu") == BF16.device
    assert torch.bfloat16 is BF16.autocast
    assert str(CPU) == "cpu, float32"
    assert str(BF16) == "cpu, bfloat16"
    assert device("cpu", "auto").autocast in (None, torch.bfloat16)
