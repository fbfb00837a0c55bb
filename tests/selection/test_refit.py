"""The refit on train + validation, and what is handed over where it does not complete."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from selection_helpers import (
    SMALL,
    Make,
    Spy,
    favour,
    read_facts,
    score_combination,
    texts,
)
from toy import model

from autotl import engine, training
from autotl.errors import Diverged, OutOfTime
from autotl.events import Event, Stage
from autotl.models import ensemble
from autotl.search.budget import SLACK, Budget
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.selection import repeats
from autotl.selection.finish import Finish
from autotl.selection.refit import EXTENSION_FRACTION, combine, refit
from autotl.store import Contender, Member, TrialFacts, TrialRow, single
from autotl.testing.toy import SIDE


def test_the_model_of_a_contender_is_made_of_those_of_its_members() -> None:
    members = (Member(trial=3, weight=0.75), Member(trial=1, weight=0.25))
    models = [model(0).eval(), model(1).eval()]
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    first, second = (network(images).softmax(1) for network in models)
    mixed = combine(Contender(kind="ensemble", members=members), models)
    assert torch.allclose(mixed.eval()(images).softmax(1), 0.75 * first + 0.25 * second, atol=1e-6)
    soup = combine(Contender(kind="soup", members=members), models).state_dict()
    for name, value in ensemble.average_weights(models).state_dict().items():
        assert torch.equal(soup[name], value)
    assert combine(single(3), models[:1]) is models[0]


WANTED = 12
"""The number of epochs that is requested."""


class FakeTrainings:
    """Trainings that only count; a repeat of a trial takes so many seconds, its test 5 s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, repeat: float) -> None:
        self.jobs: list[Any] = []
        self.events: list[Event] = []
        self.repeat = repeat
        monkeypatch.setattr("time.monotonic", lambda: 1000.0)
        monkeypatch.setattr(training, "fine_tune", self._fine_tune)

    def _fine_tune(self, model: Any, config: Any, job: Any) -> Iterable[int]:
        self.jobs.append(job)
        return range(job.epochs)

    def refit(
        self,
        seconds: float | None,
        *rows: TrialRow,
        has_fallback: bool = True,
        kind: Literal["ensemble", "soup"] = "soup",
    ) -> tuple[int, ...]:
        """Refit a winner of these trials in so many seconds; return the numbers of epochs."""
        context: Any = SimpleNamespace(
            settings=SimpleNamespace(epochs=WANTED, patience=None),
            dataset=SimpleNamespace(refit_splits=("train", "validation")),
            config=lambda row: {},
            build=lambda config: model(0),
            retraining=lambda row, *_: SimpleNamespace(epochs=row.epochs, deadline=None),
        )
        selection: Any = SimpleNamespace(
            test_seconds=lambda winner: 5.0, seconds=lambda winner: self.repeat
        )
        members = tuple(Member(trial=row.number, weight=1 / len(rows)) for row in rows)
        winner = Contender(kind=kind if len(rows) > 1 else "trial", members=members)
        by_number = {row.number: row for row in rows}
        budget = Budget(seconds, refit=1.25, fixed=5.0)
        refitted = refit(
            winner,
            by_number,
            context,
            selection,
            budget,
            self.events.append,
            has_fallback=has_fallback,
        )
        trained = [job.epochs for job in self.jobs[-len(rows) :]]
        assert sorted(trained) == sorted(refitted.epochs)
        return refitted.epochs


def trained(epochs: int, number: int = 0, *, frozen: bool = False) -> TrialRow:
    """A complete trial with so many epochs."""
    facts = TrialFacts(backbone_frozen=frozen, seconds_repeat=1.0 if frozen else 30.0)
    return TrialRow(number, "complete", "", {}, 0.5, epochs, 10, 10, 1.0, datetime.now(UTC), facts)


