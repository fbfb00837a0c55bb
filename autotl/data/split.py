"""Which example trains, validates or tests: given splits are kept, the others drawn.

Drawn splits are stratified by class, and what belongs together (a group, the copies of one
picture) moves together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.errors import DataError
from autotl.space.plugin import Example

SPLITS = ("train", "validation", "test")
GIVEN_SPLITS = ("", *SPLITS)
"""What an example may bring, from the least to the most protected."""


def split(
    examples: Sequence[Example],
    digests: Sequence[str],
    labels: NDArray[np.int64],
    *,
    seed: int,
    validation: float | None,
    test: float,
) -> NDArray[np.str_]:
    """One of ``SPLITS`` for each example, ``[N]``.

    A split that no example brings is drawn from the training examples: ``test`` is its share of
    all, ``validation`` the share of what then remains to train on. Each class keeps at least one
    picture to train on, unless a given split says otherwise.

    Args:
        examples: The usable ones, in a stable order.
        digests: The content of each, as a hash.
        labels: The class of each, ``[N]``.
        seed: Of the draws.
        validation: Share of the remaining training examples, from 0; None for ``validation_fraction``.
        test: Share of all examples, from 0.

    Raises:
        DataError: Nothing is left to train on, or too little to hold something back.
    """
    units = sampling_units(examples, digests)
    home: dict[int, str] = {}  # an example without a split goes where its group already is
    for unit, example in zip(units, examples, strict=True):
        home[unit] = max(home.get(unit, ""), example.split, key=GIVEN_SPLITS.index)
    splits = np.array(
        [e.split or home[u] or "train" for u, e in zip(units, examples, strict=True)],
        dtype="<U10",
    )
    if "train" not in splits:
        raise DataError(
            "every picture is given to validation or test; give some to train, or no split at all"
        )

    rng = np.random.default_rng(seed)
    draw_test = bool(test) and "test" not in splits
    draw_validation = validation != 0 and "validation" not in splits
    if draw_test:
        want = test * np.bincount(labels)
        if draw_validation:
            # Two pictures cannot serve three splits: such classes are tested and validated in turn.
            pairs = np.flatnonzero(np.bincount(labels[splits == "train"]) == 2)
            want[pairs[1::2]] = 0
        draw_split("test", want, splits, labels, units, rng)
    if draw_validation:
        trained = np.bincount(labels[splits == "train"], minlength=labels.max() + 1)
        share = validation_fraction(int(trained.sum())) if validation is None else validation
        draw_split("validation", share * trained, splits, labels, units, rng)
    return splits


def validation_fraction(pictures: int) -> float:
    """The share of so many training pictures to choose by: a fifth, or what makes 300, to a third.

    On 300 pictures the standard error of an accuracy of 0.87 is two points; on a fifth of 800 it
    is nearly three, and the search would choose by luck.
    """
    return min(1 / 3, max(1 / 5, 300 / pictures))


def sampling_units(examples: Sequence[Example], digests: Sequence[str]) -> list[int]:
    """A number for each example: the same for all that a group or equal content ties together."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for example, digest in zip(examples, digests, strict=True):
        if example.group:
            parent[root(f"group {example.group}")] = root(digest)
    number: dict[str, int] = {}
    return [number.setdefault(root(digest), len(number)) for digest in digests]


def draw_split(
    name: str,
    want: NDArray[np.floating[Any]],
    splits: NDArray[np.str_],
    labels: NDArray[np.int64],
    units: Sequence[int],
    rng: np.random.Generator,
) -> None:
    """Move about ``want`` ``[C]`` training examples of each class to the split ``name``, in place.

    One pass over the units in random order, so it is quick for many; sklearn's
    StratifiedGroupKFold compares all folds for each group and warns about small classes.
    """
    pool = np.flatnonzero(splits == "train")
    left = Counter(labels[pool].tolist())
    need = dict(enumerate(want.tolist()))
    missing = {c for c in left if need[c] > 0}

    members: dict[int, list[int]] = {}
    for i in rng.permutation(pool).tolist():
        members.setdefault(units[i], []).append(i)
    counts = {unit: Counter(labels[of].tolist()) for unit, of in members.items()}

    def move(unit: int) -> None:
        splits[members[unit]] = name
        for c, k in counts[unit].items():
            left[c] -= k
            need[c] -= k
            missing.discard(c)

    def spare(unit: int) -> bool:
        return all(left[c] > k for c, k in counts[unit].items())

    for unit, count in counts.items():
        if spare(unit) and sum(abs(need[c]) - abs(need[c] - k) for c, k in count.items()) > 0:
            move(unit)
    # What rounds to nothing still gets one unit, the smallest, so that scores cover the class.
    for unit in sorted(counts, key=lambda unit: len(members[unit])):
        if spare(unit) and not missing.isdisjoint(counts[unit]):
            move(unit)
    if name not in splits:
        raise DataError(
            f"too few pictures, or groups of pictures, to hold some back for {name}; "
            "add pictures, or give the split yourself"
        )
