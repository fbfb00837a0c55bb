"""Heads that are trained side by side: each exactly as it would be alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import toy
from fake_gpu import FakeGpu
from torch import nn
from training_helpers import count_images

from autotl import freeze, head
from autotl.data import resident
from autotl.errors import Diverged, OutOfTime
from autotl.frozen import FeatureCache
from autotl.models import Model
from autotl.space.space import Config
from autotl.training import (
    ComputeSettings,
    ProbeEpoch,
    extract_backbone_features,
    extract_mirrored_features,
    fine_tune,
    keeps_backbone_frozen,
    probes,
    train_probes,
)
from autotl.training.inputs import Inputs

HEADS: list[dict[str, Any]] = [
    {},
    {"freeze": ("linear_probe", {"lr": 0.03})},
    {"head": ("mlp", {"dropout": 0.5})},
    {"head": ("linear", {"dropout": 0.5}), "optimizer": ("adamw", {"weight_decay": 0.3})},
    {"head": "logistic_regression"},
]
CONFIGS = [toy.config(**chosen) for chosen in HEADS]


@head
def explodes(features: int, classes: int) -> nn.Module:
    """Fails in its second epoch of three steps."""

    class Explodes(nn.Linear):
        steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += torch.is_grad_enabled()
            if self.steps > 3:
                raise RuntimeError("boom")
            return super().forward(x)

    return Explodes(features, classes)


@head
def works_in_place(features: int, classes: int) -> nn.Module:
    """Works in place on its input."""

    class InPlace(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.mul_(0.0))

    return InPlace(features, classes)


@head
def unbuildable(features: int, classes: int) -> nn.Module:
    """Fails when it is built."""
    raise ValueError("no such head")


@head
def diverges(features: int, classes: int) -> nn.Module:
    """Gives NaN."""
    layer = nn.Linear(features, classes)
    nn.init.constant_(layer.weight, math.nan)
    return layer


@freeze
def unfreezes_last(model: Model, epochs: int, *, lr: float = 1e-3) -> Any:
    """Trains the backbone in the last epoch only."""
    for epoch in range(epochs):
        trained = model if epoch == epochs - 1 else model.head
        yield [{"params": list(trained.parameters()), "lr": lr}]


def train_all(configs: list[Config], **changes: Any) -> list[list[ProbeEpoch | Exception | None]]:
    network = toy.model(**HEADS[0])
    return list(train_probes(network, configs, toy.job(3, **changes)))


def head_state(model: Model) -> dict[str, torch.Tensor]:
    return dict(model.head.state_dict())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_each_head_is_trained_as_if_it_were_alone(ema: float) -> None:
    side_by_side = train_all(CONFIGS, ema=ema)
    assert len(side_by_side) == 3
    for i, chosen in enumerate(HEADS):
        network = toy.model(**chosen)
        alone = list(fine_tune(network, CONFIGS[i], toy.job(3, ema=ema)))
        fitted = chosen.get("head") == "logistic_regression"
        result_epochs = [
            epoch[i] for epoch in side_by_side if not (fitted and epoch is not side_by_side[0])
        ]
        assert fitted == (side_by_side[1][i] is None)  # more epochs would change nothing
        for one, other in zip(alone[: len(result_epochs)], result_epochs, strict=True):
            assert isinstance(other, ProbeEpoch)
            assert (one.number, one.loss, one.score, one.trained_parameters) == (
                other.epoch.number,
                other.epoch.loss,
                other.epoch.score,
                other.epoch.trained_parameters,
            )
            assert np.array_equal(one.predictions, other.epoch.predictions)
        assert isinstance(result_epochs[-1], ProbeEpoch)
        assert result_epochs[-1].last
        trained = head_state(result_epochs[-1].model)
        assert all(torch.equal(trained[k], v) for k, v in head_state(network).items())


def test_the_activations_of_the_backbone_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    forward = toy.Backbone.forward

    def counted(self: Any, images: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += len(images)
        return forward(self, images)

    monkeypatch.setattr(toy.Backbone, "forward", counted)
    train_all(CONFIGS[:1])
    alone, count = count, 0
    train_all(CONFIGS)
    assert count == alone


def test_without_a_cache_a_head_is_trained_as_if_it_were_alone() -> None:
    chosen = {"head": ("linear", {"dropout": 0.5}), "augment": "flip_crop"}
    results = train_probes(
        toy.model(**chosen), [toy.config(**chosen)], toy.job(3, cache=FeatureCache(0, memory=0))
    )
    alone = fine_tune(
        toy.model(**chosen), toy.config(**chosen), toy.job(3, cache=FeatureCache(0, memory=0))
    )
    for [result], epoch in zip(results, alone, strict=True):
        assert isinstance(result, ProbeEpoch)
        assert (result.epoch.loss, result.epoch.score) == (epoch.loss, epoch.score)


def test_all_heads_go_on_with_images_if_there_is_no_room_for_a_later_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(monkeypatch, memory=1 << 30, ram=0)
    heads = [toy.config(head=name, augment="flip_crop") for name in ("linear", "cosine", "mlp")]
    network = toy.model(head="linear", augment="flip_crop")
    run = toy.job(4, cache=FeatureCache(0, memory=0), data_id="x")
    for results in train_probes(network, heads, run):
        assert all(isinstance(result, ProbeEpoch) for result in results), results
        gpu.memory = 4000  # another process takes the rest


def test_a_head_that_fails_does_not_change_the_others() -> None:
    broken = [toy.config(head=h) for h in (explodes, unbuildable, diverges, works_in_place)]
    results = train_all([CONFIGS[0], *broken, CONFIGS[2]])
    clean = train_all([CONFIGS[0], CONFIGS[2]])
    for epoch, expected in zip(results, clean, strict=True):
        for i, j in ((0, 0), (5, 1)):
            one, other = epoch[i], expected[j]
            assert isinstance(one, ProbeEpoch)
            assert isinstance(other, ProbeEpoch)
            assert (one.epoch.loss, one.epoch.score) == (other.epoch.loss, other.epoch.score)
    first, second, third = results
    assert isinstance(first[1], ProbeEpoch)
    assert str(second[1]) == "boom"
    assert third[1] is None
    assert str(first[2]) == "no such head"
    assert isinstance(first[3], Diverged)
    assert second[2] is second[3] is third[2] is None


def test_fitted_heads_have_one_epoch() -> None:
    fitted = toy.config(head="logistic_regression")
    network = toy.model(head="logistic_regression")
    [[one, other]] = list(train_probes(network, [fitted, toy.config(head="lda")], toy.job(3)))
    assert isinstance(one, ProbeEpoch)
    assert isinstance(other, ProbeEpoch)
    assert one.last
    assert other.last
    # A fitted head first does not keep another from being trained on augmented images.
    chosen = {"head": ("linear", {"dropout": 0.0}), "augment": "flip_crop"}
    network = toy.model(head="logistic_regression")
    configs = [toy.config(head="logistic_regression", augment="flip_crop"), toy.config(**chosen)]
    result_epochs = [epoch[1] for epoch in train_probes(network, configs, toy.job(3))]
    alone = list(fine_tune(toy.model(**chosen), configs[1], toy.job(3)))
    assert [e.epoch.loss for e in result_epochs if isinstance(e, ProbeEpoch)] == [
        e.loss for e in alone
    ]


def test_an_error_of_the_first_configuration_before_its_first_step_is_raised() -> None:
    @freeze
    def refuses(model: Model) -> Any:
        """Refuses every model."""
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        train_all([toy.config(freeze=refuses), CONFIGS[1]])


def test_a_passed_deadline_ends_all_heads() -> None:
    with pytest.raises(OutOfTime):
        train_all(CONFIGS, deadline=0.0)


@pytest.mark.parametrize("step", [0, 4, 9])
@pytest.mark.parametrize("views", [1, 4], ids=["cached", "new views"])
def test_a_deadline_in_a_later_epoch_leaves_the_heads_their_complete_epochs(
    step: int, views: int
) -> None:
    """With new views, it may also pass while the features of a batch are computed."""
    done, steps = 0, itertools.count()

    def pass_deadline() -> None:
        if done == 1 and next(steps) == step:
            run.deadline = 0.0

    run = toy.job(
        3, deadline=math.inf, keep_completed_epochs=True, on_step=pass_deadline, views=views
    )
    configs = [{**each, "augment": toy.config(augment="flip_crop")["augment"]} for each in CONFIGS]
    results: list[list[ProbeEpoch | Exception | None]] = []
    for result in train_probes(toy.model(**HEADS[0]), configs, run):
        results.append(result)
        done += 1
    first, *later = results
    assert all(isinstance(each, ProbeEpoch) for each in first)
    columns = zip(*later, strict=True)
    for chosen, config, one, others in zip(HEADS, configs, first, columns, strict=True):
        assert isinstance(one, ProbeEpoch)
        assert not any(isinstance(each, Exception) for each in others)
        epochs = 1 + sum(isinstance(each, ProbeEpoch) for each in others)
        assert epochs == 1 or step > 0  # heads before may have completed the epoch
        alone = toy.model(**chosen)
        running = fine_tune(alone, config, toy.job(3, views=views))
        for _ in range(epochs):
            next(running)
        running.close()
        for name, value in head_state(alone).items():
            assert torch.equal(head_state(one.model)[name], value)


def test_backbone_features_are_those_without_augmentation() -> None:
    network, job = toy.model(), toy.job(1)
    images = torch.cat([images for images, _ in job.train])
    results = extract_backbone_features(network, toy.config(augment="flip_crop"), job)
    assert results.shape == (36, network.backbone.num_features)
    with torch.no_grad():
        expected = network.eval().features(images)
    assert torch.allclose(torch.from_numpy(results), expected, atol=1e-5)


def test_mirrored_features_are_those_of_mirrored_images() -> None:
    network, job = toy.model(), toy.job(1)
    features, positions = extract_mirrored_features(network, job)
    images = torch.cat([images for images, _ in job.train])[torch.from_numpy(positions)]
    assert sorted(positions) == list(range(36))
    with torch.no_grad():
        expected = network.eval().features(images.flip(3))
    assert torch.allclose(torch.from_numpy(features), expected, atol=1e-5)


def test_features_are_computed_in_the_batches_of_inference() -> None:
    compute = ComputeSettings(inference_factor=2, cache_activations=False)
    network, job = toy.model(), toy.job(1, compute=compute)
    sizes = count_images(network)
    extract_mirrored_features(network, job)
    extract_backbone_features(network, toy.config(), job)
    assert sizes == [18, 18] * 2


def test_mirrored_features_end_at_the_deadline() -> None:
    def step() -> None:
        job.deadline = None if job.deadline is None else 0.0 if steps.pop() else job.deadline

    job, steps = toy.job(1), [True, False]
    job.deadline, job.on_step = float("inf"), step
    features, positions = extract_mirrored_features(toy.model(), job)
    assert 0 < len(features) == len(positions) < 36


@pytest.mark.parametrize(
    ("strategy", "frozen"),
    [
        ("linear_probe", True),
        ("full", False),
        ("last_blocks", False),
        (unfreezes_last, False),
        ("lora", False),  # it adds what it trains when it runs
        ("lp_ft", False),
    ],
)
def test_whether_a_strategy_keeps_the_backbone_frozen(strategy: Any, frozen: bool) -> None:
    network = toy.model()
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    assert keeps_backbone_frozen(network, toy.config(freeze=strategy), 3) == frozen
    assert {name: p.requires_grad for name, p in network.named_parameters()} == before


@pytest.mark.parametrize(
    ("owner", "name"),
    [(probes, "simulate_strategy"), (Inputs, "__init__"), (probes, "replace_head")],
)
def test_memory_that_runs_out_at_the_start_is_given_up_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    def run() -> list[Any]:
        network, job = toy.model(**HEADS[2]), toy.job(1)
        next(iter(job.train))  # its images are resident now
        frozen = keeps_backbone_frozen(network, CONFIGS[2], 1)
        features = extract_backbone_features(network, CONFIGS[2], job)
        [trained] = train_probes(network, CONFIGS[2:4], job)
        [alone] = fine_tune(network, CONFIGS[2], job)
        losses = [each.epoch.loss for each in trained if isinstance(each, ProbeEpoch)]
        return [frozen, features.tobytes(), losses, alone.loss]

    FakeGpu(monkeypatch, memory=1 << 20)
    undisturbed, function = run(), getattr(owner, name)

    def run_out(*args: Any, **options: Any) -> Any:
        if resident.resident_bytes(toy.CPU.torch_device):
            failed.append(name)
            torch.rand(3)
            raise torch.OutOfMemoryError("no memory is left")
        return function(*args, **options)

    failed: list[str] = []
    monkeypatch.setattr(owner, name, run_out)
    assert run() == undisturbed
    assert failed
