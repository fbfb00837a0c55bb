"""Backbones of torchvision: names, sources of weights, and timm's interface."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from autotl_plugins import backbones
from autotl_plugins import torchvision_backbones as family
from autotl_plugins.torchvision_backbones import locate, members, read_names, torchvision_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from autotl.data import IMAGES
from autotl.errors import Incompatible, PluginError, WeightsError
from autotl.frozen.split_point import find_split_point
from autotl.models import Model, plan_groups
from autotl.models.build import build_backbone
from autotl.models.model import extract_features
from autotl.space import registry
from autotl.space.space import Choice
from autotl.testing import check, toy


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Forbid network access, and hide earlier downloads of the user."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("used the network"))
    for module in (family, backbones):
        monkeypatch.setattr(module, "is_reachable", lambda where: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def save_network(file: Path, name: str = "resnet18") -> nn.Module:
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network: nn.Module = models.get_model(name, weights=None)
    save_file(network.state_dict(), file)
    return network


def test_the_names_in_the_sources_are_those_that_torchvision_registers() -> None:
    assert read_names() == set(models.list_models(module=models))


def test_without_patterns_there_are_no_members() -> None:
    assert members([]) == []
    selected, excluded = registry.load().select("backbone", ["torchvision:resnet18"])
    assert [p.name for p in selected] == []
    assert excluded[0].name == "torchvision:resnet18"


def test_the_default_set_of_a_search_is_that_of_timm() -> None:
    selected, excluded = registry.load().for_input(IMAGES).select("backbone")
    names = {entry.name for entry in (*selected, *excluded)}
    assert names == set(backbones.members([]))


def test_patterns_match_names_with_the_prefix() -> None:
    found = members(["torchvision:resnet*", "torchvision:resnet18", "torchvision:alexnet"])
    assert found[:2] == ["torchvision:resnet101", "torchvision:resnet152"]
    assert found[-1] == "torchvision:alexnet"
    assert len(found) == len(set(found)) == 6


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnt18", "did you mean 'torchvision:resnet18'"),
        ("resnt18", "did you mean 'resnet18'"),
        ("torchvision:*unheard*", "torchvision has no model"),
        ("hf:a b", "hf:a b is not a name of a model of the hub"),
    ],
)
def test_misspelt_names_have_near_ones(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        registry.load().select("backbone", [name])


def test_names_are_refused_without_loading_libraries() -> None:
    code = (
        "import sys; from autotl_plugins import torchvision_backbones as t, hf_backbones as h\n"
        "for f, name in ((t, 'torchvision:resnt18'), (h, 'hf:a b')):\n"
        "    try: f.refuse(name)\n"
        "    except Exception as e: print(type(e).__name__)\n"
        "print({'torch', 'torchvision', 'transformers', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PluginError", "PluginError", "set()"]


def test_weights_are_found_in_a_folder_and_in_the_cache_of_torch(tmp_path: Path) -> None:
    name = "torchvision:resnet18"
    with pytest.raises(WeightsError, match=r"no resnet18.safetensors in .*resnet18\.pth"):
        locate(name, tmp_path)
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert locate(name, None).file == cached
    save_network(tmp_path / "resnet18.safetensors")
    assert locate(name, tmp_path).file == tmp_path / "resnet18.safetensors"
    save_network(tmp_path / "torchvision" / "resnet18.safetensors")
    found = locate(name, tmp_path)
    assert found.file == tmp_path / "torchvision" / "resnet18.safetensors"
    assert (found.licence, found.parameters) == ("unknown", 11_176_512)
    with pytest.raises(WeightsError, match="does not exist"):
        locate(name, tmp_path / "missing")


def test_the_features_are_those_before_the_last_layer(tmp_path: Path) -> None:
    original = save_network(tmp_path / "resnet18.safetensors").eval()
    weights = locate("torchvision:resnet18", tmp_path)
    network = torchvision_model("torchvision:resnet18", weights, 64).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = original(images)
        assert torch.allclose(original.fc(network(images)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("other", "is not a weights file for torchvision:resnet18"),
        ("text", "cannot be read from file"),
    ],
)
def test_files_of_other_models_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "resnet18.safetensors"
    if content == "other":
        save_network(file, "squeezenet1_1")
    else:
        file.write_text("nothing", encoding="utf-8")
    weights = locate("torchvision:resnet18", tmp_path)
    with pytest.raises(WeightsError, match=message):
        torchvision_model("torchvision:resnet18", weights, 64)


def test_a_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(tmp_path / "run"), "w")

    (tmp_path / "resnet18.pth").write_bytes(pickle.dumps({"conv1.weight": Hostile()}))
    with pytest.raises(WeightsError, match="cannot be read"):
        torchvision_model("torchvision:resnet18", locate("torchvision:resnet18", tmp_path), 64)
    assert not (tmp_path / "run").exists()


SMALL = {
    "resnet18": ["network.layer1", "network.layer2", "network.layer3", "network.layer4"],
    "mobilenet_v3_small": [f"network.features.{n}" for n in (1, 3, 8, 12)],
    "squeezenet1_1": [f"network.features.{n}" for n in (1, 4, 7, 12)],
    "shufflenet_v2_x0_5": ["network.maxpool", "network.stage2", "network.stage3", "network.conv5"],
    "regnet_y_400mf": [f"network.trunk_output.block{n}" for n in (1, 2, 3, 4)],
    "swin_t": [f"network.features.{n}" for n in (1, 3, 5, 7)],
    "vit_b_32": [
        *(f"network.encoder.layers.encoder_layer_{n}" for n in (8, 9, 10)),
        "network.encoder",
    ],
}
LARGE = ["googlenet", "inception_v3", "densenet121", "efficientnet_b0", "convnext_tiny", "maxvit_t"]
LARGE += ["alexnet", "vgg11_bn", "mnasnet0_5", "mobilenet_v2", "swin_v2_t", "resnext50_32x4d"]


def check_interface(name: str, size: int) -> nn.Module:
    network = torchvision_model(f"torchvision:{name}", None, size).eval()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        features = extract_features(network, images, "features")
        assert features.shape == (2, network.head_hidden_size)
        assert extract_features(network, images, "map").shape[2] == network.num_features
        stages = extract_features(network, images, "stages")
    width = sum(stage["num_chs"] for stage in network.feature_info)
    assert stages.shape == (2, width + features.shape[1])
    assert torch.equal(stages[:, width:], features)
    find_block = network.group_matcher()
    blocks = [find_block(parameter) for parameter, _ in network.named_parameters()]
    assert blocks == sorted(blocks)
    assert set(blocks) == set(range(max(blocks) + 1))
    assert len(set(blocks)) > 5
    return network


@pytest.mark.parametrize("name", SMALL)
def test_heads_take_features_maps_and_stages(name: str) -> None:
    network = check_interface(name, 64)
    assert [stage["module"] for stage in network.feature_info] == SMALL[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_other_architectures_have_the_interface(name: str) -> None:
    check_interface(name, {"inception_v3": 96, "maxvit_t": 224}.get(name, 64))


def choose(name: str = "resnet18") -> Choice:
    return Choice(registry.load().get_untrained("backbone", f"torchvision:{name}"), {})


def test_the_input_is_that_of_the_weights() -> None:
    _, expects = build_backbone(choose("efficientnet_v2_s"), None)
    assert (expects.size, expects.shape) == (384, (384, 384, 3))
    assert expects.describe()["interpolation"] == "bilinear"


def test_positions_are_resized_and_wrong_sizes_refused(tmp_path: Path) -> None:
    original = save_network(tmp_path / "vit_b_32.safetensors", "vit_b_32")
    weights = locate("torchvision:vit_b_32", tmp_path)
    network = torchvision_model("torchvision:vit_b_32", weights, 64)
    positions: Tensor = network.network.encoder.pos_embedding
    assert positions.shape == (1, 5, 768)
    assert torch.equal(positions[:, 0], original.encoder.pos_embedding[:, 0])
    with pytest.raises(Incompatible, match="does not accept images of 65 x 65"):
        torchvision_model("torchvision:vit_b_32", None, 65)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_the_frozen_prefix_is_found(name: str) -> None:
    plugins = registry.load()
    backbone, expects = build_backbone(choose(name), 64)
    model = Model(backbone, nn.Linear(backbone.head_hidden_size, 3), expects)
    freeze = plugins.get("freeze", "last_blocks")
    [groups] = plan_groups(model, Choice(freeze, freeze.defaults), 1)
    trainable = {id(p) for group in groups for p in group["params"]}
    for p in model.parameters():
        p.requires_grad_(id(p) in trainable)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    split = find_split_point(model, images)
    assert split is not None
    assert 0 < len(split.prefix_parameters) < len(list(backbone.parameters()))
    model.eval()
    with torch.no_grad():
        assert torch.allclose(split.features(split.prefix(images)), model.features(images))


def test_gradients_reach_every_parameter() -> None:
    backbone, expects = build_backbone(choose(), 32)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    Model(backbone, nn.Identity(), expects).to(toy.CPU.torch_device)(images).sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_the_first_layer_is_changed_for_other_channels(tmp_path: Path, name: str) -> None:
    save_network(tmp_path / f"{name}.safetensors", name)
    weights = locate(f"torchvision:{name}", tmp_path)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = torchvision_model(f"torchvision:{name}", weights, 64).eval()(
            images.expand(-1, 3, -1, -1)
        )
        for channels in (1, 6):
            network = torchvision_model(f"torchvision:{name}", weights, 64, channels).eval()
            assert network.pretrained_cfg["input_size"] == (channels, 64, 64)
            actual = network(images.expand(-1, channels, -1, -1))
            assert torch.allclose(actual, expected, atol=1e-4)


def test_a_member_keeps_the_contract() -> None:
    assert check(registry.load().get_untrained("backbone", "torchvision:shufflenet_v2_x0_5")) == 1
