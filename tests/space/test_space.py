"""The space: sampling, defaults, JSON, building from requests, and messages for mistakes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import optuna
import pytest

from autotl import (
    Balance,
    Range,
    Weights,
    When,
    augment,
    backbone,
    balance,
    freeze,
    head,
    optimizer,
)
from autotl.errors import PluginError, StudyError, WeightsError
from autotl.space.kinds import OPTIONAL_KINDS, SEARCHED_KINDS
from autotl.space.registry import BackboneCriteria, Excluded, Registry
from autotl.space.space import Space, build_space, from_json, to_json


@backbone
def net() -> None: ...


@freeze(order=2)
def late(model: Any, *, fraction: Annotated[float, Range(0.1, 0.9)] = 0.5) -> None: ...


@freeze(order=1)
def probe(model: Any, *, lr: Annotated[float, Range(1e-4, 1e-1, log=True)] = 1e-3) -> None: ...


@freeze
def early(model: Any) -> None: ...


@head
def mlp(
    features: int,
    *,
    depth: Literal[1, 2, 3] = 1,
    width: Annotated[int, Range(8, 64, log=True)] = 16,
    second: Annotated[int, Range(8, 64), When(depth=(2, 3))] = 32,
    norm: bool = True,
    note: str = "plain",
) -> None: ...


@head
def linear(features: int) -> None: ...


@augment
def none() -> None: ...


@optimizer
def sgd(groups: Any, *, momentum: Annotated[float, Range(0, 1)] = 0.9) -> None: ...


PLUGINS = [net, late, probe, early, mlp, linear, none, sgd]
REGISTRY = Registry(PLUGINS)
SPACE = build_space(REGISTRY, {}, {})
DEFAULT = {"backbone": "net", "freeze": "probe", "head": "mlp", "augment": "none"}
DEFAULT |= {"optimizer": "sgd"}


class Recorder:
    """A trial that returns ``values``, else the lowest, and records what was suggested."""

    def __init__(self, **values: Any) -> None:
        self.values = {k.replace("__", "."): v for k, v in values.items()}
        self.suggested: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.suggested[name] = list(choices)
        return self.values.get(name, choices[0])

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        self.suggested[name] = (float, low, high, log) if step is None else (float, low, high, step)
        return float(self.values.get(name, low))

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        self.suggested[name] = (int, low, high, log)
        return int(self.values.get(name, low))


def narrowed(**tables: dict[str, dict[str, Any]]) -> Space:
    return build_space(REGISTRY, {}, tables)


def test_only_the_keywords_of_chosen_plugins_are_sampled() -> None:
    trial = Recorder(freeze="late", head="linear", freeze__late__fraction=0.3)
    config = SPACE.suggest(trial)
    assert trial.suggested == {
        "backbone": ["net"],
        "freeze": ["early", "late", "probe"],
        "freeze.late.fraction": (float, 0.1, 0.9, False),
        "head": ["linear", "mlp"],
        "augment": ["none"],
        "optimizer": ["sgd"],
        "optimizer.sgd.momentum": (float, 0, 1, False),
    }
    assert to_json(config) == {
        "backbone": {"net": {}},
        "freeze": {"late": {"fraction": 0.3}},
        "head": {"linear": {}},
        "augment": {"none": {}},
        "optimizer": {"sgd": {"momentum": 0.0}},
    }
    assert list(config) == [kind for kind in SEARCHED_KINDS if kind not in OPTIONAL_KINDS]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_conditional_keyword_is_sampled_only_if_its_condition_holds(depth: int) -> None:
    trial = Recorder(head="mlp", head__mlp__depth=depth, head__mlp__second=9)
    config = SPACE.suggest(trial)
    suggested = [k for k in trial.suggested if k.startswith("head.")]
    second = ["head.mlp.second"] if depth > 1 else []
    assert suggested == ["head.mlp.depth", "head.mlp.width", *second, "head.mlp.norm"]
    assert trial.suggested["head.mlp.width"] == (int, 8, 64, True)
    assert config["head"].params["second"] == (9 if depth > 1 else 32)  # else the default


def test_an_optuna_trial_can_be_used() -> None:
    flat = {"head.mlp.depth": 2, "head.mlp.width": 8, "head.mlp.second": 64, "head.mlp.norm": False}
    flat |= {**DEFAULT, "freeze.probe.lr": 0.01, "optimizer.sgd.momentum": 0.5}
    config = SPACE.suggest(optuna.trial.FixedTrial(flat))
    assert config["head"].params == {"depth": 2, "width": 8, "second": 64, "norm": False}
    assert config["freeze"].params == {"lr": 0.01}


def test_every_value_that_optuna_samples_is_allowed() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    names = set()
    for _ in range(20):
        trial = study.ask()
        for choice in SPACE.suggest(trial).values():
            for h in choice.plugin.hyperparameters:
                assert h.allows(choice.params[h.name])
        names |= set(trial.params)
        study.tell(trial, 0.0)
    assert names == set(SPACE.describe())


def test_changing_any_parameter_changes_the_configuration() -> None:
    other = {"depth": 3, "width": 17, "second": 33, "norm": False, "fraction": 0.2, "lr": 2e-3}
    other["momentum"] = 0.8
    changes = 0
    for freezing, top in itertools.product(("late", "probe"), ("mlp", "linear")):
        flat = SPACE.defaults(freeze=freezing, head=top)
        if top == "mlp":
            flat |= {"head.mlp.depth": 2, "head.mlp.second": 32}
        before = to_json(SPACE.suggest(optuna.trial.FixedTrial(flat)))
        for name in [n for n in flat if "." in n]:
            changed = {**flat, name: other[name.rpartition(".")[2]]}
            after = to_json(SPACE.suggest(optuna.trial.FixedTrial(changed)))
            assert after != before, name
            changes += 1
    assert changes == 2 * (4 + 1 + 1) + 2 * (1 + 1)


def test_defaults_are_tried_by_rank() -> None:
    assert SPACE.default_order("freeze") == ["probe", "late"]  # early has no rank
    assert SPACE.default_order("head") == ["linear", "mlp"]  # none has
    flat = SPACE.defaults(head="mlp")
    assert flat == {
        **DEFAULT,
        "freeze.probe.lr": 1e-3,
        "head.mlp.depth": 1,
        "head.mlp.width": 16,
        "head.mlp.norm": True,
        "optimizer.sgd.momentum": 0.9,
    }
    assert SPACE.defaults(freeze="late")["freeze.late.fraction"] == 0.5
    trial = Recorder(**flat)
    SPACE.suggest(trial)
    assert set(trial.suggested) == set(flat)  # all suggested parameters, and no others


def test_backbones_are_tried_in_the_requested_order() -> None:
    some = [replace(net, name=name) for name in ("a", "b", "c")]
    registry = Registry([*PLUGINS, *some])
    space = build_space(registry, {"backbone": ["c", "net", "a"]}, {})
    assert space.default_order("backbone") == ["c", "net", "a"]
    assert space.defaults()["backbone"] == "c"
    assert [p.name for p in space.plugins["backbone"]] == ["a", "c", "net"]
    same = build_space(registry, {"backbone": ["a", "c", "net"]}, {})
    assert same.fingerprint == space.fingerprint


def test_the_order_of_plugins_does_not_matter() -> None:
    reversed_space = build_space(Registry(PLUGINS[::-1]), {}, {})
    assert reversed_space.fingerprint == SPACE.fingerprint
    assert reversed_space.describe() == SPACE.describe()
    assert list(reversed_space.describe()) == list(SPACE.describe())


def test_the_description_lists_every_parameter() -> None:
    assert SPACE.describe() == {
        "backbone": ["net"],
        "freeze": ["early", "late", "probe"],
        "freeze.late.fraction": "0.1 to 0.9",
        "freeze.probe.lr": "0.0001 to 0.1 (log)",
        "head": ["linear", "mlp"],
        "head.mlp.depth": "1 | 2 | 3",
        "head.mlp.width": "8 to 64 (log)",
        "head.mlp.second": "8 to 64",
        "head.mlp.norm": "False | True",
        "augment": ["none"],
        "optimizer": ["sgd"],
        "optimizer.sgd.momentum": "0.0 to 1.0",
    }


@freeze(name="late")
def wider(model: Any, *, fraction: Annotated[float, Range(0.1, 0.9000001)] = 0.5) -> None: ...


@freeze(name="late")
def logarithmic(
    model: Any, *, fraction: Annotated[float, Range(0.1, 0.9, log=True)] = 0.5
) -> None: ...


@optimizer(name="sgd")
def whole(groups: Any, *, momentum: Annotated[int, Range(0, 1)] = 0) -> None: ...


@augment
def another() -> None: ...


@pytest.mark.parametrize("plugin", [wider, logarithmic, whole, another])
def test_another_plugin_or_range_is_another_space(plugin: Any) -> None:
    others = [p for p in PLUGINS if (p.kind, p.name) != (plugin.kind, plugin.name)]
    changed = build_space(Registry([*others, plugin]), {}, {})
    assert changed.fingerprint != SPACE.fingerprint
    assert changed.describe() != SPACE.describe()


def test_a_narrowed_space_samples_the_narrowed_domains() -> None:
    space = narrowed(
        head={"mlp": {"depth": 2, "width": [20, 40], "norm": [False], "note": "other"}},
        freeze={"probe": {"lr": [0.01, 0.1]}, "late": {"fraction": 0.2}},
    )
    trial = Recorder(head="mlp", freeze="late")
    config = space.suggest(trial)
    assert trial.suggested["head.mlp.depth"] == [2]
    assert trial.suggested["head.mlp.width"] == (int, 20, 40, True)
    assert trial.suggested["head.mlp.second"] == (int, 8, 64, False)
    assert trial.suggested["head.mlp.norm"] == [False]
    assert trial.suggested["freeze.late.fraction"] == [0.2]
    assert config["head"].params["note"] == "other"
    flat = space.defaults(head="mlp")
    assert flat["head.mlp.width"] == 20  # 16 before, moved to the nearest
    assert flat["head.mlp.second"] == 32  # part of the defaults now that depth is 2
    assert flat["freeze.probe.lr"] == 0.01
    assert flat["head.mlp.norm"] is False
    assert space.fingerprint != SPACE.fingerprint


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ({"hed": {"mlp": {}}}, ["[space.hed]", "did you mean 'head'"]),
        ({"dataset": {"csv": {}}}, ["[space.dataset]", "not a searched kind"]),
        ({"head": {"mpl": {"depth": 1}}}, ["[space.head.mpl]", "did you mean 'mlp'"]),
        ({"head": {"mlp": {"depth": 4}}}, ["[space.head.mlp] depth = 4", "1 | 2 | 3"]),
    ],
)
def test_invalid_tables_are_explained(tables: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        narrowed(**tables)
    assert [p for p in parts if p not in str(caught.value)] == []


def test_narrowing_a_plugin_that_was_not_requested_is_an_error() -> None:
    with pytest.raises(StudyError, match="does not match a plugin of this study; there are linear"):
        build_space(REGISTRY, {"head": ["linear"]}, {"head": {"mlp": {"depth": 1}}})


def test_only_requested_plugins_are_searched() -> None:
    space = build_space(REGISTRY, {"head": ["lin*"], "freeze": ("probe", "early")}, {})
    assert [p.name for p in space.plugins["head"]] == ["linear"]
    assert [p.name for p in space.plugins["freeze"]] == ["early", "probe"]
    assert len(space.plugins["optimizer"]) == 1
    with pytest.raises(PluginError, match="did you mean 'linear'"):
        build_space(REGISTRY, {"head": ["liner"]}, {})


def test_excluded_plugins_are_listed_with_the_reason() -> None:
    lacking = head(name="lacking", requires=["not-on-this-planet"])(lambda features: None)
    space = build_space(Registry([*PLUGINS, lacking]), {}, {})
    assert [(x.kind, x.name) for x in space.excluded] == [("head", "lacking")]
    assert "pip install" in space.excluded[0].reason
    with pytest.raises(PluginError, match=r"no head can be used \(lacking: needs not-on"):
        build_space(Registry([*(p for p in PLUGINS if p.kind != "head"), lacking]), {}, {})


def test_without_any_backbone_the_message_lists_three_ways_to_get_one() -> None:
    def locate(name: str, folder: Path | None) -> Weights:
        raise WeightsError(f"nothing in {folder}")

    def members(patterns: Sequence[str], device: str, seconds: float | None) -> list[str]:
        return list(patterns) or ["far"]

    family = backbone(name="family", members=members, locate=locate)(lambda name: None)
    registry = Registry([*(p for p in PLUGINS if p.kind != "backbone"), family])
    with pytest.raises(PluginError) as caught:
        build_space(registry, {}, {}, BackboneCriteria(Path("dir")))
    for part in ("far: nothing in dir", "autotl[offline]", "--weights DIR", "hub"):
        assert part in str(caught.value)
    with pytest.raises(PluginError, match="no backbone plugin is installed"):
        build_space(Registry(p for p in PLUGINS if p.kind != "backbone"), {}, {})


def test_members_of_a_family_share_their_parameters() -> None:
    def build(name: str, *, drop: Annotated[float, Range(0, 0.5)] = 0.1) -> None: ...

    family = backbone(name="zoo", members=lambda patterns, *_: list(patterns) or ["a", "b"])(build)
    space = build_space(Registry([*PLUGINS, family]), {}, {})
    trial = Recorder(backbone="b")
    assert space.suggest(trial)["backbone"].name == "b"
    assert "backbone.zoo.drop" in trial.suggested
    assert space.defaults(backbone="a")["backbone.zoo.drop"] == 0.1


def test_a_configuration_survives_the_round_trip_to_json() -> None:
    space = narrowed(head={"mlp": {"note": "other"}})
    config = space.suggest(Recorder(head="mlp", freeze="probe", head__mlp__depth=3))
    restored = from_json(to_json(config), REGISTRY)
    assert to_json(restored) == to_json(config)
    assert restored["head"].params["note"] == "other"
    assert [c.plugin for c in restored.values()] == [net, probe, mlp, none, sgd]


def test_json_may_lack_kinds_and_keywords() -> None:
    config = from_json({"head": {"mlp": {"width": 9}}, "freeze": {}}, REGISTRY, kinds=["head"])
    assert config["head"].params == {**mlp.defaults, "width": 9}  # missing ones have the default


@pytest.mark.parametrize(
    ("data", "error", "part"),
    [
        ({}, StudyError, r"add a table \[head.NAME\]"),
        ({"head": "mlp"}, StudyError, r"add a table \[head.NAME\]"),
        ({"head": {}}, StudyError, r"not name exactly one head"),
        ({"head": {"mlp": {}, "linear": {}}}, StudyError, "not name exactly one head"),
        ({"head": {"mpl": {}}}, PluginError, "did you mean 'mlp'"),
        ({"head": {"mlp": {"widht": 9}}}, StudyError, "did you mean 'width'"),
    ],
)
def test_invalid_json_is_explained(data: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        from_json(data, REGISTRY, kinds=["head"])


def test_saved_models_need_no_pretrained_weights() -> None:
    def locate(name: str, folder: Path | None) -> Weights:
        raise WeightsError("none anywhere")

    family = backbone(name="zoo", members=lambda patterns, *_: list(patterns), locate=locate)
    registry = Registry([family(lambda name, weights: None)])
    data = {"backbone": {"far": {}}}
    plugin = from_json(data, registry, kinds=["backbone"], pretrained=False)["backbone"].plugin
    assert plugin.given == {"name": "far", "weights": None}
    with pytest.raises(WeightsError, match="none anywhere"):
        from_json(data, registry, kinds=["backbone"])


# Optional kinds, criteria and sizes.


@balance(order=1)
def even(counts: list[int]) -> Balance:
    return Balance()


@balance
def heavy(counts: list[int], *, power: Annotated[float, Range(0.1, 1)] = 1.0) -> Balance:
    return Balance()


def test_an_optional_kind_can_be_removed() -> None:
    registry = Registry([*PLUGINS, even, heavy])
    space = build_space(registry, {}, {})
    assert "balance" in space.plugins
    assert space.without_kind("balance").plugins.keys() == space.plugins.keys() - {"balance"}
    pinned = build_space(registry, {}, {"balance": {"heavy": {"power": 0.5}}})
    assert pinned.describe()["balance.heavy.power"] == "0.5"
    with pytest.raises(PluginError, match="no balance plugin is called 'hevy'; did you mean"):
        build_space(registry, {"balance": ["hevy"]}, {})


def test_a_configuration_may_lack_only_an_optional_kind() -> None:
    registry = Registry([*PLUGINS, even, heavy])
    space = build_space(registry, {}, {}).without_kind("balance")
    written = to_json(space.suggest(Recorder()))
    assert "balance" not in from_json(written, registry)
    assert from_json({**written, "balance": {"even": {}}}, registry)["balance"].name == "even"
    del written["head"]
    with pytest.raises(StudyError, match="not name exactly one head"):
        from_json(written, registry)


def zoo(**weights: Weights) -> Registry:
    """A registry with a family of backbones that have the given weights."""
    family = backbone(
        name="zoo",
        members=lambda patterns, *_: list(patterns) or sorted(weights),
        locate=lambda name, folder: weights[name],
    )
    return Registry([*PLUGINS, family(lambda name, weights, size: (name, size))])


ZOO = zoo(
    big=Weights("here", "mit", None, 30_000_000),
    free=Weights("here", "apache-2.0", None, 5_000_000),
    odd=Weights("here", "cc-by-nc-4.0"),
)


@pytest.mark.parametrize(
    ("criteria", "accepted", "reason"),
    [
        (BackboneCriteria(), {"big", "free", "odd"}, ""),
        (
            BackboneCriteria(licences=("Apache-2.0", "MIT")),
            {"big", "free"},
            "cc-by-nc-4.0, not apache-2.0",
        ),
        (
            BackboneCriteria(max_parameters=10_000_000),
            {"free", "odd"},
            "30,000,000 parameters, more than 10,000,000",
        ),
    ],
)
def test_backbones_must_meet_the_criteria(
    criteria: BackboneCriteria, accepted: set[str], reason: str
) -> None:
    space = build_space(ZOO, {"backbone": ["big", "free", "odd"]}, {}, criteria)
    assert {p.name for p in space.plugins["backbone"]} == accepted
    assert all(reason in out.reason for out in space.excluded)
    assert len(space.excluded) == 3 - len(accepted)


def test_if_no_backbone_meets_the_criteria_the_message_says_which_to_relax() -> None:
    with pytest.raises(PluginError, match="relax --licence or --max-parameters") as caught:
        build_space(ZOO, {"backbone": ["big"]}, {}, BackboneCriteria(max_parameters=1))
    assert "big: it has 30,000,000 parameters" in str(caught.value)


def test_several_sizes_are_searched_for_backbones_that_take_a_size() -> None:
    space = build_space(ZOO, {"backbone": ["big", "free", "net"]}, {}, sizes=[64, 96])
    assert space.describe()["backbone.zoo.image_size"] == "64 | 96"
    trial = Recorder(backbone="free", **{"backbone.zoo.image_size": 96})
    chosen = space.suggest(trial)["backbone"]
    assert to_json({"backbone": chosen}) == {"backbone": {"free": {"image_size": 96}}}
    assert chosen.plugin.call({"size": None}, chosen.params) == ("free", 96)
    assert "backbone.zoo.image_size" not in build_space(ZOO, {}, {}, sizes=[64]).describe()
    one = build_space(ZOO, {}, {"backbone": {"zoo": {"image_size": [32, 48]}}})
    assert one.describe()["backbone.zoo.image_size"] == "32 | 48"  # for the whole family


def test_a_member_with_its_own_domain_shares_no_parameters() -> None:
    fixed = {"backbone": {"free": {"image_size": 64}}}
    space = build_space(ZOO, {"backbone": ["big", "free", "net"]}, fixed, sizes=[64, 96])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    sizes: dict[str, set[int]] = {}
    for _ in range(40):  # Optuna refuses a parameter that has other choices within a study
        chosen = space.suggest(study.ask())["backbone"]
        sizes.setdefault(chosen.name, set()).add(chosen.params.get("image_size", 0))
    assert sizes == {"big": {64, 96}, "free": {64}, "net": {0}}


def test_plugins_can_be_excluded_later_with_a_reason() -> None:
    space = build_space(ZOO, {"backbone": ["odd", "big"]}, {})
    smaller = space.exclude("backbone", {"odd": "too slow"})
    assert smaller.default_order("backbone") == ["big"]
    assert smaller.excluded[-1] == Excluded("backbone", "odd", "too slow")
    with pytest.raises(PluginError, match=r"no backbone is left \(odd: a; big: b\)"):
        space.exclude("backbone", {"odd": "a", "big": "b"})


@augment
def stepped(
    size: int,
    *,
    fraction: Annotated[float, Range(0.1, 0.9, step=0.2)] = 0.5,
    count: Annotated[int, Range(2, 8, step=3)] = 5,
) -> Any: ...


def test_only_steps_are_sampled_and_they_are_equal_numbers() -> None:
    space = Space({"augment": (stepped,)})
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=20))
    sampled: set[tuple[float, int]] = set()
    for _ in range(60):
        trial = study.ask()
        values = space.suggest(trial)["augment"].params
        sampled.add((values["fraction"], values["count"]))
        study.tell(trial, values["fraction"])
    assert {fraction for fraction, _ in sampled} == {0.1, 0.3, 0.5, 0.7, 0.9}
    assert {count for _, count in sampled} == {2, 5, 8}
    assert space.describe()["augment.stepped.fraction"] == "0.1 to 0.9 in steps of 0.2"


def test_flatten_gives_the_parameters_that_a_trial_draws() -> None:
    space = Space({"augment": (stepped,)})
    config = {"augment": {"stepped": {"fraction": 0.7, "count": 8}}, "freeze": {"full": {}}}
    flat = space.flatten(config)
    assert flat == {
        "augment": "stepped",
        "augment.stepped.fraction": 0.7,
        "augment.stepped.count": 8,
    }
    trial = optuna.trial.FixedTrial(flat)
    assert to_json(space.suggest(trial)) == {"augment": config["augment"]}
    assert space.flatten({"augment": {"stepped": {"fraction": 0.62}}}) == {}
    assert space.flatten({"augment": {"unknown": {}}}) == {}
    assert space.flatten({}) == {}


@freeze(order=3, from_scratch=True)
def whole(model: Any, *, rate: Annotated[float, Range(0.1, 0.9)] = 0.2) -> None: ...


def random_weights(name: str) -> Any:
    """A backbone of a family with random weights."""
    weights = Weights("random weights", architecture="net", is_random=True)
    return replace(net, family="scratch").member(name, weights)


def with_random_weights(*strategies: Any) -> Space:
    plugins = Registry([net, random_weights("raw"), *strategies, mlp, linear, none, sgd])
    return build_space(plugins, {}, {})


def test_a_backbone_with_random_weights_gets_strategies_that_suit_it() -> None:
    space = with_random_weights(probe, early, whole)
    trial = Recorder(backbone="raw", head="linear")
    assert space.suggest(trial)["freeze"].name == "whole"
    assert trial.suggested["freeze_from_scratch"] == ["whole"]
    assert "freeze" not in trial.suggested
    trial = Recorder(backbone="net", freeze="early", head="linear")
    assert space.suggest(trial)["freeze"].name == "early"
    assert "freeze_from_scratch" not in trial.suggested
    chosen = space.defaults(backbone="raw", freeze="probe")
    assert (chosen["freeze_from_scratch"], chosen["freeze.whole.rate"]) == ("whole", 0.2)
    assert "freeze" not in chosen
    assert space.defaults(backbone="net", freeze="probe")["freeze"] == "probe"
    assert space.describe()["freeze_from_scratch"] == ["whole"]
    config = to_json(space.suggest(Recorder(**chosen)))
    assert space.flatten(config)["freeze_from_scratch"] == "whole"
    assert space.flatten({**config, "freeze": {"probe": {}}}) == {}  # it cannot be drawn
    assert "freeze_from_scratch" not in SPACE.describe()


def test_random_weights_without_a_strategy_for_them_are_excluded() -> None:
    space = with_random_weights(probe, early)
    assert [p.name for p in space.plugins["backbone"]] == ["net"]
    [excluded] = space.excluded
    assert excluded.name == "raw"
    assert (
        excluded.reason
        == "its weights are random, and no layer may stay so, as with early and probe"
    )
