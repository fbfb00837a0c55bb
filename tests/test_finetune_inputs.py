"""What a model is fed and what it is charged: mixed targets, penalties, balance, fitted heads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from toy import COLOURS, batches, config, model, squares, task

from autotl import Balance, augment, backbone, balance, freeze, head, optimizer
from autotl.errors import Incompatible
from autotl.finetune import fine_tune, predict, set_learning
from autotl.finetune.inputs import Inputs
from autotl.model import Group, Model, merge
from autotl.testing.toy import convolutions as complete

TOP = ("last_blocks", {"share": 0.5})


@optimizer
def plain(groups: list[Group], steps: int) -> Any:
    """SGD at a constant rate."""
    chosen = torch.optim.SGD(groups)
    return chosen, torch.optim.lr_scheduler.ConstantLR(chosen, 1.0)


def inputs(network: Model, **changes: Any) -> Inputs:
    """Those of ``network`` with only its head learning."""
    chosen = {k: changes.pop(k) for k in ("augment", "balance", "head") if k in changes}
    made = Inputs(network, config(**chosen), task(**changes))
    set_learning(network, [{"params": list(network.head.parameters())}])
    made.recut(set())
    return made


# Mixed pictures.


@augment(mixes=True)
def half_and_half(size: int) -> Any:
    """Each picture half of itself and half of the one before."""

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (images.float() + images.roll(1, 0).float()) / 2
        return mixed.to(torch.uint8), (targets + targets.roll(1, 0)) / 2

    return transform


@pytest.mark.parametrize("frozen", [True, False])
def test_mixed_pictures_are_charged_by_their_mixed_targets(frozen: bool) -> None:
    network = model()
    made = inputs(network, augment=half_and_half)
    if not frozen:
        made.cut = None
    [(batch, targets), *_] = made.training(1)
    assert targets.shape == (len(batch), 3)
    assert torch.equal(targets.sum(1), torch.ones(len(batch)))
    assert 0.5 in targets
    network.eval()
    logits = network.head(batch) if frozen else network(batch)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(made.loss(batch, targets), expected)


def test_a_kept_view_keeps_the_targets_of_its_pictures() -> None:
    made = inputs(model(), augment=half_and_half)
    activations, targets = made._activations("train", made.task.train, 0)
    again, same = made._activations("train", made.task.train, 0)
    assert again is activations
    assert same is targets
    images = torch.cat([i for i, _ in made.task.train])
    first = images[:12], made.targets(torch.cat([y for _, y in made.task.train])[:12])
    mixed, truth = half_and_half(16)(*first)
    torch.testing.assert_close(activations[:12], made.run_below(mixed))
    assert torch.equal(targets[:12], truth)


def test_validation_is_never_mixed() -> None:
    _, targets = (made := inputs(model(), augment=half_and_half))._activations(
        "validation", made.task.train, None
    )
    assert set(targets.unique().tolist()) == {0.0, 1.0}


# Penalties.


@pytest.mark.parametrize("micro", [12, 5])
def test_a_penalty_is_added_to_the_mean_loss(micro: int) -> None:
    gradients = []
    for penalised in (False, True):
        network = model()
        made = inputs(network)
        made.micro = micro
        if penalised:
            weight = network.head[1].weight
            network.penalties.append(lambda features, w=weight: (w**2).sum())
        [(batch, targets), *_] = made.training(1)
        loss = made.backward(batch, targets)
        gradients.append((loss, network.head[1].weight.grad, network.head[1].weight.detach()))
    (bare, g, w), (charged, h, _) = gradients
    torch.testing.assert_close(charged, bare + (w**2).sum())
    torch.testing.assert_close(h, g + 2 * w)


def test_penalties_see_what_the_head_is_fed_and_go_with_the_training() -> None:
    seen: list[tuple[int, ...]] = []

    @freeze
    def watched(model: Model) -> list[Group]:
        """Train the head, and look at the features."""
        model.penalties.append(lambda features: seen.append(tuple(features.shape)) or 0.0)
        return [{"params": model.head.parameters(), "lr": 1e-3}]

    network = model()
    list(fine_tune(network, config(freeze=watched), task(1)))
    assert seen == [(12, 24)] * 3
    assert network.penalties == []


# Balance.


def balanced(**facts: Any) -> Any:
    return balance(name="given")(lambda counts: Balance(**facts))


def test_weights_and_offsets_of_classes_enter_the_loss() -> None:
    weights, offsets = [0.5, 1.0, 3.0], [0.3, -0.2, 1.0]
    network = model()
    network.eval()
    made = inputs(network, balance=balanced(weights=weights, offsets=offsets))
    images, labels = next(iter(made.task.train))
    batch, targets = made.run_below(images), made.targets(labels)
    logits = network.head(batch) + torch.tensor(offsets)
    each = functional.cross_entropy(logits, labels, reduction="none")
    expected = (each * torch.tensor(weights)[labels]).mean()
    torch.testing.assert_close(made.loss(batch, targets), expected)
    probabilities = made.validation()  # neither enters what the model answers
    part = made.task.validation
    assert part is not None
    assert probabilities == pytest.approx(predict(network, part, made.task.where), abs=1e-6)


def test_a_balance_is_told_the_pictures_of_each_class() -> None:
    told: list[list[int]] = []
    asked = balance(name="asked")(lambda counts: told.append(counts) or Balance())
    part = batches(squares()[:31])
    inputs(model(), balance=asked, train=part)
    assert told == [[11, 10, 10]]


def test_sampling_draws_classes_by_their_chances() -> None:
    part = batches(squares(40))
    drawn: list[int] = []
    for epoch in range(20):
        for _, labels in part.epoch(epoch, [1.0, 0.0, 3.0]):
            drawn += labels.tolist()
    assert len(drawn) == 20 * 120
    assert 1 not in drawn
    assert sum(c == 2 for c in drawn) / len(drawn) == pytest.approx(0.75, abs=0.04)
    same = [torch.cat(list(part.rows(3, [1.0, 0.0, 3.0]))) for _ in range(2)]
    assert torch.equal(*same)


# Heads that are fitted.


class Means(nn.Module):
    """Scores by the nearest mean; counts how often it was fitted."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)
        self.fits: list[tuple[int, ...]] = []

    def fit(self, features: Tensor, labels: Tensor) -> None:
        self.fits.append(tuple(features.shape))
        for c in range(self.layer.out_features):
            mean = features[labels == c].mean(0)
            self.layer.weight[c] = mean
            self.layer.bias[c] = -mean.square().sum() / 2

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layer(features)
        return logits


