"""How many epochs a trial gets, which trials are refused, and how long a retraining takes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy import CPU, batches, config, squares

from autotl import training
from autotl.errors import OutOfTime
from autotl.models import Device
from autotl.search.budget import LONGEST_TRIAL, SELECTION_FRACTION, SLACK, Budget
from autotl.search.trial_budget import (
    FEWEST_EPOCHS,
    FEWEST_FIRST_EPOCHS,
    FIRST_FRACTION,
    IMPRECISION,
    Compared,
    TrialPlan,
    affordable_epochs,
    fewest_epochs,
    plan_trial,
    refuse_too_slow,
)
from autotl.store import TrialFacts, TrialRow
from autotl.training import Cost, Epoch
from autotl.training.compute import COMPILE_SECONDS

WANTED = 12
"""The number of epochs that is requested."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def cost(epoch: float, view: float = 0.0, setup: float = 0.0) -> Cost:
    return Cost(
        view_seconds=view,
        epoch_seconds=epoch,
        setup_seconds=setup,
        backbone_epoch_fraction=1.0,
        prediction_seconds=0.0,
    )


def job(epochs: int = WANTED, views: int = 2) -> Any:
    return SimpleNamespace(epochs=epochs, views=views)


def epochs(
    seconds: float, budget: Budget, *, first: bool = False, wanted: int = WANTED, test: float = 0.0
) -> int:
    fewest = 1 if first else fewest_epochs(wanted, [])
    return affordable_epochs(cost(seconds), wanted, fewest, 2, budget, test, first=first)


def test_a_trial_gets_the_epochs_for_which_there_is_time() -> None:
    budget = Budget(600)
    assert epochs(1.0, budget) == WANTED
    assert epochs(20.0, budget) == LONGEST_TRIAL * 600 // 20.0 == 9
    assert epochs(20.0, Budget(None)) == WANTED
    budget.reserved_repeats = 300.0  # and 295 s are for the trial and its refit
    assert epochs(20.0, budget) == 295 // (20.0 * (1 + SLACK * budget.refit)) == 6
    assert epochs(20.0, budget, test=100.0) == 4


def test_a_trial_with_too_few_epochs_is_not_begun() -> None:
    fewest = round(FEWEST_EPOCHS * WANTED)
    assert epochs(60.0, Budget(600)) == fewest == 3
    message = r"3 epochs would take 183\.0 s, and a trial may take 180\.0 s now"
    with pytest.raises(OutOfTime, match=message):
        epochs(61.0, Budget(600))
    assert epochs(170.0, Budget(600), wanted=1) == 1
    with pytest.raises(OutOfTime, match=r"1 epoch would take 190\.0 s"):
        epochs(190.0, Budget(600), wanted=1)


def test_a_trial_has_at_least_half_of_the_epochs_of_the_best_one() -> None:
    probe = trial_row(2, CONFIG, TrialFacts(backbone_frozen=True))
    best, other = replace(row(), epochs=9), replace(row(), epochs=12)
    assert fewest_epochs(WANTED, [probe]) == fewest_epochs(WANTED, []) == 3
    assert fewest_epochs(WANTED, [probe, best, other]) == 5
    assert fewest_epochs(WANTED, [replace(best, epochs=2)]) == 3
    assert fewest_epochs(2, [best]) == 2


def test_the_first_trial_may_take_longer_than_others() -> None:
    budget, usable = Budget(605), 600.0
    both = 1 + SLACK * budget.refit  # a training and its refit
    assert epochs(20.0, budget, first=True) == FIRST_FRACTION * usable // (20.0 * both) == 7
    assert epochs(20.0, budget, first=True, test=100.0) == 6
    # With few epochs it may use all of the time, without a refit.
    assert FIRST_FRACTION * usable // (40.0 * both) == 3
    assert epochs(40.0, budget, first=True) == FEWEST_FIRST_EPOCHS == 4
    assert epochs(usable / 2, budget, first=True) == 2
    assert epochs(usable, budget, first=True) == 1
    assert epochs(usable, budget, first=True, wanted=1) == 1
    with pytest.raises(OutOfTime, match=r"1 epoch would take 601\.0 s, .* may take 600\.0 s now"):
        epochs(usable + 1, budget, first=True)


def test_a_trial_is_trained_in_all_folds() -> None:
    budget = Budget(605)

    def in_folds(seconds: float, first: bool = False) -> int:
        fewest = 1 if first else fewest_epochs(WANTED, [])
        planned = cost(seconds)
        return affordable_epochs(planned, WANTED, fewest, 2, budget, 0.0, first=first, folds=5)

    assert in_folds(4.0) == epochs(20.0, budget) == 9
    repeat = SLACK * budget.refit  # of one fold
    assert in_folds(8.0, first=True) == FIRST_FRACTION * 600 // (8.0 * (5 + repeat)) == 7
    with pytest.raises(OutOfTime, match=r"3 epochs would take 210\.0 s"):
        in_folds(14.0)


