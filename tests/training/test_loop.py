"""Fine-tuning: what learns and what does not, how fast, with how much memory, and until when."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from toy import CPU, Backbone, batches, config, model, squares, task

from autotl import backbone, freeze, head, optimizer, training
from autotl.errors import Diverged, OutOfMemory, OutOfTime, PluginError
from autotl.frozen import FeatureCache
from autotl.frozen.split_point import SplitPoint
from autotl.models import Device, Group, Model
from autotl.training import Epoch, Task, fine_tune, measure_cost, predict
from autotl.training.inputs import Inputs

State = dict[str, Tensor]
TOP = ("last_blocks", {"fraction": 0.5})
"""Trains the two highest of the toy's four blocks."""


def trained(seed: int = 0, epochs: int = 2, **chosen: Any) -> tuple[Model, list[Epoch]]:
    """A model after all epochs; keywords that ``Task`` has go there."""
    given = {k: chosen.pop(k) for k in list(chosen) if k in Task.__dataclass_fields__}
    network = model(seed, **chosen)
    run = task(epochs, seed=seed, **given)
    return network, list(fine_tune(network, config(**chosen), run))


def state(network: Model) -> State:
    return {k: v.clone() for k, v in network.state_dict().items()}


def changed(before: State, network: Model) -> set[str]:
    return {k for k, v in network.state_dict().items() if not torch.equal(before[k], v)}


def same(one: Model, other: Model) -> bool:
    return not changed(state(one), other)


# Learning.


@pytest.mark.parametrize("chosen", [("linear_probe", {"lr": 0.03}), TOP, ("full", {"lr": 3e-3})])
def test_the_loss_falls_and_the_score_rises(chosen: Any) -> None:
    _, epochs = trained(epochs=16, freeze=chosen, optimizer=("adamw", {"warmup": 0.0}))
    assert [e.number for e in epochs] == list(range(1, 17))
    assert epochs[-1].loss < 0.8 * epochs[0].loss
    assert epochs[-1].score > max(epochs[0].score, 0.8)
    assert all(0 <= e.score <= 1 and e.seconds > 0 for e in epochs)


def test_the_loss_is_the_mean_cross_entropy_in_nats() -> None:
    @freeze
    def asleep(model: Model) -> list[Group]:
        return [{"params": model.head.parameters(), "lr": 0.0}]

    network, [epoch] = trained(epochs=1, freeze=asleep, train=batches(squares(), 10))
    run = task(1)
    probabilities = predict(network, run.train, CPU)
    truth = torch.cat([labels for _, labels in run.train]).numpy()
    expected = -np.log(probabilities[np.arange(36), truth]).mean()
    assert epoch.loss == pytest.approx(expected, rel=1e-4)
    assert epoch.score == run.score(predict(network, run.validation, CPU))


@pytest.mark.parametrize("cache", [1 << 30, 1], ids=["cut", "uncut"])
def test_what_is_frozen_stays_and_the_rest_learns(cache: int) -> None:
    network = model()
    before = state(network)
    run = task(3, cache=FeatureCache(cache, memory=cache))
    epochs = list(fine_tune(network, config(freeze=TOP), run))
    top = ("backbone.stages.1.", "backbone.stages.2.", "head.")
    assert changed(before, network) == {k for k in before if k.startswith(top)}
    learned = [p for n, p in network.named_parameters() if n.startswith(top)]
    assert {e.trained_parameters for e in epochs} == {sum(p.numel() for p in learned)}


def test_a_linear_probe_moves_nothing_but_the_head() -> None:
    network = model()
    before = state(network)
    epochs = list(fine_tune(network, config(), task(2)))
    assert changed(before, network) == {"head.1.weight", "head.1.bias"}
    assert epochs[-1].trained_parameters == 24 * 3 + 3


def test_learned_counts_whatever_has_ever_learned() -> None:
    @freeze
    def down(model: Model, epochs: int) -> Iterator[list[Group]]:
        top = model.backbone.stages[2].parameters()
        yield [{"params": [*model.head.parameters(), *top], "lr": 1e-3}]
        yield [{"params": model.head.parameters(), "lr": 1e-3}]

    _, epochs = trained(freeze=down)
    assert epochs[0].trained_parameters == epochs[1].trained_parameters == 75 + 24 * 24 * 9 + 48


CASES = pytest.mark.parametrize(
    "chosen", [{"freeze": TOP}, {"freeze": "full", "augment": "flip_crop", "head": "linear"}]
)


