"""Tests of whether classes survive mirroring."""

from __future__ import annotations

import numpy as np
import pytest

from autotl.scoring.mirroring import Mirroring, score_mirrored


@pytest.mark.parametrize("survives", [True, False])
def test_classes_survive_unless_a_mirrored_image_looks_like_another_class(survives: bool) -> None:
    random = np.random.default_rng(0)
    centres = np.eye(4, 20, dtype=np.float32) * 5
    labels = random.integers(4, size=400)
    features = centres[labels] + random.normal(size=(400, 20)).astype(np.float32)
    partners = np.array([1, 0, 2, 3])  # the first two are mirror images of each other
    shown = labels if survives else partners[labels]
    mirrored = centres[shown] + random.normal(size=(400, 20)).astype(np.float32)
    train, scored = slice(0, 200), slice(200, 400)
    result = score_mirrored(
        features[train], labels[train], features[scored], mirrored[scored], labels[scored]
    )
    assert result.n == 200
    assert result.accuracy > 0.95
    assert (result.mirrored > 0.95) == survives
    assert result.survives == survives


def test_the_loss_must_be_large_and_no_chance() -> None:
    assert Mirroring(300, 0.99, 0.98, 0.004).survives  # as features are hardly ever invariant
    assert Mirroring(60, 0.95, 0.85, 0.1).survives
    assert Mirroring(300, 0.80, 0.85, 0.01).survives
    assert not Mirroring(300, 0.903, 0.860, 0.0213).survives  # those of scikit-learn's digits


def test_the_error_is_paired() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 5)).astype(np.float32)
    labels = random.integers(2, size=300)  # nothing to learn, but the same predictions
    train, scored = slice(0, 150), slice(150, 300)
    images = features[scored]
    result = score_mirrored(features[train], labels[train], images, images, labels[scored])
    assert (result.accuracy, result.error) == (result.mirrored, 0.0)
    assert result.survives
