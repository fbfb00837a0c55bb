"""Activations of frozen layers: computed once, shared by those that may, and never changed."""

from __future__ import annotations

import math
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_growth import MIB, measure_growth
from torch import Tensor, nn
from toy import CPU, Backbone, batches, config, job, model, squares
from training_helpers import TOP, count_images, get_view, half_and_half, have_equal_weights, train

from autotl import backbone, freeze, head
from autotl.data import Batches
from autotl.errors import OutOfTime
from autotl.frozen import FeatureCache
from autotl.frozen.cache import MAX_PREFIXES
from autotl.frozen.split_point import SplitPoint
from autotl.models import Device, Group, Model, fast_inference
from autotl.training import ComputeSettings, fine_tune, set_trainable
from autotl.training.inputs import Inputs

ALL = list(range(36))


def make_inputs(network: Model, **changes: Any) -> Inputs:
    """The inputs of ``network``, of which only the head is trained."""
    chosen = {k: changes.pop(k) for k in ("augment", "head") if k in changes}
    inputs = Inputs(network, config(**chosen), job(**changes))
    set_trainable(network, [{"params": list(network.head.parameters())}])
    inputs.find_split_point(set())
    return inputs


def make_inputs_for_top(network: Model, blocks: int, run: Any, **chosen: Any) -> Inputs:
    """The inputs of ``network``, of which the head and some last blocks are trained."""
    inputs = Inputs(network, config(**chosen), run)
    top = [p for block in network.blocks[-blocks:] for p in block]
    set_trainable(network, [{"params": [*top, *network.head.parameters()]}])
    inputs.find_split_point(set())
    return inputs


def select(indices: list[int], size: int = 12, **changes: Any) -> Batches:
    """Batches of some of 36 images."""
    every = batches(squares(), size)
    labels, chosen = every.targets.numpy(), np.array(indices)
    device = CPU.torch_device
    return Batches(every.packed, labels, chosen, size, device, shuffle_seed=0, **changes)


# Number of passes through the frozen layers.


def test_a_frozen_backbone_runs_once_for_each_view() -> None:
    network, cache = model(), FeatureCache()
    sizes = count_images(network)
    chosen = config(augment="flip_crop")
    list(fine_tune(network, chosen, job(8, cache=cache, data_id="squares")))
    assert sum(sizes) == 4 * 36 + 36 + 4  # four views, validation, four to find the row size
    other = model(1)
    sizes = count_images(other)
    list(fine_tune(other, chosen, job(8, cache=cache, data_id="squares")))
    assert sum(sizes) == 4
    sizes.clear()
    list(fine_tune(other, config(), job(8, cache=cache, data_id="squares")))
    assert sum(sizes) == 4  # its only view, without augmentation, was among the four


@pytest.mark.parametrize(("views", "passes"), [(1, 1), (2, 2), (9, 3)])
def test_the_number_of_views_can_be_chosen(views: int, passes: int) -> None:
    network = model()
    sizes = count_images(network)
    list(fine_tune(network, config(augment="flip_crop"), job(3, views=views)))
    assert sum(sizes) == passes * 36 + 36 + 4


def test_views_differ_and_are_used_in_turn() -> None:
    inputs = make_inputs(model(), augment="flip_crop", epochs=6, views=2)
    assert inputs.split_point is not None
    views = [get_view(inputs, v)[0] for v in (None, 1)]
    assert not torch.equal(*views)
    for epoch in (1, 2, 3):
        order = np.concatenate(inputs.job.train.epoch_indices(epoch))
        fed = torch.cat([batch for batch, _ in inputs.training_batches(epoch)])
        assert torch.equal(fed, views[(epoch - 1) % 2][order])


def test_without_an_id_of_the_data_nothing_is_shared() -> None:
    cache = FeatureCache()
    for seed in (0, 1):
        network = model(seed)
        sizes = count_images(network)
        list(fine_tune(network, config(), job(1, cache=cache)))
        assert sum(sizes) == 36 + 36 + 4


# Results.


