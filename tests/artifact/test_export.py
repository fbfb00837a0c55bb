"""Exports: files whose probabilities equal the model's, or no file at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from fitted_tasks import FITTED
from numpy.typing import NDArray
from torch import nn
from toy import CPU, config, model, squares

from autotl import Example, head
from autotl.artifact import export, export_formats
from autotl.artifact.export import ExportResult
from autotl.artifact.predictor import Predictor
from autotl.errors import ArtifactError
from autotl.models import Model, build_model
from autotl.models.ensemble import Ensemble
from autotl.tasks import Classification
from autotl.testing.toy import COLOURS

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = sorted(COLOURS)
TEMPERATURE = 1.6


class Labelled(NamedTuple):
    """Images ``[N, S, S, 3]`` and their labels ``[N]``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@pytest.fixture(scope="module")
def data() -> Labelled:
    examples = squares(60)
    labels = np.array([CLASSES.index(e.label) for e in examples])
    return Labelled(np.stack([e.item for e in examples]), labels)


def fit(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Model:
    """Build a model whose head is fitted to the images."""
    network = model(head="nearest_mean").eval()
    with torch.no_grad():
        features = network.features(torch.from_numpy(images).permute(0, 3, 1, 2))
        network.head.fit(features, torch.from_numpy(labels))  # type: ignore[operator]
    return network


@pytest.fixture(scope="module")
def predictor(data: Labelled) -> Predictor:
    return Predictor(fit(*data), Classification(CLASSES), CPU, TEMPERATURE)


def trace_once(patch: pytest.MonkeyPatch, program: Any = None) -> Callable[[], Any]:
    """Let ``torch.onnx.export``, which takes seconds, trace once, or never if given its program.

    Returns:
        A function that returns the program.
    """
    trace = torch.onnx.export

    def export_once(*args: Any, **options: Any) -> Any:
        nonlocal program
        program = program or trace(*args, **options)
        return program

    patch.setattr(torch.onnx, "export", export_once)
    return lambda: program


class Onnx(NamedTuple):
    """An export of ``predictor``, and the program that torch made of it."""

    result: ExportResult
    program: Any


@pytest.fixture(scope="module")
def onnx(predictor: Predictor, data: Labelled, tmp_path_factory: pytest.TempPathFactory) -> Onnx:
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        program = trace_once(patch)
        return Onnx(export.export(predictor, file, "onnx", *data), program())


@pytest.fixture
def traced(onnx: Onnx, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of ``predictor`` to ONNX in this test use the program that was traced before."""
    trace_once(monkeypatch, onnx.program)


def run(file: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    probabilities: NDArray[np.float32]
    [probabilities] = session.run(None, {"images": images.transpose(0, 3, 1, 2)})
    return probabilities


@pytest.mark.parametrize("batch", [1, 7])
def test_onnx_maps_uint8_images_to_calibrated_probabilities(
    onnx: Onnx, predictor: Predictor, data: Labelled, batch: int
) -> None:
    images = data.images[:batch]
    expected = predictor.predict_proba(images)
    assert expected.max() < 0.9999, "otherwise the temperature would have no effect"
    np.testing.assert_allclose(run(onnx.result.file, images), expected, atol=1e-5)


def test_onnx_describes_classes_and_input_in_its_metadata(onnx: Onnx) -> None:
    session = ort.InferenceSession(onnx.result.file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == CLASSES
    assert json.loads(metadata["task"]) == "classification"
    assert json.loads(metadata["input"])["images"] == "uint8 [batch, 3, 16, 16], RGB"
    assert json.loads(metadata["input"])["scales"] == {}
    [given], [output] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, output.name) == ("images", "tensor(uint8)", "probabilities")


def test_the_result_has_the_comparison_with_the_model(
    onnx: Onnx, predictor: Predictor, data: Labelled
) -> None:
    result = onnx.result
    assert (result.num_images, result.agreement) == (180, 1.0)
    assert result.max_difference < 1e-5
    assert result.num_bytes == result.file.stat().st_size
    accuracy = (predictor.predict_proba(data.images).argmax(1) == data.labels).mean()
    assert result.accuracy == (accuracy, accuracy)
    assert result.accuracy_loss == (0, 0, 0)
    assert [file.name for file in result.file.parent.iterdir()] == ["model.onnx"]


def test_a_loaded_torch_export_computes_the_same_probabilities(
    predictor: Predictor, data: Labelled, tmp_path: Path
) -> None:
    file = tmp_path / "model.pt2"
    result = export.export(predictor, file, "torch-export", data.images)
    assert (result.agreement, result.accuracy) == (1.0, None)
    extra_files = {"classes.json": ""}
    module = torch.export.load(file, extra_files=extra_files).module()
    assert json.loads(extra_files["classes.json"]) == CLASSES
    for batch in (1, 5):
        images = data.images[:batch]
        probabilities = module(torch.from_numpy(images).permute(0, 3, 1, 2))
        np.testing.assert_allclose(probabilities, predictor.predict_proba(images), atol=1e-5)


@pytest.mark.usefixtures("traced")
def test_int8_is_compared_on_images_that_did_not_calibrate_it(
    predictor: Predictor, data: Labelled, tmp_path: Path
) -> None:
    from onnx import load

    file = tmp_path / "model.int8.onnx"
    labels = data.labels.copy()
    num_calibration = len(labels) // 2  # less than MAX_CALIBRATION_IMAGES
    # Wrong labels for the calibration images and for two of the compared ones.
    labels[: num_calibration + 2] = (labels[: num_calibration + 2] + 1) % 3
    labels[-10:] = -1
    result = export.export(predictor, file, "onnx-int8", data.images, labels)
    compared = data.images[num_calibration:]
    assert (result.num_images, result.num_calibration_images) == (len(compared), num_calibration)
    expected, exported = predictor.predict_proba(compared), run(file, compared)
    assert result.max_difference == pytest.approx(np.abs(expected - exported).max(), abs=1e-6)
    assert result.max_difference > 0
    assert result.agreement > 0.9
    labelled = labels[num_calibration:] >= 0
    truth = labels[num_calibration:][labelled]
    accuracy = [(p.argmax(1)[labelled] == truth).mean() for p in (expected, exported)]
    assert result.accuracy == tuple(accuracy)
    assert result.accuracy_loss is not None
    assert result.accuracy_loss[0] == pytest.approx(accuracy[0] - accuracy[1])
    graph = load(file).graph
    assert {n.op_type for n in graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    per_channel = [t for t in graph.initializer if t.dims[:1] == [24] and "scale" in t.name]
    assert per_channel, "weights are quantized per channel"
    [layer] = [n for n in graph.node if n.op_type in ("Gemm", "MatMul")]
    assert dequantized(graph).isdisjoint(layer.input), "the head stays in float32"


def dequantized(graph: Any) -> set[str]:
    """Names of the tensors that are computed from 8 bits."""
    return {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}


def test_an_ensemble_is_exported_as_one_file(
    data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnx import load

    members = [fit(*data), fit(data.images[::2], data.labels[::2])]
    predictor = Predictor(Ensemble(members, [0.7, 0.3]), Classification(CLASSES), CPU, TEMPERATURE)
    trace_once(monkeypatch)
    result = export.export(predictor, tmp_path / "model.onnx", "onnx", *data)
    assert result.max_difference < 1e-4
    file = tmp_path / "model.int8.onnx"
    export.export(predictor, file, "onnx-int8", *data)
    graph = load(file).graph
    layers = [n for n in graph.node if n.op_type in ("Gemm", "MatMul")]
    assert len(layers) == 2
    assert all(dequantized(graph).isdisjoint(n.input) for n in layers), "heads stay in float32"


def test_the_interval_of_the_accuracy_loss_is_that_of_paired_predictions() -> None:
    labels = np.zeros(100, dtype=np.int64)
    images = np.zeros((100, 1, 1, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(100)
    expected = np.tile(np.float32([1, 0]), (100, 1))
    exported = expected.copy()
    exported[:10] = (0, 1)  # 10 become wrong
    expected[10:14] = (0, 1)  # 4 become correct
    result = export._compare(
        lambda batch: torch.from_numpy(expected[batch[:, 0, 0, 0].numpy()]),
        lambda batch: exported[batch[:, 0, 0, 0]],
        Classification(["a", "b"]), images, labels, Path("x"), 1,
    )  # fmt: skip
    assert result.accuracy == pytest.approx((0.96, 0.90))
    margin = 1.96 * np.sqrt((0.14 - 0.06**2) / 100)
    assert result.accuracy_loss == pytest.approx((0.06, 0.06 - margin, 0.06 + margin))
    assert result.agreement == 0.86


@pytest.mark.usefixtures("traced")
def test_a_file_with_other_probabilities_is_discarded(
    predictor: Predictor, data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_session = export_formats._open_session

    def open_wrong_session(file: Path) -> export_formats.PredictFunction:
        predict = open_session(file)
        return lambda images: predict(images) + np.float32(0.002)

    monkeypatch.setattr(export_formats, "_open_session", open_wrong_session)
    (tmp_path / "model.onnx").write_text("the previous file")
    message = r"discarded.*differ by up to 0\.002.*at most 0\.001 is allowed"
    with pytest.raises(ArtifactError, match=message):
        export.export(predictor, tmp_path / "model.onnx", "onnx", data.images[:5])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the previous file"]


class DataDependent(nn.Linear):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.sum().item() > 0:  # a branch on values, which a graph cannot have
            features = -features
        return super().forward(features)


@head
def data_dependent(features: int, classes: int) -> nn.Module:
    """Cannot be traced."""
    return DataDependent(features, classes)


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_model_that_cannot_be_traced_is_an_error_with_the_reason(
    data: Labelled, tmp_path: Path, to: str
) -> None:
    predictor = Predictor(model(head=data_dependent), Classification(CLASSES), CPU)
    with pytest.raises(ArtifactError, match=f"cannot be exported with --to {to}; torch says: "):
        export.export(predictor, tmp_path / "model", to, data.images[:5])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_a_file_that_onnxruntime_rejects_is_discarded(
    predictor: Predictor,
    data: Labelled,
    tmp_path: Path,
    to: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reject = Mock(side_effect=RuntimeError("Unsupported model IR version"))
    monkeypatch.setattr("onnxruntime.InferenceSession", reject)
    with pytest.raises(ArtifactError, match="onnxruntime cannot run it: Unsupported model IR"):
        export.export(predictor, tmp_path / "model", to, data.images[:5])
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        if name != "onnx":
            raise export_formats.PackageNotFoundError
        return "1"

    monkeypatch.setattr(export_formats, "version", version)
    with pytest.raises(ArtifactError, match=r'needs onnxscript and onnxruntime: pip install "aut'):
        export_formats.check_requirements("onnx-int8")
    export_formats.check_requirements("torch-export")


def test_other_failures_leave_no_file(
    predictor: Predictor, data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="choose another with --out"):
        export.export(predictor, tmp_path / "none" / "x.onnx", "onnx", data.images)
    with pytest.raises(ArtifactError, match="needs at least 2 images"):
        export.export(predictor, tmp_path / "x.onnx", "onnx-int8", data.images[:1])
    monkeypatch.setattr(export_formats, "MAX_ONNX_BYTES", 10)
    with pytest.raises(ArtifactError, match="torch-export"):
        export.export(predictor, tmp_path / "x.onnx", "onnx", data.images)
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_random_subset_of_the_examples_is_decoded(
    predictor: Predictor, tmp_path: Path
) -> None:
    examples = [
        Example(e.name, e.item, e.label if i % 2 else "unknown") for i, e in enumerate(squares(20))
    ]
    examples[0] = Example("missing", tmp_path / "missing.jpg", "red")
    unreadable: list[str] = []
    images, labels = export.decode_examples(predictor, examples, 100, unreadable.append)
    assert images.shape == (59, 16, 16, 3)
    assert (labels == -1).sum() == 29
    assert len(unreadable) == 1
    fewer, _ = export.decode_examples(predictor, examples, 7, unreadable.append)
    np.testing.assert_array_equal(fewer, images[:7])
    assert export.toy_examples(predictor, 3).shape == (3, 16, 16, 3)


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_every_task_is_exported_with_its_predictions(
    name: str, to: str, data: Labelled, tmp_path: Path
) -> None:
    task, calibration = FITTED[name]
    network = build_model(config(), task, None, CPU).eval()
    stored = {"calibration": calibration}
    predictor = Predictor(network, task, CPU, 1 if name == "numbers" else 1.5, stored)
    images, labels = export.decode_examples(predictor, squares(2), 6, pytest.fail)
    assert (labels == -1).all(), "the colours are no classes of the model"
    file = tmp_path / "model"
    result = export.export(predictor, file, to, images, labels)
    assert result.max_difference < 1e-4
    assert (result.agreement, result.accuracy) == (1.0 if name == "ordinal" else None, None)
    if to == "onnx":
        np.testing.assert_allclose(run(file, images), predictor.predict_proba(images), rtol=1e-4)
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        [output], metadata = session.get_outputs(), session.get_modelmeta().custom_metadata_map
        assert output.name == ("probabilities" if task.has_probabilities else "predictions")
        assert json.loads(metadata["task"]) == task.name
        assert json.loads(metadata["classes"]) == list(task.outputs)
        assert json.loads(metadata["calibration"]) == calibration


def test_numbers_are_compared_in_standard_deviations(
    data: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = FITTED["numbers"].task  # whose second number has a std of 200
    predictor = Predictor(build_model(config(), task, None, CPU).eval(), task, CPU)
    open_session, offset = export_formats._open_session, np.float32(0.1)
    trace_once(monkeypatch)

    def open_wrong_session(file: Path) -> export_formats.PredictFunction:
        predict = open_session(file)
        return lambda images: predict(images) + np.array([0, offset], np.float32)

    monkeypatch.setattr(export_formats, "_open_session", open_wrong_session)
    result = export.export(predictor, tmp_path / "model.onnx", "onnx", data.images[:5])
    assert result.max_difference == pytest.approx(0.1 / 200, rel=0.01)
    offset = np.float32(1.0)
    message = r"its predictions differ by up to 0\.005 standard deviations from the model's"
    with pytest.raises(ArtifactError, match=message):
        export.export(predictor, tmp_path / "model.onnx", "onnx", data.images[:5])


def test_the_labels_of_examples_may_be_numbers() -> None:
    predictor = Predictor(model(), Classification(["1", "2", "3"]), CPU)
    examples = [Example("a", squares(1)[0].item, 2.0)]
    assert export.decode_examples(predictor, examples, 1, pytest.fail)[1].tolist() == [1]


def test_an_int8_export_does_not_quantize_numbers_in_the_unit_of_the_labels(
    data: Labelled, tmp_path: Path
) -> None:
    from onnx import load

    task = FITTED["numbers"].task
    predictor = Predictor(build_model(config(), task, None, CPU).eval(), task, CPU)
    file = tmp_path / "model.onnx"
    export.export(predictor, file, "onnx-int8", data.images)
    graph = load(file).graph
    [add] = [n for n in graph.node if n.op_type == "Add" and "predictions" in n.output]
    [multiply] = [n for n in graph.node if n.op_type == "Mul" and n.output[0] in add.input]
    assert dequantized(graph).isdisjoint([*add.input, *multiply.input])
