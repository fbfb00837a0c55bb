"""The training loop: what is trained, at which rates, and how a training ends early."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from toy import CPU, batches, config, job, model, squares
from training_helpers import (
    TOP,
    RecordingAdamW,
    State,
    changed_names,
    copy_state,
    count_images,
    have_equal_weights,
    recording_optimizer,
    train,
)

from autotl import freeze, head, optimizer, training
from autotl.errors import Diverged, OutOfMemory, OutOfTime, PluginError
from autotl.frozen import FeatureCache
from autotl.models import Device, Group, Model, merge_parametrizations
from autotl.tasks import Classification
from autotl.training import ComputeSettings, fine_tune, memory, predict
from autotl.training.loop import Training


@pytest.mark.parametrize("chosen", [("linear_probe", {"lr": 0.03}), TOP, ("full", {"lr": 3e-3})])
def test_the_loss_falls_and_the_score_rises(chosen: Any) -> None:
    _, epochs = train(epochs=16, freeze=chosen, optimizer=("adamw", {"warmup": 0.0}))
    assert [e.number for e in epochs] == list(range(1, 17))
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert epochs[-1].score > max(epochs[0].score, 0.8)
    assert all(0 <= e.score <= 1 and e.seconds > 0 for e in epochs)


def test_the_loss_is_the_mean_cross_entropy_in_nats() -> None:
    @freeze
    def rate_zero(model: Model) -> list[Group]:
        return [{"params": model.head.parameters(), "lr": 0.0}]

    network, [epoch] = train(epochs=1, freeze=rate_zero, train=batches(squares(), 10))
    run = job(1)
    probabilities = predict(network, run.train, CPU)
    truth = torch.cat([labels for _, labels in run.train]).numpy()
    expected = -np.log(probabilities[np.arange(36), truth]).mean()
    assert epoch.loss == pytest.approx(expected, rel=1e-4)
    assert epoch.score == run.score(predict(network, run.validation, CPU))


@pytest.mark.parametrize("space", [1 << 30, 1], ids=["cached", "not cached"])
def test_frozen_parameters_stay_and_the_others_are_trained(space: int) -> None:
    network = model()
    before = copy_state(network)
    run = job(3, cache=FeatureCache(space, memory=space))
    epochs = list(fine_tune(network, config(freeze=TOP), run))
    top = ("backbone.stages.1.", "backbone.stages.2.", "head.")
    assert changed_names(before, network) == {k for k in before if k.startswith(top)}
    trained = [p for n, p in network.named_parameters() if n.startswith(top)]
    assert {e.trained_parameters for e in epochs} == {sum(p.numel() for p in trained)}


def test_a_linear_probe_trains_nothing_but_the_head() -> None:
    network = model()
    before = copy_state(network)
    epochs = list(fine_tune(network, config(), job(2)))
    assert changed_names(before, network) == {"head.1.weight", "head.1.bias"}
    assert epochs[-1].trained_parameters == 24 * 3 + 3


def test_trained_parameters_counts_whatever_was_ever_trained() -> None:
    @freeze
    def fewer(model: Model, epochs: int) -> Iterator[list[Group]]:
        top = model.backbone.stages[2].parameters()
        yield [{"params": [*model.head.parameters(), *top], "lr": 1e-3}]
        yield [{"params": model.head.parameters(), "lr": 1e-3}]

    _, epochs = train(freeze=fewer)
    assert epochs[0].trained_parameters == epochs[1].trained_parameters == 75 + 24 * 24 * 9 + 48


@pytest.mark.parametrize(
    "chosen", [{"freeze": TOP}, {"freeze": "full", "augment": "flip_crop", "head": "linear"}]
)
def test_the_same_seed_trains_the_same_model(chosen: dict[str, Any]) -> None:
    one, epochs = train(4, **chosen)
    other, repeated = train(4, **chosen)
    assert have_equal_weights(one, other)
    assert [(e.loss, e.score) for e in epochs] == [(e.loss, e.score) for e in repeated]
    third, _ = train(5, **chosen)
    assert not have_equal_weights(one, third)


def test_the_seed_of_the_task_seeds_dropout_and_augmentation() -> None:
    chosen = {"freeze": "full", "augment": "flip_crop"}
    one, other = (model(0, **chosen) for _ in range(2))
    list(fine_tune(one, config(**chosen), job(1, seed=0)))
    list(fine_tune(other, config(**chosen), job(1, seed=1)))
    assert not have_equal_weights(one, other)


def test_random_numbers_drawn_before_a_training_do_not_change_it() -> None:
    chosen = {"freeze": "full", "augment": "flip_crop", "head": "linear"}
    one, other = (model(0, **chosen) for _ in range(2))
    for network in (one, other):
        list(fine_tune(network, config(**chosen), job(1)))
        torch.rand(1)
    assert have_equal_weights(one, other)


def test_every_epoch_has_its_own_order() -> None:
    seen: list[bytes] = []

    @head
    def recording(features: int, classes: int) -> nn.Module:
        head = nn.Linear(features, classes)
        head.register_forward_pre_hook(
            lambda m, args: seen.append(args[0].detach().numpy().tobytes()) if m.training else None
        )
        return head

    train(epochs=3, head=recording)
    assert len(seen) == len(set(seen)) == 9


def test_without_a_validation_split_there_are_neither_score_nor_probabilities() -> None:
    _, epochs = train(validation=None)
    assert all(math.isnan(e.score) for e in epochs)
    assert all(e.predictions is None for e in epochs)
    assert all(math.isfinite(e.loss) for e in epochs)


def test_an_epoch_has_the_probabilities_that_were_scored_of_the_trained_model() -> None:
    scored: list[np.ndarray] = []
    network, epochs = train(epochs=2, freeze=TOP, score=lambda p: float(len(scored.append(p) or p)))
    assert [e.score for e in epochs] == [36.0, 36.0]
    for epoch, probabilities in zip(epochs, scored, strict=True):
        assert epoch.predictions is not None
        np.testing.assert_array_equal(epoch.predictions, probabilities)
    after = predict(network, job().validation, CPU)
    np.testing.assert_allclose(scored[-1], after, rtol=1e-4, atol=1e-6)
    assert not np.allclose(scored[0], scored[1])


def test_probabilities_are_neither_compared_nor_shown() -> None:
    one, other = (
        training.Epoch(1, 0.5, 0.5, 1.0, 10, probabilities)
        for probabilities in (None, np.zeros((2, 3), np.float32))
    )
    assert one == other
    assert repr(one) == repr(other)


# Optimizers and schedules.


def cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


def test_the_rate_warms_up_and_follows_a_cosine_to_zero() -> None:
    rates: list[float] = []

    @optimizer
    def recording(groups: list[Group], steps: int) -> Any:
        plugin = config(optimizer=("adamw", {"warmup": 0.25}))["optimizer"]
        chosen, schedule = plugin.plugin.call({"groups": groups, "steps": steps}, plugin.params)
        chosen.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return chosen, schedule

    train(epochs=8, freeze=("linear_probe", {"lr": 0.01}), optimizer=recording)
    assert len(rates) == 24
    assert rates[:6] == pytest.approx([0.01 * i / 6 for i in range(6)])
    assert rates[6:] == pytest.approx([0.01 * cosine(i, 24) for i in range(6, 24)])
    assert rates[-1] < 0.01 * 0.01


def test_a_change_of_the_trainable_parameters_keeps_their_state_and_the_schedule() -> None:
    plugin, made = recording_optimizer()
    network = model()
    chosen = config(
        freeze=("lp_ft", {"probe_fraction": 0.5, "probe_lr": 2e-3, "lr": 1e-3}), optimizer=plugin
    )
    running = fine_tune(network, chosen, job(4))
    for _ in range(2):
        next(running)
    weight = network.head[1].weight
    momentum = made[0].state[weight]["exp_avg"].clone()
    momenta: list[Tensor] = []

    def record(self: RecordingAdamW, *_: Any) -> None:
        momenta.append(self.state[weight]["exp_avg"].clone())

    hook = register_optimizer_step_pre_hook(record)  # for the optimizer that is yet to be made
    rest = list(running)
    hook.remove()
    assert len(rest) == 2
    assert len(made) == 2  # one for each phase, not for each epoch
    assert torch.equal(momenta[0], momentum)
    first, second = made
    head, stem = second.state[weight], second.state[network.backbone.stem[0].weight]
    assert (int(head["step"]), int(stem["step"])) == (12, 6)
    assert len(first.rates) == len(second.rates) == 6
    rates = [r for [r] in first.rates] + [r for [r] in second.rates]
    base = [2e-3] * 6 + [1e-3] * 6
    assert rates == pytest.approx([b * cosine(i, 12) for i, b in enumerate(base)])


def test_an_optimizer_stays_while_the_same_parameters_are_trainable() -> None:
    plugin, made = recording_optimizer()
    train(epochs=3, freeze="full", optimizer=plugin)
    assert len(made) == 1


def test_a_new_learning_rate_of_the_same_parameters_takes_effect() -> None:
    @freeze
    def slower(model: Model, epochs: int) -> Iterator[list[Group]]:
        for lr in (2e-3, 1e-3):
            yield [{"params": model.head.parameters(), "lr": lr}]

    plugin, made = recording_optimizer()
    train(epochs=2, freeze=slower, optimizer=plugin)
    used = [rate for o in made for [rate] in o.rates]
    assert used == pytest.approx([2e-3 * cosine(i, 6) / (1 + (i > 2)) for i in range(6)])


def test_a_new_weight_decay_of_the_same_parameters_takes_effect() -> None:
    @freeze
    def decaying(model: Model, epochs: int) -> Iterator[list[Group]]:
        for decay in (0.0, 0.5):
            yield [{"params": model.head.parameters(), "lr": 1e-3, "weight_decay": decay}]

    plugin, made = recording_optimizer()
    train(epochs=3, freeze=decaying, optimizer=plugin)
    assert [o.param_groups[0]["weight_decay"] for o in made] == [0.0, 0.5]


def test_the_state_of_parameters_that_become_frozen_is_dropped() -> None:
    @freeze
    def fewer(model: Model, epochs: int) -> Iterator[list[Group]]:
        yield [{"params": model.parameters(), "lr": 1e-3}]
        yield [{"params": model.head.parameters(), "lr": 1e-3}]

    plugin, made = recording_optimizer()
    network, _ = train(freeze=fewer, optimizer=plugin)
    assert set(made[1].state) == set(network.head.parameters())


def test_an_optimizer_plugin_without_a_schedule_is_an_error_with_its_name() -> None:
    @optimizer
    def alone(groups: list[Group]) -> Any:
        return torch.optim.SGD(groups)

    with pytest.raises(PluginError, match="'alone' must return an optimizer and a scheduler"):
        train(optimizer=alone)


def test_schedulers_of_torch_follow_the_steps() -> None:
    rates: list[float] = []

    @optimizer
    def halving(groups: list[Group], steps: int) -> Any:
        """SGD whose learning rate halves in every step."""
        chosen = torch.optim.SGD(groups, lr=1.0)
        chosen.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return chosen, torch.optim.lr_scheduler.ExponentialLR(chosen, 0.5)

    run = job(4)
    chosen = config(
        freeze=("lp_ft", {"probe_fraction": 0.5, "probe_lr": 1e-2, "lr": 1e-2}), optimizer=halving
    )
    list(fine_tune(model(), chosen, run))
    steps = 4 * len(run.train)
    assert rates == pytest.approx([1e-2 * 0.5**i for i in range(steps)])


# Early ends.


@pytest.mark.parametrize("lr", [1e30, float("nan")])
def test_a_loss_that_is_not_finite_ends_the_training(lr: float) -> None:
    @freeze
    def wild(model: Model) -> list[Group]:
        return [{"params": model.parameters(), "lr": lr}]

    with pytest.raises(Diverged, match=r"loss is .* epoch 1"):
        train(epochs=3, freeze=wild, optimizer=("adamw", {"warmup": 0.0}), validation=None)


def test_weights_that_diverge_in_the_last_step_end_the_training() -> None:
    @freeze
    def wild(model: Model) -> list[Group]:
        return [{"params": model.parameters(), "lr": 1e37}]

    one_step = batches(squares(), 36)
    with pytest.raises(Diverged, match=r"epoch 1"):
        train(epochs=1, freeze=wild, optimizer=("adamw", {"warmup": 0.0}), train=one_step)


def test_a_passed_deadline_ends_the_training_before_a_step() -> None:
    network = model()
    before = copy_state(network)
    with pytest.raises(OutOfTime):
        next(fine_tune(network, config(freeze="full"), job(1, deadline=0.0)))
    assert not changed_names(before, network)


def count_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock by one that counts its readings from 0."""
    readings = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: next(readings))
    for module in (training.loop, training.job):
        monkeypatch.setattr(module, "time", clock)


