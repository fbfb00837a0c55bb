"""Assignment of examples to train, validation and test.

Splits that the source gives are kept and the others drawn. Drawn splits are stratified by class,
and all examples of one sampling unit (a group, or copies of one image) go to the same split. The
folds of a cross-validation are drawn likewise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.errors import DataError
from autotl.space.plugin import Example

SPLITS = ("train", "validation", "test")
GIVEN_SPLITS = ("", *SPLITS)
"""Valid values of ``Example.split``, from the least to the most protected."""

MAX_PREDICTED = 1 << 28
"""The maximum of validation images times classes: 1 GiB of predictions. With 2,000 classes it is
134,000 images, whose accuracy has a standard error of at most 0.0014."""

Strata = NDArray[Any]
"""By what splits are stratified: the class of each example, ``int64 [N]``, or for several classes
of an example ``bool [N, S]``."""


def split(
    examples: Sequence[Example],
    units: Sequence[int],
    strata: Strata,
    seed: int,
    validation: float | None,
    test: float,
    folds: int | None = None,
) -> NDArray[np.str_]:
    """Assign each example to one of ``SPLITS``.

    A split that no example brings is drawn from the training examples. At least one image of each
    class remains in train, unless the given splits leave none there.

    Args:
        examples: The usable examples, in a stable order.
        units: Sampling unit of each example, ``[N]``; see ``join_units``.
        strata: Class or classes of each example.
        seed: Seed of the random draws.
        validation: Fraction of the training examples that remain after the test split, at least 0;
            None for ``validation_fraction``.
        test: Fraction of all examples, at least 0. Of very many examples and classes it is less, so
            that the predictions for the test split have at most ``MAX_PREDICTED`` numbers.
        folds: The number of folds that take the place of a validation split, which is not drawn.
            Each class then keeps two sampling units outside the test split, if it has them.

    Returns:
        The split of each example, ``[N]``.

    Raises:
        DataError: A fraction is none, no training examples are left, there are too few to draw a
            split from, or there are folds and the source gives a validation split.
    """
    _check_fractions(validation, test)
    splits = _given_splits(examples, units)
    rng = np.random.default_rng(seed)
    draw_test = bool(test) and "test" not in splits
    draw_validation = validation != 0 and "validation" not in splits and folds is None
    if folds is not None and "validation" in splits:
        raise DataError(
            "the data give a validation split, so folds cannot be drawn; remove the option folds, "
            "or move its examples to the training split"
        )
    if draw_test:
        most = max(300, MAX_PREDICTED // len(count_strata(strata)))
        wanted = min(test, most / len(splits)) * count_strata(strata)
        if draw_validation and strata.ndim == 1:
            # Two images cannot serve three splits: such classes alternate between a test and a
            # validation image.
            pairs = np.flatnonzero(count_strata(strata[splits == "train"]) == 2)
            wanted[pairs[1::2]] = 0
        draw_split("test", wanted, splits, strata, units, rng, keep=1 if folds is None else 2)
    if draw_validation:
        remaining = count_strata(strata[splits == "train"], len(count_strata(strata)))
        if validation is None:
            images = int((splits == "train").sum())
            validation = validation_fraction(images, len(remaining))
        draw_split("validation", validation * remaining, splits, strata, units, rng)
    return splits


def _check_fractions(validation: float | None, test: float) -> None:
    """Raise DataError for numbers that are no fractions."""
    if not (0 <= (validation or 0) < 1 and 0 <= test < 1):
        raise DataError(
            f"validation={validation} and test={test} are not valid fractions: expected values "
            "from 0 to below 1"
        )


def count_strata(strata: Strata, minimum: int = 0) -> NDArray[np.int64]:
    """Return the number of examples in each stratum, ``[S]``, with at least ``minimum`` strata."""
    if strata.ndim == 1:
        return np.bincount(strata, minlength=minimum)
    counts: NDArray[np.int64] = strata.sum(0, dtype=np.int64)
    return counts


def present_strata(strata: Strata) -> set[int]:
    """Return the strata that have an example."""
    return set(np.flatnonzero(count_strata(strata)).tolist())


def _given_splits(examples: Sequence[Example], units: Sequence[int]) -> NDArray[np.str_]:
    """The split of each example before any draw, ``[N]``.

    An example without a split follows the most protected split of its sampling unit, else it is
    in train.
    """
    split_of_unit: dict[int, str] = {}
    for unit, example in zip(units, examples, strict=True):
        split_of_unit[unit] = max(
            split_of_unit.get(unit, ""), example.split, key=GIVEN_SPLITS.index
        )
    splits = np.array(
        [e.split or split_of_unit[u] or "train" for u, e in zip(units, examples, strict=True)],
        dtype="<U10",
    )
    if "train" not in splits:
        raise DataError(
            "every example is given to validation or test; give some to train, or no split at all"
        )
    return splits


def validation_fraction(training_images: int, classes: int = 1) -> float:
    """The default fraction of training images that validate.

    It is a fifth, or as much as yields 300 images, but at most a third. With 300 images the
    standard error of an accuracy of 0.87 is two points; with a fifth of 800 it is nearly three, and
    the search would select by chance. Of very many images and classes it is less, so that the
    predictions of a trial have at most ``MAX_PREDICTED`` numbers.
    """
    fraction = min(1 / 3, max(1 / 5, 300 / training_images))
    return min(fraction, max(300, MAX_PREDICTED // classes) / training_images)


def join_units(
    examples: Sequence[Example], contents: Sequence[str], near_copies: Iterable[Sequence[int]] = ()
) -> list[int]:
    """The sampling unit of each example: equal for examples that must not be separated.

    Examples are in one unit if they have the same group or the same content, or are near-copies,
    also transitively (union-find).

    Args:
        examples: The examples.
        contents: A key of the content of each image, ``[N]``.
        near_copies: Groups of indices of images that are nearly alike.

    Returns:
        The index of each example's unit, ``[N]``, from 0 in the order of first appearance.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for example, content in zip(examples, contents, strict=True):
        if example.group:
            parent[root(f"group {example.group}")] = root(content)
    for first, *others in near_copies:
        for other in others:
            parent[root(contents[other])] = root(contents[first])
    index_of_root: dict[str, int] = {}
    return [index_of_root.setdefault(root(content), len(index_of_root)) for content in contents]


