"""Find examples to inspect: misclassified ones and probable label errors.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.artifact.model_folder import Predictor
from autotl.data import IMAGES, Dataset, ImageInput, Indices
from autotl.errors import DataError
from autotl.evaluation import saliency
from autotl.scoring.metrics import Probabilities

MAX_IMAGES = 24
"""Largest number of images in a list."""

MAX_SALIENCY_MAPS = 8
"""Largest number of images that get a saliency map."""

ImageEntry = dict[str, Any]
"""``name`` of the example, ``truth`` (its label) and ``guess`` (the predicted class) as class
names, ``probability`` of the guess, and ``thumbnail``, its preview, as a data URI."""


def find_mistakes(
    dataset: Dataset, indices: Indices, probabilities: Probabilities
) -> list[ImageEntry]:
    """Find the misclassified images.

    Args:
        dataset: The data set.
        indices: Indices of the images in it, ``[N]``.
        probabilities: Predicted probabilities of these images, ``[N, C]``.

    Returns:
        The images with the most confident wrong predictions, at most ``MAX_IMAGES``, the most
        confident first.
    """
    if dataset.targets.ndim > 1:
        return []
    guesses = probabilities.argmax(1)
    wrong = guesses != dataset.targets[indices]
    return _list_most_confident(dataset, indices, guesses, probabilities, wrong)


def find_label_issues(
    dataset: Dataset, indices: Indices, probabilities: Probabilities
) -> list[ImageEntry]:
    """Find images whose label is probably wrong, by confident learning.

    A class is a candidate for an image if its probability reaches the mean probability of that
    class over the images labelled with it. The image has a label issue if its most probable
    candidate is not its label (Northcutt et al. 2021, arXiv:1911.00068).

    Args:
        dataset: The data set.
        indices: Indices of the images in it, ``[N]``; an image may occur several times.
        probabilities: Probabilities ``[N, C]`` from models that were not trained on the image. The
            probabilities of an image that occurs several times are averaged.

    Returns:
        The images with the most confident label issues, at most ``MAX_IMAGES``, the most confident
        first.
    """
    if dataset.targets.ndim > 1:
        return []
    indices, probabilities = _average_repeated(indices, probabilities)
    labels = dataset.targets[indices]
    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(labels):
        thresholds[label] = probabilities[labels == label, label].mean()
    candidates = np.where(probabilities >= thresholds, probabilities, 0.0)
    guesses = candidates.argmax(1)
    issues = (guesses != labels) & (candidates.max(1) > 0)
    return _list_most_confident(dataset, indices, guesses, probabilities, issues)


def _average_repeated(
    indices: Indices, probabilities: Probabilities
) -> tuple[Indices, Probabilities]:
    """Average the probabilities of each image: ``[N]`` and ``[N, C]`` to one row per image."""
    unique, inverse, counts = np.unique(indices, return_inverse=True, return_counts=True)
    mean: Probabilities = np.zeros((len(unique), probabilities.shape[1]), dtype=np.float32)
    np.add.at(mean, inverse, probabilities / counts[inverse, None].astype(np.float32))
    return unique, mean


def _list_most_confident(
    dataset: Dataset,
    indices: Indices,
    guesses: NDArray[np.int64],
    probabilities: Probabilities,
    selected: NDArray[np.bool_],
) -> list[ImageEntry]:
    """Describe the ``selected`` images ``[N]`` with the most probable guesses."""
    confidence = probabilities[np.arange(len(indices)), guesses]
    order = np.argsort(-confidence, kind="stable")
    return [
        {
            "name": dataset.examples[indices[i]].name,
            "truth": dataset.task.format(dataset.targets[indices[i]]),
            "guess": dataset.outputs[guesses[i]],
            "probability": float(confidence[i]),
            "thumbnail": make_preview(dataset, indices[i]),
        }
        for i in order[selected[order]][:MAX_IMAGES]
    ]


def add_saliency(
    entries: list[ImageEntry], dataset: Dataset, predictor: Predictor, max_seconds: float
) -> list[ImageEntry]:
    """Add an explanation, ``saliency``, to the first entries: what supports the guess.

    For images these are the regions of a saliency map, which needs captum; without it, and for
    kinds of input that do not explain predictions, the entries are returned unchanged.

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
        [saliency_map] = saliency.compute_saliency(network, batch, [class_index])
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
        preview = (
            IMAGES.show(item, dataset.scales) if dataset.kind is IMAGES else dataset.kind.show(item)
        )
    except Exception:  # readable when the search began; the other examples can still be shown
        return ""
    return _data_uri(preview.media_type, preview.content)


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64," + base64.b64encode(content).decode()
