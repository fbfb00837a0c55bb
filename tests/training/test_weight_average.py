"""The moving average of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy import CPU, config, job, model
from training_helpers import have_equal_weights

from autotl import optimizer
from autotl.models import Group
from autotl.training import fine_tune, predict
from autotl.training.weight_average import WeightAverage


@optimizer
def constant_sgd(groups: list[Group], steps: int) -> Any:
    """SGD at a constant rate."""
    chosen = torch.optim.SGD(groups)
    return chosen, torch.optim.lr_scheduler.ConstantLR(chosen, 1.0)


def test_an_average_lags_behind_and_becomes_the_final_weights() -> None:
    chosen = {"freeze": ("linear_probe", {"lr": 3e-2}), "optimizer": constant_sgd}
    trained = {}
    for ema in (0.0, 0.9, 0.999):
        network = model()
        list(fine_tune(network, config(**chosen), job(4, ema=ema)))
        trained[ema] = network.head[1].weight.detach()
    start = model().head[1].weight.detach()
    distance = {ema: (weight - start).norm() for ema, weight in trained.items()}
    assert distance[0.0] > distance[0.9]
    assert distance[0.9] == distance[0.999]  # so few steps: the warm-up decides, not the decay


def test_the_average_is_that_of_the_formula() -> None:
    weights: list[Tensor] = []

    @optimizer
    def recording(groups: list[Group], steps: int) -> Any:
        """SGD that records the weights after each step."""
        chosen, schedule = constant_sgd(groups, steps)
        weight = groups[0]["params"][0]
        chosen.register_step_post_hook(lambda *_: weights.append(weight.detach().clone()))
        return chosen, schedule

    network = model()
    list(fine_tune(network, config(optimizer=recording), job(2, ema=0.5)))
    assert len(weights) == 6
    average = weights[0]
    for step, weight in enumerate(weights[1:], start=2):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(network.head[1].weight.detach(), average)


@pytest.mark.parametrize("strategy", ["full", "lora", ("lp_ft", {"probe_fraction": 0.5})])
def test_validation_uses_the_average_and_the_training_does_not(strategy: Any) -> None:
    chosen: dict[str, Any] = {"freeze": strategy, "head": "linear"}
    losses = []
    for ema in (0.0, 0.9):
        network, run = model(**chosen), job(4, ema=ema)
        epochs = list(fine_tune(network, config(**chosen), run))
        losses.append([e.loss for e in epochs])
        assert run.validation is not None
        probabilities = predict(network, run.validation, CPU)
        assert epochs[-1].predictions == pytest.approx(probabilities, abs=1e-4)
        losses[-1] += [float(probabilities[0, 0])]
    (*plain, unaveraged), (*averaged, average) = losses
    assert plain == averaged
    assert unaveraged != average


def test_without_a_decay_there_is_no_average() -> None:
    networks = [model() for _ in range(2)]
    for network, ema in zip(networks, (0.0, 1e-9), strict=True):
        list(fine_tune(network, config(), job(2, ema=ema)))
    torch.testing.assert_close(*(n.state_dict() for n in networks))
    assert not have_equal_weights(networks[0], model())


def test_weights_and_average_are_swapped_without_copying_them() -> None:
    network, average = model(), WeightAverage(0.9)
    average.update(network)
    weights = {name: tensor.data_ptr() for name, tensor in network.named_parameters()}
    with average.applied():
        assert (
            not weights.items() & {n: t.data_ptr() for n, t in network.named_parameters()}.items()
        )
    assert weights == {name: tensor.data_ptr() for name, tensor in network.named_parameters()}
