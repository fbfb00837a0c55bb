"""The report says what the database holds, in keys that do not change, and escapes all of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import example_study
import pytest
from example_study import HOSTILE, add_trial, config, facts, opening
from plotly import graph_objects

from autotl import report
from autotl.errors import StoreError
from autotl.report import axis, figures
from autotl.report.axis import Axis
from autotl.scoring import metrics
from autotl.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = example_study.opened(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_study.whole(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def rich(whole: Path, tmp_path: Path) -> Iterator[Store]:
    made = example_study.copied(whole, tmp_path)
    yield made
    made.close()


def begin(store: Store, *scores: float | None, **changes: Any) -> None:
    """A study with trials of these scores; of those without one it is not known why."""
    store.begin("birds", facts(**changes))
    for number, score in enumerate(scores):
        add_trial(store, number, score, "failed" if score is None else "complete")


def opened(store: Store, trial: int, **changes: Any) -> None:
    """Open the test part for a trial."""
    store.close_test(store.open_test("birds", trial, {}), **changes)


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
        "members": {},
        "validation": {"mean": {}, "low": {}, "high": {}, "seeds": {}},
        "parameters": {},
        "trained_parameters": {},
        "ms_per_item": {},
    },
    "finalists": {},
    "baselines": {"linear_probe": {}, "default_recipe": {}},
    "finals": {},
    "prefer": {},
    "optimism": {},
    "calibration": {},
    "pareto": {},
    "test": {"score": {}, "low": {}, "high": {}, "n": {}},
    "test_openings": {},
    "artifact": {},
    "versions": {},
}
"""The keys of ``summary.json``, in its order."""


def same_keys(shape: dict[str, Any], found: dict[str, Any]) -> None:
    assert list(found) == list(shape)
    for key, inner in shape.items():
        if inner:
            same_keys(inner, found[key])


# ---------------------------------------------------------------- for programs


@pytest.mark.parametrize("finals", [True, False])
def test_the_summary_has_exactly_the_keys_that_other_programs_read(
    rich: Store, finals: bool
) -> None:
    if not finals:
        rich.update("birds", finals=None)
        opened(rich, report.summarise(rich, "birds")["best"]["trial"], **opening())
    summary = report.summarise(rich, "birds")
    same_keys(SHAPE, summary)
    scored = ["trial", "config", "mean", "low", "high"]
    assert {tuple(f) for f in summary["finalists"]} == {(*scored, "tied_with_best")}
    assert [list(b) for b in summary["baselines"].values()] == [scored, scored]
    assert json.loads(json.dumps(summary)) == summary


def test_numbers_come_from_the_test_of_the_best_trial(store: Store) -> None:
    begin(store, 0.8, 0.9)
    opened(store, 1, **opening(0.7))
    opened(store, 1, **opening(0.8))
    summary = report.summarise(store, "birds")
    low, high = metrics.wilson_interval(0.8, 180)
    assert summary["test"] == {"score": 0.8, "low": low, "high": high, "n": 180}
    assert summary["test_openings"] == 2
    best = summary["best"]
    assert (best["trial"], best["parameters"], best["ms_per_item"]) == (1, 3_700_001, 2.5)


def test_an_unfinished_test_or_that_of_another_trial_is_not_passed_off(store: Store) -> None:
    begin(store, 0.8, 0.9)
    store.open_test("birds", 1, {})
    opened(store, 0, **opening())
    summary = report.summarise(store, "birds")
    assert summary["test"] is None
    assert summary["best"]["parameters"] == 3_400_000
    assert "opened before, for an earlier winner or" in report.answer(summary)[1]


def test_of_equal_trials_the_one_that_learns_less_wins_and_then_the_earlier(store: Store) -> None:
    store.begin("birds", facts())
    for number, learned in enumerate((None, 50, 10, 10)):
        add_trial(store, number, 0.9, trained_parameters=learned)
    add_trial(store, 4, 0.99, "pruned")
    rows = store.trials("birds")
    assert [r.number for r in report.ranked(rows, "maximize")] == [2, 3, 1, 0]
    assert [t["number"] for t in report.top(store, "birds", 2)] == [2, 3]


def test_a_metric_that_is_better_when_lower_ranks_the_other_way_and_has_no_interval(
    store: Store,
) -> None:
    begin(store, 0.5, 0.4, None, metric="log_loss", direction="minimize")
    summary = report.summarise(store, "birds")
    expected = {"mean": 0.4, "low": 0.4, "high": 0.4, "seeds": 1}
    assert (summary["best"]["trial"], summary["best"]["validation"]) == (1, expected)
    assert [f["tied_with_best"] for f in summary["finalists"]] == [True, False]
    assert "interval" not in report.answer(summary)[0]


def test_without_finals_a_tie_is_an_interval_that_reaches_the_best(store: Store) -> None:
    begin(store, 0.9, 0.85, 0.5, validation_n=100)
    add_trial(store, 3, 0.88, chosen=config(lr=0.001))
    summary = report.summarise(store, "birds")
    tied = {f["trial"]: f["tied_with_best"] for f in summary["finalists"]}
    assert tied == {0: True, 1: True, 2: False}, "trial 3 has the configuration of trial 0"
    validation = summary["best"]["validation"]
    assert (validation["low"], validation["high"]) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert "too few to tell it from trial 1: call it a tie." in " ".join(report.answer(summary))
    store.update("birds", kept=2)  # a later search was cut short: this is whose model is there
    kept = report.summarise(store, "birds")
    assert "tie" not in " ".join(report.answer(kept))
    rows = axis.intervals(kept)["rows"]
    assert [row["label"] for row in rows if row["role"] == "best"] == ["trial 2, the best"]


def test_trials_are_counted_as_what_they_were(store: Store) -> None:
    ends = "complete pruned out_of_time failed diverged incompatible out_of_memory running"
    store.begin("birds", facts())
    for number, end in enumerate([*ends.split(), "interrupted"]):
        add_trial(store, number, 0.5, end)
    summary = report.summarise(store, "birds")
    assert summary["trials"] == {"complete": 1, "pruned": 2, "failed": 4}


def test_the_pareto_front_has_what_nothing_else_is_better_than(store: Store) -> None:
    store.begin("birds", facts())
    known = [  # score, ms, parameters, seconds
        (0.9, 9.0, 100, 9.0),  # the best
        (0.8, 1.0, 100, 9.0),  # the quickest to predict with
        (0.8, 9.0, 10, 9.0),  # the smallest
        (0.8, 9.0, 100, 1.0),  # the quickest to train
        (0.8, 9.0, 100, 9.0),  # beaten by all of these
        (0.9, 9.0, 100, 9.0),  # as good as the first in everything
    ]
    for number, (score, ms, size, seconds) in enumerate(known):
        add_trial(
            store, number, score, parameters=size, seconds=seconds, measured={"ms_per_item": ms}
        )
    add_trial(store, 6, 0.9, parameters=100, seconds=9.0)  # does not know how long it takes
    front = report.summarise(store, "birds")["pareto"]
    assert [p["trial"] for p in front] == [0, 5, 2, 1, 3]
    costs = {"ms_per_item": 9.0, "parameters": 100, "seconds": 9.0}
    assert front[0] == {"trial": 0, "score": 0.9, **costs}


def test_the_pareto_front_of_a_loss_has_the_least(store: Store) -> None:
    begin(store, 0.5, 0.4, direction="minimize", metric="log_loss")
    assert [p["trial"] for p in report.summarise(store, "birds")["pareto"]] == [1]


def test_each_backbone_has_the_median_of_what_was_measured(store: Store) -> None:
    store.begin("birds", facts())
    for number, (ms, peak) in enumerate(((2.0, None), (4.0, 100), (3.0, 300))):
        costs = {"forward_ms": 2 * ms, "peak_bytes": peak}
        add_trial(store, number, 0.5, measured={"costs": costs, "ms_per_item": ms})
    add_trial(store, 3, 0.5, chosen=config(backbone="quick"), measured={"ms_per_item": 1.0})
    add_trial(store, 4, 0.5, chosen=config(backbone="unknown"))
    quick, usual = report.backbone_costs(store.trials("birds"))
    assert (quick["backbone"], quick["forward_ms"], quick["peak_bytes"]) == ("quick", None, None)
    assert usual["backbone"] == "tf_efficientnet_lite0"
    assert (usual["trials"], usual["ms_per_item"], usual["forward_ms"]) == (3, 3.0, 6.0)
    assert (usual["peak_bytes"], usual["backward_ms"]) == (300, None)


# ---------------------------------------------------------------- after finals


def candidate(name: str, mean: float, tied: bool, role: str = "finalist") -> dict[str, Any]:
    trial = int(name.removeprefix("trial ")) if name.startswith("trial ") else None
    return {
        "name": name,
        "trial": trial,
        "role": role,
        "config": None if trial is None else config(),
        "scores": [mean - 0.01, mean + 0.01],
        "mean": mean,
        "low": mean - 0.02,
        "high": mean + 0.02,
        "difference": {"mean": mean - 0.9, "low": mean - 0.91, "high": mean - 0.89},
        "tied_with_best": tied,
        "seconds": 3.0,
        "parameters": 7,
        "ms_per_item": None,
    }


def held(store: Store, *candidates: dict[str, Any], winner: str, **changes: Any) -> dict[str, Any]:
    """The summary of a study with these finals."""
    known = {"runs": 2, "candidates": candidates, "winner": winner, "cheapest_tied": winner}
    store.update("birds", finals={**known, "optimism": 0.0123, "prefer": "accuracy", **changes})
    return report.summarise(store, "birds")


def test_after_finals_the_winner_and_the_baselines_are_theirs(store: Store) -> None:
    begin(store, 0.99, 0.95, 0.9)
    summary = held(
        store,
        candidate("trial 1", 0.9, True),
        candidate("trial 0", 0.88, False, "default_recipe"),
        candidate("trial 2", 0.8, False, "linear_probe"),
        winner="trial 1",
    )
    best = summary["best"]
    assert best["trial"] == 1
    assert best["validation"] == {"mean": 0.9, "low": 0.88, "high": 0.92, "seeds": 2}
    assert (best["parameters"], best["trained_parameters"]) == (7, 1000)
    assert [f["trial"] for f in summary["finalists"]] == [1, 0, 2]
    assert summary["baselines"]["default_recipe"]["mean"] == 0.88
    assert summary["baselines"]["linear_probe"]["trial"] == 2
    assert summary["optimism"] == 0.0123
    said = report.answer(summary)
    assert said[0].startswith("The best is trial 1, tf_efficientnet_lite0 · full")
    assert "accuracy 0.9000 (95 % interval 0.8800 to 0.9200), the mean of 2 runs" in said[0]
    assert said[2:] == ["Beside it, the default recipe 0.8800 and the linear probe 0.8000."]


def test_ties_are_named_with_the_cheapest_of_them(store: Store) -> None:
    begin(store, 0.99, 0.95, 0.9)
    candidates = (
        candidate("ensemble", 0.91, True, "ensemble"),
        candidate("trial 1", 0.9, True),
        candidate("trial 2", 0.89, True, "default_recipe"),
    )
    said = report.answer(held(store, *candidates, winner="trial 1", cheapest_tied="trial 2"))
    assert said[2] == (
        "2 runs do not tell it from the ensemble and trial 2: call it a tie; "
        "the cheapest of them is trial 2."
    )
    said = report.answer(held(store, *candidates, winner="trial 2", prefer="cheap"))
    assert said[0].startswith("The best is trial 2,")
    assert said[2].endswith(
        "from the ensemble and trial 1: call it a tie; it is the cheapest of them, "
        "and was preferred for that."
    )
    assert said[3] == "It is the default recipe itself."


def test_an_ensemble_that_beats_every_trial_is_said_to(store: Store) -> None:
    begin(store, 0.9, 0.8)
    best = candidate("ensemble", 0.95, False, "ensemble"), candidate("trial 0", 0.9, True)
    said = " ".join(report.answer(held(store, *best, winner="trial 0")))
    assert "The ensemble of several trials does better: 0.9500" in said
    assert "tie" not in said


def test_a_test_that_says_what_it_is_of_is_that_candidates(store: Store) -> None:
    begin(store, 0.9)
    both = candidate("ensemble", 0.95, True, "ensemble"), candidate("trial 0", 0.9, True)
    opened(store, 0, **opening(0.7), candidate="trial 0")
    assert held(store, *both, winner="ensemble")["test"] is None
    opened(store, 0, **opening(0.8), candidate="ensemble")
    summary = held(store, *both, winner="ensemble")
    assert summary["test"]["score"] == 0.8
    assert held(store, *both, winner="trial 0")["test"]["score"] == 0.7
    said = report.answer(summary)
    assert said[0].startswith("The best is ensemble: accuracy 0.9500")
    assert said[-1].startswith("The test part was opened 2 times")


# ---------------------------------------------------------------- the page


class _Page(HTMLParser):
    """Collects tags, balanced as they must be, what scripts say, and text."""

    VOID = ("meta", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.text, self.policy = "", ""
        self.scripts: list[str] = []
        self.data: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        if tag == "script":
            self.into = self.data if known.get("type") == "application/json" else self.scripts
            self.into.append("")
        if tag == "img":
            self.images.append(known["src"])
        if known.get("http-equiv") == "Content-Security-Policy":
            self.policy = known["content"]
        assert not [name for name in known if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th") else ""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.into[-1] += data
        elif not self.open or self.open[-1] != "style":
            self.text += data


def read(file: Path) -> _Page:
    page = _Page()
    page.feed(file.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    assert not page.tags & {"link", "iframe", "object", "form"}
    page.text = " ".join(page.text.split())
    return page


@pytest.mark.parametrize(
    ("known", "scores"),
    [({}, []), (facts(), []), ({}, [None]), ({}, [0.5])],
    ids=["nothing", "no trials", "none complete", "no facts"],
)
def test_a_study_that_was_cut_short_can_be_reported(
    store: Store, tmp_path: Path, known: dict[str, Any], scores: list[float | None]
) -> None:
    store.begin("birds", known)
    for number, score in enumerate(scores):
        end = "failed" if score is None else "complete"
        add_trial(store, number, score, end, epochs=1)
    folder = tmp_path / "deep" / "birds"
    summary = report.write(store, "birds", folder)
    assert list(summary) == list(SHAPE)
    assert summary["test"] is None
    assert (summary["best"] is None) == (scores in ([], [None]))
    assert json.loads((folder / "summary.json").read_text()) == summary
    page = read(folder / "report.html")
    assert report.answer(summary)[0] in page.text
    assert page.scripts == [], "no figure, no library"
    assert "script-src" not in page.policy


def test_the_page_escapes_what_users_wrote_and_loads_nothing(rich: Store, tmp_path: Path) -> None:
    facts = {**rich.require("birds"), "study": HOSTILE}
    known = facts["finals"]["candidates"][0]["config"]
    facts["finals"]["candidates"][0]["config"] = {**known, "head": {HOSTILE: {HOSTILE: HOSTILE}}}
    rich.begin("birds", {**facts, "weights": {"licence": HOSTILE}, "device": HOSTILE})
    add_trial(rich, 99, 0.9, chosen={"freeze": {HOSTILE: {}}, "head": {"</script>": {}}})
    report.write(rich, "birds", tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert HOSTILE not in source
    page = read(tmp_path / "report.html")
    assert page.text.count(HOSTILE) > 5, "shown as text"
    ours = source.replace(page.scripts[0], "")
    assert not re.findall(r"https?:|@import|url\(", ours)
    assert page.images
    assert all(image.startswith("data:image/") for image in page.images)
    shown, about = map(json.loads, page.data)
    assert "&lt;img src=x" in about["99"]
    hover = shown["curves"]["views"][0]["data"]
    assert "&lt;img src=x" in next(t["name"] for t in hover if "img" in t.get("name", ""))
    assert "<img" not in "".join(page.data)


def test_only_the_two_scripts_of_the_page_may_run(rich: Store, tmp_path: Path) -> None:
    report.write(rich, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    hashes = [hashlib.sha256(s.encode()).digest() for s in page.scripts]
    known = " ".join(f"'sha256-{base64.b64encode(h).decode()}'" for h in hashes)
    assert len(hashes) == 2
    assert page.policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {known}"
    )
    assert "plotly.js" in page.scripts[0]


def test_the_page_without_the_library_is_small(rich: Store, tmp_path: Path) -> None:
    report.write(rich, "birds", tmp_path)
    library = len(read(tmp_path / "report.html").scripts[0].encode())
    assert (tmp_path / "report.html").stat().st_size - library < 300_000


def test_the_page_tells_all_in_order(rich: Store, tmp_path: Path) -> None:
    report.write(rich, "birds", tmp_path)
    text = read(tmp_path / "report.html").text
    text = text[text.index("Versions") + 8 :]  # after the list of sections
    headings = [
        "The recipe",
        "The test, class by class",
        "Rows are the truth",
        "Each class, the hardest first",
        "Finalists and baselines",
        "Score against cost",
        "What each backbone costs here",
        "Best so far",
        "Learning curves",
        "What mattered",
        "By freeze",
        "All trials",
        "The most confident mistakes",
        "Labels of train and validation that the winner doubts",
        "The data",
        "Left out of the search",
        "Where the time went",
        "How to do it again",
        "Versions and licence",
    ]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)


def test_the_page_says_how_the_finals_went(rich: Store, tmp_path: Path) -> None:
    summary = report.write(rich, "birds", tmp_path)
    text = read(tmp_path / "report.html").text
    first, second = summary["finals"]["candidates"][:2]
    assert f"{first['name']} winner" in text
    assert f"{second['difference']['mean']:+.4f}" in text
    assert "Each was trained 3 times" in text
    assert f"better by {summary['optimism']:+.4f}" in text
    assert "temperature of 1.31, their expected calibration error went from 0.048 to 0.021" in text
    text = text[text.rindex("Where the time went") : text.rindex("How to do it again")]
    order = [text.index(f"{stage} ") for stage in ("check", "pack", "search", "finals", "refit")]
    assert order == sorted(order), "stages are in the order of a search"


def test_recall_has_wilsons_interval_and_precision_is_of_the_column(
    store: Store, tmp_path: Path
) -> None:
    begin(store, 0.9)
    classes = [{"class": "wren", "n": 10, "score": 0.6}, {"class": "none", "n": 0, "score": None}]
    opened(store, 0, **opening(per_class=classes, confusion=[[6, 4], [0, 0]]))
    report.write(store, "birds", tmp_path)
    low, high = metrics.wilson_interval(0.6, 10)
    text = read(tmp_path / "report.html").text
    assert f"wren 10 0.6000 {low:.3f} to {high:.3f} 1.0000 none 0 \u2013 \u2013 0.0000" in text


def test_long_lists_are_cut_and_said_to_be(store: Store, tmp_path: Path) -> None:
    issues = [{"name": f"{i}.jpg", "problem": "broken", "action": "skipped"} for i in range(1234)]
    many = [{"class": f"c{i}", "n": 1, "score": 0.0} for i in range(40)]
    wrong = [[int(j == i + 1) for j in range(40)] for i in range(40)]
    odd = example_study.pictures(3) * 10
    begin(store, 0.5, issues=issues)
    opened(store, 0, **opening(per_class=many, confusion=wrong, mistakes=odd))
    report.write(store, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    assert "199.jpg" in page.text
    assert "200.jpg" not in page.text
    assert "and 1,034 more" in page.text
    assert "Most often mistaken" in page.text
    assert len(page.images) == 24
    assert "The first 24 of 30." in page.text
    assert len(json.loads(page.data[0])["confusion"]["views"][0]["data"][0]["z"]) == 40


def test_a_picture_is_never_fetched_from_an_address(store: Store, tmp_path: Path) -> None:
    begin(store, 0.5, doubtful=example_study.pictures(2, thumbnail="https://example.org/a.png"))
    report.write(store, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    assert page.images == []
    assert page.text.count("no picture") == 2


def test_a_name_that_is_no_unicode_does_not_cost_the_page(store: Store, tmp_path: Path) -> None:
    issue = {"name": "caf\udce9.jpg", "problem": "broken", "action": "skipped"}
    begin(store, issues=[issue])
    report.write(store, "birds", tmp_path)
    assert "caf?.jpg" in read(tmp_path / "report.html").text


def test_a_folder_that_cannot_be_written_is_one_line(store: Store, tmp_path: Path) -> None:
    begin(store, 0.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write the report into .*; choose") as error:
        report.write(store, "birds", tmp_path / "file" / "birds")
    assert "\n" not in str(error.value)


def test_what_mattered_is_asked_of_optuna_where_there_are_enough_trials(
    rich: Store, tmp_path: Path
) -> None:
    report.write(rich, "birds", tmp_path)
    text = read(tmp_path / "report.html").text
    part = text[text.rindex("What mattered") : text.index("By backbone")]
    shares = [int(share) for share in re.findall(r"(\d+) %", part)]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=5)


# ---------------------------------------------------------------- its figures


def drawn(store: Store) -> dict[str, Any]:
    """The figures of the study, after plotly has taken them as its own."""
    rows = store.trials("birds")
    epochs = {row.number: store.epochs("birds", row.number) for row in rows}
    found = {
        "cost": figures.costs(rows, "accuracy", "maximize", 2),
        "progress": figures.progress(rows, "accuracy", "maximize", 2),
        "curves": figures.curves(rows, epochs, "accuracy", "maximize", 2),
        "confusion": figures.confusion([[1, 2], [0, 3]], [HOSTILE, "wren"]),
    }
    for figure in filter(None, found.values()):
        for view in figure["views"]:
            painted = json.loads(re.sub(r'"--\w+"', '"#123456"', json.dumps(view)))
            graph_objects.Figure(painted["data"], painted["layout"])  # raises on what is no plotly
    return found


def test_plotly_knows_every_word_of_the_figures(rich: Store) -> None:
    assert len(drawn(rich)["cost"]["views"]) == 3


def test_a_front_has_what_is_cheaper_than_all_that_is_better(store: Store) -> None:
    store.begin("birds", facts())
    for number, (score, ms) in enumerate(((0.9, 5.0), (0.8, 6.0), (0.7, 2.0), (0.6, 2.0))):
        add_trial(store, number, score, measured={"ms_per_item": ms})
    front = drawn(store)["cost"]["views"][0]["data"][1]
    labels = [view["label"] for view in drawn(store)["cost"]["views"]]
    assert labels == ["ms to predict one picture"], "of the others all are alike"
    assert (front["x"], front["y"]) == ([2.0, 5.0], [0.7, 0.9])


def test_the_best_so_far_never_falls_and_pauses_do_not_count(store: Store) -> None:
    store.begin("birds", facts())
    for number, score in enumerate((0.7, 0.6, 0.9)):
        pause = 3600 if number == 2 else 0  # the search went on after lunch
        started = example_study.NOW + example_study.timedelta(seconds=10 * number + pause)
        add_trial(store, number, score, seconds=10.0, started=started)
    trials, line = drawn(store)["progress"]["views"][0]["data"][:2]
    assert trials["x"] == [10.0, 20.0, 30.0]
    assert line["y"] == [0.7, 0.7, 0.9, 0.9]
    rows = store.trials("birds")
    least = figures.progress(rows, "log_loss", "minimize", None)
    assert least is not None
    assert least["views"][0]["data"][1]["y"] == [0.7, 0.6, 0.6, 0.6]


def test_each_strategy_has_one_line_in_the_legend(rich: Store) -> None:
    traces = drawn(rich)["curves"]["views"][0]["data"]
    named = [t["name"] for t in traces if "name" in t]
    assert named == sorted(example_study.FREEZES)
    assert len({t["line"]["color"] for t in traces if "name" in t}) == 4
    assert sum(t["line"]["width"] > 3 for t in traces) == 1, "the winner"
    assert traces[-1]["line"]["width"] > 3, "on top"


def test_the_worst_scores_do_not_squeeze_the_others() -> None:
    low, high = figures.window([0.1] + [0.8 + 0.01 * i for i in range(15)], "maximize")
    assert 0.7 < low < 0.81
    assert 0.94 < high < 1.0
    low, high = figures.window([9.0] + [0.2 + 0.01 * i for i in range(15)], "minimize")
    assert (0.1 < low < 0.2, 0.34 < high < 0.5) == (True, True)


def test_numbers_of_a_recipe_are_short_and_exact_where_they_are_whole() -> None:
    chosen = {"head": {"mlp": {"width": 1024, "dropout": 0.123456, "norm": True}}}
    assert report.recipe_line(chosen) == "mlp(width=1024, dropout=0.123, norm=True)"
    assert report.recipe_line(chosen, values=False) == "mlp"
    assert report.recipe_line({}) == ""


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.81, 0.83], [-3.0, 4.0], [1e-6, 3e-6]])
def test_an_axis_has_a_few_round_ticks_within_it(values: list[float]) -> None:
    axis = Axis.over(values)
    assert 2 <= len(axis.ticks) <= 6
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)
    assert all(0 <= place <= 100 for place, _ in axis.ticks)
    assert all(0 < axis.at(v) < 100 for v in values)
