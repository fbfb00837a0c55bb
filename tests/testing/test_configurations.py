"""The configurations that are tried of a plugin."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from torch import nn

from autotl import (
    Range,
    When,
    head,
)
from autotl.testing import check, configurations


@head
def good(
    features: int,
    classes: int,
    *,
    depth: Literal[0, 1, 2] = 1,
    width: Annotated[int, Range(8, 64, log=True), When(depth=(1, 2))] = 16,
    second: Annotated[int, Range(8, 32), When(depth=2)] = 8,
    dropout: Annotated[float, Range(0.0, 0.5)] = 0.1,
    note: str = "a setting",
) -> nn.Module:
    """Up to two hidden layers."""
    sizes = [features, width, second][: depth + 1]
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def test_every_end_and_choice_is_tried_once_with_its_conditions_met() -> None:
    tried = configurations(good)
    assert tried[0] == {"depth": 1, "width": 16, "second": 8, "dropout": 0.1}
    assert {t["depth"] for t in tried} == {0, 1, 2}
    assert {8, 64} <= {t["width"] for t in tried if t["depth"] == 1}
    assert {8, 32} == {t["second"] for t in tried if t["depth"] == 2}
    assert {0.0, 0.5} <= {t["dropout"] for t in tried}
    assert len(tried) == 8  # depth=2 has second=8 in it already
    assert check(good) == 8


def test_a_condition_may_depend_on_a_condition() -> None:
    @head
    def chained(
        features: int,
        classes: int,
        *,
        one: bool = False,
        two: Annotated[Literal["a", "b"], When(one=True)] = "a",
        three: Annotated[float, Range(0, 1), When(two="b")] = 0.5,
    ) -> nn.Module:
        """Conditions three deep."""
        return nn.Linear(features, classes)

    assert {"one": True, "two": "b", "three": 1.0} in configurations(chained)
