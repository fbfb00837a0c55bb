"""Resamples of train and validation: stratified folds that never contain a test image."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from noise_images import noise_examples

from autotl.data import Dataset, check, fold, resample
from autotl.errors import DataError
from autotl.scoring.comparison import Results, compare
from autotl.space.plugin import Example


def interleaved_examples(each: int) -> list[Example]:
    """``each`` examples of three classes, the classes in turn."""
    return sorted(noise_examples(each, "abc"), key=lambda e: int(e.name.split("/")[1]))


@pytest.fixture(scope="module")
def ungrouped() -> Dataset:
    return check(interleaved_examples(50), "noise", validation=0.25, test=0.2)


def test_a_resample_contains_exactly_train_and_validation(ungrouped: Dataset) -> None:
    pool = set(ungrouped.indices("train", "validation"))
    for number in range(9):
        drawn = resample(ungrouped, number, seed=0)
        assert set(drawn.train) | set(drawn.validation) == pool
        assert not set(drawn.train) & set(drawn.validation)
        assert drawn.number == number
        assert len(drawn.validation) == pytest.approx(len(ungrouped.indices("validation")), abs=4)
        assert len(drawn.validation) / len(drawn.train) == pytest.approx(1 / 3, rel=0.15)
        counts = Counter(ungrouped.targets[drawn.validation].tolist())
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_image_validates_twice_before_the_next_shuffle(ungrouped: Dataset) -> None:
    folds = [resample(ungrouped, number, seed=0).validation for number in range(5)]
    counts = Counter(i for fold in folds[:4] for i in fold)
    assert max(counts.values()) == 1
    assert len(counts) >= 0.95 * len(ungrouped.indices("train", "validation"))
    assert not any(set(folds[4]) == set(fold) for fold in folds[:4])


def test_seed_and_number_determine_the_resample(ungrouped: Dataset) -> None:
    one, same, other = (resample(ungrouped, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.validation, same.validation)
    assert not np.array_equal(one.validation, other.validation)


def test_groups_are_never_divided() -> None:
    grouped = [
        replace(e, group=f"patient {i // 6}") for i, e in enumerate(interleaved_examples(60))
    ]
    dataset = check(grouped, "noise")
    for number in range(6):
        drawn = resample(dataset, number, seed=0)
        train, validation = (
            {dataset.examples[i].group for i in indices}
            for indices in (drawn.train, drawn.validation)
        )
        assert not train & validation


def test_duplicates_are_never_divided() -> None:
    examples = interleaved_examples(20)
    copies = [replace(e, name=f"copy of {e.name}") for e in examples[:30]]
    dataset = check(examples + copies, "noise")
    for number in range(4):
        drawn = resample(dataset, number, seed=0)
        names = {dataset.examples[i].name for i in drawn.validation}
        for name in [e.name for e in examples[:30]]:
            assert (name in names) == (f"copy of {name}" in names) or name not in names


def test_only_a_given_validation_split_validates() -> None:
    given = [
        replace(e, split="validation" if i % 4 == 0 else "train")
        for i, e in enumerate(interleaved_examples(60))
    ]
    dataset = check(given, "noise")
    train, validation = dataset.indices("train"), set(dataset.indices("validation"))
    validating: list[int] = []
    for number in range(3):
        drawn = resample(dataset, number, seed=0)
        assert np.array_equal(drawn.train, train)
        validating += drawn.validation.tolist()
    assert len(validating) == len(set(validating))
    assert set(validating) <= validation
    assert len(validating) > 0.9 * len(validation)


def test_small_data_sets_have_fewer_folds() -> None:
    small = check(interleaved_examples(3), "noise", test=0.0)
    for number in range(4):
        drawn = resample(small, number, seed=0)
        assert len(drawn.validation) >= 1
        assert set(small.targets[drawn.train]) == {0, 1, 2}


def test_a_single_sampling_unit_is_too_few() -> None:
    small = check(interleaved_examples(3), "noise", test=0.0)
    single = replace(small, units=np.zeros_like(small.units))
    with pytest.raises(DataError, match="too few examples, or groups"):
        resample(single, 0, seed=0)


def test_equal_candidates_on_a_given_validation_split_are_tied_however_many_resamples() -> None:
    """The folds score the same images repeatedly: more resamples are not more evidence."""
    given = [
        replace(e, split="validation" if i < 90 else "train")
        for i, e in enumerate(interleaved_examples(300))
    ]
    dataset, count, k = check(given, "noise"), 10, 3
    folds = [resample(dataset, number, seed=0).validation for number in range(count)]
    random = np.random.default_rng(0)
    all_tied = []
    for _ in range(400):
        logits = random.normal(size=(k, len(given)))  # a candidate's own, the same in all resamples
        correct = [logits[:, rows] + random.normal(0, 0.5, (k, len(rows))) < 1 for rows in folds]
        results = Results(
            np.transpose([each.mean(1) for each in correct]),
            np.concatenate(correct, axis=1).astype(float),
            np.repeat(np.arange(count), [len(rows) for rows in folds]),
            np.concatenate(folds),
        )
        all_tied.append(all(standing.tied for standing in compare(results).standings))
    assert np.mean(all_tied) > 0.92


def test_each_fold_validates_once_and_trains_in_all_others() -> None:
    dataset = check(interleaved_examples(20), "noise", folds=4)
    pool = set(dataset.indices("train"))
    validated: list[int] = []
    for number in range(4):
        drawn = fold(dataset, number)
        assert drawn.number == number
        assert set(drawn.train) == pool - set(drawn.validation)
        validated += drawn.validation.tolist()
    assert sorted(validated) == sorted(pool)
