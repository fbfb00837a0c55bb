"""What trains and what validates, divided anew: the paired runs of the finals.

The validation part of a search has been looked at by every trial. New divisions of train and
validation together are fresh to all candidates alike; the test part stays sealed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotl.data.dataset import Dataset
from autotl.data.split import draw_split
from autotl.errors import DataError

Rows = NDArray[np.int64]

FEWEST_FOLDS, MOST_FOLDS = 2, 10


@dataclass(frozen=True, eq=False)
class Resample:
    """One division: ``train`` and ``validation`` are places in ``Dataset.examples``, ascending."""

    number: int  # from 0
    train: Rows
    validation: Rows
    parts: int | None = None  # into which a given validation part is divided, if there is one

    @property
    def overlap(self) -> float:
        """Pictures that validate for each that trains."""
        return len(self.validation) / len(self.train)

    def shrink(self, runs: int) -> float:
        """The variance of the mean of so many runs, as a share of that of one run's score.

        ``1 / runs`` if they were independent; runs that share pictures to train on are corrected
        as by Nadeau & Bengio 2003 (Machine Learning 52). A given validation part that has scored
        as a whole has no more pictures to offer, however many runs there are.
        """
        corrected = 1 / runs + self.overlap
        return corrected if self.parts is None else max(corrected, 1 / self.parts)


def resample(dataset: Dataset, number: int, seed: int) -> Resample:
    """Division ``number`` of train and validation, of about the same sizes as the search's.

    They are the folds of a cross-validation, one after the other, and then those of the next
    shuffle: as long as there are folds left, no picture validates twice. Each is stratified by
    class, what belongs together moves together, and every class keeps a picture to train on.

    A validation part that the source gave is all that validates, in thirds, and the whole training
    part trains: whoever divided the pictures may have known what belongs together.

    Args:
        dataset: Checked and split.
        number: From 0; there is no last one.
        seed: The same seed and number give the same division.

    Raises:
        DataError: There are too few pictures, or groups of pictures, to hold any back.
    """
    train, validation = dataset.indices("train"), dataset.indices("validation")
    given = any(example.split == "validation" for example in dataset.examples)
    pool = validation if given else dataset.indices("train", "validation")
    count = 3 if given else round(len(pool) / max(1, len(validation)))
    count = min(max(count, FEWEST_FOLDS), MOST_FOLDS)

    shuffle, fold = divmod(number, count)
    labels, units = dataset.labels[pool], [dataset.units[i] for i in pool]
    want = np.bincount(labels) / count
    random = np.random.default_rng((seed, shuffle))
    parts = np.full(len(pool), "train", dtype="<U10")
    drawn = 0
    for drawn in range(fold + 1):
        try:
            draw_split(str(drawn), want, parts, labels, units, random)
        except DataError:  # a small set has fewer folds than that; it begins again with the first
            if drawn == 0:
                raise
            fold %= drawn
            break
    held = parts == str(fold)
    return Resample(number, train if given else pool[~held], pool[held], count if given else None)
