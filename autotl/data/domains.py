"""Two domains: labelled source examples, and a target whose examples are those that count.

Labels of the target only score: a part of its labelled examples validates, a part tests, and all
others lose their label. Of a target without labels a part is held out all the same, for a metric
that needs none. All source examples train, whatever split they had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autotl.data.dataset import Dataset
from autotl.data.labels import join_names, natural_key, parse_label
from autotl.data.source import Source
from autotl.data.split import count_strata, draw_split, join_units
from autotl.errors import DataError, did_you_mean
from autotl.space.plugin import UNLABELLED, Example, Issue
from autotl.space.task import Task

VALIDATION = 1 / 4
"""The fraction of a target with labels that validates."""

HELD_OUT = 1 / 3
"""The fraction of a target without labels that validates."""

FEWEST_HELD_OUT = 10
"""The number of examples on which predictions are compared at least."""

PREFIX = "target/"
"""What the names of the target's examples begin with."""


def join_domains(
    source: Source,
    target: Source,
    names: tuple[str, str],
    seed: int,
    validation: float | None = None,
    test: float = 0.2,
) -> Source:
    """Join the examples of a source and a target, those of the target without labels or to score.

    Args:
        source: The labelled examples, with their task.
        target: The examples of the other domain.
        names: What the user called the source and the target.
        seed: Seed of the splits of the target.
        validation: The fraction of the target that validates; None for ``VALIDATION``. Of a target
            with many examples without a label, it is at most half of those that have one.
        test: The same of the test.

    Returns:
        The source with the examples of both; those of the target that score have their splits.

    Raises:
        DataError: The two are of different kinds, the target has no examples or other classes, or
            too few of its examples have a label.
    """
    if target.kind.name != source.kind.name:
        raise DataError(
            f"{names[1]} has {target.kind.nouns}, and {names[0]} has {source.kind.nouns}; source "
            "and target must be of one kind"
        )
    if not (target.examples or target.unlabelled):
        raise DataError(f"{names[1]}: no {target.kind.nouns} found; check the path of the target")
    labelled = [_name(example) for example in target.examples]
    unlabelled = [_name(example) for example in target.unlabelled]
    issues = [*source.issues, *target.issues]
    if source.unlabelled:
        what = f"{len(source.unlabelled)} {source.kind.nouns} of the source have no label"
        issues.append(Issue(source.unlabelled[0].name, what, "left out: the target has its own"))
    if labelled:
        _require_same_classes(source, labelled, names)
        try:
            labelled = _split(labelled, source.task, len(unlabelled), seed, validation, test)
        except DataError as error:
            raise DataError(f"{names[1]}: {error}") from None
    scored = [example for example in labelled if example.split != UNLABELLED]
    others = [replace(e, label="") for e in labelled if e.split == UNLABELLED]
    return source._replace(
        examples=[*(replace(e, split="train") for e in source.examples), *scored],
        unlabelled=(*(replace(e, split=UNLABELLED) for e in unlabelled), *others),
        issues=issues,
        target=names[1],
        validation_has_labels=bool(labelled),
    )


def _name(example: Example) -> Example:
    return replace(example, name=f"{PREFIX}{example.name}")


def _require_same_classes(
    source: Source, labelled: Sequence[Example], names: tuple[str, str]
) -> None:
    """Raise DataError if the target has a class that the source does not have."""
    task = source.task
    labels = [[parse_label(e.label, task)[0] for e in of] for of in (source.examples, labelled)]
    both = [{name for label in of if label for name in task.names(label)} for of in labels]
    if unknown := sorted(both[1] - both[0], key=natural_key):
        raise DataError(
            f"{names[1]}: the source {names[0]} has no {task.noun} {join_names(unknown)}, and none "
            f"can be learned without a labelled example; {did_you_mean(unknown[0], both[0])}; "
            f"rename the {task.nouns} of the target, or remove them"
        )


def _split(
    examples: Sequence[Example],
    task: Task,
    unlabelled: int,
    seed: int,
    validation: float | None,
    test: float,
) -> list[Example]:
    """Give each labelled example of the target a split: validation, test or unlabelled.

    Args:
        examples: The examples.
        task: The task.
        unlabelled: The number of other examples of the target.
        seed: Seed of the draws.
        validation: The fraction of all examples of the target that validates.
        test: The fraction that tests.
    """
    ordered = sorted(examples, key=lambda e: natural_key(e.name))
    parsed = [parse_label(example.label, task) for example in ordered]
    splits = np.array([e.split if e.split in ("validation", "test") else "train" for e in ordered])
    splits = splits.astype("<U10")
    # What cannot be read as a label is a problem of the data, and is reported by their check.
    valid = np.array([bool(label) for label, _ in parsed])
    if not valid.any():
        raise DataError(f"no example has a label for {task.name}: {parsed[0][1] or 'it is empty'}")
    splits[~valid] = "validation"
    rows = np.flatnonzero(valid)
    labels = [parsed[i][0] for i in rows]
    fitted = task.fit(labels, sorted({n for label in labels for n in task.names(label)}))
    strata = fitted.strata(fitted.encode(labels))
    units = join_units([ordered[i] for i in rows], [ordered[i].name for i in rows])
    free = splits[rows] == "train"
    counts, rng = count_strata(strata[free]), np.random.default_rng(seed)
    drawn, number = splits[rows], max(1, int(free.sum()))
    validation = VALIDATION if validation is None else validation
    for name, fraction in (("test", test), ("validation", validation)):
        if fraction and name not in drawn:
            part = min(1 / 2, fraction * (number + unlabelled) / number)
            draw_split(name, part * counts, drawn, strata, units, rng, keep=0 if unlabelled else 1)
    splits[rows] = drawn
    return [
        replace(e, split=UNLABELLED if name == "train" else name)
        for e, name in zip(ordered, splits.tolist(), strict=True)
    ]


