"""The model folder: written completely or not at all, read safely, with the same predictions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted_tasks import FITTED
from images import TINY, write_images
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file

from autotl import data, files, models
from autotl.artifact import model_folder
from autotl.artifact.predictor import Predictor
from autotl.errors import ArtifactError, DataError, StoreError
from autotl.models import Device, Model, fast_inference
from autotl.space import registry, space
from autotl.space.registry import Registry
from autotl.space.space import Config
from autotl.tasks import Classification, numbered_classes

CPU = Device(torch.device("cpu"), None)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    file = tmp_path_factory.mktemp("plugins") / "tiny.py"
    file.write_text(TINY)
    return registry.load([file])


@pytest.fixture(scope="module")
def config(plugins: Registry) -> Config:
    heads = {"mlp": {"depth": 2, "width": 64, "second_width": 96, "dropout": 0.2}}
    return space.from_json(
        {"backbone": {"tiny": {}}, "head": heads}, plugins, kinds=("backbone", "head")
    )


@pytest.fixture(scope="module")
def network(config: Config) -> Model:
    return models.build_model(config, numbered_classes(3), 40, CPU, seed=5).eval()


def save(folder: Path, network: Model, config: Config, **facts: Any) -> None:
    facts = {"versions": {}, **facts}
    model_folder.save(folder, network, config, Classification(["a", "b", "ü"]), facts, "# Card\n")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, network: Model, config: Config) -> Path:
    """A model folder that no test changes."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(folder, network, config)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A model folder for one test."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture
def loaded(saved: Path, plugins: Registry) -> Predictor:
    return model_folder.load(saved, plugins, CPU)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3), dtype=np.uint8)


def compute_logits(network: Model, images: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return network(torch.from_numpy(images).permute(0, 3, 1, 2))


def test_a_loaded_model_predicts_as_the_saved_one(
    loaded: Predictor, network: Model, images: np.ndarray
) -> None:
    expected = compute_logits(network, images).softmax(1).numpy()
    assert loaded.classes == ("a", "b", "ü")
    assert loaded.network.expects == network.expects
    np.testing.assert_array_equal(loaded.predict_proba(images), expected)


def test_files_are_preprocessed_as_in_training(loaded: Predictor, tmp_path: Path) -> None:
    photos = sorted(write_images(tmp_path / "photos", count=2).rglob("*.png"))
    images = np.stack([data.decode(f, 40, "bicubic") for f in photos])
    rows = [list(prediction.values()) for prediction in loaded.predict(photos)]
    np.testing.assert_allclose(rows, loaded.predict_proba(images), rtol=1e-6)
    with pytest.raises(DataError, match=r"missing\.png: the file is missing"):
        loaded.predict([*photos, tmp_path / "missing.png"])


def test_deep_images_are_scaled_as_in_training(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config, scales={"PNG integer": [0, 4095]})
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)
    values = np.linspace(0, 2000, 40 * 40).reshape(40, 40).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    grey = np.round(values * (255 / 4095)).astype(np.uint8)
    assert (loaded.encode(tmp_path / "deep.png") == loaded.encode(grey)).all()


def test_deep_images_of_another_type_are_scaled_with_one_warning(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    save(tmp_path / "model", network, config, scales={"PNG integer": [0, 4095]})
    warnings: list[str] = []
    loaded = model_folder.load(tmp_path / "model", plugins, CPU, warnings.append)
    values = np.linspace(0, 2000, 40 * 40).reshape(40, 40).astype(np.uint16)
    files = [tmp_path / name for name in ("a.tif", "b.tif", "c.png")]
    for file in files:
        Image.fromarray(values).save(file)
    grey = np.round(values * (255 / 4095)).astype(np.uint8)
    assert (loaded.encode(files[0]) == loaded.encode(grey)).all()
    loaded.predict(files)
    [text] = warnings
    assert "was TIFF integer with more than 8 bits; 0 is taken for black and 4095 for" in text
    assert "as in PNG integer; if that is wrong, convert" in text
    Image.fromarray((values / 2000).astype(np.float32)).save(tmp_path / "float.tif")
    whole = np.round(values * (255 / 2000)).astype(np.uint8)
    difference = loaded.encode(tmp_path / "float.tif").astype(int) - loaded.encode(whole)
    assert abs(difference).max() <= 1
    assert "TIFF float" in warnings[1]
    assert "1 for white; if" in warnings[1]
    with pytest.warns(UserWarning, match="TIFF integer"):
        model_folder.load(tmp_path / "model", plugins, CPU).predict(files)


@pytest.mark.parametrize("scales", [{"PNG integer": [5, 5]}, {"PNG integer": "x"}, [1]])
def test_damaged_scales_are_reported(
    tmp_path: Path, plugins: Registry, config: Config, network: Model, scales: Any
) -> None:
    save(tmp_path / "model", network, config)
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scales": scales}))
    with pytest.raises(ArtifactError, match=r"damaged: config\.json: "):
        model_folder.load(tmp_path / "model", plugins, CPU)


def test_digests_of_the_training_images_are_stored_in_8_bytes_each(
    tmp_path: Path, plugins: Registry, config: Config, network: Model
) -> None:
    folder = tmp_path / "model"
    digests = np.array([2**63, 5, 5], dtype=np.uint64)
    model_folder.save(
        folder, network, config, Classification(["a", "b", "c"]), {}, training_images=digests
    )
    assert model_folder.load(folder, plugins, CPU).training_images.tolist() == [5, 2**63]
    file = folder / model_folder.TRAINING_IMAGES
    assert file.stat().st_size == 128 + 2 * 8
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    for content in (file.read_bytes(), b"", b"text"):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"damaged: training_images\.npy"):
            model_folder.load(folder, plugins, CPU)
    file.unlink()  # as in a folder of an older version
    assert model_folder.load(folder, plugins, CPU).training_images is None


