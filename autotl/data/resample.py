"""Resamples: the examples that train and those that validate, other than the splits of the data.

The validation split of a search has been used by every trial. For the paired repeats of the final
selection, new folds of train and validation together are equally new to all candidates. A study
with folds has no validation split, and its trials are trained once for each ``fold``. The test
split stays untouched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotl.data.dataset import Dataset
from autotl.data.split import count_strata, draw_split
from autotl.errors import DataError

Indices = NDArray[np.int64]
"""Indices of examples in ``Dataset.examples``, ``int64 [n]``."""

MIN_FOLDS, MAX_FOLDS = 2, 10

GIVEN_VALIDATION_FOLDS = 3
"""Folds of a validation split that the source gives."""


@dataclass(frozen=True, eq=False)
class Resample:
    """One fold: which examples train and which validate.

    Attributes:
        number: Number of the resample, from 0.
        train: Indices of the training examples, ascending.
        validation: Indices of the validation examples, ascending.
    """

    number: int
    train: Indices
    validation: Indices


def resample(dataset: Dataset, number: int, seed: int) -> Resample:
    """Draw resample ``number`` of train and validation, of about the sizes of the search's splits.

    The resamples are the folds of a cross-validation in turn, then those of the next shuffle, and
    so on: until all folds are used, no image validates twice. Folds are stratified by class,
    sampling units stay together, and every class keeps an image to train on.

    A validation split that the source gives is divided into ``GIVEN_VALIDATION_FOLDS`` folds, and
    the whole training split trains: the source may separate images for reasons not in the data.

    Args:
        dataset: The checked data set.
        number: Number of the resample, from 0, without a limit.
        seed: Seed of the shuffles; seed and number determine the resample.

    Raises:
        DataError: There are too few images, or groups of images, for two folds.
    """
    train, validation = dataset.indices("train"), dataset.indices("validation")
    given = any(example.split == "validation" for example in dataset.examples)
    if given:
        pool, folds = validation, GIVEN_VALIDATION_FOLDS
    else:
        pool = dataset.indices("train", "validation")
        folds = min(max(round(len(pool) / max(1, len(validation))), MIN_FOLDS), MAX_FOLDS)

    shuffle, fold = divmod(number, folds)
    strata = dataset.task.strata(dataset.targets)[pool]
    units = dataset.units[pool]
    wanted = count_strata(strata) / folds
    random = np.random.default_rng((seed, shuffle))
    fold_names = np.full(len(pool), "train", dtype="<U10")
    for drawn in range(fold + 1):
        try:
            draw_split(str(drawn), wanted, fold_names, strata, units, random)
        except DataError:  # a small data set has fewer folds: continue from the first one
            if drawn == 0:
                raise
            fold %= drawn
            break
    validates = fold_names == str(fold)
    return Resample(number, train if given else pool[~validates], pool[validates])


def fold(dataset: Dataset, number: int) -> Resample:
    """Return fold ``number`` of the data set: it validates, and all other folds train.

    Args:
        dataset: The checked data set, with folds.
        number: Number of the fold, from 0.
    """
    assert dataset.folds is not None
    train = np.flatnonzero((dataset.folds >= 0) & (dataset.folds != number))
    return Resample(number, train, np.flatnonzero(dataset.folds == number))


def fitted_and_scored(dataset: Dataset, seed: int) -> tuple[Indices, Indices]:
    """Return the examples that a head is fitted to in a quick measurement, and those to score it.

    They are the training and the validation split, the other folds and the first one, or, if the
    validation split has no labels, two parts of the training split without common sampling units.

    Args:
        dataset: The checked data set.
        seed: Determines the latter two.

    Returns:
        Indices of examples ``[n]`` and ``[m]``, ascending.
    """
    fitted, scored = dataset.indices("train"), dataset.indices("validation")
    if dataset.folds is not None:
        folds = dataset.folds[fitted]
        fitted, scored = fitted[folds > 0], fitted[folds == 0]
    if not dataset.validation_has_labels:
        units = np.unique(dataset.units[fitted])
        apart = np.random.default_rng(seed).permutation(units)[: len(units) // 3]
        is_apart = np.isin(dataset.units[fitted], apart)
        fitted, scored = fitted[~is_apart], fitted[is_apart]
    return fitted, scored