@head
def means(features: int, classes: int) -> nn.Module:
    """The nearest mean."""
    return Means(features, classes)


def test_a_fitted_head_above_a_frozen_backbone_is_left_as_it_is() -> None:
    network = model(head=means)
    epochs = list(fine_tune(network, config(head=means, augment="flip_crop"), task(3)))
    assert network.head.fits == [(36, 24)]
    whole = torch.cat([i for i, _ in batches(squares())])
    labels = torch.cat([y for _, y in batches(squares())])
    with torch.no_grad():
        features = network.eval().features(whole)
    expected = torch.stack([features[labels == c].mean(0) for c in range(3)])
    torch.testing.assert_close(network.head.layer.weight.detach(), expected)
    assert len({e.score for e in epochs}) == 1
    assert epochs[0].score > 0.6
    assert epochs[0].learned == 24 * 3 + 3


@pytest.mark.parametrize("chosen", ["full", TOP, ("lp_ft", {"probe": 0.5})])
def test_a_fitted_head_learns_on_where_the_backbone_does(chosen: Any) -> None:
    network = model(head=means)
    before = copy.deepcopy(network.backbone.state_dict())
    fitted: list[Tensor] = []
    for epoch in fine_tune(network, config(head=means, freeze=chosen), task(2)):
        if epoch.number == 1:
            fitted.append(network.head.layer.weight.detach().clone())
    assert network.head.fits == [(36, 24)]
    assert not torch.equal(network.head.layer.weight, fitted[0])
    assert any(not torch.equal(v, before[k]) for k, v in network.backbone.state_dict().items())


