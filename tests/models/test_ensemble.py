"""Several networks as one: weights that help, and a soup that is their mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import model

from autotl.models import ensemble
from autotl.scoring import metrics
from autotl.scoring.metrics import Labels, Probabilities


def experts(n: int = 300, classes: int = 3) -> tuple[Labels, list[Probabilities]]:
    """Two members that each know one half of the pictures well, and one that knows nothing."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, n)
    sure = 0.1 + 0.7 * np.eye(classes)[labels]
    none = random.dirichlet([2.0] * classes, n)
    half = (np.arange(n) % 2 == 0)[:, None]
    both = [np.where(half, sure, none), np.where(half, none, sure), none[::-1]]
    return labels, [p.astype(np.float32) for p in both]


@pytest.mark.parametrize("name", metrics.METRICS)
def test_the_mean_of_experts_is_better_than_each(name: str) -> None:
    metric = metrics.get(name)
    labels, members = experts()
    weights = ensemble.select(metric, labels, members)
    assert sum(weights) == pytest.approx(1)
    assert min(weights[:2]) > 0.2
    mixed = metric.score(labels, ensemble.mean(members, weights))
    assert all(metric.better(mixed, metric.score(labels, p)) for p in members)


def test_one_that_cannot_be_helped_stays_alone() -> None:
    labels, [_, _, nothing] = experts()
    right = (0.05 + 0.85 * np.eye(3)[labels]).astype(np.float32)
    assert ensemble.select(metrics.get("accuracy"), labels, [nothing, right]) == [0.0, 1.0]


def test_the_mean_is_weighted() -> None:
    a, b = np.array([[0.2, 0.8]], np.float32), np.array([[0.6, 0.4]], np.float32)
    assert ensemble.mean([a, b], [0.75, 0.25]) == pytest.approx(np.array([[0.3, 0.7]]))
    assert ensemble.mean([a, b], [0.75, 0.25]).dtype == np.float32


def test_a_soup_is_the_mean_of_the_weights() -> None:
    one, other = model(seed=1), model(seed=2)
    assert ensemble.alike(one, other)
    mixed = ensemble.soup([one, other])
    pairs = zip(one.parameters(), other.parameters(), mixed.parameters(), strict=True)
    for a, b, mean in pairs:
        assert torch.allclose(mean, (a + b) / 2)
    assert any(
        not torch.equal(a, b) for a, b in zip(one.parameters(), mixed.parameters(), strict=True)
    )
    counted = one.state_dict()
    assert all(mixed.state_dict()[k].dtype == counted[k].dtype for k in counted)
    again = ensemble.soup([one, one, one])
    assert all(torch.allclose(again.state_dict()[k], counted[k]) for k in counted)


def test_networks_of_other_shapes_are_no_soup() -> None:
    assert not ensemble.alike(model(), model(head="mlp"))


def test_an_ensemble_answers_with_the_mean_probabilities() -> None:
    members = [model(seed=seed).eval() for seed in (1, 2)]
    both = ensemble.Ensemble(members, [0.75, 0.25]).eval()
    images = torch.randint(0, 256, (4, 3, members[0].expects.size, members[0].expects.size))
    with torch.no_grad():
        answers = [m(images.to(torch.uint8)).softmax(1).numpy() for m in members]
        found = both(images.to(torch.uint8)).softmax(1).numpy()
    assert found == pytest.approx(ensemble.mean(answers, [0.75, 0.25]), abs=1e-6)
    assert both.expects == members[0].expects
    assert len(both.state_dict()) == 1 + sum(len(m.state_dict()) for m in members)
    assert both.state_dict()["head.weights"].flatten().tolist() == [0.75, 0.25]