def test_logits_are_divided_by_the_temperature(
    tmp_path: Path, plugins: Registry, config: Config, network: Model, images: np.ndarray
) -> None:
    save(tmp_path / "model", network, config, temperature=2.5)
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)
    expected = (compute_logits(network, images) / 2.5).softmax(1).numpy()
    np.testing.assert_allclose(loaded.predict_proba(images), expected, rtol=1e-5)


def test_a_model_folder_without_a_temperature_is_not_calibrated(loaded: Predictor) -> None:
    assert "temperature" not in loaded.config
    assert loaded.temperature == 1.0


@pytest.mark.parametrize("min_pixels", [70 * 40**2, 70 * 40**2 + 1])
def test_a_stream_yields_the_readable_images_in_order(
    loaded: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, min_pixels: int
) -> None:
    compile_forward, compiled = fast_inference.compile_forward, []
    monkeypatch.setattr(
        fast_inference,
        "compile_forward",
        lambda *args: (compiled.append(1), compile_forward(*args))[1],
    )
    monkeypatch.setattr(fast_inference, "MIN_PIXELS", min_pixels)
    random = np.random.default_rng(0)
    images: list[Any] = [random.integers(0, 255, (9, 7, 3), dtype=np.uint8) for _ in range(70)]
    expected = loaded.predict_proba(np.stack([data.decode(i, 40, "bicubic") for i in images]))
    images[3] = tmp_path / "none.png"
    images[40] = np.zeros((9, 7, 4), dtype=np.uint8)
    unreadable: dict[int, str] = {}
    rows = dict(loaded.stream(images, unreadable.__setitem__))
    assert list(rows) == [i for i in range(70) if i not in (3, 40)]
    np.testing.assert_allclose(np.stack(list(rows.values())), expected[list(rows)], rtol=1e-4)
    assert list(unreadable) == [3, 40]
    assert "none.png: the file is missing" in unreadable[3]
    assert "it has 4 channels and not 3" in unreadable[40]
    assert list(loaded.stream([], unreadable.__setitem__)) == []
    assert bool(compiled) == (min_pixels == 70 * 40**2)


