"""Find images to inspect: misclassified images and probable label errors.

Shapes: N images, C classes.
"""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from autotl import data
from autotl.data import Dataset, Indices, Scales
from autotl.errors import DataError
from autotl.evaluation import saliency
from autotl.models import Model
from autotl.scoring.metrics import Probabilities

MAX_IMAGES = 24
"""Largest number of images in a list."""

MAX_SALIENCY_MAPS = 8
"""Largest number of images that get a saliency map."""

THUMBNAIL_SIZE = 96
"""Side of a thumbnail, in pixels."""

ImageEntry = dict[str, Any]
"""``name`` of the image, ``truth`` (its label) and ``guess`` (the predicted class) as class names,
``probability`` of the guess, and ``thumbnail`` as a data URI."""


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
    guesses = probabilities.argmax(1)
    wrong = guesses != dataset.labels[indices]
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
    indices, probabilities = _average_repeated(indices, probabilities)
    labels = dataset.labels[indices]
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
            "truth": dataset.classes[dataset.labels[indices[i]]],
            "guess": dataset.classes[guesses[i]],
            "probability": float(confidence[i]),
            "thumbnail": make_thumbnail(dataset.examples[indices[i]].item, dataset.scales),
        }
        for i in order[selected[order]][:MAX_IMAGES]
    ]


def add_saliency(
    entries: list[ImageEntry], dataset: Dataset, network: Model, max_seconds: float
) -> list[ImageEntry]:
    """Add a ``saliency`` map to the first entries: the image regions that support the guess.

    Without captum the entries are returned unchanged.

    Args:
        entries: Entries of images in ``dataset``.
        dataset: The data set.
        network: The model that made the guesses.
        max_seconds: Time limit. The time of the first map tells how many are possible, at most
            ``MAX_SALIENCY_MAPS``.

    Returns:
        Copies of the entries, the first ones with ``saliency`` as a data URI.
    """
    if not saliency.is_available():
        return entries
    images = {example.name: example.item for example in dataset.examples}
    class_index = {name: index for index, name in enumerate(dataset.classes)}
    spec, start = network.input_spec, time.monotonic()
    extended: list[ImageEntry] = []
    for done, entry in enumerate(entries[:MAX_SALIENCY_MAPS]):
        if (time.monotonic() - start) * (done + 1) / max(1, done) > max_seconds:
            break
        try:
            image = data.decode(
                images[entry["name"]], spec.size, spec.interpolation, dataset.scales
            )
        except DataError:  # the file was deleted since, as in make_thumbnail
            extended.append(entry)
            continue
        batch = np.ascontiguousarray(image.transpose(2, 0, 1))[None]
        [saliency_map] = saliency.compute_saliency(network, batch, [class_index[entry["guess"]]])
        extended.append({**entry, "saliency": saliency.draw_overlay(image, saliency_map)})
    return extended + entries[len(extended) :]


def make_thumbnail(image: Any, scales: Scales | None = None) -> str:
    """Encode an image, resized as for a model, as a small JPEG in a data URI.

    Args:
        image: A file, or ``uint8 [H, W]`` or ``[H, W, 3]``.
        scales: The scales of images with more than 8 bits, see ``data.decode``.

    Returns:
        The data URI; empty if the image cannot be read.
    """
    try:
        pixels = data.decode(image, THUMBNAIL_SIZE, "bicubic", scales)
    except DataError:  # readable when the search began; the other images can still be shown
        return ""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
