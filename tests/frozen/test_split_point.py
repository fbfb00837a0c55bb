"""The prefix and the suffix of a split model together compute what the whole model computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import SIDE, Backbone, model, toy

from autotl import backbone
from autotl.frozen.split_point import HALF, HALF_TOLERANCE, SplitPoint, find_split_point
from autotl.models import Model
from autotl.training import set_trainable


@backbone
def small_swin(size: int) -> nn.Module:
    """Windows of attention, shifted in every second block."""
    options = {
        "embed_dim": 16,
        "depths": (1, 1, 2, 1),
        "num_heads": (1, 2, 4, 8),
        "drop_path_rate": 0.0,
    }
    return timm.create_model(
        "swin_tiny_patch4_window7_224", num_classes=0, img_size=size, **options
    )


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
ARCHITECTURES = pytest.mark.parametrize(("name", "size"), SIZES)


def random_images(network: Model, count: int = 4) -> Tensor:
    random = torch.Generator().manual_seed(5)
    side = network.expects.size
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)


def build(name: Any, size: int) -> Model:
    """A network whose features differ between images although its weights are random."""
    key = name if isinstance(name, str) else name.name
    if key not in BUILT:
        BUILT[key] = build_from_scratch(name, size)
    return copy.deepcopy(BUILT[key])


BUILT: dict[str, Model] = {}


def build_from_scratch(name: Any, size: int) -> Model:
    network = model(backbone=name, size=size)
    normalisations = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in normalisations]
    for m in normalisations:
        m.momentum = 1.0
    with torch.no_grad():
        for n, p in network.backbone.named_parameters():
            if p.ndim == 1 and not n.endswith("bias"):
                p.fill_(1.0)  # ConvNeXt scales its blocks by 1e-6 at first
        network.train()(random_images(network, 8))
    for m, momentum in zip(normalisations, momenta, strict=True):
        m.momentum = momentum
    return network


def train_last_blocks(network: Model, count: int) -> None:
    """Make the head and the last ``count`` blocks trainable."""
    last = [p for block in network.blocks[-count:] for p in block] if count else []
    set_trainable(network, [{"params": [*network.head.parameters(), *last]}])


def depths(network: Model) -> list[int]:
    """Numbers of blocks to train: few, half of them, all but the first."""
    blocks = len(network.blocks)
    return sorted({1, 2, blocks // 2, blocks - 1})


def block_names(network: Model) -> list[str]:
    """The children of the backbone and of its containers."""
    containers = (nn.Sequential, nn.ModuleList)
    holders = {n for n, m in network.backbone.named_modules() if not n or isinstance(m, containers)}
    return [n for n, _ in network.backbone.named_modules() if n and n.rpartition(".")[0] in holders]


def frozen_by_module(network: Model, images: Tensor) -> dict[str, bool]:
    """Whether each module's output has no trainable parameters, in the order of their returns."""
    frozen: dict[str, bool] = {}

    def record(module: nn.Module, args: Any, output: Any, name: str) -> None:
        frozen.setdefault(name, isinstance(output, Tensor) and not output.requires_grad)

    network = copy.deepcopy(network).eval()
    for name, module in network.backbone.named_modules():
        module.register_forward_hook(partial(record, name=name))
    network(images)
    return frozen


@torch.no_grad()
def output_of(network: Model, name: str, images: Tensor) -> Tensor:
    """The output of a module's last call."""
    outputs: list[Tensor] = []
    module = network.backbone.get_submodule(name)
    handle = module.register_forward_hook(lambda m, args, out: outputs.append(out.clone()))
    network.features(images)
    handle.remove()
    return outputs[-1]


@torch.no_grad()
def determines_features(network: Model, name: str, images: Tensor) -> bool:
    """Whether the features stay when everything but a module's output is another image's."""
    network = copy.deepcopy(network).eval()
    output, features = output_of(network, name, images), network.features(images)
    module = network.backbone.get_submodule(name)
    module.register_forward_hook(lambda m, args, out: output.clone())
    return torch.equal(network.features(images.flip(0)), features)


@ARCHITECTURES
def test_prefix_and_suffix_compute_the_whole_models_logits(name: Any, size: int) -> None:
    network = build(name, size)
    images = random_images(network)
    boundaries = set()
    for count in depths(network):
        train_last_blocks(network, count)
        split = find_split_point(network, images)
        if split is None:
            continue  # the first stage is trainable
        boundaries.add(split.name)
        network.eval()
        with torch.no_grad():
            expected = network(images)
            activations = split.prefix(images)
            assert torch.equal(split.suffix(activations), expected)
            torch.testing.assert_close(split.suffix(activations[1:3]), expected[1:3])
            flipped = split.suffix(activations.flip(0))
        assert not torch.allclose(expected, flipped)  # the activations determine the logits
    assert len(boundaries) >= 2


