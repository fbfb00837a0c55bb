"""How a student is trained in the time that is left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autotl.errors import OutOfTime
from autotl.selection.student_plan import (
    MOST_BYTES,
    MOST_VIEWS,
    StudentPlan,
    Work,
    plan_in_time,
    plan_without_limit,
)
from autotl.training import Cost

WORK = Work(epochs=12, part=100, every=150, unlabelled=800, outputs=10, test=50)
COST = Cost(
    view_seconds=0.0,
    epoch_seconds=1.0,
    setup_seconds=0.0,
    backbone_epoch_fraction=1.0,
    prediction_seconds=0.01,
)


def plan(left: float, work: Work = WORK, teacher_seconds: float = 0.0) -> StudentPlan:
    return plan_in_time(work, COST, teacher_seconds, 1.5, left)


def test_with_much_time_there_is_all_that_is_wanted() -> None:
    assert plan(1e6) == replace(plan_without_limit(WORK), test_seconds=0.5)
    assert plan_without_limit(WORK) == StudentPlan(12, 12, 800)


def test_with_less_time_there_are_fewer_epochs_then_fewer_unlabelled_examples() -> None:
    plans = [plan(left) for left in range(20, 900, 10)]
    assert [p.unlabelled for p in plans] == sorted(p.unlabelled for p in plans)
    assert {p.unlabelled for p in plans} == {0, 50, 100, 200, 400, 800}
    for each in plans:
        assert each.epochs >= (6 if each.unlabelled else 3)
    assert plan(20).epochs < plan(60).epochs <= 12


def test_without_enough_time_the_error_says_how_much_is_needed() -> None:
    with pytest.raises(OutOfTime, match=r"3 epochs would take 1\d s, and 4 s are left"):
        plan(4.5)


def test_a_slow_teacher_predicts_fewer_views() -> None:
    """It predicts each example of two trainings once for each view."""
    alone = replace(WORK, unlabelled=0)
    assert plan(100, alone).views == 12
    assert plan(100, alone, teacher_seconds=0.05).views == 3
    assert plan(300, alone, teacher_seconds=1.0).views == 1


def test_the_predictions_of_the_teacher_fit_into_memory() -> None:
    many = replace(WORK, epochs=200, every=100_000, unlabelled=0, outputs=1000)
    assert many.count_views(0) == MOST_BYTES // (2 * 100_000 * 1000)
    assert many.count_views(100_000) == many.count_views(0) // 2
    assert replace(WORK, epochs=200).count_views(0) == MOST_VIEWS
