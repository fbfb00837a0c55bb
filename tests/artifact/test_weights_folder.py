"""The weights of a backbone with their model card: what is written, and what is never replaced."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autotl.artifact import weights_folder
from autotl.errors import StoreError

FACTS: dict[str, Any] = {
    "source": "birds | <b>`x`</b>",
    "fingerprint": "ab" * 32,
    "train": 90,
    "held_out": 10,
    "classes": 3,
    "method": "supervised",
    "started_from": "random weights",
    "epochs": 3,
    "planned_epochs": 5,
    "stopped": "interrupted",
    "metric": "accuracy",
    "score": 0.81234,
    "low": 0.7,
    "high": 0.9,
    "versions": {"torch": "2.6"},
    "licence": "unknown",
}


def test_the_file_and_the_model_card_say_how_the_weights_were_trained(tmp_path: Path) -> None:
    tensors = {"stem.weight": torch.arange(6.0).reshape(2, 3)}
    file = weights_folder.save(tmp_path / "new", "tiny", tensors, FACTS)
    assert file == tmp_path / "new" / "tiny.safetensors"
    assert torch.equal(load_file(file)["stem.weight"], tensors["stem.weight"])
    assert weights_folder.read_facts(file) == FACTS
    assert file.stat().st_mode & stat.S_IRGRP == (tmp_path / "new").stat().st_mode & stat.S_IRGRP
    text = (tmp_path / "new" / "tiny.md").read_text()
    for part in (
        "--backbone source:tiny",
        "| source data | ``birds \\| <b>`x`</b>`` |",
        "| epochs | `3 of 5 (interrupted)` |",
        "| held-out score | `accuracy 0.8123 (95 % interval 0.7000 to 0.9000)` |",
        "| licence | `unknown` |",
    ):
        assert part in text
    assert sorted(p.name for p in file.parent.iterdir()) == ["tiny.md", "tiny.safetensors"]


def test_own_files_are_replaced_and_those_of_others_are_not(tmp_path: Path) -> None:
    tensors = {"w": torch.zeros(1)}
    for _ in range(2):
        weights_folder.save(tmp_path, "tiny", tensors, FACTS)
    card, file = tmp_path / "tiny.md", tmp_path / "tiny.safetensors"
    for path, content in ((card, b"my notes"), (file, b"my weights")):
        own = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(StoreError, match=rf"{path.name} exists, and autotl pretrain did not"):
            weights_folder.save(tmp_path, "tiny", tensors, FACTS)
        assert path.read_bytes() == content
        path.write_bytes(own)
    save_file(tensors, file)  # of timm, say
    with pytest.raises(StoreError, match="so it is not replaced"):
        weights_folder.check_replaceable(tmp_path, "tiny")
    with pytest.raises(StoreError, match="is not a folder"):
        weights_folder.check_replaceable(card, "tiny")


@pytest.mark.parametrize("header", [None, {"autotl": "{"}, {"autotl": "[1]"}, {"other": "{}"}])
def test_other_files_have_no_facts(tmp_path: Path, header: dict[str, str] | None) -> None:
    file = tmp_path / "x.safetensors"
    assert weights_folder.read_facts(file) == {}
    save_file({"w": torch.zeros(1)}, file, header)
    assert weights_folder.read_facts(file) == {}
    file.write_bytes(b"\x00" * 20)
    assert weights_folder.read_facts(file) == {}
    assert weights_folder.read_facts(tmp_path / "x.pth") == {}
