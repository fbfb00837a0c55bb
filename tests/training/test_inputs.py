"""What a model is fed and what it is charged: mixed targets, penalties, balance, fitted heads."""

from __future__ import annotations

import copy
import math
import multiprocessing
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from toy import COLOURS, CPU, batches, config, model, squares, task

from autotl import Balance, augment, backbone, balance, freeze, head, optimizer
from autotl.data import Batches, MappedArray, Packed, memory_map
from autotl.errors import Incompatible, OutOfTime
from autotl.frozen import FeatureCache, cache
from autotl.models import Device, Group, Model, merge_parametrizations
from autotl.testing.toy import convolutions as complete
from autotl.training import fine_tune, predict, set_trainable
from autotl.training.inputs import Inputs

TOP = ("last_blocks", {"fraction": 0.5})


@optimizer
def plain(groups: list[Group], steps: int) -> Any:
    """SGD at a constant rate."""
    chosen = torch.optim.SGD(groups)
    return chosen, torch.optim.lr_scheduler.ConstantLR(chosen, 1.0)


def inputs(network: Model, **changes: Any) -> Inputs:
    """Those of ``network`` with only its head learning."""
    chosen = {k: changes.pop(k) for k in ("augment", "balance", "head") if k in changes}
    made = Inputs(network, config(**chosen), task(**changes))
    set_trainable(network, [{"params": list(network.head.parameters())}])
    made.find_split_point(set())
    return made


# Mixed pictures.


