"""The configuration of a student is a recipe of the search space with its own backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from autotl_plugins.tasks import Ordinal

from autotl import study
from autotl.errors import PluginError, StudyError
from autotl.search.student import choose_student, require_teachable
from autotl.space import registry
from autotl.space.registry import Registry
from autotl.tasks import numbered_classes


@pytest.fixture(scope="module")
def plugins(images: Path) -> Registry:
    return registry.load([images / "tiny_plugin.py"])


def choose(plugins: Registry, may_mirror: bool = True, **options: Any) -> dict[str, str]:
    """The names of the plugins of a student."""
    settings = study.configure("photos", {"student": "tiny", **options})
    config = choose_student(settings, plugins, may_mirror=may_mirror)
    assert all(choice.params == choice.plugin.defaults for choice in config.values())
    return {kind: choice.name for kind, choice in config.items()}


def test_it_has_the_most_expensive_of_the_strategies_that_are_tried_first(
    plugins: Registry,
) -> None:
    assert choose(plugins) == {
        "backbone": "tiny",
        "freeze": "layer_decay",
        "head": "linear",
        "augment": "flip_crop",
        "optimizer": "adamw",
    }


def test_it_has_plugins_of_the_search_space(plugins: Registry) -> None:
    chosen = choose(
        plugins,
        backbone=["tf_efficientnet_lite0"],
        freeze=["linear_probe", "last_blocks"],
        head=["mlp"],
        augment=["mixup", "none"],
        balance=["class_weights"],
        max_parameters=1,
    )
    assert chosen == {
        "backbone": "tiny",
        "freeze": "last_blocks",
        "head": "mlp",
        "augment": "none",
        "balance": "class_weights",
        "optimizer": "adamw",
    }


def test_values_that_the_user_pins_are_those_of_the_student(plugins: Registry) -> None:
    space = {
        "freeze": {"layer_decay": {"lr": 5e-4}},
        "backbone": {"other": {"image_size": 64}},
    }
    settings = study.configure("photos", {"student": "tiny", "space": space})
    config = choose_student(settings, plugins, may_mirror=False)
    assert config["freeze"].params["lr"] == 5e-4
    assert config["augment"].params["flip"] is False


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"student": "tf_efficientnet_lite*"}, "matches several backbones"),
        ({"augment": ["mixup", "cutmix"]}, "augmentations that mix examples"),
    ],
)
def test_what_cannot_be_a_student_is_refused(
    options: dict[str, Any], words: str, plugins: Registry
) -> None:
    with pytest.raises(StudyError, match=words):
        choose(plugins, **options)


def test_an_unknown_backbone_is_refused_with_near_names(plugins: Registry) -> None:
    with pytest.raises(PluginError, match="tf_efficientnet_lite0"):
        choose(plugins, student="tf_efficientnet_lite00")


def test_a_task_that_cannot_be_taught_is_refused() -> None:
    require_teachable(numbered_classes(2))
    with pytest.raises(StudyError, match="the task ordinal cannot learn"):
        require_teachable(Ordinal.function(["1", "2", "3"]))
