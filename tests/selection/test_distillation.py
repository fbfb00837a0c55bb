"""The winner teaches a student; the winner itself stays as it is, whatever happens meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import write_images, write_plugin
from selection_helpers import (
    ALIKE,
    SMALL,
    Finished,
    Make,
    Spy,
    configure,
    copy,
    favour,
    hash_model,
    make_quick,
    read_facts,
    read_tests,
    texts,
)

import autotl
from autotl import engine
from autotl.errors import Diverged, OutOfTime, StudyError
from autotl.events import Event
from autotl.search.budget import STUDENT_FRACTION, Budget
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.selection import distillation
from autotl.store import StudentFacts

STUDENT = {"student": "tiny", "student_size": 16}


def skip_repeats(patch: pytest.MonkeyPatch) -> None:
    """Leave no time for a final selection, so that the winner of the earlier one remains."""
    patch.setattr(SelectionBudget, "choose_field", lambda *_: Field())


@pytest.fixture(scope="module")
def taught_once(
    images: Path, finished_probe: Finished, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    """A finished study whose winner has taught a student in a later run."""
    out = tmp_path_factory.mktemp("taught") / "runs"
    make = copy(images, finished_probe.settings().out, out, **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        skip_repeats(patch)
        result = engine.run(make(**STUDENT))
    return Finished(make, dict(result.summary))


@pytest.fixture
def taught(images: Path, taught_once: Finished, tmp_path: Path) -> Finished:
    """A copy of ``taught_once``."""
    make = copy(images, taught_once.settings().out, tmp_path / "taught", **SMALL)
    return Finished(make, taught_once.summary)


@pytest.fixture
def no_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """See ``skip_repeats``."""
    skip_repeats(monkeypatch)


def student_facts(study: Finished) -> StudentFacts:
    """The facts about the student of a study."""
    student = read_facts(study.settings()).student
    assert student
    return student


def test_a_student_is_saved_beside_the_winner(
    finished: Finished, spy: Spy, no_repeats: None
) -> None:
    before = hash_model(finished.folder)
    result = engine.run(finished.settings(**STUDENT))
    assert hash_model(finished.folder) == before
    student = result.summary["student"]
    assert (student["backbone"], student["size"]) == ("tiny", 16)
    model = autotl.load(finished.folder / "student", plugin=finished.settings().plugin)
    assert model.network.expects.size == 16
    [prediction] = model.predict(Path(finished.settings().data) / "red" / "1.png")
    assert set(prediction) == {"red", "green", "blue"}
    card = (finished.folder / "student" / "README.md").read_text()
    assert "The model is a student" in card
    assert "trained on the labels alone" in card
    assert "test split, not used by the search" in card
    # No model of a part of the images is there in a later run: a teacher is trained first.
    assert [job.teacher is not None for job in spy.jobs] == [False, False, True, True]
    part, alone, own, final = spy.jobs
    assert np.array_equal(part.train.indices, own.train.indices)
    assert np.array_equal(alone.train.indices, own.train.indices)
    assert alone.seed == own.seed
    assert alone.validation
    assert own.validation
    assert not set(own.train.indices) & set(own.validation.indices)
    assert final.validation is None
    assert set(final.train.indices) == {*own.train.indices, *own.validation.indices}


def test_what_it_is_worth_is_measured_on_examples_outside_its_training(
    taught_once: Finished,
) -> None:
    taught, scores = taught_once, student_facts(taught_once).scores
    assert scores.n == taught.summary["data"]["validation"]
    gap = scores.teacher.mean - scores.alone.mean
    if gap > 0:
        assert scores.fraction_kept == pytest.approx(
            (scores.student.mean - scores.alone.mean) / gap
        )
    else:
        assert scores.fraction_kept is None
    assert scores.to_alone.mean == pytest.approx(scores.student.mean - scores.alone.mean)
    assert scores.to_teacher.mean == pytest.approx(scores.student.mean - scores.teacher.mean)
    assert scores.to_alone.low <= scores.to_alone.mean <= scores.to_alone.high


def test_winner_and_student_are_each_tested_once(taught_once: Finished) -> None:
    taught = taught_once
    tests = read_tests(taught.settings())
    assert [test.contender.kind for test in tests] == ["trial", "student"]
    student = taught.summary["student"]
    assert student["test"]["score"] == tests[1].result.score
    assert (student["test_openings"], taught.summary["test_openings"]) == (1, 1)
    assert taught.summary["test"]["score"] == tests[0].result.score
    report = (taught.folder / "report.html").read_text()
    assert "taught a student" in report
    assert "Uses of the test split" not in report


def test_the_same_student_is_not_taught_in_a_later_run(
    taught: Finished, spy: Spy, no_repeats: None
) -> None:
    notes: list[Event] = []
    result = engine.run(taught.settings(**STUDENT), notes.append)
    assert not spy.jobs
    assert "the winner taught its student in an earlier run" in texts(notes)
    assert result.summary["student"] == taught.summary["student"]
    assert len(read_tests(taught.settings())) == 2


def test_another_student_is_not_tested_but_with_retest(taught: Finished, no_repeats: None) -> None:
    notes: list[Event] = []
    other = {**STUDENT, "student_size": 24}
    result = engine.run(taught.settings(**other), notes.append)
    assert result.summary["student"]["size"] == 24
    assert result.summary["student"]["test"] is None
    assert any("already used for another student" in text for text in texts(notes, warnings=True))
    result = engine.run(taught.settings(**other, retest=True))
    assert result.summary["student"]["test"]
    assert result.summary["student"]["test_openings"] == 2
    assert "2 times for students" in (taught.folder / "report.html").read_text()


@pytest.mark.parametrize("trained", [1, 2])
def test_ctrl_c_while_a_student_is_taught_leaves_the_winner(
    trained: int, finished: Finished, spy: Spy, no_repeats: None
) -> None:
    before = hash_model(finished.folder)
    spy.fails = lambda job: KeyboardInterrupt() if len(spy.jobs) > trained else None
    result = engine.run(finished.settings(**STUDENT))
    assert result.interrupted
    assert hash_model(finished.folder) == before
    assert result.summary["best"] == finished.summary["best"]
    assert result.summary["test"] == finished.summary["test"]
    assert result.summary["student"] is None
    assert not (finished.folder / "student").exists()


@pytest.mark.parametrize("reason", [Diverged("the loss is nan"), OutOfTime("the time ended")])
def test_a_training_that_stops_early_is_a_note(
    reason: Exception, finished: Finished, spy: Spy, no_repeats: None
) -> None:
    spy.fails = lambda job: reason if job.teacher else None
    notes: list[Event] = []
    result = engine.run(finished.settings(**STUDENT), notes.append)
    assert f"no student was taught: {reason}" in texts(notes, warnings=True)
    assert not result.interrupted
    assert result.summary["state"] == "done"
    assert result.summary["student"] is None


def test_a_combination_teaches_as_one_model(
    combination: Finished, copy_of: Callable[..., Make], no_repeats: None
) -> None:
    make = copy_of(combination, **ALIKE)
    result = engine.run(make(**STUDENT))
    student = result.summary["student"]
    assert student["teacher"] == combination.kind
    assert student["teacher_parameters"] == result.summary["best"]["parameters"]


def test_models_of_the_final_selection_are_teachers_of_their_repeat(
    small: Make, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new winner, of which a model of the last repeat is there."""
    favour(monkeypatch, "linear_probe")
    settings = small(**STUDENT)
    result = engine.run(settings)
    alone, own, final = spy.jobs[-3:]
    assert [job.teacher is not None for job in spy.jobs[-4:]] == [False, False, True, True]
    last = spy.repeats[-3]  # the seed of a repeat; the two students have it too
    assert alone.seed == own.seed == last.seed
    assert final.seed == settings.seed
    assert np.array_equal(own.train.indices, last.train.indices)
    assert result.summary["student"]["teacher"] == result.summary["best"]["name"]


