"""Exports: files that answer as the model does, or no file at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from toy import CPU, squares
from toy import model as built

from autotl import head
from autotl.artifact import export
from autotl.artifact.export import Exported
from autotl.artifact.model_folder import Predictor
from autotl.errors import ArtifactError
from autotl.models import Model
from autotl.models.ensemble import Ensemble
from autotl.testing.toy import COLOURS

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CLASSES = sorted(COLOURS)
TEMPERATURE = 1.6


@pytest.fixture(scope="module")
def pictures() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    found = squares(60)
    labels = np.array([CLASSES.index(e.label) for e in found])
    return np.stack([e.image for e in found]), labels


def fitted(pictures: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Model:
    network = built(head="nearest_mean").eval()
    images, labels = (torch.from_numpy(array) for array in pictures)
    with torch.no_grad():
        network.head.fit(network.features(images.permute(0, 3, 1, 2)), labels)  # type: ignore[operator]
    return network


@pytest.fixture(scope="module")
def predictor(pictures: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Predictor:
    return Predictor(fitted(pictures), CLASSES, CPU, TEMPERATURE)


@pytest.fixture(scope="module")
def onnx(predictor: Predictor, pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return export.export(predictor, file, "onnx", *pictures)


def run(file: Path, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"images": images.transpose(0, 3, 1, 2)})[0]
    return found


@pytest.mark.parametrize("batch", [1, 7])
def test_onnx_takes_pictures_and_gives_calibrated_probabilities(
    onnx: Exported, predictor: Predictor, pictures: Any, batch: int
) -> None:
    images = pictures[0][:batch]
    expected = predictor.probabilities(images)
    assert expected.max() < 0.9999, "or the temperature could not be seen"
    np.testing.assert_allclose(run(onnx.file, images), expected, atol=1e-5)


def test_onnx_says_what_a_program_must_know(onnx: Exported) -> None:
    session = ort.InferenceSession(onnx.file, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == CLASSES
    assert json.loads(about["input"])["images"] == "uint8 [batch, 3, 16, 16], RGB"
    [given], [answer] = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, answer.name) == ("images", "tensor(uint8)", "probabilities")


def test_what_was_compared_is_told(onnx: Exported, predictor: Predictor, pictures: Any) -> None:
    assert (onnx.pictures, onnx.agreement) == (180, 1.0)
    assert onnx.difference < 1e-5
    assert onnx.bytes == onnx.file.stat().st_size
    right = (predictor.probabilities(pictures[0]).argmax(1) == pictures[1]).mean()
    assert onnx.accuracy == (right, right)
    assert onnx.loss == (0, 0, 0)
    assert [p.name for p in onnx.file.parent.iterdir()] == ["model.onnx"]


def test_torch_export_answers_alike_when_it_is_loaded(
    predictor: Predictor, pictures: Any, tmp_path: Path
) -> None:
    file = tmp_path / "model.pt2"
    found = export.export(predictor, file, "torch-export", pictures[0])
    assert (found.agreement, found.accuracy) == (1.0, None)
    extra = {"classes.json": ""}
    module = torch.export.load(file, extra_files=extra).module()
    assert json.loads(extra["classes.json"]) == CLASSES
    for batch in (1, 5):
        images = pictures[0][:batch]
        answer = module(torch.from_numpy(images).permute(0, 3, 1, 2))
        np.testing.assert_allclose(answer, predictor.probabilities(images), atol=1e-5)


def test_int8_is_measured_on_pictures_that_did_not_set_its_ranges(
    predictor: Predictor, pictures: Any, tmp_path: Path
) -> None:
    from onnx import load

    file = tmp_path / "model.int8.onnx"
    labels = pictures[1].copy()
    used = len(labels) // 2  # less than CALIBRATION
    labels[: used + 2] = (labels[: used + 2] + 1) % 3  # wrong for two of those compared
    labels[-10:] = -1
    found = export.export(predictor, file, "onnx-int8", pictures[0], labels)
    rest = pictures[0][used:]
    assert found.pictures == len(rest)
    exact, answer = predictor.probabilities(rest), run(file, rest)
    assert found.difference == pytest.approx(np.abs(exact - answer).max(), abs=1e-6)
    assert found.difference > 0
    assert found.agreement > 0.9
    known = labels[used:] >= 0
    right = [p.argmax(1)[known] == labels[used:][known] for p in (exact, answer)]
    assert found.accuracy == (right[0].mean(), right[1].mean())
    assert found.loss is not None
    assert found.loss[0] == pytest.approx(right[0].mean() - right[1].mean())
    graph = load(file).graph
    assert {n.op_type for n in graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    assert any(t.dims[:1] == [24] and "scale" in t.name for t in graph.initializer), "by channel"
    [layer] = [n for n in graph.node if n.op_type in ("Gemm", "MatMul")]
    coarse = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    assert coarse.isdisjoint(layer.input), "the head stays in float32"


def test_an_ensemble_is_exported_whole(pictures: Any, tmp_path: Path) -> None:
    from onnx import load

    members = [fitted(pictures), fitted((pictures[0][::2], pictures[1][::2]))]
    predictor = Predictor(Ensemble(members, [0.7, 0.3]), CLASSES, CPU, TEMPERATURE)
    found = export.export(predictor, tmp_path / "model.onnx", "onnx", *pictures)
    assert found.difference < 1e-4
    file = tmp_path / "model.int8.onnx"
    export.export(predictor, file, "onnx-int8", *pictures)
    graph = load(file).graph
    layers = [n for n in graph.node if n.op_type in ("Gemm", "MatMul")]
    coarse = {o for n in graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    assert len(layers) == 2
    assert all(coarse.isdisjoint(layer.input) for layer in layers), "heads stay in float32"


def test_the_interval_of_a_loss_is_that_of_paired_answers() -> None:
    labels = np.zeros(100, dtype=np.int64)
    images = np.zeros((100, 1, 1, 3), dtype=np.uint8)
    images[:14] = 1  # 10 become wrong, 4 become right
    before, after = np.tile(np.float32([1, 0]), (100, 1)), np.tile(np.float32([1, 0]), (100, 1))
    after[:10], before[10:14] = (0, 1), (0, 1)
    answers = [iter([p[:1], p[1:33], p[33:65], p[65:97], p[97:]]) for p in (before, after)]
    found = export._compared(
        lambda images: torch.from_numpy(next(answers[0])),  # type: ignore[arg-type]
        lambda images: next(answers[1]), images, labels, Path("x"), 1,
    )  # fmt: skip
    assert found.accuracy == (0.96, 0.90)
    error = 1.96 * np.sqrt((0.14 - 0.06**2) / 100)
    assert found.loss == pytest.approx((0.06, 0.06 - error, 0.06 + error))
    assert found.agreement == 0.86


def test_an_export_that_answers_otherwise_is_not_kept(
    predictor: Predictor, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = export._session

    def wrong(file: Path) -> export.Answer:
        answer = true(file)
        return lambda images: answer(images) + np.float32(0.002)

    monkeypatch.setattr(export, "_session", wrong)
    (tmp_path / "model.onnx").write_text("the one before")
    with pytest.raises(ArtifactError, match=r"not kept.*differ by up to 0\.002.*0\.001 is allowed"):
        export.export(predictor, tmp_path / "model.onnx", "onnx", pictures[0][:5])
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the one before"]


class Stubborn(nn.Linear):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.sum().item() > 0:  # decided by values, which a graph cannot
            features = -features
        return super().forward(features)


@head
def stubborn(features: int, classes: int) -> nn.Module:
    """Cannot be traced."""
    return Stubborn(features, classes)


@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_model_that_cannot_be_traced_is_refused_with_the_reason(
    pictures: Any, tmp_path: Path, to: str
) -> None:
    network = Predictor(built(head=stubborn), CLASSES, CPU)
    with pytest.raises(ArtifactError, match=f"cannot be exported with --to {to}; torch says: "):
        export.export(network, tmp_path / "model", to, pictures[0][:5])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("to", ["onnx", "onnx-int8"])
def test_a_file_that_onnxruntime_refuses_is_not_kept(
    pictures: Any, tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = Mock(side_effect=RuntimeError("Unsupported model IR version"))
    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    network = Predictor(built(), CLASSES, CPU)
    with pytest.raises(ArtifactError, match="onnxruntime cannot use it; Unsupported model IR"):
        export.export(network, tmp_path / "model", to, pictures[0][:5])
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "onnx":
            raise export.PackageNotFoundError
        return "1"

    monkeypatch.setattr(export, "version", version)
    with pytest.raises(ArtifactError, match=r'needs onnxscript and onnxruntime: pip install "aut'):
        export.require("onnx-int8")
    export.require("torch-export")


def test_other_reasons_for_no_file(
    predictor: Predictor, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtifactError, match="choose another with --out"):
        export.export(predictor, tmp_path / "none" / "x.onnx", "onnx", pictures[0])
    with pytest.raises(ArtifactError, match="needs pictures"):
        export.export(predictor, tmp_path / "x.onnx", "onnx-int8", pictures[0][:1])
    monkeypatch.setattr(export, "LARGEST", 10)
    with pytest.raises(ArtifactError, match="torch-export"):
        export.export(predictor, tmp_path / "x.onnx", "onnx", pictures[0])
    assert list(tmp_path.iterdir()) == []


def test_examples_are_drawn_decoded_and_numbered(predictor: Predictor, tmp_path: Path) -> None:
    found = squares(20)
    known = [e.label if i % 2 else "unknown" for i, e in enumerate(found)]
    given = [type(e)(e.name, e.image, label) for e, label in zip(found, known, strict=True)]
    given[0] = type(given[0])("torn", tmp_path / "torn.jpg", "red")
    failed: list[str] = []
    images, labels = export.pictures_of(predictor, given, 100, failed.append)
    assert images.shape == (59, 16, 16, 3)
    assert (labels == -1).sum() == 29
    assert len(failed) == 1
    fewer, _ = export.pictures_of(predictor, given, 7, failed.append)
    np.testing.assert_array_equal(fewer, images[:7])
    assert export.noise(predictor, 3).shape == (3, 16, 16, 3)
