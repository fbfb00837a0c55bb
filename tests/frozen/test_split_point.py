"""What runs once and what runs again give together what the whole model gives."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import SIDE, Backbone, model, toy

from autotl import backbone
from autotl.frozen import split_point
from autotl.frozen.split_point import SplitPoint
from autotl.models import Model
from autotl.training import set_trainable


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
    set_trainable(network, [{"params": [*network.head.parameters(), *top]}])


def depths(network: Model) -> list[int]:
    """Numbers of blocks: few, half of them, all but the lowest."""
    blocks = len(network.blocks)
    return sorted({1, 2, blocks // 2, blocks - 1})


def blocks(network: Model) -> list[str]:
    """The children of the backbone and of its containers."""
    containers = (nn.Sequential, nn.ModuleList)
    holders = {n for n, m in network.backbone.named_modules() if not n or isinstance(m, containers)}
    return [n for n, _ in network.backbone.named_modules() if n and n.rpartition(".")[0] in holders]


def order_and_frozen(network: Model, images: Tensor) -> dict[str, bool]:
    """The modules in the order in which they return; whether nothing that learns has a part."""
    found: dict[str, bool] = {}

    def remember(module: nn.Module, args: Any, out: Any, name: str) -> None:
        found.setdefault(name, isinstance(out, Tensor) and not out.requires_grad)

    network = copy.deepcopy(network).eval()
    for name, module in network.backbone.named_modules():
        module.register_forward_hook(partial(remember, name=name))
    network(images)
    return found


@torch.no_grad()
def output_of(network: Model, name: str, images: Tensor) -> Tensor:
    """What a module returns, the last time that it is called."""
    kept: list[Tensor] = []
    module = network.backbone.get_submodule(name)
    handle = module.register_forward_hook(lambda m, args, out: kept.append(out.clone()))
    network.features(images)
    handle.remove()
    return kept[-1]


@torch.no_grad()
def everything_passes(network: Model, name: str, images: Tensor) -> bool:
    """Whether the features stay when all but the output of a module is another picture's."""
    network = copy.deepcopy(network).eval()
    kept, whole = output_of(network, name, images), network.features(images)
    module = network.backbone.get_submodule(name)
    module.register_forward_hook(lambda m, args, out: kept.clone())
    return torch.equal(network.features(images.flip(0)), whole)


@FAMILIES
def test_the_two_parts_make_the_whole(name: Any, size: int) -> None:
    network = lively(name, size)
    images = pictures(network)
    boundaries = set()
    for count in depths(network):
        learn_top(network, count)
        found = split_point.find(network, images)
        if found is None:
            continue  # the lowest stage learns
        boundaries.add(found.name)
        network.eval()
        with torch.no_grad():
            whole = network(images)
            activations = found.prefix(images)
            assert torch.equal(found.suffix(activations), whole)
            torch.testing.assert_close(found.suffix(activations[1:3]), whole[1:3])
            other = found.suffix(activations.flip(0))
        assert not torch.allclose(whole, other)  # what is kept decides the result
    assert len(boundaries) >= 2


@FAMILIES
def test_no_frozen_block_is_above_the_cut_if_everything_passes_through_it(
    name: Any, size: int
) -> None:
    network = lively(name, size)
    images = pictures(network)
    for count in depths(network):
        learn_top(network, count)
        found = split_point.find(network, images)
        frozen = order_and_frozen(network, images)
        if found is None:
            assert not frozen[blocks(network)[0]]
            continue
        order = list(frozen)
        assert frozen[found.name]
        assert everything_passes(network, found.name, images)
        above = order[order.index(found.name) + 1 :]
        network.eval()
        with torch.no_grad():
            kept = found.prefix(images)
        for block in [n for n in above if n in blocks(network) and frozen[n]]:
            # There are those that return what they are given, such as dropout, for now.
            same = torch.equal(output_of(network, block, images), kept)
            assert same or not everything_passes(network, block, images), block


