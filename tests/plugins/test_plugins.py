"""The built-in plugins: their names and descriptions.

The contract of each kind is tested in ``tests/testing``.
"""

from __future__ import annotations

import inspect
import statistics

import pytest

from autotl.space import registry
from autotl.space.kinds import SEARCHED_KINDS
from autotl.space.plugin import AnyPlugin

PLUGINS = [plugin for plugin in registry.load() if plugin.kind in SEARCHED_KINDS]
BUILT_IN = {
    "backbone": {"timm"},
    "freeze": {
        *("linear_probe", "last_blocks", "full", "layer_decay", "lp_ft", "gradual", "surgical"),
        *("norms", "biases", "norms_and_biases", "lora", "scale_shift", "l2_sp", "bss"),
    },
    "head": {
        *("linear", "mlp", "cosine", "batch_norm", "multi_dropout", "gem", "attention", "stages"),
        *("logistic_regression", "stages_logistic", "lda", "nearest_mean", "knn"),
    },
    "augment": {
        *("none", "flip_crop", "rand_augment", "trivial_augment", "mixup", "cutmix"),
        "random_erasing",
    },
    "optimizer": {"adamw", "sgd", "lion"},
    "balance": {"none", "class_weights", "balanced_sampling", "logit_adjustment"},
    "unlabelled": {
        *("none", "pseudo_labels", "fixmatch", "flexmatch", "mean_teacher"),
        *("information", "coral", "mmd", "adabn", "dann"),
    },
    "loss": {
        *("cross_entropy", "focal", "poly1", "binary_cross_entropy", "asymmetric"),
        *("huber", "squared_error", "absolute_error"),
    },
}


@pytest.mark.parametrize("kind", SEARCHED_KINDS)
def test_the_built_in_plugins_are_registered(kind: str) -> None:
    assert {p.name for p in PLUGINS if p.kind == kind} >= BUILT_IN[kind]


def test_no_installed_module_is_broken() -> None:
    assert registry.load().broken == ()


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda p: f"{p.kind}-{p.name}")
def test_the_description_is_one_sentence(plugin: AnyPlugin) -> None:
    assert plugin.summary[:1].isupper()
    assert plugin.summary.endswith(".")
    assert 15 < len(plugin.summary) <= 100
    assert ". " not in plugin.summary.partition("(")[0]


def test_plugins_are_short() -> None:
    def lines(plugin: AnyPlugin) -> int:
        source = inspect.getsource(plugin.function)
        code = source.replace(inspect.getdoc(plugin.function) or "", "")
        return sum(bool(line.strip()) for line in code.splitlines())

    assert statistics.median(map(lines, PLUGINS)) <= 15
