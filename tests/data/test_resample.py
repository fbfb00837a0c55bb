"""New divisions of train and validation: stratified, paired, and never the test part."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from toy import squares

from autotl import data
from autotl.data import Dataset, resample
from autotl.errors import DataError
from autotl.scoring import comparison
from autotl.space.plugin import Example


def dataset(examples: list[Example], **more: float) -> Dataset:
    return data.check(examples, "squares", **more)


@pytest.fixture(scope="module")
def plain() -> Dataset:
    return dataset(squares(50), validation=0.25, test=0.2)


def test_a_division_is_of_train_and_validation_alone(plain: Dataset) -> None:
    pool = set(plain.indices("train", "validation"))
    for number in range(9):
        run = resample(plain, number, seed=0)
        assert set(run.train) | set(run.validation) == pool
        assert not set(run.train) & set(run.validation)
        assert run.number == number
        assert len(run.validation) == pytest.approx(len(plain.indices("validation")), abs=4)
        assert run.overlap == pytest.approx(1 / 3, rel=0.15)
        counts = Counter(plain.labels[run.validation].tolist())
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_picture_validates_twice_before_the_next_shuffle(plain: Dataset) -> None:
    seen = Counter(i for n in range(4) for i in resample(plain, n, seed=0).validation)
    assert max(seen.values()) == 1
    assert len(seen) >= 0.95 * len(plain.indices("train", "validation"))
    again = resample(plain, 4, seed=0).validation
    assert not any(set(again) == set(resample(plain, n, seed=0).validation) for n in range(4))


def test_the_same_seed_and_number_divide_the_same(plain: Dataset) -> None:
    one, same, other = (resample(plain, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.validation, same.validation)
    assert not np.array_equal(one.validation, other.validation)


def test_what_belongs_together_stays_together() -> None:
    grouped = [replace(e, group=f"patient {i // 6}") for i, e in enumerate(squares(60))]
    found = dataset(grouped)
    for number in range(6):
        run = resample(found, number, seed=0)
        parts = [{found.examples[i].group for i in rows} for rows in (run.train, run.validation)]
        assert not parts[0] & parts[1]


def test_copies_stay_together() -> None:
    examples = squares(20)
    copies = [replace(e, name=f"copy of {e.name}") for e in examples[:30]]
    found = dataset(examples + copies)
    for number in range(4):
        run = resample(found, number, seed=0)
        held = {found.examples[i].name for i in run.validation}
        for name in [e.name for e in examples[:30]]:
            assert (name in held) == (f"copy of {name}" in held) or name not in held


def test_a_given_validation_part_is_all_that_validates() -> None:
    given = [
        replace(e, split="validation" if i % 4 == 0 else "train")
        for i, e in enumerate(squares(60, seed=3))
    ]
    found = dataset(given)
    train, validation = found.indices("train"), set(found.indices("validation"))
    held: list[int] = []
    for number in range(3):
        run = resample(found, number, seed=0)
        assert np.array_equal(run.train, train)
        held += run.validation.tolist()
    assert len(held) == len(set(held))
    assert set(held) <= validation
    assert len(held) > 0.9 * len(validation)


def test_few_pictures_have_fewer_folds() -> None:
    few = dataset(squares(3), test=0.0)
    for number in range(4):
        run = resample(few, number, seed=0)
        assert len(run.validation) >= 1
        assert set(few.labels[run.train]) == {0, 1, 2}


def test_too_few_to_hold_any_back() -> None:
    few = dataset(squares(3), test=0.0)
    alone = replace(few, units=(0,) * len(few.units))
    with pytest.raises(DataError, match="too few pictures, or groups"):
        resample(alone, 0, seed=0)


def test_equals_on_a_given_validation_part_are_called_tied_however_many_runs() -> None:
    """Thirds of the same pictures score again and again: more runs are no more evidence."""
    given = [
        replace(e, split="validation" if i < 90 else "train")
        for i, e in enumerate(squares(300, seed=3))
    ]
    found, runs, k = dataset(given), 10, 3
    divided = [resample(found, number, seed=0) for number in range(runs)]
    random = np.random.default_rng(0)
    tied = []
    for _ in range(400):
        likes = random.normal(size=(k, len(given)))  # what a candidate makes of a picture stays
        scores = [
            [
                (likes[i, d.validation] + random.normal(0, 0.5, len(d.validation)) < 1).mean()
                for d in divided
            ]
            for i in range(k)
        ]
        compare_scores = comparison.compare_scores(np.array(scores), divided[0].shrink(runs))
        tied.append(all(standing.tied for standing in compare_scores))
    assert np.mean(tied) > 0.92
