"""A network's preprocessing, its parameter blocks, and train mode with frozen layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import SIDE, Backbone, model, toy

from autotl import backbone
from autotl.models import Model
from autotl.training import set_trainable

ARCHITECTURES = [
    "test_resnet",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "mobilenetv3_small_050",
]


def random_images(count: int = 4, side: int = SIDE) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


@backbone
def without_groups() -> nn.Module:
    """A backbone that declares no groups and has a parameter of its own."""

    class WithoutGroups(Backbone):
        group_matcher = None

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    return WithoutGroups()


@backbone
def with_broken_groups() -> nn.Module:
    """A backbone that declares groups, but fails to return them."""

    class WithBrokenGroups(Backbone):
        def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
            raise KeyError("stem")

    return WithBrokenGroups()


def test_images_become_logits() -> None:
    logits = model()(random_images(5))
    assert logits.shape == (5, 3)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_images_are_normalised_as_the_backbone_was_trained() -> None:
    network = model()
    inputs = []
    network.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    images = random_images()
    network(images)
    torch.testing.assert_close(inputs[0], (images / 255 - 0.5) / 0.2)
    resnet = model(backbone="test_resnet", size=32)  # each channel has its own mean and std
    cfg = resnet.backbone.pretrained_cfg
    mean, std = (torch.tensor(cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    resnet.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    images = random_images(2, 32)
    resnet(images)
    torch.testing.assert_close(inputs[1], (images / 255 - mean) / std)


def test_preprocessing_is_not_saved_with_the_weights() -> None:
    assert not {"mean", "std"} & set(model().state_dict())


@pytest.mark.parametrize("name", [*ARCHITECTURES, toy, without_groups, with_broken_groups])
def test_blocks_contain_each_parameter_once_in_the_order_of_the_forward_pass(name: Any) -> None:
    network = model(backbone=name, size=32 if isinstance(name, str) else SIDE)
    ids = [id(p) for block in network.blocks for p in block]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in network.backbone.parameters()}
    assert len(network.blocks) >= 2
    names = {id(p): n for n, p in network.backbone.named_parameters()}
    returned: list[str] = []
    for module_name, module in network.backbone.named_modules():
        module.register_forward_hook(lambda *_, n=module_name: returned.append(n))
    network.eval()(random_images(1, network.expects.size))
    first_return = {n: i for i, n in reversed(list(enumerate(returned)))}

    def positions(block: list[nn.Parameter]) -> list[int]:
        owners = [names[id(p)].rpartition(".")[0] for p in block]
        return [first_return[owner] for owner in owners if owner]  # "" is the backbone itself

    spans = [p for block in network.blocks if (p := positions(block))]
    assert spans == sorted(spans, key=min)
    assert max(spans[0]) < min(spans[-1])


def test_the_blocks_of_a_backbone_without_groups_are_its_children() -> None:
    network = model(backbone=without_groups)
    sizes = [len(block) for block in network.blocks]
    assert sizes == [1, 3, 9]  # its own parameter, the stem, the stages
    assert len(model().blocks) == 4  # with groups, each stage is a block


def train_only(network: Model, *modules: nn.Module) -> None:
    set_trainable(network, [{"params": [p for m in modules for p in m.parameters()]}])


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in module.named_buffers() if "running" in n}


def test_only_trainable_modules_update_their_running_statistics() -> None:
    network = model()
    last_stage = network.backbone.stages[2]
    train_only(network, network.head, last_stage)
    before = running_statistics(network.backbone)
    network.train()
    network(random_images(8))
    after = running_statistics(network.backbone)
    updated = {n for n in before if not torch.equal(before[n], after[n])}
    assert updated == {n for n in before if n.startswith("stages.2.")}
    assert last_stage[1].training
    assert not network.backbone.stages[1][1].training


def test_dropout_is_off_in_frozen_modules() -> None:
    network = model(head=("linear", {"dropout": 0.5}))
    network.backbone.stages[1].append(nn.Dropout(0.5))
    train_only(network, network.head)
    network.train()
    images = random_images()
    assert torch.equal(network.features(images), network.features(images))
    assert not torch.equal(network(images), network(images))  # the head is trained with dropout
    train_only(network, network.head, network.backbone.stages[1])
    network.train()
    assert not torch.equal(network.features(images), network.features(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    assert not any(m.training for m in network.modules())
