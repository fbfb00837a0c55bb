"""Checkpoints: the state of a training after an epoch, so that an interrupted one continues.

A checkpoint is a safetensors file with the trained weights and buffers, the state of the optimizer,
the averaged weights and the states of torch's random number generators. A training that continues
from it computes what it would have computed without the interruption.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from autotl import files

VERSION = 1
"""The version of the layout of a checkpoint."""

SAVE_FRACTION = 0.05
"""The maximum fraction of the time of a training that saving takes."""


class Checkpoint:
    """The checkpoint file of one training.

    Args:
        path: The file; its folder is made when a checkpoint is saved.
        keeps_last: Whether the state after the last epoch is saved too, because the caller has more
            to do before the result is stored.

    Attributes:
        facts: The values saved with the tensors; empty without a valid checkpoint.
    """

    def __init__(self, path: Path, *, keeps_last: bool = False) -> None:
        self.path, self.keeps_last = path, keeps_last
        self._last_save = time.monotonic()
        self._save_seconds = 0.0
        self.facts: dict[str, Any] = {}
        with suppress(OSError, ValueError, safetensors.SafetensorError):
            with safetensors.safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            if facts.get("version") == VERSION:
                self.facts = facts

    @property
    def is_due(self) -> bool:
        """Whether enough time has passed since the last save, compared with what that took."""
        return time.monotonic() - self._last_save > self._save_seconds / SAVE_FRACTION

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Save tensors and JSON values; the file is complete or does not change.

        A checkpoint is a convenience: if it cannot be written, the training goes on without it.
        """
        began = time.monotonic()
        # Plugins may have tensors that share memory, or values that are not JSON.
        with suppress(OSError, RuntimeError, TypeError, ValueError, safetensors.SafetensorError):
            copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"facts": json.dumps({"version": VERSION, **facts})}
            with files.write_beside(self.path) as temporary:
                save_file(copies, temporary, metadata)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - began

    def load(self) -> dict[str, Tensor]:
        """Load the tensors to the CPU.

        Raises:
            ValueError: The file is damaged.
        """
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                # Cloned, because Windows does not replace a file that is mapped into memory.
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from None

    def delete(self) -> None:
        """Delete the file, if it exists."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def select_tensors(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the tensors whose names are ``kind:name``, by ``name``."""
    prefix = f"{kind}:"
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }


def pack_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return the state of an optimizer as named tensors and as plain values by parameter.

    Args:
        optimizer: The optimizer.
        names: The names of the parameters by id.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer:{name}:{key}"] = value
            else:
                values.setdefault(name, {})[key] = value
    return tensors, values


def unpack_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Mapping[str, Any]],
) -> None:
    """Restore the state that ``pack_optimizer`` returned.

    Args:
        optimizer: The optimizer.
        parameters: What it trains, by name.
        tensors: What ``pack_optimizer`` returned.
        values: What else it returned.
    """
    optimizer.state.clear()
    for name, plain in values.items():
        optimizer.state[parameters[name]].update(plain)
    for key, tensor in select_tensors(tensors, "optimizer").items():
        name, entry = key.split(":")
        parameter = parameters[name]
        if tensor.shape == parameter.shape:  # fused kernels need the layout of the parameter
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        elif _is_fused(optimizer):  # its step counters are on the device
            tensor = tensor.to(parameter.device)
        optimizer.state[parameter][entry] = tensor


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
