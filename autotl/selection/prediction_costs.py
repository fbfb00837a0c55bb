"""What a prediction takes with each contender: measured once, at the end of the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from autotl import training
from autotl.errors import OutOfMemory, find_device_fault
from autotl.models import Device, Model
from autotl.search.budget import Budget
from autotl.store import Contender, Latency

MEASURING_SECONDS, MEASURING_FRACTION = 10.0, 0.02
"""The maximum time of a measurement, in seconds and as a fraction of the budget."""


def add_latencies(
    contenders: Sequence[Contender], networks: Sequence[Model], device: Device, budget: Budget
) -> list[Contender]:
    """Return the contenders with what a prediction takes, measured in turn.

    Args:
        contenders: The contenders.
        networks: A model of each; its weights do not matter.
        device: The device to measure on.
        budget: The wall-clock budget, of which a small fraction is used.
    """
    seconds = MEASURING_SECONDS
    if budget.seconds is not None:
        seconds = min(seconds, MEASURING_FRACTION * budget.seconds)
    try:
        latencies = training.measure_latencies(networks, device, seconds)
    except (RuntimeError, OutOfMemory) as error:  # costs may be missing
        if find_device_fault(error):
            raise
        return list(contenders)
    return [
        contender.model_copy(update={"latency": Latency.model_validate(asdict(latency))})
        for contender, latency in zip(contenders, latencies, strict=True)
    ]
