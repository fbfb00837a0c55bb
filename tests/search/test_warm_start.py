"""What a new study learns from earlier ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest

from autotl import Range, backbone, freeze
from autotl.errors import StoreError
from autotl.search.warm_start import MOST_STUDIES, Profile, learn, profile, recall
from autotl.space.space import Space
from autotl.store import DataFacts, Store
from autotl.study import StudyConfig, configure


@backbone
def small() -> Any: ...


@backbone
def large() -> Any: ...


@freeze
def full(model: Any, *, lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-4) -> Any: ...


SPACE = Space({"backbone": (large, small), "freeze": (full,)})


def add_study(
    store: Store,
    name: str,
    *,
    classes: int = 10,
    train: int = 1000,
    imbalance: float = 1.0,
    lr: float = 3e-4,
    probe: float = 0.5,
    backbone: str = "small",
    fingerprint: str = "",
    **facts: Any,
) -> None:
    """Write a study of two trials; its best has the learning rate ``lr``."""
    data = DataFacts(
        classes=[str(i) for i in range(classes)],
        train=train,
        imbalance=imbalance,
        fingerprint=fingerprint,
    )
    store.begin_study(name, data=data, **{"metric": "accuracy", **facts})
    for number, (score, rate) in enumerate([(probe, 1e-3), (0.99, lr)]):
        config = {"backbone": {backbone: {}}, "freeze": {"full": {"lr": rate}}}
        store.begin_trial(name, number, config, 3)
        is_probe = number == 0
        store.finish_trial(name, number, "complete", score=score, is_probe=is_probe)


@pytest.fixture
def store() -> Store:
    return Store("sqlite://")


HERE = Profile(10, 1000, 1.0, {"small": 0.5})
BEST = {"backbone": "small", "freeze": "full", "freeze.full.lr": 3e-4}


def learned(store: Store, of: Profile = HERE, metric: str = "accuracy") -> dict[str, Any]:
    return learn(store, of, metric, SPACE, "new")


def test_the_best_configuration_of_similar_studies_is_learned(store: Store) -> None:
    add_study(store, "alike")
    add_study(store, "new", lr=9e-3)
    assert learned(store) == {"alike": BEST}


def test_the_most_similar_studies_come_first_and_only_a_few(store: Store) -> None:
    for i in range(MOST_STUDIES + 2):
        add_study(store, f"s{i}", train=1000 - 100 * i, lr=1e-4 * (i + 1))
    assert list(learned(store)) == [f"s{i}" for i in range(MOST_STUDIES)]


def test_the_same_configuration_is_learned_once(store: Store) -> None:
    add_study(store, "near")
    add_study(store, "far", train=800)
    add_study(store, "other", train=700, lr=1e-4)
    assert list(learned(store)) == ["near", "other"]


def test_nothing_is_learned_from_data_that_differ_too_much(store: Store) -> None:
    add_study(store, "huge", classes=1000, train=10**6)
    assert learned(store) == {}


def test_nothing_is_learned_from_studies_of_another_metric(store: Store) -> None:
    add_study(store, "other", metric="macro_f1")
    assert learned(store) == {}
    assert list(learned(store, metric="macro_f1")) == ["other"]


def test_nothing_is_learned_from_another_kind_of_input(store: Store) -> None:
    add_study(store, "texts")
    assert list(learned(store)) == ["texts"]
    data = store.study("texts").data
    store.update_study("texts", data=data.model_copy(update={"kind": "text"}))
    assert learned(store) == {}


def test_the_best_trial_of_a_loss_is_the_smallest(store: Store) -> None:
    add_study(store, "loss", metric="log_loss", direction="minimize")  # of its probe, 0.5
    assert learned(store, metric="log_loss")["loss"]["freeze.full.lr"] == 1e-3


def test_what_the_space_cannot_draw_is_not_learned(store: Store) -> None:
    add_study(store, "elsewhere", backbone="unknown")
    add_study(store, "outside", lr=1.0)
    assert learned(store) == {}


def test_nothing_is_learned_from_a_study_without_a_complete_trial(store: Store) -> None:
    store.begin_study("empty", metric="accuracy")
    assert learned(store) == {}


def test_studies_whose_probes_scored_alike_are_nearer(store: Store) -> None:
    add_study(store, "harder", probe=0.4, lr=1e-4)
    add_study(store, "alike", probe=0.5)
    add_study(store, "easier", probe=0.65, lr=2e-4)
    assert list(learned(store)) == ["alike", "harder", "easier"]


def test_the_profile_of_a_study(store: Store) -> None:
    add_study(store, "a", imbalance=2.5, probe=0.7)
    assert profile(store, "a") == Profile(10, 1000, 2.5, {"small": 0.7}, split=(None,) * 4)


def test_the_distance_of_profiles() -> None:
    other = Profile(20, 500, 4.0, {"small": 0.9, "large": 0.2})
    assert HERE.distance(HERE) == 0
    assert HERE.distance(other) == other.distance(HERE) > 0
    assert HERE.distance(Profile(10, 1000, 1.0, {"small": 0.4})) == pytest.approx(1.0)
    # A backbone that only one of them has probed does not count.
    assert HERE.distance(Profile(10, 1000, 1.0, {"large": 0.1})) == 0
    assert Profile(0, 0, 0.0).distance(Profile(1, 0, 1.0)) == 0


def test_nothing_is_learned_from_the_same_images_with_another_split(store: Store) -> None:
    """That study has trained on images of this one's test split."""
    split = {"validation": None, "test": 0.2}
    add_study(store, "same", fingerprint="f", identity={"seed": 0, **split})
    add_study(store, "other", fingerprint="f", identity={"seed": 1, **split})
    here = Profile(10, 1000, 1.0, {"small": 0.5}, "f", (0, None, None, 0.2))
    assert set(learned(store, here)) == {"same"}


def settings(**options: Any) -> StudyConfig:
    return configure("photos", {"study": "new", "history": True, **options})


def test_what_was_learned_first_is_recalled_later(store: Store) -> None:
    add_study(store, "alike")
    add_study(store, "new")
    assert recall(store, settings(), SPACE) == {"alike": BEST}
    add_study(store, "nearer", probe=0.51)
    assert recall(store, settings(), SPACE) == {"alike": BEST}
    assert store.study("new").warm_start == {"alike": BEST}
    # A space that was narrowed since cannot draw it.
    assert recall(store, settings(), Space({"backbone": (large,), "freeze": (full,)})) == {}
    assert recall(store, settings(history=False), SPACE) == {}


def test_studies_of_another_database_are_used(store: Store, tmp_path: Path) -> None:
    other = Store(f"sqlite:///{tmp_path}/other.db")
    add_study(other, "elsewhere")
    other.close()
    add_study(store, "new")
    add_study(store, "here")
    chosen = settings(learn_from=f"{tmp_path}/other.db")
    assert recall(store, chosen, SPACE) == {"elsewhere": BEST}
    missing = settings(learn_from=f"{tmp_path}/othr.db")
    assert recall(store, missing, SPACE) == {"elsewhere": BEST}  # as it was stored
    store.update_study("new", warm_start=None)
    with pytest.raises(StoreError, match=r"no database .*othr\.db; did you mean 'other\.db'"):
        recall(store, missing, SPACE)
