"""The model folder: written whole, read safely, predicting what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import TINY, photos

from autotl import data, models
from autotl.artifact import model_folder
from autotl.errors import ArtifactError, StoreError
from autotl.models import Device, Model
from autotl.space import registry, space
from autotl.space.registry import Registry
from autotl.space.space import Config

CPU = Device(torch.device("cpu"), None)


@pytest.fixture
def plugins(tmp_path: Path) -> Registry:
    (tmp_path / "tiny.py").write_text(TINY)
    return registry.load([tmp_path / "tiny.py"])


@pytest.fixture
def config(plugins: Registry) -> Config:
    heads = {"mlp": {"depth": 2, "width": 64, "second": 96, "dropout": 0.2}}
    return space.from_json(
        {"backbone": {"tiny": {}}, "head": heads}, plugins, kinds=("backbone", "head")
    )


@pytest.fixture
def network(config: Config) -> Model:
    return models.build_model(config, 3, 40, CPU, seed=5).eval()


def save(folder: Path, network: Model, config: Config) -> None:
    model_folder.save(folder, network, config, ["a", "b", "ü"], {"versions": {}}, "# Card\n")


def test_what_is_loaded_predicts_what_was_saved(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config)
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)
    pictures = np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pictures).permute(0, 3, 1, 2)).softmax(1).numpy()
    assert loaded.classes == ("a", "b", "ü")
    assert loaded.network.expects == network.expects
    np.testing.assert_array_equal(loaded.probabilities(pictures), expected)


def test_pictures_are_prepared_as_in_training(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config)
    photos(tmp_path / "photos", count=2)
    files = sorted((tmp_path / "photos").rglob("*.png"))
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)
    images = np.stack([data.decode(f, 40, "bicubic") for f in files])
    rows = [list(answer.values()) for answer in loaded.predict(files)]
    np.testing.assert_allclose(rows, loaded.probabilities(images), rtol=1e-6)


def test_a_temperature_cools_the_logits(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    facts = {"temperature": 2.5}
    model_folder.save(tmp_path / "model", network, config, ["a", "b", "c"], facts)
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)
    pictures = np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pictures).permute(0, 3, 1, 2))
    np.testing.assert_allclose(
        loaded.probabilities(pictures), (logits / 2.5).softmax(1).numpy(), rtol=1e-5
    )


def test_many_pictures_come_in_order_without_the_broken_ones(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config)
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)
    random = np.random.default_rng(0)
    pictures: list[Any] = [random.integers(0, 255, (9, 7, 3), dtype=np.uint8) for _ in range(70)]
    expected = loaded.probabilities(np.stack([data.decode(p, 40, "bicubic") for p in pictures]))
    pictures[3] = tmp_path / "none.png"
    pictures[40] = np.zeros((9, 7, 4), dtype=np.uint8)
    broken: dict[int, str] = {}
    rows = dict(loaded.stream(pictures, broken.__setitem__))
    assert list(rows) == [i for i in range(70) if i not in (3, 40)]
    np.testing.assert_allclose(np.stack(list(rows.values())), expected[list(rows)], rtol=1e-4)
    assert "none.png: the file is missing" in broken[3]
    assert "[9, 7, 4]" in broken[40]
    assert list(loaded.stream([], broken.__setitem__)) == []


def test_a_picture_too_large_for_the_device_is_an_error_that_says_what_to_do(
    tmp_path: Path,
    plugins: Registry,
    config: Config,
    network: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save(tmp_path / "model", network, config)
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)

    def full(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loaded.network, "forward", full)
    with pytest.raises(ArtifactError, match="--device cpu"):
        loaded.probabilities(np.zeros((2, 40, 40, 3), dtype=np.uint8))


def test_others_may_read_the_weights(tmp_path: Path, config: Config, network: Model) -> None:
    save(tmp_path / "model", network, config)
    modes = {p.name: p.stat().st_mode for p in (tmp_path / "model").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_wrong_path_is_answered_with_the_near_one(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config)
    for given in (tmp_path, tmp_path / "model" / "model.safetensors"):
        with pytest.raises(ArtifactError, match=f"did you mean {tmp_path / 'model'}\\?"):
            model_folder.load(given, plugins)
    with pytest.raises(ArtifactError, match=r"did you mean 'model'\?"):
        model_folder.load(tmp_path / "modle", plugins)


def test_a_folder_of_before_there_was_a_temperature_still_loads(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config)
    file = tmp_path / "model" / "config.json"
    about = json.loads(file.read_text())
    del about["plain"]
    file.write_text(json.dumps(about))
    assert model_folder.load(tmp_path / "model", plugins, CPU).temperature == 1.0


def test_training_in_bfloat16_is_read_in_float32(
    tmp_path: Path, plugins: Registry, config: Config
) -> None:
    network = models.build_model(config, 3, 40, models.device("cpu", "bfloat16"))
    save(tmp_path / "model", network, config)
    assert model_folder.load(tmp_path / "model", plugins).where.autocast is None


def test_an_older_model_is_replaced_whole(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config)
    (tmp_path / "model" / "stray").write_text("")
    save(tmp_path / "model", network, config)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir() if "unfinished" in p.name] == []


def test_a_folder_that_cannot_be_written(tmp_path: Path, config: Config, network: Model) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--out"):
        save(tmp_path / "file" / "model", network, config)


def test_damage_is_named(tmp_path: Path, plugins: Registry, config: Config, network: Model) -> None:
    folder = tmp_path / "model"
    with pytest.raises(ArtifactError, match="there is no model folder"):
        model_folder.load(folder, plugins)
    save(folder, network, config)
    about = json.loads((folder / "config.json").read_text())
    tensors = (folder / "model.safetensors").read_bytes()

    (folder / "model.safetensors").write_bytes(tensors[: len(tensors) // 2])
    with pytest.raises(ArtifactError, match="is damaged"):
        model_folder.load(folder, plugins)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model.safetensors cannot be read"):
        model_folder.load(folder, plugins)
    (folder / "model.safetensors").write_bytes(tensors)

    with pytest.raises(ArtifactError, match=r"made with plugins from file tiny\.py"):
        model_folder.load(folder, registry.load())
    for change, says in (
        ({"schema": 2}, "another version"),
        ({"input": None}, "config.json has no 'input'"),
        ({"input": {"mean": [0, 0, 0]}}, "the 'input' of config.json"),
        ({"classes": ["a", "b"]}, "does not fit"),
        ({"head": {"mlp": {"depth": 3.5, "nothing": 1}}}, "no keyword 'nothing'"),
    ):
        (folder / "config.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ArtifactError, match=says):
            model_folder.load(folder, plugins)
    (folder / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        model_folder.load(folder, plugins)


def test_no_pickle_is_read(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config)
    torch.save(network.state_dict(), tmp_path / "model" / "model.safetensors")
    with pytest.raises(ArtifactError, match="is damaged"):
        model_folder.load(tmp_path / "model", plugins)
