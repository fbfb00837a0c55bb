"""BatchNorm adapted to unlabelled examples: which layers, which statistics, what is saved."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import batches, config, job, model, squares
from training_helpers import TOP, copy_state, have_equal_weights

from autotl import UnlabelledMethod, unlabelled
from autotl.data import Batches
from autotl.errors import Incompatible
from autotl.models import Model
from autotl.testing.toy import CPU, convnet
from autotl.training import Checkpoint, Job, checkpoint, fine_tune, predict
from autotl.training.batch_norm import adapt
from autotl.training.inputs import Inputs
from autotl.training.memory import MicroBatches
from autotl.training.unlabelled import Rows, require_suitable, uses_unlabelled

ADAPTED: dict[str, Any] = {"unlabelled": "adabn", "freeze": "full"}


@cache
def target(count: int = 40) -> Batches:
    """Images of less brightness and contrast, sorted by class."""
    examples = sorted(squares(count // 3 + 1, seed=5), key=lambda e: e.label)[:count]
    dark = [replace(example, item=example.item // 4) for example in examples]
    own = batches(dark, 16, shuffle_seed=None)
    own.data_id = "target"
    return own


def make_job(epochs: int = 2, **changes: Any) -> Job:
    dark = [replace(example, item=example.item // 4) for example in squares(seed=1)]
    validation = batches(dark, shuffle_seed=None)
    return job(epochs, **{"unlabelled": target, "validation": validation, **changes})


def train(network: Model, chosen: dict[str, Any], **changes: Any) -> list[Any]:
    return list(fine_tune(network, config(**chosen), make_job(**changes)))


def images() -> Tensor:
    return torch.cat([own for own, _ in target()])


def test_the_statistics_of_the_first_layer_are_those_of_all_target_images() -> None:
    network, plain = model(freeze="full"), model(freeze="full")
    train(network, ADAPTED)
    convolution, norm, _ = network.backbone.stem
    with torch.no_grad():
        values = convolution(network.preprocessing(images()))
    torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, values.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
    train(plain, {"freeze": "full"})
    assert torch.equal(plain.backbone.stem[0].weight, convolution.weight)  # it trains as without
    assert (plain.backbone.stem[1].running_mean - norm.running_mean).abs().max() > 0.1


def test_the_statistics_of_a_batch_are_those_that_torch_computes() -> None:
    one = batches(squares(5, seed=3), 64, shuffle_seed=None)
    network = model(freeze="full", head="batch_norm")
    train(network, {**ADAPTED, "head": "batch_norm"}, unlabelled=lambda: one)
    state = copy_state(network)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 5
    for norm in norms:
        norm.train().momentum = 1.0
        norm.steps = 0  # the head's own has a momentum that depends on the step
        norm.reset_running_stats()
    [(every, _)] = one
    with torch.no_grad():
        network(every)
    for name, value in network.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(state[name], value, msg=name)


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("freeze", ["full", TOP])
def test_the_trained_model_predicts_what_was_scored(freeze: Any, ema: float) -> None:
    network, own = model(freeze=freeze), make_job(ema=ema)
    *_, last = fine_tune(network, config(unlabelled="adabn", freeze=freeze), own)
    assert own.validation is not None
    assert last.predictions is not None
    predictions = predict(network, own.validation, CPU)
    np.testing.assert_allclose(predictions, last.predictions, atol=3e-4)  # float16 is cached


@pytest.mark.parametrize("cached", [True, False])
def test_layers_that_are_frozen_keep_their_statistics(cached: bool) -> None:
    network = model(freeze=TOP)
    before = copy_state(network)
    settings = replace(job().compute, cache_activations=cached)
    train(network, {"unlabelled": "adabn", "freeze": TOP}, compute=settings)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(before[k], v)}
    norms = {name.rpartition(".")[0] for name in changed if "running_mean" in name}
    assert norms == {"backbone.stages.1.1", "backbone.stages.2.1"}
    with torch.no_grad():
        values = network.eval().backbone.stem(network.preprocessing(images()))
        values = network.backbone.stages[1][0](network.backbone.stages[0](values))
    mean = network.backbone.stages[1][1].running_mean
    torch.testing.assert_close(mean, values.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)


def test_a_head_with_batch_norm_is_adapted_on_a_frozen_backbone() -> None:
    network = model(head="batch_norm")
    train(network, {"unlabelled": "adabn", "head": "batch_norm"})
    with torch.no_grad():
        features = network.eval().features(images())
    torch.testing.assert_close(network.head[0].running_mean, features.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        ({"freeze": "full", "backbone": (convnet, {"batchnorm": False})}, "this network has none"),
        ({"freeze": "linear_probe"}, "linear_probe trains none of them"),
        ({"freeze": "norms"}, "norms trains none of them"),
    ],
)
def test_what_it_cannot_adapt_is_incompatible(chosen: dict[str, Any], reason: str) -> None:
    with pytest.raises(Incompatible, match=f"adabn adapts BatchNorm layers.*{reason}"):
        train(model(**chosen), {"unlabelled": "adabn", **chosen})


def test_it_needs_a_head_that_is_trained() -> None:
    chosen = config(unlabelled="adabn")
    with pytest.raises(Incompatible, match="adabn needs a head that is trained by gradients"):
        require_suitable(chosen, has_fit=True, is_trained=False)
    require_suitable(chosen, has_fit=True, is_trained=True)
    assert uses_unlabelled(chosen["unlabelled"].plugin)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_an_interrupted_training_continues_as_if_it_was_not(
    ema: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_FRACTION", 1e9)

    def run(name: str, stop_after: int) -> Model:
        network = model(freeze="full")
        own = make_job(ema=ema, checkpoint=Checkpoint(tmp_path / name))
        for epoch in fine_tune(network, config(**ADAPTED), own):
            if epoch.number == stop_after:
                break
        return network

    whole = run("whole", 2)
    run("part", 1)
    assert have_equal_weights(whole, run("part", 2))


def test_strategies_that_begin_with_the_head_are_adapted_later() -> None:
    network = model(freeze="lp_ft")
    means = []
    for _ in fine_tune(network, config(unlabelled="adabn", freeze="lp_ft"), make_job(3)):
        means.append(network.backbone.stem[1].running_mean.clone())
    assert torch.equal(means[0], model().backbone.stem[1].running_mean)
    assert not torch.equal(means[0], means[-1])


def test_a_method_may_have_a_loss_too() -> None:
    @unlabelled
    def both() -> UnlabelledMethod:
        return UnlabelledMethod(lambda *own: own[2].logits.mean(), adapts_batch_norm=True)

    network = model(freeze="full")
    train(network, {"unlabelled": both, "freeze": "full"})
    convolution, norm, _ = network.backbone.stem
    with torch.no_grad():
        values = convolution(network.preprocessing(images()))
    torch.testing.assert_close(norm.running_mean, values.mean((0, 2, 3)))
    rows = Inputs(network, config(unlabelled=both), make_job()).extra_rows
    assert (rows.unlabelled, rows.adapted) == (40, 40)


def test_a_batch_that_does_not_fit_counts_once() -> None:
    norm, values = nn.BatchNorm1d(4).eval(), torch.randn(20, 4)
    refused: list[int] = []

    def compute(batch: Any) -> Tensor:
        output: Tensor = norm(batch)
        if len(batch) > 5:
            refused.append(len(batch))
            raise torch.OutOfMemoryError("no memory is left")
        return output

    adapt([norm], [values], compute, MicroBatches())
    assert refused
    torch.testing.assert_close(norm.running_mean, values.mean(0))
    torch.testing.assert_close(norm.running_var, values.var(0))


def test_its_pass_counts_in_the_cost() -> None:
    inputs = Inputs(model(), config(**ADAPTED), make_job())
    assert inputs.extra_rows == Rows(unlabelled=0, passes=1, relative=1, adapted=40)
    assert inputs.count_unlabelled_rows() == 40