def test_the_first_trial_that_trains_the_backbone_ignores_what_is_reserved_for_others() -> None:
    budget = Budget(605)
    before = epochs(20.0, budget, first=True)
    budget.reserved_refit, budget.reserved_repeats = 300.0, 200.0
    assert epochs(20.0, budget, first=True) == before
    with pytest.raises(OutOfTime):
        epochs(35.0, budget)


def test_trials_that_are_compared_get_the_same_time() -> None:
    budget, usable = Budget(605), 600.0

    def compared(seconds: float, pending: int, same: int | None = None, first: bool = False) -> int:
        return affordable_epochs(
            cost(seconds), same or WANTED, 1, 2, budget, 0.0, first=first,
            compared=Compared(same, pending),
        )  # fmt: skip

    refit = SLACK * budget.refit
    # A third of what is left without the final selection and the refit of one of them.
    left = usable - SELECTION_FRACTION * 605
    assert compared(20.0, 3, first=True) == left // (20.0 * (3 + refit)) == 4
    assert compared(10.0, 3) == left // (10.0 * (3 + refit)) == 9
    budget.reserved_repeats, budget.reserved_refit = 180.0, 200.0  # for a final selection
    # Those after the first get as many epochs, of which nothing is kept for a final selection.
    assert compared(20.0, 1, same=9) == 9 > left // (20.0 * (1 + refit)) == 8
    with pytest.raises(OutOfTime):
        compared(usable, 3, first=True)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("reserved", [0.0, 200.0])
@pytest.mark.parametrize("wanted", [1, 5, 12, 30])
@pytest.mark.parametrize("view", [0.0, 3.0])
def test_the_more_an_epoch_costs_the_fewer_there_are(
    first: bool, reserved: float, wanted: int, view: float
) -> None:
    """A slightly slower machine must not get more epochs, or far fewer ones."""
    budget = Budget(600)
    budget.reserved_repeats = reserved
    fewest = 1 if first else max(1, round(FEWEST_EPOCHS * wanted))
    counts = []
    for seconds in np.geomspace(0.1, 1000, 3000):
        try:
            count = affordable_epochs(
                cost(float(seconds), view, 2 * view), wanted, fewest, 2, budget, 5.0, first=first
            )
        except OutOfTime:
            count = 0
        counts.append(count)
    assert counts[0] == wanted
    assert counts[-1] == 0
    assert set(counts) == {0, *range(fewest, wanted + 1)}  # there is no cliff
    assert all(after <= before for before, after in itertools.pairwise(counts))


# Refused by arithmetic.


CONFIG = {"backbone": {"small": {}}, "freeze": {"full": {"lr": 1e-3}}, "head": {"linear": {}}}


def row(number: int = 0, ms: float | None = 2.0, backward: float = 10.0, **chosen: Any) -> TrialRow:
    """A complete trial of ``CONFIG``; keywords replace plugins by kind."""
    facts = TrialFacts(ms_per_item=ms, costs={"backward_ms": backward}, backbone_frozen=False)
    return trial_row(number, {**CONFIG, **chosen}, facts)


FEW = 4
"""The number of epochs of the earlier trials."""


def trial_row(number: int, config: dict[str, Any], facts: TrialFacts) -> TrialRow:
    return TrialRow(number, "complete", "", config, 0.5, FEW, 10, 10, 1.0, datetime.now(UTC), facts)


def refuse(
    rows: Sequence[TrialRow],
    budget: Budget,
    images: int = 1000,
    folds: int | None = None,
    **chosen: Any,
) -> OutOfTime | None:
    """The error with which a trial of ``CONFIG`` on so many training images is refused."""
    context: Any = SimpleNamespace(
        settings=SimpleNamespace(epochs=WANTED, folds=folds),
        dataset=SimpleNamespace(indices=lambda split: range({"train": images}[split])),
    )
    try:
        refuse_too_slow({**CONFIG, **chosen}, rows, context, budget)
    except OutOfTime as error:
        return error
    return None


def test_a_trial_that_is_far_too_slow_is_refused() -> None:
    # Three epochs of 1,000 images at 10 ms take 30 s; a trial may take 0.3 of the budget.
    limit = 30 * IMPRECISION / LONGEST_TRIAL
    assert refuse([row()], Budget(limit + 1)) is None
    error = refuse([row()], Budget(limit - 1))
    assert "3 epochs would take 30.0 s, and a trial may take 20.7 s now" in str(error)
    assert refuse([row()], Budget(None), images=10**9) is None
    assert refuse([row()], Budget(limit - 1), images=900) is None
    # In five folds each image trains four times.
    assert refuse([row()], Budget(limit + 1), images=250, folds=5) is None
    assert refuse([row()], Budget(limit - 1), images=250, folds=5)


