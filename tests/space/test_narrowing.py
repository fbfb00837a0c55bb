"""Narrowing plugins: pinned values, narrowed ranges and choices, and messages for mistakes."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest

from autotl import Mirrors, Range, augment, head
from autotl.errors import StudyError
from autotl.space.narrowing import mirrors_by_choice, narrow_plugin, pin_unmirrored


@head
def mlp(
    features: int,
    *,
    depth: Literal[1, 2, 3] = 1,
    width: Annotated[int, Range(8, 64, log=True)] = 16,
    dropout: Annotated[float, Range(0.1, 0.9)] = 0.5,
    norm: bool = True,
    note: str = "plain",
) -> None: ...


@augment
def stepped(
    size: int,
    *,
    area: Annotated[float, Range(0.1, 0.9, step=0.2)] = 0.5,
    count: Annotated[int, Range(2, 8, step=3)] = 5,
) -> Any: ...


def test_the_default_is_kept_or_moved_to_the_nearest_value() -> None:
    assert narrow_plugin(mlp, {"depth": [3, 1]}).defaults["depth"] == 1
    assert narrow_plugin(mlp, {"depth": [3, 2]}).defaults["depth"] == 3
    assert narrow_plugin(mlp, {"width": [8, 12]}).defaults["width"] == 12
    assert narrow_plugin(mlp, {"width": [8, 20]}).defaults["width"] == 16
    assert narrow_plugin(mlp, {}) is mlp
    assert mlp.defaults["width"] == 16


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"widht": 9}, ["head plugin 'mlp'", "'widht'", "did you mean 'width'"]),
        ({"nota": 9}, ["'nota'", "did you mean 'note'"]),
        ({"depth": 4}, ["[space.head.mlp] depth = 4", "1 | 2 | 3"]),
        ({"depth": [1, 4]}, ["[space.head.mlp] depth = 4", "outside"]),
        ({"depth": True}, ["depth = True", "1 | 2 | 3"]),
        ({"depth": []}, ["depth = []", "at least one value of 1 | 2 | 3"]),
        ({"norm": "yes"}, ["norm = 'yes'", "False | True"]),
        ({"width": 7}, ["width = 7", "8 to 64 (log)"]),
        ({"width": 9.5}, ["width = 9.5", "8 to 64 (log)"]),
        ({"width": [8, 65]}, ["width = 65", "8 to 64 (log)"]),
        ({"width": [20, 10]}, ["width = [20, 10]", "[low, high]"]),
        ({"width": [10, 10]}, ["width = [10, 10]", "one value to pin it"]),
        ({"width": [8, 9, 10]}, ["width = [8, 9, 10]", "[low, high]"]),
        ({"width": []}, ["width = []", "[low, high]"]),
        ({"dropout": math.nan}, ["dropout = nan", "0.1 to 0.9"]),
    ],
)
def test_invalid_values_are_explained(values: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        narrow_plugin(mlp, values)
    assert [p for p in parts if p not in str(caught.value)] == []


def test_steps_start_at_the_narrowed_lower_limit() -> None:
    [area, _] = narrow_plugin(stepped, {"area": [0.2, 0.85]}).hyperparameters
    assert area.range
    assert (area.range.low, area.range.step) == (0.2, 0.2)
    assert area.range.high == pytest.approx(0.8)
    assert area.default == pytest.approx(0.4)
    assert area.can_draw(0.4)
    assert not area.can_draw(0.5)


def test_a_range_narrower_than_a_step_is_searched_without_steps() -> None:
    [area, _] = narrow_plugin(stepped, {"area": [0.45, 0.55]}).hyperparameters
    assert area.range == Range(0.45, 0.55)


def test_a_pinned_value_need_not_be_on_a_step() -> None:
    [area, _] = narrow_plugin(stepped, {"area": 0.62}).hyperparameters
    assert area.choices == (0.62,)


def test_the_default_of_an_integer_stays_an_integer() -> None:
    [_, count] = narrow_plugin(stepped, {"count": [2, 7]}).hyperparameters
    assert (count.range, count.default) == (Range(2, 5, step=3), 5)
    assert isinstance(count.default, int)


@augment
def mirrored(size: int, *, flip: Annotated[bool, Mirrors()] = True, grey: bool = True) -> Any: ...


def test_only_what_the_search_chooses_is_pinned_to_no_mirroring() -> None:
    [flip, grey] = pin_unmirrored(mirrored).hyperparameters
    assert (flip.choices, flip.default) == ((False,), False)
    assert (grey.choices, grey.default) == ((False, True), True)
    chosen = narrow_plugin(mirrored, {"flip": True})
    assert pin_unmirrored(chosen) == chosen
    assert [mirrors_by_choice(h) for h in mirrored.hyperparameters] == [True, False]
    assert not any(map(mirrors_by_choice, chosen.hyperparameters))
