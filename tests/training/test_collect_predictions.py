"""Logits of batches become predictions some at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from autotl.tasks import numbered_classes
from autotl.training import logits_to_predictions

predict_module = importlib.import_module("autotl.training.predict")


def test_the_logits_of_all_examples_are_not_there_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, logits = numbered_classes(5), torch.randn(103, 5)
    begun: list[int] = []
    converted: list[int] = []

    def convert(part: Tensor, task: object) -> np.ndarray:
        converted.append(len(part))
        return logits_to_predictions(part, numbered_classes(5))

    def batches() -> Iterator[Tensor]:
        for batch in logits.split(10):
            begun.append(len(batch))
            assert sum(begun) - sum(converted) <= 30
            yield batch

    whole = predict_module.collect_predictions(logits.split(10), 103, task)
    monkeypatch.setattr(predict_module, "CHUNK_NUMBERS", 20 * 5)
    monkeypatch.setattr(predict_module, "logits_to_predictions", convert)
    parts = predict_module.collect_predictions(batches(), 103, task)
    assert converted == [20, 20, 20, 20, 20, 3]
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    np.testing.assert_array_equal(whole, logits_to_predictions(logits, task))
