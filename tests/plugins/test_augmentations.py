"""Augmentations: what they change, how often and how far, and what becomes of the targets."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toy import REGISTRY, SIDE, config, model, task

from autotl.space.plugin import Hyperparameter
from autotl.space.registry import AnyPlugin
from autotl.training import fine_tune

AUGMENTATIONS = [p for p in REGISTRY if p.kind == "augment"]
RANDOM = [p for p in AUGMENTATIONS if p.name != "none"]
MIXING = [p for p in AUGMENTATIONS if p.mixes]
FLIP_CROP = REGISTRY.get("augment", "flip_crop")
WHOLE = {"smallest": 1.0, "flip": False}
"""What leaves the pictures where they are, so that what comes after can be seen."""


def name_of(value: Any) -> str:
    return str(value.name)


def ends(h: Hyperparameter) -> tuple[Any, ...]:
    """The ends of a range, or every choice."""
    if h.range is None:
        return h.choices or ()
    return h.type(h.range.low), h.type(h.range.high)


def pictures(count: int, same: bool = False, side: int = SIDE) -> Tensor:
    random = torch.Generator().manual_seed(3)
    made = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=random)
    return made[:1].expand(count, -1, -1, -1).clone() if same else made


def plain(count: int, side: int = SIDE) -> Tensor:
    """Pictures of one colour each, all different; ``count`` is 256 at most."""
    shades = torch.arange(count, dtype=torch.uint8)
    return shades[:, None, None, None].expand(-1, 3, side, side).clone()


def mixed(
    plugin: AnyPlugin, params: dict[str, Any], images: Tensor, targets: Tensor, seed: int = 0
) -> tuple[Tensor, Tensor]:
    transform: Any = plugin.call({"size": SIDE}, {**plugin.defaults, **params})
    torch.manual_seed(seed)
    made: tuple[Tensor, Tensor] = transform(images, targets)
    return made


def augmented(plugin: AnyPlugin, params: dict[str, Any], images: Tensor, seed: int = 0) -> Tensor:
    """The pictures; where they are mixed, each is of a class of its own."""
    if plugin.mixes:
        return mixed(plugin, params, images, torch.eye(len(images)), seed)[0]
    transform: Any = plugin.call({"size": SIDE}, {**plugin.defaults, **params})
    torch.manual_seed(seed)
    made: Tensor = transform(images)
    return made


# All of them.


@pytest.mark.parametrize("plugin", AUGMENTATIONS, ids=name_of)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 6, 7])
def test_pictures_stay_pictures(plugin: AnyPlugin, layout: torch.memory_format, count: int) -> None:
    images = pictures(count).contiguous(memory_format=layout)
    before = images.clone()
    made = augmented(plugin, {}, images)
    assert made.shape == images.shape
    assert made.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(made, augmented(plugin, {}, images.contiguous()))


@pytest.mark.parametrize("plugin", RANDOM, ids=name_of)
def test_each_picture_is_changed_in_its_own_way(plugin: AnyPlugin) -> None:
    made = augmented(plugin, {}, pictures(24, same=True))
    assert len({picture.numpy().tobytes() for picture in made}) > 12


@pytest.mark.parametrize("plugin", RANDOM, ids=name_of)
def test_augmentation_follows_the_seed(plugin: AnyPlugin) -> None:
    images = pictures(8)
    assert torch.equal(augmented(plugin, {}, images, 1), augmented(plugin, {}, images, 1))
    assert not torch.equal(augmented(plugin, {}, images, 1), augmented(plugin, {}, images, 2))


KNOBS = [(p, h) for p in RANDOM for h in p.hyperparameters]


@pytest.mark.parametrize(("plugin", "h"), KNOBS, ids=name_of)
def test_every_hyperparameter_changes_the_pictures(plugin: AnyPlugin, h: Hyperparameter) -> None:
    low, high = (augmented(plugin, {h.name: value}, pictures(16)) for value in ends(h))
    assert not torch.equal(low, high)


FLIPPING = [p for p in RANDOM if "flip" in p.defaults]


@pytest.mark.parametrize("plugin", FLIPPING, ids=name_of)
@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_pictures_are_mirrored_if_they_may_be(plugin: AnyPlugin, flip: bool) -> None:
    """Told by whether the brighter side is on the right, where it was."""
    ramp = torch.linspace(0, 255, 32).to(torch.uint8).expand(300, 3, 32, 32)
    made = augmented(plugin, {"flip": flip}, ramp).float().mean((1, 2))
    right = (made[:, 16:].sum(1) > made[:, :16].sum(1)).float().mean()
    # Some changes turn the brightness round, and an even blend of both has no brighter side.
    assert abs(right - (0.5 if flip else 1)) < (0.1 if plugin is FLIP_CROP else 0.17)


def test_none_gives_back_the_very_pictures() -> None:
    images = pictures(4)
    assert augmented(REGISTRY.get("augment", "none"), {}, images) is images


@pytest.mark.parametrize("plugin", AUGMENTATIONS, ids=name_of)
def test_training_with_it(plugin: AnyPlugin) -> None:
    chosen = {"augment": plugin, "freeze": "full"}
    for epoch in fine_tune(model(**chosen), config(**chosen), task(2)):
        assert math.isfinite(epoch.loss)


# Crops.


def test_the_whole_picture_is_mirrored_half_of_the_time() -> None:
    images = pictures(200, same=True)
    assert (augmented(FLIP_CROP, WHOLE, images).int() - images).abs().max() <= 1
    made = augmented(FLIP_CROP, {"smallest": 1.0}, images).int()
    kept = (made - images).abs().amax((1, 2, 3)) <= 1
    mirrored = (made - images.flip(3)).abs().amax((1, 2, 3)) <= 1
    assert (kept ^ mirrored).all()
    assert 60 < int(mirrored.sum()) < 140


@pytest.mark.parametrize("smallest", [0.08, 0.5, 0.9])
def test_a_crop_keeps_the_share_that_was_asked_for(smallest: float) -> None:
    side = 64
    along = torch.arange(side, dtype=torch.uint8) * 2 + 60
    ramps = torch.stack([along.expand(side, side), along[:, None].expand(side, side)] * 2)[:3]
    made = augmented(
        FLIP_CROP, {"smallest": smallest, "flip": False}, ramps.expand(300, -1, -1, -1)
    )
    inner = made.double()[:, :, 8:-8, 8:-8]  # the slope of the ramps tells the sides of the crop
    wide = (inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1) / 2 / 47
    high = (inner[:, 1, -1] - inner[:, 1, 0]).mean(1) / 2 / 47
    area, ratio = wide * high, wide / high
    assert area.min() >= smallest - 0.03
    assert area.max() <= 1.03
    assert area.max() - area.min() > 0.8 * (1 - smallest)
    assert ratio.min() >= 3 / 4 - 0.15
    assert ratio.max() <= 4 / 3 + 0.15
    assert ratio.std() > 0.01


@pytest.mark.parametrize("name", ["random_erasing", "mixup", "cutmix"])
def test_others_crop_as_flip_crop_does(name: str) -> None:
    """A grey ramp in the whole batch: what they add can be switched off or does not show."""
    images = torch.arange(64, dtype=torch.uint8).expand(40, 3, 64, 64) * 3
    plugin = REGISTRY.get("augment", name)
    if name == "random_erasing":
        made = augmented(plugin, {"probability": 0.0, "smallest": 0.3}, images)
        assert torch.equal(made, augmented(FLIP_CROP, {"smallest": 0.3}, images))
    else:
        made, _ = mixed(plugin, {"smallest": 0.3}, images, torch.eye(40))
        crops = augmented(FLIP_CROP, {"smallest": 0.3}, images)
        unchanged = (made.int() - crops).abs().amax((1, 2, 3)) <= 1
        assert name == "cutmix" or unchanged.any()
        first = images.new_zeros(1, 3, 64, 64) + images[:1]
        one, _ = mixed(plugin, {"smallest": 0.3}, first, torch.eye(1))
        assert torch.equal(one, augmented(FLIP_CROP, {"smallest": 0.3}, first))


# Changes picked from torchvision's list.


@pytest.mark.parametrize("name", ["rand_augment", "trivial_augment"])
def test_changes_are_of_many_kinds(name: str) -> None:
    """Some move what is there and leave black behind, some change colours in place."""
    images = pictures(300, same=True).clamp(min=1)
    made = augmented(REGISTRY.get("augment", name), {"flip": False}, images)
    black = (made == 0).all(1).flatten(1).float().mean(1)
    assert 0.1 < float((black > 0.05).float().mean()) < 0.8
    here, there = images.flatten(1).float(), made.flatten(1).float()
    centred, other = here - here.mean(1, keepdim=True), there - there.mean(1, keepdim=True)
    alike = functional.cosine_similarity(centred, other)
    assert (alike > 0.99).any()
    assert (alike.abs() < 0.3).any()
    assert len({picture.numpy().tobytes() for picture in made}) > 60


def test_trivial_augment_makes_one_change_at_a_time() -> None:
    """So some pictures stay as they are, which two changes hardly ever leave."""
    images = pictures(300, same=True)
    made = augmented(REGISTRY.get("augment", "trivial_augment"), {"flip": False}, images)
    assert 0.05 < float((made == images).flatten(1).all(1).float().mean()) < 0.3


def test_rand_augment_gets_stronger() -> None:
    plugin, images = REGISTRY.get("augment", "rand_augment"), pictures(300, side=32)
    images = functional.avg_pool2d(images.float(), 9, 1, 4).to(torch.uint8)  # something to shift

    def far(**params: Any) -> float:
        made = augmented(plugin, {"flip": False, **params}, images)
        return float((made.float() - images).abs().mean())

    assert far(magnitude=1) < far(magnitude=7) < far(magnitude=20)
    assert far(operations=1) < far(operations=3)


# Boxes that are blotted out.


def erased(count: int = 200, side: int = 32, **params: Any) -> tuple[Tensor, Tensor]:
    """Pictures of noise below 100 after random_erasing, and where they differ ``[B, S, S]``."""
    images = pictures(count, side=side) % 100
    plugin = REGISTRY.get("augment", "random_erasing")
    made = augmented(plugin, {**WHOLE, **params}, images)
    return made, ((made.int() - images).abs() > 1).any(1)


def test_random_erasing_blots_out_one_box() -> None:
    _, gone = erased(probability=1.0, area=0.4)
    rows, columns = gone.any(2), gone.any(1)
    # Noise may hit what was there: nearly all of the box differs, and nothing outside it.
    box = (rows[:, :, None] & columns[:, None]).float()
    assert (gone.float().sum((1, 2)) / box.sum((1, 2)).clamp(min=1) > 0.9).all()
    for lines in (rows, columns):
        steps = lines.float().diff(dim=1, prepend=lines.new_zeros(200, 1).float()) > 0
        assert steps.sum(1).max() == 1  # without a gap


@pytest.mark.parametrize("probability", [0.2, 0.5, 1.0])
def test_random_erasing_is_as_probable_as_asked(probability: float) -> None:
    _, gone = erased(400, probability=probability)
    assert abs(float(gone.flatten(1).any(1).float().mean()) - probability) < 0.08


@pytest.mark.parametrize("area", [0.1, 0.2, 0.5])
def test_random_erasing_takes_up_to_the_area(area: float) -> None:
    _, gone = erased(1000, side=64, probability=1.0, area=area)
    share = gone.flatten(1).float().mean(1)
    assert share.max() <= area + 0.02
    assert share.max() > 0.9 * area
    assert share.min() > 0.01
    for part in (0.5, 0.9):  # evenly, also the largest, for which not every shape fits
        larger = (share > part * area).float().mean()
        assert abs(larger - (1 - part) * area / (area - 0.02)) < 0.03


def test_random_erasing_has_boxes_of_all_shapes_everywhere() -> None:
    _, gone = erased(600, side=64, probability=1.0, area=0.2)
    high, wide = gone.any(2).sum(1), gone.any(1).sum(1)
    ratio = (wide / high).log() / math.log(10 / 3)
    assert ratio.min() < -0.8
    assert ratio.max() > 0.8
    assert abs(float(ratio.mean())) < 0.1
    where = gone.float().mean(0)
    assert where.amax(1).min() > 0  # up to every side
    assert where.amax(0).min() > 0
    torch.testing.assert_close(where, where.flip(0), atol=0.1, rtol=0)
    torch.testing.assert_close(where, where.T, atol=0.1, rtol=0)


def test_random_erasing_fills_with_noise_or_the_mean() -> None:
    made, gone = erased(probability=1.0, fill="noise")
    filled = made.permute(0, 2, 3, 1)[gone].float()
    assert filled.max() > 250
    assert abs(float(filled.mean()) - 127.5) < 5
    images = plain(100) + torch.tensor([0, 50, 100], dtype=torch.uint8)[:, None, None]
    plugin = REGISTRY.get("augment", "random_erasing")
    made = augmented(plugin, {**WHOLE, "probability": 1.0, "fill": "mean"}, images)
    assert (made.int() - images).abs().max() <= 1  # the mean of a plain picture is its colour
    made, gone = erased(probability=1.0, fill="mean")
    for picture, box in zip(made, gone, strict=True):
        colours = picture[:, box]
        assert (colours == colours[:, :1]).all()
        assert (colours.float() - 49.5).abs().max() < 8


# Mixing.


def shares(plugin: AnyPlugin, count: int = 200, **params: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Plain pictures of ``count`` classes, mixed; their targets and the own share in each."""
    made, targets = mixed(plugin, {**WHOLE, **params}, plain(count), torch.eye(count))
    return made, targets, targets.diagonal()


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_pixels_are_mixed_as_the_targets_say(plugin: AnyPlugin) -> None:
    """The mean of a picture is the mean of its parts' shades, weighted by the target."""
    made, targets, own = shares(plugin)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(200))
    assert targets.min() >= 0
    expected = targets @ torch.arange(200.0)
    rounded = 0.51 if plugin.name == "mixup" else 1e-3
    torch.testing.assert_close(made.float().mean((1, 2, 3)), expected, atol=rounded, rtol=0)
    assert (targets > 0).sum(1).max() == 2
    assert own.std() > 0.1


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_every_picture_is_a_partner_once(plugin: AnyPlugin) -> None:
    _, targets, _ = shares(plugin, alpha=1.0)
    others = targets - targets.diagonal().diag()
    assert (others > 0).sum(0).max() == 1
    assert (others.argmax(1) - torch.arange(200)).unique().numel() > 100  # no mere shift


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0])
def test_shares_are_drawn_from_the_beta_distribution(plugin: AnyPlugin, alpha: float) -> None:
    drawn = []
    for seed in range(20):
        start = plain(100, side=64)
        _, targets = mixed(plugin, {**WHOLE, "alpha": alpha}, start, torch.eye(100), seed)
        alone = targets.diagonal() == 1  # some are their own partners
        drawn.append(targets.diagonal()[~alone] if alpha > 0.3 else targets.diagonal())
    own = torch.cat(drawn)
    expected = torch.distributions.Beta(alpha, alpha)
    assert abs(float(own.mean()) - 0.5) < 0.04
    assert float(own.std()) == pytest.approx(float(expected.stddev), rel=0.08)


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_soft_targets_are_mixed_too(plugin: AnyPlugin) -> None:
    soft = torch.rand(32, 5).softmax(1)
    made, targets = mixed(plugin, WHOLE, pictures(32), soft)
    hard = mixed(plugin, WHOLE, pictures(32), torch.eye(32))
    assert torch.equal(made, hard[0])
    torch.testing.assert_close(targets, hard[1] @ soft)


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_a_picture_alone_is_not_mixed(plugin: AnyPlugin) -> None:
    images, targets = pictures(1), torch.tensor([[0.25, 0.75, 0.0]])
    for seed in range(10):
        made, found = mixed(plugin, WHOLE, images, targets, seed)
        assert (made.int() - images).abs().max() <= 1
        assert torch.equal(found, targets)


@pytest.mark.parametrize("plugin", MIXING, ids=name_of)
def test_targets_are_left_alone(plugin: AnyPlugin) -> None:
    targets = torch.eye(8)
    mixed(plugin, {}, pictures(8), targets)
    assert torch.equal(targets, torch.eye(8))


def test_cutmix_pastes_one_box() -> None:
    made, _, own = shares(REGISTRY.get("augment", "cutmix"), alpha=1.0)
    for shade, picture in enumerate(made):
        foreign = picture[0] != shade
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows[:, None] & columns[None])
        for lines in (rows, columns):
            places = lines.nonzero()
            assert len(places) == 0 or places.max() - places.min() + 1 == len(places)
        assert foreign.float().mean().item() == pytest.approx(1 - own[shade].item(), abs=1e-6)
        assert abs(int(rows.sum()) - int(columns.sum())) <= 1  # the shape of the picture
