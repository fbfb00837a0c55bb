"""Views of images: random numbers of each image, the same in every batch, without loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from images import image_input
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toy import REGISTRY

from autotl import Uniform, augment
from autotl.errors import PluginError
from autotl.space.plugin import AnyPlugin
from autotl.space.space import Choice
from autotl.tasks import numbered_classes
from autotl.training.augmentation import Augmentation, UniformNumbers

CPU = torch.device("cpu")
SIDE = 33  # odd, so that no vector instruction ends where an image does
BY_UNIFORM = ["flip_crop", "random_erasing", "rand_augment", "trivial_augment"]


def make_augmentation(plugin: AnyPlugin | str, **params: Any) -> Augmentation:
    plugin = REGISTRY.get("augment", plugin) if isinstance(plugin, str) else plugin
    return Augmentation(
        Choice(plugin, {**plugin.defaults, **params}), image_input(SIDE), numbered_classes(3), CPU
    )


def make_images(count: int, side: int = SIDE) -> Tensor:
    """Random images in channels-last memory format, as in training."""
    generator = torch.Generator().manual_seed(1)
    shape = count, side, side, 3
    return torch.randint(256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def draw(view: int, indices: list[int], *shape: int, calls: int = 1) -> Tensor:
    """The numbers of the last of several calls of ``uniform`` in a view."""
    uniform, images = UniformNumbers("test"), torch.empty(len(indices))
    with uniform.of_view(view, np.array(indices)):
        return [uniform(images, *shape) for _ in range(calls)][-1]


# The random numbers of a view.


def finalise(number: int) -> int:
    """The finaliser of MurmurHash3 in Python's own integers."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        number = ((number ^ (number >> shift)) * factor) % 2**32
    return number ^ (number >> 16)


def test_the_numbers_are_those_of_the_hash_on_paper() -> None:
    assert finalise(1) == 0x514E28B7  # MurmurHash3_x86_32 of nothing with the seed 1

    def mix(state: int, number: int) -> int:
        return finalise((state + number * 0x9E3779B9) % 2**32)

    numbers = draw(5, [7, 10**6], 2, 3, calls=2)
    for row, index in zip(numbers, [7, 10**6], strict=True):
        key = mix(mix(mix(index, 1), 5 + 1), 2)
        expected = [(finalise(key ^ mix(i, 1)) >> 8) / 2**24 for i in range(6)]
        assert row.flatten().tolist() == expected


def test_an_image_has_the_same_numbers_in_every_batch() -> None:
    together = draw(3, list(range(50)), 11)
    for indices in ([49], [7, 3], list(range(49, -1, -2))):
        assert torch.equal(draw(3, indices, 11), together[indices])
    longer = draw(3, list(range(50)), 4, 5)
    assert torch.equal(longer.flatten(1)[:, :11], together)


def test_the_numbers_are_uniform() -> None:
    numbers = draw(0, list(range(2000)), 1000).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(float(numbers.mean()) - 1 / 2) < 5 * 12**-0.5 / len(numbers.flatten()) ** 0.5
    assert float(numbers.var()) == pytest.approx(1 / 12, rel=2e-3)
    bits = (numbers * 2**24).long()
    for shift in (0, 8, 16):  # each of the three bytes is used as noise
        counts = torch.bincount((bits >> shift & 255).flatten(), minlength=256).double()
        chi_squared = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert 255 - 5 * 510**0.5 < chi_squared < 255 + 5 * 510**0.5
    # The first few numbers of images choose their crops; they are uniform among the images.
    for column in draw(1, list(range(20_000)), 5).T:
        counts = torch.histc(column, 100, 0, 1).double()
        chi_squared = ((counts - 200) ** 2 / 200).sum()
        assert 99 - 5 * 198**0.5 < chi_squared < 99 + 5 * 198**0.5


def correlate(one: Tensor, other: Tensor) -> float:
    """The correlation of two tensors in standard errors of that of independent ones."""
    matrix = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())
    return abs(float(matrix[0, 1])) * one.numel() ** 0.5


def test_images_views_draws_and_positions_are_independent() -> None:
    indices = list(range(1000))
    first = draw(0, indices, 500)
    others = {
        "the next image": (first[:-1], first[1:]),
        "an image 64 later": (first[:-64], first[64:]),
        "another view": (first, draw(1, indices, 500)),
        "another call": (first, draw(0, indices, 500, calls=2)),
        "the next number": (first[:, :-1], first[:, 1:]),
        "view and call exchanged": (draw(1, indices, 500), draw(0, indices, 500, calls=2)),
        "view and index exchanged": (draw(0, [1] * 10, 500), draw(1, [0] * 10, 500)),
    }
    for name, (one, other) in others.items():
        assert correlate(one, other) < 4.5, name
        assert correlate((one - 0.5).abs(), (other - 0.5).abs()) < 4.5, name
        assert float((one == other).float().mean()) < 1e-5, name
    pairs = torch.histogramdd(torch.stack([first[:, 0], first[:, 1]], 1), 8, [0.0, 1, 0, 1]).hist
    assert float(((pairs - 1000 / 64) ** 2 / (1000 / 64)).sum()) < 63 + 5 * 126**0.5


def test_no_two_images_of_a_draw_have_the_same_numbers() -> None:
    numbers = draw(2, list(range(200_000)), 3)
    assert len(numbers.unique(dim=0)) == 200_000