@pytest.mark.parametrize("chosen", ["full", "linear_probe", TOP])
def test_the_deadline_is_checked_before_every_step(
    monkeypatch: pytest.MonkeyPatch, chosen: Any
) -> None:
    steps: set[int] = set()
    for deadline in range(100):
        count_readings(monkeypatch)
        plugin, made = recording_optimizer()
        run = fine_tune(model(), config(freeze=chosen, optimizer=plugin), job(2, deadline=deadline))
        try:
            list(run)
        except OutOfTime:
            steps.add(len(made[0].rates))
        else:
            break
    steps.add(len(made[0].rates))
    assert steps == set(range(7))  # any number of the two epochs' steps


def test_the_deadline_is_checked_before_every_batch_that_is_cached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count_readings(monkeypatch)
    network = model()
    sizes = count_images(network)
    with pytest.raises(OutOfTime):  # one reading begins the epoch, one is before each batch
        next(fine_tune(network, config(), job(1, deadline=2)))
    assert sizes == [4, 12, 12]


def test_the_deadline_is_checked_in_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    count_readings(monkeypatch)
    plugin, made = recording_optimizer()
    scored: list[Any] = []
    run = job(1, deadline=4, score=lambda p: float(bool(scored.append(p))))
    with pytest.raises(OutOfTime):  # one reading begins the epoch, three are before its steps
        next(fine_tune(model(), config(freeze="full", optimizer=plugin), run))
    assert len(made[0].rates) == 3
    assert not scored


