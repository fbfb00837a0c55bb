"""The checks of augmentations: shapes, types, and how they use random numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotl.testing import toy
from autotl.testing.configurations import Params
from autotl.testing.harness import PluginHarness, are_close
from autotl.testing.violations import describe
from autotl.training.augmentation import UniformNumbers

Augmented = tuple[Tensor, Tensor | None]
"""Inputs, images ``[B, 3, S, S]`` or others, and targets ``[B, C]`` of mixed inputs."""


def check_augmentation(harness: PluginHarness, params: Params) -> bool:
    """Check that inputs keep their shape and type, and change one by one and by the seed.

    Returns:
        Whether the augmentation can be trained with.
    """
    uniform = UniformNumbers(harness.plugin.name)
    expects = harness.expects
    context = {"size": expects.size, "expects": expects, "uniform": uniform}
    transform: Any = harness.plugin.call(context, params)
    if not callable(transform):
        harness.violations.add(
            f"returns {type(transform).__name__}; return a function of {harness.kind.nouns}", params
        )
        return False
    augment = _Augment(harness, params, transform)
    images = harness.make_inputs()
    before = images.clone()
    first = augment(images, 0)
    if not first:
        return False
    if not torch.equal(before, images):
        harness.violations.add("changes the images in place; work on a copy", params)
        return False
    repeated, other = augment(images, 0), augment(images, 1)
    if not repeated or not other:
        return False
    if not torch.equal(first[0], repeated[0]):
        harness.violations.add(
            "augments images differently each time although the seed is the same; draw random "
            "numbers with uniform or from torch's global generator, and not from random or numpy, "
            "and keep nothing between calls",
            params,
        )
        return False
    # Images are channels_last above, as in training.
    contiguous = augment(images.contiguous(), 0)
    if contiguous and not torch.equal(first[0], contiguous[0]):
        harness.violations.add(
            "augments contiguous images differently from channels_last images; do not depend on "
            "the memory format",
            params,
        )
    with harness.violations.catch(params):
        augment(images[:1], 0)
    copies = augment(images[:1].repeat(24, *[1] * (images.ndim - 1)), 0)
    is_random = not torch.equal(first[0], other[0])
    if copies and is_random and _are_all_equal(*copies):
        harness.violations.add(
            f"augments all {harness.kind.nouns} of a batch in the same way; draw random numbers "
            "for each of them",
            params,
        )
    if harness.plugin.takes_argument("uniform") and not harness.plugin.mixes:
        _check_view(harness, params, augment, uniform)
    return True


def _check_view(
    harness: PluginHarness, params: Params, augment: _Augment, uniform: UniformNumbers
) -> None:
    """Check that a view of an input depends only on the input and on its uniform numbers."""
    images = harness.make_inputs()

    def make_view(rows: list[int], seed: int) -> Tensor | None:
        with uniform.of_view(0, np.array(rows)):
            augmented = augment(images[rows], seed)
        return augmented[0] if augmented else None

    every = list(range(len(images)))
    view, other = make_view(every, 0), make_view(every, 1)
    if view is None or other is None:
        return
    if not torch.equal(view, other):
        harness.violations.add(
            "takes uniform but also draws other random numbers, or keeps something between calls, "
            "so that views cannot be repeated; draw all numbers with uniform, or do not take it",
            params,
        )
        return
    for rows in (*([i] for i in every), every[::-2]):
        part = make_view(rows, 0)
        if part is not None and not torch.equal(view[rows], part):
            harness.violations.add(
                "takes uniform but augments an image differently in another batch; compute each "
                "image from itself and its own random numbers, and call uniform for the whole "
                "batch, as often and with the same shapes whatever the images, or do not take it",
                params,
            )
            return


class _Augment:
    """Calls an augmentation with a seed, and checks the shapes and types of what it returns."""

    def __init__(
        self, harness: PluginHarness, params: Params, transform: Callable[..., Any]
    ) -> None:
        self.mixes, self.violations = harness.plugin.mixes, harness.violations
        self.kind = harness.kind
        self.params, self.transform = params, transform
        self._seeds: Iterator[int] = iter(range(10**6))

    def __call__(self, images: Tensor, seed: int) -> Augmented | None:
        """Augment inputs; return None after a violation."""
        targets = torch.eye(len(toy.COLOURS))[toy.cycle_labels(len(images))]
        torch.manual_seed(seed)
        random.seed(next(self._seeds))
        np.random.seed(next(self._seeds))
        result = self.transform(images, targets) if self.mixes else self.transform(images)
        is_pair = isinstance(result, tuple | list) and len(result) == 2
        augmented, mixed = result if is_pair else (result, None)
        if self.mixes != (mixed is not None) or not isinstance(augmented, Tensor):
            nouns = self.kind.nouns
            expected = f"{nouns} and targets" if self.mixes else f"{nouns} alone"
            return self._reject(
                f"returns {describe(result)}; return {expected}, or declare mixes={not self.mixes}"
            )
        if augmented.shape != images.shape or augmented.dtype != images.dtype:
            dtype = str(images.dtype).removeprefix("torch.")
            round_first = "round and clamp them to" if dtype == "uint8" else "return them as"
            return self._reject(
                f"returns {self.kind.nouns} {describe(augmented)} for {describe(images)}; keep "
                f"their shape, and {round_first} {dtype}"
            )
        if mixed is not None and not _are_targets(mixed, targets):
            return self._reject(
                f"returns targets {describe(mixed)} that are not valid; return float32 "
                f"{list(targets.shape)}, none below 0, each row with the sum 1"
            )
        return augmented, mixed

    def _reject(self, violation: str) -> Augmented | None:
        self.violations.add(violation, self.params)
        return None


def _are_targets(mixed: Any, targets: Tensor) -> bool:
    if not isinstance(mixed, Tensor) or mixed.shape != targets.shape:
        return False
    sums = torch.ones(len(targets))
    is_float32 = mixed.dtype == torch.float32
    return is_float32 and bool(mixed.min() >= 0) and are_close(mixed.sum(1), sums, 1e-4)


def _are_all_equal(images: Tensor, targets: Tensor | None) -> bool:
    """Whether copies of an image are still copies; mixed images are compared by their targets."""
    if targets is None:
        return bool((images == images[:1]).all())
    largest = targets.amax(1)
    return bool((largest == largest[0]).all() and largest[0] < 1)