def draw_split(
    name: str,
    wanted: NDArray[np.floating[Any]],
    splits: NDArray[np.str_],
    strata: Strata,
    units: Sequence[int] | NDArray[np.int64],
    rng: np.random.Generator,
    *,
    keep: int = 1,
) -> None:
    """Move a stratified random sample of the training examples to the split ``name``, in place.

    One pass over the units in random order, so it is fast for many of them; scikit-learn's
    StratifiedGroupKFold compares all folds for each group and warns about small classes. Classes
    whose units are all single examples need no pass: how many of them move is known in advance.
    Examples of several classes are divided by ``stratify_iteratively``.

    Args:
        name: Name of the split.
        wanted: Number of examples of each class to move, approximately, ``[C]``.
        splits: Split of each example, ``[N]``; modified.
        strata: Class or classes of each example.
        units: Sampling unit of each example, ``[N]``.
        rng: Determines the order.
        keep: The number of units of each class that stay in train.

    Raises:
        DataError: No unit can be moved without removing a class from train.
    """
    train = rng.permutation(np.flatnonzero(splits == "train"))
    unit_of = np.asarray(units)[train]
    if strata.ndim == 1:
        labels = strata
        is_single = np.bincount(unit_of, minlength=1)[unit_of] == 1
        joined = np.zeros(len(wanted), dtype=bool)  # classes with an example that is not alone
        joined[labels[train[~is_single]]] = True
        in_joined = joined[labels[train]]
        splits[_choose_singles(train[~in_joined], labels, wanted, keep)] = name
        _move_units(name, wanted, splits, labels, train[in_joined], unit_of[in_joined], keep)
    else:
        fraction = float(wanted.sum() / max(1, count_strata(strata[train]).sum()))
        counts, unit = _count_by_unit(strata[train], unit_of)
        part = stratify_iteratively(counts, [1 - fraction, fraction], rng, keep)
        splits[train[part[unit] == 1]] = name
    if name not in splits:
        raise DataError(
            f"too few examples, or groups of examples, to draw a {name} split; "
            "add examples, or give the split yourself"
        )


