"""Pictures that are worth a look: answers that were wrong, and labels that may be.

Shapes: N pictures, C classes.
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
from autotl.data import Dataset, Rows
from autotl.errors import DataError
from autotl.evaluation import saliency
from autotl.models import Model
from autotl.scoring.metrics import Probabilities

MOST = 24
"""Pictures shown."""

EXPLAINED = 8
"""Of these, with what in them speaks for the guess."""

SIDE = 96
"""Of a thumbnail, in pixels."""

Shown = dict[str, Any]
"""``name`` of the picture, ``truth`` and ``guess`` as classes, the guess's ``probability``, and a
``thumbnail`` as a data URI."""


def mistakes(dataset: Dataset, rows: Rows, probabilities: Probabilities) -> list[Shown]:
    """The wrong answers, the most confident first, ``MOST`` at most.

    Args:
        dataset: What the pictures are of.
        rows: Their places in it, ``[N]``.
        probabilities: The answers, ``[N, C]``.
    """
    guesses = probabilities.argmax(1)
    return _shown(dataset, rows, guesses, probabilities, guesses != dataset.labels[rows])


def doubtful(dataset: Dataset, rows: Rows, probabilities: Probabilities) -> list[Shown]:
    """The labels that a model doubts with confidence, the most confident first, ``MOST`` at most.

    A picture counts as another class than its label says when that is the likeliest of those
    classes that it belongs to with at least the mean probability of the pictures labelled so
    (Northcutt et al. 2021, arXiv:1911.00068).

    Args:
        dataset: What the pictures are of.
        rows: Their places in it, ``[N]``; one may come several times.
        probabilities: The answers of models that were not trained on the picture, ``[N, C]``.
    """
    rows, probabilities = _averaged(rows, probabilities)
    labels = dataset.labels[rows]
    usual = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(labels):
        usual[label] = probabilities[labels == label, label].mean()
    confident = np.where(probabilities >= usual, probabilities, 0.0)
    guesses = confident.argmax(1)
    doubted = (guesses != labels) & (confident.max(1) > 0)
    return _shown(dataset, rows, guesses, probabilities, doubted)


def _averaged(rows: Rows, probabilities: Probabilities) -> tuple[Rows, Probabilities]:
    """Every picture once, with the mean of its answers."""
    once, places, counts = np.unique(rows, return_inverse=True, return_counts=True)
    mean: Probabilities = np.zeros((len(once), probabilities.shape[1]), dtype=np.float32)
    np.add.at(mean, places, probabilities / counts[places, None].astype(np.float32))
    return once, mean


def _shown(
    dataset: Dataset,
    rows: Rows,
    guesses: NDArray[np.int64],
    probabilities: Probabilities,
    chosen: NDArray[np.bool_],
) -> list[Shown]:
    sure = probabilities[np.arange(len(rows)), guesses]
    order = np.argsort(-sure, kind="stable")
    return [
        {
            "name": dataset.examples[rows[i]].name,
            "truth": dataset.classes[dataset.labels[rows[i]]],
            "guess": dataset.classes[guesses[i]],
            "probability": float(sure[i]),
            "thumbnail": thumbnail(dataset.examples[rows[i]].image),
        }
        for i in order[chosen[order]][:MOST]
    ]


def explained(shown: list[Shown], dataset: Dataset, network: Model, seconds: float) -> list[Shown]:
    """The same with a ``saliency`` each, a data URI: what in the picture speaks for the guess.

    Needs captum; without it nothing is added. As many of them as ``seconds`` allow, the first
    picture telling how long one takes, ``EXPLAINED`` at most.
    """
    if not saliency.available():
        return shown
    examples = {example.name: example for example in dataset.examples}
    numbers = {name: number for number, name in enumerate(dataset.classes)}
    expects, began, found = network.expects, time.monotonic(), []
    for done, entry in enumerate(shown[:EXPLAINED]):
        if (time.monotonic() - began) * (done + 1) / max(1, done) > seconds:
            break
        image = examples[entry["name"]].image
        try:
            picture = data.decode(image, expects.size, expects.interpolation)
        except DataError:  # as in thumbnail
            found.append(entry)
            continue
        pixels = np.ascontiguousarray(picture.transpose(2, 0, 1))[None]
        [heat] = saliency.saliency(network, pixels, [numbers[entry["guess"]]])
        found.append({**entry, "saliency": saliency.overlay(picture, heat)})
    return found + shown[len(found) :]


def thumbnail(image: Any) -> str:
    """A picture as models see it, as a small JPEG in a data URI; empty if it cannot be read."""
    try:
        pixels = data.decode(image, SIDE, "bicubic")
    except DataError:  # it was there when the search began; the rest can still be shown
        return ""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