@ARCHITECTURES
def test_no_frozen_block_that_determines_the_features_is_in_the_suffix(
    name: Any, size: int
) -> None:
    network = build(name, size)
    images = random_images(network)
    for count in depths(network):
        train_last_blocks(network, count)
        split = find_split_point(network, images)
        frozen = frozen_by_module(network, images)
        if split is None:
            assert not frozen[block_names(network)[0]]
            continue
        order = list(frozen)
        assert frozen[split.name]
        assert determines_features(network, split.name, images)
        after = order[order.index(split.name) + 1 :]
        network.eval()
        with torch.no_grad():
            activations = split.prefix(images)
        for block in [n for n in after if n in block_names(network) and frozen[n]]:
            # Some blocks return their input, such as dropout in eval mode.
            is_identity = torch.equal(output_of(network, block, images), activations)
            assert is_identity or not determines_features(network, block, images), block


@pytest.mark.parametrize(
    ("name", "size", "trainable", "expected"),
    [
        ("test_vit", 32, "blocks.5", "blocks.4"),
        ("test_convnext", 64, "stages.3.blocks.1", "stages.3.blocks.0"),
        ("test_convnext", 64, "head", "head.global_pool"),
        ("test_resnet", 64, "layer4", "layer3"),
        ("test_resnet", 64, "layer4.0.bn2", "layer3"),  # a shortcut bypasses the block's layers
        ("mobilenetv3_small_050", 64, "blocks.3.1", "blocks.3.0"),
        ("mobilenetv3_small_050", 64, "blocks.3.1.bn3", "blocks.3.0"),
        # This block has no shortcut.
        ("mobilenetv3_small_050", 64, "blocks.2.0.bn3", "blocks.2.0.conv_pwl"),
        (small_swin, 56, "layers.2.blocks.1", "layers.2.blocks.0"),
        (toy, SIDE, "stages.1.1", "stages.1.0"),
    ],
)
def test_the_split_point_may_be_inside_a_stage(
    name: Any, size: int, trainable: str, expected: str
) -> None:
    network = build(name, size)
    params = [p for n, p in network.backbone.named_parameters() if n.startswith(f"{trainable}.")]
    assert params
    set_trainable(network, [{"params": [*network.head.parameters(), *params]}])
    split = find_split_point(network, random_images(network))
    assert split is not None
    assert split.name == expected
    trained = {id(p) for p in network.parameters() if p.requires_grad}
    assert split.prefix_parameters
    assert not split.prefix_parameters & trained
    assert not split.prefix(random_images(network)).requires_grad


