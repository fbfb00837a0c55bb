"""Evaluation of a saved model: the scores equal scikit-learn's, and what is left out is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from PIL import Image
from toy import CPU, model, squares

from autotl import Example
from autotl.artifact.predictor import Predictor
from autotl.data import digest_examples
from autotl.errors import DataError
from autotl.evaluation.evaluate import compute_scores, evaluate
from autotl.scoring import intervals
from autotl.scoring.metrics import METRICS
from autotl.tasks import Classification
from autotl.testing.toy import COLOURS

CLASSES = sorted(COLOURS)
ACCURACY = [METRICS["accuracy"]]


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """60 images, of which every fifth is labelled as the next class."""
    return [
        replace(e, label=CLASSES[(CLASSES.index(e.label) + (i % 5 == 0)) % 3])
        for i, e in enumerate(squares(20))
    ]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A model that classifies most of the images correctly, trained on the source ``known``."""
    network = model(head="nearest_mean").eval()
    training = squares(20, seed=1)
    images = torch.from_numpy(np.stack([e.item for e in training])).permute(0, 3, 1, 2)
    labels = torch.tensor([CLASSES.index(e.label) for e in training])
    with torch.no_grad():
        network.head.fit(network.features(images), labels)  # type: ignore[operator]
    return Predictor(network, Classification(CLASSES), CPU, 1.5, {"data": {"source": "known"}})


@pytest.fixture(scope="module")
def probabilities(predictor: Predictor, examples: list[Example]) -> np.ndarray:
    return predictor.predict_proba(np.stack([e.item for e in examples]))


@pytest.fixture(scope="module")
def result(predictor: Predictor, examples: list[Example]) -> dict[str, Any]:
    """The evaluation with all metrics."""
    return evaluate(predictor, examples, "new")


def class_indices(examples: Sequence[Example]) -> np.ndarray:
    return np.array([CLASSES.index(e.label) for e in examples])


def test_scores_equal_those_of_scikit_learn(
    result: dict[str, Any], examples: list[Example], probabilities: np.ndarray
) -> None:
    labels, predicted = class_indices(examples), probabilities.argmax(1)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "auroc": sklearn.metrics.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "log_loss": sklearn.metrics.log_loss(labels, probabilities),
    }
    assert result["n"] == 60
    assert 0.5 < expected["accuracy"] < 1, "the test needs correct and wrong predictions"
    assert list(result["metrics"]) == list(expected)
    for name, score in expected.items():
        entry = result["metrics"][name]
        assert entry["score"] == pytest.approx(score, abs=1e-4)
        assert entry["low"] < entry["score"] < entry["high"]
    matrix = sklearn.metrics.confusion_matrix(labels, predicted)
    np.testing.assert_array_equal(result["confusion"], matrix)
    recall = sklearn.metrics.recall_score(labels, predicted, average=None)
    precision = sklearn.metrics.precision_score(labels, predicted, average=None)
    f1 = sklearn.metrics.f1_score(labels, predicted, average=None)
    for i, row in enumerate(result["per_class"]):
        assert (row["class"], row["n"]) == (CLASSES[i], (labels == i).sum())
        assert (row["recall"], row["precision"]) == pytest.approx((recall[i], precision[i]))
        assert row["f1"] == pytest.approx(f1[i])
    assert 0 < result["ece"] < 1
    assert result["notes"] == result["unreadable"] == []


def test_only_the_requested_metrics_are_computed(
    predictor: Predictor, examples: list[Example], result: dict[str, Any]
) -> None:
    names = ["log_loss", "accuracy"]
    chosen = [METRICS[name] for name in names]
    metrics = evaluate(predictor, examples, "new", chosen=chosen)["metrics"]
    assert list(metrics) == names
    assert metrics == {name: result["metrics"][name] for name in names}


def test_the_interval_of_grouped_images_is_that_of_their_groups(
    predictor: Predictor,
    examples: list[Example],
    probabilities: np.ndarray,
    result: dict[str, Any],
) -> None:
    correct = probabilities.argmax(1) == class_indices(examples)
    # Groups of six images that are all predicted correctly or all wrongly, and a remainder.
    order = np.argsort(correct, kind="stable")
    units = np.empty(60, dtype=int)
    units[order] = np.arange(60) // 6
    grouped = [replace(e, group=f"patient {u}") for e, u in zip(examples, units, strict=True)]
    independent = result["metrics"]["accuracy"]
    entry = evaluate(predictor, grouped, "new", chosen=ACCURACY)["metrics"]["accuracy"]
    n = intervals.effective_sample_size(correct, units)
    assert n < 60
    assert (entry["low"], entry["high"]) == intervals.wilson_interval(correct.mean(), n)
    assert entry["high"] - entry["low"] > independent["high"] - independent["low"]