def test_other_data_and_other_backbones_have_their_own_activations() -> None:
    @backbone
    def other() -> nn.Module:
        """The toy backbone with other weights."""
        torch.manual_seed(9)
        return Backbone()

    cache = FeatureCache()
    train(cache=cache, data_id="a")
    shared, _ = train(cache=cache, data_id="a", backbone=other)
    alone, _ = train(backbone=other)
    assert have_equal_weights(shared, alone)
    fewer = batches(squares(8, seed=2))
    shared, _ = train(cache=cache, data_id="b", train=fewer)
    alone, _ = train(train=fewer)
    assert have_equal_weights(shared, alone)


@pytest.mark.parametrize("chosen", [TOP, "linear_probe", "gradual", "lp_ft"])
def test_caching_changes_no_result(chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitPoint, "tolerates_float16", lambda *_: False)
    one, cached = train(epochs=4, freeze=chosen)
    other, uncached = train(epochs=4, freeze=chosen, cache=FeatureCache(0, memory=0))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-5)
    assert [e.loss for e in cached] == pytest.approx([e.loss for e in uncached], rel=1e-4)
    assert [e.score for e in cached] == pytest.approx([e.score for e in uncached], abs=0.03)


def test_caching_in_16_bits_changes_results_little(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache()
    _, float16 = train(epochs=4, freeze=TOP, cache=cache, data_id="squares")
    float16_bytes = cache.usage().bytes
    monkeypatch.setattr(SplitPoint, "tolerates_float16", lambda *_: False)
    _, float32 = train(epochs=4, freeze=TOP, cache=cache, data_id="squares")
    # Both are there: the type is part of the entry's name.
    assert cache.usage().bytes > 2.5 * float16_bytes
    assert [e.loss for e in float16] == pytest.approx([e.loss for e in float32], rel=1e-2)
    assert [e.loss for e in float16] != [e.loss for e in float32]


@pytest.mark.parametrize(("limit", "cached"), [(0.9, False), (1.1, True)])
def test_activations_that_take_more_than_half_of_the_space_are_not_cached(
    limit: float, cached: bool
) -> None:
    # After the first stage, two bytes each, for two views and validation.
    numbers = 16 * 4 * 4 * (2 * 36 + 36)
    run = job(2, cache=FeatureCache(int(limit * 2 * 2 * numbers), memory=0))
    inputs = make_inputs_for_top(model(), 2, run, freeze=TOP, augment="flip_crop")
    assert (inputs.split_point is not None) == cached


@freeze
def full_then_probe(model: Model, epochs: int) -> Iterator[list[Group]]:
    """Train everything in the first epoch, then the head alone on the changed backbone."""
    yield [{"params": model.parameters(), "lr": 1e-2}]
    yield [{"params": model.head.parameters(), "lr": 1e-2}]


def test_activations_of_a_trained_backbone_are_not_shared() -> None:
    cache = FeatureCache()
    train(epochs=3, cache=cache, data_id="squares")  # another training's, of the initial backbone
    shared, _ = train(epochs=3, freeze=full_then_probe, cache=cache, data_id="squares")
    alone, _ = train(epochs=3, freeze=full_then_probe, cache=FeatureCache(0, memory=0))
    torch.testing.assert_close(shared.state_dict(), alone.state_dict(), rtol=1e-3, atol=1e-5)
    cache = FeatureCache()
    train(epochs=3, freeze=full_then_probe, cache=cache, data_id="squares")
    after, _ = train(epochs=3, cache=cache, data_id="squares")
    fresh, _ = train(epochs=3)
    assert have_equal_weights(after, fresh)


def test_a_head_that_works_in_place_does_not_change_cached_activations() -> None:
    class Halving(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features.mul_(0.5))

    @head
    def halving(features: int, classes: int) -> nn.Module:
        return Halving(features, classes)

    def confidence(probabilities: np.ndarray) -> float:
        return float(probabilities.max(1).mean())

    _, cached = train(epochs=3, head=halving, score=confidence)
    _, alone = train(epochs=3, head=halving, score=confidence, cache=FeatureCache(0, memory=0))
    assert [e.score for e in cached] == pytest.approx([e.score for e in alone], rel=1e-5)
    assert [e.loss for e in cached] == pytest.approx([e.loss for e in alone], rel=1e-5)


def test_without_space_the_model_is_fed_images_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FeatureCache, "has_space", lambda *_: True)  # when it was asked
    full = FeatureCache(0, memory=0)
    _, epochs = train(freeze=TOP, cache=full, data_id="squares")
    monkeypatch.undo()
    _, uncached = train(freeze=TOP, cache=FeatureCache(0, memory=0))
    assert [e.loss for e in epochs] == pytest.approx([e.loss for e in uncached], rel=1e-5)


