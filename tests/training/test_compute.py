"""Compute settings: compilation with a fallback, autocast, and the key of measurements."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor
from toy import CPU, config, model
from training_helpers import have_equal_weights, train

from autotl.models import Device
from autotl.training import ComputeSettings, set_trainable
from autotl.training.compute import cost_key

COMPILED = ComputeSettings(cache_activations=False, compile=True)


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_cannot_be_compiled_is_trained_uncompiled(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    calls: list[int] = []

    def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(images: Tensor) -> Tensor:
            calls.append(len(images))
            if fails:
                raise AssertionError("no compiler here")
            return function(images)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    uncompiled, _ = train(freeze="full")
    assert not calls
    other, _ = train(freeze="full", compute=COMPILED)
    assert len(calls) == (1 if fails else 6)
    assert have_equal_weights(uncompiled, other)


def test_a_compiled_model_that_runs_out_of_memory_stays_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(function: Any) -> Any:
        def call(images: Tensor) -> Tensor:
            if len(images) > 4:
                raise torch.OutOfMemoryError("no memory is left")
            features: Tensor = function(images)
            return features

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    sizes: dict[str, int] = {}
    train(epochs=1, freeze="full", compute=COMPILED, micro_batch_sizes=sizes)
    assert list(sizes.values()) == [3]


def test_settings_can_be_stored_as_json() -> None:
    assert ComputeSettings(**json.loads(json.dumps(asdict(COMPILED)))) == COMPILED


def test_without_autocast_a_device_computes_in_float32() -> None:
    bfloat16 = Device(CPU.torch_device, torch.bfloat16)
    assert ComputeSettings(autocast=True).apply_to(bfloat16) == bfloat16
    assert ComputeSettings(autocast=False).apply_to(bfloat16) == CPU


def test_the_key_of_a_measurement_changes_with_what_decides_the_cost() -> None:
    network = model()
    keys = [cost_key(network, config(), CPU)]
    keys.append(cost_key(network, config(), Device(CPU.torch_device, torch.bfloat16)))
    set_trainable(network, [{"params": list(network.head.parameters())}])
    keys.append(cost_key(network, config(), CPU))
    keys.append(cost_key(model(size=32), config(), CPU))
    assert len(set(keys)) == 4
    other = cost_key(network, config(freeze="full", head="mlp"), CPU)
    assert other == keys[2]  # the same parameters are trainable
