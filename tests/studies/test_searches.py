"""Whole searches as a benchmark: what is measured once, how failures count, the peers' data."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "studies" / "benchmarks"))

import peer_task
import searches

CELL = searches.Cell("some/photos", "1m", 0)


def task(splits: Path) -> Any:
    """Ten of scikit-learn's digits; the last four are the test split."""
    rows = [f"digits/{i},{i % 10},{'test' if i >= 6 else 'train'}," for i in range(10)]
    splits.write_text("\n".join(["name,label,split,group", *rows]))
    return peer_task.load("sklearn:digits", splits, 16, time.monotonic() + 60)


def test_a_result_is_read_and_not_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def run(cell: Any, method: str, out: Path, threads: int) -> dict[str, Any]:
        measured.append((cell.key, method))
        if method == "expert" and len(measured) == 2:
            raise KeyboardInterrupt
        score = {"autotl": 0.9, "expert": 0.8, "loop": 0.95, "logistic": 0.7}[method]
        return {"accuracy": score, "n": 4, "detail": "a | b", "seconds": 61.2}

    monkeypatch.setattr(searches, "run", run)
    words = ["searches.py", "photos/", "--budgets", "1m", "--seeds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(KeyboardInterrupt):
        searches.main()
    capsys.readouterr()
    searches.main()
    assert [method for _, method in measured] == ["autotl", "expert", "expert", "loop", "logistic"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| photos | 1m | 0 | 0.900 (a / b; 61 s) | 0.800")
    # An error of 0.1 beside the 0.05 of the loop.
    assert lines[-1] == "| 1m | 1 | 0.900 | 0.800 | 0.950 | 0.700 | 2.00 | -0.050 |"


def test_a_search_without_a_model_counts_as_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(words: Any, log: Path, threads: int) -> tuple[int, str]:
        log.write_text("Error: the budget is too short\n")
        return 1, ""

    monkeypatch.setattr(searches, "call", call)
    result = searches.search(["photos"], tmp_path, 1)
    assert (result["accuracy"], result["unused"]) == (0, None)
    assert result["detail"] == "no model: Error: the budget is too short"


def test_a_search_is_read_from_its_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"backbone": {"b": {}}, "freeze": {"f": {}}, "head": {"h": {}}}
    summary: dict[str, Any] = {
        "budget_seconds": 60.0,
        "seconds": 57.0,
        "test": {"score": 0.75, "n": 4},
        "best": {"kind": "trial", "name": "trial 1", "config": config},
    }

    def call(words: Any, log: Path, threads: int) -> tuple[int, str]:
        (tmp_path / "search").mkdir()
        (tmp_path / "search" / "summary.json").write_text(json.dumps(summary))
        return 0, ""

    monkeypatch.setattr(searches, "call", call)
    result = searches.search(["photos"], tmp_path, 1)
    assert (result["accuracy"], result["n"], result["unused"]) == (0.75, 4, 3)
    assert result["detail"] == "b · f · h, 3 s unused"


def test_peers_have_the_images_of_the_splits(tmp_path: Path) -> None:
    digits = task(tmp_path / "splits.csv")
    assert digits.images.shape == (6, 3, 16, 16)
    assert digits.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert digits.test_labels.tolist() == [6, 7, 8, 9]
    assert digits.classes == 10
    assert not digits.flip


def test_training_ends_in_time_and_trains_only_what_is_trainable(tmp_path: Path) -> None:
    digits = task(tmp_path / "splits.csv")
    frozen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    frozen.requires_grad_(False)
    model = nn.Sequential(frozen, nn.Flatten(), nn.Linear(4 * 16 * 16, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = torch.arange(6)
    past = list(peer_task.train(digits, rows, model, 1e-3, 3, time.monotonic() - 1))
    assert past == [0]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    epochs = list(peer_task.train(digits, rows, model, 1e-3, 3, digits.deadline))
    assert epochs == [1, 2, 3]
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"2.weight", "2.bias"}


def test_an_augmented_image_has_its_own_content(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = torch.linspace(-1, 1, 16).expand(1, 3, 16, 16)  # brighter to the right
    views = torch.cat([peer_task.augment(image, flip=True) for _ in range(40)])
    slopes = views[..., -1].mean((1, 2)) - views[..., 0].mean((1, 2))
    assert (slopes.abs() > 1).all()
    assert 8 < (slopes < 0).sum() < 32
    unflipped = torch.cat([peer_task.augment(image, flip=False) for _ in range(40)])
    assert (unflipped[..., -1] > unflipped[..., 0]).all()
