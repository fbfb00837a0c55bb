"""The loss of a batch: mixed targets, penalties, balance, and parts where memory is short."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu
from torch import Tensor, nn
from torch.nn import functional
from toy import CPU, batches, config, job, model, squares
from training_helpers import half_and_half, recording_optimizer, refusing_head, train

from autotl import Balance, balance, freeze, head, optimizer
from autotl.data import resident
from autotl.errors import OutOfMemory
from autotl.models import Group, Model
from autotl.training import fine_tune, predict, set_trainable
from autotl.training.inputs import Inputs
from autotl.training.loss import TrainingLoss


def make_inputs(network: Model, **changes: Any) -> Inputs:
    """The inputs of ``network``, of which only the head is trained."""
    chosen = {k: changes.pop(k) for k in ("augment", "balance", "head") if k in changes}
    inputs = Inputs(network, config(**chosen), job(**changes))
    set_trainable(network, [{"params": list(network.head.parameters())}])
    inputs.find_split_point(set())
    return inputs


# Loss.


@pytest.mark.parametrize("frozen", [True, False])
def test_the_loss_of_mixed_images_is_that_of_their_mixed_targets(frozen: bool) -> None:
    network = model()
    inputs = make_inputs(network, augment=half_and_half)
    if not frozen:
        inputs.close()
    [(batch, targets), *_] = inputs.training_batches(2)
    assert targets.shape == (len(batch), 3)
    assert torch.equal(targets.sum(1), torch.ones(len(batch)))
    assert 0.5 in targets
    network.eval()
    logits = network.head(batch) if frozen else network(batch)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(TrainingLoss(inputs).compute(batch, targets), expected)


@pytest.mark.parametrize("micro_batch_size", [12, 5])
def test_a_penalty_is_added_to_the_mean_loss(micro_batch_size: int) -> None:
    results = []
    for with_penalty in (False, True):
        network = model()
        inputs = make_inputs(network)
        training_loss = TrainingLoss(inputs)
        training_loss.micro_batches.size = micro_batch_size
        weight = network.head[1].weight
        if with_penalty:
            network.penalties.append(lambda features, w=weight: (w**2).sum())
        [(batch, targets), *_] = inputs.training_batches(1)
        results.append((training_loss.backward(batch, targets), weight.grad, weight.detach()))
    (loss, gradient, weight), (penalised_loss, penalised_gradient, _) = results
    torch.testing.assert_close(penalised_loss, loss + (weight**2).sum())
    torch.testing.assert_close(penalised_gradient, gradient + 2 * weight)


def test_penalties_get_the_head_input_and_are_removed_after_the_training() -> None:
    shapes: list[tuple[int, ...]] = []

    @freeze
    def recording(model: Model) -> list[Group]:
        """Train the head and record the shapes of the features."""
        model.penalties.append(lambda features: shapes.append(tuple(features.shape)) or 0.0)
        return [{"params": model.head.parameters(), "lr": 1e-3}]

    network = model()
    list(fine_tune(network, config(freeze=recording), job(1)))
    assert shapes == [(12, 24)] * 3
    assert network.penalties == []


def test_resident_data_is_given_up_before_a_training_step_is_halved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other, expected = train(epochs=1, head=refusing_head(never), freeze="full")
    FakeGpu(monkeypatch, memory=1 << 20)
    sizes: list[tuple[int, bool]] = []

    def while_something_is_resident(size: int) -> bool:
        sizes.append((size, resident.resident_bytes(CPU.torch_device) > 0))
        return sizes[-1][1]

    sizes_by_key: dict[str, int] = {}
    network, epochs = train(
        epochs=1,
        head=refusing_head(while_something_is_resident),
        freeze="full",
        micro_batch_sizes=sizes_by_key,
    )
    assert sizes == [(12, True), *[(12, False)] * 3]
    assert sizes_by_key == {}
    for one, same in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)  # but BatchNorm has seen a batch twice
    assert epochs[0].loss == expected[0].loss


class InPlace(nn.Module):
    """Overwrites its input."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mul_(3.0).add_(1.0)


