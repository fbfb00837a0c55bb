"""The study of training without labels: it trains all weights, and compares them in a table."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from images import write_images

sys.path.insert(0, str(Path(__file__).parents[2] / "studies"))

import self_supervised


def test_all_weights_are_trained_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "photos/train", count=6)
    write_images(tmp_path / "photos/test", count=4, seed=1)
    words = [str(tmp_path / "photos"), "--size", "32", "--epochs", "1", "--supervised-epochs", "1"]
    words += ["--few-epochs", "1", "--labels", "2", "--seeds", "1", "--cache", str(tmp_path / "c")]
    monkeypatch.setattr(sys, "argv", ["self_supervised.py", *words])
    self_supervised.main()
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in table[2:]] == ["untouched", "untouched"] + [
        method for method in ("simclr", "supervised") for _ in range(2)
    ]
    folders = sorted(file.parent.name for file in tmp_path.rglob("*.safetensors"))
    assert folders == ["simclr-scratch-32-1-0.001-0", "supervised-scratch-32-1-0.001-0"]


def test_differences_are_to_the_untouched_weights(capsys: pytest.CaptureFixture[str]) -> None:
    results = {
        ("linear probe", weights, 5): np.full((2, 4), value)
        for weights, value in (("untouched", 0.25), ("simclr", 0.5))
    }
    self_supervised.print_table(results, [5])
    assert "| linear probe | simclr | 0.500 | +0.250 ± 0.000 |" in capsys.readouterr().out
