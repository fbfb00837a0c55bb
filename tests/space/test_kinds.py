"""The kinds of plugin."""

from __future__ import annotations

from autotl.space.kinds import GIVEN_ARGUMENTS, OPTIONAL_KINDS, SEARCHED_KINDS


def test_what_describes_the_data_is_not_searched() -> None:
    assert set(GIVEN_ARGUMENTS) - set(SEARCHED_KINDS) == {"dataset", "metric", "task"}
    assert set(OPTIONAL_KINDS) < set(SEARCHED_KINDS)
