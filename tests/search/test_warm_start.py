"""What a new study learns from past ones."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from autotl import Range, backbone, freeze
from autotl.search.warm_start import MOST, Profile, learn, profile
from autotl.space.space import Space
from autotl.store import Store


@backbone
def small() -> Any: ...


@backbone
def large() -> Any: ...


@freeze
def full(model: Any, *, lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-4) -> Any: ...


SPACE = Space({"backbone": (large, small), "freeze": (full,)})


def past(store: Store, name: str, *, classes: int = 10, train: int = 1000, **more: Any) -> None:
    """A study of two trials; its best has the learning rate 3e-4, or ``lr``."""
    facts: dict[str, Any] = {
        "data": {"classes": [str(i) for i in range(classes)], "train": train},
        "metric": "accuracy",
        "direction": "maximize",
        "imbalance": 1.0,
    }
    lr, probe, model = (
        more.pop(k, d) for k, d in (("lr", 3e-4), ("probe", 0.5), ("model", "small"))
    )
    store.begin(name, facts | more)
    for number, (score, rate) in enumerate([(probe, 1e-3), (0.99, lr)]):
        config = {"backbone": {model: {}}, "freeze": {"full": {"lr": rate}}}
        store.begin_trial(name, number, config, 3)
        store.note_trial(name, number, probe=number == 0)
        store.end_trial(name, number, "complete", score=score)


@pytest.fixture
def store() -> Store:
    return Store("sqlite://")


HERE = Profile(10, 1000, 1.0, {"small": 0.5})


def lessons(store: Store, of: Profile = HERE, metric: str = "accuracy") -> dict[str, Any]:
    return learn(store, of, metric, SPACE, "new")


def test_the_best_of_similar_studies_is_learned(store: Store) -> None:
    past(store, "alike")
    past(store, "new", lr=9e-3)
    assert lessons(store) == {
        "alike": {"backbone": "small", "freeze": "full", "freeze.full.lr": 3e-4}
    }


def test_the_most_similar_come_first_and_not_too_many(store: Store) -> None:
    for i in range(MOST + 2):
        past(store, f"s{i}", train=1000 - 100 * i)
    assert list(lessons(store)) == [f"s{i}" for i in range(MOST)]


def test_what_is_too_different_teaches_nothing(store: Store) -> None:
    past(store, "huge", classes=1000, train=10**6)
    assert lessons(store) == {}


def test_another_metric_teaches_nothing(store: Store) -> None:
    past(store, "other", metric="macro_f1")
    assert lessons(store) == {}
    assert list(lessons(store, metric="macro_f1")) == ["other"]


def test_what_the_space_cannot_draw_is_not_learned(store: Store) -> None:
    past(store, "elsewhere", model="unknown")
    past(store, "outside", lr=1.0)
    assert lessons(store) == {}


def test_a_study_without_a_complete_trial_teaches_nothing(store: Store) -> None:
    store.begin("empty", {"metric": "accuracy"})
    assert lessons(store) == {}


def test_probes_that_did_alike_are_nearer(store: Store) -> None:
    past(store, "harder", probe=0.4)
    past(store, "alike", probe=0.5)
    past(store, "easier", probe=0.65)
    assert list(lessons(store)) == ["alike", "harder", "easier"]


def test_the_profile_of_a_study(store: Store) -> None:
    past(store, "a", imbalance=2.5, probe=0.7)
    assert profile(store, "a") == Profile(10, 1000, 2.5, {"small": 0.7}, division=(None,) * 3)


def test_a_distance_is_one() -> None:
    other = Profile(20, 500, 4.0, {"small": 0.9, "large": 0.2})
    assert HERE.distance(HERE) == 0
    assert HERE.distance(other) == other.distance(HERE) > 0
    assert HERE.distance(Profile(10, 1000, 1.0, {"small": 0.4})) == pytest.approx(1.0)
    # a backbone that only one of them has probed tells nothing
    assert HERE.distance(Profile(10, 1000, 1.0, {"large": 0.1})) == 0
    assert Profile(0, 0, 0.0).distance(Profile(1, 0, 1.0)) == 0


def test_the_same_pictures_divided_otherwise_teach_nothing(store: Store) -> None:
    """What that study trained on is in this one's test part."""
    data = {"classes": [str(i) for i in range(10)], "train": 1000, "fingerprint": "f"}
    divided = {"validation": None, "test": 0.2}
    past(store, "same", data=data, identity={"seed": 0, **divided})
    past(store, "other", data=data, identity={"seed": 1, **divided})
    here = Profile(10, 1000, 1.0, {"small": 0.5}, "f", (0, None, 0.2))
    assert set(lessons(store, here)) == {"same"}