def test_a_trial_that_would_leave_no_time_for_its_refit_is_refused() -> None:
    budget = Budget(600)
    budget.reserved_repeats = 550.0  # 45 s are left
    assert refuse([row(backward=6.0)], budget) is None
    assert refuse([row(backward=10.0)], budget)


def test_the_time_of_another_backbone_is_in_proportion_to_its_predictions() -> None:
    budget = Budget(200)
    large = {"backbone": {"large": {}}}
    probe = {"freeze": {"linear_probe": {}}}
    assert refuse([row(), row(1, ms=2.0, backward=0.0, **large, **probe)], budget, **large) is None
    assert refuse([row(), row(1, ms=8.0, backward=0.0, **large, **probe)], budget, **large)
    # One that was not measured is taken to be as fast as the fastest.
    assert refuse([row()], Budget(200), **large) is None
    assert refuse([row()], Budget(10), **large)
    # Of several predictions the shortest counts.
    rows = [row(), row(1, backward=100.0), row(2, ms=8.0, backward=0.0, **large, **probe)]
    assert refuse(rows, Budget(400), **large) is None


def test_a_strategy_that_was_not_measured_is_taken_to_be_twice_as_fast() -> None:
    other = {"freeze": {"last_blocks": {}}}
    times = "would take (.*) s, and"
    known, unknown = (str(refuse([row(**kind)], Budget(10))) for kind in ({}, other))
    seconds = [float(re.findall(times, text)[0]) for text in (known, unknown)]
    assert seconds[1] == pytest.approx(seconds[0] / 2)
    assert refuse([row(**other)], Budget(200)) is None


def test_without_measurements_no_trial_is_refused() -> None:
    assert refuse([row(backward=0.0)], Budget(10)) is None
    assert refuse([row(ms=None)], Budget(10)) is None
    assert refuse([], Budget(10)) is None


# The plan.


@dataclass
class FakeJob:
    """The fields of a job that a plan changes."""

    epochs: int = WANTED
    views: int = 2
    device: Any = CPU
    train: Any = ()
    compute: Any = None
    deadline: float | None = None
    keep_completed_epochs: bool = False
    checkpoint: Any = None


def make_plan(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    complete: Sequence[TrialRow],
    *,
    frozen: bool = False,
    budget: Budget | None = None,
    folds: int | None = None,
    device: Device = CPU,
    checkpoint: Any = None,
    **options: Any,
) -> TrialPlan:
    """Plan a trial whose epochs take so many seconds, in a budget of 605 s."""
    monkeypatch.setattr(training, "keeps_backbone_frozen", lambda *_: frozen)
    monkeypatch.setattr(training, "measure_cost", lambda *_: cost(seconds))
    context: Any = SimpleNamespace(
        settings=SimpleNamespace(epochs=WANTED, views=2, patience=None, folds=folds),
        first_fold=None,
        dataset=SimpleNamespace(indices=lambda split: range({"test": 100}[split])),
        job=lambda model, split, epochs, views, resample: FakeJob(
            epochs, views, device, batches(squares(), 12)
        ),
        checkpoint=lambda config: checkpoint,
    )
    spec = SimpleNamespace(size=8, key="8-bicubic-2")
    model: Any = SimpleNamespace(head=options.pop("head", None), expects=spec)
    return plan_trial(model, config(), context, budget or Budget(605), complete=complete, **options)


def test_the_first_trial_of_its_kind_may_use_all_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = replace(row(), facts=TrialFacts(backbone_frozen=True))
    for complete, frozen, first in [
        ([], True, True),
        ([], False, True),
        ([probe], True, False),
        ([probe], False, True),  # the first that trains the backbone
        ([row()], False, False),
        ([row()], True, False),
        ([probe, row()], False, False),
    ]:
        plan = make_plan(monkeypatch, 20.0, complete, frozen=frozen)
        expected = 7 if first else LONGEST_TRIAL * 605 // 20
        assert plan.job.epochs == expected
        repeat = expected * 20.0
        latest = 600.0 if first else 600.0 - SLACK * 1.25 * repeat
        assert plan.job.deadline == pytest.approx(1000.0 + latest)
        assert plan.job.keep_completed_epochs
        assert plan.facts["backbone_frozen"] == plan.backbone_frozen == frozen
        assert plan.facts["seconds_needed"] == plan.facts["seconds_repeat"] == repeat


