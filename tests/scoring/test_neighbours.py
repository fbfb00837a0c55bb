"""Scores of features by the cosine similarities of images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from autotl.scoring import chunks, neighbours


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_vote_is_that_of_scikit_learn(
    random: np.random.Generator, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_NUMBERS", 100)  # several chunks
    features = random.normal(size=(30, 5)).astype(np.float32)
    labelled = random.normal(size=(40, 5)).astype(np.float32)
    labels = random.integers(0, 3, 40)
    votes = neighbours.classify_by_neighbours(features, labelled, labels, 4, count)
    model = KNeighborsClassifier(
        count,
        metric="cosine",
        weights=lambda distances: np.exp((1 - distances) / neighbours.VOTE_TEMPERATURE),
    )
    expected = model.fit(labelled, labels).predict_proba(features)
    np.testing.assert_allclose(votes[:, :3], expected, atol=1e-4)
    assert not votes[:, 3].any()
    few = neighbours.classify_by_neighbours(features, labelled[:2], np.array([0, 1]), 4, count)
    np.testing.assert_allclose(few.sum(1), 1, rtol=1e-5)


def test_a_view_is_looked_for_among_some_others(random: np.random.Generator) -> None:
    first = random.normal(size=(50, 3)).astype(np.float32)
    second = first + random.normal(scale=0.5, size=first.shape).astype(np.float32)
    for candidates in (1, 2, 8, 50, 64):
        expected = []
        for i, view in enumerate(first):
            others = [second[(i + k) % 50] for k in range(min(candidates, 50))]
            cosines = [v @ view / np.linalg.norm(v) / np.linalg.norm(view) for v in others]
            expected.append(int(np.argmax(cosines)) == 0)
        assert neighbours.recognise_views(first, second, candidates).tolist() == expected
    assert not neighbours.recognise_views(np.zeros((4, 3), np.float32), second[:4]).any()
