"""The kind of input and the plugins satisfy the contract that AutoTL tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from autotl_text.augmentations import token_deletion, token_dropout
from autotl_text.backbones import transformer
from autotl_text.datasets import text_table
from autotl_text.kind import text

from autotl.space.plugin import AnyPlugin
from autotl.testing import check, check_input_kind


@pytest.fixture(scope="module")
def backbone(encoder: Path) -> AnyPlugin:
    """The plugin of the tiny encoder, with random weights."""
    return transformer.member(f"hf:{encoder}", None)


def test_the_kind_satisfies_the_contract(backbone: AnyPlugin) -> None:
    check_input_kind(text, backbone=backbone)


@pytest.mark.parametrize("plugin", [token_deletion, token_dropout])
def test_augmentations_satisfy_the_contract(plugin: AnyPlugin, backbone: AnyPlugin) -> None:
    assert check(plugin, kind=text, backbone=backbone) >= 1


def test_the_backbone_satisfies_the_contract(backbone: AnyPlugin) -> None:
    assert check(backbone, kind=text) == 1


def test_the_dataset_satisfies_the_contract(tmp_path: Path) -> None:
    rows = "".join(f"{e.item},{e.label}\n" for e in text.toy((4, 3)))
    (tmp_path / "notes.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    assert check(text_table, source=str(tmp_path / "notes.csv"), kind=text) == 1
