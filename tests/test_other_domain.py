"""A search for a target: labels of the other domain score, and never train."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import FAST_OPTIONS, run
from images import FAST, write_images, write_plugin
from safetensors.numpy import load_file

from autotl import data, engine, load, study
from autotl.data import Source
from autotl.data.image_kind import IMAGES
from autotl.errors import AutoTLError, DataError, StudyError
from autotl.scoring.metrics import WITHOUT_LABELS
from autotl.space.plugin import UNLABELLED, Example
from autotl.store import Store, default_url

QUICK = {**FAST, "epochs": 1, "backbone": ["tiny"], "head": ["linear"], "augment": ["none"]}


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos`` and ``scans`` of the same classes, and ``flat`` without labels."""
    folder = tmp_path_factory.mktemp("domains")
    write_plugin(folder)
    write_images(folder / "photos", count=10)
    write_images(folder / "scans", count=12, noise=80, seed=1)
    (folder / "flat").mkdir()
    for i, file in enumerate(sorted((folder / "scans").rglob("*.png"))):
        shutil.copy(file, folder / "flat" / f"{i}.png")
    return folder


def make_settings(domains: Path, out: Path, **options: Any) -> study.StudyConfig:
    values = {"plugin": [domains / "tiny_plugin.py"], "out": out, **QUICK, **options}
    return study.configure(str(domains / "photos"), {"target": str(domains / "scans"), **values})


def make_source(labels: str, prefix: str = "", unlabelled: int = 0, **changes: Any) -> Source:
    examples = [Example(f"{prefix}{i}", Path(f"{i}.png"), label) for i, label in enumerate(labels)]
    others = [Example(f"u{i}", Path(f"u{i}.png"), "", UNLABELLED) for i in range(unlabelled)]
    examples = [replace(example, **changes) for example in examples]
    return Source(examples, [], IMAGES, unlabelled=tuple(others))


def join(source: Source, target: Source, **options: Any) -> Source:
    return data.join_domains(source, target, ("photos", "scans"), 0, **options)


# ---------------------------------------------------------------- the examples


def test_all_of_the_source_trains_and_the_target_validates_tests_and_loses_labels() -> None:
    joined = join(make_source("ab" * 4, split="test"), make_source("a" * 40 + "b" * 20))
    scored = [e for e in joined.examples if e.name.startswith("target/")]
    assert {e.split for e in joined.examples if e not in scored} == {"train"}
    counts = Counter((e.split, e.label) for e in scored)
    assert counts == {
        ("validation", "a"): 10,
        ("validation", "b"): 5,
        ("test", "a"): 8,
        ("test", "b"): 4,
    }
    assert {(e.label, e.split) for e in joined.unlabelled} == {("", UNLABELLED)}
    assert len(joined.unlabelled) == 33
    assert join(make_source("ab" * 4, split="test"), make_source("a" * 40 + "b" * 20)) == joined


def test_the_few_labels_of_a_target_all_score() -> None:
    joined = join(make_source("ab" * 4), make_source("ab" * 10, unlabelled=200))
    assert Counter(e.split for e in joined.examples[8:]) == {"validation": 10, "test": 10}
    assert len(joined.unlabelled) == 200


