"""Export a saved model to one file for other programs, in one of the ``export_formats``.

Each file is compared with the model on real examples before it gets its final name; a file whose
predictions differ from the model's is discarded.

Shapes: N examples, S the side of images in pixels, K numbers in a prediction.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotl import files
from autotl.artifact.export_formats import (
    SUFFIXES,
    ExportableModel,
    ImageArray,
    PredictFunction,
    check_requirements,
    quantize,
    silence,
    to_tensor,
    write_onnx,
    write_torch_export,
)
from autotl.artifact.predictor import BATCH_SIZE, Predictor
from autotl.artifact.standalone import output_name
from autotl.data import ImageInput, parse_label
from autotl.errors import ArtifactError, DataError
from autotl.space.input_kind import ModelInput
from autotl.space.plugin import Example
from autotl.space.task import Task
from autotl.tasks import Classification, measure_difference

TOLERANCE = 1e-3
"""Largest allowed difference between a probability of a float32 export and the model's, or between
numbers, in standard deviations of the labels."""

MAX_CALIBRATION_IMAGES = 128
"""Largest number of images that determine the quantization ranges of an int8 model."""


def decode_examples(
    predictor: Predictor,
    examples: Sequence[Example],
    max_images: int,
    on_unreadable: Callable[[str], None],
) -> tuple[ImageArray, NDArray[np.int64]]:
    """Decode a random subset of examples, always the same one.

    Args:
        predictor: The model whose preprocessing is applied.
        examples: The examples to draw from.
        max_images: Largest number of images.
        on_unreadable: Called with the reason why an image cannot be read.

    Returns:
        Encoded examples ``[N, ...]`` and labels ``[N]``, -1 where the model has no such class, as
        for all examples of a task without classes.
    """
    task = predictor.task
    expects = predictor.network.expects
    classes = predictor.classes if isinstance(task, Classification) else ()
    class_index = {name: i for i, name in enumerate(classes)}
    images, labels = [], []
    for i in np.random.default_rng(0).permutation(len(examples))[:max_images]:
        try:
            images.append(predictor.encode(examples[i].item))
            labels.append(class_index.get(parse_label(examples[i].label, task)[0], -1))
        except DataError as error:
            on_unreadable(str(error))
    empty = np.empty((0, *expects.shape), dtype=expects.dtype)
    return (np.stack(images) if images else empty), np.array(labels, dtype=np.int64)


def toy_examples(predictor: Predictor, count: int) -> ImageArray:
    """Make ``count`` examples to compare on without real ones.

    Images are random blocks of 8 x 8 pixels; others are the toy examples of their kind.
    """
    expects = predictor.network.expects
    if not isinstance(expects, ImageInput):
        toys = predictor.kind.toy([count])
        return np.stack([predictor.encode(example.item) for example in toys])
    size = expects.size
    side = -(-size // 8)
    coarse = np.random.default_rng(0).integers(
        0, 256, (count, side, side, expects.channels), dtype=np.uint8
    )
    return coarse.repeat(8, 1).repeat(8, 2)[:, :size, :size]


@dataclass(frozen=True)
class ExportResult:
    """An exported file and the comparison of its predictions with the model's.

    Attributes:
        file: The exported file.
        num_bytes: Its size.
        num_images: Number of images that were compared.
        max_difference: Largest absolute difference between two probabilities, or between two
            numbers in standard deviations of the labels.
        agreement: Fraction of images for which model and file predict the same class; None if the
            task has no classes.
        accuracy: Accuracy of the model and of the file; None without labels.
        accuracy_loss: Accuracy of the model minus that of the file, and its 95 % interval. The
            interval is that of the paired difference, as both are measured on the same images.
            None without labels.
        num_calibration_images: Number of images that determined the ranges of an int8 file.
    """

    file: Path
    num_bytes: int
    num_images: int
    max_difference: float
    agreement: float | None = None
    accuracy: tuple[float, float] | None = None
    accuracy_loss: tuple[float, float, float] | None = None
    num_calibration_images: int = 0


def check_file(file: Path, to: str) -> None:
    """Check that a file is one that an export may replace.

    Raises:
        ArtifactError: It is a folder, or an existing file with the ending of another format.
    """
    if file.is_dir():
        raise ArtifactError(f"{file} is a folder; give the path of a file with --out")
    suffix = "." + SUFFIXES[to].rpartition(".")[2]
    if file.exists() and file.suffix.lower() != suffix:
        raise ArtifactError(
            f"{file} exists and does not end in {suffix}, so it is not replaced; choose another "
            "file with --out"
        )


def export(
    predictor: Predictor,
    file: Path,
    to: str,
    images: ImageArray,
    labels: NDArray[np.int64] | None = None,
) -> ExportResult:
    """Write ``file`` and compare it with the model; on failure nothing is written.

    Args:
        predictor: A loaded model.
        file: Where to write.
        to: ``onnx``: input ``images`` uint8 ``[N, C, S, S]``, output ``probabilities`` float32
            ``[N, K]``, or ``predictions`` of a task without them; task, classes, preprocessing and
            calibration in its metadata. ``onnx-int8``: the same with weights and activations of the
            backbone in 8 bits (static quantization, QDQ format, weights per channel); the head
            stays in float32. ``torch-export``: a ``.pt2`` with the same input and output.
            ``torch.export.load`` unpickles: load only files that you trust.
        images: Real images to compare on, ``[N, S, S, C]``. The first ``MAX_CALIBRATION_IMAGES`` of
            them, but at most half, calibrate an int8 model and are not compared on.
        labels: Class index of each image ``[N]``, negative where it is unknown.

    Raises:
        ArtifactError: The model cannot be exported, a package is missing, or the predictions of a
            float32 file differ from the model's by more than ``TOLERANCE``.
    """
    check_requirements(to)
    check_file(file, to)
    if to == "onnx-int8":
        _require_quantizable(predictor, images)
    task = predictor.task
    model = ExportableModel(predictor.network, predictor.temperature, task)
    num_calibration = min(MAX_CALIBRATION_IMAGES, len(images) // 2) if to == "onnx-int8" else 0
    try:
        files.remove_leftovers(file.parent)
        with files.folder_beside(file) as folder, silence():
            unfinished = folder / file.name
            write = write_torch_export if to == "torch-export" else write_onnx
            predict = write(model, unfinished, predictor)
            if num_calibration:
                predict = quantize(unfinished, images[:num_calibration])
                images = images[num_calibration:]
                labels = None if labels is None else labels[num_calibration:]
            result = replace(
                _compare(model, predict, task, images, labels, file, unfinished.stat().st_size),
                num_calibration_images=num_calibration,
            )
            if to != "onnx-int8":
                _require_equal(result, to, task)
            unfinished.replace(file)
            _save_input_files(predictor, file)
    except OSError as error:
        raise ArtifactError(
            f"{file} cannot be written ({error.strerror or error}); choose another with --out"
        ) from None
    return result


def _require_equal(result: ExportResult, to: str, task: Task) -> None:
    """Raise ArtifactError if the predictions of a float32 file are not the model's."""
    if not result.max_difference <= TOLERANCE:
        raise ArtifactError(
            f"the {to} file was discarded: its {output_name(task)} differ by up to "
            f"{result.max_difference:.2g}{unit_of_difference(task)} from the model's, and at most "
            f"{TOLERANCE} is allowed"
        )