def test_the_plan_with_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(monkeypatch, 4.0, [row()], folds=5)
    assert plan.job.epochs == 9
    assert plan.facts["seconds_needed"] == 5 * 9 * 4.0
    assert plan.facts["seconds_repeat"] == 9 * 4.0  # its refit is one training


def test_a_head_in_closed_form_needs_one_epoch_unless_others_are_trained_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solved = SimpleNamespace(fit=None)
    assert make_plan(monkeypatch, 1.0, [], frozen=True, head=solved).job.epochs == 1
    assert make_plan(monkeypatch, 1.0, [], frozen=False, head=solved).job.epochs == WANTED
    group = make_plan(monkeypatch, 1.0, [], frozen=True, head=solved, several_heads=True)
    assert group.job.epochs == WANTED


def test_without_a_budget_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(monkeypatch, 1e9, [], budget=Budget(None))
    assert (plan.job.epochs, plan.job.deadline, plan.cost) == (WANTED, None, None)
    assert not plan.job.keep_completed_epochs
    assert (plan.facts["backbone_frozen"], plan.facts["views"]) == (False, 2)
    assert "seconds_repeat" not in plan.facts


GPU = Device(torch.device("cuda"), None)


@pytest.mark.parametrize(
    ("seconds", "budget", "compiling"),
    [
        (60.0, 4005, COMPILE_SECONDS),
        (200.0, 1005, COMPILE_SECONDS),  # four epochs
        (200.0, 905, 0.0),  # 100 s remain after four epochs
        (10.0, 2005, 0.0),  # 28 s would be saved
    ],
)
def test_the_time_of_compiling_is_a_part_of_the_plan(
    monkeypatch: pytest.MonkeyPatch, seconds: float, budget: float, compiling: float
) -> None:
    def make(device: Device) -> TrialPlan:
        return make_plan(monkeypatch, seconds, [], budget=Budget(budget), device=device)

    uncompiled, plan = make(CPU), make(GPU)
    assert plan.job.epochs == uncompiled.job.epochs
    assert plan.job.compute.compile == plan.facts["compute"]["compile"] == (compiling > 0)
    for fact in ("seconds_needed", "seconds_repeat"):
        assert plan.facts[fact] == uncompiled.facts[fact] + compiling
    took = trained(*[seconds] * plan.job.epochs)
    assert plan.repeat_seconds(took) == uncompiled.repeat_seconds(took) + compiling
    assert plan.job.deadline is not None
    assert plan.job.deadline - 1000.0 >= plan.facts["seconds_needed"]


@pytest.mark.parametrize("was_compiled", [True, False])
def test_a_trial_that_continues_is_compiled_if_it_was(
    monkeypatch: pytest.MonkeyPatch, was_compiled: bool
) -> None:
    facts = {"planned": WANTED, "views": 2, "compile": was_compiled}
    saved = SimpleNamespace(facts=facts)
    budget = Budget(9005 if not was_compiled else 605)
    plan = make_plan(monkeypatch, 60.0, [], budget=budget, device=GPU, checkpoint=saved)
    assert plan.job.compute.compile == was_compiled


# How long a retraining takes.


def trained(*seconds: float) -> list[Epoch]:
    return [Epoch(i, 0.0, 0.0, took, 0) for i, took in enumerate(seconds, start=1)]


def plan(facts: dict[str, Any], cost: Cost | None = None) -> TrialPlan:
    model: Any = None
    return TrialPlan(model, job(), False, facts, cost)


def test_the_time_of_a_retraining_is_that_of_the_later_epochs() -> None:
    facts = {"seconds_repeat": 99.0}
    measured = plan(facts, cost(epoch=9.0, view=8.0))
    new = 8.0 / 4  # a second view of the quarter of the images that is new
    assert measured.repeat_seconds(trained(11.0, 11.0, 3.0, 3.0)) == new + 4 * 3.0
    # The backbone was frozen at first.
    assert measured.repeat_seconds(trained(1.0, 1.0, 5.0, 3.0)) == new + 1.0 + 1.0 + 8.0
    assert measured.repeat_seconds(trained(11.0, 11.0)) == new + 2 * 9.0  # all with new views
    # Fitting a closed-form head is in no estimate.
    assert measured.repeat_seconds(trained(500.0)) == 500.0 - 8.0
    assert plan({}).repeat_seconds(trained(2.0, 3.0)) == 5.0


def test_the_time_of_compiling_counts_once() -> None:
    compiled = plan({}, replace(cost(epoch=9.0), compile_seconds=120.0))
    assert compiled.repeat_seconds(trained(5.0, 5.0, 90.0, 3.0, 3.0)) == 120.0 + 5 * 3.0
    assert compiled.repeat_seconds(trained(3.0, 3.0, 3.0)) == 120.0 + 3 * 3.0