def train_until(
    epoch: int, step: int, epochs: int = 4, *, keep: bool = True, **chosen: Any
) -> tuple[Model, State, int]:
    """Train until the deadline passes before a step of the epoch after ``epoch``.

    Returns:
        The model, what it should be (the weights after ``epoch``, with ``ema`` their average),
        and the number of epochs that were yielded.
    """
    changes = {k: chosen.pop(k) for k in list(chosen) if k in training.Job.__dataclass_fields__}
    network = model(**chosen)
    running = Training(network, config(**chosen), job(epochs, **changes))
    for number in range(1, epoch + 1):  # the schedule is the same
        running.run_epoch(number)
    running.finish()
    expected = copy_state(network)
    running.inputs.close()

    network, steps = model(**chosen), itertools.count()

    def pass_deadline() -> None:
        if done == epoch and next(steps) == step:
            run.deadline = 0.0

    run = job(
        epochs, deadline=math.inf, keep_completed_epochs=keep, on_step=pass_deadline, **changes
    )
    done = 0
    for _ in fine_tune(network, config(**chosen), run):
        done += 1
    return network, expected, done


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize(
    "chosen",
    [
        {"freeze": "full"},
        {"freeze": TOP, "augment": "flip_crop"},
        {"freeze": "linear_probe"},
        {"freeze": ("lp_ft", {"probe_fraction": 0.5})},  # the third epoch trains the backbone
        {"freeze": ("gradual", {"unfreeze_fraction": 1.0})},
    ],
    ids=lambda chosen: str(chosen["freeze"]),
)
def test_the_deadline_ends_a_training_with_the_weights_after_the_last_complete_epoch(
    chosen: dict[str, Any], step: int, ema: float
) -> None:
    network, expected, done = train_until(2, step, ema=ema, **chosen)
    assert done == 2
    assert not changed_names(expected, network)


