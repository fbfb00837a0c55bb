"""Trainings on token ids, whose layers need the ids beside the cached activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu
from token_models import (
    CLASSES,
    LENGTH,
    PAD,
    WIDTH,
    Encoder,
    TextBatches,
    encoder,
    make_ids,
    text_model,
)
from torch import Tensor
from toy import config, job
from training_helpers import get_view

from autotl import augment, freeze
from autotl.frozen import FeatureCache
from autotl.frozen.activations import WithInputs
from autotl.frozen.split_point import SplitPoint
from autotl.models import Group, Model
from autotl.training import Epoch, cost, fine_tune, set_trainable, train_probes
from autotl.training.inputs import Inputs
from autotl.training.loss import TrainingLoss
from autotl.training.predict import predict


@freeze
def last_layer(model: Model) -> list[Group]:
    """Train the head, the last layer and what follows it."""
    last = [*model.backbone.layers[2].parameters(), *model.backbone.final.parameters()]
    return [{"params": [*last, *model.head.parameters()], "lr": 1e-2}]


@freeze
def last_two_epochs(model: Model, epochs: int) -> Iterator[list[Group]]:
    """Train the head in the first epoch, then the last layer too."""
    yield [{"params": model.head.parameters(), "lr": 1e-2}]
    for _ in range(epochs - 1):
        last = [*model.backbone.layers[2].parameters(), *model.backbone.final.parameters()]
        yield [{"params": [*last, *model.head.parameters()], "lr": 1e-2}]


@augment
def drop_tokens(uniform: Any) -> Any:
    """Remove a third of the tokens, but not the first."""
    first = torch.arange(LENGTH) == 0
    return lambda ids: ids.where(first | (uniform(ids, LENGTH) > 1 / 3), PAD)


NEVER = {"cache": FeatureCache(0, memory=0)}
"""Options of a job that caches nothing."""


def text_config(**chosen: Any) -> Any:
    return config(**{"backbone": encoder, "freeze": last_layer, **chosen})


def text_job(epochs: int = 3, **changes: Any) -> Any:
    validation = TextBatches(seed=1)
    truth = validation.targets.numpy()
    options: dict[str, Any] = {
        "train": TextBatches(),
        "validation": validation,
        "score": lambda probabilities: float((probabilities.argmax(1) == truth).mean()),
    }
    return job(epochs, **(options | changes))


def train(
    epochs: int = 3, changes: dict[str, Any] | None = None, **chosen: Any
) -> tuple[Model, list[Epoch]]:
    network = text_model()
    results = fine_tune(network, text_config(**chosen), text_job(epochs, **(changes or {})))
    return network, list(results)


def make_inputs(changes: dict[str, Any] | None = None, **chosen: Any) -> Inputs:
    """The inputs of a training of the last layer."""
    network = text_model()
    inputs = Inputs(network, text_config(**chosen), text_job(**(changes or {})))
    set_trainable(network, last_layer(network))
    inputs.find_split_point(set())
    return inputs


def assert_view_is_right(inputs: Inputs, view: int | None) -> WithInputs:
    """Assert that a view has its own token ids, and the activations of those."""
    assert inputs.frozen is not None
    ids = inputs.job.train.ids
    if view is not None:
        ids = inputs.augmentation.make_view(ids, np.arange(len(ids)), view)
    batch, targets = get_view(inputs, view)
    assert targets is None
    assert torch.equal(batch.inputs, ids)
    with torch.no_grad():
        expected = inputs.frozen.split_point.prefix(ids)
    torch.testing.assert_close(batch.activations.float(), expected, atol=2e-3, rtol=2e-3)
    return batch


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations are cached in float32."""
    monkeypatch.setattr(SplitPoint, "tolerates_float16", lambda *_: False)