def test_unknown_and_missing_labels_are_left_out_and_named(
    predictor: Predictor, examples: list[Example]
) -> None:
    labels = {"blue": "blu", "green": "cat", "red": "red"}
    relabelled = [replace(e, label=labels[e.label]) for e in examples]
    relabelled.append(replace(examples[0], name="unlabelled", label=""))
    result = evaluate(predictor, relabelled, "new", chosen=[METRICS["accuracy"], METRICS["auroc"]])
    count = {name: sum(e.label == name for e in examples) for name in CLASSES}
    assert result["n"] == count["red"]
    assert [row["n"] for row in result["per_class"]] == [0, 0, count["red"]]
    assert result["per_class"][0]["recall"] is result["per_class"][0]["f1"] is None
    assert set(result["metrics"]["auroc"].values()) == {None}
    assert sorted(result["notes"]) == [
        "left out: 1 images without a label",
        f"left out: {count['blue']} images of 'blu', not a class of the model; "
        "did you mean 'blue'?",
        f"left out: {count['green']} images of 'cat', not a class of the model; "
        "there are blue, green, red",
        "no image of 'blue', 'green': the scores do not cover these classes",
    ]


def test_unreadable_images_are_left_out_and_named(
    predictor: Predictor, examples: list[Example], tmp_path: Path
) -> None:
    (tmp_path / "torn.png").write_text("not an image")
    torn = Example("torn", tmp_path / "torn.png", "red")
    missing = Example("missing", tmp_path / "missing.png", "red")
    result = evaluate(predictor, [torn, *examples, missing], "new", chosen=ACCURACY)
    complete = evaluate(predictor, examples, "new", chosen=ACCURACY)
    assert [entry["name"] for entry in result.pop("unreadable")] == ["torn", "missing"]
    assert complete.pop("unreadable") == []
    assert result == complete
    with pytest.raises(DataError, match=r"new: no image can be read; .*torn\.png"):
        evaluate(predictor, [torn, missing], "new")


def test_a_split_selects_its_examples(
    predictor: Predictor, examples: list[Example], probabilities: np.ndarray
) -> None:
    splits: Any = ("train", "test", "test")
    parts = [replace(e, split=splits[i % 3]) for i, e in enumerate(examples)]
    test = np.arange(60) % 3 > 0
    result = evaluate(predictor, parts, "new", split="test", chosen=ACCURACY)
    correct = probabilities.argmax(1) == class_indices(examples)
    assert result["n"] == 40
    assert result["metrics"]["accuracy"]["score"] == pytest.approx(correct[test].mean())
    with pytest.raises(DataError, match=r"new has no split 'validation'; there are test, train"):
        evaluate(predictor, parts, "new", split="validation")


def test_data_without_usable_examples_are_an_error(
    predictor: Predictor, examples: list[Example]
) -> None:
    with pytest.raises(DataError, match="new: no images found"):
        evaluate(predictor, [], "new")
    cats = [replace(e, label="cat") for e in examples]
    with pytest.raises(DataError, match="classes are 'blue', 'green', 'red', the labels are 'cat'"):
        evaluate(predictor, cats, "new")


def test_the_models_own_data_are_noted(predictor: Predictor, examples: list[Example]) -> None:
    [note] = evaluate(predictor, examples, "known", chosen=ACCURACY)["notes"]
    assert "the model was trained on some of these images" in note


def test_images_that_the_model_was_trained_on_are_counted(
    predictor: Predictor, examples: list[Example], tmp_path: Path
) -> None:
    files = []
    for i, example in enumerate(examples):
        file = tmp_path / f"{i}.png"
        Image.fromarray(example.item).save(file, compress_level=i % 10)
        files.append(replace(example, item=file))
    digests = digest_examples(examples[:7])
    trained = Predictor(
        predictor.network,
        Classification(CLASSES),
        CPU,
        1.5,
        predictor.config,
        training_images=digests,
    )
    [note] = evaluate(trained, files, "new", chosen=ACCURACY)["notes"]
    assert note.startswith("the model was trained on 7 of the 60 images; its scores")
    assert evaluate(trained, files[7:], "known", chosen=ACCURACY)["notes"] == []


def test_labels_are_compared_in_one_form_and_similar_names_are_named(
    predictor: Predictor, examples: list[Example]
) -> None:
    decomposed = [replace(e, label="re\N{COMBINING ACUTE ACCENT}") for e in examples[:30]]
    others = [replace(e, label="RED ") for e in examples[30:40]]
    composed = Predictor(predictor.network, Classification(["x", "r\xe9", "red"]), CPU)
    result = evaluate(composed, [*decomposed, *others], "new", chosen=ACCURACY)
    assert result["n"] == 30
    assert (
        "left out: 10 images of 'RED ', not a class of the model; is it 'red'?" in result["notes"]
    )


def test_progress_counts_the_usable_images(predictor: Predictor, examples: list[Example]) -> None:
    calls: list[tuple[int, int]] = []
    progress: Callable[[int, int], None] = lambda done, total: calls.append((done, total))  # noqa: E731
    unknown = replace(examples[0], label="cat")
    evaluate(predictor, [unknown, *examples], "new", None, ACCURACY, progress)
    assert calls == [(i, 60) for i in range(1, 61)]


def test_scores_can_be_computed_from_probabilities_alone(
    examples: list[Example], probabilities: np.ndarray, result: dict[str, Any]
) -> None:
    names = ["accuracy", "log_loss"]
    task, chosen = Classification(CLASSES), [METRICS[name] for name in names]
    scores = compute_scores(class_indices(examples), probabilities, task, chosen)
    assert scores["confusion"] == result["confusion"]
    assert scores["per_class"] == result["per_class"]
    for name in names:
        assert scores["metrics"][name] == pytest.approx(result["metrics"][name], abs=1e-5)