@pytest.mark.parametrize(
    ("name", "size", "learning", "expected"),
    [
        ("test_vit", 32, "blocks.5", "blocks.4"),
        ("test_convnext", 64, "stages.3.blocks.1", "stages.3.blocks.0"),
        ("test_convnext", 64, "head", "head.global_pool"),
        ("test_resnet", 64, "layer4", "layer3"),
        ("test_resnet", 64, "layer4.0.bn2", "layer3"),  # the block goes around
        ("mobilenetv3_small_050", 64, "blocks.3.1", "blocks.3.0"),
        ("mobilenetv3_small_050", 64, "blocks.3.1.bn3", "blocks.3.0"),
        ("mobilenetv3_small_050", 64, "blocks.2.0.bn3", "blocks.2.0.conv_pwl"),  # this does not
        (small_swin, 56, "layers.2.blocks.1", "layers.2.blocks.0"),
        (toy, SIDE, "stages.1.1", "stages.1.0"),
    ],
)
def test_the_cut_is_inside_of_stages(name: Any, size: int, learning: str, expected: str) -> None:
    network = lively(name, size)
    params = [p for n, p in network.backbone.named_parameters() if n.startswith(f"{learning}.")]
    assert params
    set_trainable(network, [{"params": [*network.head.parameters(), *params]}])
    found = split_point.find(network, pictures(network))
    assert found is not None
    assert found.name == expected
    learns = {id(p) for p in network.parameters() if p.requires_grad}
    assert found.parameters
    assert not found.parameters & learns
    assert not found.prefix(pictures(network)).requires_grad


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

        if (found := split_point.find(network, images)) is None:
            continue  # the lowest stage learns
        with torch.no_grad():
            network.eval()
            activations = found.prefix(images)
        network.train()
        again = functional.cross_entropy(found.suffix(activations), labels)
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
    found = split_point.find(network, pictures(network))
    assert found is not None
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    found.suffix(found.prefix(pictures(network)))
    assert [m.training for m in network.modules()] == modes
    assert not any(m._forward_hooks or "forward" in vars(m) for m in network.modules())


def test_the_whole_backbone_is_below_when_only_the_head_learns() -> None:
    network = lively("test_vit", 32)
    learn_top(network, 0)
    found = split_point.find(network, pictures(network))
    assert found is not None
    assert found.name == "backbone"
    assert found.parameters == {id(p) for p in network.backbone.parameters()}
    network.eval()
    features = found.prefix(pictures(network))
    assert torch.equal(features, network.features(pictures(network)))
    assert torch.equal(found.suffix(features), network(pictures(network)))


def found_for(plugin: Any, *learning: str) -> SplitPoint | None:
    """The cut of a backbone of which the parameters named like ``learning`` learn."""
    network = model(backbone=plugin)
    named = network.backbone.named_parameters()
    params = [p for n, p in named if n.startswith(learning)]
    assert params
    set_trainable(network, [{"params": [*network.head.parameters(), *params]}])
    return split_point.find(network, pictures(network))


def test_there_is_no_cut_when_everything_learns() -> None:
    assert found_for(toy, "") is None
    assert found_for(toy, "stem") is None
    assert found_for(toy, "stages.2") is not None


def test_the_cut_is_below_where_a_parameter_of_the_model_itself_is_used() -> None:
    network = lively("test_vit", 32)
    learn_top(network, 1)
    network.backbone.pos_embed.requires_grad = True
    found = split_point.find(network, pictures(network))
    assert found is not None
    assert found.name == "patch_embed"
    assert id(network.backbone.pos_embed) not in found.parameters


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


class Wasteful(Backbone):
    """Makes something of the stem that nothing uses, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        stem * self.gain
        return self.forward_head(self.stages(stem))


def test_a_learning_parameter_that_nothing_uses_does_not_lower_the_cut() -> None:
    @backbone
    def wasteful() -> nn.Module:
        return Wasteful()

    found = found_for(wasteful, "gain", "stages.2")
    assert found is not None
    assert found.name == "stages.1"
    with torch.inference_mode():
        activations = found.prefix(pictures(found.model))
        found.suffix(activations)  # as validation does
    found.suffix(activations.clone()).sum().backward()
    assert found.model.backbone.stages[2][0].weight.grad is not None


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", toy])
def test_above_the_cut_nothing_of_what_lies_below_is_computed(name: Any) -> None:
    size = SIDE if name is toy else 64 if name != "test_vit" else 32
    network = lively(name, size)
    learn_top(network, 2)
    found = split_point.find(network, pictures(network))
    assert found is not None
    computed: list[nn.Module] = []
    layers = [m for m in network.backbone.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: computed.append(m))
    activations = found.prefix(pictures(network))
    below, computed[:] = set(computed), []
    found.suffix(activations)
    assert below
    assert below.isdisjoint(computed)
    assert below | set(computed) == set(layers)


def test_what_below_uses_counts_as_below() -> None:
    network = lively("test_vit", 32)
    learn_top(network, 1)
    found = split_point.find(network, pictures(network))
    assert found is not None
    images = pictures(network)
    before = found.prefix(images)
    for name, p in network.backbone.named_parameters():
        kept = p.data.clone()
        with torch.no_grad():
            p += torch.randn_like(p)
            moved = not torch.equal(found.prefix(images), before)
            assert moved == (id(p) in found.parameters), name
            p.copy_(kept)


class SidePath(Backbone):
    """Carries what the stem made around the first stage."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        return self.forward_head(self.stages(stem)) + self.beside(stem)

    def beside(self, stem: Tensor) -> Tensor:
        return stem.mean((1, 2, 3))[:, None]