def test_numbers_of_training_are_those_of_torch() -> None:
    images = make_images(4)
    torch.manual_seed(5)
    drawn = [UniformNumbers("test")(images, 2, 3), UniformNumbers("test")(images, device="cpu")]
    torch.manual_seed(5)
    assert torch.equal(drawn[0], torch.rand(4, 2, 3))
    assert torch.equal(drawn[1], torch.rand(4))


def test_numbers_are_drawn_on_the_device_that_is_asked_for() -> None:
    uniform, images = UniformNumbers("test"), torch.empty(3, 3, 8, 8, device="meta")
    with uniform.of_view(0, np.arange(3)):
        assert uniform(images, 2).device.type == "meta"
        assert torch.equal(uniform(images, 2, device="cpu"), draw(0, [0, 1, 2], 2, calls=2))
    assert uniform(images, 2).device.type == "meta"
    assert uniform(images, 2, device="cpu").device.type == "cpu"


def test_the_numbers_of_a_view_are_for_the_whole_batch() -> None:
    @augment
    def partly(size: int, uniform: Uniform) -> Callable[[Tensor], Tensor]:
        """Draw for some of the images."""
        return lambda images: (uniform(images[:2]), images)[1]

    augmentation = make_augmentation(partly)
    with pytest.raises(PluginError, match="'partly' calls uniform with 2 images of a batch of 5"):
        augmentation.make_view(make_images(5), np.arange(5), 0)
    augmentation(make_images(5), torch.zeros(5, dtype=torch.int64))  # no view any more


# Views.


@pytest.mark.parametrize("name", BY_UNIFORM)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_view_of_an_image_has_the_same_bits_in_every_batch(name: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images, indices = make_images(150), np.arange(1000, 1150)
        for params in ({}, {"fill": "mean", "probability": 1.0}, {"operations": 3}):
            defaults = REGISTRY.get("augment", name).defaults
            known = {k: v for k, v in params.items() if k in defaults}
            augmentation = make_augmentation(name, **known)
            together = augmentation.make_view(images, indices, 3)
            for rows in (*np.arange(20)[:, None], np.arange(149, -1, -3), np.arange(7, 100)):
                alone = augmentation.make_view(images[rows], indices[rows], 3)
                assert torch.equal(alone, together[rows])
            contiguous = augmentation.make_view(images.contiguous(), indices, 3)
            assert torch.equal(contiguous, together)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", BY_UNIFORM)
def test_views_and_images_differ_and_no_generator_is_used(name: str) -> None:
    augmentation, images = make_augmentation(name), make_images(1).expand(24, -1, -1, -1)
    state = torch.get_rng_state()
    views = [augmentation.make_view(images, np.arange(24), view) for view in (1, 2)]
    assert torch.equal(state, torch.get_rng_state())
    assert len({image.numpy().tobytes() for image in views[0]}) > 12
    assert not torch.equal(*views)


def test_a_plugin_without_uniform_is_called_image_by_image() -> None:
    sizes = []

    @augment
    def shifting(size: int) -> Callable[[Tensor], Tensor]:
        """Draw from torch's generator."""

        def transform(images: Tensor) -> Tensor:
            sizes.append(len(images))
            return images.roll(int(torch.randint(size, ())), -1)

        return transform

    augmentation, images = make_augmentation(shifting), make_images(9)
    state = torch.get_rng_state()
    together = augmentation.make_view(images, np.arange(9), 1)
    assert sizes == [1] * 9
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(augmentation.make_view(images[4:6], np.arange(4, 6), 1), together[4:6])
    assert not torch.equal(together, augmentation.make_view(images, np.arange(9), 2))


# What a GPU would have to do.

FACTORS = [1.0, 1.0, 2.0, 2.0]
"""Of eight images not every operation is drawn."""


class Operators(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.calls[str(function.overloadpacket)] += 1
        return function(*args, **(kwargs or {}))


def count_operators(name: str, count: int, device: str, side: int = 16) -> Counter[str]:
    plugin = REGISTRY.get("augment", name)
    augmentation = Augmentation(
        Choice(plugin, plugin.defaults), image_input(side), numbered_classes(3), CPU
    )
    images = make_images(count, side).to(device)
    with Operators() as operators:
        augmentation.make_view(images, np.arange(count), 1)
    return operators.calls


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("name", "factor"), [*zip(BY_UNIFORM, FACTORS, strict=True)])
def test_the_number_of_operators_does_not_grow_with_the_batch(
    name: str, factor: float, device: str
) -> None:
    few, many = (count_operators(name, count, device).total() for count in (8, 64))
    assert many <= factor * few
    assert count_operators(name, 256, device).total() <= 1.05 * many


@pytest.mark.parametrize("name", BY_UNIFORM)
def test_a_view_waits_for_nothing(name: str) -> None:
    """The values of tensors on the meta device cannot be read, as when a GPU is not waited for."""
    calls = count_operators(name, 64, "meta", side=224)
    waiting = {"aten.nonzero", "aten.index_put_", "aten.index", "aten._local_scalar_dense"}
    assert not waiting & set(calls)


@pytest.mark.parametrize("arguments", [(3,), (torch.zeros(3, 1), (2,)), (torch.zeros(3, 1), 2.0)])
def test_wrong_arguments_are_explained(arguments: Any) -> None:
    with pytest.raises(PluginError, match=r"call it as uniform\(images\) or uniform\(images, 2\)"):
        UniformNumbers("mine")(*arguments)
