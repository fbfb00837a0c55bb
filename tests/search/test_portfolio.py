"""Which recipes are tried before the sampler chooses, and on which backbones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest

from autotl import Range, backbone, freeze, head
from autotl.search.leaderboard import rank
from autotl.search.portfolio import WARM_START, Names, Portfolio
from autotl.space.space import Space
from autotl.store import TrialFacts, TrialRow


@backbone
def large() -> Any: ...


@backbone
def small() -> Any: ...


@freeze(order=2)
def full(model: Any, *, lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-4) -> Any: ...


@freeze(order=1)
def probe(model: Any, *, lr: Annotated[float, Range(1e-4, 1e-1, log=True)] = 1e-3) -> Any: ...


@freeze
def sampled(model: Any) -> Any: ...


@head(order=1)
def linear(features: int, classes: int) -> Any: ...


@head(order=2)
def solved(features: int, classes: int) -> Any: ...


SPACE = Space(
    {
        "backbone": (large, small),
        "freeze": (full, probe, sampled),
        "head": (linear, solved),
    }
)
PARAMETERS = {"large": 100, "small": 10}


WarmStart = Mapping[str, Mapping[str, Any]]


class Search:
    """A search without training: trials end as the test says."""

    def __init__(self, warm_start: WarmStart | None = None) -> None:
        self.portfolio = Portfolio(SPACE, 100, lambda: warm_start or {})
        self.rows: list[TrialRow] = []
        self.tried: dict[Names, TrialRow] = {}
        self.params: list[dict[str, Any]] = []

    @property
    def ranked(self) -> list[TrialRow]:
        return rank(self.rows, "maximize")

    def next(self, score: float = 0.5, status: str = "complete", **facts: Any) -> Names:
        """Run the next recipe; returns its names, () if the sampler would choose."""
        recipe = self.portfolio.next_recipe(self.ranked, self.tried)
        assert recipe == self.portfolio.next_recipe(
            self.ranked, self.tried
        )  # asking changes nothing
        if recipe is None:
            return ()
        names, params = recipe
        config = {kind: {params.get(kind, "?"): {}} for kind in SPACE.plugins}
        parameters = PARAMETERS[params.get("backbone", "large")]
        row = TrialRow(
            len(self.rows),
            status,
            "",
            config,
            score if status == "complete" else None,
            1,
            parameters,
            1,
            1.0,
            datetime.now(UTC),
            TrialFacts(recipe=list(names), **facts),
        )
        self.rows.append(row)
        self.tried[names] = row
        self.params.append(params)
        return names


def test_probes_come_first_then_the_recipes_on_the_best_backbone() -> None:
    search = Search()
    assert search.next(0.9) == ("large", "probe", "linear")
    assert search.next(0.5) == ("small", "probe", "linear")
    assert search.next() == ("large", "probe", "solved")
    assert search.next() == ("large", "full", "linear")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()
    assert search.params[3] == {
        "backbone": "large",
        "freeze": "full",
        "freeze.full.lr": 1e-4,
        "head": "linear",
    }


def test_of_backbones_within_a_standard_error_the_smaller_is_promising() -> None:
    search = Search()
    search.next(0.90)
    search.next(0.88)  # a standard error of 0.90 on 100 images is 0.03
    assert search.next() == ("small", "probe", "solved")
    search = Search()
    search.next(0.90)
    search.next(0.86)
    assert search.next() == ("large", "probe", "solved")


def test_of_equal_size_the_higher_logme_is_promising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMETERS, "large", 10)
    search = Search()
    search.next(0.90, logme=0.1)
    search.next(0.90, logme=0.3)
    assert search.next() == ("small", "probe", "solved")


def test_where_there_is_no_time_the_next_backbone_gets_the_recipe() -> None:
    search = Search()
    search.next(0.9)
    search.next(0.5)
    search.next()
    assert search.next(status="out_of_time") == ("large", "full", "linear")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()


def test_where_there_is_no_time_a_slower_backbone_is_not_tried() -> None:
    search = Search()
    search.next(0.9, ms_per_item=5.0)
    search.next(0.5, ms_per_item=9.0)
    search.next()
    assert search.next(status="out_of_time") == ("large", "full", "linear")
    assert search.next() == ()


def test_recipes_that_were_out_of_time_are_tried_again_when_the_study_continues() -> None:
    search = Search()
    search.next(0.9)
    search.next(0.5)
    search.next()
    for _ in range(2):
        search.next(status="out_of_time")
    assert search.next() == ()
    search.portfolio = replace(search.portfolio, first_trial=len(search.rows))
    assert search.next(status="out_of_time") == ("large", "full", "linear")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()


def test_a_recipe_that_failed_does_not_end_the_others() -> None:
    search = Search()
    search.next(0.9)
    search.next(0.5)
    search.next()
    assert search.next(status="diverged") == ("large", "full", "linear")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()


def test_a_recipe_that_was_interrupted_is_tried_again() -> None:
    search = Search()
    assert search.next(status="interrupted") == ("large", "probe", "linear")
    assert search.next(0.9) == ("large", "probe", "linear")
    assert search.next(0.5) == ("small", "probe", "linear")


def test_a_recipe_that_runs_is_not_tried_twice() -> None:
    search = Search()
    assert search.next(status="running") == ("large", "probe", "linear")
    assert search.next() == ("small", "probe", "linear")


def test_what_did_best_in_earlier_studies_comes_after_the_probes() -> None:
    earlier = {"flowers": {"freeze": "full", "freeze.full.lr": 3e-4, "backbone": "small"}}
    search = Search(earlier)
    search.next()
    search.next()
    assert search.next() == (WARM_START, "flowers")
    assert search.params[2] == earlier["flowers"]
    assert search.next()[1:] == ("probe", "solved")


def test_defaults_that_did_best_in_earlier_studies_are_tried_once() -> None:
    def defaults(freeze: str) -> dict[str, Any]:
        return SPACE.defaults(backbone="small", freeze=freeze, head="linear")

    search = Search({"flowers": defaults("probe"), "cats": defaults("full")})
    search.next(0.9)
    search.next(0.5)
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ("large", "probe", "solved")
    assert search.next() == ("large", "full", "linear")
    assert search.next() == ()


def test_earlier_studies_are_read_only_when_the_backbones_are_probed() -> None:
    def warm_start() -> WarmStart:
        raise AssertionError("too early")

    search = Search()
    search.portfolio = Portfolio(SPACE, 100, warm_start)
    search.next()
    search.next()
    with pytest.raises(AssertionError, match="too early"):
        search.next()


def test_which_recipes_are_probes() -> None:
    search = Search()
    for expected in (True, True, False, False, False):
        assert search.portfolio.is_probe(search.next()) == expected
    assert not search.portfolio.is_probe(())


def test_the_first_strategy_is_cheap() -> None:
    portfolio = Search().portfolio
    assert portfolio.is_cheap({"backbone": {"large": {}}, "freeze": {"probe": {"lr": 0.1}}})
    assert not portfolio.is_cheap({"freeze": {"full": {}}})


def test_a_cheap_trial_uses_what_was_computed_before() -> None:
    search = Search()
    assert search.portfolio.cheapest_parameters([])["freeze"] == "probe"
    search.next(0.5)
    search.next(0.9)
    cheap = {"freeze": "probe", "backbone": "small"}
    assert search.portfolio.cheapest_parameters(search.ranked) == cheap


def test_a_backbone_that_was_excluded_later_is_not_promising() -> None:
    search = Search()
    search.next(0.9)
    search.next(0.5)
    less = replace(SPACE, plugins={**SPACE.plugins, "backbone": (small,)})
    search.portfolio = replace(search.portfolio, space=less)
    assert search.next() == ("small", "probe", "solved")