def unit_of_difference(task: Task) -> str:
    """Return in which unit the predictions of a file and the model are compared."""
    return "" if task.has_probabilities else " standard deviations"


def _require_quantizable(predictor: Predictor, images: ImageArray) -> None:
    """Raise ArtifactError if a model cannot be exported in 8 bits."""
    if not isinstance(predictor.network.expects, ImageInput):
        raise ArtifactError("--to onnx-int8 is for models of images; export with --to onnx")
    if len(images) < 2:
        raise ArtifactError("--to onnx-int8 needs at least 2 images for calibration: give --data")


def _save_input_files(predictor: Predictor, file: Path) -> None:
    """Write the files of the input, such as a vocabulary, into a folder beside the exported file.

    Raises:
        OSError: They cannot be written.
    """
    expects = predictor.network.expects
    if type(expects).save is ModelInput.save:
        return
    with files.folder_beside(file.with_suffix("")) as folder:
        expects.save(folder)
        target = file.with_suffix(".input")
        target.mkdir(exist_ok=True)
        for saved in folder.iterdir():
            saved.replace(target / saved.name)


def _compare(
    model: Callable[[Tensor], Tensor],
    predict: PredictFunction,
    task: Task,
    images: ImageArray,
    labels: NDArray[np.int64] | None,
    file: Path,
    num_bytes: int,
) -> ExportResult:
    """Compare the predictions of the exported file with those of the model."""
    with torch.inference_mode():
        expected = _predict_in_batches(lambda batch: model(to_tensor(batch)).numpy(), images)
        try:
            exported = _predict_in_batches(predict, images)
        except Exception as error:
            message = textwrap.shorten(str(error) or type(error).__name__, 300)
            raise ArtifactError(f"the file was discarded: it cannot be run: {message}") from error
    result = ExportResult(
        file,
        num_bytes,
        len(images),
        measure_difference(task, torch.from_numpy(expected), torch.from_numpy(exported)),
    )
    if not isinstance(task, Classification):
        return result
    result = replace(result, agreement=float((expected.argmax(1) == exported.argmax(1)).mean()))
    if labels is None or not (labels >= 0).any():
        return result
    labelled = labels >= 0
    correct = [p[labelled].argmax(1) == labels[labelled] for p in (expected, exported)]
    loss = correct[0].astype(float) - correct[1]
    mean, margin = float(loss.mean()), 1.96 * float(loss.std() / np.sqrt(len(loss)))
    return replace(
        result,
        accuracy=(float(correct[0].mean()), float(correct[1].mean())),
        accuracy_loss=(mean, mean - margin, mean + margin),
    )


def _predict_in_batches(predict: PredictFunction, images: ImageArray) -> NDArray[np.float32]:
    """Predict the first image alone and the others in batches: a file must support both."""
    bounds = [0, *range(1, len(images), BATCH_SIZE), len(images)]
    batches = [images[start:end] for start, end in pairwise(bounds) if start < end]
    return np.concatenate([predict(batch) for batch in batches])
