"""Splits: stratified, reproducible, sampling units undivided, and given splits kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from noise_images import noise, noise_examples

from autotl.data import check
from autotl.data.split import draw_folds, draw_split, join_units, split, validation_fraction
from autotl.errors import DataError
from autotl.space.plugin import Example


def draw(labels: Sequence[int], groups: Sequence[str] = (), seed: int = 0) -> np.ndarray:
    """The drawn split of each of some examples without a given one, ``[N]``."""
    groups = groups or [""] * len(labels)
    examples = [
        Example(str(i), None, str(c), "", g)
        for i, (c, g) in enumerate(zip(labels, groups, strict=True))
    ]
    units = join_units(examples, [e.name for e in examples])
    return split(examples, units, np.array(labels), seed=seed, validation=0.25, test=0.2)


def test_a_drawn_split_is_stratified() -> None:
    labels = [0] * 100 + [1] * 20
    splits = draw(labels)
    assert Counter(zip(labels, splits.tolist(), strict=True)) == {
        (0, "train"): 60, (0, "validation"): 20, (0, "test"): 20,
        (1, "train"): 12, (1, "validation"): 4, (1, "test"): 4,
    }  # fmt: skip


def test_a_drawn_split_is_determined_by_the_seed() -> None:
    labels = [0, 1] * 50
    assert (draw(labels, seed=1) == draw(labels, seed=1)).all()
    assert (draw(labels, seed=1) != draw(labels, seed=2)).any()


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_never_divided(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 300).tolist()
    groups = [f"g{g}" if g % 4 else "" for g in rng.integers(0, 60, 300)]
    splits = draw(labels, groups, seed)
    for group in set(groups) - {""}:
        assert len({s for s, g in zip(splits, groups, strict=True) if g == group}) == 1
    sizes = Counter(splits.tolist())
    assert 45 <= sizes["test"] <= 75
    assert 45 <= sizes["validation"] <= 75


def test_groups_and_duplicates_are_joined_transitively() -> None:
    """a/0 and b/0 are one group; b/0 and b/1 are one image; b/1 and b/2 are one group."""
    changes: dict[str, dict[str, Any]] = {
        "a/0": {"group": "p"},
        "b/0": {"group": "p", "item": noise(777)},
        "b/1": {"group": "q", "item": noise(777)},
        "b/2": {"group": "q"},
    }
    examples = [replace(e, **changes.get(e.name, {})) for e in noise_examples(8)]
    for seed in range(20):
        dataset = check(examples, "here", seed=seed)
        split_of = {e.name: s for e, s in zip(dataset.examples, dataset.splits, strict=True)}
        assert len({split_of[name] for name in changes}) == 1


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_small_classes_keep_a_training_image(count: int) -> None:
    labels = np.repeat(np.arange(6), count)
    for seed in range(10):
        splits = draw(labels.tolist(), seed=seed)
        assert set(labels[splits == "train"]) == set(range(6))
        covered = [set(labels[splits == s]) for s in ("validation", "test")]
        assert all(len(c) == (3 if count == 2 else 6) for c in covered)


def test_a_class_in_a_single_group_stays_in_train() -> None:
    labels = [0] * 20 + [1] * 10
    splits = draw(labels, [""] * 20 + ["only"] * 10)
    assert set(splits[20:]) == {"train"}


def test_given_splits_are_kept() -> None:
    examples = noise_examples(10, split="train") + noise_examples(10, split="test")
    dataset = check(examples, "here", validation=0.2)
    for e, name in zip(dataset.examples, dataset.splits, strict=True):
        assert name == "test" if e.split == "test" else name in ("train", "validation")
    assert Counter(dataset.splits) == {"train": 16, "validation": 4, "test": 20}
    assert [dataset.splits[i] for i in dataset.indices("validation", "test")] == [
        s for s in dataset.splits if s != "train"
    ]
    assert dataset.indices("train").dtype == np.int64


def test_an_example_follows_the_given_split_of_its_group() -> None:
    examples = noise_examples(10)
    examples[0] = replace(examples[0], split="test", group="g")
    examples[1] = replace(examples[1], group="g")
    assert check(examples, "here").splits[:2] == ("test", "test")


@pytest.mark.parametrize(("images", "fraction"), [(60, 1 / 3), (1000, 0.3), (3000, 0.2)])
def test_small_data_sets_validate_on_a_larger_fraction(images: int, fraction: float) -> None:
    dataset = check(noise_examples(images // 2), "here", test=0)
    assert len(dataset.examples) == images
    assert len(dataset.indices("validation")) == pytest.approx(fraction * images, abs=2)


def draw_unit_by_unit(
    wanted: Any, splits: Any, labels: Any, units: Sequence[int], rng: np.random.Generator
) -> None:
    """What ``draw_split`` computes, in one pass over all units."""
    train = np.flatnonzero(splits == "train")
    remaining, needed = Counter(labels[train].tolist()), dict(enumerate(wanted.tolist()))
    uncovered = {c for c in remaining if needed[c] > 0}
    members: dict[int, list[int]] = {}
    for i in rng.permutation(train).tolist():
        members.setdefault(units[i], []).append(i)
    counts = {unit: Counter(labels[of].tolist()) for unit, of in members.items()}
    by_size = sorted(counts, key=lambda unit: len(members[unit]))
    for second, unit in [*((False, u) for u in counts), *((True, u) for u in by_size)]:
        count = counts[unit]
        gain = sum(abs(needed[c]) - abs(needed[c] - k) for c, k in count.items())
        wants = not uncovered.isdisjoint(count) if second else gain > 0
        if wants and all(remaining[c] > k for c, k in count.items()):
            splits[members[unit]] = "test"
            for c, k in count.items():
                remaining[c], needed[c] = remaining[c] - k, needed[c] - k
                uncovered.discard(c)


@pytest.mark.parametrize("seed", range(40))
def test_a_split_is_drawn_as_in_one_pass_over_all_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, classes = int(rng.integers(5, 200)), int(rng.integers(1, 8))
    labels = np.sort(rng.integers(0, classes, count))
    alone = rng.random() < 0.5
    units = np.arange(count) if alone else rng.integers(0, count, count)
    units = np.where(labels < classes // 2, np.arange(count) + count, units)  # some classes alone
    splits = np.where(rng.random(count) < 0.2, "validation", "train").astype("<U10")
    expected = splits.copy()
    wanted = rng.choice([0.0, 0.05, 0.2, 1 / 3]) * np.bincount(labels, minlength=classes)
    draw_unit_by_unit(wanted, expected, labels, units.tolist(), np.random.default_rng(seed))
    if "test" in expected:
        draw_split("test", wanted, splits, labels, units.tolist(), np.random.default_rng(seed))
        assert (splits == expected).all()
    else:
        with pytest.raises(DataError, match="too few examples"):
            draw_split("test", wanted, splits, labels, units.tolist(), np.random.default_rng(seed))


# ---------------------------------------------------------------- folds


def folds_of(labels: Sequence[int], folds: int, units: Sequence[int] = (), seed: int = 0) -> Any:
    units = units or range(len(labels))
    return draw_folds(np.array(labels), units, folds, np.random.default_rng(seed))


@pytest.mark.parametrize("folds", [2, 5, 20])
def test_folds_are_stratified_and_as_large_as_each_other(folds: int) -> None:
    labels = [0] * 61 + [1] * 23 + [2] * 4 + [3] * 2 + [5] * 10
    drawn = folds_of(labels, folds)
    for label in set(labels):
        counts = np.bincount(drawn[np.array(labels) == label], minlength=folds)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(drawn, minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_many_small_classes_fill_all_folds() -> None:
    labels = [c for c in range(100) for _ in range(3)]
    drawn = folds_of(labels, 5)
    assert np.bincount(drawn).tolist() == [60] * 5
    assert all(len(set(drawn[3 * c : 3 * c + 3])) == 3 for c in range(100))


def test_the_seed_determines_the_folds() -> None:
    labels = [0, 1] * 30
    assert (folds_of(labels, 5, seed=1) == folds_of(labels, 5, seed=1)).all()
    assert (folds_of(labels, 5, seed=1) != folds_of(labels, 5, seed=2)).any()


@pytest.mark.parametrize("seed", range(5))
def test_folds_do_not_divide_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = rng.integers(0, 60, 300).tolist()
    labels = [unit % 3 for unit in units]
    drawn = folds_of(labels, 4, units, seed)
    assert all(len(set(drawn[np.array(units) == unit])) == 1 for unit in set(units))
    for label in range(3):
        counts = np.bincount(drawn[np.array(labels) == label], minlength=4)
        assert counts.max() - counts.min() <= 8  # a unit has five images, or a few more


def test_a_group_with_several_classes_leaves_none_of_them_to_one_fold() -> None:
    units = [0, 1, 2, 2]  # of the classes a, b and both
    assert folds_of([0, 1, 0, 1], 2, units).tolist() in ([0, 0, 1, 1], [1, 1, 0, 0])


def test_there_are_at_most_as_many_folds_as_units() -> None:
    assert sorted(folds_of([0, 1, 0, 1], 4)) == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"5 folds need as many examples, .* there are 4"):
        folds_of([0, 1, 0, 1], 5)


def test_with_folds_nothing_else_validates_and_small_classes_are_not_tested() -> None:
    examples = [*noise_examples(20, "ab"), *noise_examples(2, "c")]
    dataset = check(examples, "noise", folds=5)
    assert dataset.folds is not None
    assert not len(dataset.indices("validation"))
    tested = dataset.indices("test")
    assert Counter(dataset.targets[tested].tolist()) == {0: 4, 1: 4}
    assert (dataset.folds[tested] == -1).all()
    assert (dataset.folds[dataset.indices("train")] >= 0).all()
    assert len(set(dataset.folds[dataset.targets == 2])) == 2
    assert dataset.scored_split == "train"
    assert check(examples, "noise").scored_split == "validation"


def test_copies_and_groups_are_in_one_fold() -> None:
    examples = noise_examples(20, "ab")
    copies = [replace(e, name=f"copy of {e.name}") for e in examples[:10]]
    grouped = [replace(e, group=f"g{i % 4}") if i < 12 else e for i, e in enumerate(examples)]
    dataset = check([*grouped, *copies], "noise", folds=3, test=0.0)
    assert dataset.folds is not None
    folds_of_unit = set(zip(dataset.units, dataset.folds.tolist(), strict=True))
    assert len(folds_of_unit) == len(set(dataset.units)) < len(examples)


def test_folds_and_a_given_validation_split_exclude_each_other() -> None:
    given = [*noise_examples(9, split="train"), *noise_examples(3, split="validation")]
    with pytest.raises(DataError, match="noise: the data give a validation split, so folds cannot"):
        check(given, "noise", folds=3)
    tested = [*noise_examples(9, split="train"), *noise_examples(3, split="test")]
    assert len(check(tested, "noise", folds=3).indices("test")) == 6


def test_a_class_in_a_single_group_cannot_be_cross_validated() -> None:
    examples = [*noise_examples(9, "a"), *(replace(e, group="b") for e in noise_examples(9, "b"))]
    with pytest.raises(DataError, match="all images of b are in one group"):
        check(examples, "noise", folds=3)


# Examples of several classes


def several_classes(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Strata of five classes, the rarest of 5 %, and units of one to three examples."""
    random = np.random.default_rng(seed)
    strata = random.random((count, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]
    return np.column_stack([strata, ~strata.any(1)]), np.sort(
        random.integers(count // 2, size=count)
    )


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_every_class_of_several_is_divided_in_proportion(fraction: float) -> None:
    for seed in range(5):
        strata, units = several_classes(seed=seed)
        splits = np.full(len(strata), "train", dtype="<U10")
        wanted = fraction * strata.sum(0)
        draw_split("test", wanted, splits, strata, units, np.random.default_rng(seed))
        moved = strata[splits == "test"].sum(0)
        assert np.abs(moved - wanted).max() <= 4  # a unit has a few examples
        for unit in np.unique(units):
            assert len(set(splits[units == unit])) == 1


def test_folds_of_several_classes_are_stratified_and_keep_units() -> None:
    strata, units = several_classes()
    folds = draw_folds(strata, units.tolist(), 4, np.random.default_rng(0))
    counts = np.array([strata[folds == fold].sum(0) for fold in range(4)])
    assert (counts.max(0) - counts.min(0)).max() <= 4
    assert all(len(set(folds[units == unit])) == 1 for unit in np.unique(units))


def test_another_seed_divides_several_classes_differently() -> None:
    strata, _ = several_classes()
    own = np.arange(len(strata))
    drawn = []
    for seed in (0, 1, 0):
        splits = np.full(len(strata), "train", dtype="<U10")
        draw_split("test", 0.2 * strata.sum(0), splits, strata, own, np.random.default_rng(seed))
        drawn.append(splits == "test")
    assert (drawn[0] == drawn[2]).all()
    common = (drawn[0] & drawn[1]).sum() / drawn[0].sum()
    assert common == pytest.approx(0.2, abs=0.12)


def test_a_class_of_few_units_stays_in_train() -> None:
    strata = np.zeros((40, 2), dtype=bool)
    strata[:, 0], strata[:2, 1] = True, True
    for seed in range(10):
        splits = np.full(40, "train", dtype="<U10")
        random = np.random.default_rng(seed)
        draw_split("test", 0.5 * strata.sum(0), splits, strata, np.arange(40), random, keep=2)
        assert set(splits[:2]) == {"train"}
        assert (splits == "test").sum() == 20


@pytest.mark.parametrize(
    ("images", "classes", "expected"),
    [(300, 2, 100), (10_000, 5, 2000), (1_000_000, 1000, 200_000), (1_000_000, 20_000, 13_421)],
)
def test_the_validation_split_of_very_many_images_and_classes_is_limited(
    images: int, classes: int, expected: int
) -> None:
    fraction = validation_fraction(images, classes)
    assert round(fraction * images) == expected
    assert expected * classes <= 1 << 28


def test_the_limit_counts_the_classes_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [Example(str(i), None, str(i % 4)) for i in range(4000)]
    monkeypatch.setattr("autotl.data.split.MAX_PREDICTED", 4 * 400)
    strata = np.arange(4000) % 4
    splits = split(examples, range(4000), strata, 0, None, 0.2)
    assert (splits == "validation").sum() == 400
    assert (splits == "test").sum() == 400