def test_activations_that_layers_overwrite_are_the_same_in_the_next_attempt() -> None:
    def compute_gradients(refuses: Callable[[int], bool]) -> dict[str, Tensor]:
        @head
        def in_place(features: int, classes: int) -> nn.Module:
            inner = refusing_head(refuses).call({"features": features, "classes": classes}, {})
            return nn.Sequential(InPlace(), inner)

        network = model(head=in_place)
        inputs = make_inputs(network, head=in_place)
        [(batch, targets), *_] = inputs.training_batches(1)
        TrainingLoss(inputs).backward(batch, targets)
        return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}

    expected = compute_gradients(never)
    torch.testing.assert_close(compute_gradients(lambda size: size > 6), expected)


# Balance.


def balanced(**values: Any) -> Any:
    return balance(name="given")(lambda counts: Balance(**values))


def test_class_weights_and_logit_offsets_enter_the_loss_and_not_the_predictions() -> None:
    weights, offsets = [0.5, 1.0, 3.0], [0.3, -0.2, 1.0]
    network = model()
    network.eval()
    inputs = make_inputs(network, balance=balanced(weights=weights, offsets=offsets))
    images, labels = next(iter(inputs.job.train))
    assert inputs.frozen is not None
    batch, targets = inputs.frozen.compute(images), inputs.model.task.expand(labels)
    logits = network.head(batch) + torch.tensor(offsets)
    losses = functional.cross_entropy(logits, labels, reduction="none")
    expected = (losses * torch.tensor(weights)[labels]).mean()
    torch.testing.assert_close(TrainingLoss(inputs).compute(batch, targets), expected)
    probabilities = inputs.predict_validation()
    validation = inputs.job.validation
    assert validation is not None
    expected = predict(network, validation, inputs.job.device)
    assert probabilities == pytest.approx(expected, abs=1e-6)


# Memory.


def train_one_step(
    batch_size: int, images: int, refuses: Callable[[int], bool]
) -> dict[str, Tensor]:
    """The gradients of the first step, of a head without BatchNorm."""
    gradients: dict[str, Tensor] = {}

    @optimizer
    def recording(groups: list[Group], steps: int) -> Any:
        chosen, schedule = recording_optimizer()[0].call({"groups": groups, "steps": steps}, {})

        def record(*_: Any) -> None:
            named = network.named_parameters()
            gradients.update({n: p.grad.clone() for n, p in named if p.grad is not None})

        chosen.register_step_pre_hook(record)
        return chosen, schedule

    chosen = {"head": refusing_head(refuses), "optimizer": recording}
    network = model(**chosen)
    few = batches(squares()[:images], batch_size)
    list(fine_tune(network, config(**chosen), job(1, train=few)))
    return gradients


def never(size: int) -> bool:
    return False


@pytest.mark.parametrize("images", [16, 13])
def test_short_memory_halves_the_batch_and_keeps_the_gradients(images: int) -> None:
    sizes: list[int] = []

    def more_than_4(size: int) -> bool:
        sizes.append(size)
        return size > 4

    gradients = train_one_step(16, images, more_than_4)
    assert set(gradients) == {"head.weight", "head.bias"}
    torch.testing.assert_close(gradients, train_one_step(16, images, never))
    last_refused = max(i for i, size in enumerate(sizes) if size > 4)
    assert sum(sizes[last_refused + 1 :]) == images


def test_gradients_that_were_added_before_memory_ran_out_are_dropped() -> None:
    sizes: list[int] = []

    def first_and_third(size: int) -> bool:
        sizes.append(size)
        return len(sizes) in (1, 3)

    gradients = train_one_step(16, 16, first_and_third)
    torch.testing.assert_close(gradients, train_one_step(16, 16, never))
    assert sizes == [16, 8, 8, 4, 4, 4, 4]


