"""Equal architectures have equal costs."""

from __future__ import annotations

import pytest
from example_study import add_trial, begin, config, latency

from autotl.report.costs import prediction_costs, prediction_ms
from autotl.store import Store, single


def test_a_backbone_has_one_cost_whatever_its_trials_measured(store: Store) -> None:
    begin(store)
    for number, ms in enumerate((15.7, 39.9, 20.0)):
        add_trial(store, number, 0.5, chosen=config(lr=number), measured={"ms_per_item": ms})
    add_trial(store, 3, 0.5, chosen=config(backbone="other"), measured={"ms_per_item": 40.0})
    add_trial(store, 4, 0.5, chosen=config(backbone="unknown"))
    rows = store.trials("birds")
    assert prediction_ms(rows, []) == {0: 20.0, 1: 20.0, 2: 20.0, 3: 40.0}
    # At the end it took half of that, and so would the other backbone.
    measured = prediction_ms(rows, [single(1, latency=latency(10.0))])
    assert measured == pytest.approx({0: 10.0, 1: 10.0, 2: 10.0, 3: 20.0})


def test_another_input_size_is_another_architecture(store: Store) -> None:
    begin(store)
    for number, size in enumerate((64, 224)):
        chosen = config() | {"backbone": {"resnet18": {"image_size": size}}}
        add_trial(store, number, 0.5, chosen=chosen, measured={"ms_per_item": float(size)})
    assert prediction_ms(store.trials("birds"), []) == {0: 64.0, 1: 224.0}


def test_contenders_with_equal_costs_are_one_row() -> None:
    slow, fast = (latency(ms).model_dump() for ms in (9.0, 3.0))
    contenders = [
        {"name": name, "parameters": 5, "latency": each}
        for name, each in (("a", slow), ("b", fast), ("c", slow), ("d", None))
    ]
    rows = prediction_costs(contenders)
    assert [row["names"] for row in rows] == [["b"], ["a", "c"]]
