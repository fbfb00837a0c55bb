"""What mattered: kinds first, with enough trials, and never what had no effect."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from example_study import add_trial, begin, config

from autotl.report.effects import hyperparameter_effects, kind_effects
from autotl.store import Store, TrialRow


def add_trials(store: Store, count: int, **measured: Any) -> list[TrialRow]:
    """Trials whose score depends on the freeze strategy, a little on its rate, not on the head."""
    random = np.random.default_rng(0)
    begin(store)
    for number in range(count):
        freeze, head = ("full", "norms")[number % 2], ("linear", "mlp")[number // 2 % 2]
        rate = float(random.uniform(1e-4, 1e-2))
        score = 0.5 + 0.3 * (freeze == "full") + 10 * rate + random.normal(0, 0.02)
        add_trial(store, number, score, chosen=config(freeze, rate, head=head), measured=measured)
    return store.trials("birds")


def test_the_kind_that_decides_is_first(store: Store) -> None:
    effects = kind_effects(add_trials(store, 24), "maximize")
    assert [(e.name, e.trials) for e in effects] == [("freeze", 24), ("head", 24)]
    assert effects[0].fraction > 0.6
    assert effects[1].fraction < 0.2


def test_hyperparameters_are_judged_among_the_trials_that_had_them(store: Store) -> None:
    effects = hyperparameter_effects(add_trials(store, 24), "maximize")
    assert {e.name for e in effects} == {"freeze full: lr", "freeze norms: lr"}
    assert all(e.trials == 12 and 0.3 < e.fraction <= 1 for e in effects)


def test_too_few_trials_say_nothing(store: Store) -> None:
    rows = add_trials(store, 8)
    assert (kind_effects(rows, "maximize"), hyperparameter_effects(rows, "maximize")) == ([], [])


def test_a_single_trial_of_a_plugin_does_not_count(store: Store) -> None:
    begin(store)
    for number in range(12):
        chosen = config("norms" if number == 3 else "full")
        add_trial(store, number, 0.1 if number == 3 else 0.5 + number / 100, chosen=chosen)
    assert kind_effects(store.trials("birds"), "maximize") == []


def test_what_had_no_effect_does_not_count(store: Store) -> None:
    """A head in closed form on a frozen backbone: the strategy and its rate change nothing."""
    plain = config()
    effective = json.dumps({**{k: plain[k] for k in ("backbone", "head")}, "freeze": {"full": {}}})
    rows = add_trials(store, 24, effective_config=effective)
    assert (kind_effects(rows, "maximize"), hyperparameter_effects(rows, "maximize")) == ([], [])