class ClosedSidePath(SidePath):
    """A gate is closed at first, and may open as it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def beside(self, stem: Tensor) -> Tensor:
        return super().beside(stem) * self.gate


class DetachedSidePath(ClosedSidePath):
    """Autograd sees nothing of it."""

    def beside(self, stem: Tensor) -> Tensor:
        return super().beside(stem.detach())


class InPlace(Backbone):
    """Writes into what its modules return, which fails where that is only a phantom."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        stem += 1
        features: Tensor = self.stages(stem).mean((2, 3))
        return features


@pytest.mark.parametrize("kind", [SidePath, ClosedSidePath, DetachedSidePath, InPlace])
def test_a_cut_that_would_change_the_model_is_refused_for_a_lower_one(
    kind: type[Backbone],
) -> None:
    @backbone
    def odd() -> nn.Module:
        return kind()

    found = found_for(odd, "stages.1", "stages.2", "gate")
    assert found is not None
    assert found.name == "stem"  # not stages.0, where it would be cut if it were not odd
    network = found.model.eval()
    images = pictures(network)
    with torch.no_grad():
        parts = found.features(found.prefix(images).clone())
        torch.testing.assert_close(parts, network.features(images))


def test_what_fails_at_one_block_is_not_tried_at_all_blocks_beside_it() -> None:
    class Deep(InPlace):
        def __init__(self) -> None:
            super().__init__()
            self.stages.extend(nn.Conv2d(24, 24, 1) for _ in range(20))

    @backbone
    def deep() -> nn.Module:
        return Deep()

    network = model(backbone=deep)
    set_trainable(network, [{"params": network.backbone.stages[-1].parameters()}])
    runs: list[int] = []
    network.backbone.register_forward_pre_hook(lambda m, args: runs.append(1))
    found = split_point.find(network, pictures(network))
    assert found is not None
    assert found.name == "stem"
    assert len(runs) == 3 + 2 * 2  # traced twice, and whole; then two cuts tried


@pytest.mark.parametrize("info", [None, [], [{"module": "elsewhere"}], [{"num_chs": 8}, "stem"]])
def test_a_model_that_names_no_stages_is_cut_at_its_blocks(info: Any) -> None:
    @backbone
    def silent() -> nn.Module:
        silent = Backbone()
        silent.feature_info = info
        return silent

    found = found_for(silent, "stages.2")
    assert found is not None
    assert found.name == "stages.1"


class Passing(Backbone):
    """Takes what the stem returns through another module, which may return more."""

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output
        self.extra = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images) + 1
        if self.output == "one tensor":
            stem, _ = self.extra((stem, (8, 8)))
        if self.output == "two tensors":
            stem, more = self.extra((stem, stem + 1))
            stem = stem + more
        return self.forward_head(self.stages(stem))


@pytest.mark.parametrize(
    ("output", "expected"), [("one tensor", "extra"), ("two tensors", "stem"), ("never", "stem")]
)
def test_a_boundary_returns_one_tensor(output: str, expected: str) -> None:
    @backbone
    def passing() -> nn.Module:
        return Passing(output)

    found = found_for(passing, "stages")
    assert found is not None
    assert found.name == expected
    network, images = found.model.eval(), pictures(found.model)
    with torch.no_grad():
        assert torch.equal(found.suffix(found.prefix(images).clone()), network(images))


class Shared(Backbone):
    """One activation serves all stages."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Softplus()

    def forward(self, images: Tensor) -> Tensor:
        found = self.act(self.stem(images))
        for stage in self.stages:
            found = self.act(stage(found))
        return self.forward_head(found)


def test_a_module_is_answered_call_by_call() -> None:
    @backbone
    def shared() -> nn.Module:
        return Shared()

    names = []
    for learning in (["stages.2"], ["stages.1", "stages.2"], ["stages"]):
        found = found_for(shared, *learning)
        assert found is not None
        names.append(found.name)
        network, images = found.model.eval(), pictures(found.model)
        with torch.no_grad():
            kept = found.prefix(images)
            for _ in range(2):
                assert torch.equal(found.suffix(kept.clone()), network(images))
    assert names == ["act:3", "act:2", "act"]


class Packed(Backbone):
    """Puts all pictures beside each other into one."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        found = self.stages[0](torch.cat(list(stem), 2)[None])
        found = torch.cat(found.chunk(len(stem), 3))
        return self.forward_head(self.stages[2](self.stages[1](found)))