def test_the_deadline_may_pass_in_validation() -> None:
    network, expected, done = train_until(2, 3, ema=0.9, freeze="full")  # after three steps
    assert done == 2
    assert not changed_names(expected, network)


def test_what_a_strategy_adds_in_an_incomplete_epoch_is_dropped() -> None:
    """The weight is parametrized only in the epoch that the deadline ends."""

    @freeze
    def scaled_later(model: Model, epochs: int) -> Iterator[list[Group]]:
        yield [{"params": model.head.parameters(), "lr": 1e-2}]
        scaled = Scaled()
        scaled.factor.data.fill_(1.0)
        parametrize.register_parametrization(model.backbone.stem[0], "weight", scaled)
        yield [{"params": [*model.head.parameters(), scaled.factor], "lr": 1e-2}]

    network, expected, done = train_until(1, 2, epochs=2, freeze=scaled_later)
    assert done == 1
    assert not changed_names(expected, network)


def test_the_deadline_in_the_first_epoch_leaves_no_model() -> None:
    with pytest.raises(OutOfTime):
        train_until(0, 1, freeze="full")


def test_complete_epochs_are_kept_only_if_the_task_says_so() -> None:
    with pytest.raises(OutOfTime):
        train_until(2, 1, keep=False, freeze="full")


