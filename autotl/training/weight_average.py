"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from autotl.models import Model


class WeightAverage:
    """A moving average of a model's trainable parameters and of its floating-point buffers.

    The decay of step ``t`` is ``min(decay, (1 + t) / (10 + t))``: the first steps count for more,
    so that the initial weights are soon forgotten.

    ``timm.utils.ModelEmaV3`` and ``torch.optim.swa_utils.AveragedModel`` copy the whole model and
    average all of it. Here most of the model is frozen, many heads share one backbone, and the
    split point refers to the modules of the model itself, so only what changes is averaged, and
    the average is swapped into the model.

    Args:
        decay: Weight of the past in the average, from 0 to 1; 0 for no average.

    Attributes:
        steps: Number of updates so far.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self.steps = 0
        self._averages: dict[torch.Tensor, torch.Tensor] = {}  # by the tensor of the model

    def update(self, model: Model) -> None:
        """Add the weights after a step to the average."""
        if not self._decay:
            return
        self.steps += 1
        decay = min(self._decay, (1 + self.steps) / (10 + self.steps))
        parameters = (p for p in model.parameters() if p.requires_grad)
        buffers = (b for b in model.buffers() if b.is_floating_point())
        tensors: list[torch.Tensor] = [*parameters, *buffers]
        averaged = [t for t in tensors if t in self._averages]
        self._averages |= {t: t.detach().clone() for t in tensors if t not in self._averages}
        if averaged:
            averages = [self._averages[t] for t in averaged]
            update_averages = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            update_averages(averages, [t.detach() for t in averaged], self.steps)

    def state(self, names: Mapping[int, str]) -> dict[str, torch.Tensor]:
        """Return the averages by the name of the tensor.

        Args:
            names: The names of the model's parameters and buffers by id.
        """
        return {names[id(tensor)]: average for tensor, average in self._averages.items()}

    def restore(
        self, averages: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], steps: int
    ) -> None:
        """Restore the averages that ``state`` returned, after ``steps`` steps.

        Args:
            averages: The averages.
            tensors: The model's parameters and buffers by name.
            steps: The number of steps so far.
        """
        self.steps = steps
        self._averages = {
            tensors[name]: torch.empty_like(tensors[name], requires_grad=False).copy_(average)
            for name, average in averages.items()
        }

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the average as its weights, and its own weights back at the end."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Swap the weights of the model and their average, without copying them."""
        for tensor, average in self._averages.items():
            self._averages[tensor], tensor.data = tensor.data, average
