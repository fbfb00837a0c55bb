"""Facts are typed records: what does not fit is refused, and each field is stored on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from autotl.store import (
    Calibration,
    DataFacts,
    ExcludedPlugin,
    Interval,
    PretrainedWeights,
    SavedModel,
    Selection,
    Standing,
    Store,
    StudyFacts,
    TrialFacts,
    single,
)
from autotl.store.migrations.tables import STUDY_FACT

Query = Callable[[str, str], list[tuple[object, ...]]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "three"),
        ("seed", None),
        ("direction", "sideways"),
        ("state", "finished"),
        ("prefer", "fast"),
        ("data", {"classes": "cat"}),
        ("stages", {"search": "long"}),
        ("excluded", [{"kind": "head"}]),
        ("model", {"refitted": True}),
        ("selection", {"repeats": 3}),
    ],
)
def test_a_fact_of_a_study_of_the_wrong_type_is_refused(
    name: str, value: Any, store: Store
) -> None:
    store.begin_study("s", seed=3)
    before = store.study("s")
    with pytest.raises(ValidationError, match=name):
        store.update_study("s", **{name: value})
    assert store.study("s") == before


def test_an_unknown_fact_of_a_study_is_refused(store: Store) -> None:
    store.begin_study("s", seed=3)
    with pytest.raises(TypeError, match="StudyFacts has no field 'sede'; did you mean 'seed'"):
        store.update_study("s", sede=4)
    with pytest.raises(TypeError, match="StudyFacts has no field 'sede'"):
        store.begin_study("s", sede=4)
    assert store.study("s") == StudyFacts(seed=3)


def test_an_unknown_or_wrong_fact_of_a_trial_is_refused(store: Store) -> None:
    store.begin_trial("s", 0, {}, 1)
    unknown = "TrialFacts has no field 'log_me'; did you mean 'logme'"
    with pytest.raises(TypeError, match=unknown):
        store.update_trial("s", 0, log_me=0.5)
    with pytest.raises(TypeError, match=unknown):
        store.finish_trial("s", 0, "complete", log_me=0.5)
    wrong: dict[str, Any]
    for wrong in ({"logme": "good"}, {"recipe": "tiny · linear_probe"}, {"costs": {"a": "b"}}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            store.update_trial("s", 0, **wrong)
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            store.finish_trial("s", 0, "complete", **wrong)
    [row] = store.trials("s")
    assert (row.status, row.facts) == ("running", TrialFacts())


def test_each_fact_of_a_study_is_a_row_of_its_own(store: Store, url: str, query: Query) -> None:
    store.begin_study("s", seed=3, command="autotl search", stages={"search": 1.0})
    names = query(url, "SELECT name FROM autotl_study_fact ORDER BY name")
    assert names == [("command",), ("seed",), ("stages",)]
    # A value that no method wrote shows which rows are written.
    query(url, "UPDATE autotl_study_fact SET value = '\"untouched\"' WHERE name = 'command'")
    store.update_study("s", seed=4)
    facts = store.study("s")
    assert (facts.seed, facts.command, facts.stages) == (4, "untouched", {"search": 1.0})


def test_only_what_changes_is_written(store: Store) -> None:
    store.begin_study("s", seed=3, space={"head": ["linear"] * 1000})
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(f"{arguments[2]} {arguments[3]}")

    engine = store.storage.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    store.update_study("s", state="running")
    sa.event.remove(engine, "before_cursor_execute", note)
    written = [s for s in statements if STUDY_FACT.name in s]
    assert len(written) == 2  # one row is deleted, one is inserted
    assert not [s for s in statements if "linear" in s]


def test_records_within_facts_are_restored(store: Store) -> None:
    better, worse = single(4, config={"head": {"linear": {}}}, scores=(0.9, 1.0)), single(2)
    standing = Standing(
        score=Interval(mean=0.95, low=0.9, high=1.0),
        difference=Interval(mean=0.0, low=-0.1, high=0.1),
        tied=True,
    )
    better = better.model_copy(update={"standing": standing})
    facts: dict[str, Any] = {
        "data": DataFacts(source="photos", classes=["a", "b"], imbalance=2.5),
        "excluded": [ExcludedPlugin(kind="head", name="mlp", reason="too large")],
        "calibration": Calibration(temperature=1.5, ece_before=0.1, ece_after=0.05, n=60),
        "weights": PretrainedWeights(backbone="resnet18"),
        "model": SavedModel(contender=better, refitted=True),
        "selection": Selection(
            repeats=2,
            contenders=[better, worse],
            winner=better,
            cheapest=worse,
            optimism=0.01,
            optimism_of=4,
        ),
        "warm_start": {"flowers": {"freeze.full.lr": 1e-3, "head": "linear"}},
    }
    store.begin_study("s", **facts)
    assert store.study("s") == StudyFacts(**facts)


def test_numbers_that_are_not_finite_do_not_make_a_study_unreadable(store: Store) -> None:
    store.begin_study(
        "s",
        calibration=Calibration(temperature=float("inf"), ece_before=0.1, ece_after=0.1, n=3),
        selection=Selection(
            repeats=1,
            contenders=[single(0, scores=(float("nan"), 0.5))],
            winner=single(0),
            cheapest=single(0),
            optimism=float("nan"),
            optimism_of=0,
        ),
        stages={"search": float("nan")},
    )
    facts = store.study("s")
    assert facts.selection
    assert facts.calibration
    [contender] = facts.selection.contenders
    assert str(contender.scores) == "(nan, 0.5)"
    assert str((facts.selection.optimism, facts.calibration.temperature)) == "(nan, None)"
    assert str(facts.stages) == "{'search': nan}"


def test_facts_of_a_later_version_are_ignored(store: Store, url: str, query: Query) -> None:
    """A study that another worker runs with the next version can still be reported on."""
    store.begin_study("s", seed=3)
    query(url, "INSERT INTO autotl_study_fact VALUES ('s', 'invented', '1')")
    assert store.study("s") == StudyFacts(seed=3)


def test_facts_are_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StudyFacts().seed = 4