@CASES
def test_the_same_seed_trains_the_same_model(chosen: dict[str, Any]) -> None:
    one, epochs = trained(4, **chosen)
    other, again = trained(4, **chosen)
    assert same(one, other)
    assert [(e.loss, e.score) for e in epochs] == [(e.loss, e.score) for e in again]
    third, _ = trained(5, **chosen)
    assert not same(one, third)


def test_the_seed_decides_dropout_and_augmentation_too() -> None:
    chosen = {"freeze": "full", "augment": "flip_crop"}
    one, other = (model(0, **chosen) for _ in range(2))
    list(fine_tune(one, config(**chosen), task(1, seed=0)))
    list(fine_tune(other, config(**chosen), task(1, seed=1)))
    assert not same(one, other)


def test_random_numbers_drawn_before_change_nothing() -> None:
    chosen = {"freeze": "full", "augment": "flip_crop", "head": "linear"}
    one, other = (model(0, **chosen) for _ in range(2))
    for network in (one, other):  # the second starts where the first left the random numbers
        list(fine_tune(network, config(**chosen), task(1)))
    assert same(one, other)


def test_every_epoch_has_its_own_order() -> None:
    seen: list[bytes] = []

    @head
    def watching(features: int, classes: int) -> nn.Module:
        head = nn.Linear(features, classes)
        head.register_forward_pre_hook(
            lambda m, args: seen.append(args[0].detach().numpy().tobytes()) if m.training else None
        )
        return head

    trained(epochs=3, head=watching)
    assert len(seen) == len(set(seen)) == 9


# Optimizers and schedules.


class Watched(torch.optim.AdamW):
    """Notes the learning rates that it steps with."""

    def __init__(self, groups: list[Group]) -> None:
        super().__init__(groups)
        self.rates: list[list[float]] = []

    def step(self, closure: Any = None) -> Any:
        self.rates.append([g["lr"] for g in self.param_groups])
        return super().step(closure)


def watched(warmup: int = 0) -> tuple[Any, list[Watched]]:
    """An optimizer plugin, and those that it will make."""
    made: list[Watched] = []

    @optimizer
    def watching(groups: list[Group], steps: int) -> Any:
        made.append(Watched(groups))
        return made[-1], CosineLRScheduler(
            made[-1], steps, warmup_t=warmup, warmup_prefix=False, t_in_epochs=False
        )

    return watching, made


def cosine(step: int, steps: int) -> float:
    return (1 + math.cos(math.pi * step / steps)) / 2


def test_the_rate_warms_up_and_follows_a_cosine_to_zero() -> None:
    rates: list[float] = []

    @optimizer
    def spied(groups: list[Group], steps: int) -> Any:
        plugin = config(optimizer=("adamw", {"warmup": 0.25}))["optimizer"]
        chosen, schedule = plugin.plugin.call({"groups": groups, "steps": steps}, plugin.params)
        chosen.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return chosen, schedule

    trained(epochs=8, freeze=("linear_probe", {"lr": 0.01}), optimizer=spied)
    assert len(rates) == 24
    assert rates[:6] == pytest.approx([0.01 * i / 6 for i in range(6)])
    assert rates[6:] == pytest.approx([0.01 * cosine(i, 24) for i in range(6, 24)])
    assert rates[-1] < 0.01 * 0.01


def test_a_change_of_what_learns_keeps_the_state_and_the_schedule() -> None:
    plugin, made = watched()
    network = model()
    chosen = config(
        freeze=("lp_ft", {"probe_fraction": 0.5, "probe_lr": 2e-3, "lr": 1e-3}), optimizer=plugin
    )
    running = fine_tune(network, chosen, task(4))
    for _ in range(2):
        next(running)
    weight = network.head[1].weight
    momentum = made[0].state[weight]["exp_avg"].clone()
    cache: list[Tensor] = []

    def note(self: Watched, *_: Any) -> None:
        cache.append(self.state[weight]["exp_avg"].clone())

    hook = register_optimizer_step_pre_hook(note)  # for the optimizer that is yet to be made
    rest = list(running)
    hook.remove()
    assert len(rest) == 2
    assert len(made) == 2  # one for each phase, not for each epoch
    assert torch.equal(cache[0], momentum)
    first, second = made
    head, stem = second.state[weight], second.state[network.backbone.stem[0].weight]
    assert (int(head["step"]), int(stem["step"])) == (12, 6)
    assert len(first.rates) == len(second.rates) == 6
    every = [r for [r] in first.rates] + [r for [r] in second.rates]
    base = [2e-3] * 6 + [1e-3] * 6
    assert every == pytest.approx([b * cosine(i, 12) for i, b in enumerate(base)])


