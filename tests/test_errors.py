"""Errors: one tree for what the user can mend, one for how a trial ends, and near names."""

from __future__ import annotations

import inspect

import pytest

from autotl import errors
from autotl.errors import AutoTLError, TrialStopped, did_you_mean

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == "autotl.errors"
]


def test_every_error_is_in_exactly_one_of_the_two_trees() -> None:
    for error in CLASSES:
        assert issubclass(error, AutoTLError) != issubclass(error, TrialStopped), error


def test_the_tree_in_the_docstring_is_the_one_in_the_code() -> None:
    assert errors.__doc__ is not None
    drawn = {w for w in errors.__doc__.split() if w.isidentifier() and hasattr(errors, w)}
    assert drawn == {c.__name__ for c in CLASSES}


def test_trials_end_in_different_ways() -> None:
    ends = [c.status for c in CLASSES if issubclass(c, TrialStopped)]
    assert len(set(ends)) == len(ends)
    assert TrialStopped.status == "failed"


@pytest.mark.parametrize(
    ("name", "names", "answer"),
    [
        ("liner", ["mlp", "linear"], "did you mean 'linear'?"),
        ("x", ["mlp", "linear"], "there are linear, mlp"),
        ("x", [], "there are none"),
        ("x", [f"name{i:02}" for i in range(12)], "name11"),
        ("x", [f"name{i:02}" for i in range(13)], "there are 13, such as name00, name01"),
    ],
)
def test_did_you_mean(name: str, names: list[str], answer: str) -> None:
    assert answer in did_you_mean(name, (n for n in names))


def test_did_you_mean_does_not_flood_the_screen() -> None:
    assert len(did_you_mean("?", [f"name{i}" for i in range(1000)])) < 100
