"""Find examples to inspect: those with the largest errors, and probable label errors.

Shapes: N examples, K numbers in a prediction.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotl.artifact.predictor import Predictor
from autotl.data import Dataset, ImageInput, Indices
from autotl.errors import DataError
from autotl.evaluation import saliency
from autotl.scoring.chunks import chunks
from autotl.scoring.metrics import Predictions
from autotl.space.task import Finding
from autotl.tasks import Classification

MAX_IMAGES = 24
"""Largest number of images in a list."""

MAX_SALIENCY_MAPS = 8
"""Largest number of images that get a saliency map."""

ImageEntry = dict[str, Any]
"""``name`` of the example, ``truth`` (its label) and ``guess`` (what is predicted) as texts,
``probability`` of the guess or None, and ``thumbnail``, its preview, as a data URI."""


def find_mistakes(
    dataset: Dataset,
    indices: Indices,
    predictions: Predictions,
    calibration: Mapping[str, Any] = {},
) -> list[ImageEntry]:
    """Find the examples with the largest errors, such as the misclassified ones.

    Args:
        dataset: The data set.
        indices: Indices of the examples in it, ``[N]``.
        predictions: Predictions for these examples, ``[N, K]``.
        calibration: That of the model, see ``Task.calibrate``.

    Returns:
        At most ``MAX_IMAGES`` examples, the largest error first.
    """
    targets = dataset.targets[indices]
    findings = dataset.task.find_mistakes(targets, predictions, calibration, MAX_IMAGES)
    return _describe(dataset, indices, findings)


def find_label_issues(
    dataset: Dataset, indices: Indices, predictions: Predictions
) -> list[ImageEntry]:
    """Find examples whose label is probably wrong.

    Args:
        dataset: The data set.
        indices: Indices of the examples in it, ``[N]``; an example may occur several times.
        predictions: ``[N, K]`` from models that were not trained on the example. The predictions
            for an example that occurs several times are averaged.

    Returns:
        At most ``MAX_IMAGES`` examples, the most doubtful label first.
    """
    indices, predictions = _average_repeated(indices, predictions)
    targets = dataset.targets[indices]
    findings = dataset.task.find_doubtful_labels(targets, predictions, MAX_IMAGES)
    return _describe(dataset, indices, findings)


def _average_repeated(indices: Indices, predictions: Predictions) -> tuple[Indices, Predictions]:
    """Average the predictions for each example: ``[N]`` and ``[N, K]`` to one row per example."""
    unique, inverse, counts = np.unique(indices, return_inverse=True, return_counts=True)
    if len(unique) == len(indices) and (inverse == np.arange(len(indices))).all():
        return indices, predictions
    mean: Predictions = np.zeros((len(unique), predictions.shape[1]), dtype=np.float32)
    for part in chunks(*predictions.shape):
        own = inverse[part]
        np.add.at(mean, own, predictions[part] / counts[own, None].astype(np.float32))
    return unique, mean


def _describe(dataset: Dataset, indices: Indices, findings: Sequence[Finding]) -> list[ImageEntry]:
    return [
        {
            "name": dataset.examples[indices[f.index]].name,
            "truth": dataset.task.format(dataset.targets[indices[f.index]]),
            "guess": f.guess,
            "probability": f.probability,
            "thumbnail": make_preview(dataset, indices[f.index]),
        }
        for f in findings
    ]


def add_saliency(
    entries: list[ImageEntry], dataset: Dataset, predictor: Predictor, max_seconds: float
) -> list[ImageEntry]:
    """Add an explanation, ``saliency``, to the first entries: what supports the guess.

    For images these are the regions of a saliency map, which needs captum; without it, for
    kinds of input that do not explain predictions, and for predictions that are no single class,
    the entries are returned unchanged.

    Args:
        entries: Entries of examples in ``dataset``.
        dataset: The data set.
        predictor: The model that made the guesses.
        max_seconds: Time limit. The time of the first explanation tells how many are possible, at
            most ``MAX_SALIENCY_MAPS``.

    Returns:
        Copies of the entries, the first ones with ``saliency`` as a data URI.
    """
    index_of = {example.name: index for index, example in enumerate(dataset.examples)}
    if not isinstance(dataset.task, Classification):
        return entries
    class_index = {name: index for index, name in enumerate(dataset.outputs)}
    start = time.monotonic()
    extended: list[ImageEntry] = []
    for done, entry in enumerate(entries[:MAX_SALIENCY_MAPS]):
        if (time.monotonic() - start) * (done + 1) / max(1, done) > max_seconds:
            break
        try:
            explanation = _explain(
                dataset, index_of[entry["name"]], class_index[entry["guess"]], predictor
            )
        except DataError:  # the file was deleted since, as in make_preview
            explanation = ""
        extended.append({**entry, "saliency": explanation} if explanation else entry)
    return extended + entries[len(extended) :]


def _explain(dataset: Dataset, index: int, class_index: int, predictor: Predictor) -> str:
    """Explain one prediction as a data URI; empty if that is not possible.

    Raises:
        DataError: The example cannot be read.
    """
    network, item = predictor.network, dataset.examples[index].item
    if isinstance(network.expects, ImageInput):
        if not saliency.is_available():
            return ""
        image = dataset.encode(index, network.expects)
        batch = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
        [saliency_map] = saliency.compute_saliency(network, batch, [class_index], dataset.task)
        return saliency.draw_overlay(image, saliency_map)
    weighted = dataset.kind.explain(item, class_index, predictor.predict_items)
    if weighted is None:
        return ""
    return _data_uri("application/json", json.dumps(weighted.parts).encode())


def make_preview(dataset: Dataset, index: int) -> str:
    """Show an example as a data URI; empty if it cannot be read.

    Args:
        dataset: The data set.
        index: The index of the example in it.
    """
    item = dataset.examples[index].item
    try:
        preview = dataset.kind.show(item, dataset.scales)
    except Exception:  # readable when the search began; the other examples can still be shown
        return ""
    return _data_uri(preview.media_type, preview.content)


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64," + base64.b64encode(content).decode()
