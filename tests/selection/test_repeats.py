"""Repeats: the same resamples and seeds for all contenders, written down one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from selection_helpers import (
    SMALL,
    Make,
    Search,
    Spy,
    read_facts,
    read_repeats,
    read_selection,
    read_tests,
    singles,
    texts,
)

from autotl import data, engine
from autotl.errors import Diverged, OutOfTime
from autotl.events import Event
from autotl.search.selection_budget import Field, SelectionBudget
from autotl.selection import repeats


def test_all_contenders_have_the_same_seeds_and_resamples(searched: Search) -> None:
    assert searched.selection.repeats == 3
    count = len(searched.singles)
    assert {c.role for c in searched.singles} >= {"linear_probe", "default_recipe"}
    seeds = [job.seed for job in searched.repeats]
    assert seeds == [1] * count + [2] * count + [3] * count  # repeat after repeat
    pool = set(searched.dataset.indices("train", "validation"))
    for job in searched.repeats:
        resample = data.resample(searched.dataset, job.seed - 1, searched.settings.seed)
        assert job.validation is not None
        assert np.array_equal(job.train.indices, resample.train)
        assert np.array_equal(job.validation.indices, resample.validation)
        assert set(job.train.indices) | set(job.validation.indices) == pool


def test_each_repeat_is_stored_with_its_confusion_matrix(searched: Search) -> None:
    stored = read_repeats(searched.settings)
    for contender in searched.singles:
        own = [r for r in stored if (r.kind, r.trial) == ("trial", contender.lead)]
        assert [r.repeat for r in own] == [0, 1, 2]
        assert [r.score for r in own] == list(contender.scores)
        assert sum(r.seconds for r in own) == pytest.approx(contender.seconds)
        for row in own:  # rows are the truth, correct predictions are on the diagonal
            counts = np.array(row.facts.confusion_matrix)
            resample = data.resample(searched.dataset, row.repeat, searched.settings.seed)
            labels = searched.dataset.targets[resample.validation]
            assert np.array_equal(counts.sum(1), np.bincount(labels, minlength=3))
            assert counts.trace() / counts.sum() == pytest.approx(row.score)


def test_an_interrupted_selection_loses_no_repeat(small: Make, spy: Spy) -> None:
    spy.fails = lambda job: KeyboardInterrupt() if len(spy.repeats) == 8 else None
    result = engine.run(small())
    assert result.interrupted
    assert (result.folder / "model" / "model.safetensors").exists()
    assert read_tests(small()) == []
    assert read_selection(small()).repeats == 2  # those that all contenders have
    before = [r for r in read_repeats(small()) if r.kind == "trial"]
    assert len(before) == 7
    spy.fails = lambda job: None
    spy.jobs.clear()
    engine.run(small())
    assert [job.seed for job in spy.repeats] == [3, 3]  # only what was missing
    after = [r for r in read_repeats(small()) if r.kind == "trial"]
    assert len(after) == 9
    assert [r for r in after if r in before] == before
    assert read_selection(small()).repeats == 3


def test_repeats_whose_predictions_are_lost_are_trained_once_more(small: Make, spy: Spy) -> None:
    engine.run(small())
    files = sorted((small().out / "cache" / "repeats").glob("photos-trial-*.npy"))
    assert len(files) == 9
    files[0].unlink()
    files[4].write_bytes(b"torn")
    spy.jobs.clear()
    engine.run(small())
    assert len(spy.repeats) == 2


def test_a_repeat_that_runs_out_of_time_counts_for_those_that_completed_it(
    small: Make, spy: Spy
) -> None:
    spy.fails = lambda job: OutOfTime("it is late") if len(spy.repeats) == 8 else None
    result = engine.run(small())
    selection = read_selection(small())
    assert selection.repeats == 2
    [longest, *others] = sorted(singles(selection), key=lambda c: -len(c.scores))
    assert [len(c.scores) for c in (longest, *others)] == [3, 2, 2]
    rows = [r for r in read_repeats(small()) if r.kind == "trial"]
    assert list(longest.scores) == [r.score for r in rows if r.trial == longest.lead]
    assert result.summary["test"]["n"] == 12


def test_a_contender_without_the_second_repeat_drops_out_with_its_first(
    small: Make, spy: Spy
) -> None:
    """The best and the baselines come first. What was trained counts."""
    spy.fails = lambda job: OutOfTime("it is late") if len(spy.repeats) >= 6 else None
    events: list[Event] = []
    engine.run(small(), events.append)
    selection = read_selection(small())
    assert selection.repeats == 2
    [dropped] = [c for c in singles(selection) if len(c.scores) == 1]
    assert dropped.role == "finalist"
    assert [len(c.scores) for c in singles(selection) if c != dropped] == [2, 2]
    assert dropped.standing
    assert dropped.standing.score.low < dropped.standing.score.high
    [text] = [t for t in texts(events) if "no time for 2 repeats" in t]
    assert "with trial" in text


def test_without_time_for_two_repeats_nothing_is_repeated(
    small: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    monkeypatch.setattr(SelectionBudget, "choose_field", lambda *_: Field())
    result = engine.run(small())
    assert spy.repeats == []
    assert read_facts(small()).selection is None
    assert result.summary["selection"] is None
    assert result.summary["test"]["n"] == 12


def test_repeats_do_not_use_the_time_of_the_refit(
    small: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    choose_field = SelectionBudget.choose_field
    monkeypatch.setattr(SelectionBudget, "reserve", lambda _: None)
    monkeypatch.setattr(SelectionBudget, "seconds", lambda *_: 20.0)
    available: list[float] = []

    def spied(self: SelectionBudget, seconds: float) -> Field:
        available.append(seconds)
        return choose_field(self, seconds)

    monkeypatch.setattr(SelectionBudget, "choose_field", spied)
    engine.run(small(budget=100.0))  # the refit takes 30 of them, two repeats 120
    assert spy.repeats == []
    assert available
    assert max(available) < 100 - 30


def test_a_contender_that_fails_drops_out(small: Make, spy: Spy) -> None:
    spy.fails = lambda job: Diverged("the loss is nan") if len(spy.repeats) == 5 else None
    events: list[Event] = []
    engine.run(small(), events.append)
    contenders = singles(read_selection(small()))
    assert len(contenders) == 2
    assert {len(c.scores) for c in contenders} == {3}
    assert any("dropped out: the loss is nan" in t for t in texts(events, warnings=True))


def test_a_late_failure_keeps_the_repeats_before_it(small: Make, spy: Spy) -> None:
    """One of only two contenders fails in the third repeat."""
    spy.fails = lambda job: Diverged("the loss is nan") if len(spy.repeats) in (3, 7) else None
    engine.run(small())
    selection = read_selection(small())
    assert selection.repeats == 2
    assert len(singles(selection)) == 2


def test_a_soup_drops_out_with_its_member(alike: Make, spy: Spy) -> None:
    """In the third repeat a member fails, and the time ends before the repeat does."""
    errors = {7: Diverged("the loss is nan"), 9: OutOfTime("it is late")}
    spy.fails = lambda job: errors.get(len(spy.repeats))
    engine.run(alike())
    selection = read_selection(alike())
    assert selection.repeats == 2
    assert len(singles(selection)) == 2
    assert "soup" not in {c.kind for c in selection.contenders}
    assert {r.kind for r in read_repeats(alike())} == {"trial", "soup"}


def test_a_validation_split_that_cannot_be_resampled_has_no_selection(
    settings: Make, tmp_path: Path
) -> None:
    """Such as that of one patient: the winner of the search is handed over."""
    made = settings(**SMALL)
    lines = ["path,label,split,group"]
    for i, file in enumerate(sorted((tmp_path / "photos").glob("*/*.png"))):
        split = ("train", "train", "train", "validation", "test")[i % 5]
        group = "one" if split == "validation" else ""
        lines.append(f"{file},{file.parent.name},{split},{group}")
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(lines) + "\n")
    events: list[Event] = []
    result = engine.run(made.model_copy(update={"data": str(table)}), events.append)
    assert any("the final selection ended after 0 repeats" in t for t in texts(events))
    assert result.summary["selection"] is None
    assert result.summary["test"]["n"] == 12


def test_more_contenders_take_part_if_the_first_repeat_is_fast(
    small: Make, monkeypatch: pytest.MonkeyPatch, spy: Spy
) -> None:
    """Trials may have been slow because the features of their frozen prefix were not cached."""
    available: list[float] = []
    choose_field = SelectionBudget.choose_field

    def two_at_first(self: SelectionBudget, seconds: float) -> Field:
        available.append(seconds)
        field = choose_field(self, 1e9)
        return Field(field.contenders[:2], 3) if len(available) < 2 else field

    monkeypatch.setattr(SelectionBudget, "choose_field", two_at_first)
    monkeypatch.setattr(SelectionBudget, "seconds", lambda *_: 100.0)
    monkeypatch.setattr(SelectionBudget, "repeats_seconds", lambda *_: 0.0)
    monkeypatch.setattr(repeats, "MOST_REPEATS", 2)
    engine.run(small(budget=1000.0))
    assert len(singles(read_selection(small()))) == 3
    assert available[1] > available[0]
    assert [job.seed for job in spy.repeats] == [1, 1, 1, 2, 2, 2]
