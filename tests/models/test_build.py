"""Building networks from configurations, without effects on torch's global state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from toy import CPU, SIDE, config, model

from autotl import backbone, head
from autotl.errors import PluginError
from autotl.models import Model, build, build_backbone, build_model, replace_head, select_device
from autotl.tasks import numbered_classes


def test_the_head_is_as_wide_as_the_backbones_output() -> None:
    network = model(backbone="mobilenetv3_small_050", size=32)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert network.backbone.num_features == 288  # but the pooled features are wider
    assert network.eval().features(images).shape == (2, 1024)
    assert network(images).shape == (2, 3)


def test_the_image_size_is_the_backbones_unless_given() -> None:
    assert model().expects.size == SIDE
    assert model(size=24).expects.size == 24
    assert model().expects.interpolation == "bicubic"


def test_the_same_seed_builds_the_same_network() -> None:
    first, same, other = (model(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[k], same[k]) for k in first)
    assert not torch.equal(first["head.1.weight"], other["head.1.weight"])


@backbone
def without_interface() -> nn.Module:
    """A backbone without timm's attributes."""
    return nn.Flatten()


@backbone
def number() -> Any:
    """A backbone plugin that returns no module."""
    return 7


@head
def nothing(features: int, classes: int) -> Any:
    """A head plugin that returns no module."""
    return None


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"backbone": without_interface},
            "backbone 'without_interface' does not implement timm's interface",
        ),
        ({"backbone": number}, "backbone plugin 'number' returned int"),
        ({"head": nothing}, "head plugin 'nothing' returned NoneType"),
    ],
)
def test_a_plugin_that_breaks_its_contract_is_named(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=message):
        model(**chosen)


CHOSEN = config(backbone="test_resnet", head="mlp")
DEVICES = [
    pytest.param("cpu", "float32"),
    pytest.param("cpu", "bfloat16"),
    pytest.param("cuda", "auto", marks=pytest.mark.gpu),
]


def weights_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def build_whole(device: Any) -> nn.Module:
    return build_model(CHOSEN, numbered_classes(3), 32, device, seed=5)


def build_only_backbone(device: Any) -> nn.Module:
    return build_backbone(CHOSEN["backbone"], 32, seed=5)[0]


def build_new_head(device: Any) -> nn.Module:
    return replace_head(
        build_model(CHOSEN, numbered_classes(3), 32, device), CHOSEN["head"], seed=5
    ).head


def build_head_on_map(device: Any) -> nn.Module:
    chosen = config(backbone="test_resnet", head="attention")
    return build_model(chosen, numbered_classes(3), 32, device, seed=5)


@pytest.mark.parametrize(("name", "precision"), DEVICES)
@pytest.mark.parametrize(
    "build", [build_whole, build_only_backbone, build_new_head, build_head_on_map]
)
def test_building_leaves_torchs_global_state_as_it_was(
    build: Callable[[Any], nn.Module], name: str, precision: str
) -> None:
    device = select_device(name, precision)

    def global_state() -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        return states + (torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])

    def cudnn_flags() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    torch.rand(3)
    states, flags = global_state(), cudnn_flags()
    first = weights_of(build(device))
    assert all(torch.equal(a, b) for a, b in zip(states, global_state(), strict=True))
    assert cudnn_flags() == flags
    torch.rand(3)
    second = weights_of(build(device))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_are_those_that_torch_draws_after_it_was_seeded() -> None:
    network = build_model(CHOSEN, numbered_classes(3), 32, CPU, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected_backbone = CHOSEN["backbone"].plugin.call({"size": 32}, CHOSEN["backbone"].params)
        torch.manual_seed(5)
        context = {"features": network.backbone.num_features, "classes": 3}
        expected_head = CHOSEN["head"].plugin.call(context, CHOSEN["head"].params)
    pairs = ((network.backbone, expected_backbone), (network.head, expected_head))
    for built, expected in pairs:
        state = expected.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in built.state_dict().items())


def test_a_replaced_head_shares_the_backbone() -> None:
    network = model()
    other = replace_head(network, config(head="mlp")["head"], 3)
    assert isinstance(other, Model)
    assert other.backbone is network.backbone
    assert other.expects == network.expects


def test_memory_that_runs_out_does_not_make_a_head_incompatible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    network = model()
    monkeypatch.setattr(build, "extract_features", fail)
    takes_map = head(name="h", takes="map")(lambda features, classes: nn.Linear(features, classes))
    network.head_input = "map"
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        replace_head(network, config(head=takes_map)["head"], 3)