class Windowed(Backbone):
    """Puts its windows into the dimension of the pictures, as many as there are of them."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        count = len(stem)
        halves = torch.cat(stem.chunk(2, 2))
        halves = self.stages[1](self.stages[0](halves))
        found = torch.cat(halves.split(count), 2)
        return self.forward_head(self.stages[2](found))


@pytest.mark.parametrize(
    ("kind", "learning"), [(Windowed, ["stages.2"]), (Packed, ["stages.1", "stages.2"])]
)
def test_what_is_kept_has_a_row_for_each_picture(kind: type[Backbone], learning: list[str]) -> None:
    @backbone
    def windowed() -> nn.Module:
        return kind()

    found = found_for(windowed, *learning)
    assert found is not None
    assert found.name == "stem"
    assert len(found.prefix(pictures(found.model, 3))) == 3


class Windows(nn.Module):
    """Returns windows of several pictures in the dimension of the pictures, with their number."""

    def forward(self, images: Tensor) -> tuple[Tensor, int]:
        return torch.cat(images.chunk(2, 2)), 2


def test_phantoms_are_as_large_as_what_they_stand_for() -> None:
    class Windowing(Windowed):
        def __init__(self) -> None:
            super().__init__()
            self.windows = Windows()

        def forward(self, images: Tensor) -> Tensor:
            halves, parts = self.windows(self.stem(images))
            halves = halves.view(parts, -1, *halves.shape[1:])  # as many as there are pictures
            found = self.stages[0](torch.cat(list(halves), 2))
            return self.forward_head(self.stages[2](self.stages[1](found)))

    @backbone
    def windowing() -> nn.Module:
        return Windowing()

    found = found_for(windowing, "stages.1", "stages.2")
    assert found is not None
    assert found.name == "stages.0"
    for count in (1, 3):
        images = pictures(found.model.eval(), count)
        with torch.no_grad():
            assert torch.equal(found.suffix(found.prefix(images).clone()), found.model(images))


class Biased(Backbone):
    """A table that owes nothing to the picture is made once and serves all stages."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        found, bias = self.stem(images), self.table(torch.zeros(1, dtype=torch.long))
        for stage in self.stages:
            found = stage(found) + bias
        return self.forward_head(found)


def test_what_owes_nothing_to_the_picture_is_made_again() -> None:
    @backbone
    def biased() -> nn.Module:
        return Biased()

    found = found_for(biased, "stages.2")
    assert found is not None
    assert found.name == "stages.1"
    network, images = found.model.eval(), pictures(found.model)
    with torch.no_grad():
        assert torch.equal(found.suffix(found.prefix(images).clone()), network(images))
    learns = found_for(biased, "stages.2", "table")
    assert learns is not None
    assert learns.name == "stages.0"
    activations = learns.prefix(pictures(learns.model)).detach()
    learns.suffix(activations).square().sum().backward()
    assert learns.model.backbone.table.weight.grad.abs().sum() > 0


# Half precision.


class Scaled(Backbone):
    """Its stem returns what it does, times and plus something that the stages undo."""

    def __init__(self, gain: float, offset: float) -> None:
        super().__init__()
        self.gain, self.offset = gain, offset

        class Scale(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images * gain + offset

        self.stem.append(Scale())

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.stages((self.stem(images) - self.offset) / self.gain))


@pytest.mark.parametrize(
    ("gain", "offset", "agrees"),
    [
        (1.0, 0.0, True),
        (100.0, 0.0, True),
        (1e4, 0.0, False),  # others than the pictures seen may overflow
        (1e6, 0.0, False),  # overflows
        (1e-9, 0.0, False),  # rounded to zero
        (1.0, 1000.0, False),  # all that tells pictures apart is in the last digits
    ],
)
def test_activations_may_be_kept_in_half_precision_where_the_features_stay(
    gain: float, offset: float, agrees: bool
) -> None:
    @backbone
    def scaled() -> nn.Module:
        return Scaled(gain, offset)

    found = found_for(scaled, "stages")
    assert found is not None
    assert found.name == "stem"
    found.model.train()
    modes = [m.training for m in found.model.modules()]
    assert found.float16_agrees(pictures(found.model)) == agrees
    assert [m.training for m in found.model.modules()] == modes


@FAMILIES
def test_families_may_be_kept_in_half_precision(name: Any, size: int) -> None:
    network = lively(name, size)
    images = pictures(network)
    for count in (0, 1, depths(network)[1]):
        learn_top(network, count)
        found = split_point.find(network, images)
        assert found is not None
        assert found.float16_agrees(images)
        with torch.no_grad():
            network.eval()
            kept = found.prefix(images)
            whole = found.features(kept.clone())
            rounded = found.features(kept.to(split_point.HALF).float())
        spread = (whole - whole.mean(0)).square().mean().sqrt()
        assert (rounded - whole).square().mean().sqrt() <= split_point.HALF_TOLERANCE * spread