def test_a_new_winner_forgets_the_student_of_the_old_one(taught: Finished) -> None:
    """The stored repeats have other scores than those by which the old one won."""
    result = engine.run(taught.settings())
    assert result.summary["best"]["name"] != taught.summary["best"]["name"]
    assert result.summary["student"] is None


def test_a_student_is_refused_before_anything_is_trained(
    images: Path, tmp_path: Path, spy: Spy
) -> None:
    settings = configure(images, tmp_path, **{**SMALL, **STUDENT, "augment": ["mixup"]})
    with pytest.raises(StudyError, match="mix examples"):
        engine.run(settings)
    assert not spy.jobs
    assert not (tmp_path / "photos" / "model").exists()


def test_with_folds_the_teacher_is_that_of_the_last_fold(images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {**SMALL, **STUDENT, "folds": 2, "trials": 1, "epochs": 1}
    settings = configure(images, tmp_path, **options)
    result = engine.run(settings)
    student = result.summary["student"]
    assert student["scores"]["n"] == pytest.approx(result.summary["data"]["train"] / 2, abs=1)


def test_a_student_is_taught_on_unlabelled_images_too(tmp_path: Path, spy: Spy) -> None:
    write_images(tmp_path / "photos", count=16)
    write_plugin(tmp_path)
    (tmp_path / "photos" / "unlabelled").mkdir()
    for i, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))[::3]):
        file.rename(tmp_path / "photos" / "unlabelled" / f"{i}.png")
    options = {**SMALL, **STUDENT, "trials": 1, "unlabelled": ["none"]}
    with pytest.MonkeyPatch.context() as patch:
        skip_repeats(patch)
        result = engine.run(configure(tmp_path, tmp_path / "runs", **options))
    *_, alone, own, final = spy.jobs
    labelled = result.summary["data"]["train"] + result.summary["data"]["validation"]
    labelled += result.summary["data"]["test"]
    count = result.summary["student"]["unlabelled"]
    assert count > 1
    for job, base in ((own, alone), (final, None)):
        added = job.train.indices[job.train.indices >= labelled]
        assert added.tolist() == list(range(labelled, labelled + count))
        assert job.teacher
        assert job.teacher.unlabelled is not None
        assert np.array_equal(job.train.indices >= labelled, job.teacher.unlabelled.numpy())
        if base is not None:
            assert set(job.train.indices) - set(added) == set(base.train.indices)
    assert own.validation
    assert own.validation.indices.max() < labelled
    report = (tmp_path / "runs" / "photos" / "report.html").read_text()
    assert f"also on {count} unlabelled images" in report


