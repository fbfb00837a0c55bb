"""The study of another domain: its recipes exist, and labels of the target only score."""

from __future__ import annotations

import sys
from pathlib import Path

from images import write_images

sys.path.insert(0, str(Path(__file__).parents[2] / "studies"))

import other_domain

from autotl.space import registry, space
from autotl.space.kinds import SEARCHED_KINDS


def test_its_recipes_are_configurations() -> None:
    plugins = registry.load()
    kinds = [kind for kind in SEARCHED_KINDS if kind != "backbone"]
    for recipe in {**other_domain.SOURCE_ONLY, **other_domain.ADAPTED}.values():
        assert space.from_json(recipe, plugins, kinds=kinds)


def test_the_target_is_unlabelled_but_for_what_scores(tmp_path: Path) -> None:
    write_images(tmp_path / "one", count=10)
    write_images(tmp_path / "other", count=20, seed=1)
    sources = str(tmp_path / "one"), str(tmp_path / "other")
    dataset = other_domain.Study(*sources, 60, tmp_path / "cache").dataset
    sizes = [len(dataset.indices(split)) for split in ("train", "validation", "test")]
    assert (sizes, len(dataset.unlabelled)) == ([30, 3, 24], 33)
