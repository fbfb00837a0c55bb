"""Predictions: their order, their sums, and what happens when memory runs out."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import CPU, batches, squares
from training_helpers import TOP, changed_names, copy_state, train

from autotl.errors import OutOfMemory
from autotl.models import Model, fast_inference
from autotl.training import ComputeSettings, predict
from autotl.training.predict import split_for_inference


def test_predictions_are_in_order_and_sum_to_one() -> None:
    network, _ = train(head=("linear", {"dropout": 0.5}))
    validation = batches(squares(seed=1), 5, shuffle_seed=None)
    probabilities = predict(network.train(), validation, CPU)
    assert probabilities.shape == (36, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert len(np.unique(probabilities, axis=0)) == 36
    with torch.no_grad():
        images = torch.stack([torch.from_numpy(e.item) for e in squares(seed=1)])
        expected = network.eval()(images.permute(0, 3, 1, 2)).softmax(1)
    np.testing.assert_allclose(probabilities, expected.numpy(), rtol=1e-4, atol=1e-6)
    before = copy_state(network)
    predict(network, validation, CPU)
    assert not changed_names(before, network)


@pytest.mark.parametrize("chosen", [("linear_probe", {}), ("full", {})])
def test_short_memory_does_not_change_predictions(
    monkeypatch: pytest.MonkeyPatch, chosen: tuple[str, dict[str, Any]]
) -> None:
    features = Model.features

    def short(self: Model, images: Tensor) -> Tensor:
        if len(images) > 3 and not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no memory is left")
        return features(self, images)

    enough, epochs = train(freeze=chosen)
    monkeypatch.setattr(Model, "features", short)
    little, epochs_with_little = train(freeze=chosen)
    torch.testing.assert_close(copy_state(little), copy_state(enough))
    assert [e.score for e in epochs_with_little] == [e.score for e in epochs]
    monkeypatch.setattr(Model, "features", lambda *_: short(enough, torch.zeros(4)))
    with pytest.raises(OutOfMemory, match="a single image does not fit"):
        predict(enough, batches(squares()), CPU)


def test_many_images_are_predicted_with_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    network, _ = train()
    few = predict(network, batches(squares()), CPU)
    monkeypatch.setattr(fast_inference, "MIN_PIXELS", 36 * 16**2)
    monkeypatch.setattr(fast_inference, "with_fallback", lambda compiled, _: compiled)
    compile_forward, compiled = fast_inference.compile_forward, []
    monkeypatch.setattr(
        fast_inference,
        "compile_forward",
        lambda *args: (compiled.append(1), compile_forward(*args))[1],
    )
    many = predict(network, batches(squares()), CPU)
    np.testing.assert_allclose(many, few, atol=1e-5)
    assert compiled == [1]
    predict(network, batches(squares(each=11)), CPU)
    predict(network, batches(squares()), CPU, compile=False)
    assert compiled == [1]

    def fail(*args: Any) -> Any:
        raise fast_inference.NotCompiled("for a reason")

    monkeypatch.setattr(fast_inference, "compile_forward", fail)
    np.testing.assert_array_equal(predict(network, batches(squares()), CPU), few)


@pytest.mark.parametrize(
    ("device", "factor", "sizes"),
    [
        ("cpu", None, [4, 4, 4, 4, 4]),
        ("cuda:1", None, [20]),  # eight training batches
        ("cuda:1", 2, [7, 7, 6]),
        ("cpu", 3, [10, 10]),
    ],
)
def test_the_batches_of_inference_are_larger_on_a_gpu(
    device: str, factor: int | None, sizes: list[int]
) -> None:
    some: Any = SimpleNamespace(batch_size=4, device=torch.device(device))
    split = split_for_inference(np.arange(20), some, factor)
    assert [len(batch) for batch in split] == sizes
    assert np.concatenate(split).tolist() == list(range(20))


@pytest.mark.parametrize("strategy", ["full", TOP, "linear_probe"])
def test_a_training_uses_the_size_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, strategy: Any
) -> None:
    factors: list[int | None] = []

    def record(positions: Any, batches: Any, factor: int | None = None) -> Any:
        factors.append(factor)
        return split_for_inference(positions, batches, factor)

    for module in ("predict", "inputs", "frozen_inputs"):
        monkeypatch.setattr(sys.modules[f"autotl.training.{module}"], "split_for_inference", record)
    train(freeze=strategy, compute=ComputeSettings(inference_factor=2))
    assert set(factors) == {2}