def _choose_singles(
    train: NDArray[np.int64],
    labels: NDArray[np.int64],
    wanted: NDArray[np.floating[Any]],
    keep: int,
) -> NDArray[np.int64]:
    """Choose examples of classes in which each example is a sampling unit.

    Args:
        train: Training examples in random order, ``[n]``.
        labels: Class of each example, ``[N]``.
        wanted: Number of examples of each class to move, approximately, ``[C]``.
        keep: The number of examples of each class that stay in train.

    Returns:
        Of each class the first ones, as many as are wanted to the nearest number, at least one of
        a class of which any is wanted, and never the last ``keep`` ones.
    """
    counts = np.ceil(wanted - 0.5)  # an example moves while more than half of one is wanted
    counts = np.where(wanted > 0, np.maximum(1, counts), 0)
    sizes = np.bincount(labels[train], minlength=len(wanted))
    counts = np.minimum(counts, np.maximum(sizes - keep, 0))
    by_class = np.argsort(labels[train], kind="stable")
    rank = np.arange(len(train)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen: NDArray[np.int64] = train[by_class][rank < np.repeat(counts, sizes)]
    return chosen


def _move_units(
    name: str,
    wanted: NDArray[np.floating[Any]],
    splits: NDArray[np.str_],
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    units: NDArray[np.int64],
    keep: int,
) -> None:
    """Move whole units, in the order of their first examples in ``train``.

    Args:
        name: Name of the split.
        wanted: Number of examples of each class to move, approximately, ``[C]``.
        splits: Split of each example, ``[N]``; modified.
        labels: Class of each example, ``[N]``.
        train: Training examples in random order, ``[n]``.
        units: Their sampling units, ``[n]``.
        keep: The number of units of each class that stay in train.
    """
    needed = dict(enumerate(wanted.tolist()))  # examples still to move by class

    members: dict[int, list[int]] = {}
    for unit, i in zip(units.tolist(), train.tolist(), strict=True):
        members.setdefault(unit, []).append(i)
    counts = {unit: Counter(labels[of].tolist()) for unit, of in members.items()}
    remaining = Counter(c for count in counts.values() for c in count)  # units in train by class
    uncovered = {c for c in remaining if needed[c] > 0}  # classes the new split still lacks

    def move(unit: int) -> None:
        splits[members[unit]] = name
        for c, k in counts[unit].items():
            remaining[c] -= 1
            needed[c] -= k
            uncovered.discard(c)

    def is_movable(unit: int) -> bool:
        return all(remaining[c] > keep for c in counts[unit])

    for unit, count in counts.items():
        improvement = sum(abs(needed[c]) - abs(needed[c] - k) for c, k in count.items())
        if improvement > 0 and is_movable(unit):
            move(unit)
    # A class whose number rounds to 0 still gets one unit, the smallest, so that scores cover it.
    for unit in sorted(counts, key=lambda unit: len(members[unit])):
        if is_movable(unit) and not uncovered.isdisjoint(counts[unit]):
            move(unit)


def _count_by_unit(
    strata: NDArray[np.bool_], units: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The examples of each stratum in each unit ``[U, S]``; the unit of each example ``[n]``."""
    _, unit = np.unique(units, return_inverse=True)
    counts = np.zeros((int(unit.max(initial=-1)) + 1, strata.shape[1]), dtype=np.int64)
    np.add.at(counts, unit, strata.astype(np.int64))
    return counts, unit


def stratify_iteratively(
    counts: NDArray[np.int64],
    fractions: Sequence[float],
    rng: np.random.Generator,
    keep: int = 0,
) -> NDArray[np.int64]:
    """Divide units whose examples have several classes (Sechidis et al. 2011, ECML PKDD).

    The class with the fewest units that are left is divided first, each of its units to the part
    that lacks most examples of the class, of equal ones to that which lacks most in all.

    Args:
        counts: Number of examples of each of S classes in each of U units, ``[U, S]``.
        fractions: The fraction of all examples for each part.
        rng: Determines the order of the units of a class, and decides between equal parts.
        keep: The number of units of each class that the first part gets at least, if there are
            so many.

    Returns:
        The part of each unit, ``[U]``.
    """
    share = np.asarray(fractions)
    lacking = share[:, None] * counts.sum(0)  # [parts, S]
    lacking_in_all = share * counts.sum()
    part = np.full(len(counts), -1, dtype=np.int64)
    remaining = (counts > 0).sum(0)
    in_first = np.zeros(counts.shape[1], dtype=np.int64)
    while (remaining > 0).any():
        rarest = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for unit in rng.permutation(np.flatnonzero((part < 0) & (counts[:, rarest] > 0))):
            own = counts[unit] > 0
            keys = (rng.random(len(share)), lacking_in_all, lacking[:, rarest])
            chosen = int(np.lexsort(keys)[-1])
            if (in_first[own] < keep).any():
                chosen = 0
            part[unit] = chosen
            in_first += own if chosen == 0 else 0
            lacking[chosen] -= counts[unit]
            lacking_in_all[chosen] -= counts[unit].sum()
            remaining -= own
    return part


def draw_folds(
    strata: Strata, units: Sequence[int], folds: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Assign every example to one fold of a cross-validation, stratified by class.

    The units are assigned one after the other, the largest first, those of equal size class by
    class, and those of one class in random order, each to the fold that has the smallest fraction
    of its classes, and of equal folds to the smallest.

    Args:
        strata: Class or classes of each example; examples of several classes are divided by
            ``stratify_iteratively``.
        units: Sampling unit of each example, ``[N]``.
        folds: Number of folds, at least 2.
        rng: Determines the order of equal units.

    Returns:
        The fold of each example, from 0, ``[N]``; none is empty.

    Raises:
        DataError: There are fewer units than folds.
    """
    _, unit, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if len(sizes) < folds:
        raise DataError(
            f"{folds} folds need as many examples, or groups of examples, outside the test split, "
            f"and there are {len(sizes)}; add examples, or give fewer folds"
        )
    if strata.ndim > 1:
        counts, unit = _count_by_unit(strata, np.asarray(units))
        several: NDArray[np.int64] = stratify_iteratively(counts, [1 / folds] * folds, rng)[unit]
        return several
    labels = strata
    members = np.split(np.argsort(unit, kind="stable"), np.cumsum(sizes)[:-1])
    shuffled = rng.permutation(len(sizes))
    first_labels = labels[[of[0] for of in members]]
    order = shuffled[np.lexsort((first_labels[shuffled], -sizes[shuffled]))]
    totals = np.bincount(labels)
    fractions, filled = np.zeros((folds, len(totals))), np.zeros(folds)
    assigned = np.empty(len(labels), dtype=np.int64)
    for i in order:
        classes, counts = np.unique(labels[members[i]], return_counts=True)
        share = counts / totals[classes]
        # By this the sum of the squared fractions grows, which is least for equal folds. Rounded,
        # because sums of the same numbers in another order must count as equal.
        growth = np.round(fractions[:, classes] @ share, 12)
        fold = np.lexsort((filled, growth))[0]
        assigned[members[i]] = fold
        fractions[fold, classes] += share
        filled[fold] += sizes[i]
    return assigned