# Rows of mixed images.


def test_a_cached_view_of_mixed_images_has_their_targets() -> None:
    inputs = make_inputs(model(), augment=half_and_half)
    activations, targets = get_view(inputs, 0)
    [first, *_] = inputs.job.train.shuffled_indices(0)
    [(images, labels)] = inputs.job.train.load([first])
    mixed, mixed_targets = half_and_half(16)(images, inputs.model.task.expand(labels))
    assert inputs.frozen is not None
    torch.testing.assert_close(activations[first], inputs.frozen.compute(mixed))
    assert torch.equal(targets[first], mixed_targets)


def test_images_in_the_order_of_their_classes_are_mixed_with_other_classes() -> None:
    in_order = batches(sorted(squares(), key=lambda example: example.label))
    inputs = make_inputs(model(), augment=half_and_half, train=in_order)
    _, targets = get_view(inputs, 1)
    assert (targets.max(1).values == 0.5).float().mean() > 0.4  # by chance two thirds


def test_rows_without_augmentation_have_no_targets() -> None:
    _, targets = get_view(make_inputs(model(), augment=half_and_half), None)
    assert targets is None


def test_rows_of_mixed_images_are_never_shared_with_other_images(tmp_path: Path) -> None:
    passes = Passes(tmp_path)
    mixed = {"augment": "mixup", "validation": None}
    assert passes.count(model(), train=select(ALL[:24]), **mixed) == 24
    assert passes.count(model(1), train=select(ALL[:24]), **mixed) == 0
    assert passes.count(model(), train=select(ALL[:12]), **mixed) == 12
    assert passes.count(model(), train=select(ALL[:24], 6), **mixed) == 24
    one, other = (
        make_inputs(model(), augment="mixup", train=select(ALL[:24]), cache=FeatureCache())
        for _ in range(2)
    )
    for a, b in zip(get_view(one, 1), get_view(other, 1), strict=True):
        assert torch.equal(a, b)
    targets = get_view(one, 1)[1]
    assert not torch.equal(targets, get_view(one, 0)[1])
    fractions = [{round(float(x), 3) for x in batch.unique()} for batch in targets.split(12)]
    assert fractions[0] != fractions[1]  # each batch draws its own


def test_interrupted_rows_of_mixed_images_continue_as_they_began(tmp_path: Path) -> None:
    every = select(ALL)
    alone = get_view(make_inputs(model(), augment="mixup", train=every), 0)
    cache = FeatureCache(1 << 20, tmp_path)
    inputs = make_inputs(model(), augment="mixup", train=every, cache=cache, data_id="squares")
    inputs.job.deadline = 0.0
    deadlines = iter([math.inf, math.inf, 0.0])  # it passes after two batches
    inputs.job.on_step = lambda: setattr(inputs.job, "deadline", next(deadlines))
    with pytest.raises(OutOfTime):
        get_view(inputs, 0)
    inputs.job.on_step, inputs.job.deadline = lambda: None, None
    activations, targets = get_view(inputs, 0)
    assert torch.equal(targets, alone[1])
    torch.testing.assert_close(activations, alone[0])


# Rows that several trainings share.


class Passes:
    """Counts the images that trainings with the same cache run through the frozen layers."""

    def __init__(self, folder: Path) -> None:
        self.cache = FeatureCache(1 << 20, folder)

    def count(self, network: Model, **changes: Any) -> int:
        """Images that the stem sees in an epoch, without those that find the split point."""
        inputs = make_inputs(network, cache=self.cache, **({"data_id": "squares"} | changes))
        sizes = count_images(network)
        list(inputs.training_batches(2))  # of two views the second, which is augmented
        if inputs.job.validation:
            inputs.predict_validation()
        return sum(sizes)


