"""Results in words."""

from __future__ import annotations

import pytest
from example_study import add_test, add_trial, result
from report_examples import (
    add_selection,
    add_study,
    data_facts,
    describe,
    ensemble_contender,
    label_facts,
    number_facts,
    student_facts,
    trial_contender,
)

from autotl import report
from autotl.report.sentences import describe_calibration
from autotl.store import (
    Baseline,
    Calibration,
    Contender,
    DataFacts,
    Interval,
    MajorityClass,
    Member,
    OutOfSampleScores,
    SavedModel,
    Store,
    TestResult,
    single,
)


def test_a_study_without_a_complete_trial_has_no_winner(store: Store) -> None:
    add_study(store, None)
    assert describe(store) == ["No trial completed, so there is no winner."]


def test_a_score_without_an_interval_is_shown_alone(store: Store) -> None:
    add_study(store, 0.4, 0.6, metric="log_loss", direction="minimize")
    assert describe(store)[0] == (
        "The winner is trial 0 (tf_efficientnet_lite0 · full · linear · flip_crop · adamw): "
        "log_loss 0.4000, on the validation split, by which it was selected."
    )


def test_where_one_configuration_was_trained_nothing_is_said_of_a_selection(store: Store) -> None:
    add_study(store, 0.9)
    add_test(store, 0)
    model, test = describe(store)
    assert model == (
        "The model is tf_efficientnet_lite0 · full · linear · flip_crop · adamw: accuracy 0.9000 "
        "(95 % interval 0.8555 to 0.9319) on the validation split."
    )
    assert test.startswith("Its accuracy on the test split is 0.9222")


def test_the_test_score_names_its_images(store: Store) -> None:
    add_study(store, 0.9)
    add_test(store, 0)
    assert describe(store)[1] == (
        "Its accuracy on the test split is 0.9222 (95 % interval 0.8737 to 0.9531), "
        "measured on 180 images that the search did not use."
    )


def test_a_test_of_a_sample_is_said_to_be_one(store: Store) -> None:
    add_study(store, 0.9, data=data_facts(test=5000))
    add_test(store, 0)
    assert describe(store)[1].endswith(
        "measured on 180 images that the search did not use, a random sample of 5000, because "
        "there was no time for all."
    )