def test_an_optimizer_is_kept_while_the_same_learns() -> None:
    plugin, made = watched()
    trained(epochs=3, freeze="full", optimizer=plugin)
    assert len(made) == 1


def test_a_new_rate_alone_is_a_change_too() -> None:
    @freeze
    def slower(model: Model, epochs: int) -> Iterator[list[Group]]:
        for lr in (2e-3, 1e-3):
            yield [{"params": model.head.parameters(), "lr": lr}]

    plugin, made = watched()
    trained(epochs=2, freeze=slower, optimizer=plugin)
    used = [rate for o in made for [rate] in o.rates]
    assert used == pytest.approx([2e-3 * cosine(i, 6) / (1 + (i > 2)) for i in range(6)])


def test_the_state_of_what_stops_learning_is_dropped() -> None:
    @freeze
    def down(model: Model, epochs: int) -> Iterator[list[Group]]:
        yield [{"params": model.parameters(), "lr": 1e-3}]
        yield [{"params": model.head.parameters(), "lr": 1e-3}]

    plugin, made = watched()
    network, _ = trained(freeze=down, optimizer=plugin)
    assert set(made[1].state) == set(network.head.parameters())


def test_an_optimizer_without_a_schedule_is_named() -> None:
    @optimizer
    def alone(groups: list[Group]) -> Any:
        return torch.optim.SGD(groups)

    with pytest.raises(PluginError, match="'alone' must return an optimizer and a scheduler"):
        trained(optimizer=alone)


# How a trial ends early.


@pytest.mark.parametrize("lr", [1e30, float("nan")])
def test_a_loss_that_is_no_number_ends_the_trial(lr: float) -> None:
    @freeze
    def wild(model: Model) -> list[Group]:
        return [{"params": model.parameters(), "lr": lr}]

    with pytest.raises(Diverged, match=r"loss is .* epoch 1"):
        trained(epochs=3, freeze=wild, optimizer=("adamw", {"warmup": 0.0}), validation=None)


def test_weights_that_the_last_step_ruined_end_the_trial() -> None:
    @freeze
    def wild(model: Model) -> list[Group]:
        return [{"params": model.parameters(), "lr": 1e37}]

    one_step = batches(squares(), 36)
    with pytest.raises(Diverged, match=r"epoch 1"):
        trained(epochs=1, freeze=wild, optimizer=("adamw", {"warmup": 0.0}), train=one_step)


def test_a_passed_deadline_ends_the_trial_before_a_step() -> None:
    network = model()
    before = state(network)
    with pytest.raises(OutOfTime):
        next(fine_tune(network, config(freeze="full"), task(1, deadline=0.0)))
    assert not changed(before, network)


@pytest.mark.parametrize("chosen", ["full", "linear_probe", TOP])
def test_the_deadline_is_watched_before_every_step(
    monkeypatch: pytest.MonkeyPatch, chosen: Any
) -> None:
    steps: set[int] = set()
    for deadline in range(30):
        readings = iter(range(1000))
        clock = SimpleNamespace(monotonic=lambda r=readings: next(r))
        for room in (training.loop, training.task):
            monkeypatch.setattr(room, "time", clock)
        plugin, made = watched()
        run = fine_tune(
            model(), config(freeze=chosen, optimizer=plugin), task(2, deadline=deadline)
        )
        with contextlib.suppress(OutOfTime):
            list(run)
        steps.add(len(made[0].rates))
    assert steps == set(range(7))  # any number of the two epochs' steps


def test_keeping_watches_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(range(1000))
    for room in (training.loop, training.task):
        monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: next(readings)))
    network = model()
    seen = count_pictures(network)
    with pytest.raises(OutOfTime):  # one reading begins the epoch, one is before each batch
        next(fine_tune(network, config(), task(1, deadline=2)))
    assert seen == [4, 12, 12]


def test_validation_watches_the_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter(range(1000))
    for room in (training.loop, training.task):
        monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: next(readings)))
    plugin, made = watched()
    scored: list[Any] = []
    run = task(1, deadline=4, score=lambda p: float(bool(scored.append(p))))
    with pytest.raises(OutOfTime):  # one reading begins the epoch, three are before its steps
        next(fine_tune(model(), config(freeze="full", optimizer=plugin), run))
    assert len(made[0].rates) == 3
    assert not scored


