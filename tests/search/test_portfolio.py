"""Which recipes are tried before the sampler chooses, and on which backbones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import pytest

from autotl import Range, Weights, augment, backbone, freeze, head, unlabelled
from autotl.search.portfolio import WARM_START, Names, Portfolio
from autotl.search.ranking import rank
from autotl.space.plugin import FILE, AnyPlugin
from autotl.space.space import Space
from autotl.store import ScreeningFacts, TrialFacts, TrialRow
from autotl.store.rows import CONTRIBUTION_TYPE


@backbone
def large() -> Any: ...


@backbone
def small() -> Any: ...


@freeze(order=2)
def full(model: Any, *, lr: Annotated[float, Range(1e-5, 1e-2, log=True)] = 1e-4) -> Any: ...


@freeze(order=1)
def probe(model: Any, *, lr: Annotated[float, Range(1e-4, 1e-1, log=True)] = 1e-3) -> Any: ...


@freeze(order=3)
def decay(model: Any) -> Any: ...


@freeze
def sampled(model: Any) -> Any: ...


@head(order=1)
def linear(features: int, classes: int) -> Any: ...


@head(order=2)
def solved(features: int, classes: int) -> Any: ...


@head
def cosine(features: int, classes: int) -> Any: ...


@augment(order=1)
def plain(size: int) -> Any: ...


@augment
def blurred(size: int) -> Any: ...


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

    def __init__(self, warm_start: WarmStart | None = None, space: Space = SPACE) -> None:
        self.portfolio = Portfolio(space, lambda: warm_start or {})
        self.rows: list[TrialRow] = []
        self.tried: dict[Names, TrialRow] = {}
        self.params: list[dict[str, Any]] = []
        self.scale = 1.0
        self.screening: ScreeningFacts | None = None

    @property
    def ranked(self) -> list[TrialRow]:
        return rank(self.rows, "maximize")

    def contributions(self, score: float) -> bytes:
        """Those of 100 images to an accuracy, times ``scale``."""
        correct = np.arange(100) < 100 * score
        return (score + self.scale * (correct - score)).astype(CONTRIBUTION_TYPE).tobytes()

    def next(
        self, score: float = 0.5, status: str = "complete", *, probing: bool = True, **facts: Any
    ) -> Names:
        """Run the next recipe; returns its names, () if the sampler would choose."""
        recipe, repeated = (
            self.portfolio.next_recipe(
                self.ranked, self.tried, probing=probing, screening=self.screening
            )
            for _ in range(2)
        )
        assert recipe == repeated  # asking changes nothing
        if recipe is None:
            return ()
        names, params = recipe
        config = {kind: {params.get(kind, "?"): {}} for kind in self.portfolio.space.plugins}
        parameters = PARAMETERS.get(params.get("backbone", "large"), 10)
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
            self.contributions(score),
        )
        self.rows.append(row)
        self.tried[names] = row
        self.params.append(params)
        return names

    def begin(self, first: float = 0.9, second: float = 0.5, **facts: Any) -> None:
        """Run the probes of both backbones, and the default recipe between them."""
        assert self.next(first, **facts) == ("large", "probe", "linear")
        assert self.next(0.0, **facts) == ("large", "full", "linear")
        assert self.next(second, **facts) == ("small", "probe", "linear")


def test_the_default_recipe_follows_the_first_probe() -> None:
    search = Search()
    assert search.next(0.9) == ("large", "probe", "linear")
    assert search.next(0.9) == ("large", "full", "linear")
    assert search.next(0.5) == ("small", "probe", "linear")
    assert search.next() == ("large", "probe", "solved")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()
    assert search.params[1] == {
        "backbone": "large",
        "freeze": "full",
        "freeze.full.lr": 1e-4,
        "head": "linear",
    }


def test_without_time_for_probing_the_other_backbones_are_probed_last() -> None:
    search = Search({"flowers": {"freeze": "full", "freeze.full.lr": 3e-4, "backbone": "small"}})
    assert search.next(probing=False) == ("large", "probe", "linear")
    assert search.next(probing=False) == ("large", "full", "linear")
    assert search.next(probing=False) == (WARM_START, "flowers")
    assert search.next(probing=False) == ("large", "probe", "solved")
    assert search.next(probing=False) == ("small", "probe", "linear")  # at last


def test_the_other_strategies_are_tried_on_the_most_promising_backbone() -> None:
    strategies = (full, probe, sampled, decay)
    search = Search(space=replace(SPACE, plugins={**SPACE.plugins, "freeze": strategies}))
    search.begin(first=0.5, second=0.9)
    assert search.next() == ("small", "probe", "solved")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ("small", "decay", "linear")
    assert search.next() == ()


def test_a_space_with_one_strategy_has_probes_alone() -> None:
    search = Search(space=replace(SPACE, plugins={**SPACE.plugins, "freeze": (probe,)}))
    assert search.next(0.9) == ("large", "probe", "linear")
    assert search.next(0.5) == ("small", "probe", "linear")
    assert search.next() == ("large", "probe", "solved")
    assert search.next() == ()


def test_plugins_of_the_user_take_the_places_of_those_of_the_default_recipe() -> None:
    def added(plugin: AnyPlugin) -> AnyPlugin:
        return replace(plugin, origin=f"{FILE}own.py sha256:0")

    plugins = {
        "backbone": (large, added(small)),
        "freeze": (full, probe, added(sampled)),
        "augment": (plain, added(blurred)),
        "head": (linear, solved, added(cosine)),
    }
    search = Search(space=Space(plugins))
    expected = [
        ("large", "probe", "linear"),
        ("large", "full", "linear"),
        ("small", "full", "linear"),
        ("large", "sampled", "linear"),
        ("large", "full", "linear", "blurred"),
        ("large", "full", "cosine"),
        ("small", "probe", "linear"),
    ]
    assert [search.next() for _ in expected] == expected
    assert [params["augment"] for params in search.params[:6]] == ["plain"] * 4 + [
        "blurred",
        "plain",
    ]
    defaults = [search.portfolio.is_default(names) for names in expected]
    assert defaults == [False, True, True, False, False, False, False]


def test_of_backbones_within_a_standard_error_the_smaller_is_promising() -> None:
    search = Search()
    search.begin(0.90, 0.88)  # a standard error of 0.90 on 100 images is 0.03
    assert search.next() == ("small", "probe", "solved")
    search = Search()
    search.begin(0.90, 0.86)
    assert search.next() == ("large", "probe", "solved")


def test_the_standard_error_is_that_of_the_predictions_in_any_metric() -> None:
    search = Search()
    search.scale = 0.1  # as of an AUROC, whose standard error is less than that of an accuracy
    search.begin(0.90, 0.88)
    assert search.next() == ("large", "probe", "solved")


def test_of_equal_size_the_higher_logme_is_promising(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMETERS, "large", 10)
    search = Search()
    search.next(0.90, logme=0.1)
    search.next()
    search.next(0.90, logme=0.3)
    assert search.next() == ("small", "probe", "solved")


def test_where_there_is_no_time_the_next_backbone_gets_the_recipe() -> None:
    search = Search()
    search.next(0.9)
    assert search.next(status="out_of_time") == ("large", "full", "linear")
    search.next(0.5)
    search.next()
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()


def test_where_there_is_no_time_a_slower_backbone_is_not_tried() -> None:
    search = Search()
    search.next(0.9, ms_per_item=5.0)
    search.next(status="out_of_time")
    search.next(0.5, ms_per_item=9.0)
    search.next()
    assert search.next() == ()


def test_recipes_that_were_out_of_time_are_tried_again_when_the_study_continues() -> None:
    search = Search()
    search.next(0.9)
    search.next(status="out_of_time")
    search.next(0.5)
    search.next()
    assert search.next(status="out_of_time") == ("small", "full", "linear")
    assert search.next() == ()
    search.portfolio = replace(search.portfolio, first_trial=len(search.rows))
    assert search.next(status="out_of_time") == ("large", "full", "linear")
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()


def test_a_recipe_that_failed_does_not_end_the_others() -> None:
    search = Search()
    search.next(0.9)
    assert search.next(status="diverged") == ("large", "full", "linear")
    search.next(0.5)
    search.next()
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ()


def test_a_recipe_that_was_interrupted_is_tried_again() -> None:
    search = Search()
    assert search.next(status="interrupted") == ("large", "probe", "linear")
    search.begin()


def test_a_recipe_that_runs_is_not_tried_twice() -> None:
    search = Search()
    assert search.next(status="running") == ("large", "probe", "linear")
    assert search.next() == ("large", "full", "linear")


def test_recipes_of_the_most_promising_backbone_wait_for_the_probes_of_other_workers() -> None:
    search = Search()
    assert search.next(0.5) == ("large", "probe", "linear")
    assert search.next(0.0) == ("large", "full", "linear")
    assert search.next(status="running") == ("small", "probe", "linear")
    assert search.next() == (), "the sampler chooses meanwhile"
    names, row = ("small", "probe", "linear"), search.rows[-1]
    done = replace(row, status="complete", score=0.9)
    search.rows[-1] = search.tried[names] = done
    assert search.next() == ("small", "probe", "solved"), "which is the better one"


def test_what_did_best_in_earlier_studies_comes_after_the_probes() -> None:
    earlier = {"flowers": {"freeze": "full", "freeze.full.lr": 3e-4, "backbone": "small"}}
    search = Search(earlier)
    search.begin()
    assert search.next() == (WARM_START, "flowers")
    assert search.params[3] == earlier["flowers"]
    assert search.next()[1:] == ("probe", "solved")


def test_defaults_that_did_best_in_earlier_studies_are_tried_once() -> None:
    def defaults(freeze: str) -> dict[str, Any]:
        return SPACE.defaults(backbone="small", freeze=freeze, head="linear")

    search = Search({"flowers": defaults("probe"), "cats": defaults("full")})
    search.begin()
    assert search.next() == ("small", "full", "linear")
    assert search.next() == ("large", "probe", "solved")
    assert search.next() == ()


def test_earlier_studies_are_read_only_when_the_backbones_are_probed() -> None:
    def warm_start() -> WarmStart:
        raise AssertionError("too early")

    search = Search()
    search.portfolio = Portfolio(SPACE, warm_start)
    search.begin()
    with pytest.raises(AssertionError, match="too early"):
        search.next()


def test_the_roles_of_recipes() -> None:
    """Only the default recipe on some backbone is a baseline."""
    search = Search({"flowers": {"backbone": "small", "freeze": "full", "freeze.full.lr": 3e-4}})
    roles: dict[Names, tuple[bool, bool, bool]] = {}
    while names := search.next():
        portfolio = search.portfolio
        roles[names] = (
            portfolio.is_probe(names),
            portfolio.is_default(names),
            portfolio.leads_heads(names),
        )
    assert roles == {
        ("large", "probe", "linear"): (True, False, False),
        ("large", "full", "linear"): (False, True, False),
        ("small", "probe", "linear"): (True, False, False),
        (WARM_START, "flowers"): (False, False, False),
        ("small", "probe", "solved"): (False, False, True),
        ("small", "full", "linear"): (False, True, False),
    }
    assert not search.portfolio.is_probe(())
    assert not search.portfolio.is_default(())
    assert not search.portfolio.leads_heads(())


def test_one_head_is_not_trained_together_with_others() -> None:
    portfolio = Search(space=replace(SPACE, plugins={**SPACE.plugins, "head": (linear,)})).portfolio
    assert not portfolio.leads_heads(("large", "probe", "linear"))


def test_a_head_without_an_order_is_the_second_if_there_is_no_other() -> None:
    search = Search(space=replace(SPACE, plugins={**SPACE.plugins, "head": (cosine, linear)}))
    search.begin()
    assert search.next() == ("large", "probe", "cosine")
    assert search.portfolio.leads_heads(("large", "probe", "cosine"))


def test_the_first_strategy_is_cheap() -> None:
    portfolio = Search().portfolio
    assert portfolio.is_cheap({"backbone": {"large": {}}, "freeze": {"probe": {"lr": 0.1}}})
    assert not portfolio.is_cheap({"freeze": {"full": {}}})


def test_a_cheap_trial_uses_what_was_computed_before() -> None:
    search = Search()
    assert search.portfolio.cheapest_parameters([])["freeze"] == "probe"
    search.begin(first=0.5, second=0.9)
    cheap = {"freeze": "probe", "backbone": "small"}
    assert search.portfolio.cheapest_parameters(search.ranked) == cheap


def test_a_backbone_that_was_excluded_later_is_not_promising() -> None:
    search = Search()
    search.begin()
    less = replace(SPACE, plugins={**SPACE.plugins, "backbone": (small,)})
    search.portfolio = replace(search.portfolio, space=less)
    assert search.next() == ("small", "full", "linear")  # the default recipe of this run
    assert search.next() == ("small", "probe", "solved")


@head(order=3)
def third(features: int, classes: int) -> Any: ...


@pytest.mark.parametrize("probing", [True, False])
def test_the_third_head_is_tried_on_several_backbones_while_there_is_time(probing: bool) -> None:
    space = Space({**SPACE.plugins, "head": (linear, solved, third)})
    search = Search(space=space)
    while search.next() != ("small", "probe", "linear"):
        pass
    tried = [names for names in iter(lambda: search.next(probing=probing), ())]
    heads = [names for names in tried if names[1] == "probe"]
    first, second = ("small", "large")  # equally good, and the smaller is more promising
    several = [(first, "probe", "third"), (second, "probe", "third")]
    assert heads == [(first, "probe", "solved"), *several[: 2 if probing else 1]]


@unlabelled(order=1)
def nothing() -> Any: ...


@unlabelled(order=2)
def consistent() -> Any: ...


@unlabelled
def other() -> Any: ...


def test_with_many_unlabelled_examples_a_method_for_them_is_tried_early() -> None:
    plugins = {**SPACE.plugins, "unlabelled": (consistent, nothing, other)}
    search = Search(space=Space(plugins))
    search.portfolio = replace(search.portfolio, unlabelled="own domain")
    names = [search.next(score) for score in (0.7, 0.7, 0.9, 0.9, 0.8)]
    assert names == [
        ("large", "probe", "linear"),
        ("large", "full", "linear"),
        ("large", "probe", "linear", "consistent"),
        ("large", "full", "linear", "consistent"),
        ("small", "probe", "linear"),
    ]
    methods = [params["unlabelled"] for params in search.params]
    assert methods == ["nothing", "nothing", "consistent", "consistent", "nothing"]
    assert not search.portfolio.is_default(names[3])
    assert not search.portfolio.is_probe(names[2])
    assert search.next() == ("small", "probe", "solved")  # by the probes alone
    search = Search(space=Space(plugins))
    search.begin()  # few unlabelled examples are left to the sampler


@unlabelled(across_domains=True)
def aligned() -> Any: ...


def test_for_another_domain_methods_that_are_made_for_it_come_first() -> None:
    plugins = {**SPACE.plugins, "unlabelled": (consistent, nothing, other, aligned)}
    search = Search(space=Space(plugins))
    search.portfolio = replace(search.portfolio, unlabelled="other domain")
    for _ in range(5):
        search.next(0.9)
    methods = [params["unlabelled"] for params in search.params]
    assert methods[:4] == ["nothing", "nothing", "aligned", "consistent"]


def test_few_methods_for_another_domain_are_tried_early_in_their_order() -> None:
    made = [replace(aligned, name=name, order=order) for name, order in
            (("a", None), ("b", 5), ("c", 4), ("d", None), ("e", 3))]  # fmt: skip
    search = Search(space=Space({**SPACE.plugins, "unlabelled": (consistent, nothing, *made)}))
    search.portfolio = replace(search.portfolio, unlabelled="other domain")
    names = [search.next(0.9) for _ in range(14)]
    methods = [params["unlabelled"] for params in search.params]
    assert methods[:6] == ["nothing", "nothing", "e", "c", "consistent", "consistent"]
    assert [m for m in methods[6:] if m != "nothing"] == ["b", "a", "d"]
    assert [name[1] for name in names[2:6]] == ["full", "full", "probe", "full"]


def with_weights(plugin: AnyPlugin, name: str, architecture: str, **weights: Any) -> AnyPlugin:
    """A member of a family of backbones."""
    return replace(plugin, family="zoo").member(
        name, Weights(name, architecture=architecture, **weights)
    )


OWN, OTHER = with_weights(small, "own", "net"), with_weights(large, "other", "big")
RAW, PUBLIC = with_weights(small, "raw", "net", is_random=True), with_weights(small, "net", "net")
WHOLE = replace(full, from_scratch=True)
COMPARED = replace(
    SPACE,
    plugins={**SPACE.plugins, "backbone": (PUBLIC, OTHER, OWN, RAW), "freeze": (WHOLE, probe)},
    backbone_order=("own", "raw", "other", "net"),
)


def test_weights_of_one_architecture_are_compared_with_one_recipe() -> None:
    search = Search(space=COMPARED)
    expected = [("own", "full", "linear"), ("raw", "full", "linear"), ("net", "full", "linear")]
    assert search.portfolio.comparison == tuple(expected)
    assert search.portfolio.comparison_is_left(search.tried)
    assert search.next() == ("own", "probe", "linear")
    assert [search.next() for _ in expected] == expected
    assert not search.portfolio.comparison_is_left(search.tried)
    others = [names for names in iter(search.next, ())]
    assert others[:2] == [("other", "probe", "linear"), ("net", "probe", "linear")]
    assert not any("raw" in names for names in others)  # a head on random features tells nothing
    assert search.portfolio.is_default(("raw", "full", "linear"))
    assert "freeze" not in search.params[2]
    assert search.params[2]["freeze_from_scratch"] == "full"


def test_own_weights_are_compared_with_public_ones_by_the_default_recipe() -> None:
    own = replace(OWN, owns_folder=True)
    plugins = {**COMPARED.plugins, "backbone": (PUBLIC, OTHER, own), "freeze": (full, probe)}
    order = ("net", "own", "other")
    search = Search(space=replace(COMPARED, plugins=plugins, backbone_order=order))
    expected = [("net", "full", "linear"), ("own", "full", "linear")]
    assert search.portfolio.comparison == tuple(expected)
    assert search.next() == ("net", "probe", "linear")
    assert [search.next() for _ in expected] == expected
    alone = {**plugins, "backbone": (OTHER, own)}
    few = Search(space=replace(COMPARED, plugins=alone, backbone_order=("own", "other")))
    assert few.portfolio.comparison == ()


def test_random_weights_alone_are_trained_in_all_layers() -> None:
    plugins = {**COMPARED.plugins, "backbone": (RAW,)}
    search = Search(space=replace(COMPARED, plugins=plugins, backbone_order=("raw",)))
    assert search.next() == ("raw", "full", "linear")
    assert search.next() == ()
    assert search.portfolio.cheapest_parameters([]) == {}


def test_without_random_weights_nothing_is_compared() -> None:
    portfolio = Search().portfolio
    assert portfolio.comparison == ()
    assert not portfolio.comparison_is_left({})


def test_backbones_that_lost_on_a_sample_are_not_probed() -> None:
    names = ["first", "one", "two", "three", "new"]
    plugins = {**SPACE.plugins, "backbone": tuple(replace(small, name=name) for name in names)}
    search = Search(space=Space(plugins, backbone_order=tuple(names)))
    assert search.portfolio.first_probe == ("first", "probe", "linear")
    assert search.portfolio.unprobed({}) == names[1:]
    search.screening = ScreeningFacts(
        samples=[8000], backbones=["three", "two", "one"], promising=["three", "two"]
    )
    recipes = list(iter(search.next, ()))
    probed = [names[0] for names in recipes if search.portfolio.is_probe(names)]
    assert probed == ["first", "three", "two", "new"]
    assert not any("one" in names for names in recipes)
    assert search.portfolio.unprobed(search.tried) == ["one"]
    search = Search(space=search.portfolio.space)
    search.screening = ScreeningFacts(backbones=["three", "two"], promising=["three", "two"])
    recipes = list(iter(lambda: search.next(probing=False), ()))
    assert [n[0] for n in recipes if search.portfolio.is_probe(n)] == ["first", "three", "two"]
