"""Error analysis: misclassified images and label issues are found, the most confident first."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from autotl_plugins.multilabel import Multilabel
from PIL import Image
from toy import COLOURS, CPU, model, squares

from autotl import Example, data
from autotl.artifact.predictor import Predictor
from autotl.data import Dataset
from autotl.data.image_kind import PREVIEW_SIDE
from autotl.evaluation import error_analysis
from autotl.scoring.metrics import Probabilities
from autotl.tasks import Classification


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.check(squares(40), "squares")


def mostly_correct(dataset: Dataset, seed: int = 0) -> Probabilities:
    """Probabilities ``[N, 3]`` of a model that predicts every label, more or less confidently."""
    random = np.random.default_rng(seed)
    confidence = random.uniform(0.6, 0.95, len(dataset.targets))
    p = np.repeat(((1 - confidence) / 2)[:, None], 3, 1)
    p[np.arange(len(confidence)), dataset.targets] = confidence
    return p.astype(np.float32)


def predictor() -> Predictor:
    return Predictor(model(), Classification(list(COLOURS)), CPU)


def relabel(dataset: Dataset, indices: np.ndarray) -> Dataset:
    """Return the same images, those at ``indices`` labelled as the next class."""
    labels = dataset.targets.copy()
    labels[indices] = (labels[indices] + 1) % 3
    return replace(dataset, targets=labels)


def test_wrong_labels_are_found(dataset: Dataset) -> None:
    found, false_alarms, wrong = 0, 0, 0
    for seed in range(10):
        indices = np.random.default_rng(seed).choice(len(dataset.targets), 8, replace=False)
        noisy = relabel(dataset, indices)
        everything = np.arange(len(dataset.targets))
        probabilities = mostly_correct(dataset, seed)
        issues = error_analysis.find_label_issues(noisy, everything, probabilities)
        names = {dataset.examples[i].name for i in indices}
        found += len(names & {entry["name"] for entry in issues})
        false_alarms += len({entry["name"] for entry in issues} - names)
        wrong += len(indices)
    assert found / wrong > 0.5  # those with a confidence below the mean are not found
    assert false_alarms == 0


def test_an_uncertain_mistake_is_not_a_label_issue(dataset: Dataset) -> None:
    indices = np.arange(len(dataset.targets))
    probabilities = mostly_correct(dataset)
    # A wrong prediction with a probability below the mean of its class.
    probabilities[0] = np.roll([0.36, 0.34, 0.30], dataset.targets[0] + 1)
    assert error_analysis.find_label_issues(dataset, indices, probabilities) == []
    assert len(error_analysis.find_mistakes(dataset, indices, probabilities)) == 1


def test_an_image_that_was_predicted_twice_is_listed_once(dataset: Dataset) -> None:
    noisy = relabel(dataset, np.array([5]))
    indices = np.arange(len(dataset.targets))
    probabilities = mostly_correct(dataset)
    probabilities[5] = np.roll([0.99, 0.005, 0.005], dataset.targets[5])
    twice = np.concatenate([indices, indices]), np.concatenate([probabilities, probabilities])
    [entry] = error_analysis.find_label_issues(noisy, *twice)
    assert entry["name"] == dataset.examples[5].name
    assert entry["probability"] == pytest.approx(0.99)
    assert entry["truth"] == dataset.outputs[noisy.targets[5]]
    assert entry["guess"] == dataset.outputs[dataset.targets[5]]


def test_mistakes_are_sorted_by_confidence_and_limited_in_number(dataset: Dataset) -> None:
    indices = np.arange(len(dataset.targets))
    wrong = np.roll(mostly_correct(dataset), 1, axis=1)
    mistakes = error_analysis.find_mistakes(dataset, indices, wrong)
    assert len(mistakes) == error_analysis.MAX_IMAGES
    confidence = [entry["probability"] for entry in mistakes]
    assert confidence == sorted(confidence, reverse=True)
    assert confidence[0] == pytest.approx(wrong.max())
    assert all(entry["truth"] != entry["guess"] for entry in mistakes)
    assert error_analysis.find_mistakes(dataset, indices, mostly_correct(dataset)) == []


def test_rows_of_probabilities_belong_to_the_given_indices(dataset: Dataset) -> None:
    indices = dataset.indices("test")
    wrong = np.roll(mostly_correct(dataset), 1, axis=1)[indices]
    names = {dataset.examples[i].name for i in indices}
    mistakes = error_analysis.find_mistakes(dataset, indices, wrong)
    assert {entry["name"] for entry in mistakes} <= names


def test_a_thumbnail_is_a_small_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (400, 300), (200, 30, 30)).save(tmp_path / "red.png")
    files = [tmp_path / "red.png", tmp_path / "missing.png"]
    examples = tuple(Example(file.name, file, "red") for file in files)
    dataset = replace(data.check(squares(4), "squares"), examples=examples)
    uri = error_analysis.make_preview(dataset, 0)
    kind, content = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    side = PREVIEW_SIDE
    assert (image.format, image.size) == ("JPEG", (side, side))
    assert np.array(image)[10, 10] == pytest.approx((200, 30, 30), abs=6)
    assert len(uri) < 8000
    assert error_analysis.make_preview(dataset, 1) == ""


def test_a_deleted_image_gets_no_saliency_map(dataset: Dataset) -> None:
    pytest.importorskip("captum")
    wrong = np.roll(mostly_correct(dataset), 1, 1)
    mistakes = error_analysis.find_mistakes(dataset, np.arange(len(dataset.targets)), wrong)[:2]
    examples = [
        replace(e, item=Path("missing.png")) if e.name == mistakes[0]["name"] else e
        for e in dataset.examples
    ]
    changed = replace(dataset, examples=examples)
    entries = error_analysis.add_saliency(mistakes, changed, predictor(), max_seconds=60.0)
    assert ["saliency" in entry for entry in entries] == [False, True]


def test_without_time_or_captum_the_entries_stay_unchanged(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = np.roll(mostly_correct(dataset), 1, 1)
    mistakes = error_analysis.find_mistakes(dataset, np.arange(len(dataset.targets)), wrong)[:2]
    assert error_analysis.add_saliency(mistakes, dataset, predictor(), max_seconds=-1.0) == mistakes
    monkeypatch.setattr(error_analysis.saliency, "is_available", lambda: False)
    assert error_analysis.add_saliency(mistakes, dataset, predictor(), max_seconds=60.0) == mistakes


def test_of_several_labels_the_label_sets_are_compared(dataset: Dataset) -> None:
    task = Multilabel(["a", "b"])
    targets = np.tile([1.0, 0.0], (len(dataset.targets), 1)).astype(np.float32)
    labelled = replace(dataset, task=task, targets=targets)
    p = np.tile([0.9, 0.3], (3, 1)).astype(np.float32)
    p[1, 1] = 0.4
    indices = np.array([7, 4, 2])
    assert error_analysis.find_mistakes(labelled, indices, p) == []
    entries = error_analysis.find_mistakes(labelled, indices, p, {"thresholds": [0.5, 0.35]})
    [entry] = entries
    assert (entry["name"], entry["truth"]) == (dataset.examples[4].name, "a")
    assert (entry["guess"], entry["probability"]) == ("a;b", None)
    assert entry["thumbnail"].startswith("data:image/jpeg;base64,")
    # A set of labels is no single output that a saliency map could explain.
    assert error_analysis.add_saliency(entries, labelled, predictor(), max_seconds=60.0) == entries