def test_resamples_and_the_refit_share_their_rows(tmp_path: Path) -> None:
    passes = Passes(tmp_path)
    first = {"train": select(ALL[:20]), "validation": select(ALL[20:30])}
    assert passes.count(model(), **first) == 30
    other = {"train": select(ALL[5:25]), "validation": select([*ALL[:5], *ALL[25:]])}
    assert passes.count(model(), **other) == 6
    assert passes.count(model(), train=select(ALL), validation=None) == 0
    other_batch_size = {"train": select(ALL, 5), "validation": None}
    assert passes.count(model(1), **other_batch_size) == 0


@pytest.mark.parametrize("name", ["flip_crop", "rand_augment"])
def test_a_view_is_the_same_whichever_training_computes_it(tmp_path: Path, name: str) -> None:
    together = make_inputs(model(), augment=name, train=select(ALL, 36))
    cache = FeatureCache(1 << 20, tmp_path)
    views = [get_view(together, v)[0] for v in (0, 1)]
    assert not torch.allclose(*views)
    for indices in ([8, 30, 2], [30, 9, 8, 2, 1]):  # in two steps, with other random numbers
        changes = {"train": select(indices, 2), "cache": cache, "data_id": "squares"}
        inputs = make_inputs(model(), augment=name, **changes)
        torch.manual_seed(len(indices))
        before = torch.get_rng_state()
        for v in (0, 1):
            torch.testing.assert_close(get_view(inputs, v)[0], views[v][indices])
        assert torch.equal(before, torch.get_rng_state())
    assert not torch.allclose(views[0][8], views[0][9])


def test_a_row_depends_on_the_frozen_weights_and_their_buffers(tmp_path: Path) -> None:
    passes = Passes(tmp_path)
    assert passes.count(model()) == 72
    assert passes.count(model(3)) == 0  # another head
    moved = model()
    with torch.no_grad():
        moved.backbone.stages[1][0].weight[0, 0, 0, 0] += 1
    assert passes.count(moved) == 72
    shifted = model()
    shifted.backbone.stages[1][1].running_mean[0] += 1
    assert passes.count(shifted) == 72


@pytest.mark.parametrize(
    "changes",
    [
        {"data_id": "other"},
        {"train": select(ALL), "validation": batches(squares(seed=2))},
        {"device": Device(CPU.torch_device, torch.bfloat16)},
    ],
    ids=["data id", "images", "type"],
)
def test_other_data_and_types_have_rows_of_their_own(tmp_path: Path, changes: Any) -> None:
    passes = Passes(tmp_path)
    passes.count(model())
    assert passes.count(model(), **changes) >= 36
    assert passes.count(model()) == 0


def test_weights_after_the_split_point_do_not_matter(tmp_path: Path) -> None:
    cache = FeatureCache(1 << 20, tmp_path)

    def name_entry(changed: str | None = None) -> str:
        network = model()
        if changed:
            with torch.no_grad():
                network.backbone.get_submodule(changed).weight += 0.1
        inputs = make_inputs_for_top(network, 1, job(cache=cache, data_id="squares"))
        assert inputs.frozen is not None
        return inputs.frozen.name_entry(inputs.job.train, None)

    assert name_entry() == name_entry("stages.2.0") != name_entry("stem.0")


def test_rows_in_tf32_have_a_name_of_their_own() -> None:
    inputs = make_inputs_for_top(model(), 1, job(data_id="squares"))
    frozen = inputs.frozen
    assert frozen is not None
    names, cpu = [], CPU.torch_device
    for device in (CPU, Device(cpu, torch.float16), Device(cpu, None, tf32=True)):
        frozen.device = device
        names.append(frozen.name_entry(inputs.job.train, None))
    assert len(set(names)) == 3


# What is left in the cache.


@pytest.mark.parametrize(
    ("chosen", "data_id", "entries"),
    [("lp_ft", "squares", 2), (full_then_probe, "squares", 0), ("linear_probe", None, 0)],
    ids=["before the backbone is trained", "after it was trained", "without an id of the data"],
)
def test_entries_that_only_one_training_can_use_are_removed(
    tmp_path: Path, chosen: Any, data_id: Any, entries: int
) -> None:
    cache = FeatureCache(1 << 20, tmp_path)
    run = job(4, cache=cache, data_id=data_id)
    written = [cache.usage().entries for _ in fine_tune(model(), config(freeze=chosen), run)]
    assert max(written) == 2  # train and validation are packed separately
    assert cache.usage().entries == entries