def test_the_caller_may_stop_asking() -> None:
    network = model()
    run = fine_tune(network, config(), task(5))
    next(run)
    after = state(network)
    run.close()
    assert not changed(after, network)


# Memory.


class Greedy(nn.Linear):
    """Runs out of memory as ``refuses`` says of each batch that it is given in training."""

    refuses: Callable[[int], bool]

    def forward(self, features: Tensor) -> Tensor:
        if self.training and self.refuses(len(features)):
            raise torch.OutOfMemoryError("there is none left")
        return super().forward(features)


def greedy(refuses: Callable[[int], bool]) -> Any:
    @head
    def hungry(features: int, classes: int) -> nn.Module:
        made = Greedy(features, classes)
        made.refuses = refuses
        return made

    return hungry


def gradients(size: int, pictures: int, refuses: Callable[[int], bool]) -> dict[str, Tensor]:
    """Those that the first step is made with; only what has no BatchNorm learns."""
    found: dict[str, Tensor] = {}

    @optimizer
    def noting(groups: list[Group], steps: int) -> Any:
        made, schedule = watched()[0].call({"groups": groups, "steps": steps}, {})

        def note(*_: Any) -> None:
            named = network.named_parameters()
            found.update({n: p.grad.clone() for n, p in named if p.grad is not None})

        made.register_step_pre_hook(note)
        return made, schedule

    chosen = {"head": greedy(refuses), "optimizer": noting}
    network = model(**chosen)
    few = batches(squares()[:pictures], size)
    list(fine_tune(network, config(**chosen), task(1, train=few)))
    return found


@pytest.mark.parametrize("pictures", [16, 13])
def test_short_memory_halves_the_batch_and_keeps_the_gradients(pictures: int) -> None:
    sizes: list[int] = []

    def more_than_4(size: int) -> bool:
        sizes.append(size)
        return size > 4

    found = gradients(16, pictures, more_than_4)
    expected = gradients(16, pictures, lambda size: False)
    assert set(found) == {"head.weight", "head.bias"}
    torch.testing.assert_close(found, expected)
    refused = max(i for i, size in enumerate(sizes) if size > 4)
    assert sum(sizes[refused + 1 :]) == pictures


def test_what_was_added_before_memory_ran_out_is_forgotten() -> None:
    calls: list[int] = []

    def first_and_third(size: int) -> bool:
        calls.append(size)
        return len(calls) in (1, 3)

    torch.testing.assert_close(
        gradients(16, 16, first_and_third), gradients(16, 16, lambda size: False)
    )
    assert calls == [16, 8, 8, 4, 4, 4, 4]


def test_the_smaller_batch_is_remembered() -> None:
    calls: list[int] = []

    def more_than_6(size: int) -> bool:
        calls.append(size)
        return size > 6

    _, epochs = trained(epochs=2, head=greedy(more_than_6))
    assert calls == [12, *[6] * 12]
    assert np.isfinite(epochs[-1].loss)


def test_the_next_trial_of_its_kind_begins_with_the_smaller_batch() -> None:
    calls: list[int] = []

    def more_than_6(size: int) -> bool:
        calls.append(size)
        return size > 6

    hungry, micro = greedy(more_than_6), dict[str, int]()
    trained(epochs=1, head=hungry, micro_batch_sizes=micro)
    assert calls == [12, *[6] * 6]
    assert list(micro.values()) == [6]
    again = json.loads(json.dumps(micro))  # as a study keeps it
    calls.clear()
    trained(
        seed=1,
        epochs=1,
        head=hungry,
        freeze=("linear_probe", {"lr": 0.01}),
        micro_batch_sizes=again,
    )
    assert calls == [6] * 6
    calls.clear()
    trained(
        epochs=1, head=hungry, freeze="full", micro_batch_sizes=again
    )  # more learns: it is found anew
    assert calls[0] == 12
    assert len(again) == 2


def test_one_picture_that_does_not_fit_ends_the_trial() -> None:
    with pytest.raises(OutOfMemory, match="a single image"):
        trained(head=greedy(lambda size: True))


def test_another_error_is_not_taken_for_memory() -> None:
    def broken(size: int) -> bool:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        trained(head=greedy(broken))


def test_no_picture_is_left_alone_in_a_batch() -> None:
    """BatchNorm over one value refuses; it would be one of 9 in parts of 4, or of 3 in 2."""

    @head
    def normalised(features: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(features), greedy(lambda size: size > 4)(features, 3))

    few = batches(squares(3), 9)
    _, [epoch] = trained(epochs=1, head=normalised, train=few)
    assert np.isfinite(epoch.loss)
    _, [epoch] = trained(epochs=1, head=normalised, train=batches(squares(1), 2))
    assert np.isfinite(epoch.loss)