def test_a_trial_whose_epochs_the_budget_limited_is_refitted_with_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainings = FakeTrainings(monkeypatch, repeat=30.0)
    epoch = SLACK * 1.25 * 30.0 / 3  # seconds
    assert trainings.refit(600.0, trained(3)) == (WANTED,)
    assert trainings.refit(110.0, trained(3)) == (EXTENSION_FRACTION * 100 // epoch,) == (6,)
    assert trainings.refit(52.0, trained(3)) == (3,)
    assert trainings.refit(600.0, trained(WANTED)) == (WANTED,)
    last = trainings.events[-1]
    assert isinstance(last, Stage)
    assert (last.completed, last.total) == (WANTED, WANTED)


def test_other_winners_are_refitted_with_the_epochs_of_their_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainings = FakeTrainings(monkeypatch, repeat=30.0)
    assert trainings.refit(None, trained(3)) == (3,)
    assert trainings.refit(600.0, trained(1, frozen=True)) == (1,)  # more would change nothing
    assert trainings.refit(600.0, trained(3), trained(4, 1)) == (3, 4)  # a soup


def test_the_longest_member_of_an_ensemble_is_the_last_and_has_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainings = FakeTrainings(monkeypatch, repeat=31.0)
    members = trained(3), trained(1, 1, frozen=True)
    assert trainings.refit(600.0, *members, kind="ensemble") == (WANTED, 1)
    assert [job.epochs for job in trainings.jobs] == [1, WANTED]
    assert trainings.refit(110.0, *members, kind="ensemble") == (6, 1)
    two = trained(1, 1, frozen=True), trained(2, 2, frozen=True)
    assert trainings.refit(600.0, *two, kind="ensemble") == (1, 2)


def test_a_refit_that_cannot_fit_is_not_begun_if_there_is_another_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainings = FakeTrainings(monkeypatch, repeat=30.0)
    with pytest.raises(OutOfTime, match="it would take 42 s, and 40 s are left"):
        trainings.refit(40.0, trained(3))
    assert not trainings.jobs
    assert trainings.refit(40.0, trained(3), has_fallback=False) == (3,)
    assert trainings.jobs[0].deadline is None  # rather late than without a model
    trainings.refit(600.0, trained(3))
    assert trainings.jobs[1].deadline == 1000.0 + 600.0 - 5.0 - 2.5


def test_several_trainings_are_not_begun_in_the_time_for_one(
    alike: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    favour(monkeypatch, "last_blocks")
    score_combination(monkeypatch, "soup", 0.99)
    seconds = [0.0]
    monkeypatch.setattr(SelectionBudget, "seconds", lambda *_: seconds[0])
    evidence = Finish._evidence

    def then_late(self: Finish, winner: Contender) -> Any:
        seconds[0] = 1e4
        return evidence(self, winner)

    monkeypatch.setattr(Finish, "_evidence", then_late)
    monkeypatch.setattr(repeats, "MOST_REPEATS", 3)
    events: list[Event] = []
    result = engine.run(alike(budget=1000.0), events.append)
    assert not [job for job in spy.jobs if job.validation is None]
    warnings = texts(events, warnings=True)
    assert any("was not refitted (it would take" in text for text in warnings)
    assert result.summary["test"]["n"] == 12


def test_without_time_to_refit_the_model_of_a_repeat_is_handed_over(
    small: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "refit_deadline", lambda *_: 0.0)
    monkeypatch.setattr(repeats, "MOST_REPEATS", 2)
    events: list[Event] = []
    result = engine.run(small(budget=60.0), events.append)
    warnings = texts(events, warnings=True)
    assert any("the winner was not refitted (the time budget ended" in text for text in warnings)
    assert result.summary["selection"]
    assert result.summary["test"]["n"] == 12
    saved = read_facts(small()).model
    assert saved
    assert not saved.refitted


def test_without_repeats_the_model_of_the_trial_is_handed_over(
    settings: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    """It is calibrated on the validation split, which it was not trained on."""
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    spy.fails = lambda job: Diverged("nan") if job.validation is None else None
    result = engine.run(settings(**SMALL))
    facts = read_facts(settings())
    assert facts.model
    assert not facts.model.refitted
    assert facts.selection is None
    assert facts.calibration
    assert facts.calibration.n == facts.data.validation
    config = json.loads((result.folder / "model" / "config.json").read_text())
    assert config["temperature"] == facts.calibration.temperature
    assert result.best
    assert config["training"]["freeze"] == result.best["effective_config"]["freeze"]
    assert result.summary["test"]["n"] == 12


def test_ctrl_c_in_the_refit_leaves_a_model_of_a_repeat(small: Make) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Stage) and event.name.startswith("refitting") and event.completed == 1:
            raise KeyboardInterrupt

    result = engine.run(small(), interrupt)
    assert result.interrupted
    assert result.summary["test"] is None
    card = (result.folder / "model" / "README.md").read_text()
    assert "not used by the search" not in card
    assert "final selection: mean of 3 train/validation resamples" in card
    resumed = engine.run(small())
    assert resumed.summary["test"]["n"] == 12
    card = (result.folder / "model" / "README.md").read_text()
    assert "test split, not used by the search | 12 |" in card


def test_a_refit_that_fails_is_reported_and_costs_nothing_else(small: Make, spy: Spy) -> None:
    diverged = Diverged("the training loss is nan in epoch 1")
    spy.fails = lambda job: diverged if job.validation is None else None
    events: list[Event] = []
    result = engine.run(small(), events.append)
    assert any("nan in epoch 1" in text for text in texts(events, warnings=True))
    assert result.summary["test"]["n"] == 12
