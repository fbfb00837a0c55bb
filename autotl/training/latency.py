"""How long a prediction takes, measured so that models can be compared.

Models are timed in turn, round after round, so that a machine that is slower for a while is slower
for all. Models with equal layers have equal costs: they are one measurement.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from autotl.models import Device, Model, blank_batch, build_backbone
from autotl.space.space import Choice
from autotl.training.memory import retry_when_out_of_memory
from autotl.training.random_state import RandomState

BATCH = 32
"""The number of images of a batch."""

ROUNDS, FEWEST_ROUNDS = 9, 3
"""The maximum and minimum number of times that a model is timed."""


@dataclass(frozen=True)
class Spread:
    """Milliseconds per image: the median of the rounds, and their quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """What a prediction takes, in float32.

    Attributes:
        single: Of one image alone.
        batch: Of one image in a batch of ``BATCH``; None if there was no time to measure it.
        threads: The number of threads of a CPU; None on another device.
    """

    single: Spread
    batch: Spread | None
    threads: int | None


def measure_latencies(networks: Sequence[Model], device: Device, seconds: float) -> list[Latency]:
    """Measure what a prediction takes with each of several models.

    Args:
        networks: The models, on any device, on which they remain.
        device: Where to compute.
        seconds: The time to do it in; single images are timed ``FEWEST_ROUNDS`` times in any case.

    Raises:
        OutOfMemory: They do not fit on the device.
    """
    device = Device(device.torch_device, None)  # as models are used, see ``artifact``
    unique: dict[str, Model] = {}
    for network in networks:
        unique.setdefault(_architecture(network), network)
    measure = partial(_measure, list(unique.values()), device, seconds)
    single, batch = retry_when_out_of_memory(measure, device.torch_device, "the models")
    threads = torch.get_num_threads() if device.torch_device.type == "cpu" else None
    rows = zip(unique, single, batch, strict=True)
    latencies = {key: Latency(one, many, threads) for key, one, many in rows}
    return [latencies[_architecture(network)] for network in networks]


def measure_latency(backbone: Choice, size: int | None, device: Device) -> Spread:
    """Measure the milliseconds that a backbone takes for a single image.

    Args:
        backbone: The plugin and its values.
        size: Height and width of the image in pixels; None for the size that the backbone was
            pretrained with.
        device: The device.

    Raises:
        Incompatible: The backbone cannot take images of this size.
        OutOfMemory: It does not fit on the device.
    """
    with RandomState(device, 0).active():
        network, expects = build_backbone(backbone, size)
    model = Model(network, torch.nn.Identity(), expects)
    return measure_latencies([model], device, 0.0)[0].single


def _architecture(network: Model) -> str:
    """Describe the layers of a model, with the shapes of their tensors and the input."""
    layers = [(name, type(module).__name__) for name, module in network.named_modules()]
    tensors = [(name, tuple(t.shape)) for name, t in network.state_dict().items()]
    return repr((network.expects.key, layers, tensors))


def _measure(
    models: Sequence[Model], device: Device, seconds: float
) -> tuple[list[Spread], list[Spread] | list[None]]:
    """Measure single images and batches; see ``measure_latencies``."""
    deadline = time.monotonic() + seconds
    origins = [next(network.parameters()).device for network in models]
    with RandomState(device, 0).active():
        try:
            for network in models:
                network.to(device.torch_device).eval()
            single = _time_in_turn(models, 1, device, (deadline + time.monotonic()) / 2)
            needed = (FEWEST_ROUNDS + 1) * BATCH * sum(s.median for s in single) / 1000
            if time.monotonic() + needed > deadline:
                return single, [None] * len(models)
            return single, _time_in_turn(models, BATCH, device, deadline)
        finally:
            for network, origin in zip(models, origins, strict=True):
                network.to(origin)


def _time_in_turn(
    models: Sequence[Model], count: int, device: Device, deadline: float
) -> list[Spread]:
    """Time batches of ``count`` images in rounds until a deadline, a value of ``time.monotonic``.

    The first round warms up.
    """
    taken: list[list[float]] = [[] for _ in models]
    batches = [blank_batch(network.expects, count, device.torch_device) for network in models]
    for number in range(ROUNDS + 1):
        if number > FEWEST_ROUNDS and time.monotonic() > deadline:
            break
        for network, inputs, each in zip(models, batches, taken, strict=True):
            start = time.monotonic()
            with torch.inference_mode():  # a batch in parts would take longer
                network(inputs)
            if device.torch_device.type == "cuda":
                torch.cuda.synchronize(device.torch_device)
            each.append(1000 * (time.monotonic() - start) / count)
    return [_spread(each[1:]) for each in taken]


def _spread(values: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)
