"""The registry: loading and selecting plugins, reasons for exclusion, messages for wrong names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, version
from pathlib import Path
from typing import Any

import pytest

from autotl import Example, Weights, augment, backbone, dataset, freeze, head
from autotl.errors import DataError, PluginError, WeightsError
from autotl.space import plugin_modules, space
from autotl.space.kinds import GIVEN_ARGUMENTS
from autotl.space.plugin import Plugin
from autotl.space.registry import BackboneCriteria, Excluded, Registry, load
from autotl.space.requirements import missing_requirements

GOOD = "from autotl import head\n\n@head\ndef mine(features, classes, *, deep: bool = True): ...\n"


@head
def linear(features: int, classes: int) -> None: ...


@head
def linear_bare(features: int, classes: int) -> None: ...


@head
def mlp(features: int, classes: int) -> None: ...


@head(requires=["not-on-this-planet>=1"])
def lacking(features: int, classes: int) -> None: ...


@backbone
def mynet() -> None: ...


def members(
    patterns: Sequence[str], device: str = "cpu", seconds: float | None = None
) -> list[str]:
    matches = {"net1": ["net1", "net1.v2"], "net?": ["net1", "net2"], "far": ["far"]}
    if not patterns:
        return ["net2", "net1", "far"]
    if unknown := [p for p in patterns if p not in matches and p not in ("net2", "net1.v2")]:
        raise PluginError(f"the zoo has no {unknown[0]!r}")
    return [name for p in patterns for name in (matches[p] if "?" in p else [p])]


def locate(name: str, folder: Path | None) -> Weights:
    if name == "far":
        raise WeightsError(f"no weights of {name} in {folder}")
    return Weights(f"file in {folder}")


@backbone(name="zoo", members=members, locate=locate)
def zoo(name: str, weights: Weights | None) -> None: ...


@dataset(matches=["*/", "*.One"])
def one(source: str) -> list[Example]:
    return []


@dataset(matches=["two:*"])
def two(source: str) -> list[Example]:
    return []


EVERY = Registry([mlp, linear_bare, linear, lacking, mynet, zoo, one, two])


def names(plugins: list[Plugin[..., Any]]) -> list[str]:
    return [p.name for p in plugins]


def test_plugins_are_listed_by_kind_then_name() -> None:
    listed = [(p.kind, p.name) for p in EVERY]
    assert listed == sorted(listed, key=lambda kn: (list(GIVEN_ARGUMENTS).index(kn[0]), kn[1]))
    assert len(listed) == 8
    assert EVERY.names("head") == ["lacking", "linear", "linear_bare", "mlp"]
    assert EVERY.names("freeze") == []


def test_two_plugins_of_one_name_are_rejected_with_both_origins(tmp_path: Path) -> None:
    for name in ("first.py", "second.py"):
        (tmp_path / name).write_text(GOOD + f"# {name}")
    with pytest.raises(
        PluginError, match=r"two head .*'mine'.*first\.py sha.*second\.py sha.*rename"
    ):
        load([tmp_path / "first.py", tmp_path / "second.py"])


def test_plugins_of_two_kinds_may_have_the_same_name() -> None:
    both = Registry([head(name="x")(lambda features: 0), freeze(name="x")(lambda model: [])])
    assert (both.get("head", "x").kind, both.get("freeze", "x").kind) == ("head", "freeze")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x = 1\n\nraise ValueError('no luck')\n", [", line 3 raises ValueError: no luck"]),
        (
            "def f():\n    return 1 / 0\n\n\nx = f()\n",
            [", line 2 raises ZeroDivisionError: division by zero"],
        ),
        (
            "import json\n\njson.loads('?')\n",
            [", line 3 raises JSONDecodeError"],
        ),  # the line of the plugin file, not that of json
        ("x = 1\ndef (:\n", [", line 2 raises SyntaxError"]),
        ("import not_on_this_planet\n", [", line 1 raises ModuleNotFoundError"]),
        ("", ["defines no plugin", "@head", "@dataset"]),
        ("from autotl_plugins.heads import linear\n", ["defines no plugin"]),
        (
            "from autotl import head\n@head\ndef h(*, n: bool): ...\n",
            ["head plugin 'h': 'n' needs a default"],
        ),
    ],
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_plugin_file_that_fails_is_explained(
    text: str, parts: list[str], relative: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("bad.py") if relative else tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(PluginError) as caught:
        load([file])
    assert [p for p in [str(file), *parts] if p not in str(caught.value)] == []


def test_a_syntax_error_in_an_imported_file_does_not_give_its_line_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_of_bad.py").write_text("\n\n\ndef (:\n")
    (tmp_path / "bad.py").write_text("import helper_of_bad\n")
    with pytest.raises(PluginError, match=r"bad\.py, line 1 raises SyntaxError.*helper_of_bad"):
        load([tmp_path / "bad.py"])


def test_paths_that_are_not_plugin_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"missing\.py cannot be read: there is no such file"):
        load([tmp_path / "missing.py"])
    with pytest.raises(PluginError, match=r"cannot be read: Is a directory"):
        load([tmp_path])
    (tmp_path / "plugin.txt").write_text(GOOD)
    with pytest.raises(PluginError, match=r"plugin\.txt is not a Python file.*\.py"):
        load([tmp_path / "plugin.txt"])


def test_loading_a_file_twice_gives_equal_plugins(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)

    def read() -> tuple[Plugin[..., Any], str]:
        loaded = load([file])
        requested = {"backbone": ["mynet"], "head": ["mine", "linear"]}
        whole = Registry([*loaded, mynet])
        return loaded.get("head", "mine"), space.build_space(whole, requested, {}).fingerprint

    (a, fingerprint), (b, second) = read(), read()
    assert (a.origin, a.hyperparameters) == (b.origin, b.hyperparameters)
    assert a.origin.startswith("file mine.py sha256:")
    assert fingerprint == second
    file.write_text(GOOD + "# changed")
    assert read()[0].origin != a.origin


def test_importing_a_plugin_file_changes_no_other_registry(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    assert "mine" in load([tmp_path / "mine.py"]).names("head")
    assert "mine" not in load().names("head")


def install(monkeypatch: pytest.MonkeyPatch, *entries: EntryPoint) -> None:
    monkeypatch.setattr(plugin_modules, "entry_points", lambda group: entries)


def test_a_broken_package_is_listed_and_the_others_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "works_somehow.py").write_text(GOOD)
    (tmp_path / "raises_always.py").write_text("raise RuntimeError('out of order')")
    modules = ("not_on_this_planet", "raises_always", "works_somehow")
    install(monkeypatch, *(EntryPoint(name, name, "autotl") for name in modules))
    loaded = load()
    assert [(p.name, p.origin) for p in loaded] == [("mine", "works_somehow")]
    assert [b.name for b in loaded.broken] == ["not_on_this_planet", "raises_always"]
    assert "ModuleNotFoundError" in loaded.broken[0].reason
    assert "raises_always cannot be imported: RuntimeError: out of order" in loaded.broken[1].reason


def test_the_built_in_plugins_are_loaded() -> None:
    loaded = load()
    assert loaded.broken == ()
    assert f"autotl {version('autotl')}" in {p.origin for p in loaded}
    built_in = {kind: set(loaded.names(kind)) for kind in GIVEN_ARGUMENTS}
    assert built_in["backbone"] >= {"timm"}
    assert built_in["freeze"] >= {"linear_probe", "lp_ft", "full", "last_blocks", "gradual"}
    assert built_in["head"] >= {"linear", "mlp", "cosine"}
    assert built_in["augment"] >= {"none", "flip_crop", "rand_augment"}
    assert built_in["optimizer"] >= {"adamw", "sgd"}
    assert built_in["dataset"] >= {"folder", "csv", "npz", "sklearn"}
    for plugin in loaded:
        assert missing_requirements(plugin) == []
        assert plugin.summary, f"{plugin.name} has no description"


def test_an_unknown_name_is_reported_with_similar_names() -> None:
    assert EVERY.get("head", "mlp") is mlp
    for get in (EVERY.get, EVERY.get_untrained):
        with pytest.raises(PluginError, match=r"no head .*'liner'.*did you mean 'linear'"):
            get("head", "liner")
        with pytest.raises(PluginError, match=r"no freeze .*'full'.*there are none"):
            get("freeze", "full")
        with pytest.raises(PluginError, match=r"'mynett'.*did you mean 'mynet'"):
            get("backbone", "mynett")
        with pytest.raises(PluginError, match="the zoo has no 'resnet18'"):
            get("backbone", "resnet18")
        with pytest.raises(
            PluginError, match="the zoo has no 'zoo'"
        ):  # does not suggest the name of the family
            get("backbone", "zoo")


def test_a_member_of_a_family_has_its_weights() -> None:
    here = Path("weights")
    assert EVERY.get("backbone", "net1", here).given["weights"] == Weights(f"file in {here}")
    assert EVERY.get_untrained("backbone", "net1").given == {"name": "net1", "weights": None}
    assert EVERY.get_untrained("backbone", "far").name == "far"
    with pytest.raises(WeightsError, match="no weights of far"):
        EVERY.get("backbone", "far")


def test_select_by_patterns() -> None:
    def selected(*patterns: str) -> list[str]:
        plugins, excluded = EVERY.select("head", patterns)
        assert excluded == []
        return names(plugins)

    assert selected("lin*") == ["linear", "linear_bare"]
    assert selected("mlp", "lin*") == ["mlp", "linear", "linear_bare"]  # in the requested order
    assert selected("linear", "l[i]n*", "linear") == ["linear", "linear_bare"]
    assert selected("m??") == ["mlp"]
    assert names(EVERY.select("head")[0]) == ["linear", "linear_bare", "mlp"]
    with pytest.raises(PluginError, match=r"no head matches 'conv\*'"):
        EVERY.select("head", ["mlp", "conv*"])
    with pytest.raises(PluginError, match=r"'mpl'.*did you mean 'mlp'"):
        EVERY.select("head", ["mpl"])


@pytest.mark.parametrize("patterns", [[], ["*"], ["lack*", "*king"]])
def test_a_plugin_without_its_requirements_is_excluded(patterns: list[str]) -> None:
    plugins, excluded = EVERY.select("head", patterns)
    assert "lacking" not in names(plugins)
    reason = "needs not-on-this-planet>=1: pip install 'not-on-this-planet>=1'"
    assert excluded == [Excluded("head", "lacking", reason)]


def test_naming_a_plugin_without_its_requirements_is_an_error() -> None:
    with pytest.raises(PluginError, match=r"'lacking' needs not-on.*pip install 'not-on"):
        EVERY.select("head", ["mlp", "lacking"])


def test_an_augmentation_for_training_without_labels_is_selected_by_name_alone() -> None:
    @augment
    def plain(size: int) -> None: ...

    @augment(contrastive=True)
    def views(size: int) -> None: ...

    registry = Registry([plain, views])
    assert names(registry.select("augment")[0]) == ["plain"]
    assert names(registry.select("augment", ["v*"])[0]) == ["views"]


def test_the_default_members_of_a_family_are_selected() -> None:
    plugins, excluded = EVERY.select("backbone", (), BackboneCriteria(Path("dir")))
    assert names(plugins) == ["mynet", "net2", "net1"]
    assert excluded == [Excluded("backbone", "far", "no weights of far in dir")]
    assert [p.family for p in plugins] == ["", "zoo", "zoo"]


def test_patterns_match_plain_backbones_and_members_of_families() -> None:
    assert names(EVERY.select("backbone", ["net?"])[0]) == ["net1", "net2"]
    assert names(EVERY.select("backbone", ["net1.v2", "mynet"])[0]) == ["net1.v2", "mynet"]
    assert names(EVERY.select("backbone", ["my*"])[0]) == ["mynet"]  # although the zoo has none
    with pytest.raises(PluginError, match=r"the zoo has no 'x\*'"):
        EVERY.select("backbone", ["x*"])


def test_a_dataset_plugin_with_the_options_takes_precedence(tmp_path: Path) -> None:
    @dataset(matches=["*.csv"])
    def images(source: str) -> list[Example]:
        return []

    @dataset(matches=["*.csv"], accepts=lambda source: False)
    def texts(source: str, *, column: str = "") -> list[Example]:
        return []

    source = str(tmp_path / "table.csv")
    Path(source).write_text("", encoding="utf-8")
    plugins = Registry([images, texts])
    assert plugins.dataset(source).name == "images"
    assert plugins.dataset(source, ["column"]).name == "texts"
    assert plugins.dataset(source, ["colunm"]).name == "images"


def test_the_dataset_plugin_is_selected_by_its_patterns(tmp_path: Path) -> None:
    (tmp_path / "data.one").touch()
    (tmp_path / "data.ONE").touch()
    (tmp_path / "data.xyz").touch()
    (tmp_path / "photos").mkdir()
    assert EVERY.dataset(str(tmp_path)).name == "one"
    assert EVERY.dataset(f"{tmp_path}/").name == "one"
    assert EVERY.dataset(str(tmp_path / "data.one")).name == "one"
    assert EVERY.dataset(str(tmp_path / "data.ONE")).name == "one"
    assert EVERY.dataset("two:anything").name == "two"
    own = dataset(name="own", matches=["*/photos/"])(one.function)
    both = Registry([*EVERY, own])  # the plugin that is registered last has precedence
    assert both.dataset(str(tmp_path / "photos")).name == "own"
    assert both.dataset(str(tmp_path)).name == "one"
    with pytest.raises(DataError, match=r"no dataset plugin reads .*xyz'.*folders, .*two:\*"):
        EVERY.dataset(str(tmp_path / "data.xyz"))
    more = dataset(name="more", matches=["*/"])(one.function)
    with pytest.raises(DataError, match=r"installed read folders, \*\.One, two:\*$"):
        Registry([*EVERY, more]).dataset("three:x")
    with pytest.raises(DataError, match="no dataset plugin reads 'three:x'"):
        EVERY.dataset("three:x")
    with pytest.raises(DataError, match=r"no file or folder .*photo'; did you mean 'photos'"):
        EVERY.dataset(str(tmp_path / "photo"))
    with pytest.raises(DataError, match="no file or folder"):
        EVERY.dataset(str(tmp_path / "nowhere" / "photos"))


def test_a_plugin_that_cannot_look_into_a_source_does_not_accept_it(tmp_path: Path) -> None:
    def look(source: str) -> bool:
        raise OSError("it is damaged")

    looks = dataset(name="looks", matches=["*.one"], accepts=look)(one.function)
    source = tmp_path / "data.one"
    source.touch()
    assert Registry([*EVERY, looks]).dataset(str(source)).name == "one"
    with pytest.raises(DataError, match=r"data.one' \(looks: OSError: it is damaged\); those"):
        Registry([looks]).dataset(str(source))


def test_an_existing_path_with_a_colon_is_read_as_a_path(tmp_path: Path) -> None:
    (tmp_path / "two:photos").mkdir()
    assert EVERY.dataset(str(tmp_path / "two:photos")).name == "one"


def test_a_registry_with_files_loads_no_model_library(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GOOD)
    code = (
        "import sys; from autotl.space import plugin_modules as m, registry as r;"
        "from pathlib import Path;"
        "m.entry_points = lambda group: [];"
        f"print(r.load([Path({str(tmp_path / 'mine.py')!r})]).names('head'));"
        "assert not {'torch', 'optuna', 'numpy'} & set(sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout == "['mine']\n"


@backbone(members=members)
def channel_zoo(name: str, weights: Weights | None, in_chans: int = 3) -> tuple[str, int]:
    """Backbones for any number of channels."""
    return name, in_chans


def test_other_channels_than_rgb_need_backbones_that_take_them() -> None:
    @backbone
    def plain() -> None:
        """In RGB."""

    @backbone(input="text")
    def of_text() -> None:
        """No images."""

    every = Registry([channel_zoo, plain, of_text, linear])
    assert every.for_channels(3) is every
    fitting = every.for_channels(6)
    assert fitting.names("backbone") == ["channel_zoo", "of_text"]
    assert fitting.names("head") == ["linear"]
    assert fitting.get_untrained("backbone", "net1").call({}, {}) == ("net1", 6)
    assert every.get_untrained("backbone", "net1").call({}, {}) == ("net1", 3)
    with pytest.raises(PluginError, match="takes images of 3 channels, and not of 6"):
        fitting.get("backbone", "plain")


def test_backbones_of_two_kinds_of_input_may_have_members_of_the_same_name() -> None:
    @backbone(name="texts", input="text", members=members)
    def texts(name: str, weights: Weights | None) -> str:
        """Backbones of texts."""
        return f"text {name}"

    every = Registry([channel_zoo, texts, linear])
    assert every.of_input("text").get_untrained("backbone", "net1").input == "text"
    assert every.of_input("image").get_untrained("backbone", "net1").input == "image"
    assert every.of_input("text").names("head") == ["linear"]
