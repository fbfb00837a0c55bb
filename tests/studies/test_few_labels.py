"""The study of few labels: its recipes exist, and its intervals are of paired differences."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from images import write_images

sys.path.insert(0, str(Path(__file__).parents[2] / "studies"))

import few_labels

from autotl.space import registry, space


def test_its_recipes_are_configurations() -> None:
    plugins = registry.load()
    for recipe in {**few_labels.SUPERVISED, **few_labels.UNLABELLED}.values():
        config = {"backbone": {"tf_efficientnet_lite0": {}}, **recipe}
        assert space.from_json(config, plugins, pretrained=False)


def test_an_interval_is_that_of_paired_differences() -> None:
    random = np.random.default_rng(0)
    other = random.random((5, 2000)) < 0.7
    better = other | (random.random((5, 2000)) < 0.2)
    mean, half = few_labels.interval(better.astype(float), other.astype(float))
    assert mean == pytest.approx(0.06, abs=0.01)
    assert 0 < half < 0.02
    assert few_labels.interval(other.astype(float), other.astype(float)) == (0.0, 0.0)


def test_the_test_split_is_scored(tmp_path: Path) -> None:
    write_images(tmp_path / "photos/train", count=10)
    write_images(tmp_path / "photos/test", count=5, seed=1)
    study = few_labels.Study(str(tmp_path / "photos"), 32, tmp_path / "cache")
    assert len(study.dataset.indices("test")) == 15
