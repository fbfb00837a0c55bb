"""Contrastive learning: the loss, and the two views of each image in a training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toy import REGISTRY, batches, config, job, model, squares
from training_helpers import refusing_head

from autotl import Example
from autotl.errors import Incompatible, OutOfMemory
from autotl.scoring.neighbours import recognise_views
from autotl.space.space import Choice
from autotl.testing.toy import COLOURS, CPU, SIDE
from autotl.training import Contrast, extract_features, fine_tune, nt_xent, projection
from autotl.training.inputs import Inputs

SIMCLR = {"freeze": "full", "head": projection, "augment": "simclr"}


def compute_naively(projections: Tensor, temperature: float) -> float:
    """The definition of the paper, equation 1, one pair after the other."""
    count = len(projections) // 2

    def similarity(i: int, k: int) -> float:
        return float(functional.cosine_similarity(projections[i], projections[k], dim=0))

    total = 0.0
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        others = [math.exp(similarity(i, k) / temperature) for k in range(2 * count) if k != i]
        total -= math.log(math.exp(similarity(i, partner) / temperature) / sum(others))
    return total / (2 * count)


@pytest.mark.parametrize(("images", "temperature"), [(2, 0.5), (5, 0.1), (7, 1.0)])
def test_the_loss_is_that_of_the_paper(images: int, temperature: float) -> None:
    projections = torch.randn(2 * images, 6, generator=torch.Generator().manual_seed(images))
    loss = nt_xent(projections, temperature)
    assert float(loss) == pytest.approx(compute_naively(projections, temperature), rel=1e-5)
    assert float(nt_xent(3 * projections, temperature)) == pytest.approx(float(loss), rel=1e-5)


def make_job(epochs: int = 1, **changes: Any) -> Any:
    return job(epochs, **{"validation": None, "contrast": Contrast(), **changes})


def test_a_batch_has_two_different_views_of_each_image() -> None:
    inputs = Inputs(model(**SIMCLR), config(**SIMCLR), make_job())
    inputs.find_split_point(set())
    [(batch, targets), *_] = inputs.training_batches(1)
    first, second = batch.chunk(2)
    assert len(first) == len(targets) == 12
    assert (first != second).flatten(1).any(1).all()
    # A view is nearer to the other one of its image, by its colour, than to others.
    means = [views.float().mean((2, 3)) for views in (first, second)]
    own = torch.cdist(means[0], means[1]).diag().mean()
    assert own < torch.cdist(means[0], means[1]).mean()


def patterns(count: int, seed: int) -> list[Example]:
    """Images of four random colours each."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), np.uint8)
    images = colours.repeat(SIDE // 2, 1).repeat(SIDE // 2, 2)
    return [Example(str(i), image, sorted(COLOURS)[i % 3]) for i, image in enumerate(images)]


@pytest.mark.parametrize("seed", [0, 1])
def test_training_makes_views_of_an_unseen_image_similar(seed: int) -> None:
    chosen = {**SIMCLR, "freeze": ("full", {"lr": 3e-3})}
    network, unseen = model(seed, **chosen), batches(patterns(64, 1), shuffle_seed=None)
    augment = Choice(REGISTRY.get("augment", "simclr"), {})

    def recognise() -> float:
        views = (extract_features(network, unseen, CPU, augment, view) for view in (1, 2))
        return float(recognise_views(*views).mean())

    before = recognise()
    own = make_job(40, seed=seed, train=batches(patterns(96, 0), size=32))
    losses = [epoch.loss for epoch in fine_tune(network, config(**chosen), own)]
    assert losses[-1] < losses[0] - 0.5
    assert recognise() > before + 0.05


def test_a_view_of_an_image_is_always_the_same() -> None:
    augment = Choice(REGISTRY.get("augment", "simclr"), {})
    network, images = model(**SIMCLR), batches(squares(), shuffle_seed=None)
    one, same, other = (extract_features(network, images, CPU, augment, v) for v in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)


def refusing(most: int, sizes: list[int]) -> Any:
    """A configuration whose head takes ``most`` rows at once, and appends those of each call."""

    def refuses(count: int) -> bool:
        sizes.append(count)
        return count > most

    return {**SIMCLR, "head": refusing_head(refuses)}


def test_parts_of_a_batch_have_both_views_of_their_images() -> None:
    for most, expected in ((12, [24, 12, 12]), (8, [24, 12, 6, 6, 6, 6])):
        sizes: list[int] = []
        chosen = refusing(most, sizes)
        [epoch] = fine_tune(model(**chosen), config(**chosen), make_job())
        assert sizes[: len(expected)] == expected
        assert np.isfinite(epoch.loss)
    chosen = refusing(2, [])
    with pytest.raises(OutOfMemory, match="two images, which are compared, do not fit"):
        list(fine_tune(model(**chosen), config(**chosen), make_job()))


@pytest.mark.parametrize(
    ("augment", "says"), [("none", "all views of an image are the same"), ("mixup", "mixes images")]
)
def test_an_augmentation_that_makes_no_views_is_refused(augment: str, says: str) -> None:
    chosen = {**SIMCLR, "augment": augment}
    with pytest.raises(Incompatible, match=says):
        list(fine_tune(model(**chosen), config(**chosen), make_job()))
