"""The checks before the libraries are loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from images import write_images

from autotl.errors import AutoTLError, StudyError
from autotl.search import preflight
from autotl.store import Store, default_url
from autotl.study import StudyConfig, configure


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_images(tmp_path / "photos")
    return tmp_path / "photos"


def settings(photos: Path, **options: Any) -> StudyConfig:
    return configure(str(photos), {"out": photos.parent / "runs", **options})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "photo"}, "there is no file or folder '.*photo'; did you mean 'photos'"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"task": "regresion"}, "no task is called 'regresion'; did you mean 'regression'"),
        (
            {"task": "regression", "metric": "accuracy"},
            "the metric 'accuracy' does not suit regression; there are mae, r2, rmse, spearman",
        ),
        (
            {"task": "multilabel", "metric": "macro_f2"},
            "no metric is called 'macro_f2'; did you mean 'macro_f1'",
        ),
        ({"task": "classification", "metric": "mae"}, "'mae' does not suit classification; there"),
        ({"plugin": "nope.py"}, "plugin file nope.py cannot be read: there is no such"),
        ({"weights": "nope"}, "no folder 'nope' for --weights"),
        ({"source": "nope", "backbone": ["resnet18"]}, "there is no file or folder 'nope'"),
        ({"source": "sklearn:digits"}, "--source trains the weights of one backbone"),
        ({"source": "sklearn:digits", "backbone": ["resnet*"]}, "give one --backbone"),
        (
            {"source": "sklearn:digits", "backbone": ["resnet18"], "weights": "."},
            "leave out --weights",
        ),
        ({"learn_from": "nope"}, "no file or folder 'nope' for --learn-from"),
        ({"out": "notes.txt"}, "is not a folder that you may write to; .*--out"),
        ({"head": ["liner"]}, "no head plugin is called 'liner'; did you mean 'linear'"),
        ({"freeze": ["ful"]}, "no freeze plugin is called 'ful'; did you mean 'full'"),
        ({"backbone": ["@smal"]}, "no set of backbones '@smal'; did you mean '@small'"),
        ({"space": {"heads": {}}}, r"\[space.heads\] is not a searched kind.*did you mean 'head'"),
        ({"space": {"head": {"mpl": {}}}}, r"\[space.head.mpl\] does not match.* mean 'mlp'"),
        ({"space": {"head": {"mlp": {"depth": 9}}}}, "depth = 9 is outside what .*: 1 . 2"),
        ({"space": {"head": {"mlp": {"dept": 1}}}}, "no keyword 'dept'; did you mean 'depth'"),
    ],
)
def test_what_does_not_exist_is_named(photos: Path, options: dict[str, Any], says: str) -> None:
    data = str(photos.parent / options.pop("data", "photos"))
    if "out" in options:
        (photos.parent / options["out"]).touch()
        options["out"] = photos.parent / options["out"]
    with pytest.raises(AutoTLError, match=says):
        preflight.check(settings(Path(data), **options))
    assert not (photos.parent / "runs").exists()  # nothing is written


def test_what_is_not_known_yet_passes(photos: Path) -> None:
    preflight.check(settings(photos, head=["li*"], space={"backbone": {"resnet18": {"x": 1}}}))
    (photos.parent / "mine.py").write_text("import x")  # may add models to timm
    preflight.check(settings(photos, backbone=["nope"], plugin=[photos.parent / "mine.py"]))
    preflight.check(settings(photos, storage="postgresql://user@host/name"))
    for task, metric in (
        ("auto", "mae"),
        ("multilabel", "macro_f1"),
        ("ordinal", "macro_f1"),
        ("ordinal", "quadratic_kappa"),
        ("classification", "log_loss"),
    ):
        preflight.check(settings(photos, task=task, metric=metric))


def test_a_conflict_names_both_values_and_another_name_first(photos: Path) -> None:
    out = photos.parent / "runs"
    store = Store(default_url(out))
    identity = {"epochs": 3, "image_size": [96], "metric": "accuracy", "precision": "None"}
    rest = {"seed": 0, "patience": None, "batch_size": 32, "label_smoothing": 0.1, "ema": 0.0}
    store.begin_study("photos", identity={**identity, **rest, "validation": None, "test": 0.2})
    store.begin_trial("photos", 0, {}, 3)
    preflight.check(settings(photos, epochs=4))  # without a complete trial nothing is locked
    store.finish_trial("photos", 0, "complete", score=0.5)
    preflight.check(settings(photos))  # what is not given is what the study has
    preflight.check(settings(photos, epochs=3, image_size=96, precision="float32"))
    preflight.check(settings(photos, epochs=4, study="another"))
    with pytest.raises(StudyError) as caught:
        preflight.check(settings(photos, epochs=4))
    assert str(caught.value) == (
        "study 'photos' has epochs=3, not 4; choose another name with --study, leave epochs out to "
        f"keep 3, or delete it with: autotl studies delete photos --out {out}"
    )
    for options, says in (
        ({"image_size": 128}, "image_size=96, not 128"),
        ({"precision": "bfloat16"}, "precision=float32, not bfloat16"),
        ({"patience": 2}, "patience=unset, not 2"),
    ):
        with pytest.raises(StudyError, match=says):
            preflight.check(settings(photos, **options))


def test_a_study_that_runs_is_refused_at_once(photos: Path) -> None:
    store = Store(default_url(photos.parent / "runs"))
    with (
        store.lock("photos", settings(photos).folder),
        pytest.raises(StudyError, match="another process"),
    ):
        preflight.check(settings(photos))
    preflight.check(settings(photos))


def test_no_heavy_library_is_loaded(photos: Path) -> None:
    Store(default_url(photos.parent / "runs")).close()
    code = """
import sys
from pathlib import Path
from autotl.study import configure
from autotl.errors import PluginError
from autotl.search import preflight
options = {"out": Path(sys.argv[2]), "head": ["linear"], "backbone": ["resnet18", "resnet*.a1*"]}
options["space"] = {"head": {"mlp": {"depth": 1}}}
preflight.check(configure(sys.argv[1], options))
for name in ("resnt18", "resnt18.a1_in1k", "scratch:resnt18", "resnt*"):
    try:
        preflight.check(configure(sys.argv[1], {**options, "backbone": [name]}))
    except PluginError as error:
        print(error, file=sys.stderr)
print(*sys.modules)
"""
    command = [sys.executable, "-c", code, str(photos), str(photos.parent / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [
        "timm has no model 'resnt18'; did you mean 'resnet18'?",
        "timm has no model 'resnt18.a1_in1k'; did you mean 'resnet18'?",
        "timm has no model 'resnt18'; did you mean 'resnet18'?",
        "no pretrained timm model matches 'resnt*'; try it with a '*' on both sides",
    ]
    heavy = {"torch", "timm", "optuna", "sqlalchemy", "scipy", "sklearn", "alembic", "PIL"}
    assert sorted(heavy & set(done.stdout.split())) == []
