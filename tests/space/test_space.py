"""The space: what is asked, what is narrowed, what is stored, and what a mistake is told."""

from __future__ import annotations

import itertools
import math
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
from autotl.space.plugin import OPTIONAL_KINDS, SEARCHED_KINDS
from autotl.space.registry import BackboneCriteria, Excluded, Registry
from autotl.space.space import Space, build_space, from_json, narrow_plugin, to_json


@backbone
def net() -> None: ...


@freeze(order=2)
def late(model: Any, *, share: Annotated[float, Range(0.1, 0.9)] = 0.5) -> None: ...


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
    """A trial that answers from ``answers``, else the lowest, and remembers what was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {k.replace("__", "."): v for k, v in answers.items()}
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = list(choices)
        return self.answers.get(name, choices[0])

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        self.asked[name] = (float, low, high, log) if step is None else (float, low, high, step)
        return float(self.answers.get(name, low))

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        self.asked[name] = (int, low, high, log)
        return int(self.answers.get(name, low))


def narrowed(**space: dict[str, dict[str, Any]]) -> Space:
    return build_space(REGISTRY, {}, space)


def test_only_the_chosen_plugins_are_asked_for_their_keywords() -> None:
    trial = Recorder(freeze="late", head="linear", freeze__late__share=0.3)
    config = SPACE.suggest(trial)
    assert trial.asked == {
        "backbone": ["net"],
        "freeze": ["early", "late", "probe"],
        "freeze.late.share": (float, 0.1, 0.9, False),
        "head": ["linear", "mlp"],
        "augment": ["none"],
        "optimizer": ["sgd"],
        "optimizer.sgd.momentum": (float, 0, 1, False),
    }
    assert to_json(config) == {
        "backbone": {"net": {}},
        "freeze": {"late": {"share": 0.3}},
        "head": {"linear": {}},
        "augment": {"none": {}},
        "optimizer": {"sgd": {"momentum": 0.0}},
    }
    assert list(config) == [kind for kind in SEARCHED_KINDS if kind not in OPTIONAL_KINDS]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_condition_asks_only_where_it_holds(depth: int) -> None:
    trial = Recorder(head="mlp", head__mlp__depth=depth, head__mlp__second=9)
    config = SPACE.suggest(trial)
    asked = [k for k in trial.asked if k.startswith("head.")]
    second = ["head.mlp.second"] if depth > 1 else []
    assert asked == ["head.mlp.depth", "head.mlp.width", *second, "head.mlp.norm"]
    assert trial.asked["head.mlp.width"] == (int, 8, 64, True)
    assert config["head"].params["second"] == (9 if depth > 1 else 32)  # else the default


def test_optuna_can_answer() -> None:
    flat = {"head.mlp.depth": 2, "head.mlp.width": 8, "head.mlp.second": 64, "head.mlp.norm": False}
    flat |= {**DEFAULT, "freeze.probe.lr": 0.01, "optimizer.sgd.momentum": 0.5}
    config = SPACE.suggest(optuna.trial.FixedTrial(flat))
    assert config["head"].params == {"depth": 2, "width": 8, "second": 64, "norm": False}
    assert config["freeze"].params == {"lr": 0.01}


def test_everything_that_optuna_samples_is_allowed() -> None:
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


def test_changing_any_answer_changes_the_config() -> None:
    other = {"depth": 3, "width": 17, "second": 33, "norm": False, "share": 0.2, "lr": 2e-3}
    other["momentum"] = 0.8
    seen = 0
    for freezing, top in itertools.product(("late", "probe"), ("mlp", "linear")):
        flat = SPACE.defaults(freeze=freezing, head=top)
        if top == "mlp":
            flat |= {"head.mlp.depth": 2, "head.mlp.second": 32}
        before = to_json(SPACE.suggest(optuna.trial.FixedTrial(flat)))
        for name in [n for n in flat if "." in n]:
            changed = {**flat, name: other[name.rpartition(".")[2]]}
            after = to_json(SPACE.suggest(optuna.trial.FixedTrial(changed)))
            assert after != before, name
            seen += 1
    assert seen == 2 * (4 + 1 + 1) + 2 * (1 + 1)


def test_the_first_defaults_are_those_of_the_lowest_order() -> None:
    assert SPACE.default_order("freeze") == ["probe", "late"]  # early has no order
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
    assert SPACE.defaults(freeze="late")["freeze.late.share"] == 0.5
    trial = Recorder(**flat)
    SPACE.suggest(trial)
    assert set(trial.asked) == set(flat)  # it answers all that is asked, and nothing else


def test_backbones_are_tried_as_they_were_asked_for() -> None:
    some = [replace(net, name=name) for name in ("a", "b", "c")]
    registry = Registry([*PLUGINS, *some])
    found = build_space(registry, {"backbone": ["c", "net", "a"]}, {})
    assert found.default_order("backbone") == ["c", "net", "a"]
    assert found.defaults()["backbone"] == "c"
    assert [p.name for p in found.plugins["backbone"]] == ["a", "c", "net"]
    same = build_space(registry, {"backbone": ["a", "c", "net"]}, {})
    assert same.fingerprint == found.fingerprint


def test_the_order_of_plugins_does_not_matter() -> None:
    again = build_space(Registry(PLUGINS[::-1]), {}, {})
    assert again.fingerprint == SPACE.fingerprint
    assert again.describe() == SPACE.describe()
    assert list(again.describe()) == list(SPACE.describe())


def test_the_description_tells_all_that_can_be_drawn() -> None:
    assert SPACE.describe() == {
        "backbone": ["net"],
        "freeze": ["early", "late", "probe"],
        "freeze.late.share": "0.1 to 0.9",
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
def wider(model: Any, *, share: Annotated[float, Range(0.1, 0.9000001)] = 0.5) -> None: ...


@freeze(name="late")
def logarithmic(
    model: Any, *, share: Annotated[float, Range(0.1, 0.9, log=True)] = 0.5
) -> None: ...


@optimizer(name="sgd")
def whole(groups: Any, *, momentum: Annotated[int, Range(0, 1)] = 0) -> None: ...


@augment
def another() -> None: ...


@pytest.mark.parametrize("plugin", [wider, logarithmic, whole, another])
def test_another_plugin_or_range_is_another_space(plugin: Any) -> None:
    kept = [p for p in PLUGINS if (p.kind, p.name) != (plugin.kind, plugin.name)]
    changed = build_space(Registry([*kept, plugin]), {}, {})
    assert changed.fingerprint != SPACE.fingerprint
    assert changed.describe() != SPACE.describe()


def test_narrowing() -> None:
    found = narrowed(
        head={"mlp": {"depth": 2, "width": [20, 40], "norm": [False], "note": "other"}},
        freeze={"probe": {"lr": [0.01, 0.1]}, "late": {"share": 0.2}},
    )
    trial = Recorder(head="mlp", freeze="late")
    config = found.suggest(trial)
    assert trial.asked["head.mlp.depth"] == [2]
    assert trial.asked["head.mlp.width"] == (int, 20, 40, True)
    assert trial.asked["head.mlp.second"] == (int, 8, 64, False)
    assert trial.asked["head.mlp.norm"] == [False]
    assert trial.asked["freeze.late.share"] == [0.2]
    assert config["head"].params["note"] == "other"
    flat = found.defaults(head="mlp")
    assert flat["head.mlp.width"] == 20  # 16 before, moved to the nearest
    assert flat["head.mlp.second"] == 32  # asked by default now that depth is 2
    assert flat["freeze.probe.lr"] == 0.01
    assert flat["head.mlp.norm"] is False
    assert found.fingerprint != SPACE.fingerprint


def test_narrowed_choices_keep_the_default_where_they_can() -> None:
    assert narrow_plugin(mlp, {"depth": [3, 1]}).defaults["depth"] == 1
    assert narrow_plugin(mlp, {"depth": [3, 2]}).defaults["depth"] == 3
    assert narrow_plugin(mlp, {"width": [8, 12]}).defaults["width"] == 12
    assert narrow_plugin(mlp, {"width": [8, 20]}).defaults["width"] == 16
    assert narrow_plugin(mlp, {}) is mlp
    assert mlp.defaults["width"] == 16


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        ({"hed": {"mlp": {}}}, ["[space.hed]", "did you mean 'head'"]),
        ({"dataset": {"csv": {}}}, ["[space.dataset]", "no searched kind"]),
        ({"head": {"mpl": {"depth": 1}}}, ["[space.head.mpl]", "did you mean 'mlp'"]),
        ({"head": {"mlp": {"widht": 9}}}, ["head plugin 'mlp'", "'widht'", "did you mean 'width'"]),
        ({"head": {"mlp": {"nota": 9}}}, ["'nota'", "did you mean 'note'"]),
        ({"head": {"mlp": {"depth": 4}}}, ["[space.head.mlp] depth = 4", "1 | 2 | 3"]),
        ({"head": {"mlp": {"depth": [1, 4]}}}, ["[space.head.mlp] depth = 4", "outside"]),
        ({"head": {"mlp": {"depth": True}}}, ["depth = True", "1 | 2 | 3"]),
        ({"head": {"mlp": {"depth": []}}}, ["depth = []", "at least one value of 1 | 2 | 3"]),
        ({"head": {"mlp": {"norm": "yes"}}}, ["norm = 'yes'", "False | True"]),
        ({"head": {"mlp": {"width": 7}}}, ["width = 7", "8 to 64 (log)"]),
        ({"head": {"mlp": {"width": 9.5}}}, ["width = 9.5", "8 to 64 (log)"]),
        ({"head": {"mlp": {"width": [8, 65]}}}, ["width = 65", "8 to 64 (log)"]),
        ({"head": {"mlp": {"width": [20, 10]}}}, ["width = [20, 10]", "[low, high]"]),
        ({"head": {"mlp": {"width": [10, 10]}}}, ["width = [10, 10]", "one value to pin it"]),
        ({"head": {"mlp": {"width": [8, 9, 10]}}}, ["width = [8, 9, 10]", "[low, high]"]),
        ({"head": {"mlp": {"width": []}}}, ["width = []", "[low, high]"]),
        ({"freeze": {"late": {"share": math.nan}}}, ["share = nan", "0.1 to 0.9"]),
    ],
)
def test_a_wrong_narrowing_is_named(space: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        narrowed(**space)
    assert [p for p in parts if p not in str(caught.value)] == []


def test_narrowing_a_plugin_that_was_not_wanted_is_an_error() -> None:
    with pytest.raises(StudyError, match="narrows no plugin of this study; there are linear"):
        build_space(REGISTRY, {"head": ["linear"]}, {"head": {"mlp": {"depth": 1}}})


def test_what_is_wanted_is_searched() -> None:
    found = build_space(REGISTRY, {"head": ["lin*"], "freeze": ("probe", "early")}, {})
    assert [p.name for p in found.plugins["head"]] == ["linear"]
    assert [p.name for p in found.plugins["freeze"]] == ["early", "probe"]
    assert len(found.plugins["optimizer"]) == 1
    with pytest.raises(PluginError, match="did you mean 'linear'"):
        build_space(REGISTRY, {"head": ["liner"]}, {})


def test_what_is_left_out_is_kept_with_its_reason() -> None:
    lacking = head(name="lacking", requires=["not-on-this-planet"])(lambda features: None)
    found = build_space(Registry([*PLUGINS, lacking]), {}, {})
    assert [(x.kind, x.name) for x in found.excluded] == [("head", "lacking")]
    assert "pip install" in found.excluded[0].reason
    with pytest.raises(PluginError, match=r"no head can be used \(lacking: needs not-on"):
        build_space(Registry([*(p for p in PLUGINS if p.kind != "head"), lacking]), {}, {})


def test_no_backbone_left_tells_three_ways_to_get_one() -> None:
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


def test_members_of_a_family_share_the_names_of_their_keywords() -> None:
    def build(name: str, *, drop: Annotated[float, Range(0, 0.5)] = 0.1) -> None: ...

    family = backbone(name="zoo", members=lambda patterns, *_: list(patterns) or ["a", "b"])(build)
    found = build_space(Registry([*PLUGINS, family]), {}, {})
    trial = Recorder(backbone="b")
    assert found.suggest(trial)["backbone"].name == "b"
    assert "backbone.zoo.drop" in trial.asked
    assert found.defaults(backbone="a")["backbone.zoo.drop"] == 0.1


def test_json_there_and_back() -> None:
    found = narrowed(head={"mlp": {"note": "other"}})
    config = found.suggest(Recorder(head="mlp", freeze="probe", head__mlp__depth=3))
    again = from_json(to_json(config), REGISTRY)
    assert to_json(again) == to_json(config)
    assert again["head"].params["note"] == "other"
    assert [c.plugin for c in again.values()] == [net, probe, mlp, none, sgd]


def test_json_of_some_kinds_or_of_an_older_plugin() -> None:
    some = from_json({"head": {"mlp": {"width": 9}}, "freeze": {}}, REGISTRY, kinds=["head"])
    assert some["head"].params == {**mlp.defaults, "width": 9}  # what is not there is the default


@pytest.mark.parametrize(
    ("data", "error", "part"),
    [
        ({}, StudyError, r"add a table \[head.NAME\]"),
        ({"head": "mlp"}, StudyError, r"add a table \[head.NAME\]"),
        ({"head": {}}, StudyError, r"no single head"),
        ({"head": {"mlp": {}, "linear": {}}}, StudyError, "no single head"),
        ({"head": {"mpl": {}}}, PluginError, "did you mean 'mlp'"),
        ({"head": {"mlp": {"widht": 9}}}, StudyError, "did you mean 'width'"),
    ],
)
def test_json_that_is_none_of_ours(data: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        from_json(data, REGISTRY, kinds=["head"])


def test_saved_models_need_no_pretrained_weights() -> None:
    def locate(name: str, folder: Path | None) -> Weights:
        raise WeightsError("none anywhere")

    family = backbone(name="zoo", members=lambda patterns, *_: list(patterns), locate=locate)
    registry = Registry([family(lambda name, weights: None)])
    data = {"backbone": {"far": {}}}
    found = from_json(data, registry, kinds=["backbone"], pretrained=False)["backbone"].plugin
    assert found.given == {"name": "far", "weights": None}
    with pytest.raises(WeightsError, match="none anywhere"):
        from_json(data, registry, kinds=["backbone"])


# Optional kinds, terms and sizes.


@balance(order=1)
def even(counts: list[int]) -> Balance:
    return Balance()


@balance
def heavy(counts: list[int], *, power: Annotated[float, Range(0.1, 1)] = 1.0) -> Balance:
    return Balance()


def test_an_optional_kind_is_left_out_where_it_is_not_needed() -> None:
    registry = Registry([*PLUGINS, even, heavy])
    space = build_space(registry, {}, {})
    assert "balance" in space.plugins
    assert space.without("balance").plugins.keys() == space.plugins.keys() - {"balance"}
    pinned = build_space(registry, {}, {"balance": {"heavy": {"power": 0.5}}})
    assert pinned.describe()["balance.heavy.power"] == "0.5"
    with pytest.raises(PluginError, match="no balance plugin is called 'hevy'; did you mean"):
        build_space(registry, {"balance": ["hevy"]}, {})


def test_a_configuration_may_lack_an_optional_kind_and_no_other() -> None:
    registry = Registry([*PLUGINS, even, heavy])
    space = build_space(registry, {}, {}).without("balance")
    written = to_json(space.suggest(Recorder()))
    assert "balance" not in from_json(written, registry)
    assert from_json({**written, "balance": {"even": {}}}, registry)["balance"].name == "even"
    del written["head"]
    with pytest.raises(StudyError, match="no single head"):
        from_json(written, registry)


def zoo(**facts: Weights) -> Registry:
    """A family of backbones whose weights are as told."""
    family = backbone(
        name="zoo",
        members=lambda patterns, *_: list(patterns) or sorted(facts),
        locate=lambda name, folder: facts[name],
    )
    return Registry([*PLUGINS, family(lambda name, weights, size: (name, size))])


ZOO = zoo(
    big=Weights("here", "mit", None, 30_000_000),
    free=Weights("here", "apache-2.0", None, 5_000_000),
    odd=Weights("here", "cc-by-nc-4.0"),
)


@pytest.mark.parametrize(
    ("terms", "left", "reason"),
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
            "30.0 M parameters, more than 10.0 M",
        ),
    ],
)
def test_backbones_are_taken_on_terms(terms: BackboneCriteria, left: set[str], reason: str) -> None:
    space = build_space(ZOO, {"backbone": ["big", "free", "odd"]}, {}, terms)
    assert {p.name for p in space.plugins["backbone"]} == left
    assert all(reason in out.reason for out in space.excluded)
    assert len(space.excluded) == 3 - len(left)


def test_no_backbone_left_on_these_terms_says_which_to_relax() -> None:
    with pytest.raises(PluginError, match="relax --licence or --max-parameters") as caught:
        build_space(ZOO, {"backbone": ["big"]}, {}, BackboneCriteria(max_parameters=1))
    assert "big: it has 30.0 M parameters" in str(caught.value)


def test_several_sizes_are_searched_where_a_backbone_is_given_its_size() -> None:
    space = build_space(ZOO, {"backbone": ["big", "free", "net"]}, {}, sizes=[64, 96])
    assert space.describe()["backbone.zoo.image_size"] == "64 | 96"
    trial = Recorder(backbone="free", **{"backbone.zoo.image_size": 96})
    chosen = space.suggest(trial)["backbone"]
    assert to_json({"backbone": chosen}) == {"backbone": {"free": {"image_size": 96}}}
    assert chosen.plugin.call({"size": None}, chosen.params) == ("free", 96)
    assert "backbone.zoo.image_size" not in build_space(ZOO, {}, {}, sizes=[64]).describe()
    one = build_space(ZOO, {}, {"backbone": {"zoo": {"image_size": [32, 48]}}})
    assert one.describe()["backbone.zoo.image_size"] == "32 | 48"  # said of the whole family


def test_a_member_with_values_of_its_own_shares_no_parameters() -> None:
    fixed = {"backbone": {"free": {"image_size": 64}}}
    space = build_space(ZOO, {"backbone": ["big", "free", "net"]}, fixed, sizes=[64, 96])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    sizes: dict[str, set[int]] = {}
    for _ in range(40):  # Optuna refuses a parameter that has other choices within a study
        chosen = space.suggest(study.ask())["backbone"]
        sizes.setdefault(chosen.name, set()).add(chosen.params.get("image_size", 0))
    assert sizes == {"big": {64, 96}, "free": {64}, "net": {0}}


def test_plugins_are_left_out_later_with_their_reasons() -> None:
    space = build_space(ZOO, {"backbone": ["odd", "big"]}, {})
    less = space.exclude("backbone", {"odd": "too slow"})
    assert less.default_order("backbone") == ["big"]
    assert less.excluded[-1] == Excluded("backbone", "odd", "too slow")
    with pytest.raises(PluginError, match=r"no backbone is left \(odd: a; big: b\)"):
        space.exclude("backbone", {"odd": "a", "big": "b"})


@augment
def stepped(
    size: int,
    *,
    share: Annotated[float, Range(0.1, 0.9, step=0.2)] = 0.5,
    count: Annotated[int, Range(2, 8, step=3)] = 5,
) -> Any: ...


def test_steps_are_drawn_alone_and_alike() -> None:
    space = Space({"augment": (stepped,)})
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=20))
    drawn: set[tuple[float, int]] = set()
    for _ in range(60):
        trial = study.ask()
        values = space.suggest(trial)["augment"].params
        drawn.add((values["share"], values["count"]))
        study.tell(trial, values["share"])
    assert {share for share, _ in drawn} == {0.1, 0.3, 0.5, 0.7, 0.9}
    assert {count for _, count in drawn} == {2, 5, 8}
    assert space.describe()["augment.stepped.share"] == "0.1 to 0.9 in steps of 0.2"


def test_steps_are_kept_when_narrowed() -> None:
    [share, _] = narrow_plugin(stepped, {"share": [0.2, 0.85]}).hyperparameters
    assert share.range
    assert (share.range.low, share.range.step) == (0.2, 0.2)
    assert share.range.high == pytest.approx(0.8)
    assert share.default == pytest.approx(0.4)
    assert share.can_draw(0.4)
    assert not share.can_draw(0.5)
    [share, _] = narrow_plugin(stepped, {"share": [0.45, 0.55]}).hyperparameters  # less than one
    assert share.range == Range(0.45, 0.55)
    [share, _] = narrow_plugin(stepped, {"share": 0.62}).hyperparameters  # pinned where one likes
    assert share.choices == (0.62,)


def test_a_configuration_as_a_trial_would_draw_it() -> None:
    space = Space({"augment": (stepped,)})
    config = {"augment": {"stepped": {"share": 0.7, "count": 8}}, "freeze": {"full": {}}}
    flat = space.flatten(config)
    assert flat == {"augment": "stepped", "augment.stepped.share": 0.7, "augment.stepped.count": 8}
    trial = optuna.trial.FixedTrial(flat)
    assert to_json(space.suggest(trial)) == {"augment": config["augment"]}
    assert space.flatten({"augment": {"stepped": {"share": 0.62}}}) == {}
    assert space.flatten({"augment": {"unknown": {}}}) == {}
    assert space.flatten({}) == {}
