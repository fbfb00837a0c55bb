"""Checks that the plugins satisfy the contract: run ``pytest`` in this folder."""

from autotl_example import bottleneck, top_and_stem

from autotl.testing import check


def test_the_strategy_satisfies_the_contract() -> None:
    assert check(top_and_stem) >= 1


def test_the_head_satisfies_the_contract() -> None:
    assert check(bottleneck) >= 1
