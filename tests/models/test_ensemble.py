"""Combining several networks: selected ensemble weights, and averaged weights (a model soup)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from toy import model

from autotl.models import Model, ensemble
from autotl.scoring import metrics
from autotl.scoring.metrics import Labels, Probabilities


def experts(n: int = 300, classes: int = 3) -> tuple[Labels, list[Probabilities]]:
    """Two members that each predict one half of the examples well, and one that guesses."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, n)
    confident = 0.1 + 0.7 * np.eye(classes)[labels]
    guessed = random.dirichlet([2.0] * classes, n)
    even = (np.arange(n) % 2 == 0)[:, None]
    members = [np.where(even, confident, guessed), np.where(even, guessed, confident)]
    return labels, [p.astype(np.float32) for p in (*members, guessed[::-1])]


@pytest.mark.parametrize("name", metrics.METRICS)
def test_the_mean_of_experts_is_better_than_each_of_them(name: str) -> None:
    metric = metrics.get(name)
    labels, members = experts()
    weights = ensemble.select_members(metric, labels, members)
    assert sum(weights) == pytest.approx(1)
    assert min(weights[:2]) > 0.2
    average = metric.score(labels, ensemble.average_predictions(members, weights))
    assert all(metric.is_better(average, metric.score(labels, p)) for p in members)


def test_a_member_that_no_other_improves_is_selected_alone() -> None:
    labels, [_, _, guessed] = experts()
    right = (0.05 + 0.85 * np.eye(3)[labels]).astype(np.float32)
    accuracy = metrics.get("accuracy")
    assert ensemble.select_members(accuracy, labels, [guessed, right]) == [0.0, 1.0]


def test_the_mean_of_probabilities_is_weighted() -> None:
    a, b = np.array([[0.2, 0.8]], np.float32), np.array([[0.6, 0.4]], np.float32)
    average = ensemble.average_predictions([a, b], [0.75, 0.25])
    assert average == pytest.approx(np.array([[0.3, 0.7]]))
    assert average.dtype == np.float32


def test_a_soup_has_the_mean_of_the_weights() -> None:
    first, second = model(seed=1), model(seed=2)
    assert ensemble.have_same_shapes(first, second)
    soup = ensemble.average_weights([first, second])
    parameters = zip(first.parameters(), second.parameters(), soup.parameters(), strict=True)
    for a, b, mean in parameters:
        assert torch.allclose(mean, (a + b) / 2)
    pairs = zip(first.parameters(), soup.parameters(), strict=True)
    assert any(not torch.equal(a, mean) for a, mean in pairs)
    state = first.state_dict()
    assert all(soup.state_dict()[k].dtype == state[k].dtype for k in state)
    same = ensemble.average_weights([first, first, first])
    assert all(torch.allclose(same.state_dict()[k], state[k]) for k in state)


def test_networks_with_different_heads_do_not_have_the_same_shapes() -> None:
    assert not ensemble.have_same_shapes(model(), model(head="mlp"))


def test_an_ensemble_predicts_the_mean_probabilities() -> None:
    members = [model(seed=seed).eval() for seed in (1, 2)]
    combined = ensemble.Ensemble(members, [0.75, 0.25]).eval()
    side = members[0].expects.size
    images = torch.randint(0, 256, (4, 3, side, side), dtype=torch.uint8)
    with torch.no_grad():
        probabilities = [m(images).softmax(1).numpy() for m in members]
        predicted = combined(images).softmax(1).numpy()
    expected = ensemble.average_predictions(probabilities, [0.75, 0.25])
    assert predicted == pytest.approx(expected, abs=1e-6)
    assert combined.expects == members[0].expects
    assert len(combined.state_dict()) == 1 + sum(len(m.state_dict()) for m in members)
    assert combined.state_dict()["head.weights"].flatten().tolist() == [0.75, 0.25]


def with_size(network: Model, size: int) -> Model:
    """The same network for images of another size."""
    spec = dataclasses.replace(network.expects, size=size)
    return Model(network.backbone, network.head, spec, network.head_input, network.task)


def test_members_may_have_different_image_sizes() -> None:
    large, small = with_size(model(seed=1), 48).eval(), with_size(model(seed=2), 20).eval()
    combined = ensemble.Ensemble([small, large], [0.5, 0.5]).eval()
    assert combined.expects == large.expects
    random = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    photos = [Image.fromarray(image).resize((48, 48), Image.Resampling.BICUBIC) for image in random]
    reduced = [photo.resize((20, 20), Image.Resampling.BICUBIC) for photo in photos]
    images, at_20 = (
        torch.from_numpy(np.stack([np.asarray(p) for p in each])).permute(0, 3, 1, 2)
        for each in (photos, reduced)
    )
    with torch.no_grad():
        expected = (large(images).softmax(1) + small(at_20).softmax(1)) / 2
        predicted = combined(images).softmax(1)
        wrong = (large(images).softmax(1) + small(images).softmax(1)) / 2
    # Pillow rounds to whole numbers, so the two differ a little.
    assert torch.allclose(predicted, expected, atol=2e-3)
    assert not torch.allclose(predicted, wrong, atol=2e-3)
    assert len(combined.state_dict()) == 1 + sum(len(m.state_dict()) for m in (large, small))
    [matrix] = [b for n, b in combined.to("meta").named_buffers() if n.endswith("matrix")]
    assert matrix.is_meta  # it is on the device of the weights, and not copied in each pass