# What frozen parts make is computed once.


def count_pictures(network: Model) -> list[int]:
    """The sizes of the batches that the stem will see from now on."""
    seen: list[int] = []
    network.backbone.stem[0].register_forward_hook(lambda m, a, out: seen.append(len(out)))
    return seen


def test_a_frozen_backbone_runs_once_for_each_view() -> None:
    network, cache = model(), FeatureCache()
    seen = count_pictures(network)
    chosen = config(augment="flip_crop")
    list(fine_tune(network, chosen, task(8, cache=cache, data_id="squares")))
    assert sum(seen) == 4 * 36 + 36 + 4  # four views, the validation part, four to find the size
    again = model(1)
    seen = count_pictures(again)
    list(fine_tune(again, chosen, task(8, cache=cache, data_id="squares")))
    assert sum(seen) == 4
    seen.clear()
    list(fine_tune(again, config(), task(8, cache=cache, data_id="squares")))
    assert sum(seen) == 4  # its one view, the picture itself, was among them


@pytest.mark.parametrize(("views", "passes"), [(1, 1), (2, 2), (9, 3)])
def test_views_can_be_chosen(views: int, passes: int) -> None:
    network = model()
    seen = count_pictures(network)
    list(fine_tune(network, config(augment="flip_crop"), task(3, views=views)))
    assert sum(seen) == passes * 36 + 36 + 4


def whole(inputs: Inputs, view: int | None) -> Tensor:
    """A view of all training pictures, in their order."""
    assert inputs.frozen is not None
    rows = inputs.frozen.get_rows(inputs.task.train, view)
    assert rows is not None
    [(activations, _)] = rows.batches([np.arange(inputs.task.train.num_examples)])
    return activations


def test_views_differ_and_come_round_again() -> None:
    network = model()
    inputs = Inputs(network, config(augment="flip_crop"), task(6, views=2))
    training.set_trainable(network, [{"params": list(network.head.parameters())}])
    inputs.find_split_point(set())
    assert inputs.split_point is not None
    views = [whole(inputs, v) for v in (None, 1)]
    assert not torch.equal(*views)
    rows = [np.concatenate(inputs.task.train.epoch_indices(e)) for e in (1, 2, 3)]
    for epoch in (1, 2, 3):
        fed = torch.cat([batch for batch, _ in inputs.training_batches(epoch)])
        assert torch.equal(fed, views[(epoch - 1) % 2][rows[epoch - 1]])


def test_without_a_name_for_the_data_nothing_is_shared() -> None:
    cache = FeatureCache()
    for seed in (0, 1):
        network = model(seed)
        seen = count_pictures(network)
        list(fine_tune(network, config(), task(1, cache=cache)))
        assert sum(seen) == 36 + 36 + 4


def test_other_data_and_other_backbones_have_their_own() -> None:
    @backbone
    def other() -> nn.Module:
        """Like the toy, with other weights."""
        torch.manual_seed(9)
        return Backbone()

    cache = FeatureCache()
    trained(cache=cache, data_id="a")
    shared, _ = trained(cache=cache, data_id="a", backbone=other)
    alone, _ = trained(backbone=other)
    assert same(shared, alone)
    fewer = batches(squares(8, seed=2))
    shared, _ = trained(cache=cache, data_id="b", train=fewer)
    alone, _ = trained(train=fewer)
    assert same(shared, alone)


@pytest.mark.parametrize("chosen", [TOP, "linear_probe", "gradual", "lp_ft"])
def test_keeping_changes_no_result(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitPoint, "tolerates_float16", lambda *_: False)
    one, cached = trained(epochs=4, freeze=chosen)
    other, uncut = trained(epochs=4, freeze=chosen, cache=FeatureCache(0, memory=0))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-5)
    assert [e.loss for e in cached] == pytest.approx([e.loss for e in uncut], rel=1e-4)
    assert [e.score for e in cached] == pytest.approx([e.score for e in uncut], abs=0.03)


def test_keeping_in_16_bits_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache()
    _, halved = trained(epochs=4, freeze=TOP, cache=cache, data_id="squares")
    halves = cache.usage().bytes
    monkeypatch.setattr(SplitPoint, "tolerates_float16", lambda *_: False)
    _, exact = trained(epochs=4, freeze=TOP, cache=cache, data_id="squares")
    assert cache.usage().bytes > 2.5 * halves  # both are there: the type is part of the name
    assert [e.loss for e in halved] == pytest.approx([e.loss for e in exact], rel=1e-2)
    assert [e.loss for e in halved] != [e.loss for e in exact]


