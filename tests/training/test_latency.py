"""What predictions take: equal layers have equal costs, and models remain as they were."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from toy import CPU, model

from autotl.errors import OutOfMemory
from autotl.models import Device
from autotl.training import latency
from autotl.training.latency import measure_latencies


def test_equal_architectures_are_one_measurement() -> None:
    first, same, other = model(), model(), model(head="mlp")
    one, two, three = measure_latencies([first, same, other], CPU, 5.0)
    assert one == two
    assert three != one
    for each in (one, three):
        assert each.batch is not None
        for spread in (each.single, each.batch):
            assert 0 < spread.low <= spread.median <= spread.high
        assert each.batch.median < each.single.median  # for one image
        assert each.threads == torch.get_num_threads()


def test_without_time_single_images_are_measured() -> None:
    [measured] = measure_latencies([model()], CPU, 0.0)
    assert measured.batch is None
    assert math.isfinite(measured.single.median)


def test_models_are_timed_in_turn() -> None:
    calls: list[str] = []
    networks = [model(), model(head="mlp")]
    for name, network in zip("ab", networks, strict=True):
        network.register_forward_hook(lambda *_, name=name: calls.append(name))
    measure_latencies(networks, CPU, 0.0)
    assert calls == ["a", "b"] * (latency.FEWEST_ROUNDS + 1)


@pytest.mark.parametrize(
    ("message", "kind"), [("CUDA out of memory", OutOfMemory), ("no kernel", RuntimeError)]
)
def test_an_error_leaves_no_model_on_the_device(message: str, kind: type[Exception]) -> None:
    def fail(module: nn.Module, inputs: Any) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 1:
            raise RuntimeError(message)

    networks, sizes, moved = [model(), model(head="mlp")], list[int](), list[Any]()
    networks[1].register_forward_pre_hook(fail)
    for network in networks:
        network.to = lambda where, own=network: (moved.append(str(where)), own)[1]
    with pytest.raises(kind):
        measure_latencies(networks, Device(torch.device("cpu:0"), None), 5.0)
    assert moved[-2:] == ["cpu", "cpu"]
    assert latency.BATCH // 2 not in sizes  # a batch in parts would take longer
