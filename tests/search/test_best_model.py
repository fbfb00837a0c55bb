"""The model of the best trial: in memory, and in a file for other workers until the run ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autotl.search.best_model import BestModel, clear_models


class Search:
    """A search of two workers whose models are single layers; trial ``winner`` is the best."""

    def __init__(self, out: Path) -> None:
        self.settings: Any = SimpleNamespace(out=out, name="photos")
        self.winner = 0

    def worker(self, others: int = 1) -> BestModel:
        context: Any = SimpleNamespace(
            settings=self.settings, build=lambda config: nn.Linear(2, 2), config=lambda row: row
        )
        board: Any = SimpleNamespace(ranked=[0], winner=lambda: SimpleNamespace(number=self.winner))
        worker: Any = SimpleNamespace(others=lambda: [1] * others)
        return BestModel(context, board, worker)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path)


def weight(best: BestModel) -> torch.Tensor | None:
    kept = best.get()
    return kept.model.weight if kept else None  # type: ignore[return-value]


def test_another_worker_gets_the_model_of_the_winner(search: Search) -> None:
    one, two, model = search.worker(), search.worker(), nn.Linear(2, 2)
    one.keep([(0, model)])  # type: ignore[list-item]
    for worker in (one, two):
        its_weight = weight(worker)
        assert its_weight is not None
        assert torch.equal(its_weight, model.weight)


def test_a_worker_alone_writes_no_file(search: Search, tmp_path: Path) -> None:
    search.worker(others=0).keep([(0, nn.Linear(2, 2))])  # type: ignore[list-item]
    assert not (tmp_path / "cache").exists()


def test_a_model_of_another_trial_or_an_earlier_run_is_not_the_winners(
    search: Search, tmp_path: Path
) -> None:
    search.worker().keep([(0, nn.Linear(2, 2))])  # type: ignore[list-item]
    search.winner = 3
    assert weight(search.worker()) is None
    search.winner = 0
    clear_models(search.settings)  # another run, maybe of a new study with this name, begins
    assert weight(search.worker()) is None
    assert not any((tmp_path / "cache" / "models").iterdir())


def test_a_damaged_file_is_no_model(search: Search, tmp_path: Path) -> None:
    search.worker().keep([(0, nn.Linear(2, 2))])  # type: ignore[list-item]
    [file] = (tmp_path / "cache" / "models").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4])
    assert weight(search.worker()) is None