@augment(mixes=True)
def half_and_half(size: int) -> Any:
    """Each picture half of itself and half of the one before."""

    def transform(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mixed = (images.float() + images.roll(1, 0).float()) / 2
        return mixed.to(torch.uint8), (targets + targets.roll(1, 0)) / 2

    return transform


def whole(made: Inputs, view: int | None) -> Any:
    """Activations and targets of all training pictures, in their order."""
    assert made.frozen is not None
    rows = made.frozen.get_rows(made.task.train, view)
    assert rows is not None
    [found] = rows.batches([np.arange(made.task.train.num_examples)])
    return found


@pytest.mark.parametrize("frozen", [True, False])
def test_mixed_pictures_are_charged_by_their_mixed_targets(frozen: bool) -> None:
    network = model()
    made = inputs(network, augment=half_and_half)
    if not frozen:
        made.close()
    [(batch, targets), *_] = made.training_batches(2)
    assert targets.shape == (len(batch), 3)
    assert torch.equal(targets.sum(1), torch.ones(len(batch)))
    assert 0.5 in targets
    network.eval()
    logits = network.head(batch) if frozen else network(batch)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(made.loss(batch, targets), expected)


def test_a_kept_view_keeps_the_targets_of_its_pictures() -> None:
    made = inputs(model(), augment=half_and_half)
    activations, targets = whole(made, 0)
    [first, *_] = made.task.train.shuffled_indices(0)
    [(images, labels)] = made.task.train.load([first])
    mixed, truth = half_and_half(16)(images, made.one_hot(labels))
    assert made.frozen is not None
    torch.testing.assert_close(activations[first], made.frozen.compute(mixed))
    assert torch.equal(targets[first], truth)


def test_pictures_in_the_order_of_their_classes_are_mixed_with_others_than_their_own() -> None:
    in_order = batches(sorted(squares(), key=lambda example: example.label))
    made = inputs(model(), augment=half_and_half, train=in_order)
    _, targets = whole(made, 1)
    assert (targets.max(1).values == 0.5).float().mean() > 0.4  # by chance two thirds


def test_plain_rows_have_no_targets_of_their_own() -> None:
    _, targets = whole(inputs(model(), augment=half_and_half), None)
    assert targets is None


# What is kept, by the rows of the data set.


def part(indices: list[int], size: int = 12, **changes: Any) -> Batches:
    """Some of 36 pictures."""
    given = batches(squares(), size)
    labels = given.labels.numpy()
    chosen = np.array(indices)
    return Batches(given.packed, labels, chosen, size, CPU.torch_device, shuffle_seed=0, **changes)


class Kept:
    """The same cache for one training after another, and the pictures that each computed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def seen(self, network: Model, **changes: Any) -> int:
        """Pictures that the stem saw, without those that look for the cut."""
        seen: list[int] = []
        kept = FeatureCache(1 << 20, self.folder)
        made = inputs(network, cache=kept, **({"data_id": "squares"} | changes))
        network.backbone.stem[0].register_forward_hook(lambda m, a, out: seen.append(len(out)))
        list(made.training_batches(2))  # of two views the second, which is augmented
        if made.task.validation:
            made.predict_validation()
        return sum(seen)


def test_splits_and_the_refit_share_their_rows(tmp_path: Path) -> None:
    kept, every = Kept(tmp_path), list(range(36))
    first = {"train": part(every[:20]), "validation": part(every[20:30])}
    assert kept.seen(model(), **first) == 30
    other = {"train": part(every[5:25]), "validation": part([*every[:5], *every[25:]])}
    assert kept.seen(model(), **other) == 6
    assert kept.seen(model(), train=part(every), validation=None) == 0
    still = {"train": part(every, 5), "validation": None}  # another size of batches
    assert kept.seen(model(1), **still) == 0


@pytest.mark.parametrize("name", ["flip_crop", "rand_augment"])
def test_a_view_is_the_same_whoever_computes_it(tmp_path: Path, name: str) -> None:
    network = model()
    at_once = inputs(network, augment=name, train=part(list(range(36)), 36))
    kept = FeatureCache(1 << 20, tmp_path)
    views = [whole(at_once, v)[0] for v in (0, 1)]
    assert not torch.allclose(*views)
    for indices in ([8, 30, 2], [30, 9, 8, 2, 1]):  # in two goes, with other random numbers
        made = inputs(model(), augment=name, train=part(indices, 2), cache=kept, data_id="squares")
        torch.manual_seed(len(indices))
        before = torch.get_rng_state()
        for v in (0, 1):
            torch.testing.assert_close(whole(made, v)[0], views[v][indices])
        assert torch.equal(before, torch.get_rng_state())
    assert not torch.allclose(views[0][8], views[0][9])


def test_mixed_rows_are_never_shared_with_other_pictures(tmp_path: Path) -> None:
    kept, every = Kept(tmp_path), list(range(36))
    mixed = {"augment": "mixup", "validation": None}
    assert kept.seen(model(), train=part(every[:24]), **mixed) == 24
    assert kept.seen(model(1), train=part(every[:24]), **mixed) == 0
    assert kept.seen(model(), train=part(every[:12]), **mixed) == 12
    assert kept.seen(model(), train=part(every[:24], 6), **mixed) == 24
    one, other = (
        inputs(model(), augment="mixup", train=part(every[:24]), cache=FeatureCache())
        for _ in range(2)
    )
    for a, b in zip(whole(one, 1), whole(other, 1), strict=True):
        assert torch.equal(a, b)
    targets = whole(one, 1)[1]
    assert not torch.equal(targets, whole(one, 0)[1])
    shares = [{round(float(x), 3) for x in part.unique()} for part in targets.split(12)]
    assert shares[0] != shares[1]  # each batch draws its own


def test_mixed_rows_that_were_interrupted_go_on_as_they_began(tmp_path: Path) -> None:
    every = part(list(range(36)))
    alone = whole(inputs(model(), augment="mixup", train=every), 0)
    kept = FeatureCache(1 << 20, tmp_path)
    made = inputs(model(), augment="mixup", train=every, cache=kept, data_id="squares")
    made.task.deadline = 0.0
    steps = iter([math.inf, math.inf, 0.0])
    made.task.on_step = lambda: setattr(made.task, "deadline", next(steps))  # after two batches
    with pytest.raises(OutOfTime):
        whole(made, 0)
    made.task.on_step, made.task.deadline = lambda: None, None
    found = whole(made, 0)
    assert torch.equal(found[1], alone[1])
    torch.testing.assert_close(found[0], alone[0])


def test_a_row_depends_on_the_weights_below_and_their_buffers(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.seen(model()) == 72
    assert kept.seen(model(3)) == 0  # another head
    moved = model()
    with torch.no_grad():
        moved.backbone.stages[1][0].weight[0, 0, 0, 0] += 1
    assert kept.seen(moved) == 72
    shifted = model()
    shifted.backbone.stages[1][1].running_mean[0] += 1
    assert kept.seen(shifted) == 72


@pytest.mark.parametrize(
    "changes",
    [
        {"data_id": "other"},
        {"train": part(list(range(36))), "validation": batches(squares(seed=2))},
        {"device": Device(CPU.torch_device, torch.bfloat16)},
    ],
    ids=["name", "pictures", "type"],
)
def test_other_data_and_types_have_rows_of_their_own(tmp_path: Path, changes: Any) -> None:
    kept = Kept(tmp_path)
    kept.seen(model())
    assert kept.seen(model(), **changes) >= 36
    assert kept.seen(model()) == 0


def test_a_part_above_the_cut_may_differ(tmp_path: Path) -> None:
    kept = FeatureCache(1 << 20, tmp_path)
    names = set()
    for changed in ("stem.0", "stages.2.0"):
        network = model()
        with torch.no_grad():
            network.backbone.get_submodule(changed).weight += 0.1
        made = Inputs(network, config(), task(cache=kept, data_id="squares"))
        top = [p for block in network.blocks[-1:] for p in block]
        set_trainable(network, [{"params": [*top, *network.head.parameters()]}])
        made.find_split_point(set())
        assert made.frozen is not None
        names.add(made.frozen.name_entry(made.task.train, None))
        network = model()
    made = Inputs(network, config(), task(cache=kept, data_id="squares"))
    set_trainable(network, [{"params": [*network.blocks[-1], *network.head.parameters()]}])
    made.find_split_point(set())
    assert made.frozen is not None
    assert made.frozen.name_entry(made.task.train, None) in names  # as with the changed top
    assert len(names) == 2


@freeze
def down(model: Model, epochs: int) -> Iterator[list[Group]]:
    """Everything learns, then the head alone on a backbone that is no longer what it was."""
    yield [{"params": model.parameters(), "lr": 1e-2}]
    yield [{"params": model.head.parameters(), "lr": 1e-2}]


@pytest.mark.parametrize(
    ("chosen", "data", "entries"),
    [("lp_ft", "squares", 2), (down, "squares", 0), ("linear_probe", None, 0)],
    ids=["before it learns", "after", "without a name for the data"],
)
def test_what_only_one_training_has_use_for_leaves_nothing_behind(
    tmp_path: Path, chosen: Any, data: Any, entries: int
) -> None:
    kept = FeatureCache(1 << 20, tmp_path)
    written = []
    for _ in fine_tune(model(), config(freeze=chosen), task(4, cache=kept, data_id=data)):
        written.append(kept.usage().entries)
    assert max(written) == 2  # train and validation are different packs
    assert kept.usage().entries == entries


def test_a_training_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    kept = FeatureCache(1 << 20, tmp_path)
    running = fine_tune(model(), config(), task(4, cache=kept))
    next(running)
    assert kept.usage().entries == 2
    running.close()
    assert kept.usage().entries == 0


def test_without_room_pictures_are_fed_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FeatureCache, "has_space", lambda *_: True
    )  # there was when it was looked at
    network = model()
    kept = FeatureCache(0, memory=0)
    epochs = list(fine_tune(network, config(freeze=TOP), task(2, cache=kept, data_id="squares")))
    alone = model()
    plain = list(fine_tune(alone, config(freeze=TOP), task(2, cache=FeatureCache(0, memory=0))))
    assert [e.loss for e in epochs] == pytest.approx([e.loss for e in plain], rel=1e-5)


# Larger than memory.

MIB = 1 << 20
SIDE, PICTURES = 96, 4096


@backbone
def coarse() -> nn.Module:
    """Every pixel of a picture that was made four times smaller."""
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.LayerNorm(3 * (SIDE // 4) ** 2))
    network.num_features = 3 * (SIDE // 4) ** 2
    network.pretrained_cfg = {"input_size": (3, SIDE, SIDE)}
    return network


def memory() -> int:
    """The most bytes of memory that this process had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def train_and_ask(folder: Path, count: int) -> tuple[int, int]:
    """Bytes of that many pictures, and of what was kept of them."""
    folder.mkdir(exist_ok=True)
    shape, path = (count, SIDE, SIDE, 3), folder / str(count)
    with path.open("wb") as file:
        file.truncate(math.prod(shape))
    pictures = MappedArray(path, shape)
    packed, labels = Packed(pictures.array, path, pictures), np.arange(count) % 3
    kept = FeatureCache(1 << 30, folder, memory=0)
    train, rest = (
        Batches(packed, labels, some, 64, CPU.torch_device, shuffle_seed=seed)
        for some, seed in ((np.arange(count // 2), 0), (np.arange(count // 2, count), None))
    )
    chosen: dict[str, Any] = {"backbone": coarse}
    network = model(**chosen)
    parts = {"train": train, "validation": rest, "score": lambda p: float(len(p))}
    run = task(2, **parts, cache=kept, data_id="large")
    assert [e.score for e in fine_tune(network, config(**chosen), run)] == [rest.num_examples] * 2
    assert len(predict(network, rest, CPU)) == rest.num_examples
    return math.prod(shape), kept.usage().bytes


def grow(folder: Path) -> tuple[int, int, int]:
    """Bytes of pictures, of what was kept, and by which memory grew."""
    cache.CHUNK_BYTES, memory_map.MAX_RESIDENT_BYTES = 2 * MIB, 8 * MIB
    train_and_ask(folder, 1024)  # the code comes in and the allocator settles, which count too
    before = memory()
    return *train_and_ask(folder, PICTURES), memory() - before


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its memory")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    for attempt in range(3):  # on a busy machine the kernel takes pages back late
        # Spawned: a fork would have the heap that the tests before have left.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pictures, kept, grown = pool.apply(grow, (tmp_path / f"{attempt}",))
        assert pictures > 100 * MIB
        assert kept > 25 * MIB
        if grown < 64 * MIB:
            return
    raise AssertionError(f"it grew by {grown / MIB:.0f} MiB")


# Penalties.


@pytest.mark.parametrize("micro", [12, 5])
def test_a_penalty_is_added_to_the_mean_loss(micro: int) -> None:
    gradients = []
    for penalised in (False, True):
        network = model()
        made = inputs(network)
        made.micro_batch_size = micro
        if penalised:
            weight = network.head[1].weight
            network.penalties.append(lambda features, w=weight: (w**2).sum())
        [(batch, targets), *_] = made.training_batches(1)
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
    assert made.frozen is not None
    batch, targets = made.frozen.compute(images), made.one_hot(labels)
    logits = network.head(batch) + torch.tensor(offsets)
    each = functional.cross_entropy(logits, labels, reduction="none")
    expected = (each * torch.tensor(weights)[labels]).mean()
    torch.testing.assert_close(made.loss(batch, targets), expected)
    probabilities = made.predict_validation()  # neither enters what the model answers
    part = made.task.validation
    assert part is not None
    assert probabilities == pytest.approx(predict(network, part, made.task.device), abs=1e-6)


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
    same = [np.concatenate(part.epoch_indices(3, [1.0, 0.0, 3.0])) for _ in range(2)]
    assert np.array_equal(*same)


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
    assert epochs[0].trained_parameters == 24 * 3 + 3


@pytest.mark.parametrize("chosen", ["full", TOP, ("lp_ft", {"probe_fraction": 0.5})])
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
        merge_parametrizations(network)
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