# The average of the weights.


def test_an_average_lags_behind_and_is_what_is_asked_and_kept() -> None:
    rates = {"freeze": ("linear_probe", {"lr": 3e-2}), "optimizer": plain}
    trained = {}
    for ema in (0.0, 0.9, 0.999):
        network = model()
        list(fine_tune(network, config(**rates), task(4, ema=ema)))
        trained[ema] = network.head[1].weight.detach()
    start = model().head[1].weight.detach()
    moved = {ema: (weight - start).norm() for ema, weight in trained.items()}
    assert moved[0.0] > moved[0.9]
    assert moved[0.9] == moved[0.999]  # so few steps: the warm-up decides, not the decay


def test_the_average_is_that_of_the_formula() -> None:
    live: list[Tensor] = []

    @optimizer
    def recorded(groups: list[Group], steps: int) -> Any:
        """SGD that remembers the weights after each step."""
        chosen, schedule = plain(groups, steps)
        weight = groups[0]["params"][0]
        chosen.register_step_post_hook(lambda *_: live.append(weight.detach().clone()))
        return chosen, schedule

    network = model()
    list(fine_tune(network, config(optimizer=recorded), task(2, ema=0.5)))
    assert len(live) == 6
    average = live[0]
    for step, weight in enumerate(live[1:], start=2):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(network.head[1].weight.detach(), average)


# Parametrised weights.


class Twice(nn.Module):
    """Doubles a weight, by a factor that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, weight: Tensor) -> Tensor:
        return self.factor * weight


@freeze
def doubled(model: Model) -> list[Group]:
    """Double the stem and train the factor."""
    twice = Twice()
    parametrize.register_parametrization(model.backbone.stem[0], "weight", twice)
    return [{"params": [*model.head.parameters(), twice.factor], "lr": 1e-2}]


def test_parametrised_weights_are_merged_after_the_training() -> None:
    network = model()
    names = list(network.state_dict())
    for _ in fine_tune(network, config(freeze=doubled), task(2)):
        assert "backbone.stem.0.parametrizations.weight.original" in network.state_dict()
    assert set(network.state_dict()) == set(names)
    fresh = model()
    ratio = network.backbone.stem[0].weight / fresh.backbone.stem[0].weight
    assert ratio.std() < 1e-5
    assert abs(ratio.mean() - 2) > 1e-3


def test_merging_changes_no_answer() -> None:
    network = model()
    doubled(network)
    images, _ = next(iter(batches(squares())))
    with torch.no_grad():
        before = network.eval()(images)
        merge(network)
        torch.testing.assert_close(network(images), before)


# What heads are fed.


@pytest.mark.parametrize("takes", ["map", "stages"])
@pytest.mark.parametrize("freezing", ["linear_probe", TOP, "full"])
def test_heads_are_fed_maps_and_stages(takes: Any, freezing: Any) -> None:
    shapes: set[tuple[int, ...]] = set()

    class Watched(nn.Linear):
        def forward(self, fed: Tensor) -> Tensor:
            shapes.add(tuple(fed.shape[1:]))
            return super().forward(fed if fed.ndim == 2 else fed.mean(1))

    chosen = head(name="watched", takes=takes)(lambda features, classes: Watched(features, classes))
    made: dict[str, Any] = {"backbone": complete, "head": chosen, "freeze": freezing}
    network = model(**made)
    [*epochs] = fine_tune(network, config(**made), task(2))
    assert len(epochs) == 2
    [shape] = shapes
    assert len(shape) == (2 if takes == "map" else 1)
    assert shape[-1] == network.head.in_features


def test_a_backbone_without_a_map_is_incompatible_with_a_head_that_takes_one() -> None:
    class Bare(nn.Module):
        num_features, pretrained_cfg = 3, {"input_size": (3, 16, 16)}

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    bare = backbone(name="bare")(lambda: Bare())
    chosen = head(name="h", takes="map")(lambda features, classes: nn.Linear(features, classes))
    with pytest.raises(Incompatible, match="bare gives its head no map"):
        model(backbone=bare, head=chosen)
    assert len(COLOURS) == 3
