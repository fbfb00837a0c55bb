"""Which recipes come before the sampler, on which backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import optuna
import pytest

from autotl import Range, backbone, freeze, head
from autotl.search.portfolio import PAST, RECIPE, Portfolio
from autotl.space.space import Space, to_json
from autotl.store import TrialRow


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


class Search:
    """A search without training: trials end as they are told."""

    def __init__(self, past: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        self.portfolio = Portfolio(self.study, SPACE, 100, lambda: past or {})
        self.rows: list[TrialRow] = []

    def next(self, score: float = 0.5, status: str = "complete", **facts: Any) -> tuple[str, ...]:
        """Run the next trial; returns the names of its recipe, () if the sampler chose."""
        ranked = sorted(
            (r for r in self.rows if r.status == "complete"), key=lambda r: -(r.score or 0)
        )
        self.portfolio.enqueue(ranked)
        trial = self.study.ask()
        config = to_json(SPACE.suggest(trial))
        trial.set_user_attr("status", status)
        self.study.tell(trial, score)
        [name] = config["backbone"]
        row = TrialRow(
            trial.number,
            status,
            "",
            config,
            score,
            1,
            PARAMETERS[name],
            1,
            1.0,
            datetime.now(UTC),
            facts,
        )
        self.rows.append(row)
        return tuple(trial.user_attrs.get(RECIPE, ()))


def test_probes_come_first_then_the_recipes_on_the_best_backbone() -> None:
    search = Search()
    assert search.next(0.9) == ("large", "probe", "linear")
    assert search.next(0.5) == ("small", "probe", "linear")
    assert search.next() == ("large", "probe", "solved")
    assert search.next() == ("large", "full", "linear")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()
    values = search.study.trials[3].params
    assert values == {
        "backbone": "large",
        "freeze": "full",
        "freeze.full.lr": 1e-4,
        "head": "linear",
    }


def test_of_backbones_within_a_standard_error_the_smaller_is_promising() -> None:
    search = Search()
    search.next(0.90)
    search.next(0.88)  # a standard error of 0.90 on 100 pictures is 0.03
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


def test_what_there_was_no_time_for_is_tried_again_when_the_study_goes_on() -> None:
    search = Search()
    search.next(0.9)
    search.next(0.5)
    search.next()
    for _ in range(2):
        search.next(status="out_of_time")
    assert search.next() == ()
    search.portfolio = replace(search.portfolio, earlier=len(search.study.trials))
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


def test_what_did_best_before_comes_after_the_probes() -> None:
    past = {"flowers": {"freeze": "full", "freeze.full.lr": 3e-4, "backbone": "small"}}
    search = Search(past)
    search.next()
    search.next()
    assert search.next() == (PAST, "flowers")
    assert search.study.trials[2].params.items() >= past["flowers"].items()
    assert search.next()[1:] == ("probe", "solved")


def test_the_past_is_asked_only_when_the_backbones_are_probed() -> None:
    def asked() -> Mapping[str, Any]:
        raise AssertionError("too early")

    search = Search()
    search.portfolio = Portfolio(search.study, SPACE, 100, asked)
    search.next()
    search.next()
    with pytest.raises(AssertionError, match="too early"):
        search.next()


def test_a_cheap_trial_is_queued_once() -> None:
    search = Search()
    search.portfolio.enqueue_cheap([])
    search.portfolio.enqueue_cheap([])
    assert search.portfolio.waiting()
    search.next()
    assert search.study.trials[0].params["freeze"] == "probe"
    assert search.portfolio.is_cheap(search.study.trials[0])
    assert not search.portfolio.waiting()


def test_what_is_a_probe() -> None:
    search = Search()
    for expected in (True, True, False, False, False):
        search.next()
        assert search.portfolio.is_probe(search.study.trials[-1]) == expected


def test_a_cheap_trial_is_of_what_was_computed_before() -> None:
    search = Search()
    search.next(0.5)
    search.next(0.9)
    for _ in range(6):
        search.portfolio.enqueue_cheap(search.rows[1::-1])
        search.study.ask()
        queued = search.study.trials[-1].system_attrs["fixed_params"]
        assert queued == {"freeze": "probe", "backbone": "small"}


def test_a_backbone_that_was_left_out_later_is_no_promising_one() -> None:
    search = Search()
    search.next(0.9)
    search.next(0.5)
    less = replace(SPACE, plugins={**SPACE.plugins, "backbone": (small,)})
    search.portfolio = replace(search.portfolio, space=less)
    assert search.next() == ("small", "probe", "solved")
