"""Layers avoid CPU kernels that are broken or slow, and compute the same results."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import CPU, Backbone, config

from autotl import backbone
from autotl.frozen.split_point import find_split_point
from autotl.models import Model, build_model, count_parameters, select_device
from autotl.tasks import numbered_classes
from autotl.training import set_trainable

BF16 = select_device("cpu", "bfloat16")


def random_images(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


@pytest.fixture
def networks() -> tuple[Model, Model]:
    """The same network for float32 and for bfloat16."""
    chosen = config(backbone="mobilenetv3_small_050")
    float32, bfloat16 = (
        build_model(chosen, numbered_classes(3), 32, device, 1) for device in (CPU, BF16)
    )
    return float32, bfloat16


def exempted(network: Model) -> list[str]:
    """Names of the layers that train in float32."""
    return [n for n, m in network.named_modules() if type(m).__mro__[1].__name__ == "_InFloat32"]


def test_slow_depthwise_convolutions_train_in_float32(networks: tuple[Model, Model]) -> None:
    float32, bfloat16 = networks
    assert not exempted(float32)
    layers = {n: m for n, m in bfloat16.named_modules() if isinstance(m, nn.Conv2d)}
    depthwise = {n: m for n, m in layers.items() if m.groups > 1}
    slow = [n for n, m in depthwise.items() if m.kernel_size == (5, 5) or m.stride == (2, 2)]
    assert {depthwise[n].kernel_size for n in slow} == {(3, 3), (5, 5)}
    assert len(slow) < len(depthwise)
    assert exempted(bfloat16) == slow
    dtypes: dict[str, torch.dtype] = {}
    for name, module in layers.items():
        module.register_forward_hook(lambda *a, n=name: dtypes.update({n: a[2].dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        bfloat16.eval()(random_images(2, 32))
    assert {n for n, t in dtypes.items() if t == torch.float32} == set(slow)
    assert torch.bfloat16 in dtypes.values()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        bfloat16(random_images(2, 32))
    assert set(dtypes.values()) == {torch.bfloat16}  # the forward pass is fast
    bfloat16.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        bfloat16(random_images(2, 32))
    assert set(dtypes.values()) == {torch.bfloat16}


def test_only_grouped_convolutions_that_are_large_or_strided_are_exempted() -> None:
    @backbone
    def mixed() -> nn.Module:
        layers = ((5, 1, 1), (3, 8, 1), (5, 8, 1), ((1, 7), 4, 1), (3, 8, 2), (3, 1, 2))
        module = Backbone()
        module.unused = nn.ModuleList(
            nn.Conv2d(16, 16, kernel, stride, groups=groups) for kernel, groups, stride in layers
        )
        return module

    network = build_model(config(backbone=mixed), numbered_classes(3), None, BF16)
    assert exempted(network) == [f"backbone.unused.{i}" for i in (2, 3, 4)]


def test_exempted_layers_change_neither_state_keys_nor_results(
    networks: tuple[Model, Model],
) -> None:
    float32, bfloat16 = networks
    assert list(float32.state_dict()) == list(bfloat16.state_dict())
    assert count_parameters(float32) == count_parameters(bfloat16)
    float32.load_state_dict(bfloat16.state_dict())
    images = random_images(2, 32)
    with torch.no_grad():
        assert torch.equal(float32.eval()(images), bfloat16.eval()(images))
        with torch.autocast("cpu", torch.bfloat16):
            expected, actual = float32(images), bfloat16(images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(expected.float(), actual.float(), rtol=0.05, atol=0.05 * scale)


def test_training_a_copy_of_an_exempted_network_does_not_change_the_original(
    networks: tuple[Model, Model],
) -> None:
    _, original = networks
    before = {k: v.clone() for k, v in original.state_dict().items()}
    images = random_images(4, 32)
    other = copy.deepcopy(original).train()
    assert exempted(other) == exempted(original)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = functional.cross_entropy(other(images).float(), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    trained = other.state_dict()
    layer = f"{exempted(other)[0]}.weight"
    assert not torch.equal(before[layer], trained[layer])
    original.load_state_dict(trained)
    with torch.no_grad():  # the copy computes with its own weights, not with the original's
        assert torch.equal(original.eval()(images), other.eval()(images))


def test_a_network_with_exempted_layers_can_be_split(networks: tuple[Model, Model]) -> None:
    _, network = networks
    top = [p for block in network.blocks[-4:] for p in block]
    set_trainable(network, [{"params": [*top, *network.head.parameters()]}])
    images = random_images(4, 32)
    split = find_split_point(network, images)
    assert split is not None
    parameters = network.backbone.named_parameters()
    in_prefix = {n for n, p in parameters if id(p) in split.prefix_parameters}
    layers = [n.removeprefix("backbone.") for n in exempted(network)]
    assert 0 < sum(f"{n}.weight" in in_prefix for n in layers) < len(layers)
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(split.suffix(split.prefix(images)), network(images))


TRAIN_NARROW_STEM = """
import torch
from torch import nn
from autotl.models import cpu_kernels

network = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2))
cpu_kernels.apply_workarounds(network, bfloat16=False)
for p in network.parameters():
    if p.ndim == 4:
        p.data = p.data.contiguous(memory_format=torch.channels_last)
images = torch.randn(4, 3, 256, 256).contiguous(memory_format=torch.channels_last)
for _ in range(4):
    network(images).sum().backward()
print("alive")
"""


def test_training_a_narrow_strided_convolution_does_not_crash_the_process() -> None:
    command = [sys.executable, "-c", TRAIN_NARROW_STEM]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stdout == "alive\n", f"{process.returncode}: {process.stderr}"


def test_only_narrow_strided_convolutions_of_one_pixel_are_made_contiguous() -> None:
    @backbone
    def mixed() -> nn.Module:
        module = Backbone()
        layers = ((3, 1, 2), (15, 1, (1, 2)), (16, 1, 2), (3, 3, 2), (3, 1, 1))
        module.unused = nn.ModuleList(nn.Conv2d(c, 8, k, stride=s) for c, k, s in layers)
        return module

    network = build_model(config(backbone=mixed), numbered_classes(3), None, CPU)
    mixins = {n: type(m).__mro__[1].__name__ for n, m in network.named_modules()}
    contiguous = [n for n, mixin in mixins.items() if mixin == "_Contiguous"]
    assert contiguous == ["backbone.unused.0", "backbone.unused.1"]
    changed, plain = network.backbone.unused[0], nn.Conv2d(3, 8, 1, stride=2)
    plain.load_state_dict(changed.state_dict())
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(changed(images), plain(images))