def separate_domains(
    dataset: Dataset, source: Source, validation: float | None = None, seed: int = 0
) -> Dataset:
    """Say which examples of checked data are of the target, so that its labels train nothing.

    The task is fitted to the training split alone. Of a target without labels a part is held out.

    Args:
        dataset: The checked examples that ``join_domains`` returned.
        source: These examples.
        validation: The fraction of a target without labels to hold out; None for ``HELD_OUT``.
        seed: Seed of the draw.

    Raises:
        DataError: There are too few examples to hold out.
    """
    if not source.target:
        return dataset
    labels = [example.label for example in dataset.examples]
    fitted = dataset.task.fit([labels[i] for i in dataset.indices("train")], dataset.outputs)
    targets = fitted.encode(labels)
    dataset = replace(dataset, task=fitted, targets=targets, target=source.target)
    if source.validation_has_labels:
        return dataset
    return _hold_out(dataset, validation or HELD_OUT, seed)


def _hold_out(dataset: Dataset, fraction: float, seed: int) -> Dataset:
    """Let a part of the examples without a label validate, for a metric that needs no labels.

    Their targets are 0, and mean nothing; examples of one group stay together.

    Args:
        dataset: A checked data set without a validation split.
        fraction: The fraction of its examples without a label.
        seed: Seed of the draw.

    Raises:
        DataError: There are too few.
    """
    unlabelled = dataset.unlabelled
    chosen = _draw(unlabelled.examples, unlabelled.links[:, 0], fraction, seed)
    if len(chosen) < FEWEST_HELD_OUT:
        raise DataError(
            f"{dataset.target}: {len(chosen)} {dataset.kind.nouns} could be held out to compare "
            f"predictions, of {len(unlabelled)} without a label that can be used; at least "
            f"{FEWEST_HELD_OUT} are needed: add {dataset.kind.nouns}, or give more --budget if "
            "there was no time for them"
        )
    rest = np.setdiff1d(np.arange(len(unlabelled)), chosen)
    position = np.full(len(unlabelled), -1)
    position[rest] = np.arange(len(rest))
    links = unlabelled.links[np.isin(unlabelled.links[:, 0], rest)]
    held_out = [replace(unlabelled.examples[i], split="validation") for i in chosen]
    first = int(dataset.units.max()) + 1
    units = first + np.array(join_units(held_out, [e.name for e in held_out]), dtype=np.int64)
    targets = np.zeros((len(held_out), *dataset.targets.shape[1:]), dataset.targets.dtype)
    digest = hashlib.sha256(repr((dataset.identity, chosen.tolist())).encode())
    digest_of_rest = hashlib.sha256(repr((unlabelled.fingerprint, rest.tolist())).encode())
    return replace(
        dataset,
        fingerprint=digest.hexdigest(),
        examples=(*dataset.examples, *held_out),
        targets=np.concatenate([dataset.targets, targets]),
        splits=(*dataset.splits, *["validation"] * len(held_out)),
        units=np.concatenate([dataset.units, units]),
        digests=np.concatenate([dataset.digests, unlabelled.digests[chosen]]),
        unlabelled=replace(
            unlabelled,
            fingerprint=digest_of_rest.hexdigest(),
            examples=tuple(unlabelled.examples[i] for i in rest),
            digests=unlabelled.digests[rest],
            links=np.stack([position[links[:, 0]], links[:, 1]], axis=1),
        ),
        validation_has_labels=False,
    )


def _draw(
    examples: Sequence[Example], linked: NDArray[np.int64], fraction: float, seed: int
) -> NDArray[np.int64]:
    """Draw whole groups of examples, none of which belongs to a labelled one; ascending indices."""
    units = np.array(join_units(examples, [e.name for e in examples]), dtype=np.int64)
    left = np.setdiff1d(units, units[linked])
    count, drawn = round(fraction * len(examples)), np.empty(0, np.int64)
    for unit in np.random.default_rng(seed).permutation(left):
        members = np.flatnonzero(units == unit)
        if len(drawn) + len(members) > count:
            continue
        drawn = np.concatenate([drawn, members])
    return np.sort(drawn)