def test_a_training_whose_deadline_does_not_pass_has_all_epochs() -> None:
    one, epochs = train(epochs=3, freeze="full", ema=0.9)
    other, kept = train(
        epochs=3, freeze="full", ema=0.9, deadline=math.inf, keep_completed_epochs=True
    )
    assert [e.score for e in epochs] == [e.score for e in kept]
    assert have_equal_weights(one, other)


def test_a_caller_may_stop_after_any_epoch() -> None:
    network = model()
    run = fine_tune(network, config(), job(5))
    next(run)
    after = copy_state(network)
    run.close()
    assert not changed_names(after, network)


# Parametrized weights.


class Scaled(nn.Module):
    """Multiplies a weight by a trainable factor, initially 2."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, weight: Tensor) -> Tensor:
        return self.factor * weight


@freeze
def scaled_stem(model: Model) -> list[Group]:
    """Double the stem's weight and train the factor."""
    scaled = Scaled()
    parametrize.register_parametrization(model.backbone.stem[0], "weight", scaled)
    return [{"params": [*model.head.parameters(), scaled.factor], "lr": 1e-2}]


def test_parametrized_weights_are_merged_after_the_training() -> None:
    network = model()
    names = list(network.state_dict())
    for _ in fine_tune(network, config(freeze=scaled_stem), job(2)):
        assert "backbone.stem.0.parametrizations.weight.original" in network.state_dict()
    assert set(network.state_dict()) == set(names)
    fresh = model()
    ratio = network.backbone.stem[0].weight / fresh.backbone.stem[0].weight
    assert ratio.std() < 1e-5
    assert abs(ratio.mean() - 2) > 1e-3


def test_merging_parametrizations_changes_no_prediction() -> None:
    network = model()
    scaled_stem(network)
    images, _ = next(iter(batches(squares())))
    with torch.no_grad():
        before = network.eval()(images)
        merge_parametrizations(network)
        torch.testing.assert_close(network(images), before)


@pytest.mark.parametrize(
    ("scores", "higher", "epochs"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], True, 6),
        ([0.5, 0.4, 0.3, 0.6, 0.7, 0.8], True, 3),
        ([0.5, 0.5, 0.5, 0.6, 0.7, 0.8], True, 3),  # as good is not better
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.9], True, 5),
        ([0.5, 0.4, 0.3, 0.4, 0.5, 0.1], False, 5),
    ],
)
def test_a_training_ends_when_the_score_stalls(
    scores: list[float], higher: bool, epochs: int
) -> None:
    remaining = iter(scores)
    run = job(6, patience=2, higher_is_better=higher, score=lambda probabilities: next(remaining))
    assert len(list(fine_tune(model(), config(), run))) == epochs


class CalledOperations(TorchDispatchMode):
    """Notes the names of the operations that are called, also in backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("chosen", ["full", TOP, "linear_probe"])
def test_a_gpu_is_not_waited_for_between_reports(
    monkeypatch: pytest.MonkeyPatch, chosen: Any
) -> None:
    FakeGpu(monkeypatch, memory=1 << 20)
    # On a CPU, ``expand`` checks the values of the labels, on a GPU it does not.
    monkeypatch.setattr(Classification, "expand", lambda self, labels: torch.eye(3)[labels])
    run = job(2, ema=0.9)
    training = Training(model(), config(freeze=chosen), run)
    training.run_epoch(1)
    training.begin_epoch(2)
    with CalledOperations() as operations:
        for batch, targets in training.inputs.training_batches(2):
            training.step(batch, targets)
        assert "_log_softmax_backward_data" in operations.names
        waiting = {"item", "_local_scalar_dense", "nonzero", "is_nonzero", "equal"}
        assert not operations.names & waiting
        training.end_epoch()
        assert operations.names & waiting


def test_a_state_of_the_optimizer_that_does_not_fit_ends_the_training_out_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: Any, closure: Any = None) -> None:
        raise torch.OutOfMemoryError("no memory for the state")

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    with pytest.raises(OutOfMemory, match="the training does not fit"):
        train()


def test_a_state_of_the_optimizer_that_fits_without_resident_data_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed = train()
    released, allocate, calls = [], torch.zeros_like, itertools.count()

    def fail_once(*args: Any, **options: Any) -> Tensor:
        if next(calls) == 1:  # the second of the two tensors of the first parameter
            raise torch.OutOfMemoryError("no memory for the state")
        return allocate(*args, **options)

    monkeypatch.setattr(torch, "zeros_like", fail_once)
    monkeypatch.setattr(memory, "free_memory", lambda device: released.append(device) or True)
    model, epochs = train()
    assert released == [torch.device("cpu")]
    assert [e.score for e in epochs] == [e.score for e in undisturbed[1]]
    assert all(map(torch.equal, model.parameters(), undisturbed[0].parameters()))


# Float16.

FLOAT16 = Device(torch.device("cpu"), torch.float16)


class _Overflow(torch.autograd.Function):
    """The identity, whose gradient is not finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * math.inf


