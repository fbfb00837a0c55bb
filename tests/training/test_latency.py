"""What predictions take: equal layers have equal costs, and models remain as they were."""

from __future__ import annotations

import math

import torch
from toy import CPU, model

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
