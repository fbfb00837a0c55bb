"""Backbones with random weights, and with those of a folder alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from autotl_plugins import backbones
from autotl_plugins.initial_weights import (
    locate_random,
    locate_source,
    scratch_members,
    scratch_model,
    source_members,
    source_model,
)
from safetensors.torch import save_file

from autotl.artifact import weights_folder
from autotl.errors import OtherFamily, PluginError, WeightsError
from autotl.space import registry
from autotl.space.plugin import Weights
from autotl.space.registry import BackboneCriteria

NAME = "test_resnet"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backbones, "is_reachable", lambda where: False)
    monkeypatch.setattr(backbones, "_find_in_cache", lambda cfg: None)


def write_weights(folder: Path, name: str = NAME) -> dict[str, torch.Tensor]:
    """Write weights as source training does; return the tensors."""
    tensors = timm.create_model(name, num_classes=0).state_dict()
    facts = {"source": "birds/", "image_size": 48, "licence": "cc-by-4.0"}
    weights_folder.save(folder, name, tensors, facts)
    return tensors


def write_model_folder(folder: Path, own: str = NAME, **content: object) -> None:
    """Write what a model folder has of a backbone and a head."""
    folder.mkdir()
    state = timm.create_model(NAME, num_classes=0).state_dict()
    tensors = {f"backbone.{key}": tensor for key, tensor in state.items()}
    save_file({**tensors, "head.weight": torch.zeros(3, 2)}, folder / "model.safetensors")
    config = {
        "schema": 1,
        "backbone": {own: {}},
        "head": {"linear": {}},
        "classes": ["a", "b"],
        "input": {"size": 40},
        "weights": {"licence": "mit"},
    }
    (folder / "config.json").write_text(json.dumps({**config, **content}))


def test_names_have_a_prefix_and_are_those_of_timm() -> None:
    assert scratch_members(["scratch:resnet18", "scratch:test_vi?"])[:2] == [
        "scratch:resnet18",
        "scratch:test_vit",
    ]
    assert source_members(["source:@offline"]) == [f"source:{name}" for name in backbones.PACKAGES]
    assert scratch_members([]) == source_members([]) == []
    with pytest.raises(PluginError, match=r"did you mean 'resnet18'"):
        scratch_members(["scratch:resnet_18"])
    with pytest.raises(PluginError, match="expected scratch:NAME"):
        scratch_members(["scratch:torchvision:resnet18"])
    with pytest.raises(OtherFamily):
        source_members(["resnet18"])


def test_random_weights_are_random_and_need_neither_licence_nor_download() -> None:
    weights = locate_random(f"scratch:{NAME}", None)
    assert (weights.origin, weights.is_random, weights.architecture) == (
        "random weights",
        True,
        NAME,
    )
    assert weights.parameters == sum(
        p.numel() for p in timm.create_model(NAME, num_classes=0).parameters()
    )
    assert not BackboneCriteria(licences=("apache-2.0",)).rejection_reason(weights)
    assert BackboneCriteria(max_parameters=9).rejection_reason(weights)
    one, two = (scratch_model(f"scratch:{NAME}", weights, 32).state_dict() for _ in range(2))
    assert not torch.equal(one["conv1.0.weight"], two["conv1.0.weight"])


def test_a_folder_has_its_weights_with_what_is_written_in_them(tmp_path: Path) -> None:
    tensors = write_weights(tmp_path)
    weights = locate_source(f"source:{NAME}", tmp_path)
    file = tmp_path / f"{NAME}.safetensors"
    assert weights.origin == f"file {file}, trained on birds/"
    assert (weights.file, weights.licence, weights.size) == (file, "cc-by-4.0", 48)
    model = source_model(f"source:{NAME}", weights, None)
    assert model.pretrained_cfg["input_size"] == (3, 48, 48)  # the size that they were trained on
    assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())
    assert backbones.locate(NAME, tmp_path) == weights  # without the prefix they come first


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet"])
def test_weights_of_any_architecture_are_loaded_as_they_were_saved(
    tmp_path: Path, name: str
) -> None:
    tensors = write_weights(tmp_path, name)
    model = source_model(f"source:{name}", locate_source(f"source:{name}", tmp_path), None)
    if name != "test_vit":  # whose positions are interpolated for 48 px
        assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())
    assert model(torch.zeros(2, 3, 48, 48)).shape == (2, model.num_features)


def test_weights_for_grey_images_give_the_same_features_in_colour(tmp_path: Path) -> None:
    grey = timm.create_model(NAME, num_classes=0, in_chans=1).eval()
    weights_folder.save(tmp_path, NAME, grey.state_dict(), {"source": "letters"})
    weights = locate_source(f"source:{NAME}", tmp_path)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = grey(images)
        for channels in (1, 3, 5):
            model = source_model(f"source:{NAME}", weights, 64, channels).eval()
            actual = model(images.expand(-1, channels, -1, -1))
            assert torch.allclose(actual, expected, atol=1e-4), channels


@pytest.mark.parametrize("backbone", [NAME, f"source:{NAME}", f"scratch:{NAME}.r160_in1k"])
def test_a_model_folder_is_a_source_of_weights(tmp_path: Path, backbone: str) -> None:
    folder = tmp_path / "model"
    write_model_folder(folder, backbone)
    weights = locate_source(f"source:{NAME}", folder)
    assert (weights.origin, weights.licence, weights.size) == (f"model {folder}", "mit", 40)
    assert source_model(f"source:{NAME}", weights, 32).num_features


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"members": [{}, {}]}, "is an ensemble of several backbones"),
        ({"backbone": {"resnet18": {}}}, "no weights of test_resnet in"),
        ({"backbone": []}, "no weights of test_resnet in"),
    ],
)
def test_other_model_folders_are_refused(
    tmp_path: Path, content: dict[str, object], says: str
) -> None:
    write_model_folder(tmp_path / "model", **content)
    with pytest.raises(WeightsError, match=says):
        locate_source(f"source:{NAME}", tmp_path / "model")


def test_missing_weights_are_explained(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="with --weights"):
        locate_source(f"source:{NAME}", None)
    with pytest.raises(WeightsError, match="does not exist"):
        locate_source(f"source:{NAME}", tmp_path / "missing")
    (tmp_path / "test_resnet2.safetensors").touch()
    with pytest.raises(WeightsError, match="did you mean 'test_resnet2'"):
        locate_source(f"source:{NAME}", tmp_path)


def test_beside_source_weights_a_plain_name_means_the_public_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path)
    monkeypatch.setattr(backbones, "is_reachable", lambda where: True)
    plugins = registry.load()
    alone = plugins.for_backbones([NAME]).get("backbone", NAME, tmp_path)
    assert alone.weights
    assert alone.weights.file
    both = plugins.for_backbones([NAME, f"source:{NAME}"])
    public, own = (both.get("backbone", n, tmp_path).weights for n in (NAME, f"source:{NAME}"))
    assert public
    assert own
    assert (public.file, own.file) == (None, tmp_path / f"{NAME}.safetensors")
    assert public.architecture == own.architecture
    assert list(plugins.variants(NAME)) == [f"scratch:{NAME}", f"source:{NAME}"]
    assert list(plugins.variants(f"source:{NAME}")) == list(plugins.variants(NAME))
    assert not plugins.variants("torchvision:resnet18")


def test_a_saved_model_is_built_without_the_folder() -> None:
    plugins = registry.load()
    for name in (f"source:{NAME}", f"scratch:{NAME}"):
        plugin = plugins.get_untrained("backbone", name)
        assert plugin.call({"size": 32}, {}).num_features
        assert plugin.weights is None


def test_weights_without_facts_have_no_size(tmp_path: Path) -> None:
    tensors = timm.create_model(NAME, num_classes=0).state_dict()
    save_file(tensors, tmp_path / f"{NAME}.safetensors")
    assert locate_source(f"source:{NAME}", tmp_path) == Weights(
        f"file {tmp_path / f'{NAME}.safetensors'}",
        "unknown",
        tmp_path / f"{NAME}.safetensors",
        backbones._count_parameters(NAME),
        architecture=NAME,
    )
