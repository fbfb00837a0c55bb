"""Rows of scores on one axis."""

from __future__ import annotations

import pytest
from report_examples import add_study, data_facts

from autotl import report
from autotl.report import axis
from autotl.report.axis import Axis
from autotl.store import SavedModel, Store, single


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0], [0.81, 0.83], [-3.0, 4.0], [1e-6, 3e-6]])
def test_an_axis_has_a_few_round_ticks_within_it(values: list[float]) -> None:
    scale = Axis.covering(values)
    assert 2 <= len(scale.ticks) <= 6
    assert len({label for _, label in scale.ticks}) == len(scale.ticks)
    assert all(0 <= position <= 100 for position, _ in scale.ticks)
    assert all(0 < scale.position(value) < 100 for value in values)


def test_the_winner_of_an_earlier_search_is_marked_among_the_finalists(store: Store) -> None:
    add_study(store, 0.9, 0.85, 0.5, data=data_facts(independent_validation=100))
    # A later search was interrupted: the model is still that of trial 2.
    store.update_study("birds", model=SavedModel(contender=single(2)))
    rows = axis.score_intervals(report.summarise(store, "birds"))["rows"]
    assert [row["label"] for row in rows if row["role"] == "best"] == ["trial 2, winner"]


def test_without_a_complete_trial_there_is_no_figure(store: Store) -> None:
    add_study(store, None)
    assert axis.score_intervals(report.summarise(store, "birds")) == {}


def test_plugins_are_compared_where_several_were_tried(complete_store: Store) -> None:
    effects = axis.plugin_effects(complete_store.trials("birds"), "maximize", 2)
    assert [effect["kind"] for effect in effects] == ["backbone", "freeze", "head"]
    for effect in effects:
        assert sum(row["role"] == "best" for row in effect["rows"]) == 1
        best = [float(row["value"].split()[1]) for row in effect["rows"]]
        assert best == sorted(best, reverse=True)
