"""Study files, options and recipes: what they mean, and what a mistake in one is told."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import optuna
import pytest

from autotl import backbone, study
from autotl.errors import StudyError
from autotl.space import registry, space
from autotl.space.registry import Registry
from autotl.study import StudyConfig, configure, configure_recipe, parse_duration, write_recipe


@backbone
def tiny() -> None: ...


@pytest.mark.parametrize(
    ("text", "span"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90", 90),
        ("90s", 90),
        ("1.5m", 90),
        ("10m", 600),
        ("1h30m", 5400),
        (" 1H30M ", 5400),
        ("2d", 172800),
        ("1m30", 90),
    ],
)
def test_time_spans(text: str | float, span: float) -> None:
    assert parse_duration(text) == span


@pytest.mark.parametrize("text", ["", "m", "ten", "10x", "1h 30m", "-5", -5, "1e3", "nan", True])
def test_what_is_no_time_span(text: Any) -> None:
    with pytest.raises(StudyError, match="no time span; write 90s, 10m, 1h30m or 2d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["0", 0, "0m", "0h0m"])
def test_no_time_at_all(text: Any) -> None:
    with pytest.raises(StudyError, match="leaves no time; write 90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [(0, 0), ("1024", 1024), ("1.5kB", 1536), ("500MB", 500 << 20), ("2 GiB", 2 << 30)],
)
def test_sizes(text: Any, size: int) -> None:
    assert configure("x", {"cache_size": text}).cache_size == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1 elephant"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(StudyError, match=r"cache_size = .*write 500MB or 20GB"):
        configure("x", {"cache_size": text})


def test_options_come_as_they_are() -> None:
    found = configure("photos/", {"budget": "10m", "trials": 3, "backbone": "resnet*"})
    assert (found.data, found.budget, found.trials) == ("photos/", 600.0, 3)
    assert found.requested["backbone"] == ("resnet*",)
    assert found.requested["head"] == ()
    assert found.folder == Path("runs/photos")
    assert configure("photos/", {"out": "here", "study": "x"}).folder == Path("here/x")


def test_none_means_no_limit_and_one_may_stand_for_several() -> None:
    assert configure("x", {"budget": None, "trials": None}).budget is None
    assert configure("x", {"plugin": "a.py"}).plugin == (Path("a.py"),)
    assert configure("x", {"plugin": Path("a.py")}).plugin == (Path("a.py"),)
    assert configure("x", {"head": ["a", "b"]}).head == ("a", "b")


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        configure("x", {}).data = "y"


def write(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_paths_in_a_file_are_relative_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "studies"
    text = 'data = "photos"\nplugin = ["a.py", "/abs/b.py"]\nweights = "../w"\nout = "runs"\n'
    text += 'learn_from = "old.db"\n'
    found = configure(write(folder / "flowers.toml", text), {})
    assert found.data == str(folder / "photos")
    assert found.plugin == (folder / "a.py", Path("/abs/b.py"))
    assert found.weights is not None
    assert found.weights.resolve() == (tmp_path / "w").resolve()
    assert found.learn_from == str(folder / "old.db")
    assert found.name == "flowers"
    assert found.folder == Path("runs/flowers")  # where the command is run
    monkeypatch.setenv("HOME", str(tmp_path))
    found = configure(write(folder / "b.toml", 'data = "~/photos"\nplugin = "a.py"'), {})
    assert (found.data, found.plugin) == (str(tmp_path / "photos"), (folder / "a.py",))


def test_a_source_that_is_no_path_stays(tmp_path: Path) -> None:
    file = write(tmp_path / "digits.toml", 'data = "sklearn:digits"')
    assert configure(file, {}).data == "sklearn:digits"
    (tmp_path / "sklearn:digits").mkdir()
    assert configure(file, {}).data == str(tmp_path / "sklearn:digits")


def test_a_file_narrows_the_space(tmp_path: Path) -> None:
    text = 'data = "x"\nbudget = "1h"\nfreeze = "full"\n[space.freeze.full]\nlr = [1e-4, 1e-3]\n'
    found = configure(write(tmp_path / "s.toml", text), {})
    assert found.space == {"freeze": {"full": {"lr": [1e-4, 1e-3]}}}
    assert (found.budget, found.freeze) == (3600.0, ("full",))


def test_options_override_the_file(tmp_path: Path) -> None:
    text = 'data = "x"\nstudy = "one"\nepochs = 3\nseed = 1\nbackbone = ["a"]\nweights = "w"\n'
    given = {"study": "two", "epochs": 5, "backbone": ("b",), "weights": Path("v")}
    found = configure(write(tmp_path / "s.toml", text), given)
    assert (found.name, found.epochs, found.backbone) == ("two", 5, ("b",))
    assert (found.seed, found.weights) == (1, Path("v"))  # an option's path is left as it is


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('data = "x"\nbuget = "1h"', ["'buget' is no option", "did you mean 'budget'"]),
        ('data = "x"\nqqqq = 1', ["'qqqq' is no option", "there are"]),
        ('data = "x"\nbudget = "1 hour"', ["budget", "'1 hour' is no time span; write 90s"]),
        ('data = "x"\nbudget = 0', ["budget", "leaves no time"]),
        ('data = "x"\nepochs = "many"', ["epochs = 'many'", "integer"]),
        ('data = "x"\nepochs = 0', ["epochs = 0", "greater than or equal to 1"]),
        ('data = "x"\ntest = 0.95', ["test = 0.95", "less than 0.9"]),
        ('data = "x"\ndevice = "tpu"', ["device = 'tpu'", "'cpu'"]),
        ('data = "x"\nstudy = "a/b"', ["study = 'a/b'"]),
        ('data = "x"\n[space]\nhead = 3', ["space.head = 3", "dictionary"]),
        ("epochs = 3", ["'data' is missing; add it"]),
        ("data = x", ["is not valid TOML", "line 1"]),
    ],
)
def test_a_mistake_in_a_file_is_named(text: str, parts: list[str], tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", text)
    with pytest.raises(StudyError) as caught:
        configure(file, {})
    assert [p for p in [file, *parts] if p not in str(caught.value)] == []


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "flowers.toml", "")
    with pytest.raises(StudyError, match=r"No such file.*did you mean 'flowers\.toml'"):
        configure(str(tmp_path / "flower.toml"), {})
    (tmp_path / "latin.toml").write_bytes('data = "fotografías"'.encode("latin-1"))
    with pytest.raises(StudyError, match="is not valid TOML"):
        configure(str(tmp_path / "latin.toml"), {})


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(StudyError, match="options: 'hed' is no option; did you mean 'head'"):
        configure("x", {"hed": "mlp"})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("photos/", "photos"),
        ("photos", "photos"),
        ("a/photos", "photos"),
        ("a/x.csv", "x"),
        ("a/b/x.npz", "x"),
        ("sklearn:digits", "digits"),
        (".", "here.v1"),
        ("../here.v1/", "here.v1"),
        ("/", "study"),
    ],
)
def test_a_study_is_called_like_its_data(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.v1").mkdir()  # the name of a folder has no suffix
    monkeypatch.chdir(tmp_path / "here.v1")
    assert StudyConfig(data=source).name == name
    assert StudyConfig(data=source, study="mine").name == "mine"


PLUGINS = Registry([*registry.load(), tiny])
CHOSEN = {
    "backbone": "tiny",
    **{"freeze": "lp_ft", "freeze.lp_ft.probe": 0.123456789012345, "freeze.lp_ft.probe_lr": 1e-3},
    **{"freeze.lp_ft.lr": 1e-4 / 3},
    **{"head": "mlp", "head.mlp.depth": 2, "head.mlp.width": 65, "head.mlp.second": 66},
    **{"head.mlp.dropout": 0.0, "augment": "flip_crop", "augment.flip_crop.smallest": 0.3},
    **{"augment.flip_crop.flip": False, "optimizer": "sgd", "optimizer.sgd.scale": 7.0},
    **{"optimizer.sgd.momentum": 0.85, "optimizer.sgd.weight_decay": 1e-5},
    "optimizer.sgd.warmup": 0.0,
}
TRAINING = {"metric": "auroc", "seed": 3, "batch_size": 8, "epochs": 5}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    whole = space.build_space(PLUGINS, {"backbone": ["tiny"]}, {}).without("balance")
    config = space.to_json(whole.suggest(optuna.trial.FixedTrial(CHOSEN)))
    path = tmp_path / "best" / "recipe.toml"
    path.parent.mkdir()
    training = {"data": "photos", **TRAINING, "versions": {"torch": "2"}}
    write_recipe(path, config, training)
    return path


def test_a_recipe_is_rerun_as_it_is(recipe: Path) -> None:
    settings = configure_recipe(recipe, None, {})
    again = space.build_space(PLUGINS, settings.requested, settings.space).without("balance")
    assert again.defaults() == CHOSEN
    assert all(len(plugins) == 1 for plugins in again.plugins.values())
    assert settings.trials == 1
    assert {key: getattr(settings, key) for key in TRAINING} == TRAINING
    assert (settings.data, settings.name) == ("photos", "best-again")
    # Nothing is left to choose: what a trial is asked has one answer each.
    spread = [v for v in again.describe().values() if len(v) != 1 and ("|" in v or " to " in v)]
    assert spread == []


def test_a_recipe_for_other_data_and_with_other_settings(recipe: Path) -> None:
    settings = configure_recipe(
        recipe, "others/", {"out": Path("there"), "study": "mine", "seed": 4}
    )
    assert (settings.data, settings.seed, settings.metric) == ("others/", 4, "auroc")
    assert settings.folder == Path("there/mine")


def test_a_recipe_says_how_it_is_used_and_is_plain_toml(recipe: Path) -> None:
    text = recipe.read_text()
    assert text.startswith("# Train it again: autotl train recipe.toml DATA\n")
    values = tomllib.loads(text)
    assert values["head"] == {"mlp": {"depth": 2, "width": 65, "second": 66, "dropout": 0.0}}
    assert "image_size" not in values


@pytest.mark.parametrize(
    "text",
    [
        "",
        'data = "x"\nhead = "mlp"\nbackbone = "tiny"',
        "[backbone.tiny]\n[freeze.full]\n[head.mlp]\n[augment.none]",
        "[backbone.tiny]\n[freeze.full]\n[head.mlp]\n[head.linear]\n[augment.none]\n[optimizer.sgd]",
    ],
)
def test_a_file_that_is_no_recipe(text: str, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(text)
    with pytest.raises(StudyError, match=r"r\.toml is no recipe: it needs one table \[\w+\.NAME\]"):
        configure_recipe(file, "x", {})


def test_a_recipe_that_is_not_there_or_knows_too_much(recipe: Path) -> None:
    with pytest.raises(StudyError, match=r"recip\.toml cannot be read.*'recipe\.toml'"):
        configure_recipe(recipe.with_name("recip.toml"), None, {})
    recipe.write_text("epoch = 3\n" + recipe.read_text())
    with pytest.raises(StudyError, match=r"recipe\.toml: 'epoch' is no option.*'epochs'"):
        configure_recipe(recipe, None, {})


def test_the_default_budget_is_ten_minutes() -> None:
    assert parse_duration("10m") == study.DEFAULT_BUDGET


@pytest.mark.parametrize(
    ("key", "given", "meant"),
    [
        ("max_parameters", "30M", 30_000_000),
        ("max_parameters", "1.5b", 1_500_000_000),
        ("max_parameters", 500, 500),
        ("max_latency", "20ms", 20.0),
        ("max_latency", "0.1s", 100.0),
        ("max_latency", 7, 7.0),
        ("image_size", 64, (64,)),
        ("image_size", [64, 96], (64, 96)),
    ],
)
def test_limits_and_sizes_are_read(key: str, given: Any, meant: Any) -> None:
    assert getattr(study.configure("photos", {key: given}), key) == meant


@pytest.mark.parametrize(
    ("key", "given", "says"),
    [
        ("max_parameters", "many", "write 500k, 30M or 1.5B"),
        ("max_latency", "fast", "write 20ms or 0.5s"),
        ("image_size", 8, "greater than or equal to 16"),
        ("ema", 1.0, "less than 1"),
    ],
)
def test_limits_that_mean_nothing_are_refused(key: str, given: Any, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        study.configure("photos", {key: given})


def test_one_size_is_the_size_and_several_are_searched() -> None:
    assert study.configure("photos", {}).size is None
    assert study.configure("photos", {"image_size": 64}).size == 64
    assert study.configure("photos", {"image_size": [64, 96]}).size is None


def test_the_home_folder_may_be_written_short() -> None:
    assert configure("~/photos", {}).data == str(Path.home() / "photos")
