"""The labels of the examples that a source offers, and whether they suffice for a task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autotl.data.duplicates import LEFT_OUT
from autotl.data.labels import check_labels, find_same, join_names, natural_key, parse_label
from autotl.data.split import (
    GIVEN_SPLITS,
    SPLITS,
    Strata,
    present_strata,
)
from autotl.errors import DataError
from autotl.space.input_kind import InputKind
from autotl.space.plugin import Example, Issue
from autotl.space.task import Task
from autotl.tasks import Classification


def sort_and_parse(
    examples: Iterable[Example],
    source: str,
    kind: InputKind,
    task: Task,
    unlabelled: Sequence[Example],
) -> tuple[list[Example], dict[int, Issue], list[Issue]]:
    """Sort the examples by name in natural order, parse their labels, and check their splits.

    Returns:
        The examples with the text of their labels; issues about labels that the task does not
        have, by index; and issues about names of classes.
    """
    offered = sorted(examples, key=lambda e: natural_key(e.name))
    unparsed: dict[int, Issue] = {}
    for i, example in enumerate(offered):
        label, problem = parse_label(example.label, task)
        if label is not example.label:
            offered[i] = replace(example, label=label)
        if problem:
            unparsed[i] = Issue(example.name, problem, LEFT_OUT)
    if not offered and unlabelled:
        raise DataError(
            f"{source}: none of the {len(unlabelled)} {kind.nouns} has a label; at least two "
            f"{task.nouns} are needed, one folder or label for each"
        )
    if not offered:
        raise DataError(f"{source}: no {kind.nouns} found; check the path and the folder structure")
    if invalid := next((e for e in offered if e.split not in GIVEN_SPLITS), None):
        raise DataError(
            f"{source}: {invalid.name} has split {invalid.split!r}; the dataset plugin must give "
            f"one of {', '.join(SPLITS)}, or none"
        )
    return offered, unparsed, _check_names(offered, task)


def _check_names(examples: Sequence[Example], task: Task) -> list[Issue]:
    """Issues about names of classes; none where a label is not the name of one class."""
    return check_labels([e.label for e in examples]) if isinstance(task, Classification) else []


def _require_training_split(
    source: str,
    offered: Sequence[Example],
    usable: Sequence[Example],
    excluded: Mapping[int, Issue],
    kind: InputKind,
) -> None:
    """Raise DataError if all training examples are copies of validation or test examples."""
    train = [i for i, e in enumerate(offered) if e.split in ("", "train")]
    if not train or any(e.split in ("", "train") for e in usable):
        return
    copies = [excluded[i] for i in train if excluded[i].problem.startswith(f"same {kind.noun} as")]
    if copies:
        raise DataError(
            f"{source}: {len(copies)} of the {len(train)} training {kind.nouns} are also in "
            f"validation or test, and none is left: {copies[0].name} is the {copies[0].problem}; "
            "remove them from one of the splits"
        )


def find_outputs(
    source: str,
    offered: Sequence[Example],
    usable: Sequence[Example],
    excluded: Mapping[int, Issue],
    kind: InputKind,
    task: Task,
) -> tuple[str, ...]:
    """The classes that labels name, in natural order; none if labels are numbers.

    Raises:
        DataError: There are fewer than two classes, or fewer than two usable examples of one.
    """
    _require_training_split(source, offered, usable, excluded, kind)
    hint = _describe_first(excluded.values())
    total = Counter(name for e in offered if e.label for name in task.names(e.label))
    if usable and not total:
        return ()
    classes = tuple(sorted(total, key=natural_key))
    if not classes and not task.has_classes:
        nouns = f"the {len(offered)} {kind.nouns}"
        raise DataError(f"{source}: none of {nouns} has a label for {task.name}{hint}")
    if len(classes) < 2:
        present = f"only the {task.noun} {classes[0]!r}" if classes else f"no {task.noun}"
        raise DataError(
            f"{source}: {len(offered)} {kind.nouns} but {present}; at least two {task.nouns} are "
            f"needed, one folder or label for each{hint}"
        )
    count = Counter(name for e in usable for name in task.names(e.label))
    if few := [c for c in classes if count[c] < 2]:
        small = [f"{c} ({count[c]} of {total[c]})" for c in few]
        hint = _describe_first(
            issue for i, issue in excluded.items() if set(few) & set(_names_of(task, offered[i]))
        )
        raise DataError(
            f"{source}: fewer than two usable {kind.nouns} of {join_names(small)}; add "
            f"{kind.nouns} or remove the {task.noun}{_hint_same(few, classes)}{hint}"
            f"{_hint_numbers(classes)}"
        )
    return classes


def _names_of(task: Task, example: Example) -> Sequence[str]:
    """The outputs that the label of an example names; none without a label."""
    return task.names(example.label) if example.label else ()


def _describe_first(issues: Iterable[Issue]) -> str:
    """The end of a message: the first of some problems."""
    first = next(iter(issues), None)
    return f" (first problem: {first.name}: {first.problem})" if first else ""


def _hint_numbers(classes: Sequence[str]) -> str:
    """The end of a message: another task, if the names of all classes are numbers."""
    numbers = all(re.fullmatch(r"[+-]?\d+(\.\d*)?", name) for name in classes)
    return "; if the labels are numbers to predict, give --task regression" if numbers else ""


def _hint_same(names: Sequence[str], classes: Sequence[str]) -> str:
    """The end of a message: another class whose name is probably meant."""
    pairs = ((name, find_same(name, classes)) for name in names)
    return next((f"; {n!r} is probably {same!r}: rename it" for n, same in pairs if same), "")


def require_training_examples(
    classes: Sequence[str], strata: Strata, splits: NDArray[np.str_], kind: InputKind
) -> None:
    """Raise DataError if a class has no example in the training split."""
    trained = present_strata(strata[splits == "train"])
    if untrained := [name for c, name in enumerate(classes) if c not in trained]:
        raise DataError(
            f"no training {kind.noun} of {join_names(untrained)}; move some of its {kind.nouns} to "
            f"the training split, or remove the class{_hint_same(untrained, classes)}"
        )
