"""The activations of a batch at a split point, alone or with the inputs they were computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WithInputs:
    """Activations whose split point ``needs_input``: a batch, as a tensor is one.

    Attributes:
        activations: ``[B, ...]``.
        inputs: The model's inputs that they were computed from, ``[B, ...]``.
    """

    activations: Tensor
    inputs: Tensor

    def __len__(self) -> int:
        return len(self.activations)

    def __getitem__(self, examples: slice) -> WithInputs:
        return WithInputs(self.activations[examples], self.inputs[examples])

    @property
    def device(self) -> torch.device:
        """The device of both."""
        return self.activations.device

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.activations.nbytes + self.inputs.nbytes

    def detach(self) -> WithInputs:
        """The same without autograd's graph."""
        return WithInputs(self.activations.detach(), self.inputs)

    def clone(self) -> WithInputs:
        """Copy the activations, which layers may overwrite; the inputs are the same tensor."""
        return WithInputs(self.activations.clone(), self.inputs)

    def to(self, dtype: torch.dtype) -> WithInputs:
        """Convert the activations to another type."""
        return WithInputs(self.activations.to(dtype), self.inputs)

    def tensor_split(self, count: int) -> list[WithInputs]:
        """Split into nearly equal parts."""
        parts = (tensor.tensor_split(count) for tensor in (self.activations, self.inputs))
        return [WithInputs(*part) for part in zip(*parts, strict=True)]


Activations = Tensor | WithInputs


def divide(activations: Activations) -> tuple[Tensor, Tensor | None]:
    """The activations themselves, and their inputs or None."""
    if isinstance(activations, Tensor):
        return activations, None
    return activations.activations, activations.inputs


def concatenate(parts: Sequence[Activations]) -> Activations:
    """Concatenate the activations of several batches, all with inputs or all without."""
    activations, inputs = zip(*map(divide, parts), strict=True)
    if inputs[0] is None:
        return torch.cat(activations)
    return WithInputs(torch.cat(activations), torch.cat(inputs))