@pytest.mark.parametrize(("limit", "cache"), [(0.9, False), (1.1, True)])
def test_what_takes_more_than_half_of_the_room_is_not_kept(limit: float, cache: bool) -> None:
    # After the first stage, two bytes each, for two views and validation.
    numbers = 16 * 4 * 4 * (2 * 36 + 36)
    network = model()
    inputs = Inputs(
        network,
        config(freeze=TOP, augment="flip_crop"),
        task(2, cache=FeatureCache(int(limit * 2 * 2 * numbers), memory=0)),
    )
    top = [p for block in network.blocks[-2:] for p in block]
    training.set_trainable(network, [{"params": [*top, *network.head.parameters()]}])
    inputs.find_split_point(set())
    assert (inputs.split_point is not None) == cache


@freeze
def up_and_down(model: Model, epochs: int) -> Iterator[list[Group]]:
    """Everything learns, then the head alone on a backbone that is no longer what it was."""
    yield [{"params": model.parameters(), "lr": 1e-2}]
    yield [{"params": model.head.parameters(), "lr": 1e-2}]


def test_a_backbone_that_has_learned_keeps_its_activations_to_itself() -> None:
    cache = FeatureCache()
    trained(
        epochs=3, cache=cache, data_id="squares"
    )  # a stranger's, which must not be taken for ours
    ours, _ = trained(epochs=3, freeze=up_and_down, cache=cache, data_id="squares")
    alone, _ = trained(epochs=3, freeze=up_and_down, cache=FeatureCache(0, memory=0))
    torch.testing.assert_close(ours.state_dict(), alone.state_dict(), rtol=1e-3, atol=1e-5)
    cache = FeatureCache()
    trained(epochs=3, freeze=up_and_down, cache=cache, data_id="squares")
    after, _ = trained(epochs=3, cache=cache, data_id="squares")
    fresh, _ = trained(epochs=3)
    assert same(after, fresh)


def test_a_head_that_works_in_place_spoils_nothing_that_is_kept() -> None:
    class Halving(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features.mul_(0.5))

    @head
    def halving(features: int, classes: int) -> nn.Module:
        return Halving(features, classes)

    def trust(probabilities: np.ndarray) -> float:
        return float(probabilities.max(1).mean())

    _, cached = trained(epochs=3, head=halving, score=trust)
    _, alone = trained(epochs=3, head=halving, score=trust, cache=FeatureCache(0, memory=0))
    assert [e.score for e in cached] == pytest.approx([e.score for e in alone], rel=1e-5)
    assert [e.loss for e in cached] == pytest.approx([e.loss for e in alone], rel=1e-5)


# Measuring and predicting.


@pytest.mark.parametrize("chosen", ["linear_probe", TOP, "full", "lp_ft"])
def test_measuring_leaves_the_model_alone(chosen: Any) -> None:
    network = model()
    before = state(network)
    run = task(4, data_id="squares")
    cost = measure_cost(network, config(freeze=chosen), run)
    assert not changed(before, network)
    assert all(p.grad is None for p in network.parameters())
    assert cost.epoch_seconds > 0
    assert (cost.view_seconds > 0) == (chosen in ("linear_probe", TOP))
    seconds = [cost.training_seconds(epochs) for epochs in (1, 2, 4, 8, 16)]
    assert seconds == sorted(set(seconds))
    assert run.cache.usage().entries == 0


def test_what_was_measured_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(chosen: Any, **changes: Any) -> training.Cost:
        run = task(4, data_id="squares", measured_costs=measured, **changes)
        return measure_cost(model(), config(freeze=chosen), run)

    measured: dict[str, Any] = {}
    first = kind(("full", {"lr": 1e-3}))
    known = json.loads(json.dumps(measured))
    timed: list[Any] = []
    seconds = training.cost._time
    monkeypatch.setattr(training.cost, "_time", lambda *args: (timed.append(1), seconds(*args))[1])
    measured = known
    again = kind(("layer_decay", {"lr": 1e-4}))  # the same parameters learn
    assert len(timed) == 1  # the augmentation alone, which may be another
    assert (again.forward_seconds, again.backward_seconds, again.prediction_seconds) == (
        first.forward_seconds, first.backward_seconds, first.prediction_seconds
    )  # fmt: skip
    assert kind("linear_probe").forward_seconds != first.forward_seconds
    assert len(timed) > 2


