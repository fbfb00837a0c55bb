"""Layers keep clear of kernels that are broken or slow, and compute the same."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from toy import CPU, Backbone, config

from autotl import backbone
from autotl.frozen import split_point
from autotl.models import Model, build_model, device, parameters
from autotl.training import set_trainable

BF16 = device("cpu", "bfloat16")


def pictures(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def pair(name: str, size: int) -> tuple[Model, Model]:
    """The same network for float32 and for bfloat16."""
    chosen = config(backbone=name)
    plain, exempt = (build_model(chosen, 3, size, where, 1) for where in (CPU, BF16))
    return plain, exempt


def exempted(network: Model) -> list[str]:
    return [n for n, m in network.named_modules() if type(m).__mro__[1].__name__ == "_InFloat32"]


def test_slow_depthwise_convolutions_stay_in_float32() -> None:
    plain, exempt = pair("mobilenetv3_small_050", 32)
    assert not exempted(plain)
    kinds = {n: m for n, m in exempt.named_modules() if isinstance(m, nn.Conv2d)}
    depthwise = {n: m for n, m in kinds.items() if m.groups > 1}
    slow = [n for n, m in depthwise.items() if m.kernel_size == (5, 5) or m.stride == (2, 2)]
    assert {depthwise[n].kernel_size for n in slow} == {(3, 3), (5, 5)}
    assert len(slow) < len(depthwise)
    assert exempted(exempt) == slow
    seen: dict[str, torch.dtype] = {}
    for name, module in kinds.items():
        module.register_forward_hook(lambda *a, n=name: seen.update({n: a[2].dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        exempt.eval()(pictures(2, 32))
    assert {n for n, t in seen.items() if t == torch.float32} == set(slow)
    assert torch.bfloat16 in seen.values()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        exempt(pictures(2, 32))
    assert set(seen.values()) == {torch.bfloat16}  # ahead they are fast
    exempt.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        exempt(pictures(2, 32))
    assert set(seen.values()) == {torch.bfloat16}


def test_only_grouped_convolutions_that_are_large_or_strided_are_exempted() -> None:
    @backbone
    def mixed() -> nn.Module:
        kinds = ((5, 1, 1), (3, 8, 1), (5, 8, 1), ((1, 7), 4, 1), (3, 8, 2), (3, 1, 2))
        made = Backbone()
        made.unused = nn.ModuleList(
            nn.Conv2d(16, 16, k, stride, groups=groups) for k, groups, stride in kinds
        )
        return made

    network = build_model(config(backbone=mixed), 3, None, BF16)
    assert exempted(network) == [f"backbone.unused.{i}" for i in (2, 3, 4)]


def test_exempted_layers_change_neither_keys_nor_results() -> None:
    plain, exempt = pair("mobilenetv3_small_050", 32)
    assert list(plain.state_dict()) == list(exempt.state_dict())
    assert parameters(plain) == parameters(exempt)
    plain.load_state_dict(exempt.state_dict())
    images = pictures(2, 32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), exempt.eval()(images))
        with torch.autocast("cpu", torch.bfloat16):
            one, other = plain(images), exempt(images)
    scale = float(one.abs().max())
    torch.testing.assert_close(one.float(), other.float(), rtol=0.05, atol=0.05 * scale)


def test_a_copy_of_an_exempted_network_learns_alone() -> None:
    _, original = pair("mobilenetv3_small_050", 32)
    before = {k: v.clone() for k, v in original.state_dict().items()}
    images = pictures(4, 32)
    other = copy.deepcopy(original).train()
    assert exempted(other) == exempted(original)
    steps = torch.optim.SGD(other.parameters(), lr=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = functional.cross_entropy(other(images).float(), torch.tensor([0, 1, 2, 0]))
    loss.backward()
    steps.step()
    assert all(torch.equal(before[k], v) for k, v in original.state_dict().items())
    moved = other.state_dict()
    layer = f"{exempted(other)[0]}.weight"
    assert not torch.equal(before[layer], moved[layer])
    original.load_state_dict(moved)
    with torch.no_grad():  # the copy computes with its own weights, not with the original's
        assert torch.equal(original.eval()(images), other.eval()(images))


def test_exempted_layers_can_be_cut() -> None:
    _, network = pair("mobilenetv3_small_050", 32)
    top = [p for block in network.blocks[-4:] for p in block]
    set_trainable(network, [{"params": [*top, *network.head.parameters()]}])
    images = pictures(4, 32)
    found = split_point.find(network, images)
    assert found is not None
    kept = {n for n, p in network.backbone.named_parameters() if id(p) in found.parameters}
    below = [n for n in exempted(network) if f"{n.removeprefix('backbone.')}.weight" in kept]
    assert 0 < len(below) < len(exempted(network))
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found.suffix(found.prefix(images)), network(images))


STEP = """
import torch
from torch import nn
from toy import Backbone, model
from autotl import backbone

@backbone
def narrow():
    made = Backbone()
    made.stem = nn.Sequential(nn.Conv2d(3, 8, 1, stride=2), nn.ReLU())
    return made

network = model(backbone=narrow, size=256)
for _ in range(4):
    network(torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8)).sum().backward()
print("alive")
"""


def test_a_narrow_strided_convolution_does_not_end_the_process() -> None:
    here = Path(__file__).parents[1]
    command = [sys.executable, "-c", STEP]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert done.stdout == "alive\n", f"{done.returncode}: {done.stderr}"


def test_only_narrow_strided_convolutions_of_one_pixel_are_made_contiguous() -> None:
    @backbone
    def mixed() -> nn.Module:
        made = Backbone()
        kinds = ((3, 1, 2), (15, 1, (1, 2)), (16, 1, 2), (3, 3, 2), (3, 1, 1))
        made.unused = nn.ModuleList(nn.Conv2d(*(c, 8, k), stride=s) for c, k, s in kinds)
        return made

    network = build_model(config(backbone=mixed), 3, None, CPU)
    kinds = {n: type(m).__mro__[1].__name__ for n, m in network.named_modules()}
    found = [n for n, kind in kinds.items() if kind == "_Contiguous"]
    assert found == ["backbone.unused.0", "backbone.unused.1"]
    made, plain = network.backbone.unused[0], nn.Conv2d(3, 8, 1, stride=2)
    plain.load_state_dict(made.state_dict())
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(made(images), plain(images))
