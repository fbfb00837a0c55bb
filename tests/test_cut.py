"""What runs once and what runs again give together what the whole model gives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import SIDE, Backbone, model, toy

from autotl import backbone, cut
from autotl.cut import Cut
from autotl.finetune import set_learning
from autotl.model import Model


@backbone
def small_swin(size: int) -> nn.Module:
    """Windows of attention, shifted in every second block."""
    thin = {
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 4, 8),
        "drop_path_rate": 0.0,
    }
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=size, **thin)


SIZES: list[tuple[Any, int]] = [
    ("test_resnet", 64),
    ("test_vit", 32),
    ("test_convnext", 64),
    ("test_efficientnet", 32),
    ("test_mambaout", 64),
    ("mobilenetv3_small_050", 64),
    (small_swin, 56),
    (toy, SIDE),
]
FAMILIES = pytest.mark.parametrize(("name", "size"), SIZES)


def pictures(network: Model, count: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(5)
    side = network.expects.size
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def lively(name: Any, size: int) -> Model:
    """A network that tells pictures apart although its weights are random."""
    network = model(backbone=name, size=size)
    normalisations = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    usual = [m.momentum for m in normalisations]
    for m in normalisations:
        m.momentum = 1.0
    with torch.no_grad():
        for n, p in network.backbone.named_parameters():
            if p.ndim == 1 and not n.endswith("bias"):
                p.fill_(1.0)  # ConvNeXt scales its blocks by 1e-6 at first
        network.train()(pictures(network, 8))
    for m, momentum in zip(normalisations, usual, strict=True):
        m.momentum = momentum
    return network


def learn_top(network: Model, count: int) -> None:
    """Let the head and the ``count`` highest blocks learn."""
    top = [p for block in network.blocks[-count:] for p in block] if count else []
    set_learning(network, [{"params": [*network.head.parameters(), *top]}])


def depths(network: Model) -> list[int]:
    """Numbers of blocks: few, half of them, all but the lowest."""
    blocks = len(network.blocks)
    return sorted({1, 2, blocks // 2, blocks - 1})


def highest_stage(network: Model, images: Tensor) -> str | None:
    """The last stage that no learning parameter has a part in: autograd knows."""
    info = network.backbone.feature_info
    frozen = {}
    for stage in info if isinstance(info, list) else info.info:
        module = network.backbone.get_submodule(stage["module"])
        frozen[stage["module"]] = False
        module.register_forward_hook(
            lambda m, args, out, n=stage["module"]: frozen.update({n: not out.requires_grad})
        )
    network.eval()(images)
    return next((n for n, f in reversed(frozen.items()) if f), None)


@FAMILIES
def test_the_two_parts_make_the_whole(name: Any, size: int) -> None:
    network = lively(name, size)
    images = pictures(network)
    boundaries = set()
    for count in depths(network):
        learn_top(network, count)
        found = cut.find(network, images)
        if found is None:
            continue  # the lowest stage learns
        boundaries.add(found.name)
        network.eval()
        with torch.no_grad():
            whole = network(images)
            activations = found.below(images)
            assert torch.equal(found.above(activations), whole)
            torch.testing.assert_close(found.above(activations[1:3]), whole[1:3])
            other = found.above(activations.flip(0))
        assert not torch.allclose(whole, other)  # what is kept decides the result
    assert len(boundaries) >= 2


@FAMILIES
def test_the_cut_is_as_high_as_it_can_be(name: Any, size: int) -> None:
    network = lively(name, size)
    images = pictures(network)
    for count in depths(network):
        learn_top(network, count)
        found = cut.find(network, images)
        assert (found and found.name) == highest_stage(copy.deepcopy(network), images)
        if found is None:
            continue
        learning = {id(p) for p in network.parameters() if p.requires_grad}
        assert found.parameters
        assert not found.parameters & learning
        assert not found.below(images).requires_grad


def gradients(network: Model, loss: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def buffers(network: Model) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in network.named_buffers()}


@FAMILIES
def test_training_above_the_cut_is_training_the_frozen_whole(name: Any, size: int) -> None:
    network = lively(name, size)
    images, labels = pictures(network), torch.tensor([0, 1, 2, 0])
    start = copy.deepcopy(network.state_dict())
    moved: set[str] = set()
    for count in depths(network):
        learn_top(network, count)
        network.train()
        loss = functional.cross_entropy(network(images), labels)
        whole, seen = gradients(network, loss), buffers(network)
        network.load_state_dict(start)

        if (found := cut.find(network, images)) is None:
            continue  # the lowest stage learns
        with torch.no_grad():
            network.eval()
            activations = found.below(images)
        network.train()
        again = functional.cross_entropy(found.above(activations), labels)
        torch.testing.assert_close(again, loss)
        torch.testing.assert_close(gradients(network, again), whole)
        assert set(whole) == {n for n, p in network.named_parameters() if p.requires_grad}
        torch.testing.assert_close(buffers(network), seen)
        moved |= {n for n in seen if "running" in n and not torch.equal(seen[n], start[n])}
        network.load_state_dict(start)
    assert moved or not any("running" in n for n in start)  # some of the layers compared did learn


def test_looking_for_a_cut_leaves_the_model_as_it_was() -> None:
    network = lively("test_resnet", 64)
    learn_top(network, 2)
    network.train()
    before = copy.deepcopy(network.state_dict())
    modes = [m.training for m in network.modules()]
    found = cut.find(network, pictures(network))
    assert found is not None
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    found.above(found.below(pictures(network)))
    assert [m.training for m in network.modules()] == modes
    assert not any(m._forward_hooks or "forward" in vars(m) for m in network.modules())


def test_the_whole_backbone_is_below_when_only_the_head_learns() -> None:
    network = lively("test_vit", 32)
    learn_top(network, 0)
    found = cut.find(network, pictures(network))
    assert found is not None
    assert found.name == "backbone"
    assert found.parameters == {id(p) for p in network.backbone.parameters()}
    network.eval()
    features = found.below(pictures(network))
    assert torch.equal(features, network.features(pictures(network)))
    assert torch.equal(found.above(features), network(pictures(network)))


def found_for(plugin: Any, *learning: str) -> Cut | None:
    """The cut of a backbone of which the parameters named like ``learning`` learn."""
    network = model(backbone=plugin)
    named = network.backbone.named_parameters()
    params = [p for n, p in named if n.startswith(learning)]
    assert params
    set_learning(network, [{"params": [*network.head.parameters(), *params]}])
    return cut.find(network, pictures(network))


def test_there_is_no_cut_when_everything_learns() -> None:
    assert found_for(toy, "") is None
    assert found_for(toy, "stem") is None
    assert found_for(toy, "stages.2") is not None


def test_there_is_no_cut_when_a_parameter_of_the_model_itself_learns() -> None:
    network = lively("test_vit", 32)
    learn_top(network, 1)
    assert cut.find(network, pictures(network)) is not None
    network.backbone.pos_embed.requires_grad = True
    assert cut.find(network, pictures(network)) is None


@backbone
def nested() -> nn.Module:
    """A backbone in a wrapper, with a parameter that is used below the stages."""

    class Trunk(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.randn(3, 1, 1))

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + self.position)

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = Trunk()
            self.num_features, self.pretrained_cfg = 24, self.trunk.pretrained_cfg
            self.feature_info = [{"module": f"trunk.stages.{i}"} for i in range(3)]

        def forward(self, images: Tensor) -> Tensor:
            features: Tensor = self.trunk(images)
            return features

    return Wrapper()


def test_a_learning_parameter_of_what_holds_the_stages_is_not_cut_off() -> None:
    found = found_for(nested, "trunk.stages.2")
    assert found is not None
    assert found.name == "trunk.stages.1"
    assert found_for(nested, "trunk.stages.2", "trunk.position") is None


def test_what_below_uses_counts_as_below() -> None:
    network = lively("test_vit", 32)
    learn_top(network, 1)
    found = cut.find(network, pictures(network))
    assert found is not None
    images = pictures(network)
    before = found.below(images)
    for name, p in network.backbone.named_parameters():
        kept = p.data.clone()
        with torch.no_grad():
            p += torch.randn_like(p)
            if not torch.equal(found.below(images), before):
                assert id(p) in found.parameters, name
            p.copy_(kept)


class SidePath(Backbone):
    """Carries what the stem made around the first stage."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        top = self.stages[2](self.stages[1](self.stages[0](stem)))
        features: Tensor = top.mean((2, 3)) + stem.mean((1, 2, 3))[:, None]
        return features


