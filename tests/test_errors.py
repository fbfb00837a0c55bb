"""Errors: the tree that users can resolve, the tree that ends trials, and suggestions of names."""

from __future__ import annotations

import inspect

import pytest

from autotl import errors
from autotl.errors import (
    AutoTLError,
    DataError,
    PluginError,
    StoreError,
    TrialStopped,
    did_you_mean,
)

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == "autotl.errors"
]


def test_every_error_is_in_exactly_one_of_the_two_trees() -> None:
    for error in CLASSES:
        assert issubclass(error, AutoTLError) != issubclass(error, TrialStopped), error


def test_the_docstring_lists_every_error_class() -> None:
    assert errors.__doc__ is not None
    listed = {w for w in errors.__doc__.split() if w.isidentifier() and hasattr(errors, w)}
    assert listed == {c.__name__ for c in CLASSES}


def test_every_way_to_stop_a_trial_has_its_own_status() -> None:
    statuses = [c.status for c in CLASSES if issubclass(c, TrialStopped)]
    assert len(set(statuses)) == len(statuses)
    assert TrialStopped.status == "failed"


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        ("liner", ["mlp", "linear"], "did you mean 'linear'?"),
        ("x", ["mlp", "linear"], "there are linear, mlp"),
        ("x", [], "there are none"),
        ("x", [f"name{i:02}" for i in range(12)], "name11"),
        ("x", [f"name{i:02}" for i in range(13)], "there are 13, such as name00, name01"),
    ],
)
def test_did_you_mean_suggests_a_similar_name_or_lists_them(
    name: str, names: list[str], expected: str
) -> None:
    assert expected in did_you_mean(name, (n for n in names))


def test_did_you_mean_stays_short_with_many_names() -> None:
    assert len(did_you_mean("?", [f"name{i}" for i in range(1000)])) < 100


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(5, "Input/output error"), True),
        (DataError("x.png: the file is missing"), True),
        (StoreError("the database is locked"), True),
        (FileNotFoundError(2, "No such file"), False),
        (PluginError("no such plugin"), False),
        (RuntimeError("boom"), False),
        (None, False),
    ],
)
def test_a_fault_of_the_machine_is_told_from_one_of_a_trial(
    error: Exception | None, is_fault: bool
) -> None:
    assert errors.is_machine_fault(error) == is_fault