def overflowing_head(steps: int) -> Any:
    """A plugin of heads whose gradients overflow in the first training steps."""

    class Overflowing(nn.Linear):
        left = steps

        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            if not torch.is_grad_enabled() or self.left <= 0:
                return output
            self.left -= 1
            overflowed: Tensor = _Overflow.apply(output)  # type: ignore[no-untyped-call]
            return overflowed

    @head
    def overflowing(features: int, classes: int) -> nn.Module:
        return Overflowing(features, classes)

    return overflowing


@pytest.mark.parametrize("chosen", ["adamw", "sgd", "lion"])  # AdamW's step is fused
def test_a_training_in_float16_is_close_to_one_in_float32(chosen: str) -> None:
    _, exact = train(epochs=3, freeze="full", optimizer=chosen)
    _, epochs = train(epochs=3, freeze="full", optimizer=chosen, device=FLOAT16)
    assert [e.loss for e in epochs] == pytest.approx([e.loss for e in exact], rel=1e-3)
    assert [e.loss for e in epochs] != [e.loss for e in exact]


@pytest.mark.parametrize("size", [None, 5])
def test_an_optimizer_sees_gradients_that_are_not_scaled(size: int | None) -> None:
    norms: dict[bool, list[float]] = {}

    for device in (CPU, FLOAT16):
        seen = norms.setdefault(device is CPU, [])

        def record(stepping: torch.optim.Optimizer, *_: Any, seen: list[float] = seen) -> None:
            trained = [p for group in stepping.param_groups for p in group["params"]]
            seen.append(float(torch.nn.utils.clip_grad_norm_(trained, 1e9)))

        with register_optimizer_step_pre_hook(record):
            network, chosen = model(), config(freeze="full")
            training = Training(network, chosen, job(1, device=device))
            training.begin_epoch(1)
            if size:
                training.loss.micro_batches.size = size
            for batch, targets in training.inputs.training_batches(1):
                training.step(batch, targets)
    assert norms[False] == pytest.approx(norms[True], rel=0.02)


@pytest.mark.parametrize("chosen", ["adamw", "sgd"])
def test_a_step_that_overflows_changes_no_weights_and_is_no_divergence(chosen: str) -> None:
    plugin = overflowing_head(steps=2)
    network = model(head=plugin)
    training = Training(
        network,
        config(freeze="full", head=plugin, optimizer=chosen),
        job(1, device=FLOAT16, ema=0.9),
    )
    training.begin_epoch(1)
    before, changed = dict(network.named_parameters()), []
    copies = {name: p.detach().clone() for name, p in before.items()}
    for batch, targets in training.inputs.training_batches(1):
        training.step(batch, targets)
        changed.append(any(not torch.equal(copies[n], p) for n, p in before.items()))
    assert changed == [False, False, True]
    assert training.loss.scaler.get_scale() == 65536 / 4
    assert math.isfinite(training.end_epoch().loss)


def test_gradients_that_overflow_at_every_scale_end_the_training() -> None:
    with pytest.raises(Diverged, match=r"overflow in epoch 6; .* --precision float32"):
        train(epochs=8, freeze="full", head=overflowing_head(steps=99), device=FLOAT16)


def test_only_a_training_in_float16_is_scaled() -> None:
    for device in (CPU, Device(torch.device("cpu"), torch.bfloat16)):
        training = Training(model(), config(), job(1, device=device))
        assert not training.loss.scaler.is_enabled()
    measured = job(1, device=FLOAT16, compute=ComputeSettings(autocast=False))
    assert not Training(model(), config(), measured).loss.scaler.is_enabled()


def test_scaling_waits_for_the_device_no_more_often() -> None:
    counts = []
    for device in (CPU, FLOAT16):
        training = Training(model(), config(freeze="full"), job(1, device=device))
        training.begin_epoch(1)
        activity = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activity, acc_events=True) as profile:
            for batch, targets in training.inputs.training_batches(1):
                training.step(batch, targets)
        waits = [e.count for e in profile.key_averages() if e.key == "aten::_local_scalar_dense"]
        counts.append(sum(waits))
    assert counts[0] == counts[1]
