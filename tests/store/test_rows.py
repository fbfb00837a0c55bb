"""Rows of the tables as values."""

from __future__ import annotations

from datetime import UTC, datetime

from autotl.store import TestResult, TestRow, single


def test_a_test_is_done_when_it_has_a_score() -> None:
    def row(result: TestResult) -> TestRow:
        return TestRow(1, datetime.now(UTC), single(0), {}, result)

    assert not row(TestResult(n=100)).done
    assert row(TestResult(score=0.0, n=100)).done
