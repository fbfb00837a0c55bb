"""The interactive figures are valid Plotly and show the right points."""

from __future__ import annotations

import json
import re
from typing import Any

import example_study
from example_study import HOSTILE, add_trial
from plotly import graph_objects

from autotl.report import figures
from autotl.store import Store


def draw(store: Store) -> dict[str, Any]:
    """Draw the figures of the study, and have Plotly validate them."""
    rows = store.trials("birds")
    ms = {row.number: row.facts.ms_per_item for row in rows if row.facts.ms_per_item}
    epochs = {row.number: store.epochs("birds", row.number) for row in rows}
    drawn = {
        "cost": figures.score_by_cost(rows, "accuracy", "maximize", 2, ms),
        "progress": figures.best_so_far(rows, "accuracy", "maximize", 2),
        "curves": figures.learning_curves(rows, epochs, "accuracy", "maximize", 2),
        "confusion": figures.confusion_heatmap([[1, 2], [0, 3]], [HOSTILE, "wren"]),
        "scatter": figures.scatter([[(1.0, 1.5)], [(2.0, 2.5)]], [HOSTILE]),
    }
    for figure in filter(None, drawn.values()):
        for view in figure["views"]:
            coloured = json.loads(re.sub(r'"--\w+"', '"#123456"', json.dumps(view)))
            graph_objects.Figure(coloured["data"], coloured["layout"])  # raises if it is invalid
    return drawn


def test_plotly_accepts_every_figure(complete_store: Store) -> None:
    assert len(draw(complete_store)["cost"]["views"]) == 3


def test_the_pareto_front_has_trials_that_are_cheaper_than_all_better_ones(store: Store) -> None:
    example_study.begin(store)
    for number, (score, ms) in enumerate(((0.9, 5.0), (0.8, 6.0), (0.7, 2.0), (0.6, 2.0))):
        add_trial(store, number, score, measured={"ms_per_item": ms})
    views = draw(store)["cost"]["views"]
    assert [view["label"] for view in views] == [figures.COSTS["ms_per_item"]], "others are equal"
    front = views[0]["data"][1]
    assert (front["x"], front["y"]) == ([2.0, 5.0], [0.7, 0.9])


def test_the_best_so_far_never_falls_and_pauses_do_not_count(store: Store) -> None:
    example_study.begin(store)
    for number, score in enumerate((0.7, 0.6, 0.9)):
        pause = 3600 if number == 2 else 0  # the search was continued an hour later
        started = example_study.NOW + example_study.timedelta(seconds=10 * number + pause)
        add_trial(store, number, score, seconds=10.0, started=started)
    trials, line = draw(store)["progress"]["views"][0]["data"][:2]
    assert trials["x"] == [10.0, 20.0, 30.0]
    assert line["y"] == [0.7, 0.7, 0.9, 0.9]
    rows = store.trials("birds")
    minimized = figures.best_so_far(rows, "log_loss", "minimize", None)
    assert minimized is not None
    assert minimized["views"][0]["data"][1]["y"] == [0.7, 0.6, 0.6, 0.6]


def test_each_strategy_has_one_entry_in_the_legend(complete_store: Store) -> None:
    traces = draw(complete_store)["curves"]["views"][0]["data"]
    named = [trace["name"] for trace in traces if "name" in trace]
    assert named == sorted(example_study.FREEZES)
    assert len({trace["line"]["color"] for trace in traces if "name" in trace}) == 4
    assert sum(trace["line"]["width"] > 3 for trace in traces) == 1, "the winner"
    assert traces[-1]["line"]["width"] > 3, "on top"


def test_the_worst_scores_do_not_compress_the_others() -> None:
    low, high = figures.score_range([0.1] + [0.8 + 0.01 * i for i in range(15)], "maximize")
    assert 0.7 < low < 0.81
    assert 0.94 < high < 1.0
    low, high = figures.score_range([9.0] + [0.2 + 0.01 * i for i in range(15)], "minimize")
    assert (0.1 < low < 0.2, 0.34 < high < 0.5) == (True, True)


def test_a_confusion_matrix_of_very_many_classes_is_not_drawn() -> None:
    size = figures.MAX_HEATMAP_CLASSES + 1
    assert figures.confusion_heatmap([[1] * size] * size, ["class"] * size) is None
