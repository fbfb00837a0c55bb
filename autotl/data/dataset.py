"""Check a data set: find the usable examples, and the problems of the others."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autotl.data import scale
from autotl.data.duplicates import LEFT_OUT, Duplicates, find_duplicates, find_near_groups
from autotl.data.encoding import encode
from autotl.data.image import Progress, map_in_threads
from autotl.data.image_kind import IMAGES
from autotl.data.inspection import Inspection, digest_contents, inspect
from autotl.data.labels import join_names
from autotl.data.offered import find_outputs, require_training_examples, sort_and_parse
from autotl.data.problems import find_issues
from autotl.data.scale import Scale
from autotl.data.split import (
    SPLITS,
    Strata,
    draw_folds,
    join_units,
    present_strata,
    split,
)
from autotl.data.unlabelled import (
    Unlabelled,
    describe_missing,
    select_unlabelled,
    sort_unlabelled,
)
from autotl.errors import DataError, PluginError
from autotl.space.input_kind import InputKind, ModelInput
from autotl.space.kinds import RGB
from autotl.space.plugin import Example, Issue
from autotl.space.task import Task
from autotl.tasks import CLASSIFICATION

FINGERPRINT_VERSION = 3
"""Changes when equal files are decoded to other pixels than before."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The usable examples, each with its label and its split.

    Attributes:
        source: What the user called the data.
        fingerprint: SHA-256 of exactly these examples in this order: names, contents, labels,
            given splits and groups. Equal fingerprints mean equal examples at equal indices,
            wherever the folder is and whatever was left out; the seed of the split does not enter.
        task: What is predicted, fitted to the labels. Its ``outputs`` are the classes in natural
            order: '2' before '10'.
        examples: The usable examples in the natural order of their names; each label is the text
            that the task has for it.
        targets: The targets of the task, ``[N, ...]``: of a classification the index of each
            example's class, ``int64 [N]``.
        splits: Split of each example, ``[N]``: 'train', 'validation' or 'test'.
        issues: The problems that were found.
        skipped: Number of examples of the source that were left out, for any reason.
        duplicates_across_splits: How many of these are copies of an image in another split.
        units: Index of each example's sampling unit, ``[N]``. The examples of one group, copies and
            near-copies of one image form one unit (in statistics: a cluster). They are correlated,
            so a drawn split never separates them; different units count as independent.
        scales: The scales of images with more than 8 bits, by file type, see ``scale``; or what
            another kind measured.
        digests: A number that identifies the content of each example, ``uint64 [N]``: of an image,
            its thumbnail.
        folds: Fold of each example outside the test split in a cross-validation, from 0, and -1 in
            the test split, ``[N]``; None if there is a validation split instead.
        kind: What the examples are.
        unlabelled: Examples without a label, apart from all of the above.
        target: What the user called the other domain, of which all examples are but those that
            train; empty without one, see ``domains``.
        validation_has_labels: Whether the targets of the validation split mean anything.
    """

    source: str
    fingerprint: str
    task: Task
    examples: tuple[Example, ...]
    targets: NDArray[Any]
    splits: tuple[str, ...]
    issues: tuple[Issue, ...]
    skipped: int
    duplicates_across_splits: int
    units: NDArray[np.int64]
    scales: Mapping[str, Scale]
    digests: NDArray[np.uint64]
    folds: NDArray[np.int64] | None = None
    kind: InputKind = IMAGES
    unlabelled: Unlabelled = field(default_factory=Unlabelled)
    target: str = ""
    validation_has_labels: bool = True

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what is predicted: classes, labels or quantities."""
        return self.task.outputs

    def encode(self, index: int, expects: ModelInput) -> NDArray[Any]:
        """Encode an example for a backbone.

        Raises:
            DataError: It cannot be read.
        """
        example = self.examples[index]
        return encode(self.kind, example.item, expects, self.scales, example.name)

    @property
    def scored_split(self) -> str:
        """The split whose examples score the trials: all of 'train' if it is divided into folds."""
        return "validation" if self.folds is None else "train"

    @property
    def refit_splits(self) -> tuple[str, ...]:
        """The splits on which the winner is retrained: labels of a target only score."""
        return ("train",) if self.target else ("train", "validation")

    def indices(self, *splits: str) -> NDArray[np.int64]:
        """Indices of the examples in any of ``splits``, ascending, ``[n]``."""
        chosen = [SPLITS.index(name) for name in splits if name in SPLITS]
        return np.flatnonzero(np.isin(self._split_numbers, chosen)).astype(np.int64)

    @cached_property
    def _split_numbers(self) -> NDArray[np.uint8]:
        """The position in ``SPLITS`` of the split of each example, ``[N]``."""
        numbers = {name: number for number, name in enumerate(SPLITS)}
        return np.fromiter((numbers[name] for name in self.splits), np.uint8, len(self.splits))

    @property
    def identity(self) -> str:
        """The fingerprint, with that of the examples without a label if there are any."""
        return " ".join(filter(None, (self.fingerprint, self.unlabelled.fingerprint)))

    def unlabelled_beside(self, validation: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the unlabelled examples to train with where some examples validate, ``[u]``.

        Those that belong to the sampling unit of a validation or test example are not among them.

        Args:
            validation: Indices of the labelled examples that validate, ``[n]``.
        """
        protected = np.concatenate([validation, self.indices("test")])
        return self.unlabelled.indices_apart_from(self.units[protected])

    def count_units(self, split: str) -> int:
        """Count the sampling units in a split.

        This is a safe number of independent observations: the images of one unit may add nothing
        to each other.
        """
        return len(np.unique(self.units[self.indices(split)]))


def check(
    examples: Iterable[Example],
    source: str,
    *,
    issues: Sequence[Issue] = (),
    seed: int = 0,
    validation: float | None = None,
    test: float = 0.2,
    folds: int | None = None,
    progress: Progress | None = None,
    kind: InputKind = IMAGES,
    task: Task = CLASSIFICATION,
    channels: int = RGB,
    unlabelled: Sequence[Example] = (),
) -> Dataset:
    """Open every example once, leave out unusable ones, and split the others.

    Args:
        examples: What a dataset plugin returned, in any order.
        source: What the user called the data, for messages.
        issues: The problems that the source reported; the last ones of the labelled examples.
        seed: Seed of the splits that are drawn.
        validation: Like ``test``, of the other examples; None for ``split.validation_fraction``.
        test: Fraction of all examples, if the source gives no test split; 0 for none.
        folds: The number of folds that replace a validation split.
        progress: Called after every example.
        kind: What the examples are.
        task: What is predicted of them.
        channels: Number of channels that images must have, or be converted to; see ``decode``.
        unlabelled: The examples without a label, in any order.

    Raises:
        DataError: No examples, fewer than two classes, or too few usable ones of one.
    """
    usable = _choose(examples, source, kind, task, unlabelled, progress, channels)
    with _named(source):
        task, strata, units, near = _stratify(task, usable)
        splits = split(usable.examples, units, strata, seed, validation, test, folds)
        fold_of = _assign_folds(usable.outputs, strata, splits, units, folds, seed, kind)
        task = usable.fit(task, splits != "test")
    labelled = Dataset(
        source=source,
        fingerprint=_fingerprint(usable.examples, usable.inspections, usable.scales, task),
        task=task,
        examples=tuple(usable.examples),
        targets=task.encode([e.label for e in usable.examples]),
        splits=tuple(map(sys.intern, splits.tolist())),
        issues=(*usable.names, *usable.excluded.values(), *usable.copies.notes, *near),
        skipped=len(usable.excluded),
        duplicates_across_splits=usable.copies.across_splits,
        units=np.array(units, dtype=np.int64),
        scales=usable.scales,
        digests=digest_contents(usable.inspections, kind),
        folds=fold_of,
        kind=kind,
    )
    return _complete(labelled, usable.inspections, unlabelled, issues, progress, channels)


class _Usable(NamedTuple):
    """The usable ones of the examples that a source offers, and what was found out about all.

    Attributes:
        examples: The usable examples.
        inspections: Their inspections.
        outputs: The classes that their labels name.
        scales: What was measured on them.
        excluded: The issues of the others, by index among all.
        copies: The copies among all.
        names: The issues about names of classes.
    """

    examples: list[Example]
    inspections: list[Inspection]
    outputs: Sequence[str]
    scales: Mapping[str, Scale]
    excluded: dict[int, Issue]
    copies: Duplicates
    names: list[Issue]

    def fit(self, task: Task, chosen: NDArray[np.bool_]) -> Task:
        """Fit the task to the labels of the chosen examples, ``chosen [N]``."""
        return task.fit([self.examples[i].label for i in np.flatnonzero(chosen)], self.outputs)


def _choose(
    examples: Iterable[Example],
    source: str,
    kind: InputKind,
    task: Task,
    unlabelled: Sequence[Example],
    progress: Progress | None,
    channels: int,
) -> _Usable:
    """Open every example, and choose the usable ones; see ``check``."""
    offered, unparsed, names = sort_and_parse(examples, source, kind, task, unlabelled)
    usable, opened, excluded, copies = _select_usable(offered, unparsed, progress, kind, channels)
    outputs = find_outputs(source, offered, usable, excluded, kind, task)
    scales = _measure(usable, opened, kind)
    return _Usable(usable, opened, outputs, scales, excluded, copies, names)


def _complete(
    dataset: Dataset,
    opened: Sequence[Inspection],
    unlabelled: Sequence[Example],
    reported: Sequence[Issue],
    progress: Progress | None,
    channels: int,
) -> Dataset:
    """Add the problems of the labelled examples, and the examples without a label.

    Args:
        dataset: The labelled examples.
        opened: Their inspections.
        unlabelled: The examples without a label.
        reported: The problems that the source reported.
        progress: Called after every example.
        channels: The number of channels of images.
    """
    strata = dataset.task.strata(dataset.targets)
    splits = np.array(dataset.splits)
    own = find_issues(dataset.examples, opened, dataset.outputs, strata, splits, dataset.kind)
    dataset = replace(dataset, issues=(*dataset.issues, *own, *reported))
    if not unlabelled:
        return dataset
    offered = sort_unlabelled(unlabelled)
    inspections, _ = _inspect_all(offered, progress, dataset.kind, channels)
    usable, problems = select_unlabelled(
        offered, inspections, dataset.examples, opened, dataset.units, dataset.scales, dataset.kind
    )
    issues = (*dataset.issues, *describe_missing(unlabelled, dataset.kind), *problems)
    return replace(dataset, unlabelled=usable, issues=issues)


def _stratify(task: Task, usable: _Usable) -> tuple[Task, Strata, list[int], list[Issue]]:
    """Fit the task to the labels of examples, and find out by what these are divided.

    Returns:
        The task, the strata and the sampling units of the examples, and issues about near-copies.
    """
    examples, every = usable.examples, np.ones(len(usable.examples), bool)
    fitted = usable.fit(task, every)
    strata = fitted.strata(fitted.encode([example.label for example in examples]))
    groups, issues = find_near_groups(examples, usable.inspections, _number_alike(fitted, strata))
    units = join_units(examples, usable.copies.keys_without(usable.excluded), groups)
    return fitted, strata, units, issues


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Begin the message of a DataError with the name of the source."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from None


def _select_usable(
    offered: Sequence[Example],
    unparsed: Mapping[int, Issue],
    progress: Progress | None,
    kind: InputKind,
    channels: int,
) -> tuple[list[Example], list[Inspection], dict[int, Issue], Duplicates]:
    """Leave out unusable examples, and copies that contradict others.

    Args:
        offered: All examples.
        unparsed: The issues about labels that the task does not have, by index.
        progress: Called after every example.
        kind: What they are.
        channels: The number of channels of images.

    Returns:
        The usable examples and their inspections, the issues of the others by index in ascending
        order, and the copies among all.
    """
    inspections, unreadable = _inspect_all(offered, progress, kind, channels)
    duplicates = find_duplicates(offered, inspections, kind)
    excluded = {**unreadable, **unparsed, **duplicates.excluded}
    chosen = [i for i in range(len(offered)) if i not in excluded]
    usable, inspected = [offered[i] for i in chosen], [inspections[i] for i in chosen]
    return usable, inspected, dict(sorted(excluded.items())), duplicates


def _inspect_all(
    examples: Sequence[Example], progress: Progress | None, kind: InputKind, channels: int
) -> tuple[list[Inspection], dict[int, Issue]]:
    """Inspect all examples; also return the issues of the unusable ones, by index."""
    inspections: list[Inspection] = []
    inspect_one = partial(inspect, kind=kind, channels=channels)
    map_in_threads(inspect_one, examples, inspections.append, "checking", progress)
    return inspections, {
        i: Issue(examples[i].name, inspection.problem, LEFT_OUT)
        for i, inspection in enumerate(inspections)
        if inspection.problem
    }


def _number_alike(task: Task, strata: NDArray[Any]) -> NDArray[np.int64]:
    """A number for each example, equal for those that may be near-copies, ``[N]``.

    They have the same classes; numbers may differ a little between near-copies.
    """
    if strata.ndim == 1:
        return strata if task.names(task.outputs[0]) else np.zeros_like(strata)
    codes: NDArray[np.int64] = np.unique(strata, axis=0, return_inverse=True)[1].reshape(-1)
    return codes


def _assign_folds(
    classes: Sequence[str],
    strata: Strata,
    splits: NDArray[np.str_],
    units: Sequence[int],
    folds: int | None,
    seed: int,
    kind: InputKind,
) -> NDArray[np.int64] | None:
    """The fold of each training example, and -1 for all others, ``[N]``; None without folds.

    Raises:
        DataError: A class has no training example, or there are too few examples or groups.
    """
    require_training_examples(classes, strata, splits, kind)
    if folds is None:
        return None
    train = np.flatnonzero(splits == "train")
    own = [units[int(i)] for i in train]
    drawn = draw_folds(strata[train], own, folds, np.random.default_rng((seed, folds)))
    folds_of = {fold: present_strata(strata[train[drawn == fold]]) for fold in range(folds)}
    in_one = [
        name
        for c, name in enumerate(classes)
        if sum(c in present for present in folds_of.values()) < 2
    ]
    if in_one:
        raise DataError(
            f"outside the test split, all {kind.nouns} of {join_names(in_one)} are in one group, "
            f"or there is only one, so that a fold would have none to train on; add {kind.nouns}, "
            "or remove the option folds"
        )
    assigned = np.full(len(strata), -1, dtype=np.int64)
    assigned[train] = drawn
    return assigned


def _measure(
    examples: Sequence[Example], inspections: Sequence[Inspection], kind: InputKind
) -> dict[str, Scale]:
    """Measure on all examples what their encoding depends on.

    Raises:
        PluginError: A kind returns something else than ranges.
    """
    if kind is IMAGES:
        return scale.fit_scales(i.sample for i in inspections if i.sample)
    measured = kind.measure([e.item for e in examples])
    try:
        return scale.from_json({name: list(pair) for name, pair in measured.items()})
    except (AttributeError, TypeError, ValueError):
        raise PluginError(
            f"measure of the input kind {kind.name!r} returns {measured!r:.100}; return names with "
            "a low and a higher number each, such as {'seconds': (0.0, 4.5)}"
        ) from None


def describe_scales(dataset: Dataset) -> list[str]:
    """A line for each of the scales of a data set."""
    if dataset.kind is IMAGES:
        lines = scale.describe(dataset.scales)
        return [f"scale of {line}; values beyond are clipped" for line in lines]
    what = f"measured on all {dataset.kind.nouns}"
    return [f"{what}: {name} {low:g} to {high:g}" for name, (low, high) in dataset.scales.items()]


def _fingerprint(
    examples: Sequence[Example],
    inspections: Sequence[Inspection],
    scales: Mapping[str, Scale],
    task: Task,
) -> str:
    """The digest of the JSON of all facts, which is not built as a whole: it may be large."""
    beginning = json.dumps([FINGERPRINT_VERSION, scale.to_json(scales)])
    digest = hashlib.sha256(f"{beginning[:-1]}, [".encode())
    for number, (e, i) in enumerate(zip(examples, inspections, strict=True)):
        row = json.dumps([e.name, i.content, e.label, e.split, e.group])
        digest.update(f"{', ' if number else ''}{row}".encode())
    other = "" if task.name == CLASSIFICATION.name else f", {json.dumps(task.name)}"
    digest.update(f"]{other}]".encode())
    return digest.hexdigest()
