"""Configurations in words."""

from autotl import report


def test_hyperparameters_are_rounded_but_whole_numbers_are_exact() -> None:
    chosen = {"head": {"mlp": {"width": 1024, "dropout": 0.123456, "norm": True}}}
    assert report.describe_config(chosen) == "mlp(width=1024, dropout=0.123, norm=True)"
    assert report.describe_config(chosen, values=False) == "mlp"
    assert report.describe_config({}) == ""