def test_an_image_that_does_not_fit_into_memory_is_an_error_with_a_solution(
    loaded: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out_of_memory(images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loaded.network, "forward", run_out_of_memory)
    with pytest.raises(ArtifactError, match="--device cpu"):
        loaded.predict_proba(np.zeros((2, 40, 40, 3), dtype=np.uint8))


def test_the_number_of_images_that_fit_is_found_once_for_many(
    loaded: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, sizes = loaded.network.forward, list[int]()

    def refuse_many(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > 16:
            raise torch.OutOfMemoryError
        return forward(images)

    monkeypatch.setattr(loaded.network, "forward", refuse_many)
    images = [np.zeros((9, 7), dtype=np.uint8)] * 96
    assert len(list(loaded.stream(images, lambda *_: None))) == 96
    assert sizes == [32, *[16] * 6]


def test_a_model_knows_its_own_data_by_their_path(
    network: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = {"data": {"source": str(tmp_path / "photos")}}
    predictor = Predictor(network, Classification(["a", "b", "c"]), CPU, config=config)
    assert predictor.was_trained_on("photos")
    moved = {"source": "photos", "path": "../../photos"}
    relative = Predictor(
        network, Classification("abc"), CPU, config={"data": moved}, folder=Path("r/m")
    )
    assert relative.was_trained_on("photos")
    assert not relative.was_trained_on("r/m/photos")
    assert not predictor.was_trained_on("other")
    assert not Predictor(network, Classification(["a", "b", "c"]), CPU).was_trained_on(".")


def test_the_weights_have_the_same_permissions_as_the_other_files(saved: Path) -> None:
    modes = {file.name: file.stat().st_mode for file in saved.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_wrong_path_is_an_error_that_names_a_near_one(folder: Path, plugins: Registry) -> None:
    for wrong in (folder.parent, folder / "model.safetensors"):
        with pytest.raises(ArtifactError, match=f"did you mean {folder}\\?"):
            model_folder.load(wrong, plugins)
    with pytest.raises(ArtifactError, match=r"did you mean 'model'\?"):
        model_folder.load(folder.parent / "modle", plugins)


def test_a_folder_without_standalone_code_can_be_loaded(folder: Path, plugins: Registry) -> None:
    file = folder / "config.json"
    content = json.loads(file.read_text())
    del content["standalone_code"]
    file.write_text(json.dumps(content))
    assert model_folder.load(folder, plugins, CPU).temperature == 1.0


def test_a_model_trained_in_bfloat16_predicts_in_float32(
    tmp_path: Path, plugins: Registry, config: Config
) -> None:
    network = models.build_model(
        config, numbered_classes(3), 40, models.select_device("cpu", "bfloat16")
    )
    save(tmp_path / "model", network, config)
    assert model_folder.load(tmp_path / "model", plugins).device.autocast is None


def test_an_older_model_is_replaced_completely(
    folder: Path, config: Config, network: Model
) -> None:
    (folder / "README.md").write_text("old")
    save(folder, network, config)
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert (folder / "README.md").read_text() == "# Card\n"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("stage", ["weights", "config", "replace"])
def test_a_full_disk_leaves_the_older_model(
    folder: Path, config: Config, network: Model, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        if stage == "weights":
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        raise OSError(28, "No space left on device")

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    where = {
        "weights": (model_folder, "save_file"),
        "config": (files, "write_text"),
        "replace": (Path, "rename"),
    }[stage]
    monkeypatch.setattr(*where, fail)
    with pytest.raises(StoreError, match=r"No space left on device.*free some space"):
        save(folder, network, config)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_model_is_loaded_if_a_kill_left_it_aside(
    folder: Path, plugins: Registry, loaded: Predictor
) -> None:
    folder.rename(folder.with_name(".model.autotl-old"))
    assert model_folder.load(folder, plugins, CPU).classes == loaded.classes


def test_a_folder_that_cannot_be_written_is_an_error_with_a_solution(
    tmp_path: Path, config: Config, network: Model
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--out"):
        save(tmp_path / "file" / "model", network, config)


def test_missing_or_damaged_weights_are_named(
    folder: Path, plugins: Registry, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="there is no model folder"):
        model_folder.load(tmp_path / "missing", plugins)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ArtifactError, match="is damaged"):
        model_folder.load(folder, plugins)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model.safetensors cannot be read"):
        model_folder.load(folder, plugins)


def test_a_missing_plugin_file_is_named(saved: Path) -> None:
    with pytest.raises(ArtifactError, match=r"made with plugins from file tiny\.py"):
        model_folder.load(saved, registry.load())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "another version"),
        ({"input": {"mean": [0, 0, 0]}}, "'input.size' is missing"),
        ({"classes": ["a", "b"]}, "do not fit"),
        ({"head": {"mlp": {"depth": 3.5, "nothing": 1}}}, "no keyword 'nothing'"),
        (
            {"head": {"mlp": {"width": 10**12}}},
            "declares width = .*, not 1000000000000",
        ),
        ({"head": {"mlp": {"width": "64"}}}, "declares width = .*, not '64'"),
        ({"backbone": {"tiny": {"nothing": 1}}}, "no keyword 'nothing'"),
    ],
)
def test_a_damaged_config_is_named(
    folder: Path, plugins: Registry, change: dict[str, Any], message: str
) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ArtifactError, match=message):
        model_folder.load(folder, plugins)


def test_a_config_that_is_not_json_is_damage(folder: Path, plugins: Registry) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match="is damaged"):
        model_folder.load(folder, plugins)


def test_weights_of_other_shapes_or_that_are_not_finite_are_named(
    folder: Path, plugins: Registry, network: Model
) -> None:
    tensors = {name: t.contiguous() for name, t in network.state_dict().items()}
    name = next(n for n, t in tensors.items() if t.is_floating_point())
    file = folder / "model.safetensors"
    changed = {
        "has values that are not finite": tensors[name] * float("nan"),
        "size mismatch": tensors[name][:1].clone(),
        "does not have the type": torch.zeros(tensors[name].shape, dtype=torch.int8),
    }
    for message, tensor in changed.items():
        save_file({**tensors, name: tensor}, file)
        with pytest.raises(ArtifactError, match=message):
            model_folder.load(folder, plugins)
    for content in (b"", b"text", bytes(8), b"\xff" * 100):
        file.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"model\.safetensors cannot be read"):
            model_folder.load(folder, plugins)