@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("strategy", [last_layer, last_two_epochs, "linear_probe"])
@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["on disk", "in memory"])
def test_caching_changes_no_result(strategy: Any, memory: int, tmp_path: Path) -> None:
    cache = FeatureCache(1 << 20, tmp_path, memory)
    one, cached = train(changes={"cache": cache, "data_id": "texts"}, freeze=strategy)
    assert cache.usage().entries >= 2
    other, uncached = train(changes=NEVER, freeze=strategy)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-5)
    assert [e.loss for e in cached] == pytest.approx([e.loss for e in uncached], rel=1e-4)
    assert [e.score for e in cached] == pytest.approx([e.score for e in uncached], abs=0.03)
    assert cached[-1].loss < cached[0].loss


def test_caching_in_16_bits_changes_results_little() -> None:
    _, float16 = train()
    _, uncached = train(changes=NEVER)
    assert [e.loss for e in float16] == pytest.approx([e.loss for e in uncached], rel=1e-2)
    assert [e.loss for e in float16] != [e.loss for e in uncached]


def test_a_row_has_the_token_ids_of_its_view(tmp_path: Path) -> None:
    cache = FeatureCache(1 << 20, tmp_path, memory=0)
    inputs = make_inputs({"cache": cache, "data_id": "texts"}, augment=drop_tokens)
    assert inputs.split_point is not None
    assert inputs.split_point.needs_input
    views = [assert_view_is_right(inputs, view).inputs for view in (None, 0, 1)]
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[1], views[2])
    later = make_inputs(
        {"cache": FeatureCache(1 << 20, tmp_path, memory=0), "data_id": "texts"},
        augment=drop_tokens,
    )
    for view in (None, 0, 1):  # two rows of each are compared with those that are computed now
        assert_view_is_right(later, view)


def test_rows_with_other_token_ids_are_replaced(tmp_path: Path) -> None:
    changes = {"data_id": "texts", "train": TextBatches()}
    make = {"cache": FeatureCache(1 << 20, tmp_path)}
    assert_view_is_right(make_inputs(changes | make), None)
    changes["train"].ids[0] = changes["train"].ids[0].roll(1)  # the data are not what they were
    messages: list[str] = []
    make = {"cache": FeatureCache(1 << 20, tmp_path, warn=messages.append)}
    assert_view_is_right(make_inputs(changes | make), None)
    assert len(messages) == 1


def test_a_training_uses_the_views_in_turn() -> None:
    inputs = make_inputs({"views": 2}, augment=drop_tokens)
    views = [assert_view_is_right(inputs, view) for view in (None, 1)]
    for epoch in (1, 2, 3):
        order = np.concatenate(inputs.job.train.epoch_indices(epoch))
        fed = [batch for batch, _ in inputs.training_batches(epoch)]
        expected = views[(epoch - 1) % 2]
        assert torch.equal(torch.cat([batch.inputs for batch in fed]), expected.inputs[order])
        fed_activations = torch.cat([batch.activations for batch in fed])
        assert torch.equal(fed_activations, expected.activations[order].float())
    train(6, changes={"views": 2}, augment=drop_tokens)


def test_rows_on_a_device_have_their_token_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, memory=1 << 20)
    inputs = make_inputs()
    assert_view_is_right(inputs, None)
    rows = inputs.frozen and inputs.frozen.get_rows(inputs.job.train, None)
    assert rows
    assert rows.resident
    assert rows.bytes_in_memory == 0


def test_the_batches_of_inference_are_measured_with_token_ids() -> None:
    inputs, sizes = make_inputs(), list[int]()
    ids, _ = next(iter(inputs.job.train))
    inputs.model.eval().head.register_forward_hook(lambda m, args, out: sizes.append(len(out)))
    assert cost._time_inference(inputs.model, ids, inputs, 3) > 0
    assert sizes == [3 * len(ids)] * 2  # the first time warms up


def test_the_size_of_a_row_includes_the_token_ids() -> None:
    inputs = make_inputs()
    assert inputs.frozen is not None
    assert inputs.frozen.row_bytes == 2 * LENGTH * WIDTH + 8 * LENGTH
    rows = inputs.frozen.get_rows(inputs.job.train, None)
    assert rows is not None
    assert rows.bytes == 36 * inputs.frozen.row_bytes


