"""Costs that cannot be measured are missing; they do not end a search."""

from __future__ import annotations

from typing import Any

import pytest
from toy import CPU, model

from autotl import training
from autotl.errors import OutOfMemory
from autotl.search.budget import Budget
from autotl.selection.prediction_costs import add_latencies


@pytest.mark.parametrize("error", [OutOfMemory("no memory"), RuntimeError("no kernel")])
def test_models_that_cannot_be_timed_have_no_costs(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(training, "measure_latencies", fail)
    contenders: list[Any] = ["one"]
    assert add_latencies(contenders, [model()], CPU, Budget(None)) == contenders


def test_a_gpu_that_fails_is_no_missing_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="illegal"):
        add_latencies([], [network], CPU, Budget(None))
