"""The pictures shown are the wrong answers and the wrong labels, the surest first."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import model, squares

from autotl import data
from autotl.data import Dataset
from autotl.evaluation import error_analysis
from autotl.scoring.metrics import Probabilities


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.check(squares(40), "squares")


def knowing(dataset: Dataset, seed: int = 0) -> Probabilities:
    """Answers of a model that is rather good, ``[N, 3]``."""
    random = np.random.default_rng(seed)
    sure = random.uniform(0.6, 0.95, len(dataset.labels))
    p = np.repeat(((1 - sure) / 2)[:, None], 3, 1)
    p[np.arange(len(sure)), dataset.labels] = sure
    return p.astype(np.float32)


def relabelled(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The same pictures, some under the next class."""
    labels = dataset.labels.copy()
    labels[rows] = (labels[rows] + 1) % 3
    return replace(dataset, labels=labels)


def test_wrong_labels_are_doubted(dataset: Dataset) -> None:
    caught, alarms, wrong = 0, 0, 0
    for seed in range(10):
        rows = np.random.default_rng(seed).choice(len(dataset.labels), 8, replace=False)
        noisy = relabelled(dataset, rows)
        everything = np.arange(len(dataset.labels))
        shown = error_analysis.doubtful(noisy, everything, knowing(dataset, seed))
        names = {dataset.examples[i].name for i in rows}
        caught += len(names & {s["name"] for s in shown})
        alarms += len({s["name"] for s in shown} - names)
        wrong += len(rows)
    assert caught / wrong > 0.5  # those that the model is less sure of than usual stay unseen
    assert alarms == 0


def test_what_the_model_is_unsure_of_is_not_doubted(dataset: Dataset) -> None:
    rows = np.arange(len(dataset.labels))
    answers = knowing(dataset)
    answers[0] = np.roll([0.36, 0.34, 0.30], dataset.labels[0] + 1)  # wrong, but below the usual
    assert error_analysis.doubtful(dataset, rows, answers) == []
    assert len(error_analysis.mistakes(dataset, rows, answers)) == 1


def test_a_picture_that_was_asked_about_twice_is_shown_once(dataset: Dataset) -> None:
    noisy = relabelled(dataset, np.array([5]))
    rows = np.arange(len(dataset.labels))
    answers = knowing(dataset)
    answers[5] = np.roll([0.99, 0.005, 0.005], dataset.labels[5])
    twice = np.concatenate([rows, rows]), np.concatenate([answers, answers])
    [shown] = error_analysis.doubtful(noisy, *twice)
    assert shown["name"] == dataset.examples[5].name
    assert shown["probability"] == pytest.approx(0.99)
    assert shown["truth"] == dataset.classes[noisy.labels[5]]
    assert shown["guess"] == dataset.classes[dataset.labels[5]]


def test_mistakes_come_surest_first_and_not_too_many(dataset: Dataset) -> None:
    rows = np.arange(len(dataset.labels))
    wrong = np.roll(knowing(dataset), 1, axis=1)
    shown = error_analysis.mistakes(dataset, rows, wrong)
    assert len(shown) == error_analysis.MOST
    sure = [s["probability"] for s in shown]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] == pytest.approx(wrong.max())
    assert all(s["truth"] != s["guess"] for s in shown)
    assert error_analysis.mistakes(dataset, rows, knowing(dataset)) == []


def test_rows_are_places_in_the_data(dataset: Dataset) -> None:
    rows = dataset.indices("test")
    wrong = np.roll(knowing(dataset), 1, axis=1)[rows]
    names = {dataset.examples[i].name for i in rows}
    assert {s["name"] for s in error_analysis.mistakes(dataset, rows, wrong)} <= names


def test_a_thumbnail_is_a_small_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), (200, 30, 30)).save(tmp_path / "red.png")
    uri = error_analysis.thumbnail(tmp_path / "red.png")
    kind, content = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (picture.format, picture.size) == ("JPEG", (error_analysis.SIDE, error_analysis.SIDE))
    assert np.array(picture)[10, 10] == pytest.approx((200, 30, 30), abs=6)
    assert len(uri) < 8000
    assert error_analysis.thumbnail(tmp_path / "gone.png") == ""


def test_a_picture_that_is_gone_has_no_saliency(dataset: Dataset) -> None:
    pytest.importorskip("captum")
    answers = np.roll(knowing(dataset), 1, 1)
    shown = error_analysis.mistakes(dataset, np.arange(len(dataset.labels)), answers)[:2]
    gone = [
        replace(e, image=Path("gone.png")) for e in dataset.examples if e.name == shown[0]["name"]
    ]
    others = [e for e in dataset.examples if e.name != shown[0]["name"]]
    found = error_analysis.explained(shown, replace(dataset, examples=gone + others), model(), 60.0)
    assert ["saliency" in entry for entry in found] == [False, True]