def test_the_faster_type_is_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = True  # 16 bits
    steps: list[bool] = []
    measured_steps = training.cost._time_steps

    def steps_of(trial: Any, config: Any, task: Any, autocast: bool) -> Any:
        steps.append(autocast)
        return replace(
            measured_steps(trial, config, task, autocast), prefix=0.0, step=1.0 + autocast * slow
        )

    monkeypatch.setattr(training.cost, "_time_steps", steps_of)
    where = Device(CPU.torch_device, torch.bfloat16)
    run = task(2, device=where)
    settings = [measure_cost(model(), config(freeze=f), run).compute for f in ("full", TOP)]
    assert [s.autocast for s in settings] == [False, False]
    assert steps == [True, False, False]
    assert settings[0].apply_to(where).autocast is None
    slow = False
    assert not measure_cost(
        model(), config(freeze="full"), run
    ).compute.autocast  # as it was measured
    assert measure_cost(model(), config(freeze="full"), task(2, device=where)).compute.autocast
    assert measure_cost(model(), config(freeze="full"), task(2)).compute.apply_to(CPU) == CPU


@pytest.mark.parametrize(("reading", "keep"), [(0.0, True), (1e3, False)])
def test_what_is_slower_to_read_than_to_compute_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, reading: float, keep: bool
) -> None:
    monkeypatch.setattr(FeatureCache, "seconds_to_read", lambda *_: reading)
    run = task(4, data_id="squares")
    cost = measure_cost(model(), config(freeze=TOP), run)
    assert cost.compute.cache_activations == keep
    assert (cost.view_seconds > 0) == (cost.setup_seconds > 0) == keep
    assert cost.epoch_seconds > 0
    run.compute = cost.compute
    network = model()
    seen = count_pictures(network)
    list(fine_tune(network, config(freeze=TOP), run))
    assert (sum(seen) < 100) == keep
    assert (run.cache.usage().entries > 0) == keep


def test_a_cost_is_filed_in_milliseconds_and_bytes() -> None:
    facts = measure_cost(model(), config(freeze=TOP), task(4)).facts()
    assert facts["forward_ms"] > 0
    assert facts["backward_ms"] >= 0
    assert facts["activation_bytes"] == 16 * 4 * 4 * 2  # the first stage's, in 16 bits
    assert facts["peak_bytes"] is None  # the CPU does not tell
    assert measure_cost(model(), config(freeze="full"), task(4)).facts()["activation_bytes"] == 0