def test_time_is_reserved_until_the_student_is_taught() -> None:
    budget = Budget(100.0)
    budget.reserve_student()
    assert budget.left == pytest.approx(100 * (1 - STUDENT_FRACTION), abs=1)
    assert budget.end == budget.began + 100
    assert budget.deadline == pytest.approx(budget.end - 100 * STUDENT_FRACTION)
    budget.release_student()
    assert budget.deadline == budget.end
    unlimited = Budget(None)
    unlimited.reserve_student()
    assert unlimited.deadline is None
    assert unlimited.left == float("inf")


def test_a_student_has_as_many_epochs_as_there_is_time_for(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, no_repeats: None
) -> None:
    notes: list[Event] = []
    monkeypatch.setattr(distillation, "SLACK", 1e9)
    result = engine.run(finished.settings(**STUDENT, budget="60s"), notes.append)
    assert any("no student was taught: its teacher would take" in text for text in texts(notes))
    assert result.summary["student"] is None
    monkeypatch.setattr(distillation, "SLACK", 1.1)
    result = engine.run(finished.settings(**STUDENT, budget="60s"))
    assert result.summary["student"]["epochs"] == 3
    config = json.loads((finished.folder / "student" / "config.json").read_text())
    assert config["teacher"]["weight"] == result.summary["student"]["weight"]
