"""Notes are Markdown in which names are literal text."""

from __future__ import annotations

from pathlib import Path

from example_study import HOSTILE, add_trial
from report_examples import add_study

from autotl import report
from autotl.report.dashboard_notes import MAX_CLASSES, Confusion, escape_markdown, trial_note
from autotl.store import Store


def test_markdown_shows_names_literally() -> None:
    escaped = escape_markdown(f"{HOSTILE}\n| *a* _b_ `c` [d](e)")
    for mark in "<>|*_`[]()":
        assert escaped.count(mark) == escaped.count(f"\\{mark}")
    assert "\n" not in escaped


def note(store: Store, trial: int, confusion: Confusion | None) -> str:
    rows = {row.number: row for row in store.trials("birds")}
    return trial_note(rows[trial], report.summarise(store, "birds"), Path("/runs/x"), confusion)


def test_a_note_lists_the_costs_that_were_measured(store: Store) -> None:
    add_study(store, 0.9)
    costs = {"ms_per_item": 2.5, "costs": {"peak_bytes": 3 * 2**20}, "views": 2}
    add_trial(store, 1, 0.8, measured=costs)
    assert "trained parameters" in note(store, 0, None)
    assert "peak memory" not in note(store, 0, None)
    expected = "3 MiB peak memory; 2 views of each example."
    assert expected in note(store, 1, None).replace("\\", "")


def test_a_small_confusion_matrix_is_a_table(store: Store) -> None:
    add_study(store, 0.9)
    names = (HOSTILE, "a rather long class name")
    text = note(store, 0, Confusion([[4, 1], [0, 5]], names, "the test split"))
    table = text[text.index("Confusion matrix") :].splitlines()
    assert table[0].endswith("(rows: true class; columns: predicted class):")
    assert table[2:] == [
        "|  | \\<img src=x… | a rather lo… |",
        "| --- | --- | --- |",
        f"| **{escape_markdown(HOSTILE)}** | **4** | 1 |",
        "| **a rather long class name** |  | **5** |",
    ]


def test_a_large_confusion_matrix_of_the_winner_is_in_the_report(store: Store) -> None:
    add_study(store, 0.9, 0.8)
    size = MAX_CLASSES + 1
    large = Confusion([[1] * size] * size, ["class"] * size, "the test split")
    assert "of 13 classes is in `/runs/x/report.html`" in note(store, 0, large)
    assert "onfusion matrix" not in note(store, 1, large)