def test_as_many_views_are_kept_as_there_is_time_for() -> None:
    cost = training.Cost(
        view_seconds=10.0,
        epoch_seconds=1.0,
        setup_seconds=0.0,
        backbone_epoch_fraction=1.0,
        prediction_seconds=0.0,
    )
    assert [cost.affordable_views(4, seconds) for seconds in (0.0, 9.0, 25.0, 99.0)] == [1, 1, 2, 4]
    assert replace(cost, view_seconds=0.0).affordable_views(4, 0.1) == 4


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_cannot_be_compiled_is_trained_as_it_is(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    calls: list[int] = []

    def compiled(work: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(images: Tensor) -> Tensor:
            calls.append(len(images))
            if fails:
                raise AssertionError("no compiler here")
            return work(images)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    plain, _ = trained(freeze="full")
    assert not calls
    setting = training.ComputeSettings(cache_activations=False, compile=True)
    other, _ = trained(freeze="full", compute=setting)
    assert len(calls) == (1 if fails else 6)
    assert same(plain, other)


def test_a_compiled_model_that_runs_out_of_memory_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(work: Any) -> Any:
        def call(images: Tensor) -> Tensor:
            if len(images) > 4:
                raise torch.OutOfMemoryError("there is none left")
            found: Tensor = work(images)
            return found

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    micro: dict[str, int] = {}
    setting = training.ComputeSettings(cache_activations=False, compile=True)
    trained(epochs=1, freeze="full", compute=setting, micro_batch_sizes=micro)
    assert list(micro.values()) == [3]


def test_again_costs_less_for_what_was_kept() -> None:
    cost = training.Cost(
        view_seconds=40.0,
        epoch_seconds=1.0,
        setup_seconds=100.0,
        backbone_epoch_fraction=0.5,
        prediction_seconds=0.0,
    )
    assert (
        cost.repeat_seconds(4, 4) == 30.0 + 2.0
    )  # of three augmented views a quarter of the pictures
    assert cost.repeat_seconds(4, 1) == 2.0
    assert cost.repeat_seconds(2, 9) == 10.0 + 1.0


def test_the_cost_of_views_ends_with_the_last_of_them() -> None:
    cost = training.Cost(
        view_seconds=10.0,
        epoch_seconds=1.0,
        setup_seconds=100.0,
        backbone_epoch_fraction=1.0,
        prediction_seconds=0.0,
    )
    assert [cost.training_seconds(n, 2) for n in (1, 2, 3)] == [111.0, 122.0, 123.0]
    half = training.Cost(
        view_seconds=0.0,
        epoch_seconds=1.0,
        setup_seconds=0.0,
        backbone_epoch_fraction=0.5,
        prediction_seconds=0.0,
    )
    assert half.training_seconds(10) == 5.0


def test_the_costly_share_is_that_in_which_the_backbone_trainable() -> None:
    def share(chosen: Any) -> float:
        return measure_cost(model(), config(freeze=chosen), task(10)).backbone_epoch_fraction

    assert share(("lp_ft", {"probe_fraction": 0.3})) == 0.7
    assert share("full") == 1.0
    assert share("linear_probe") == 1.0  # of its own, cheap epochs


def test_without_a_validation_part_there_is_no_score() -> None:
    _, epochs = trained(validation=None)
    assert all(math.isnan(e.score) for e in epochs)
    assert all(math.isfinite(e.loss) for e in epochs)
    assert measure_cost(model(), config(), task(2, validation=None)).setup_seconds == 0.0


def test_predictions_are_in_order_and_sum_to_one() -> None:
    network, _ = trained(head=("linear", {"dropout": 0.5}))
    parts = batches(squares(seed=1), 5, shuffle_seed=None)
    found = predict(network.train(), parts, CPU)
    assert found.shape == (36, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert len(np.unique(found, axis=0)) == 36
    with torch.no_grad():
        images = torch.stack([torch.from_numpy(e.image) for e in squares(seed=1)])
        alone = network.eval()(images.permute(0, 3, 1, 2)).softmax(1)
    np.testing.assert_allclose(found, alone.numpy(), rtol=1e-4, atol=1e-6)
    before = copy.deepcopy(network.state_dict())
    predict(network, parts, CPU)
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_the_score_is_that_of_the_trained_model() -> None:
    given: list[np.ndarray] = []
    network, epochs = trained(
        epochs=2, freeze=TOP, score=lambda p: float(len(given.append(p) or p))
    )
    assert [e.score for e in epochs] == [36.0, 36.0]
    whole = predict(network, task().validation, CPU)
    np.testing.assert_allclose(given[-1], whole, rtol=1e-4, atol=1e-6)
    assert not np.allclose(given[0], given[1])


@pytest.mark.parametrize("chosen", [("linear_probe", {}), ("full", {})])
def test_short_memory_does_not_change_predictions(
    monkeypatch: pytest.MonkeyPatch, chosen: tuple[str, dict[str, Any]]
) -> None:
    features = Model.features

    def short(self: Model, images: Tensor) -> Tensor:
        if len(images) > 3 and not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("there is none left")
        return features(self, images)

    enough, epochs = trained(freeze=chosen)
    monkeypatch.setattr(Model, "features", short)
    little, again = trained(freeze=chosen)
    torch.testing.assert_close(state(little), state(enough))
    assert [e.score for e in again] == [e.score for e in epochs]
    monkeypatch.setattr(Model, "features", lambda *_: short(enough, torch.zeros(4)))
    with pytest.raises(OutOfMemory, match="a single image"):
        predict(enough, batches(squares()), CPU)


def test_torchs_schedulers_follow_the_steps() -> None:
    rates: list[float] = []

    @optimizer
    def halving(groups: list[Group], steps: int) -> Any:
        """SGD whose learning rate halves in every step."""
        chosen = torch.optim.SGD(groups, lr=1.0)
        chosen.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return chosen, torch.optim.lr_scheduler.ExponentialLR(chosen, 0.5)

    run = task(4)
    chosen = config(freeze=("lp_ft", {"probe_fraction": 0.5, "probe_lr": 1e-2, "lr": 1e-2}))
    made = {**chosen, "optimizer": type(chosen["optimizer"])(halving, {})}
    list(fine_tune(model(), made, run))
    steps = 4 * len(run.train)
    assert rates == pytest.approx([1e-2 * 0.5**i for i in range(steps)])