def test_a_stopped_training_removes_its_entries(tmp_path: Path) -> None:
    cache = FeatureCache(1 << 20, tmp_path)
    running = fine_tune(model(), config(), job(4, cache=cache))
    next(running)
    assert cache.usage().entries == 2
    running.close()
    assert cache.usage().entries == 0


# Data larger than memory.


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from Linux")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    # Spawned: a forked process would have the heap of the tests before.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        images, cached, grown = pool.submit(measure_growth, tmp_path).result()
    assert images > 100 * MIB
    assert cached > 25 * MIB
    assert grown < 64 * MIB


# The prefix on OpenVINO.


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each call of a compiled prefix; each number of images pays."""
    pytest.importorskip("openvino")
    monkeypatch.setattr(fast_inference, "MIN_PIXELS", 0)
    compile_forward = fast_inference.compile_forward
    sizes: list[int] = []

    def record(*args: Any) -> fast_inference.Forward:
        forward = compile_forward(*args)
        return lambda images: (sizes.append(len(images)), forward(images))[1]

    monkeypatch.setattr(fast_inference, "compile_forward", record)
    return sizes


@pytest.mark.parametrize("chosen", ["linear_probe", TOP])
def test_a_compiled_prefix_changes_no_result(chosen: Any, compiled: list[int]) -> None:
    network, epochs = train(freeze=chosen, augment="flip_crop")
    assert sum(compiled) == 2 * 36 + 36  # two views and validation
    never = ComputeSettings(openvino_from=0)
    other, usual = train(freeze=chosen, augment="flip_crop", compute=never)
    assert sum(compiled) == 3 * 36
    torch.testing.assert_close(network.state_dict(), other.state_dict(), rtol=1e-3, atol=1e-4)
    assert [e.loss for e in epochs] == pytest.approx([e.loss for e in usual], rel=1e-4)


@pytest.mark.parametrize(("threshold", "images"), [(36, 36 + 36), (37, 0), (0, 0), (None, 72)])
def test_a_prefix_is_compiled_for_enough_missing_images(
    threshold: int | None, images: int, compiled: list[int]
) -> None:
    cache, settings = FeatureCache(), ComputeSettings(openvino_from=threshold)
    train(cache=cache, data_id="squares", compute=settings)
    assert sum(compiled) == images
    train(cache=cache, data_id="squares", compute=settings)  # all rows are cached
    assert sum(compiled) == images


def test_trainings_share_a_compiled_prefix(
    compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache()
    train(cache=cache, augment="none")
    monkeypatch.setattr(fast_inference, "_compile", lambda *_: pytest.fail("compiled again"))
    train(seed=1, cache=cache, augment="flip_crop")
    assert len(cache.prefixes) == 1
    monkeypatch.undo()
    for fraction in (0.2, 0.5, 0.8):
        train(cache=cache, freeze=("last_blocks", {"fraction": fraction}))
    assert len(cache.prefixes) <= MAX_PREFIXES


def test_a_prefix_that_cannot_be_compiled_runs_in_pytorch_and_says_why(
    compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def fail(*args: Any) -> Any:
        tries.append(1)
        raise RuntimeError("no such operator")

    monkeypatch.setattr(fast_inference, "_compile", fail)
    messages: list[str] = []
    measured: dict[str, Any] = {}
    for seed in (0, 1):
        _, epochs = train(seed, cache=FeatureCache(warn=messages.append), measured_costs=measured)
    assert len(tries) == 1  # it would fail again
    assert messages == ["toy: features take longer: OpenVINO fails: no such operator"]
    assert [list(entry.values()) for entry in measured.values()] == [
        ["OpenVINO fails: no such operator"]
    ]
    _, usual = train(1, compute=ComputeSettings(openvino_from=0))
    assert [e.loss for e in epochs] == [e.loss for e in usual]
