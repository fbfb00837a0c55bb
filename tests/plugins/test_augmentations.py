"""Augmentations: what they change, how often and how strongly, and the targets."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from autotl_plugins.augmentations import _make_noise
from images import image_input
from scipy import stats
from torch import Tensor
from torch.nn import functional
from toy import REGISTRY, SIDE, config, job, model

from autotl.space.hyperparameter import Hyperparameter
from autotl.space.plugin import AnyPlugin
from autotl.space.space import Choice
from autotl.tasks import numbered_classes
from autotl.training import fine_tune
from autotl.training.augmentation import Augmentation, UniformNumbers

AUGMENTATIONS = [p for p in REGISTRY if p.kind == "augment"]
RANDOM = [p for p in AUGMENTATIONS if p.name != "none"]
MIXING = [p for p in AUGMENTATIONS if p.mixes]
FLIP_CROP = REGISTRY.get("augment", "flip_crop")
WHOLE = {"min_scale": 1.0, "flip": False}
"""Values that switch cropping and flipping off, so that only the later changes are visible."""


def name_of(value: Any) -> str:
    return str(value.name)


def extremes(h: Hyperparameter) -> tuple[Any, ...]:
    """Both limits of a range, or every choice."""
    if h.range is None:
        return h.choices or ()
    return h.type(h.range.low), h.type(h.range.high)


def random_images(count: int, same: bool = False, side: int = SIDE) -> Tensor:
    random = torch.Generator().manual_seed(3)
    augmented = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)
    return augmented[:1].expand(count, -1, -1, -1).clone() if same else augmented


def uniform_images(count: int, side: int = SIDE) -> Tensor:
    """Images of one grey value each, all different; ``count`` is at most 256."""
    shades = torch.arange(count, dtype=torch.uint8)
    return shades[:, None, None, None].expand(-1, 3, side, side).clone()


def make_transform(plugin: AnyPlugin, params: dict[str, Any], images: Tensor) -> Any:
    """The transform of a plugin, with the random numbers of training."""
    given = {"size": images.shape[-1], "uniform": UniformNumbers(plugin.name)}
    return plugin.call(given, {**plugin.defaults, **params})


def mix(
    plugin: AnyPlugin, params: dict[str, Any], images: Tensor, targets: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    transform = make_transform(plugin, params, images)
    torch.manual_seed(seed)
    augmented: tuple[Tensor, Tensor] = transform(images, targets)
    return augmented


def augment(plugin: AnyPlugin, params: dict[str, Any], images: Tensor, seed: int = 0) -> Tensor:
    """The augmented images; if they are mixed, each has its own class."""
    if plugin.mixes:
        return mix(plugin, params, images, torch.eye(len(images)), seed)[0]
    transform = make_transform(plugin, params, images)
    torch.manual_seed(seed)
    augmented: Tensor = transform(images)
    return augmented


# All of them.


@pytest.mark.parametrize("plugin", AUGMENTATIONS, ids=name_of)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 6, 7])
def test_shape_and_type_are_kept_and_the_input_is_not_changed(
    plugin: AnyPlugin, layout: torch.memory_format, count: int
) -> None:
    images = random_images(count).contiguous(memory_format=layout)
    before = images.clone()
    augmented = augment(plugin, {}, images)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(augmented, augment(plugin, {}, images.contiguous()))


@pytest.mark.parametrize("plugin", AUGMENTATIONS, ids=name_of)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_images_may_have_any_number_of_channels(plugin: AnyPlugin, channels: int) -> None:
    images = random_images(64)
    images = images.repeat(1, 2, 1, 1)[:, :channels].contiguous()
    for seed in range(3):
        augmented = augment(plugin, {}, images, seed)
        assert augmented.shape == images.shape
        assert augmented.dtype == torch.uint8


def test_a_grey_image_is_changed_as_the_same_image_in_colour() -> None:
    grey = random_images(256)[:, :1].contiguous()
    for name in ("trivial_augment", "flip_crop", "random_erasing"):
        plugin = next(p for p in AUGMENTATIONS if p.name == name)
        params = {"fill": "mean"} if name == "random_erasing" else {}
        one = augment(plugin, params, grey)
        three = augment(plugin, params, grey.expand(-1, 3, -1, -1).contiguous())
        difference = (three.int() - one.int()).abs().amax((1, 2, 3))
        # The weights of the luma have the sum 0.9999, by which contrasts differ.
        assert (difference <= 2).float().mean() > 0.97


@pytest.mark.parametrize("plugin", RANDOM, ids=name_of)
def test_each_image_is_changed_differently(plugin: AnyPlugin) -> None:
    augmented = augment(plugin, {}, random_images(24, same=True))
    assert len({image.numpy().tobytes() for image in augmented}) > 12


@pytest.mark.parametrize("plugin", RANDOM, ids=name_of)
def test_augmentation_follows_the_seed(plugin: AnyPlugin) -> None:
    images = random_images(8)
    assert torch.equal(augment(plugin, {}, images, 1), augment(plugin, {}, images, 1))
    assert not torch.equal(augment(plugin, {}, images, 1), augment(plugin, {}, images, 2))


PARAMETERS = [(p, h) for p in RANDOM for h in p.hyperparameters]


@pytest.mark.parametrize(("plugin", "h"), PARAMETERS, ids=name_of)
def test_every_hyperparameter_changes_the_images(plugin: AnyPlugin, h: Hyperparameter) -> None:
    low, high = (augment(plugin, {h.name: value}, random_images(16)) for value in extremes(h))
    assert not torch.equal(low, high)


FLIPPING = [p for p in RANDOM if "flip" in p.defaults]


@pytest.mark.parametrize("plugin", FLIPPING, ids=name_of)
@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_images_are_flipped_if_flip_is_on(plugin: AnyPlugin, flip: bool) -> None:
    """Measured by whether the brighter side is still on the right."""
    ramp = torch.linspace(0, 255, 32).to(torch.uint8).expand(300, 3, 32, 32)
    augmented = augment(plugin, {"flip": flip}, ramp).float().mean((1, 2))
    right = (augmented[:, 16:].sum(1) > augmented[:, :16].sum(1)).float().mean()
    # Some operations invert the brightness, and an even mixture of both has no brighter side.
    assert abs(right - (0.5 if flip else 1)) < (0.1 if plugin is FLIP_CROP else 0.17)


def test_none_returns_the_same_tensor() -> None:
    images = random_images(4)
    assert augment(REGISTRY.get("augment", "none"), {}, images) is images


@pytest.mark.parametrize("plugin", AUGMENTATIONS, ids=name_of)
def test_a_model_can_be_trained_with_each_augmentation(plugin: AnyPlugin) -> None:
    chosen = {"augment": plugin, "freeze": "full"}
    for epoch in fine_tune(model(**chosen), config(**chosen), job(2)):
        assert math.isfinite(epoch.loss)


# Crops.


def test_without_cropping_half_of_the_images_are_flipped() -> None:
    images = random_images(200, same=True)
    assert (augment(FLIP_CROP, WHOLE, images).int() - images).abs().max() <= 1
    augmented = augment(FLIP_CROP, {"min_scale": 1.0}, images).int()
    unchanged = (augmented - images).abs().amax((1, 2, 3)) <= 1
    mirrored = (augmented - images.flip(3)).abs().amax((1, 2, 3)) <= 1
    assert (unchanged ^ mirrored).all()
    assert 60 < int(mirrored.sum()) < 140


@pytest.mark.parametrize("min_scale", [0.08, 0.5, 0.9])
def test_the_area_of_a_crop_is_at_least_min_scale(min_scale: float) -> None:
    side = 64
    along = torch.arange(side, dtype=torch.uint8) * 2 + 60
    ramps = torch.stack([along.expand(side, side), along[:, None].expand(side, side)] * 2)[:3]
    augmented = augment(
        FLIP_CROP, {"min_scale": min_scale, "flip": False}, ramps.expand(300, -1, -1, -1)
    )
    inner = augmented.double()[
        :, :, 8:-8, 8:-8
    ]  # the slope of the ramps measures the sides of the crop
    wide = (inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1) / 2 / 47
    high = (inner[:, 1, -1] - inner[:, 1, 0]).mean(1) / 2 / 47
    area, ratio = wide * high, wide / high
    assert area.min() >= min_scale - 0.03
    assert area.max() <= 1.03
    assert area.max() - area.min() > 0.8 * (1 - min_scale)
    assert ratio.min() >= 3 / 4 - 0.15
    assert ratio.max() <= 4 / 3 + 0.15
    assert ratio.std() > 0.01


@pytest.mark.parametrize("name", ["random_erasing", "mixup", "cutmix"])
def test_others_crop_as_flip_crop_does(name: str) -> None:
    """On a batch of equal grey ramps their own change is switched off or not visible."""
    images = torch.arange(64, dtype=torch.uint8).expand(40, 3, 64, 64) * 3
    plugin = REGISTRY.get("augment", name)
    if name == "random_erasing":
        augmented = augment(plugin, {"probability": 0.0, "min_scale": 0.3}, images)
        assert torch.equal(augmented, augment(FLIP_CROP, {"min_scale": 0.3}, images))
    else:
        augmented, _ = mix(plugin, {"min_scale": 0.3}, images, torch.eye(40))
        crops = augment(FLIP_CROP, {"min_scale": 0.3}, images)
        unchanged = (augmented.int() - crops).abs().amax((1, 2, 3)) <= 1
        assert name == "cutmix" or unchanged.any()
        first = images.new_zeros(1, 3, 64, 64) + images[:1]
        one, _ = mix(plugin, {"min_scale": 0.3}, first, torch.eye(1))
        assert torch.equal(one, augment(FLIP_CROP, {"min_scale": 0.3}, first))


# The distributions of what is drawn, in a view and in training.

COUNT = 20_000


def draw_many(plugin: AnyPlugin, in_view: bool, **params: Any) -> None:
    """Augment many tiny images; the test records what is drawn for them."""
    augmentation = Augmentation(
        Choice(plugin, {**plugin.defaults, **params}),
        image_input(4),
        numbered_classes(2),
        torch.device("cpu"),
    )
    images = torch.zeros(COUNT, 3, 4, 4, dtype=torch.uint8)
    torch.manual_seed(0)
    if in_view:
        augmentation.make_view(images, np.arange(COUNT), 1)
    else:
        augmentation(images, torch.zeros(COUNT, dtype=torch.int64))


def are_uniform(values: Any, low: float, high: float) -> bool:
    statistic = stats.kstest(np.asarray(values, np.float64), stats.uniform(low, high - low).cdf)
    return bool(statistic.pvalue > 1e-4)


@pytest.mark.parametrize("in_view", [True, False])
@pytest.mark.parametrize("min_scale", [0.1, 0.5])
def test_crops_have_the_distribution_of_the_paper(
    min_scale: float, in_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    record = "autotl_plugins.augmentations.compute_in_parts"
    monkeypatch.setattr(record, lambda crop, images, crops: (drawn.append(crops), images)[1])
    draw_many(FLIP_CROP, in_view, min_scale=min_scale)
    wide, high, x, y = drawn[0].double().T
    is_flipped, wide = wide < 0, wide.abs()
    area, ratio = wide * high, wide / high
    assert are_uniform(area, min_scale, 1)
    is_free = area < 3 / 4  # larger ones cannot have every aspect ratio
    assert are_uniform(ratio[is_free].log() / math.log(4 / 3), -1, 1)
    assert float(wide.max()) <= 1 >= float(high.max())
    assert are_uniform((x / (1 - wide))[is_free], -1, 1)
    assert are_uniform((y / (1 - high))[is_free], -1, 1)
    assert abs(int(is_flipped.sum()) - COUNT / 2) < 4 * (COUNT / 4) ** 0.5
    values = torch.stack([area, ratio, x / (1 - wide), y / (1 - high), is_flipped.double()])
    others = values[:, is_free].corrcoef().fill_diagonal_(0)
    assert float(others.abs().max()) < 4.5 * int(is_free.sum()) ** -0.5


@pytest.mark.parametrize("in_view", [True, False])
def test_erased_rectangles_have_the_distribution_of_the_paper(
    in_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Tensor, ...]] = []

    def record(*values: Tensor) -> Tensor:
        drawn.append(values)
        return torch.zeros(COUNT, 1, 1, 1, dtype=torch.bool)

    monkeypatch.setattr("autotl_plugins.augmentations._make_boxes", record)
    draw_many(REGISTRY.get("augment", "random_erasing"), in_view, probability=0.3, max_area=0.4)
    fraction, ratio, positions, _ = drawn[0]
    erased = fraction > 0
    assert abs(int(erased.sum()) - 0.3 * COUNT) < 4 * (0.21 * COUNT) ** 0.5
    assert are_uniform(fraction[erased], 0.02, 0.4)
    assert are_uniform(ratio.log() / math.log(10 / 3), -1, 1)
    assert are_uniform(positions[:, 0], 0, 1)
    assert are_uniform(positions[:, 1], 0, 1)


@pytest.mark.parametrize("in_view", [True, False])
def test_noise_is_uniform_in_each_channel(in_view: bool) -> None:
    uniform, images = UniformNumbers("test"), torch.empty(500, 3, 40, 40)
    with uniform.of_view(1, np.arange(500)) if in_view else nullcontext():
        noise = _make_noise(images, uniform)
    assert noise.shape == images.shape
    for channel in noise.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4
    channels = noise.double().transpose(0, 1).flatten(1)
    assert float(channels.corrcoef().fill_diagonal_(0).abs().max()) < 4.5 * 800_000**-0.5


@pytest.mark.parametrize("in_view", [True, False])
@pytest.mark.parametrize(
    ("name", "magnitudes"), [("rand_augment", {7}), ("trivial_augment", set(range(31)))]
)
def test_operations_and_magnitudes_have_the_distribution_of_torchvision(
    name: str, magnitudes: set[int], in_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[tuple[Any, Any]] = []
    module = "autotl_plugins.augmentations"

    def tabulate(size: int, wide: bool) -> Any:
        """Parameters that name the operation, the sign and the magnitude."""
        return np.stack(np.meshgrid(range(14), range(2), range(31), indexing="ij"), -1)

    def record(images: Tensor, operations: Any, parameters: Any) -> Tensor:
        rounds.append((operations, parameters))
        return images

    monkeypatch.setattr(f"{module}.tabulate_parameters", tabulate)
    monkeypatch.setattr(f"{module}.apply_operations", record)
    flipped: list[Any] = []
    monkeypatch.setattr(f"{module}.mirror_some", lambda images, which: flipped.append(which))
    plugin = REGISTRY.get("augment", name)
    draw_many(plugin, in_view)
    assert len(rounds) == plugin.defaults.get("operations", 1)
    for operations, (operation, sign, magnitude) in ((o, p.T) for o, p in rounds):
        assert np.array_equal(operations, operation)
        table = np.zeros((14, 2, 31))
        np.add.at(table, (operation, sign, magnitude), 1)
        assert set(np.flatnonzero(table.sum((0, 1)))) == magnitudes
        assert stats.chisquare(table[:, :, sorted(magnitudes)].flatten()).pvalue > 1e-4
    assert abs(int(flipped[0].sum()) - COUNT / 2) < 4 * (COUNT / 4) ** 0.5
    if len(rounds) == 2:
        both = np.zeros((14, 14))
        np.add.at(both, (rounds[0][0], rounds[1][0]), 1)
        assert stats.chisquare(both.flatten()).pvalue > 1e-4


# Operations of torchvision.


@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment"])
def test_operations_are_of_many_kinds(name: str) -> None:
    """Some move the content and leave black areas, some change colours in place."""
    images = random_images(300, same=True).clamp(min=1)
    augmented = augment(REGISTRY.get("augment", name), {"flip": False}, images)
    black = (augmented == 0).all(1).flatten(1).float().mean(1)
    assert 0.1 < float((black > 0.05).float().mean()) < 0.8
    here, there = images.flatten(1).float(), augmented.flatten(1).float()
    centred, other = here - here.mean(1, keepdim=True), there - there.mean(1, keepdim=True)
    alike = functional.cosine_similarity(centred, other)
    assert (alike > 0.99).any()
    assert (alike.abs() < 0.3).any()
    assert len({image.numpy().tobytes() for image in augmented}) > 60


def test_trivial_augment_applies_one_operation() -> None:
    """So some images are not changed, which is rare with two operations."""
    images = random_images(300, same=True)
    augmented = augment(REGISTRY.get("augment", "trivial_augment"), {"flip": False}, images)
    assert 0.05 < float((augmented == images).flatten(1).all(1).float().mean()) < 0.3


def test_rand_augment_gets_stronger() -> None:
    plugin, images = REGISTRY.get("augment", "rand_augment"), random_images(300, side=32)
    images = functional.avg_pool2d(images.float(), 9, 1, 4).to(
        torch.uint8
    )  # so that a shift is visible

    def strength(**params: Any) -> float:
        augmented = augment(plugin, {"flip": False, **params}, images)
        return float((augmented.float() - images).abs().mean())

    assert strength(magnitude=1) < strength(magnitude=7) < strength(magnitude=20)
    assert strength(operations=1) < strength(operations=3)


# Random erasing.


def erase(count: int = 200, side: int = 32, **params: Any) -> tuple[Tensor, Tensor]:
    """Images of noise below 100 after random_erasing, and masks of changed pixels ``[B, S, S]``."""
    images = random_images(count, side=side) % 100
    plugin = REGISTRY.get("augment", "random_erasing")
    augmented = augment(plugin, {**WHOLE, **params}, images)
    return augmented, ((augmented.int() - images).abs() > 1).any(1)


def test_random_erasing_erases_one_rectangle() -> None:
    _, changed = erase(probability=1.0, max_area=0.4)
    rows, columns = changed.any(2), changed.any(1)
    # Noise may equal the original: nearly all of the rectangle differs, and nothing outside it.
    box = (rows[:, :, None] & columns[:, None]).float()
    assert (changed.float().sum((1, 2)) / box.sum((1, 2)).clamp(min=1) > 0.9).all()
    for lines in (rows, columns):
        steps = lines.float().diff(dim=1, prepend=lines.new_zeros(200, 1).float()) > 0
        assert steps.sum(1).max() == 1  # without a gap


@pytest.mark.parametrize("probability", [0.2, 0.5, 1.0])
def test_random_erasing_has_the_given_probability(probability: float) -> None:
    _, changed = erase(400, probability=probability)
    assert abs(float(changed.flatten(1).any(1).float().mean()) - probability) < 0.08


@pytest.mark.parametrize("area", [0.1, 0.2, 0.5])
def test_random_erasing_covers_at_most_max_area(area: float) -> None:
    _, changed = erase(1000, side=64, probability=1.0, max_area=area)
    fraction = changed.flatten(1).float().mean(1)
    assert fraction.max() <= area + 0.02
    assert fraction.max() > 0.9 * area
    assert fraction.min() > 0.01
    for part in (0.5, 0.9):  # uniformly, also large ones, for which not every aspect ratio fits
        larger = (fraction > part * area).float().mean()
        assert abs(larger - (1 - part) * area / (area - 0.02)) < 0.03


def test_random_erasing_has_rectangles_of_all_aspect_ratios_everywhere() -> None:
    _, changed = erase(600, side=64, probability=1.0, max_area=0.2)
    high, wide = changed.any(2).sum(1), changed.any(1).sum(1)
    ratio = (wide / high).log() / math.log(10 / 3)
    assert ratio.min() < -0.8
    assert ratio.max() > 0.8
    assert abs(float(ratio.mean())) < 0.1
    where = changed.float().mean(0)
    assert where.amax(1).min() > 0  # up to every edge
    assert where.amax(0).min() > 0
    torch.testing.assert_close(where, where.flip(0), atol=0.1, rtol=0)
    torch.testing.assert_close(where, where.T, atol=0.1, rtol=0)


def test_random_erasing_fills_with_noise_or_the_mean() -> None:
    augmented, changed = erase(probability=1.0, fill="noise")
    filled = augmented.permute(0, 2, 3, 1)[changed].float()
    assert filled.max() > 250
    assert abs(float(filled.mean()) - 127.5) < 5
    images = uniform_images(100) + torch.tensor([0, 50, 100], dtype=torch.uint8)[:, None, None]
    plugin = REGISTRY.get("augment", "random_erasing")
    augmented = augment(plugin, {**WHOLE, "probability": 1.0, "fill": "mean"}, images)
    assert (augmented.int() - images).abs().max() <= 1  # the mean of a uniform image is its colour
    augmented, changed = erase(probability=1.0, fill="mean")
    for image, box in zip(augmented, changed, strict=True):
        colours = image[:, box]
        assert (colours == colours[:, :1]).all()
        assert (colours.float() - 49.5).abs().max() < 8


# Mixing.


def mix_uniform(
    plugin: AnyPlugin, count: int = 200, **params: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixed uniform images of ``count`` classes, their targets, and the weight of the own class."""
    augmented, targets = mix(plugin, {**WHOLE, **params}, uniform_images(count), torch.eye(count))
    return augmented, targets, targets.diagonal()


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_pixels_are_mixed_as_the_targets_say(plugin: AnyPlugin) -> None:
    """The mean of an image is the mean of its two grey values, weighted by the target."""
    augmented, targets, own = mix_uniform(plugin)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(200))
    assert targets.min() >= 0
    expected = targets @ torch.arange(200.0)
    rounded = 0.51 if plugin.name == "mixup" else 1e-3
    torch.testing.assert_close(augmented.float().mean((1, 2, 3)), expected, atol=rounded, rtol=0)
    assert (targets > 0).sum(1).max() == 2
    assert own.std() > 0.1


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_every_image_is_a_partner_once(plugin: AnyPlugin) -> None:
    _, targets, _ = mix_uniform(plugin, alpha=1.0)
    others = targets - targets.diagonal().diag()
    assert (others > 0).sum(0).max() == 1
    assert (others.argmax(1) - torch.arange(200)).unique().numel() > 100  # not only a shift


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0])
def test_weights_are_sampled_from_the_beta_distribution(plugin: AnyPlugin, alpha: float) -> None:
    sampled = []
    for seed in range(20):
        start = uniform_images(100, side=64)
        _, targets = mix(plugin, {**WHOLE, "alpha": alpha}, start, torch.eye(100), seed)
        alone = targets.diagonal() == 1  # some are their own partners
        sampled.append(targets.diagonal()[~alone] if alpha > 0.3 else targets.diagonal())
    own = torch.cat(sampled)
    expected = torch.distributions.Beta(alpha, alpha)
    assert abs(float(own.mean()) - 0.5) < 0.04
    assert float(own.std()) == pytest.approx(float(expected.stddev), rel=0.08)


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_soft_targets_are_mixed_too(plugin: AnyPlugin) -> None:
    soft = torch.rand(32, 5).softmax(1)
    augmented, targets = mix(plugin, WHOLE, random_images(32), soft)
    hard = mix(plugin, WHOLE, random_images(32), torch.eye(32))
    assert torch.equal(augmented, hard[0])
    torch.testing.assert_close(targets, hard[1] @ soft)


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_a_single_image_is_not_mixed(plugin: AnyPlugin) -> None:
    images, targets = random_images(1), torch.tensor([[0.25, 0.75, 0.0]])
    for seed in range(10):
        augmented, new_targets = mix(plugin, WHOLE, images, targets, seed)
        assert (augmented.int() - images).abs().max() <= 1
        assert torch.equal(new_targets, targets)


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_the_given_targets_are_not_changed(plugin: AnyPlugin) -> None:
    targets = torch.eye(8)
    mix(plugin, {}, random_images(8), targets)
    assert torch.equal(targets, torch.eye(8))


def test_cutmix_pastes_one_rectangle() -> None:
    augmented, _, own = mix_uniform(REGISTRY.get("augment", "cutmix"), alpha=1.0)
    for grey, image in enumerate(augmented):
        foreign = image[0] != grey
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows[:, None] & columns[None])
        for lines in (rows, columns):
            indices = lines.nonzero()
            assert len(indices) == 0 or indices.max() - indices.min() + 1 == len(indices)
        assert foreign.float().mean().item() == pytest.approx(1 - own[grey].item(), abs=1e-6)
        assert abs(int(rows.sum()) - int(columns.sum())) <= 1  # the aspect ratio of the image


def test_the_noise_of_images_in_rgb_is_that_of_earlier_versions() -> None:
    images = torch.empty(4, 3, 8, 8)
    torch.manual_seed(0)
    noise = _make_noise(images, UniformNumbers("test"))
    torch.manual_seed(0)
    numbers = UniformNumbers("test")(images, 8, 8).mul(2**24).int()
    for channel in range(3):
        assert torch.equal(noise[:, channel].int(), numbers >> 8 * channel & 255)