def test_groups_and_given_splits_of_the_target_are_kept() -> None:
    target = make_source("ab" * 30)
    grouped = [replace(e, group=str(i // 6)) for i, e in enumerate(target.examples)]
    joined = join(make_source("ab" * 4), target._replace(examples=grouped))
    every = [*joined.examples[8:], *joined.unlabelled]
    assert all(len({e.split for e in every if e.group == str(g)}) == 1 for g in range(10))
    given = [replace(e, split=("train", "validation", "test")[i % 3]) for i, e in
             enumerate(target.examples)]  # fmt: skip
    joined = join(make_source("ab" * 4), target._replace(examples=given))
    expected = {f"target/{e.name}": e.split for e in given if e.split != "train"}
    assert {e.name: e.split for e in joined.examples[8:]} == expected
    assert len(joined.unlabelled) == 20


def test_a_class_that_the_source_lacks_is_named() -> None:
    with pytest.raises(DataError, match=r"scans: the source photos has no class cats, .*'cat'\?"):
        join(
            make_source("", "")._replace(examples=[Example("1", Path("1"), "cat")]),
            make_source("")._replace(examples=[Example("1", Path("1"), "cats")]),
        )
    with pytest.raises(DataError, match="scans: no images found"):
        join(make_source("ab"), make_source(""))


def test_a_part_of_a_target_without_labels_is_held_out(domains: Path) -> None:
    dataset = hold_out(domains)
    held_out = dataset.indices("validation")
    assert (len(dataset.indices("train")), len(held_out), len(dataset.unlabelled)) == (30, 12, 24)
    assert not dataset.validation_has_labels
    assert {dataset.examples[i].label for i in held_out} == {""}
    names = {dataset.examples[i].name for i in held_out}
    assert names.isdisjoint(e.name for e in dataset.unlabelled.examples)
    assert len(set(dataset.units[held_out])) == 12
    other = hold_out(domains, seed=1)
    assert other.fingerprint != dataset.fingerprint
    assert dataset.fingerprint == hold_out(domains).fingerprint


def hold_out(domains: Path, seed: int = 0) -> data.Dataset:
    from autotl.space import registry

    plugins = registry.load()
    source = data.read_source(str(domains / "photos"), plugins)
    target = data.read_target(str(domains / "flat"), source, plugins)
    joined = join(source, target)
    checked = data.check(
        joined.examples,
        "photos",
        validation=0,
        test=0,
        unlabelled=joined.unlabelled,
    )
    return data.separate_domains(checked, joined, seed=seed)


# ---------------------------------------------------------------- the metric


def test_mutual_information_is_the_mean_of_its_contributions() -> None:
    metric = WITHOUT_LABELS["mutual_information"]
    labels = np.zeros(6, np.int64)
    certain = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    assert metric.score(labels, certain) == pytest.approx(1.0)
    assert metric.score(labels, certain[[0] * 6]) == pytest.approx(0.0)
    uncertain = np.random.default_rng(0).dirichlet([1, 1, 1], 6).astype(np.float32)
    mean = uncertain.mean(0)
    entropies = [-(p * np.log(p)).sum(-1) for p in (mean, uncertain)]
    expected = (entropies[0] - entropies[1].mean()) / np.log(3)
    assert metric.score(labels, uncertain) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- whole searches


def test_labels_of_the_target_change_the_score_and_not_the_weights(
    domains: Path, tmp_path: Path
) -> None:
    weights, scores = [], []
    classes = sorted(path.name for path in (domains / "scans").iterdir())
    for name, shift in (("right", 0), ("wrong", 1)):
        scans = domains / f"{name}.csv"
        rows = [
            f"scans/{label}/{n}.png,{classes[(i + shift) % 3]},{('train', 'val', 'test')[n % 3]}"
            for i, label in enumerate(classes)
            for n in range(12)
        ]
        scans.write_text("\n".join(["path,label,split", *rows]))
        settings = make_settings(
            domains, tmp_path / "runs", target=str(scans), study=name, trials=1, epochs=4,
            freeze=["full"], unlabelled=["information"],
        )  # fmt: skip
        result = engine.run(settings)
        [file] = (result.folder / "model").glob("*.safetensors")
        weights.append(load_file(file))
        scores.append(result.summary["best"]["validation"]["mean"])
    assert scores[0] != scores[1]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        np.testing.assert_allclose(value, weights[1][key], atol=1e-6, err_msg=key)


def test_a_search_for_a_target_reports_what_its_images_gain(domains: Path, tmp_path: Path) -> None:
    settings = make_settings(domains, tmp_path, trials=3, freeze=["last_blocks"])
    assert settings.name == "photos-to-scans"
    result = engine.run(settings)
    summary = result.summary
    facts = summary["data"]
    assert (facts["target"], facts["validation_has_labels"]) == ("scans", True)
    assert (facts["train"], facts["validation"], facts["test"]) == (30, 9, 6)
    gain = summary["unlabelled_gain"]["best"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    with closing(Store(default_url(tmp_path))) as store:
        rows = store.trials(settings.name)
        used = [next(iter(row.config["unlabelled"])) for row in rows]
        assert used[0] == "none"
        assert len(set(used[1:])) == 2
        assert "none" not in used[1:]
        stored = store.study(settings.name)
        assert stored.model is not None
        assert stored.model.refitted
    card = (result.folder / "model" / "README.md").read_text()
    assert "target `scans`: all scores are of these, and their labels trained nothing" in card
    assert "trained on the training split" in card
    recipe = study.configure_recipe(result.folder / "recipe.toml", None, {})
    assert recipe.target is not None
    assert Path(recipe.target).resolve() == domains / "scans"


def test_a_target_without_labels_is_scored_without_any(domains: Path, tmp_path: Path) -> None:
    plugin = ("--plugin", domains / "tiny_plugin.py", "--backbone", "tiny", "--head", "linear")
    options = (*plugin, "--out", tmp_path, *FAST_OPTIONS, "--freeze", "last_blocks")
    words = ("search", domains / "photos", "--target", domains / "flat", "--trials", "2")
    done = run(*words, *options)
    assert done.exit_code == 0, done.stderr
    warning = (
        "Warning: scored without labels, by the mutual information of the predictions for 12 "
        "images of the target flat"
    )
    assert warning in " ".join(done.stdout.split())
    folder = tmp_path / "photos-to-flat"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metric"] == "mutual_information"
    assert summary["data"]["validation_has_labels"] is False
    assert summary["baselines"]["majority_class"] == {}
    assert summary["test"] is None
    assert summary["calibration"] is None
    assert not summary["best"]["validation"]["per_class"]
    assert "scored without labels" in (folder / "report.html").read_text()
    assert "It was scored without labels" in (folder / "model" / "README.md").read_text()
    assert "target/" in (folder / "splits.csv").read_text()
    again = run(*words, "--metric", "accuracy", "--study", "other", *options)
    assert "'accuracy' needs labels, and the target has none" in again.stderr


def test_the_saved_model_is_the_one_that_was_adapted(domains: Path, tmp_path: Path) -> None:
    options = {"freeze": ["full"], "unlabelled": ["adabn"], "metric": "log_loss"}
    result = engine.run(make_settings(domains, tmp_path, trials=1, **options))
    with (result.folder / "splits.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    files = [domains / "scans" / row["name"].removeprefix("target/") for row in rows]
    model = load(result.folder / "model", [domains / "tiny_plugin.py"])
    predicted = zip(model.predict(files), files, strict=True)
    losses = [-math.log(probabilities[file.parent.name]) for probabilities, file in predicted]
    assert len(losses) == 6
    assert result.summary["test"]["score"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_a_continued_study_has_its_target(domains: Path, tmp_path: Path) -> None:
    options = {"study": "s", "freeze": ["linear_probe"], "trials": 1}
    engine.run(make_settings(domains, tmp_path, **options))
    given = {"plugin": [domains / "tiny_plugin.py"], "out": tmp_path, **QUICK, **options}
    adopted = study.configure(str(domains / "photos"), given)
    result = engine.run(adopted)
    assert result.summary["data"]["target"] == "scans"
    write_images(domains / "others", count=4, seed=2)
    other = make_settings(domains, tmp_path, target=str(domains / "others"), **options)
    with pytest.raises(StudyError, match="was begun with other images or labels"):
        engine.run(other)


def test_settings_that_contradict_a_target(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="all of which train if there is a target"):
        make_settings(domains, tmp_path, folds=3)
    with pytest.raises(StudyError, match="is for examples without labels, and these have labels"):
        engine.run(make_settings(domains, tmp_path, metric="mutual_information"))
    with pytest.raises(AutoTLError, match="there is no file or folder"):
        engine.run(make_settings(domains, tmp_path, target=str(domains / "scan")))
    with pytest.raises(StudyError, match="inside"):
        make_settings(domains, domains / "scans")
    file = domains / "study.toml"
    file.write_text('data = "photos"\ntarget = "scans"\n')
    assert study.configure(str(file), {}).target == str(domains / "scans")


def test_a_check_of_both_domains(domains: Path) -> None:
    done = run("data", "check", domains / "photos", "--target", domains / "flat")
    assert "42 images of 3 classes can be used: 30 train, 12 validation, 0 test" in done.stdout
    assert "validation, without labels, is of the target" in done.stdout