def test_pickled_weights_are_not_read(folder: Path, plugins: Registry, network: Model) -> None:
    torch.save(network.state_dict(), folder / "model.safetensors")
    with pytest.raises(ArtifactError, match="is damaged"):
        model_folder.load(folder, plugins)


def save_task(folder: Path, name: str, config: Config) -> Model:
    """Save a model of the task ``name`` in ``FITTED``, and return it."""
    task, calibration = FITTED[name]
    network = models.build_model(config, task, 40, CPU, seed=5).eval()
    model_folder.save(folder, network, config, task, {"calibration": calibration})
    return network


@pytest.mark.parametrize("name", FITTED)
def test_a_model_of_another_task_predicts_as_the_saved_one(
    tmp_path: Path, config: Config, plugins: Registry, images: np.ndarray, name: str
) -> None:
    network, task = save_task(tmp_path / "model", name, config), FITTED[name].task
    loaded = model_folder.load(tmp_path / "model", plugins, CPU)
    assert (loaded.task.name, loaded.classes) == (task.name, task.outputs)
    expected = task.activate(compute_logits(network, images)).numpy()
    np.testing.assert_array_equal(loaded.predict_items(images), expected)
    for row, described in zip(expected, loaded.predict(images), strict=True):
        if name == "ordinal":
            assert described == dict(zip(("1", "2", "3"), row, strict=True))
        elif name == "multilabel":
            assert list(described["probabilities"].values()) == row.tolist()
            chosen = dict(zip(task.outputs, row >= [0.3, 0.5, 0.7], strict=True))
            assert described["prediction"] == [label for label in chosen if chosen[label]]
        elif name == "regression":
            [value] = row.tolist()
            assert described == {"prediction": value, "low": value - 1.5, "high": value + 1.5}
        else:
            assert described["prediction"] == {"x": row[0], "y": row[1]}
            assert described["low"] == {"x": row[0] - 0.5, "y": row[1] - 40.0}


def test_a_class_or_label_may_be_called_prediction(
    tmp_path: Path, config: Config, plugins: Registry, images: np.ndarray
) -> None:
    names = ("low", "prediction", "probabilities")
    for task in (Classification(names), type(FITTED["multilabel"].task)(names)):
        network = models.build_model(config, task, 40, CPU)
        model_folder.save(tmp_path / "model", network, config, task, {})
        [result] = model_folder.load(tmp_path / "model", plugins, CPU).predict(images[0])
        probabilities = result if task.name == "classification" else result["probabilities"]
        assert list(probabilities) == list(names)
        assert all(isinstance(p, float) for p in probabilities.values())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("regression", {"task": {"name": "regresion"}}, "for another task: .*'regression'"),
        ("regression", {"task": {"name": "regression"}}, "damaged: .*mean = None: expected one"),
        ("regression", {"classes": ["a", "b"]}, "damaged: config.json: calibration: half_widths"),
        ("numbers", {"std": [1.0]}, r"damaged: .*std = \[1.0\]: expected one number for each"),
        ("numbers", {"std": [1.0, 0.0]}, r"damaged: .*std = \[1.0, 0.0\]: expected numbers from"),
        ("numbers", {"std": [1.0, -1.0]}, "damaged: .*expected numbers from"),
        ("numbers", {"std": [1.0, 1e300]}, "damaged: .*expected numbers from"),
        ("numbers", {"mean": [1.0, "2"]}, "damaged: .*expected numbers from"),
        ("numbers", {"mean": [1.0, True]}, "damaged: .*expected numbers from"),
        ("numbers", {"mean": {}}, "damaged: .*expected one number"),
        ("multilabel", {"separator": ""}, "damaged: .*the separator '' is not a text"),
        ("multilabel", {"separator": 3}, "damaged: .*the separator 3 is not a text"),
        ("ordinal", {"classes": ["1"]}, "damaged: .*ordinal needs more classes"),
    ],
)
def test_a_damaged_task_is_named(
    tmp_path: Path,
    config: Config,
    plugins: Registry,
    name: str,
    changes: dict[str, Any],
    message: str,
) -> None:
    save_task(tmp_path / "model", name, config)
    file = tmp_path / "model/config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if changes.keys() <= {"task", "classes"}:
        content |= changes
    else:
        content["task"]["constants"] |= changes
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ArtifactError, match=message) as caught:
        model_folder.load(tmp_path / "model", plugins, CPU)
    assert "\n" not in str(caught.value)