class _RefusedGradient(torch.autograd.Function):
    """Runs out of memory in the backward pass of more than four images."""

    saved: ClassVar[list[weakref.ref[Tensor]]] = []

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        alive = [saved for saved in _RefusedGradient.saved if saved() is not None]
        assert not alive, "the graph of the batch that did not fit is still in memory"
        kept = features.clone()  # only the graph holds it
        _RefusedGradient.saved.append(weakref.ref(kept))
        ctx.kept = kept
        return features * 1.0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        if len(ctx.kept) > 4:
            raise torch.OutOfMemoryError("no memory is left")
        return gradients[0]


class _RefusedBackward(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        if self.training:
            features = _RefusedGradient.apply(features.requires_grad_())
        return super().forward(features)


def test_memory_that_runs_out_in_the_backward_pass_is_released_before_it_is_tried_again() -> None:
    plugin = head(name="h")(lambda features, classes: _RefusedBackward(features, classes))
    _RefusedGradient.saved.clear()
    gc.disable()  # an error that is in a cycle with its traceback would be collected at any time
    try:
        _, epochs = train(epochs=1, head=plugin)
    finally:
        gc.enable()
    assert np.isfinite(epochs[0].loss)
    assert len(_RefusedGradient.saved) > 3


def test_a_training_keeps_the_smaller_batch() -> None:
    sizes: list[int] = []

    def more_than_6(size: int) -> bool:
        sizes.append(size)
        return size > 6

    _, epochs = train(epochs=2, head=refusing_head(more_than_6))
    assert sizes == [12, *[6] * 12]
    assert np.isfinite(epochs[-1].loss)


def test_the_next_training_of_the_same_kind_begins_with_twice_the_size_that_fitted() -> None:
    sizes: list[int] = []
    most = 3

    def too_many(size: int) -> bool:
        sizes.append(size)
        return size > most

    plugin, sizes_by_key = refusing_head(too_many), dict[str, int]()
    train(epochs=1, head=plugin, micro_batch_sizes=sizes_by_key)
    assert sizes == [12, 6, *[3] * 12]
    assert list(sizes_by_key.values()) == [3]
    sizes_by_key = json.loads(json.dumps(sizes_by_key))  # as a study stores them
    probe = ("linear_probe", {"lr": 0.01})
    for memory, tried, learned in (
        (3, [6, *[3] * 12], 3),  # one attempt is lost
        (12, [6] * 6, 6),  # another process has ended
        (12, [12] * 3, 12),
        (12, [12] * 3, 12),
    ):
        most = memory
        sizes.clear()
        train(seed=1, epochs=1, head=plugin, freeze=probe, micro_batch_sizes=sizes_by_key)
        assert sizes == tried
        assert list(sizes_by_key.values()) == [learned]
    most = 3
    sizes.clear()
    # More parameters are trainable: the size is found anew.
    train(epochs=1, head=plugin, freeze="full", micro_batch_sizes=sizes_by_key)
    assert sizes[0] == 12
    assert len(sizes_by_key) == 2


def test_a_single_image_that_does_not_fit_ends_the_training() -> None:
    with pytest.raises(OutOfMemory, match="a single image does not fit"):
        train(head=refusing_head(lambda size: True))


def test_another_error_is_not_mistaken_for_one_of_memory() -> None:
    def fail(size: int) -> bool:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        train(head=refusing_head(fail))


def test_no_micro_batch_has_a_single_image() -> None:
    # BatchNorm refuses a single value, which 9 in batches of 4 and 3 in batches of 2 would leave.
    @head
    def normalised(features: int, classes: int) -> nn.Module:
        refusing = refusing_head(lambda size: size > 4)
        return nn.Sequential(nn.BatchNorm1d(features), refusing(features, 3))

    for few in (batches(squares(3), 9), batches(squares(1), 2)):
        _, [epoch] = train(epochs=1, head=normalised, train=few)
        assert np.isfinite(epoch.loss)
