"""Study files, options and recipes: their meaning, and the messages for mistakes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import optuna
import pytest

from autotl import backbone, files, study
from autotl.errors import StudyError
from autotl.space import registry, space
from autotl.space.registry import Registry
from autotl.study import (
    SourceTrainingConfig,
    StudyConfig,
    configure,
    configure_recipe,
    parse_duration,
    places,
    write_recipe,
)


@backbone
def tiny() -> None: ...


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        ("90s", 90),
        ("1.5m", 90),
        ("10m", 600),
        ("1h30m", 5400),
        (" 1H30M ", 5400),
        ("2d", 172800),
        ("1m30", 90),
    ],
)
def test_durations_are_parsed(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "ten", "10x", "1h 30m", "-5", -5, "1e3", "nan", True])
def test_invalid_durations_are_rejected(text: Any) -> None:
    message = "is not a valid duration: expected e.g. 90s, 10m, 1h30m or 2d"
    with pytest.raises(StudyError, match=message):
        parse_duration(text)


@pytest.mark.parametrize("text", ["4", " 4", "1.5", "0"])
def test_a_duration_has_a_unit(text: str) -> None:
    number = text.strip()
    message = f"is not a valid duration: expected a unit, {number}s, {number}m, {number}h"
    with pytest.raises(StudyError, match=message):
        parse_duration(text)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"]
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(StudyError, match="is a database in memory, which is lost; expected sqlite"):
        configure("photos", {"storage": url})


@pytest.mark.parametrize("url", ["sqlite:///a.db", "sqlite:////a/b.db?timeout=3", "mysql://u@h/x"])
def test_other_databases_are_accepted(url: str) -> None:
    assert configure("photos", {"storage": url}).storage == url


@pytest.mark.parametrize("text", [0, "0s", "0m", "0h0m"])
def test_a_duration_must_be_positive(text: Any) -> None:
    with pytest.raises(StudyError, match="not a valid duration: expected more than 0"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [(0, 0), ("1024", 1024), ("1.5kB", 1500), ("500MB", 500_000_000), ("2 GiB", 2 << 30)],
)
def test_sizes_in_bytes_have_decimal_or_binary_units(text: Any, size: int) -> None:
    assert configure("x", {"cache_size": text}).cache_size == size


@pytest.mark.parametrize("text", ["", "big", "-1", -1, "1 elephant"])
def test_invalid_sizes_are_rejected(text: Any) -> None:
    message = r"options: --cache-size = .*expected e\.g\. 500MB or 20GB"
    with pytest.raises(StudyError, match=message):
        configure("x", {"cache_size": text})


def test_options_are_read() -> None:
    config = configure("photos/", {"budget": "10m", "trials": 3, "backbone": "resnet*"})
    assert (config.data, config.budget, config.trials) == ("photos/", 600.0, 3)
    assert config.requested["backbone"] == ("resnet*",)
    assert config.requested["head"] == ()
    assert config.folder == Path("runs/photos")
    assert configure("photos/", {"out": "here", "study": "x"}).folder == Path("here/x")


def test_none_means_no_limit_and_a_single_value_may_replace_a_list() -> None:
    assert configure("x", {"budget": None, "trials": None}).budget is None
    assert configure("x", {"plugin": "a.py"}).plugin == (Path("a.py"),)
    assert configure("x", {"plugin": Path("a.py")}).plugin == (Path("a.py"),)
    assert configure("x", {"head": ["a", "b"]}).head == ("a", "b")


def test_a_configuration_is_immutable() -> None:
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
    config = configure(write(folder / "flowers.toml", text), {})
    assert config.data == str(folder / "photos")
    assert config.plugin == (folder / "a.py", Path("/abs/b.py"))
    assert config.weights is not None
    assert config.weights.resolve() == (tmp_path / "w").resolve()
    assert config.learn_from == str(folder / "old.db")
    assert config.name == "flowers"
    assert config.folder == Path("runs/flowers")  # relative to the working directory
    monkeypatch.setenv("HOME", str(tmp_path))
    config = configure(write(folder / "b.toml", 'data = "~/photos"\nplugin = "a.py"'), {})
    assert (config.data, config.plugin) == (str(tmp_path / "photos"), (folder / "a.py",))


def test_a_source_that_is_not_a_path_is_not_changed(tmp_path: Path) -> None:
    file = write(tmp_path / "digits.toml", 'data = "sklearn:digits"')
    assert configure(file, {}).data == "sklearn:digits"
    (tmp_path / "sklearn:digits").mkdir()
    assert configure(file, {}).data == str(tmp_path / "sklearn:digits")


def test_a_file_narrows_the_space(tmp_path: Path) -> None:
    text = 'data = "x"\nbudget = "1h"\nfreeze = "full"\n[space.freeze.full]\nlr = [1e-4, 1e-3]\n'
    config = configure(write(tmp_path / "s.toml", text), {})
    assert config.space == {"freeze": {"full": {"lr": [1e-4, 1e-3]}}}
    assert (config.budget, config.freeze) == (3600.0, ("full",))


def test_options_override_the_file(tmp_path: Path) -> None:
    text = 'data = "x"\nstudy = "one"\nepochs = 3\nseed = 1\nbackbone = ["a"]\nweights = "w"\n'
    options = {"study": "two", "epochs": 5, "backbone": ("b",), "weights": Path("v")}
    config = configure(write(tmp_path / "s.toml", text), options)
    assert (config.name, config.epochs, config.backbone) == ("two", 5, ("b",))
    assert (config.seed, config.weights) == (1, Path("v"))  # the path of an option is not changed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('data = "x"\nbuget = "1h"', ["'buget' is not an option", "did you mean 'budget'"]),
        ('data = "x"\nqqqq = 1', ["'qqqq' is not an option", "there are"]),
        (
            'data = "x"\nbudget = "1 hour"',
            ["budget", "'1 hour' is not a valid duration"],
        ),
        ('data = "x"\nbudget = 0', ["budget", "not a valid duration: expected more than 0"]),
        ('data = "x"\nepochs = "many"', ["epochs = 'many'", "integer"]),
        ('data = "x"\nepochs = 0', ["epochs = 0", "greater than or equal to 1"]),
        ('data = "x"\ntest = 0.95', ["test = 0.95", "less than 0.9"]),
        ('data = "x"\ndevice = "tpu"', ["device = 'tpu'", "expected auto, cpu, cuda, cuda:1"]),
        ('data = "x"\nstudy = "a/b"', ["study = 'a/b'", "not a valid name of a study"]),
        ('data = "x"\n[space]\nhead = 3', ["space.head = 3", "dictionary"]),
        ("epochs = 3", ["'data' is missing; add it"]),
        ("data = x", ["is not valid TOML", "line 1"]),
    ],
)
def test_a_mistake_in_a_file_is_explained(text: str, parts: list[str], tmp_path: Path) -> None:
    file = write(tmp_path / "s.toml", text)
    with pytest.raises(StudyError) as caught:
        configure(file, {})
    assert [p for p in [file, *parts] if p not in str(caught.value)] == []


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "flowers.toml", "")
    with pytest.raises(StudyError, match=r"No such file.*did you mean 'flowers\.toml'"):
        configure(str(tmp_path / "flower.toml"), {})
    (tmp_path / "latin.toml").write_bytes('data = "fotografías"'.encode("latin-1"))
    with pytest.raises(StudyError, match="is not valid TOML"):
        configure(str(tmp_path / "latin.toml"), {})


def test_an_unknown_option_is_reported() -> None:
    with pytest.raises(StudyError, match="options: 'hed' is not an option; did you mean 'head'"):
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
def test_the_name_of_a_study_is_that_of_its_data(
    source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here.v1").mkdir()  # the dot in the name of a folder does not start a suffix
    monkeypatch.chdir(tmp_path / "here.v1")
    assert StudyConfig(data=source).name == name
    assert StudyConfig(data=source, study="mine").name == "mine"


INVALID_NAMES = [
    *("autotl.db", "autotl.db-journal", "AutoTL.db-wal", "cache", "Cache", "artifacts"),
    *("CON", "nul.txt", "com1", ".hidden", "a/b", "a\\b", "..", " a", "a ", "a.", " "),
    *("a\nb", "a\x7fb", "a\N{RIGHT-TO-LEFT OVERRIDE}b", "a\u2028b", "\ud800", "x" * 201, "é" * 101),
]


@pytest.mark.parametrize("name", INVALID_NAMES, ids=ascii)
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match="is not a valid name of a study") as caught:
        study.configure("photos", {"study": name})
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["cache", ".photos", "con", "a\nb", "photos ", "autotl.db.old"])
def test_the_name_of_the_data_is_no_name_of_a_study(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    out = {"out": tmp_path / "runs"}
    with pytest.raises(StudyError, match=r"the name of the data, is not .* with --study"):
        study.configure(str(tmp_path / name), out)
    assert study.configure(str(tmp_path / name), {**out, "study": "x"}).name == "x"


@pytest.mark.parametrize(
    "name", ["x" * 200, "日本", "a b", "v1.2", "caches", "autotl", "न\N{ZERO WIDTH JOINER}म"]
)
def test_other_names_are_valid(name: str) -> None:
    assert study.configure("photos", {"study": name}).name == name


def test_the_run_folder_and_the_data_are_not_inside_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("photos/model", "cache/cats", "runs/x/in", "runs/cache/in"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("photos")
    before = sorted(tmp_path.rglob("*"))
    for source, options in (
        ("photos", {"out": "."}),
        ("photos", {"out": "photos"}),
        ("photos", {"out": "photos/model", "study": "x"}),
        ("link", {"out": "photos"}),
        ("photos", {"out": "link"}),
        (".", {}),
        ("cache", {"out": ".", "study": "x"}),
        ("runs/x/in", {"study": "x"}),
        ("runs/cache/in", {"study": "x"}),
        ("reader:photos", {"out": "photos"}),
    ):
        with pytest.raises(StudyError, match=r"inside .*--out"):
            study.configure(source, options)
    assert sorted(tmp_path.rglob("*")) == before
    assert study.configure("photos/model", {"out": "runs"}).folder == Path("runs/model")
    assert study.configure("photos", {"out": "runs"}).folder == Path("runs/photos")


@pytest.mark.parametrize("name", places.RUN_FILES)
def test_a_folder_with_files_of_others_is_no_run_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs/x"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    study.check_places(folder, "photos")
    (folder / name).write_text("{}")
    with pytest.raises(StudyError, match=f"has '{name}', which AutoTL did not write"):
        study.check_places(folder, "photos")
    files.claim(folder)
    study.check_places(folder, "photos")


def test_a_run_folder_without_a_mark_is_recognised_by_its_summary(tmp_path: Path) -> None:
    summary = {"study": "x", "metric": "accuracy", "trials": {}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    study.check_places(tmp_path, "photos")


PLUGINS = Registry([*registry.load(), tiny])
PARAMS = {
    "backbone": "tiny",
    **{
        "freeze": "lp_ft",
        "freeze.lp_ft.probe_fraction": 0.123456789012345,
        "freeze.lp_ft.probe_lr": 1e-3,
    },
    **{"freeze.lp_ft.lr": 1e-4 / 3},
    **{"head": "mlp", "head.mlp.depth": 2, "head.mlp.width": 65, "head.mlp.second_width": 66},
    **{"head.mlp.dropout": 0.0, "augment": "flip_crop", "augment.flip_crop.min_scale": 0.3},
    **{"augment.flip_crop.flip": False, "optimizer": "sgd", "optimizer.sgd.lr_scale": 7.0},
    **{"optimizer.sgd.momentum": 0.85, "optimizer.sgd.weight_decay": 1e-5},
    "optimizer.sgd.warmup": 0.0,
}
TRAINING = {"metric": "auroc", "seed": 3, "batch_size": 8, "epochs": 5}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    whole = space.build_space(PLUGINS, {"backbone": ["tiny"]}, {})
    whole = whole.without_kind("balance").without_kind("unlabelled")
    config = space.to_json(whole.suggest(optuna.trial.FixedTrial(PARAMS)))
    path = tmp_path / "best" / "recipe.toml"
    path.parent.mkdir()
    training = {"data": "photos", **TRAINING, "versions": {"torch": "2"}}
    write_recipe(path, config, training)
    return path


def test_a_recipe_is_retrained_with_its_own_settings(recipe: Path) -> None:
    settings = configure_recipe(recipe, None, {})
    single = space.build_space(PLUGINS, settings.requested, settings.space)
    single = single.without_kind("balance").without_kind("unlabelled")
    assert single.defaults() == PARAMS
    assert all(len(plugins) == 1 for plugins in single.plugins.values())
    assert settings.trials == 1
    assert {key: getattr(settings, key) for key in TRAINING} == TRAINING
    assert (settings.data, settings.name) == (str(recipe.parent / "photos"), "best-retrained")
    # Nothing is left to choose: the domain of each parameter is a single value.
    ambiguous = [v for v in single.describe().values() if len(v) != 1 and ("|" in v or " to " in v)]
    assert ambiguous == []


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("recipe.toml", "best-retrained"),
        ("recipe-2.toml", "best-retrained-2"),
        ("rec2.toml", "rec2"),
        ("recipes.toml", "recipes"),
    ],
)
def test_the_study_of_a_recipe_has_a_plain_name(recipe: Path, file: str, name: str) -> None:
    recipe.rename(recipe.with_name(file))
    assert configure_recipe(recipe.with_name(file), None, {}).name == name


def test_the_paths_of_a_recipe_are_relative_to_it(recipe: Path) -> None:
    """The folder with the data and the run folder can be moved together."""
    added = 'data = "../photos"\nplugin = ["../mine.py"]\nweights = "/absolute"\n'
    recipe.write_text(recipe.read_text().replace('data = "photos"\n', added))
    settings = configure_recipe(recipe, None, {})
    assert settings.data == str(recipe.parent / "../photos")
    assert settings.plugin == (recipe.parent / "../mine.py",)
    assert settings.weights == Path("/absolute")


def test_a_recipe_can_be_used_for_other_data_and_with_other_settings(recipe: Path) -> None:
    settings = configure_recipe(
        recipe, "others/", {"out": Path("there"), "study": "mine", "seed": 4}
    )
    assert (settings.data, settings.seed, settings.metric) == ("others/", 4, "auroc")
    assert settings.folder == Path("there/mine")


def test_a_recipe_is_toml_and_starts_with_its_usage(recipe: Path) -> None:
    text = recipe.read_text()
    assert text.startswith("# Retrain: autotl train recipe.toml DATA\n")
    values = tomllib.loads(text)
    assert values["head"] == {"mlp": {"depth": 2, "width": 65, "second_width": 66, "dropout": 0.0}}
    assert "image_size" not in values


@pytest.mark.parametrize(
    "text",
    [
        "",
        'data = "x"\nhead = "mlp"\nbackbone = "tiny"',
        "[backbone.tiny]\n[head.mlp]\n[augment.none]\n[optimizer.sgd]",
        "[backbone.tiny]\n[freeze.full]\n[head.mlp]\n[head.linear]\n[augment.none]\n[optimizer.sgd]",
    ],
)
def test_a_file_that_is_not_a_recipe_is_rejected(text: str, tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text(text)
    with pytest.raises(
        StudyError, match=r"r\.toml is not a valid recipe: expected one table \[\w+\.NAME\]"
    ):
        configure_recipe(file, "x", {})


def test_a_missing_recipe_and_an_unknown_setting_are_reported(recipe: Path) -> None:
    with pytest.raises(StudyError, match=r"recip\.toml cannot be read.*'recipe\.toml'"):
        configure_recipe(recipe.with_name("recip.toml"), None, {})
    recipe.write_text("epoch = 3\n" + recipe.read_text())
    with pytest.raises(StudyError, match=r"recipe\.toml: 'epoch' is not an option.*'epochs'"):
        configure_recipe(recipe, None, {})


def test_the_default_budget_is_ten_minutes() -> None:
    assert parse_duration("10m") == study.DEFAULT_BUDGET


@pytest.mark.parametrize(
    ("key", "value", "expected"),
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
def test_limits_and_sizes_are_read(key: str, value: Any, expected: Any) -> None:
    assert getattr(study.configure("photos", {key: value}), key) == expected


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_parameters", "many", "expected e.g. 500k, 30M or 1.5B"),
        ("max_latency", "fast", "expected e.g. 20ms or 0.5s"),
        ("image_size", 8, "greater than or equal to 16"),
        ("ema", 1.0, "less than 1"),
        ("epochs", 10**22, "options: --epochs = 10000000000000000000000: .* to 100000"),
        ("max_parameters", "9" * 400, r"options: --max-parameters = '9{50,57}\.\.\.: "),
        ("max_parameters", 0, "--max-parameters = 0: "),
        ("max_latency", "9" * 400 + "s", "--max-latency = .*: expected e.g. 20ms or 0.5s"),
        ("cache_size", "9" * 400, "--cache-size = .*: expected e.g. 500MB or 20GB"),
        ("cache_size", 10**30, "--cache-size = .*: "),
        ("budget", "9" * 400 + "d", "--budget = .*at most 365d"),
        ("ema", float("nan"), "--ema = nan"),
        ("test", float("nan"), "--test = nan"),
        ("seed", 2**31, "--seed = 2147483648: "),
        ("views", 65, "options: views = 65: "),
        ("data", "~no-such-user/x", "data = '~no-such-user/x': .*there is no user 'no-such-user'"),
        ("out", "x" * 300, "--out = 'xxx.*file name too long"),
        ("weights", "a\0b", "--weights = .*has a null character"),
        ("plugin", ["a" * 300], "--plugin = .*file name too long"),
        ("space", {"head": {"a\0": {}}}, "space = .*has a null character"),
        ("storage", "sqlite:///\0", "--storage = .*has a null character"),
    ],
)
def test_invalid_limits_are_rejected(key: str, value: Any, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        study.configure("photos", {key: value})


def test_folds_take_the_place_of_a_validation_split() -> None:
    assert study.configure("photos", {"folds": 5}).folds == 5
    for folds, validation, message in [
        (1, None, "folds = 1: "),
        (21, None, "folds = 21: "),
        (5, 0.2, "folds = 5: folds take the place of a validation split; give no validation"),
    ]:
        with pytest.raises(StudyError, match=re.escape(message)):
            study.configure("photos", {"folds": folds, "validation": validation})


def test_one_size_is_fixed_and_several_are_searched() -> None:
    assert study.configure("photos", {}).size is None
    assert study.configure("photos", {"image_size": 64}).size == 64
    assert study.configure("photos", {"image_size": [64, 96]}).size is None


def test_the_home_folder_may_be_written_as_a_tilde() -> None:
    assert configure("~/photos", {}).data == str(Path.home() / "photos")


def configure_source_training(source: str, options: dict[str, Any]) -> object:
    return study.configure_source_training(source, {"backbone": "resnet18", **options})


@pytest.mark.parametrize(
    ("settings", "configure"),
    [(StudyConfig, configure), (SourceTrainingConfig, configure_source_training)],
)
def test_every_number_has_a_lower_and_an_upper_limit(settings: Any, configure: Any) -> None:
    """Huge and negative numbers are refused where they enter, not where they overflow."""
    numbers = {
        name
        for name, field in settings.model_fields.items()
        if re.search(r"\b(int|float|ByteSize)\b", str(field.annotation))
    }
    assert {"epochs", "seed", "image_size", "batch_size", "in_chans", "validation"} <= numbers
    for name in numbers:
        is_list = "tuple" in str(settings.model_fields[name].annotation)
        for value in (-1, -1e300, 10**30, 1e300, float("inf"), float("nan"), "9" * 5000):
            with pytest.raises(StudyError) as caught:
                configure("x", {name: [value] if is_list else value})
            assert name.replace("_", "-") in str(caught.value).replace("_", "-")
            assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    ['data = "a\\u0000b"', 'data = "x"\nweights = "a\\u0000b"', 'data = "~nosuchuser/x"',
     f'data = "{"x" * 300}"', f'data = "x"\nepochs = {"9" * 5000}',
     f'data = "x"\nepochs = 0x{"9" * 5000}', f"data = {'[' * 10_000}",
     'data = "x"\nplugin = ["~nosuchuser/x"]'],
    ids=["null", "null weights", "user", "long", "digits", "hexadecimal", "deep", "user plugin"],
)  # fmt: skip
def test_a_file_with_impossible_values_is_explained_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"s\.toml") as caught:
        configure(write(tmp_path / "s.toml", text), {})
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


def test_an_impossible_path_of_a_study_file_is_explained() -> None:
    for path in ("a\0.toml", "x" * 300 + ".toml", "~nosuchuser/x.toml"):
        with pytest.raises(StudyError, match="cannot be read"):
            configure(path, {})


def test_a_recipe_leaves_out_what_has_no_effect(tmp_path: Path) -> None:
    config = {kind: {"name": {}} for kind in ("backbone", "freeze", "head", "augment", "optimizer")}
    effective = {kind: config[kind] for kind in ("backbone", "freeze", "head")}
    study.write_recipe(tmp_path / "a.toml", config, {"epochs": 1}, effective=effective)
    study.write_recipe(tmp_path / "b.toml", config, {"epochs": 1}, effective=config)
    text = (tmp_path / "a.toml").read_text()
    assert "augment, optimizer and the learning rate have no effect" in text
    assert tomllib.loads(text) == {**effective, "epochs": 1}
    assert tomllib.loads((tmp_path / "b.toml").read_text()) == {**config, "epochs": 1}
    settings = configure_recipe(tmp_path / "a.toml", "photos", {})
    assert settings.requested["optimizer"] == ("@default",)


def test_what_a_recipe_leaves_out_has_its_default_values_alone(tmp_path: Path) -> None:
    config = {"backbone": {"tiny": {}}, "freeze": {"linear_probe": {}}, "head": {"lda": {}}}
    study.write_recipe(tmp_path / "a.toml", config, {"epochs": 1})
    settings = configure_recipe(tmp_path / "a.toml", "photos", {})
    single = space.build_space(PLUGINS, settings.requested, settings.space)
    single = single.without_kind("balance").without_kind("unlabelled")
    assert [p.name for p in single.plugins["optimizer"]] == ["adamw"]
    assert [p.name for p in single.plugins["augment"]] == ["flip_crop"]
    optimizer = single.plugins["optimizer"][0]
    assert all(h.choices == (h.default,) for h in optimizer.hyperparameters)


def test_options_of_the_data_are_text(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('data = "photos"\n[data_options]\nmost = 5\nstrict = true\nname = "a b"')
    expected = {"most": "5", "strict": "true", "name": "a b"}
    assert study.configure(str(file), {}).data_options == expected
    with pytest.raises(StudyError, match=r"data.options.most = \[1\]: expected a text, a number"):
        study.configure("photos", {"data_options": {"most": [1]}})


def test_the_size_has_a_name_for_all_kinds_of_input(tmp_path: Path) -> None:
    assert study.configure("x", {"size": [64]}).image_size == (64,)
    file = tmp_path / "s.toml"
    file.write_text('data = "sklearn:digits"\nsize = [64, 96]\n', encoding="utf-8")
    assert study.configure(str(file), {}).image_size == (64, 96)
    assert study.configure(str(file), {"image_size": [32]}).image_size == (32,)
