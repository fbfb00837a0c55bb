"""What the built-in methods do with the outputs of unlabelled examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toy import REGISTRY

from autotl import Outputs, UnlabelledMethod

CLASSES, FEATURES = 3, 4


def make(name: str, **params: Any) -> UnlabelledMethod:
    plugin = REGISTRY.get("unlabelled", name)
    given = {"classes": CLASSES, "features": FEATURES}
    method: UnlabelledMethod = plugin.call(given, {**plugin.defaults, **params})
    return method


def outputs(logits: Any, features: Any = None) -> Outputs:
    values = torch.as_tensor(logits, dtype=torch.float32)
    own = torch.zeros(len(values), FEATURES) if features is None else features
    return Outputs(values.clone().requires_grad_(), own)


def compute(method: UnlabelledMethod, weak: Any, strong: Any = None, progress: float = 0.9) -> Any:
    """The loss for weak and strong logits, which are the same without the second."""
    assert method.loss is not None
    one = weak if isinstance(weak, Outputs) else outputs(weak)
    other = one if strong is None else outputs(strong)
    return method.loss(outputs(torch.eye(CLASSES)), one, other, progress), one, other


SURE, UNSURE = [9.0, 0.0, 0.0], [0.2, 0.0, 0.1]


def test_fixmatch_learns_from_sure_predictions_alone() -> None:
    method = make("fixmatch", threshold=0.9, weight=2.0, mu=4)
    loss, weak, strong = compute(method, [SURE, UNSURE], [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    expected = functional.cross_entropy(strong.logits[:1], torch.tensor([0]))
    torch.testing.assert_close(loss, 2.0 * expected / 2)
    loss.backward()
    assert weak.logits.grad is None
    assert strong.logits.grad[0].abs().sum() > 0
    assert strong.logits.grad[1].abs().sum() == 0
    assert method.mu == 4
    assert method.select is not None
    chosen = method.select(torch.tensor([[0.95, 0.05, 0.0], [0.5, 0.3, 0.2]]), 1)
    assert chosen.tolist() == [True, False]


def test_pseudo_labels_count_for_more_later() -> None:
    early, middle, late, last = (
        compute(make("pseudo_labels"), [UNSURE], progress=p)[0].item() for p in (0.0, 0.3, 0.6, 0.9)
    )
    assert early == 0
    assert middle == pytest.approx(late / 2)
    assert late == last > 0


def test_self_training_selects_more_of_each_class_in_each_round() -> None:
    select = make("pseudo_labels").select
    assert select is not None
    confidence = torch.linspace(0.55, 0.9, 6)
    first = torch.stack([confidence, 1 - confidence, torch.zeros(6)], 1)
    predictions = torch.cat([first, first.flip(1)])
    counts = [select(predictions, number) for number in (1, 2, 3)]
    assert [int(chosen.sum()) for chosen in counts] == [4, 8, 12]
    assert counts[0].tolist() == [False] * 4 + [True] * 2 + [False] * 4 + [True] * 2


def test_flexmatch_is_content_with_less_for_a_class_that_is_learned_slowly() -> None:
    method = make("flexmatch", threshold=0.9)
    module: Any = method.loss
    for _ in range(60):
        compute(method, [SURE] * 9 + [[0.0, 9.0, 0.0]])
    assert module.learned[0] > module.learned[1] > module.learned[2] == 0
    probability = 0.6  # too little for the first class, and enough for the third
    other = math.log((1 - probability) / 2 / probability)
    for guess, is_chosen in ((0, False), (2, True)):
        logits = [other] * CLASSES
        logits[guess] = 0.0
        loss, *_ = compute(method, [logits])
        assert bool(loss > 0) == is_chosen


def test_mean_teacher_compares_probabilities_with_those_of_the_average() -> None:
    method = make("mean_teacher", decay=0.95, weight=2.0)
    assert method.teacher_decay == 0.95
    loss, *_ = compute(method, [SURE], [UNSURE])
    difference = torch.tensor([SURE]).softmax(1) - torch.tensor([UNSURE]).softmax(1)
    torch.testing.assert_close(loss, 2.0 * difference.square().sum())
    early, *_ = compute(method, [SURE], [UNSURE], progress=0.0)
    assert early < 0.01 * loss


def test_information_is_highest_for_sure_predictions_of_all_classes() -> None:
    method = make("information", weight=1.0)
    spread = compute(method, 30 * torch.eye(CLASSES))[0]
    torch.testing.assert_close(spread, torch.tensor(-math.log(3)))
    for worse in ([[30.0, 0, 0]] * 3, [[0.0, 0, 0]] * 3):
        torch.testing.assert_close(compute(method, worse)[0], torch.tensor(0.0))


def test_coral_is_the_distance_of_the_covariances_of_the_logits() -> None:
    method = make("coral", weight=1.0)
    assert float(compute(method, torch.eye(CLASSES))[0].detach()) == pytest.approx(0.0)
    scaled, *_ = compute(method, 3 * torch.eye(CLASSES))
    covariance = torch.cov(torch.eye(CLASSES).T)
    expected = (8 * covariance).square().sum() / (4 * CLASSES**2)
    torch.testing.assert_close(scaled, expected)


def naive_discrepancy(one: Tensor, other: Tensor) -> float:
    """The biased estimate with a mean of five Gaussian kernels, pair by pair."""
    both = [*one.tolist(), *other.tolist()]
    bandwidth = np.mean([math.dist(a, b) ** 2 for a in both for b in both])

    def kernel(a: list[float], b: list[float]) -> float:
        widths = [bandwidth * 2.0**power for power in (-2, -1, 0, 1, 2)]
        return float(np.mean([math.exp(-(math.dist(a, b) ** 2) / width) for width in widths]))

    def mean(these: Tensor, those: Tensor) -> float:
        return float(np.mean([kernel(a, b) for a in these.tolist() for b in those.tolist()]))

    return mean(one, one) + mean(other, other) - 2 * mean(one, other)


def test_mmd_is_the_discrepancy_of_the_features_and_of_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    method = make("mmd", weight=2.0)
    assert method.loss is not None
    labelled, weak = (
        outputs(
            torch.randn(size, CLASSES, generator=generator) + shift,
            torch.randn(size, 5, FEATURES, generator=generator) * (1 + shift),
        )
        for size, shift in ((6, 0.0), (9, 0.7))
    )
    features = naive_discrepancy(labelled.features.mean(1), weak.features.mean(1))
    expected = 2.0 * (features + naive_discrepancy(labelled.logits, weak.logits))
    loss = float(method.loss(labelled, weak, weak, 0.5).detach())
    assert loss == pytest.approx(expected, rel=1e-5)


def test_mmd_is_0_for_equal_examples_and_grows_with_a_shift() -> None:
    method = make("mmd")
    logits = torch.randn(64, CLASSES, generator=torch.Generator().manual_seed(0))

    def discrepancy(shift: float) -> float:
        assert method.loss is not None
        own, other = outputs(logits, logits), outputs(logits + shift, logits + shift)
        return float(method.loss(own, other, other, 0.5).detach())

    values = [discrepancy(shift) for shift in (0.0, 0.1, 0.5, 2.0, 50.0)]
    assert values[0] == pytest.approx(0.0, abs=1e-6)
    assert values == sorted(values)
    assert 0.5 < values[-1] <= 4.0


@pytest.mark.parametrize("shape", [(8, FEATURES), (8, 5, FEATURES)])
def test_dann_trains_features_against_its_discriminator(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    method = make("dann", width=32, weight=0.5)
    module: Any = method.loss
    features = [torch.randn(shape).requires_grad_() for _ in range(2)]
    logits = torch.zeros(8, CLASSES)
    labelled, weak = (Outputs(logits, own) for own in features)

    def gradient(progress: float) -> Tensor:
        features[1].grad = None
        module.zero_grad()
        module(labelled, weak, weak, progress).backward()
        assert features[1].grad is not None
        return features[1].grad.clone()

    assert gradient(0.0).abs().max() == 0
    reversed_gradient = gradient(0.99)
    step = 0.1 * reversed_gradient / reversed_gradient.norm()
    before = module(labelled, weak, weak, 0.99)
    with torch.no_grad():
        features[1] -= step  # as an optimizer that minimises the whole loss does
    assert module(labelled, weak, weak, 0.99) > before  # the domains are harder to tell apart
