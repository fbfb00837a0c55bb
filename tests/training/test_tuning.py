"""Settings for a GPU that are found by timing, with fakes of what is timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autotl.models import Device
from autotl.training import tuning

CUDA = Device(torch.device("cuda"), None)


def tune(
    monkeypatch: pytest.MonkeyPatch, tuned: tuning.Times, taken: float, steps: int = 1000
) -> tuple[tuning.Times, float, list[bool]]:
    """Tune a step of 1 s whose measurement with cuDNN's timing takes ``taken`` seconds."""
    clock = iter([100.0, 100.0 + taken])
    monkeypatch.setattr(tuning.time, "monotonic", lambda: next(clock))
    inside: list[bool] = []

    def measure() -> tuning.Times:
        inside.append(torch.backends.cudnn.benchmark)
        return tuned

    return *tuning.tune_cudnn(measure, (0.25, 1.0), CUDA, steps), inside


def test_faster_algorithms_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    times, seconds, inside = tune(monkeypatch, (0.2, 0.8), taken=5.0)
    assert times == (0.2, 0.8)
    assert seconds == pytest.approx(5.0 - 2 * (0.2 + 0.8))
    assert inside == [True]
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    ("tuned", "taken", "steps"),
    [
        ((0.2, 0.96), 2.4, 1000),  # hardly faster
        ((0.2, 1.5), 3.5, 1000),  # slower
        ((0.2, 0.8), 12.0, 99),  # 19.8 s are saved, and timing takes 10 s
    ],
)
def test_the_usual_algorithms_stay(
    monkeypatch: pytest.MonkeyPatch, tuned: tuning.Times, taken: float, steps: int
) -> None:
    assert tune(monkeypatch, tuned, taken, steps)[:2] == ((0.25, 1.0), 0.0)


def test_a_forward_pass_counts_where_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning.time, "monotonic", lambda: 0.0)
    times, seconds = tuning.tune_cudnn(lambda: (0.5, 0.0), (1.0, 0.0), CUDA, 10)
    assert times == (0.5, 0.0)
    assert seconds > 0


def find_factor(seconds: dict[int, Any], most: int = 100) -> tuple[int, list[int]]:
    measured = []

    def measure(factor: int) -> float:
        measured.append(factor)
        result: float | Exception = seconds[factor]
        if isinstance(result, Exception):
            raise result
        return result

    return tuning.find_inference_factor(measure, most), measured


def test_batches_grow_until_that_is_hardly_faster() -> None:
    assert find_factor({1: 1.0, 2: 1.2, 4: 2.0, 8: 3.9}) == (4, [1, 2, 4, 8])
    assert find_factor({1: 1.0, 2: 2.0}) == (1, [1, 2])
    assert find_factor({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0})[0] == 16


def test_batches_grow_until_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert find_factor({1: 1.0, 2: 1.2, 4: error}) == (2, [1, 2, 4])
    assert emptied == [1]
    with pytest.raises(RuntimeError, match="illegal"):
        find_factor({1: 1.0, 2: RuntimeError("CUDA error: an illegal memory access")})


def test_batches_are_no_larger_than_there_are_images() -> None:
    assert find_factor({1: 1.0, 2: 1.0}, most=3) == (2, [1, 2])
    assert find_factor({1: 1.0}, most=1) == (1, [1])