def test_predictions_of_the_validation_split_are_those_of_the_whole_model() -> None:
    inputs = make_inputs()
    validation = inputs.job.validation
    assert validation is not None
    actual = inputs.predict_validation()
    expected = predict(inputs.model, validation, inputs.job.device)
    assert actual == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("size", [5, 1])
def test_micro_batches_have_the_gradients_of_the_batch(size: int) -> None:
    gradients = []
    for micro_batch_size in (None, size):
        inputs = make_inputs()
        loss = TrainingLoss(inputs)
        loss.micro_batches.size = micro_batch_size
        [(batch, targets), *_] = inputs.training_batches(1)
        loss.backward(batch, targets)
        named = inputs.model.named_parameters()
        gradients.append({n: p.grad for n, p in named if p.grad is not None})
    torch.testing.assert_close(*gradients)


def test_heads_share_the_cached_features() -> None:
    configs = [
        text_config(freeze=("linear_probe", {"lr": lr}), augment=drop_tokens) for lr in (0.01, 0.1)
    ]
    [*epochs] = train_probes(text_model(), configs, text_job(2))
    for number, chosen in enumerate(configs):
        alone = list(fine_tune(text_model(), chosen, text_job(2)))
        losses = [epoch[number].epoch.loss for epoch in epochs]  # type: ignore[union-attr]
        assert losses == pytest.approx([e.loss for e in alone], rel=1e-5)


def test_rows_that_are_not_all_of_one_size_are_not_cached() -> None:
    class Shortening(Encoder):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids[:, : int((ids != PAD).sum(1).max())])

    train = TextBatches()
    train.ids[:12] = make_ids(12, padded=False)  # the texts on which the split point is found
    train.ids[12:, 4:] = PAD
    inputs = Inputs(text_model(Shortening), text_config(), text_job(train=train))
    set_trainable(inputs.model, last_layer(inputs.model))
    inputs.find_split_point(set())
    assert inputs.split_point is not None
    fed = [batch for batch, _ in inputs.training_batches(1)]
    assert inputs.split_point is None
    assert [batch.shape for batch in fed] == [(12, LENGTH)] * 3
    losses = []
    for changes in ({}, NEVER):
        results = fine_tune(text_model(Shortening), text_config(), text_job(train=train, **changes))
        losses.append([epoch.loss for epoch in results])
    assert losses[0] == losses[1]


def test_a_mixed_row_has_its_mixed_token_ids() -> None:
    @augment(mixes=True)
    def swap(uniform: Any) -> Any:
        def transform(ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            take = torch.arange(LENGTH) % 2 == 0
            return ids.where(take, ids.roll(1, 0)), (targets + targets.roll(1, 0)) / 2

        return transform

    inputs = make_inputs(augment=swap)
    assert inputs.frozen is not None
    batch, targets = get_view(inputs, 0)
    [first, *_] = inputs.job.train.shuffled_indices(0)
    [(ids, labels)] = inputs.job.train.load([first])
    mixed, mixed_targets = swap.call({"uniform": None}, {})(ids, inputs.model.task.expand(labels))
    assert torch.equal(batch.inputs[first], mixed)
    assert torch.equal(targets[first], mixed_targets)
    assert targets.shape[1] == CLASSES


def test_rows_of_another_version_of_a_library_have_a_name_of_their_own() -> None:
    inputs = make_inputs({"data_id": "texts"})
    frozen = inputs.frozen
    assert frozen is not None

    def name(**changes: Any) -> str:
        choice = text_config()["backbone"]
        changed = replace(choice, plugin=replace(choice.plugin, **changes))
        frozen.config = {**text_config(), "backbone": changed}
        return frozen.name_entry(inputs.job.train, None)

    plain = name()
    assert name(requires=["numpy"]) != plain
    assert name(origin="texts-plugin 1.0") != plain
    assert name(origin="texts-plugin 1.0") != name(origin="texts-plugin 1.1")
    assert name(origin="file texts.py sha256:1") == plain