class InPlace(Backbone):
    """Writes into what its modules return, which fails where that is only a phantom."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        stem += 1
        features: Tensor = self.stages(stem).mean((2, 3))
        return features


@pytest.mark.parametrize("kind", [SidePath, InPlace])
def test_a_cut_that_would_change_the_model_is_refused_for_a_lower_one(
    kind: type[Backbone],
) -> None:
    @backbone
    def odd() -> nn.Module:
        return kind()

    found = found_for(odd, "stages.1", "stages.2")
    assert found is not None
    assert found.name == "stem"  # not stages.0, where it would be cut if it were not odd
    network = found.model.eval()
    images = pictures(network)
    with torch.no_grad():
        parts = found.features(found.below(images).clone())
        torch.testing.assert_close(parts, network.features(images))


@pytest.mark.parametrize("info", [None, [], [{"module": "elsewhere"}], [{"num_chs": 8}, "stem"]])
def test_a_model_that_names_no_stages_is_not_cut(info: Any) -> None:
    @backbone
    def silent() -> nn.Module:
        silent = Backbone()
        silent.feature_info = info
        return silent

    assert found_for(silent, "stages.2") is None


@pytest.mark.parametrize("output", ["tuple", "never"])
def test_a_stage_that_gives_no_tensor_is_no_boundary(output: str) -> None:
    class Odd(Backbone):
        def __init__(self) -> None:
            super().__init__()
            self.feature_info = [{"module": "stem"}, {"module": "extra"}]
            self.extra = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            stem = self.stem(images)
            if output == "tuple":
                stem, _ = self.extra((stem, None))
            features: Tensor = self.stages(stem).mean((2, 3))
            return features

    @backbone
    def odd() -> nn.Module:
        return Odd()

    found = found_for(odd, "stages.2")
    assert found is not None
    assert found.name == "stem"
