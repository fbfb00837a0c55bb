"""Image encoders of transformers: folders, preprocessing, timm's interface, saved models."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from autotl.artifact import model_folder as artifact
from autotl.data.toy_images import squares
from autotl.errors import Incompatible, PluginError, WeightsError
from autotl.frozen.split_point import find_split_point
from autotl.models import Model, build_model
from autotl.models.build import build_backbone
from autotl.models.model import extract_features
from autotl.space import registry
from autotl.space.space import Choice
from autotl.tasks import numbered_classes
from autotl.testing import check, toy

pytest.importorskip("transformers")

from autotl_plugins import hf_network, hub
from autotl_plugins.hf_backbones import hf_model, locate, members, refuse

VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
VIT |= {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
CNN = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
CLIP_TEXT = {"num_hidden_layers": 1, "hidden_size": 16, "vocab_size": 50}
CLIP_TEXT |= {"num_attention_heads": 2, "intermediate_size": 16}
ENCODERS: dict[str, dict[str, Any]] = {
    "resnet": {**CNN, "embedding_size": 8},
    "convnext": {**CNN, "image_size": 64},
    "vit": VIT,
    "dinov2_with_registers": VIT,
    "beit": {**VIT, "use_mean_pooling": True},
    "swinv2": {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2]}
    | {"image_size": 64, "window_size": 4},
    "clip": {"vision_config": VIT, "text_config": CLIP_TEXT},
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid network access."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("used the network"))


def write_encoder(folder: Path, architecture: str = "resnet", **options: Any) -> Path:
    """Save an encoder with random weights, as transformers writes pretrained ones."""
    from transformers import AutoConfig, AutoModel

    settings = {**ENCODERS.get(architecture, {}), **options}
    with hub.quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(architecture, **settings))
        model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


def build(folder: Path, size: int | None = None, in_chans: int = 3) -> Any:
    name = f"hf:{folder}"
    return hf_model(name, locate(name, None), size, in_chans=in_chans).eval()


def test_names_of_the_hub_and_folders() -> None:
    assert members([]) == []
    assert members(["hf:microsoft/resnet-18", "hf:./x", "hf:./x"]) == [
        "hf:microsoft/resnet-18",
        "hf:./x",
    ]
    for pattern, message in (("hf:a b", "not a name of a model"), ("resnet18", "named hf:NAME")):
        with pytest.raises(PluginError, match=message):
            refuse(pattern)


def test_a_model_that_is_nowhere_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="not in the Hugging Face cache, and HF_HUB_OFFLINE"):
        locate("hf:microsoft/resnet-unheard", None)
    with pytest.raises(WeightsError, match="there is no folder"):
        locate("hf:./missing", None)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_heads_take_features_maps_and_stages(tmp_path: Path, architecture: str) -> None:
    folder = write_encoder(tmp_path, architecture)
    for size in (None, 64):
        network = build(folder, size)
        side = network.expects.size
        assert side == size or size is None
        images = torch.rand(2, 3, side, side)
        with torch.no_grad():
            features = extract_features(network, images, "features")
            assert features.shape == (2, network.head_hidden_size)
            maps = extract_features(network, images, "map")
            assert round(maps.shape[1] ** 0.5) ** 2 == maps.shape[1]
            assert maps.shape[2] == network.num_features
            stages = extract_features(network, images, "stages")
        width = sum(stage["num_chs"] for stage in network.feature_info)
        assert stages.shape == (2, width + features.shape[1])
        assert torch.equal(stages[:, width:], features)
    find_block = network.group_matcher()
    blocks = [find_block(name) for name, _ in network.named_parameters()]
    assert blocks == sorted(blocks)
    assert max(blocks) >= 3


def test_the_features_are_those_of_the_library(tmp_path: Path) -> None:
    from transformers import AutoModel

    images = torch.rand(2, 3, 32, 32)
    folder = write_encoder(tmp_path / "vit", "vit")
    with hub.quiet(), torch.no_grad():
        tokens = AutoModel.from_pretrained(folder).eval()(images).last_hidden_state
        network = build(folder)
        assert torch.allclose(network(images), tokens[:, 0], atol=1e-6)
        assert torch.allclose(extract_features(network, images, "map"), tokens[:, 1:], atol=1e-6)
    folder = write_encoder(tmp_path / "resnet")
    with hub.quiet(), torch.no_grad():
        pooled = AutoModel.from_pretrained(folder).eval()(images).pooler_output
        assert torch.allclose(build(folder, 32)(images), pooled.flatten(1), atol=1e-6)


def test_the_preprocessing_is_that_of_the_folder(folder: Path) -> None:
    expects = build(folder).expects
    assert (expects.size, expects.mean[0], expects.interpolation) == (224, 0.485, "bicubic")
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3, "resample": 2}
    settings |= {"size": {"shortest_edge": 48}, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    hf_network.load.cache_clear()
    expects = build(folder).expects
    assert (expects.size, expects.mean) == (48, (0.1, 0.2, 0.3))
    assert (expects.std, expects.interpolation) == ((0.5, 0.5, 0.5), "bilinear")


def test_weights_are_loaded_once_and_copied(folder: Path) -> None:
    one, other = build(folder), build(folder)
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert next(other.parameters()).abs().sum() > 0
    assert hf_network.load(str(folder)) is hf_network.load(str(folder))


def test_random_weights_depend_on_the_seed(folder: Path) -> None:
    plugin = registry.load().of_input("image").get_untrained("backbone", f"hf:{folder}")
    first, same, other = (
        build_backbone(Choice(plugin, {}), 32, seed)[0].state_dict() for seed in (0, 0, 1)
    )
    name = next(name for name in first if name.endswith("convolution.weight"))
    assert torch.equal(first[name], same[name])
    assert not torch.equal(first[name], other[name])


def test_only_complete_safetensors_of_images_are_read(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    weights = locate(f"hf:{folder}", None)
    assert weights.licence == "apache-2.0"
    assert weights.parameters == sum(p.numel() for p in build(folder).parameters())
    state = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**state, "depths": [1, 1, 2, 2]}))
    hf_network.load.cache_clear()
    with pytest.raises(WeightsError, match=r"encoder of images: its weights lack \d+ tensors"):
        build(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"no model\.safetensors but a pytorch_model\.bin"):
        locate(f"hf:{folder}", None)
    texts = write_encoder(tmp_path / "texts", "bert", **CLIP_TEXT)
    with pytest.raises(WeightsError, match="BertModel takes no images"):
        build(texts)


def test_a_model_that_hides_parts_of_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="hides random parts"):
        build(write_encoder(tmp_path, "vit_mae", **VIT))


def test_a_model_is_named_where_it_does_not_accept_a_size(tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match=r"encoder does not accept images of 2 x 2"):
        build(write_encoder(tmp_path / "encoder", "vit"), 2)


@pytest.mark.parametrize("architecture", ["resnet", "vit"])
def test_the_frozen_prefix_is_found(tmp_path: Path, architecture: str) -> None:
    network = build(write_encoder(tmp_path, architecture), 32)
    model = Model(network, torch.nn.Linear(network.head_hidden_size, 3), network.expects).eval()
    for p in model.backbone.parameters():
        p.requires_grad_(False)
    for p in model.blocks[-1]:
        p.requires_grad_(True)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    split = find_split_point(model, images)
    assert split is not None
    with torch.no_grad():
        assert torch.allclose(split.features(split.prefix(images)), model.features(images))


def test_a_saved_model_does_not_need_the_folder(folder: Path, tmp_path: Path) -> None:
    plugins = registry.load()
    name = f"hf:{folder}"
    backbone = Choice(plugins.of_input("image").get("backbone", name), {})
    config = {"backbone": backbone, "head": Choice(plugins.get("head", "linear"), {})}
    model = build_model(config, numbered_classes(3), 32, toy.CPU)
    artifact.save(tmp_path / "model", model, config, numbered_classes(3), {})
    items = [example.item for example in squares([2, 2, 2])]
    expected = artifact.load(tmp_path / "model", plugins).predict_items(items)
    shutil.rmtree(folder)
    loaded = artifact.load(tmp_path / "model", plugins)
    assert isinstance(loaded.network.backbone, hf_network.HfBackbone)
    assert (loaded.predict_items(items) == expected).all()


@pytest.mark.parametrize("architecture", ["resnet", "vit", "swinv2"])
def test_the_first_layer_is_changed_for_other_channels(tmp_path: Path, architecture: str) -> None:
    folder = write_encoder(tmp_path, architecture)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = build(folder, 64)(images.expand(-1, 3, -1, -1))
        for channels in (1, 6):
            network = build(folder, 64, channels)
            assert network.expects.shape == (64, 64, channels)
            actual = network(images.expand(-1, channels, -1, -1))
            assert torch.allclose(actual, expected, atol=1e-4)


def test_a_member_keeps_the_contract(folder: Path) -> None:
    plugins = registry.load().of_input("image")
    assert check(plugins.get_untrained("backbone", f"hf:{folder}")) == 1
