"""Examples of another kind than images, through a whole search and everything after it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from images import image_input, write_images, write_plugin

import autotl
from autotl import ANY_INPUT, augment, backbone, dataset
from autotl.data import IMAGES, Packed, check, find_kind, pack
from autotl.errors import DataError, PluginError
from autotl.space import registry
from autotl.space.input_kind import InputKind, ModelInput
from autotl.space.registry import Registry

PLUGIN = Path(__file__).parents[1] / "plugins" / "examples" / "autotl_series.py"


@pytest.fixture(scope="module")
def plugins() -> Registry:
    return registry.load([PLUGIN])


@pytest.fixture(scope="module")
def series(plugins: Registry) -> InputKind:
    return find_kind("series", plugins)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, series: InputKind) -> Path:
    """A folder with labelled series, and with one series of class 1 in a file of its own."""
    folder = tmp_path_factory.mktemp("series")
    examples = series.toy([60, 50, 40])
    labels = np.array([example.label for example in examples])
    np.savez(folder / "waves.npz", series=np.stack([e.item for e in examples]), labels=labels)
    np.savetxt(folder / "one.txt", examples[70].item)
    return folder


@pytest.fixture(scope="module")
def study(folder: Path) -> Any:
    """A finished search on the series."""
    return autotl.search(
        folder / "waves.npz",
        plugin=[PLUGIN],
        out=folder / "runs",
        device="cpu",
        trials=4,
        epochs=2,
        head=["logistic_regression", "linear"],
    )


def test_a_search_on_series_finds_a_good_model(study: Any) -> None:
    summary = study.summary
    assert summary["test"]["score"] > 0.9
    assert {key: summary["data"][key] for key in ("kind", "noun", "nouns")} == {
        "kind": "series",
        "noun": "series",
        "nouns": "series",
    }
    assert summary["best"]["config"]["augment"] == {"none": {}}
    sentences = (study.folder / "report.html").read_text()
    assert "images" not in (study.folder / "model" / "README.md").read_text().lower()
    assert "test series" in sentences


def test_the_model_predicts_files_and_items(study: Any, folder: Path) -> None:
    model = autotl.load(study.folder / "model", plugin=[PLUGIN])
    values = np.loadtxt(folder / "one.txt")
    [by_path], [by_item] = model.predict(str(folder / "one.txt")), model.predict([values])
    assert by_path == by_item
    assert max(by_path, key=lambda name: by_path[name]) == "1"
    with pytest.raises(DataError, match="no file or folder 'missing"):
        model.predict("missing.txt")


def test_commands_take_the_files_of_the_kind(study: Any, folder: Path) -> None:
    model, plugin = str(study.folder / "model"), str(PLUGIN)
    done = run("predict", model, str(folder / "one.txt"), "missing", "--plugin", plugin)
    assert done.exit_code == 1  # one of the two cannot be read
    assert done.stdout.split()[1] == "1"
    assert "there is no file or folder 'missing'" in done.stderr
    one = str(folder / "one.txt")
    listed = run("predict", model, "-", "--plugin", plugin, stdin=f"{one}\n{one}\n")
    assert listed.stdout.splitlines() == done.stdout.splitlines() * 2
    empty = run("predict", model, "-", "--plugin", plugin, stdin="")
    assert empty.exit_code == 1
    assert "no series: the list on stdin is empty" in empty.stderr
    scored = run("evaluate", model, str(folder / "waves.npz"), "--plugin", plugin)
    assert scored.exit_code == 0
    assert "150 series" in scored.stdout
    assert "trained on 120 of the 150 series" in scored.stdout
    checked = run("data", "check", str(folder / "waves.npz"), "--plugin", plugin)
    assert "150 series of 3 classes can be used" in checked.stdout


def test_the_model_is_exported_and_agrees(study: Any, folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    target = folder / "model.onnx"
    options = ["--to", "onnx", "--out", str(target), "--plugin", str(PLUGIN), "--format", "json"]
    done = run("export", str(study.folder / "model"), *options)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["max_difference"] < 1e-3


def test_a_study_goes_on(study: Any, folder: Path) -> None:
    options = ["--plugin", str(PLUGIN), "--out", str(folder / "runs"), "--trials", "5"]
    given = ["--device", "cpu", "--epochs", "2", "--quiet", "--study", study.folder.name]
    heads = ["--head", "logistic_regression", "--head", "linear"]
    done = run("search", str(folder / "waves.npz"), *options, *given, *heads)
    assert done.exit_code == 0, done.stderr
    summary = json.loads((study.folder / "summary.json").read_text())
    assert sum(summary["trials"].values()) == 5


def test_without_its_package_the_model_says_what_is_missing(study: Any) -> None:
    with pytest.raises(autotl.AutoTLError, match="--plugin"):
        autotl.load(study.folder / "model")


def test_only_plugins_of_the_kind_are_searched(plugins: Registry, series: InputKind) -> None:
    fitting = plugins.for_input(series)
    assert fitting.names("backbone") == ["random_kernels"]
    assert fitting.names("augment") == ["none"]
    assert fitting.names("head") == plugins.names("head")
    with pytest.raises(PluginError, match="takes image inputs, and the data are series"):
        fitting.get("augment", "flip_crop")
    images = plugins.for_input(IMAGES)
    assert not images.has("backbone", "random_kernels")
    assert "flip_crop" in images.names("augment")


def test_a_backbone_of_another_kind_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", count=4)
    options = ["--plugin", str(PLUGIN), "--out", str(tmp_path / "runs"), "--trials", "1"]
    done = run("search", str(tmp_path / "photos"), "--backbone", "random_kernels", *options)
    assert done.exit_code == 1
    assert "takes series inputs, and the data are images" in done.stderr


def test_the_kind_of_images_opens_what_another_kind_becomes(tmp_path: Path) -> None:
    """Recordings, say, that image backbones see as spectrograms."""

    class Spectrograms(InputKind):
        name, noun, nouns, unit, becomes = "sound", "recording", "recordings", "px", "image"

        def convert(self, item: Any) -> Any:
            return np.full((10, 20), item[0], np.uint8)

    sound = Spectrograms()
    assert sound.backbone_input == "image"
    examples = [autotl.Example(str(i), bytes([i, i]), str(i % 2)) for i in range(12)]
    packed: Packed = pack(check(examples, "here", kind=sound), image_input(8), tmp_path)
    assert packed.array.shape == (12, 8, 8, 3)
    assert sorted(packed.array[:, 0, 0, 0].tolist()) == list(range(12))


def test_the_source_chooses_among_plugins_for_the_same_files(folder: Path) -> None:
    images = folder / "images.npz"
    np.savez(images, images=np.zeros((4, 8, 8), np.uint8), labels=np.array([0, 1, 0, 1]))
    plugins = registry.load([PLUGIN])
    assert plugins.dataset(str(folder / "waves.npz")).name == "series_file"
    assert plugins.dataset(str(images)).input == "image"


def test_an_input_that_encodes_otherwise_than_it_says_is_named() -> None:
    class Wrong(ModelInput):
        kind, size, shape, dtype, key = "image", 2, (2,), "uint8", "wrong"

        def encode(self, item: Any) -> Any:
            return np.zeros(3, np.uint8)

    from autotl.data import encode

    class Plain(type(IMAGES)):  # type: ignore[misc]
        def encode(self, item: Any, expects: ModelInput, scales: Any) -> Any:
            return expects.encode(item)

    with pytest.raises(DataError, match=r"uint8 \[3\] instead of uint8 \[2\]"):
        encode(Plain(), "x", Wrong(), {})
    with pytest.raises(DataError, match=r"^'wave 3': the image input encodes it as"):
        encode(Plain(), np.ones(3), Wrong(), {}, "wave 3")


def test_two_kinds_of_one_name_are_refused(series: InputKind) -> None:
    other = type(series)()
    with pytest.raises(PluginError, match="two input kinds are called 'series'"):
        Registry(input_kinds=[series, other])
    with pytest.raises(PluginError, match="no input kind is called 'serie'; did you mean 'series'"):
        find_kind("serie", Registry(input_kinds=[series]))


def test_options_of_decorators_are_kept() -> None:
    @augment(input=ANY_INPUT)
    def plain(size: int) -> Any: ...

    @backbone(input="text")
    def encoder() -> Any: ...

    @dataset(input="text", matches=["*.csv"], accepts=lambda source: False)
    def table(source: str) -> Any: ...

    assert (plain.input, encoder.input, table.input) == (ANY_INPUT, "text", "text")
    with pytest.raises(DataError, match="there is no file or folder"):
        Registry([table]).dataset("x.csv")


def test_installed_plugins_that_look_into_a_source_are_asked_first() -> None:
    def reading(name: str, origin: str, accepts: Any = None) -> Any:
        @dataset(name=name, matches=["*:*"], accepts=accepts)
        def read(source: str) -> Any: ...

        return replace(read, origin=origin)

    looks = reading("looks", "sounds 1.0", lambda source: source == "a:b")
    reads_all = reading("reads_all", "zoo 1.0")
    assert Registry([looks, reads_all]).dataset("a:b").name == "looks"
    assert Registry([looks, reads_all]).dataset("a:c").name == "reads_all"
    for origin in ("file mine.py sha256:0", "a notebook or script"):
        mine = reading("mine", origin)
        assert Registry([looks, reads_all, mine]).dataset("a:b").name == "mine"


class Waves(InputKind):
    """Arrays of one number, which are divided by the largest of them."""

    name, noun, nouns, unit, becomes = "wave", "wave", "waves", "px", "image"

    def measure(self, items: Any) -> Any:
        return {"height": (0, max(float(item) for item in items))}

    def encode(self, item: Any, expects: ModelInput, scales: Any) -> Any:
        _, highest = scales["height"]
        return expects.encode(np.full((4, 4), 255 * item / highest, np.uint8))

    def read(self, argument: str) -> Any:
        return [(argument, np.float64(argument))]


def test_what_a_kind_measures_is_stored_and_encodes_new_items(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    text = (
        "import sys\nfrom autotl import Example, dataset\nimport numpy as np\n"
        f"waves = sys.modules[{__name__!r}].Waves()\n\n"
        '@dataset(input="wave", matches=["waves:*"])\n'
        "def read(source: str):\n"
        "    return [Example(str(i), np.float64(i + 1), str(i // 20)) for i in range(40)]\n"
    )
    plugin.write_text(text)
    files = [plugin, write_plugin(tmp_path)]
    study = autotl.search(
        "waves:up",
        plugin=files,
        out=tmp_path / "runs",
        device="cpu",
        trials=1,
        epochs=1,
        backbone=["tiny"],
    )
    config = json.loads((study.folder / "model" / "config.json").read_text())
    assert config["scales"] == {"height": [0, 40]}
    model = autotl.load(study.folder / "model", plugin=files)
    assert model.encode(np.float64(20))[0, 0].tolist() == [127, 127, 127]
    card = (study.folder / "model" / "README.md").read_text()
    assert "| height, measured on the data | 0 to 40 |" in card
    assert "photo.jpg" not in card
    checked = run("data", "check", "waves:up", "--plugin", str(plugin))
    assert "measured on all waves: height 0 to 40" in checked.stdout


def test_what_a_kind_measures_must_be_ranges() -> None:
    class Wrong(Waves):
        def measure(self, items: Any) -> Any:
            return {"height": 3}

    examples = [autotl.Example(str(i), np.float64(i + 1), str(i % 2)) for i in range(12)]
    with pytest.raises(PluginError, match=r"input kind 'wave' returns .*'height': 3"):
        check(examples, "here", kind=Wrong())
