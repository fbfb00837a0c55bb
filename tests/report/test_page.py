"""The page shows the study in order, escapes all of it, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import example_study
import pytest
from example_study import HOSTILE, add_test, add_trial, config, facts, result
from report_examples import (
    add_selection,
    add_study,
    data_facts,
    label_facts,
    number_facts,
    trial_contender,
)

from autotl import report
from autotl.errors import StoreError
from autotl.scoring import intervals
from autotl.store import (
    Calibration,
    DataIssueRow,
    ImageRow,
    Interval,
    MajorityClass,
    PretrainedWeights,
    Store,
    TestResult,
)


class _Page(HTMLParser):
    """Collects tags, which must be balanced, scripts, and text."""

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
        attributes = dict(attrs)
        self.tags.add(tag)
        if tag == "script":
            is_data = attributes.get("type") == "application/json"
            self.target = self.data if is_data else self.scripts
            self.target.append("")
        if tag == "img":
            self.images.append(attributes["src"])
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        assert not [name for name in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th") else ""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.target[-1] += data
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
def test_an_interrupted_study_can_be_reported(
    store: Store, tmp_path: Path, known: dict[str, Any], scores: list[float | None]
) -> None:
    store.begin_study("birds", **known)
    for number, score in enumerate(scores):
        status = "failed" if score is None else "complete"
        add_trial(store, number, score, status, epochs=1)
    folder = tmp_path / "deep" / "birds"
    summary = report.write(store, "birds", folder)
    assert json.loads((folder / "summary.json").read_text()) == summary
    page = read(folder / "report.html")
    assert report.describe_result(summary)[0] in page.text
    assert page.scripts == [], "without a figure the library is not needed"
    assert "script-src" not in page.policy


def test_a_number_that_is_not_finite_is_null_in_the_summary(store: Store, tmp_path: Path) -> None:
    add_study(store, 0.9)
    contender = trial_contender(0, 0.9, True)
    add_selection(store, [contender], winner=contender, optimism=float("nan"))
    report.write(store, "birds", tmp_path)
    assert '"optimism": null' in (tmp_path / "summary.json").read_text()


def test_the_page_escapes_user_text_and_loads_nothing(
    complete_store: Store, tmp_path: Path
) -> None:
    selection = complete_store.study("birds").selection
    assert selection
    first, *others = selection.contenders
    plugins = {**(first.config or {}), "head": {HOSTILE: {HOSTILE: HOSTILE}}}
    contenders = [first.model_copy(update={"config": plugins}), *others]
    complete_store.update_study(
        "birds",
        selection=selection.model_copy(update={"contenders": contenders}),
        weights=PretrainedWeights(licence=HOSTILE),
        device=HOSTILE,
    )
    add_trial(complete_store, 99, 0.9, chosen={"freeze": {HOSTILE: {}}, "head": {"</script>": {}}})
    report.write(complete_store, "birds", tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert HOSTILE not in source
    page = read(tmp_path / "report.html")
    assert page.text.count(HOSTILE) > 5, "shown as text"
    without_library = source.replace(page.scripts[0], "")
    assert not re.findall(r"https?:|@import|url\(", without_library)
    assert page.images
    assert all(image.startswith("data:image/") for image in page.images)
    figures, hover = map(json.loads, page.data)
    assert "&lt;img src=x" in hover["99"]
    traces = figures["curves"]["views"][0]["data"]
    assert "&lt;img src=x" in next(t["name"] for t in traces if "img" in t.get("name", ""))
    assert "<img" not in "".join(page.data)


def test_the_page_escapes_the_name_of_the_study(store: Store, tmp_path: Path) -> None:
    store.begin_study(HOSTILE)
    report.write(store, HOSTILE, tmp_path)
    assert HOSTILE not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert read(tmp_path / "report.html").text.count(HOSTILE) > 1, "title and heading"


def test_only_the_two_scripts_of_the_page_may_run(complete_store: Store, tmp_path: Path) -> None:
    report.write(complete_store, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    hashes = [hashlib.sha256(s.encode()).digest() for s in page.scripts]
    sources = " ".join(f"'sha256-{base64.b64encode(h).decode()}'" for h in hashes)
    assert len(hashes) == 2
    assert page.policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"media-src data:; script-src {sources}"
    )
    assert "plotly.js" in page.scripts[0]


def test_the_page_without_the_library_is_small(complete_store: Store, tmp_path: Path) -> None:
    report.write(complete_store, "birds", tmp_path)
    library = len(read(tmp_path / "report.html").scripts[0].encode())
    assert (tmp_path / "report.html").stat().st_size - library < 300_000


def test_the_page_has_its_sections_in_order(complete_store: Store, tmp_path: Path) -> None:
    report.write(complete_store, "birds", tmp_path)
    text = read(tmp_path / "report.html").text
    text = text[text.index("Versions") + 8 :]  # after the navigation
    headings = [
        "Recipe",
        "Test split by class",
        "Confusion matrix Rows: true class; columns: predicted class",
        "Recall and precision",
        "Contenders and baselines",
        "Score against cost",
        "What a prediction takes on this machine",
        "Search progress",
        "Learning curves",
        "What mattered",
        "Scores by freeze",
        "All trials",
        "Misclassified test images",
        "Training and validation images with doubtful labels",
        "Data",
        "Excluded from the search",
        "Time by stage",
        "Reproduce",
        "Versions and licences",
    ]
    positions = [text.index(heading) for heading in headings]
    assert positions == sorted(positions)


def test_the_page_shows_the_final_selection(complete_store: Store, tmp_path: Path) -> None:
    summary = report.write(complete_store, "birds", tmp_path)
    text = read(tmp_path / "report.html").text
    first, second = summary["contenders"][:2]
    assert f"{first['name']} winner" in text
    assert f"{second['difference']['mean']:+.4f}" in text
    assert "each contender was trained 3 times" in text
    assert f"better by {summary['selection']['optimism']:+.4f}" in text
    assert (
        "temperature of 1.31, which changed their expected calibration error from 0.048 to 0.021"
    ) in text
    text = text[text.rindex("Time by stage") : text.rindex("Reproduce")]
    stages = ("data check", "packing", "search", "final selection", "refit")
    positions = [text.index(f"{stage} ") for stage in stages]
    assert positions == sorted(positions), "stages are in the order of a search"


def test_recall_has_a_wilson_interval_and_precision_is_of_the_predicted_class(
    store: Store, tmp_path: Path
) -> None:
    add_study(store, 0.9)
    classes = [{"class": "wren", "n": 10, "score": 0.6}, {"class": "none", "n": 0, "score": None}]
    add_test(store, 0, result(per_class=classes, confusion_matrix=[[6, 4], [0, 0]]))
    report.write(store, "birds", tmp_path)
    low, high = intervals.wilson_interval(0.6, 10)
    text = read(tmp_path / "report.html").text
    assert f"wren 10 0.6000 {low:.3f} to {high:.3f} 1.0000 none 0 \u2013 \u2013 0.0000" in text


def test_long_lists_are_truncated_with_a_note(store: Store, tmp_path: Path) -> None:
    issues = [DataIssueRow(f"{i}.jpg", "broken", "skipped") for i in range(1234)]
    classes = [{"class": f"c{i}", "n": 1, "score": 0.0} for i in range(40)]
    confusion = [[int(j == i + 1) for j in range(40)] for i in range(40)]
    mistakes = example_study.images(3) * 10
    add_study(store, 0.5)
    store.set_data_issues("birds", issues)
    test = result(per_class=classes, confusion_matrix=confusion)
    add_test(store, 0, test, mistakes=mistakes)
    report.write(store, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    assert "199.jpg" in page.text
    assert "200.jpg" not in page.text
    assert "and 1,034 more" in page.text
    assert "Most frequent confusions" in page.text
    assert len(page.images) == 24
    assert "The first 24 of 30." in page.text
    assert len(json.loads(page.data[0])["confusion"]["views"][0]["data"][0]["z"]) == 40


def test_of_many_classes_the_worst_and_the_most_frequent_confusions_are_listed(
    store: Store, tmp_path: Path
) -> None:
    """What is stored of them has no confusion matrix."""
    add_study(store, 0.5)
    classes = [{"class": f"c{i}", "n": 1, "score": i / 2e3, "precision": 0.75} for i in range(1200)]
    add_test(store, 0, result(per_class=classes, confused_pairs=[(7, 1003, 51)]))
    report.write(store, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    assert "Most frequent confusions" in page.text
    assert "c7 c1003 51" in page.text
    low, high = intervals.wilson_interval(999 / 2e3, 1)
    assert f"c999 1 0.4995 {low:.3f} to {high:.3f} 0.7500" in page.text
    assert "c1000 1" not in page.text
    assert "and 200 more" in page.text
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["test"]["per_class"]) == 1200


def test_an_image_is_never_loaded_from_an_address(store: Store, tmp_path: Path) -> None:
    add_study(store, 0.5)
    address = "https://example.org/a.png"
    store.set_images("birds", example_study.images(2, thumbnail=address, saliency=address))
    report.write(store, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    assert page.images == []
    assert page.text.count("no preview") == 2


def data_uri(media_type: str, content: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content.encode()).decode()}"


def test_texts_are_shown_with_the_words_that_support_a_prediction(
    store: Store, tmp_path: Path
) -> None:
    add_study(store, 0.5)
    plain = data_uri("text/plain", f"fine {HOSTILE}")
    weights = data_uri("application/json", json.dumps([["very ", 0], ["good", 1.0], [HOSTILE, -1]]))
    shown = [
        *example_study.images(1, thumbnail=plain, saliency=""),
        *example_study.images(1, thumbnail=plain, saliency=weights),
    ]
    store.set_images("birds", shown)
    report.write(store, "birds", tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = read(tmp_path / "report.html").text
    assert HOSTILE not in source
    assert f"fine {HOSTILE}" in text
    assert '<span class="for" style="--weight: 1.00">good</span>' in source
    assert 'class="against" style="--weight: 1.00"' in source
    assert "Words that support the prediction" in text
    assert '<ul class="images texts">' in source


@pytest.mark.parametrize("content", ["{", '[["a"]]', '[["a", "b"]]', "5"])
def test_damaged_previews_are_left_out(store: Store, tmp_path: Path, content: str) -> None:
    add_study(store, 0.5)
    damaged = data_uri("application/json", content)
    store.set_images(
        "birds", example_study.images(1, thumbnail="data:text/plain", saliency=damaged)
    )
    report.write(store, "birds", tmp_path)
    assert '<p class="text"><span></span></p>' in (tmp_path / "report.html").read_text()


def test_sounds_can_be_played(store: Store, tmp_path: Path) -> None:
    add_study(store, 0.5)
    sound = data_uri("audio/wav", "RIFF")
    store.set_images("birds", example_study.images(1, thumbnail=sound, saliency=""))
    report.write(store, "birds", tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f'<audio controls preload="none" src="{sound}"></audio>' in source


def test_a_name_that_is_not_valid_unicode_does_not_prevent_the_page(
    store: Store, tmp_path: Path
) -> None:
    add_study(store, data=data_facts(source="caf\udce9"))
    store.set_data_issues("birds", [DataIssueRow("caf\udce9.jpg", "broken", "skipped")])
    report.write(store, "birds", tmp_path)
    text = read(tmp_path / "report.html").text
    assert "caf?: " in text
    assert r"caf\udce9.jpg" in text


def test_a_folder_that_cannot_be_written_is_reported_in_one_line(
    store: Store, tmp_path: Path
) -> None:
    add_study(store, 0.5)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write the report into .*; choose") as error:
        report.write(store, "birds", tmp_path / "file" / "birds")
    assert "\n" not in str(error.value)


def test_what_mattered_names_kinds_first_and_how_many_trials(
    complete_store: Store, tmp_path: Path
) -> None:
    report.write(complete_store, "birds", tmp_path)
    text = read(tmp_path / "report.html").text
    section = text[text.rindex("What mattered") : text.index("Scores by backbone")]
    kinds, _, others = section.partition("Hyperparameters, among the trials that had them")
    fractions = [int(percent) for percent in re.findall(r"(\d+) %", kinds)]
    assert fractions == sorted(fractions, reverse=True)
    assert max(fractions) <= 100
    assert re.search(r"freeze \d+ trials", " ".join(kinds.split()))
    assert "lr" not in kinds.split("backbone")[0]
    counts = [int(count) for count in re.findall(r"(\d+) trials", others)]
    assert all(count >= 10 for count in counts)


def test_few_trials_say_nothing_about_what_mattered(store: Store, tmp_path: Path) -> None:
    add_study(store, 0.5, 0.6)
    add_trial(store, 2, 0.7, chosen=config("linear_probe"))
    report.write(store, "birds", tmp_path)
    text = " ".join(read(tmp_path / "report.html").text.split())
    assert "3 complete trials are too few to say which kinds of plugins mattered" in text


def test_the_time_of_a_run_stands_beside_its_own_budget(store: Store, tmp_path: Path) -> None:
    add_study(store, 0.5, budget_seconds=360.0, run_seconds=340.0, seconds=618.0)
    report.write(store, "birds", tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\xa0", " ")
    assert "5.7 min<small>budget 6.0 min, 10.3 min in all runs</small>" in page


def test_the_optimism_of_the_search_and_of_the_winner_are_named_apart(
    store: Store, tmp_path: Path
) -> None:
    add_study(store, 0.9, 0.8)
    contenders = trial_contender(1, 0.9, True), trial_contender(0, 0.88, True)
    interval = Interval(mean=-0.1, low=-0.12, high=-0.08)
    of_winner = {"winner_optimism": interval, "optimism_of": 0}
    add_selection(store, contenders, winner=contenders[0], **of_winner)
    report.write(store, "birds", tmp_path)
    text = " ".join(read(tmp_path / "report.html").text.split())
    search = "(trial 0) scored better by +0.0123 (95 % interval -0.0100 to +0.0346)"
    assert search in text.replace("\xa0", " ")
    winner = "The optimism of the winner (trial 1) is -0.1000 (95 % interval -0.1200 to -0.0800)."
    assert winner in text.replace("\xa0", " ")


def test_labels_have_a_table_with_thresholds_and_no_confusion_matrix(
    store: Store, tmp_path: Path
) -> None:
    data = label_facts(classes=["sky", "sun"], majority=MajorityClass(name="x", validation=0.2))
    add_study(store, 0.8, 0.9, data=data)
    entry = {"class": HOSTILE, "n": 7, "threshold": 0.25, "precision": None, "recall": 0.5}
    test = TestResult(
        score=0.8, low=0.7, high=0.9, n=40,
        per_class=[{**entry, "class": "sky", "score": 0.75}, {**entry, "score": 0.5}],
        at_thresholds={"micro_f1": 0.625, "subset_accuracy": 0.42},
    )  # fmt: skip
    add_test(store, 1, test, mistakes=[ImageRow("a.png", "sky", "sky;sun")])
    store.set_images("birds", [ImageRow("b.png", "sky", "not sky", 0.97)])
    summary = report.write(store, "birds", tmp_path)
    assert summary["test"]["at_thresholds"] == test.at_thresholds
    text = read(tmp_path / "report.html").text
    assert "2 labels · seed" in text
    assert (
        f"label images threshold precision recall F1 {HOSTILE} 7 0.2500 \u2013 0.5000 0.5000"
        in text
    )
    assert "All labels together have an F1 of 0.6250 at their thresholds. 42 % of the" in text
    assert "Test images with the largest errors" in text
    assert "sky;sun label: sky" in text
    assert "not sky 97 % label: sky" in text
    assert "onfusion" not in text
    assert "Wilson" not in text


def test_numbers_have_a_figure_and_intervals(store: Store, tmp_path: Path) -> None:
    add_study(
        store, 12.345, 11.0, metric="mae", metric_has_unit=True, direction="minimize",
        data=number_facts(classes=[HOSTILE, "y"]),
        calibration=Calibration(half_widths=[9.5, 2.5], level=0.95, coverage=0.9, n=60),
    )  # fmt: skip
    entry = {"n": 40, "mae": 1234567.0, "rmse": 1e-7}
    test = TestResult(
        score=12.5, low=11.0, high=14.0, n=40,
        per_class=[
            {"class": HOSTILE, **entry, "score": 0.75}, {"class": "y", **entry, "score": None},
        ],
        scatter=[[(1.0, 1.5), (10.0, 9.0)], [(2.0, 2.5), (20.0, 21.0)]],
    )  # fmt: skip
    add_test(store, 1, test, mistakes=[ImageRow("a.png", "1", "9 (+8)")])
    report.write(store, "birds", tmp_path)
    page = read(tmp_path / "report.html")
    assert f"number images MAE RMSE R² {HOSTILE} 40 1.235e+06 1e-07 0.7500" in page.text
    assert "intervals of ± 9.5 for" in page.text
    assert "of a random sample of 2" in page.text
    assert "Test images with the largest errors" in page.text
    assert "12.5011.00 to 14.00" in page.text
    [figures, _] = map(json.loads, page.data)
    [first, second] = figures["scatter"]["views"]
    assert first["data"][1]["x"] == [1.0, 2.0]
    assert second["data"][1]["y"] == [9.0, 21.0]
    assert second["data"][0]["x"] == [9.0, 21.0]
    assert "<img" not in first["layout"]["xaxis"]["title"]["text"]
    assert figures["progress"]["views"][0]["layout"]["yaxis"]["tickformat"] == ".4~g"
    classes = page.text.replace("classification", "")
    assert "class" not in classes
    assert "probabilit" not in classes