def test_a_missing_test_score_is_explained(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    assert describe(store)[1] == "There is no test score: the search ended before the test."
    add_test(store, 0)
    assert "was used before, for an earlier winner or" in describe(store)[1]


def test_a_missing_test_split_is_named(store: Store) -> None:
    add_study(store, 0.8, data=DataFacts(classes=["wren"], test=0))
    assert describe(store)[1].endswith("no images were set aside for a test split.")


def test_several_uses_of_the_test_split_are_warned_of(store: Store) -> None:
    add_study(store, 0.9)
    for _ in range(2):
        add_test(store, 0)
    assert describe(store)[-1].startswith("The test split was used 2 times. Only the first score")


def test_an_ensemble_is_described_by_its_members(store: Store) -> None:
    add_study(store, 0.9, 0.8)
    ensemble = ensemble_contender({0: 0.75, 1: 0.25}, 0.95, True)
    contenders = ensemble, trial_contender(0, 0.9, False)
    sentences = report.describe_result(add_selection(store, contenders, winner=ensemble))
    assert sentences[0].startswith(
        "The winner is the ensemble of trial 0 (0.75) and trial 1 (0.25): accuracy 0.9500 ("
    )


def baseline(low: float, high: float) -> Baseline:
    """The majority class with an accuracy of 0.9, compared with a model."""
    difference = Interval(mean=(low + high) / 2, low=low, high=high)
    return Baseline(score=0.9, difference=difference, is_beaten=low > 0)


RECALLS = [
    {"class": "wren", "n": 36, "score": 1.0},
    {"class": "robin", "n": 4, "score": 0.25},
    {"class": "owl", "n": 0, "score": None},
]


def add_unequal(store: Store, tested: Baseline | None = None, imbalance: float = 9.0) -> None:
    """A study of unequal classes, with a test if the comparison of it is given."""
    majority = MajorityClass(name="wren", validation=0.88, test=0.9 if tested else None)
    add_study(store, 0.9, data=data_facts(imbalance=imbalance, majority=majority))
    scores = OutOfSampleScores(n=40, per_class=RECALLS, majority=baseline(-0.01, 0.03))
    store.update_study(
        "birds", model=SavedModel(contender=single(0), refitted=True), out_of_sample=scores
    )
    if tested:
        score = TestResult(score=0.925, low=0.9, high=1.0, n=40, per_class=RECALLS, majority=tested)
        add_test(store, 0, score)


def test_a_winner_that_is_no_better_than_the_majority_class_is_warned_of(store: Store) -> None:
    add_unequal(store, baseline(-0.02, 0.07))
    sentences = describe(store)
    assert sentences[2] == (
        "Warning: on the test split the winner may be no better than always predicting the most "
        "frequent class, wren: the difference in accuracy is +0.0250 (95 % interval -0.0200 to "
        "+0.0700)."
    )
    assert (
        "Always predicting the most frequent class, wren, scores 0.8800 on the validation split "
        "and 0.9000 on the test split." in sentences
    )
    assert (
        "The classes are unequal. Recalls on the test split, lowest first, with the number of "
        "images: robin 0.2500 (4), wren 1.0000 (36). Balanced accuracy: 0.6250." in sentences
    )


def test_without_a_test_the_validation_images_are_compared(store: Store) -> None:
    add_unequal(store)
    assert describe(store)[2].startswith("Warning: on the validation split the winner may be")
    assert any("Recalls on the validation split" in sentence for sentence in describe(store))


def test_a_winner_that_is_better_than_the_majority_class_is_not_warned_of(store: Store) -> None:
    add_unequal(store, baseline(0.02, 0.07), imbalance=1.2)
    store.update_study(
        "birds",
        out_of_sample=OutOfSampleScores(n=40, per_class=RECALLS, majority=baseline(0.01, 0.05)),
    )
    text = " ".join(describe(store))
    assert "Warning" not in text
    assert "Recalls" not in text, "the classes are about equal"


def test_without_time_for_fine_tuning_that_is_said_first(store: Store) -> None:
    add_study(store, 0.9)
    store.update_trial("birds", 0, backbone_frozen=True)
    for number, needed in ((1, 91.5), (2, 300.0)):
        add_trial(store, number, None, "out_of_time", measured={"budget_needed": needed})
    assert describe(store)[0].endswith("A budget of about 100s would do.")
    assert describe(store)[1].startswith("The winner is trial 0")
    store.update_trial("birds", 0, backbone_frozen=False)
    assert describe(store)[0].startswith("The winner is trial 0")


def test_what_was_not_done_with_the_winner_is_said(store: Store) -> None:
    add_study(store, 0.9)
    assert "The winner was not" not in " ".join(describe(store)), "there is no model"
    saved = SavedModel(contender=single(0), reason="it would take 20 s, and 5 s are left")
    store.update_study("birds", model=saved)
    assert (
        "The winner was not refitted on train + validation (it would take 20 s, and 5 s are left): "
        "it was trained on a part of these images." in describe(store)
    )
    best = report.summarise(store, "birds")["best"]
    assert (best["refitted"], best["calibrated"]) == (False, False)
    assert best["not_refitted_because"] == saved.reason
    store.update_study("birds", model=SavedModel(contender=single(0), refitted=True))
    assert [s for s in describe(store) if s.startswith("The winner was not")] == [
        "The winner was not calibrated: its probabilities are as the network computes them."
    ]


# ---------------------------------------------------------------- labels and numbers


def test_labels_are_listed_with_their_f1(store: Store) -> None:
    name = "the frequencies of the labels"
    constant = MajorityClass(name=name, validation=0.2, test=0.25)
    add_study(store, 0.9, data=label_facts(majority=constant, imbalance=9.0))
    per_class = [
        {"class": label, "n": 7, "score": score}
        for label, score in (("sky", 0.75), ("sun", 0.5), ("sea", None))
    ]
    add_test(store, 0, TestResult(score=0.8, low=0.7, high=0.9, n=180, per_class=per_class))
    text = " ".join(describe(store))
    assert f"Always predicting {name} scores 0.2000 on the validation split and 0.2500" in text
    assert (
        "F1 of the labels on the test split, lowest first, with the number of images: "
        "sun 0.5000 (7), sky 0.7500 (7)." in text
    )
    assert "class" not in text
    assert "unequal" not in text


def test_a_warning_names_the_constant_prediction_of_the_task(store: Store) -> None:
    add_study(store, 44.0, metric="mae", direction="minimize", data=number_facts())
    gap = Interval(mean=-1.25, low=-3.0, high=0.5)
    test = TestResult(
        score=43.0, low=40.0, high=46.0, n=180,
        per_class=[{"class": "value", "n": 180, "score": 0.125}],
        majority=Baseline(score=44.25, difference=gap, is_beaten=False),
    )  # fmt: skip
    add_test(store, 0, test)
    store.update_study("birds", metric_has_unit=True)
    text = " ".join(describe(store))
    assert (
        "the winner may be no better than always predicting the mean, 12.5: the difference in mae "
        "is -1.25 (95 % interval -3.00 to +0.50)." in text
    )
    assert "Always predicting the mean, 12.5, scores 45.25 on the validation split" in text
    assert "Its R² on the test split is 0.1250." in text


@pytest.mark.parametrize(
    ("constant", "score", "text"),
    [(45.0, 12.3456, "12.35"), (2.5e6, 1234567.8, "1234568"), (1e-3, 1.23456e-4, "0.000123")],
)
def test_scores_with_a_unit_have_four_digits(
    store: Store, constant: float, score: float, text: str
) -> None:
    data = number_facts(majority=MajorityClass(name="0", validation=constant))
    add_study(store, score, metric="mae", metric_has_unit=True, direction="minimize", data=data)
    assert f"mae {text} on" in describe(store)[0]


def test_a_calibration_is_described(store: Store) -> None:
    add_study(store, 0.9, data=number_facts(classes=["x", "y"]))
    assert describe_calibration(report.summarise(store, "birds")) == ""
    widths = Calibration(half_widths=[12.5, 1e-5], level=0.95, coverage=0.9476, n=1200)
    store.update_study("birds", calibration=widths)
    assert describe_calibration(report.summarise(store, "birds")) == (
        "Predictions have intervals of ±\u00a012.5 for x and 1e-05 for y, which are to contain "
        "95 % of the true numbers. In a cross-validation on 1,200 images they contained 94.8 %."
    )
    store.update_study("birds", calibration=Calibration(temperature=1.5, thresholds=[0.5], n=9))
    text = "The probabilities are calibrated with a temperature of 1.5, fitted on 9 images."
    assert describe_calibration(report.summarise(store, "birds")) == text


def test_a_student_is_compared_with_its_teacher_and_with_itself_alone(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    store.update_study("birds", student=student_facts(test=result(0.8654, low=0.81, high=0.91)))
    text = " ".join(describe(store))
    assert "Trial 1 taught a student, tf_efficientnet_lite0 with inputs of size 96." in text
    assert (
        "On 150 images that neither was trained on, the accuracy of the student is 0.8800 "
        "(95 % interval 0.8300 to 0.9300), that of its teacher 0.9000, and that of the same model "
        "trained on the labels alone 0.8500: the difference to the latter is +0.0300 (95 % "
        "interval -0.0200 to +0.0800), 60 % of the gap to the teacher."
    ) in text
    assert "has 3.4 million parameters, its teacher 4.9 million; a prediction takes 4 ms" in text
    assert "its accuracy on the test split is 0.8654 (95 % interval 0.8100 to 0.9100)." in text


def test_a_student_without_a_gap_or_a_test_is_described_without_them(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    assert "student" not in " ".join(describe(store))
    store.update_study("birds", student=student_facts(None, latency=None))
    text = " ".join(describe(store))
    assert "to +0.0800). The student has 3.4 million parameters, its teacher 4.9 million." in text
    assert "Taught by the refitted winner" not in text


def test_tests_of_students_are_counted_by_themselves(store: Store) -> None:
    add_study(store, 0.8, 0.9)
    store.update_study("birds", student=student_facts())
    student = Contender(kind="student", members=(Member(trial=1),))
    add_test(store, 1)
    add_test(store, student)
    assert "The test split was used" not in " ".join(describe(store))
    add_test(store, student)
    assert "The test split was used 2 times for students." in " ".join(describe(store))