def gradients(network: Model, loss: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def copy_buffers(network: Model) -> dict[str, Tensor]:
    return {n: b.clone() for n, b in network.named_buffers()}


@ARCHITECTURES
def test_training_the_suffix_is_the_same_as_training_the_whole_model(name: Any, size: int) -> None:
    network = build(name, size)
    images, labels = random_images(network), torch.tensor([0, 1, 2, 0])
    start = copy.deepcopy(network.state_dict())
    updated: set[str] = set()
    for count in depths(network):
        train_last_blocks(network, count)
        network.train()
        loss = functional.cross_entropy(network(images), labels)
        expected, buffers = gradients(network, loss), copy_buffers(network)
        network.load_state_dict(start)

        if (split := find_split_point(network, images)) is None:
            continue  # the first stage is trainable
        with torch.no_grad():
            network.eval()
            activations = split.prefix(images)
        network.train()
        suffix_loss = functional.cross_entropy(split.suffix(activations), labels)
        torch.testing.assert_close(suffix_loss, loss)
        torch.testing.assert_close(gradients(network, suffix_loss), expected)
        assert set(expected) == {n for n, p in network.named_parameters() if p.requires_grad}
        torch.testing.assert_close(copy_buffers(network), buffers)
        updated |= {n for n in buffers if "running" in n and not torch.equal(buffers[n], start[n])}
        network.load_state_dict(start)
    # Some of the compared running statistics did change.
    assert updated or not any("running" in n for n in start)


def test_finding_and_using_a_split_point_leaves_the_model_as_it_was() -> None:
    network = build("test_resnet", 64)
    train_last_blocks(network, 2)
    network.train()
    before = copy.deepcopy(network.state_dict())
    modes = [m.training for m in network.modules()]
    split = find_split_point(network, random_images(network))
    assert split is not None
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    split.suffix(split.prefix(random_images(network)))
    assert [m.training for m in network.modules()] == modes
    assert not any(m._forward_hooks or "forward" in vars(m) for m in network.modules())


def test_the_prefix_is_the_whole_backbone_when_only_the_head_is_trainable() -> None:
    network = build("test_vit", 32)
    train_last_blocks(network, 0)
    images = random_images(network)
    split = find_split_point(network, images)
    assert split is not None
    assert split.name == "backbone"
    assert split.prefix_parameters == {id(p) for p in network.backbone.parameters()}
    network.eval()
    features = split.prefix(images)
    assert torch.equal(features, network.features(images))
    assert torch.equal(split.suffix(features), network(images))


def find_for(plugin: Any, *trainable: str) -> SplitPoint | None:
    """The split point of a backbone whose parameters named like ``trainable`` are trainable."""
    network = model(backbone=plugin)
    named = network.backbone.named_parameters()
    params = [p for n, p in named if n.startswith(trainable)]
    assert params
    set_trainable(network, [{"params": [*network.head.parameters(), *params]}])
    return find_split_point(network, random_images(network))


def find_in(make: Callable[[], nn.Module], *trainable: str) -> SplitPoint:
    """The split point, which must exist, of the backbone that ``make`` returns."""

    @backbone
    def made() -> nn.Module:
        return make()

    split = find_for(made, *trainable)
    assert split is not None
    return split


def test_there_is_no_split_point_when_the_first_layer_is_trainable() -> None:
    assert find_for(toy, "") is None
    assert find_for(toy, "stem") is None
    assert find_for(toy, "stages.2") is not None


def test_the_split_point_is_before_the_use_of_a_trainable_parameter_of_the_backbone_itself() -> (
    None
):
    network = build("test_vit", 32)
    train_last_blocks(network, 1)
    network.backbone.pos_embed.requires_grad = True
    split = find_split_point(network, random_images(network))
    assert split is not None
    assert split.name == "patch_embed"
    assert id(network.backbone.pos_embed) not in split.prefix_parameters


@backbone
def nested() -> nn.Module:
    """A backbone in a wrapper, with a parameter that is used before the stages."""

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


def test_a_trainable_parameter_of_a_module_that_holds_the_stages_is_not_in_the_prefix() -> None:
    split = find_for(nested, "trunk.stages.2")
    assert split is not None
    assert split.name == "trunk.stages.1"
    assert find_for(nested, "trunk.stages.2", "trunk.position") is None


class Wasteful(Backbone):
    """Computes something from the stem that is not used, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        stem * self.gain
        return self.forward_head(self.stages(stem))


def test_a_trainable_parameter_without_effect_does_not_move_the_split_point() -> None:
    split = find_in(Wasteful, "gain", "stages.2")
    assert split.name == "stages.1"
    with torch.inference_mode():
        activations = split.prefix(random_images(split.model))
        split.suffix(activations)  # as validation does
    split.suffix(activations.clone()).sum().backward()
    assert split.model.backbone.stages[2][0].weight.grad is not None


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_vit", 32), ("test_resnet", 64), ("test_convnext", 64), (toy, SIDE)],
)
def test_the_suffix_computes_no_layer_of_the_prefix(name: Any, size: int) -> None:
    network = build(name, size)
    train_last_blocks(network, 2)
    split = find_split_point(network, random_images(network))
    assert split is not None
    computed: list[nn.Module] = []
    layers = [m for m in network.backbone.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: computed.append(m))
    activations = split.prefix(random_images(network))
    in_prefix, computed[:] = set(computed), []
    split.suffix(activations)
    assert in_prefix
    assert in_prefix.isdisjoint(computed)
    assert in_prefix | set(computed) == set(layers)


def test_prefix_parameters_are_those_that_change_the_activations() -> None:
    network = build("test_vit", 32)
    train_last_blocks(network, 1)
    images = random_images(network)
    split = find_split_point(network, images)
    assert split is not None
    before = split.prefix(images)
    for name, p in network.backbone.named_parameters():
        original = p.data.clone()
        with torch.no_grad():
            p += torch.randn_like(p)
            changed = not torch.equal(split.prefix(images), before)
            assert changed == (id(p) in split.prefix_parameters), name
            p.copy_(original)


def assert_exact(split: SplitPoint, *counts: int) -> None:
    """Prefix and suffix compute the whole model's logits for batches of these sizes."""
    network = split.model.eval()
    for count in counts or (4,):
        images = random_images(network, count)
        with torch.no_grad():
            activations = split.prefix(images)
            for _ in range(2):
                assert torch.equal(split.suffix(activations.clone()), network(images))


class SidePath(Backbone):
    """Passes the output of the stem around the first stage."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        return self.forward_head(self.stages(stem)) + self.bypass(stem)

    def bypass(self, stem: Tensor) -> Tensor:
        return stem.mean((1, 2, 3))[:, None]


class ClosedSidePath(SidePath):
    """Multiplies the side path by a gate that is 0 at first, and may change in training."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def bypass(self, stem: Tensor) -> Tensor:
        return super().bypass(stem) * self.gate


class DetachedSidePath(ClosedSidePath):
    """Hides the side path from autograd."""

    def bypass(self, stem: Tensor) -> Tensor:
        return super().bypass(stem.detach())


class InPlace(Backbone):
    """Writes into the outputs of its modules, which fails for a placeholder."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        stem += 1
        features: Tensor = self.stages(stem).mean((2, 3))
        return features


@pytest.mark.parametrize("make", [SidePath, ClosedSidePath, DetachedSidePath, InPlace])
def test_a_split_point_that_would_change_the_features_is_rejected_for_an_earlier_one(
    make: type[Backbone],
) -> None:
    split = find_in(make, "stages.1", "stages.2", "gate")
    assert split.name == "stem"  # not stages.0, as it would be without the side path
    network = split.model.eval()
    images = random_images(network)
    with torch.no_grad():
        features = split.features(split.prefix(images).clone())
        torch.testing.assert_close(features, network.features(images))


def test_where_one_block_fails_its_siblings_are_not_tried() -> None:
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
    split = find_split_point(network, random_images(network))
    assert split is not None
    assert split.name == "stem"
    assert len(runs) == 3 + 2 * 2  # two traces and the whole model; then two split points tried


class Passing(Backbone):
    """Passes the output of the stem through another module, which may return more."""

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
def test_a_boundary_module_returns_one_tensor(output: str, expected: str) -> None:
    split = find_in(partial(Passing, output), "stages")
    assert split.name == expected
    assert_exact(split)


class Shared(Backbone):
    """Uses one activation module after all stages."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Softplus()

    def forward(self, images: Tensor) -> Tensor:
        features = self.act(self.stem(images))
        for stage in self.stages:
            features = self.act(stage(features))
        return self.forward_head(features)


def test_a_module_that_is_called_several_times_is_replayed_call_by_call() -> None:
    names = []
    for trainable in (["stages.2"], ["stages.1", "stages.2"], ["stages"]):
        split = find_in(Shared, *trainable)
        names.append(split.name)
        assert_exact(split)
    assert names == ["act:3", "act:2", "act"]


class Packed(Backbone):
    """Joins all images of a batch into one."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        features = self.stages[0](torch.cat(list(stem), 2)[None])
        features = torch.cat(features.chunk(len(stem), 3))
        return self.forward_head(self.stages[2](self.stages[1](features)))


class Windowed(Backbone):
    """Puts the windows of its images into the batch dimension."""

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        count = len(stem)
        halves = torch.cat(stem.chunk(2, 2))
        halves = self.stages[1](self.stages[0](halves))
        features = torch.cat(halves.split(count), 2)
        return self.forward_head(self.stages[2](features))


@pytest.mark.parametrize(
    ("make", "trainable"), [(Windowed, ["stages.2"]), (Packed, ["stages.1", "stages.2"])]
)
def test_activations_have_one_row_for_each_image(
    make: type[Backbone], trainable: list[str]
) -> None:
    split = find_in(make, *trainable)
    assert split.name == "stem"
    assert len(split.prefix(random_images(split.model, 3))) == 3


class Windows(nn.Module):
    """Returns windows of all images in the batch dimension, and the number of windows."""

    def forward(self, images: Tensor) -> tuple[Tensor, int]:
        return torch.cat(images.chunk(2, 2)), 2


class Windowing(Windowed):
    """Reads the number of images from the shape of an output in the prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = Windows()

    def forward(self, images: Tensor) -> Tensor:
        halves, count = self.windows(self.stem(images))
        halves = halves.view(count, -1, *halves.shape[1:])
        features = self.stages[0](torch.cat(list(halves), 2))
        return self.forward_head(self.stages[2](self.stages[1](features)))


def test_placeholders_have_the_shape_of_the_outputs_they_replace() -> None:
    split = find_in(Windowing, "stages.1", "stages.2")
    assert split.name == "stages.0"
    assert_exact(split, 1, 3)


class Biased(Backbone):
    """Computes a bias once, independent of the image, and adds it after all stages."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features, bias = self.stem(images), self.table(torch.zeros(1, dtype=torch.long))
        for stage in self.stages:
            features = stage(features) + bias
        return self.forward_head(features)


def test_the_suffix_computes_outputs_that_do_not_depend_on_the_image() -> None:
    split = find_in(Biased, "stages.2")
    assert split.name == "stages.1"
    assert_exact(split)
    trainable = find_in(Biased, "stages.2", "table")
    assert trainable.name == "stages.0"
    activations = trainable.prefix(random_images(trainable.model)).detach()
    trainable.suffix(activations).square().sum().backward()
    assert trainable.model.backbone.table.weight.grad.abs().sum() > 0


class CustomKernel(torch.autograd.Function):
    """Multiplies by a weight in a kernel that is no operation of PyTorch, but one of NumPy."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        output = torch.zeros_like(features)
        np.multiply(features.numpy(), weight.numpy(), out=output.numpy())
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        features, weight = ctx.saved_tensors
        return gradient * weight, (gradient * features).sum().view(1)


class Kernel(nn.Module):
    """Calls the kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = CustomKernel.apply(features, self.weight)
        return output


class WithKernel(Backbone):
    """Adds the output of a custom kernel to its input, after the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.sum = Kernel(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        features = self.sum(stem + self.kernel(stem))
        return self.forward_head(self.stages(features))


def test_parameters_of_custom_kernels_count() -> None:
    frozen = find_in(WithKernel, "stages")
    assert frozen.name == "sum"
    assert id(frozen.model.backbone.kernel.weight) in frozen.prefix_parameters
    assert_exact(frozen)
    trainable = find_in(WithKernel, "stages", "kernel")
    assert trainable.name == "stem"
    assert_exact(trainable)


class Scaled(Backbone):
    """Scales and shifts the output of its stem, which the stages undo."""

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
    ("gain", "offset", "expected"),
    [
        (1.0, 0.0, True),
        (100.0, 0.0, True),
        (1e4, 0.0, False),  # other images may overflow
        (1e6, 0.0, False),  # overflows
        (1e-9, 0.0, False),  # rounds to zero
        (1.0, 1000.0, False),  # the differences between images are in the last digits
    ],
)
def test_activations_may_be_cached_in_float16_where_the_features_stay(
    gain: float, offset: float, expected: bool
) -> None:
    split = find_in(partial(Scaled, gain, offset), "stages")
    assert split.name == "stem"
    split.model.train()
    modes = [m.training for m in split.model.modules()]
    assert split.tolerates_float16(random_images(split.model)) == expected
    assert [m.training for m in split.model.modules()] == modes


@ARCHITECTURES
def test_architectures_tolerate_float16(name: Any, size: int) -> None:
    network = build(name, size)
    images = random_images(network)
    for count in (0, 1, depths(network)[1]):
        train_last_blocks(network, count)
        split = find_split_point(network, images)
        assert split is not None
        assert split.tolerates_float16(images)
        with torch.no_grad():
            network.eval()
            activations = split.prefix(images)
            exact = split.features(activations.clone())
            rounded = split.features(activations.to(HALF).float())
        std = (exact - exact.mean(0)).square().mean().sqrt()
        assert (rounded - exact).square().mean().sqrt() <= HALF_TOLERANCE * std


def test_memory_that_runs_out_does_not_move_the_split_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = model()
    set_trainable(network, [{"params": [*network.backbone.stages[-1].parameters()]}])
    expected = find_split_point(network, random_images(network))
    assert expected is not None
    prefix, failures = SplitPoint.prefix, [RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")]

    def fail_once(self: SplitPoint, images: Tensor) -> Tensor:
        if failures:
            raise failures.pop()
        return prefix(self, images)

    monkeypatch.setattr(SplitPoint, "prefix", fail_once)
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        find_split_point(network, random_images(network))
    again = find_split_point(network, random_images(network))
    assert again is not None
    assert again.name == expected.name
