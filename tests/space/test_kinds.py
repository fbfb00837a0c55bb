"""The kinds of plugin."""

from __future__ import annotations

from autotl.space.kinds import GIVEN_ARGUMENTS, OPTIONAL_KINDS, SEARCHED_KINDS


def test_all_kinds_but_datasets_are_searched() -> None:
    assert set(GIVEN_ARGUMENTS) - set(SEARCHED_KINDS) == {"dataset"}
    assert set(OPTIONAL_KINDS) < set(SEARCHED_KINDS)
