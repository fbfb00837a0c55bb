"""Heads: what all have in common, and the heads that are trained by gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from head_helpers import FITTED, build_head, sample_clusters, to_input
from torch import Tensor, nn
from torch.nn import functional
from toy import REGISTRY

from autotl.space.plugin import AnyPlugin

HEADS = [plugin for plugin in REGISTRY if plugin.kind == "head" and plugin.suits("classification")]


def name_of(plugin: AnyPlugin) -> str:
    return plugin.name


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_a_head_learns_to_separate_clusters(plugin: AnyPlugin) -> None:
    head = build_head(plugin.name)
    features, labels = sample_clusters(64)
    features = to_input(plugin, features)
    if hasattr(head, "fit"):
        head.fit(features, labels)
    else:
        steps = torch.optim.Adam(head.parameters(), lr=0.02)
        for _ in range(60):
            logits = head(features)
            steps.zero_grad()
            functional.cross_entropy(logits, labels).backward()
            steps.step()
        assert all(p.grad is not None for p in head.parameters())
    logits = head.eval()(features)
    assert logits.shape == (64, 4)
    assert (logits.argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_a_batch_of_one_image_has_finite_logits(plugin: AnyPlugin, training: bool) -> None:
    head = build_head(plugin.name).train(training)
    logits = head(to_input(plugin, torch.randn(1, 10)))
    assert logits.shape == (1, 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_bfloat16_makes_little_difference(plugin: AnyPlugin) -> None:
    head = build_head(plugin.name).eval()
    features, labels = sample_clusters(64)
    features = to_input(plugin, features + 5)
    if hasattr(head, "fit"):
        head.fit(features, labels)
    half = features.bfloat16().requires_grad_()
    exact = head(half.float()).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(half)
    # Heads in closed form subtract large numbers, which they do in float32.
    tolerance = 1e-4 if plugin.name in FITTED else 0.05
    torch.testing.assert_close(logits.float().softmax(1), exact, atol=tolerance, rtol=0)
    logits.float().square().sum().backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()
    assert half.grad.any()


@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_a_head_can_be_exported(plugin: AnyPlugin) -> None:
    """The batch size is dynamic."""
    head = build_head(plugin.name)
    features, labels = sample_clusters(24)
    features = to_input(plugin, features)
    if hasattr(head, "fit"):
        head.fit(features, labels)
    head.eval()
    shapes = ({0: torch.export.Dim("B")},)
    program = torch.export.export(head, (features[:2],), dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(features), head(features))


def test_an_mlp_has_the_given_depth_and_widths() -> None:
    def shapes(**params: Any) -> list[tuple[int, ...]]:
        layers = [m for m in build_head("mlp", **params) if isinstance(m, nn.Linear)]
        return [(m.in_features, m.out_features) for m in layers]

    assert shapes(depth=1, width=64, second_width=99) == [(10, 64), (64, 4)]
    assert shapes(depth=2, width=64, second_width=99) == [(10, 64), (64, 99), (99, 4)]
    layers = build_head("mlp", depth=2, dropout=0.3)
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.3] * 3


def test_a_cosine_head_ignores_the_length_of_features() -> None:
    head, features = build_head("cosine", scale=20.0), torch.randn(6, 10)
    torch.testing.assert_close(head(features), head(7 * features))
    assert head(features).abs().max() <= 20
    own = head(head.directions)  # each direction is most similar to itself
    torch.testing.assert_close(own.diagonal(), torch.full((4,), 20.0))


def test_the_directions_of_a_cosine_head_rotate_fast_enough() -> None:
    """Steps of Adam have a fixed length: they would hardly rotate long directions."""
    wide, rate = 1280, 1e-3
    head = build_head("cosine", features=wide)
    before = functional.normalize(head.directions, dim=1).detach()
    step = torch.optim.Adam(head.parameters(), lr=rate)
    features, labels = sample_clusters(32, features=wide)
    functional.cross_entropy(head(features), labels).backward()
    step.step()
    angle = (functional.normalize(head.directions, dim=1) * before).sum(1).acos()
    assert angle.min() > 0.5 * rate * math.sqrt(wide)


@pytest.mark.parametrize("name", ["batch_norm", "stages"])
def test_normalised_features_do_not_depend_on_their_scale(name: str) -> None:
    """Two heads with the same weights give the same logits for rescaled features."""
    one, other = (build_head(name, dropout=0.0) for _ in range(2))
    other.load_state_dict(one.state_dict())
    units = torch.logspace(0, 4, 10)
    for features in torch.randn(8, 16, 10):
        logits, rescaled = one(features), other(units * features + 3)
        torch.testing.assert_close(logits, rescaled, atol=1e-3, rtol=1e-3)
    features = torch.randn(16, 10)
    logits, rescaled = one.eval()(features), other.eval()(units * features + 3)
    torch.testing.assert_close(logits, rescaled, atol=1e-3, rtol=1e-3)


def test_running_statistics_start_as_the_mean_over_all_batches() -> None:
    norm = build_head("batch_norm")[0]
    batches = 5 + 2 * torch.randn(6, 16, 10)
    for batch in batches:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(norm.running_var, batches.var(1).mean(0))
    for batch in batches.repeat(5, 1, 1) + 10:
        norm(batch)
    assert (norm.running_mean - 15).abs().max() < 1  # later they follow a backbone that is trained


def test_a_batch_of_one_image_is_normalised_with_running_statistics() -> None:
    norm = build_head("batch_norm", affine=True)[0]
    norm(5 + 2 * torch.randn(16, 10))
    norm.weight.data.uniform_(1, 2)
    before = {k: t.clone() for k, t in norm.state_dict().items()}
    one = torch.randn(1, 10)
    normalised = norm(one)
    assert all(torch.equal(t, norm.state_dict()[k]) for k, t in before.items())
    torch.testing.assert_close(normalised, norm.eval()(one))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_has_scale_and_shift_only_if_affine(affine: bool) -> None:
    parameters = list(build_head("batch_norm", affine=affine).parameters())
    assert len(parameters) == (4 if affine else 2)


def test_more_dropout_masks_reduce_the_variance() -> None:
    features = torch.randn(1, 10).expand(4000, -1)
    variances = {}
    for samples in (1, 2, 8):
        head = build_head("multi_dropout", samples=samples, dropout=0.5)
        head.load_state_dict({"weight": torch.ones(4, 10), "bias": torch.arange(4.0)})
        with torch.no_grad():
            logits, plain = head(features), head.eval()(features)
        torch.testing.assert_close(plain, functional.linear(features, head.weight, head.bias))
        torch.testing.assert_close(logits.mean(0), plain[0], atol=0.3, rtol=0)
        variances[samples] = float(logits.var(0).mean())
    assert variances[1] / variances[2] == pytest.approx(2, rel=0.2)
    assert variances[1] / variances[8] == pytest.approx(8, rel=0.2)


def test_multi_dropout_is_the_mean_of_the_logits_of_its_masks() -> None:
    head, features = build_head("multi_dropout", samples=3, dropout=0.4), torch.randn(5, 10)
    torch.manual_seed(1)
    logits = head(features)
    torch.manual_seed(1)
    masks = functional.dropout(torch.ones(3, 5, 10), 0.4)
    each = [functional.linear(mask * features, head.weight, head.bias) for mask in masks]
    torch.testing.assert_close(logits, torch.stack(each).mean(0))


# Heads that take a map.


def gem(exponent: float) -> nn.Module:
    pool: nn.Module = build_head("gem", exponent=exponent)[0]
    return pool


@pytest.mark.parametrize("exponent", [1.2, 3.0, 8.0])
def test_gem_is_the_generalised_mean(exponent: float) -> None:
    activations = torch.rand(6, 49, 10) * 4
    expected = activations.double().pow(exponent).mean(1).pow(1 / exponent)
    torch.testing.assert_close(gem(exponent)(activations).double(), expected, rtol=1e-4, atol=1e-5)


def test_gem_goes_from_the_mean_to_the_maximum() -> None:
    activations = torch.randn(6, 49, 10)
    torch.testing.assert_close(gem(1.0001)(activations), activations.mean(1), rtol=0, atol=1e-2)
    positive = activations.abs()
    torch.testing.assert_close(gem(500)(positive), positive.amax(1), rtol=0.02, atol=0)


def test_gem_is_symmetric_in_the_sign() -> None:
    activations = torch.randn(6, 49, 10)
    torch.testing.assert_close(gem(3)(-activations), -gem(3)(activations))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exponent", [1.2, 8.0, 40.0])
def test_gem_stays_finite(dtype: torch.dtype, exponent: float) -> None:
    pool = gem(exponent)
    for scale in (0.0, 1e-8, 1.0, 1e6):
        activations = (scale * torch.randn(4, 49, 10)).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            pooled = pool(activations)
        assert pooled.dtype == torch.float32
        assert pooled.isfinite().all()
        pooled.sum().backward()
        assert activations.grad is not None
        assert activations.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())


def test_gem_learns_a_larger_exponent_for_localised_features() -> None:
    """One of 49 positions indicates the class; it hardly changes the mean."""
    head = build_head("gem", exponent=3.0, dropout=0.0)
    before = head[0].exponent.item()
    activations, labels = torch.rand(64, 49, 10), torch.arange(64) % 4
    activations[range(64), torch.randint(49, (64,)), labels] += 3
    steps = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(100):
        steps.zero_grad()
        functional.cross_entropy(head(activations), labels).backward()
        steps.step()
    assert head[0].exponent.item() > before


@pytest.mark.parametrize(("features", "heads"), [(24, 8), (10, 4), (7, 8), (1280, 4)])
def test_attention_starts_from_the_mean_at_any_width(features: int, heads: int) -> None:
    pool = build_head("attention", features=features, heads=heads)[0]
    activations = torch.randn(3, 49, features)
    torch.testing.assert_close(pool(activations), activations.mean(1))
    assert len(pool.queries) == math.gcd(features, heads)


def test_attention_heads_are_independent() -> None:
    pool = build_head("attention", features=8, heads=4)[0]
    activations = torch.randn(3, 5, 8)
    with torch.no_grad():
        pool.queries[2] = 1000 * pool.norm(activations[0, 3])  # the third attends to one position
    pooled = pool(activations)[0]
    torch.testing.assert_close(pooled[4:6], activations[0, 3, 4:6], atol=1e-3, rtol=1e-3)
    others = [0, 1, 2, 3, 6, 7]
    torch.testing.assert_close(pooled[others], activations[0].mean(0)[others])


def test_attention_does_not_depend_on_the_order_of_positions() -> None:
    pool = build_head("attention")[0]
    nn.init.normal_(pool.queries, std=3)
    activations = torch.randn(3, 49, 10)
    shuffled = activations[:, torch.randperm(49)]
    torch.testing.assert_close(pool(activations), pool(shuffled))


def test_attention_learns_which_position_indicates_the_class() -> None:
    """A marker shows the position of the class; all other positions show random classes."""

    def maps(count: int) -> tuple[Tensor, Tensor]:
        labels, rows = torch.randint(4, (count,)), torch.arange(count)
        activations = functional.one_hot(torch.randint(4, (count, 49)), 8).float() * 2
        position = torch.randint(49, (count,))
        activations[rows, position] = functional.one_hot(labels, 8).float() * 2
        activations[rows, position, 7] = 3
        return activations, labels

    scores = []
    for is_trained in (True, False):
        head = build_head("attention", features=8, heads=1, dropout=0.0)
        head[0].queries.requires_grad = is_trained
        steps = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(150):
            activations, labels = maps(64)
            steps.zero_grad()
            functional.cross_entropy(head(activations), labels).backward()
            steps.step()
        activations, labels = maps(400)
        scores.append(float((head(activations).argmax(1) == labels).float().mean()))
    assert scores[0] > 0.95
    assert scores[1] < 0.8


@pytest.mark.parametrize(("name", "params"), [("gem", {"exponent": 3.0}), ("attention", {})])
def test_padded_positions_change_nothing(name: str, params: dict[str, Any]) -> None:
    plugin = REGISTRY.get("head", name)
    values = {**plugin.defaults, **params}
    torch.manual_seed(0)
    padded = plugin.call({"features": 8, "classes": 3, "padding": True}, values).eval()
    for parameter in padded.parameters():
        torch.nn.init.normal_(parameter)
    activations = torch.randn(4, 5, 8)
    longer = torch.cat([activations, torch.zeros(4, 7, 8)], 1).requires_grad_()
    logits = padded(longer)
    torch.testing.assert_close(logits, padded(activations))
    logits.sum().backward()
    assert longer.grad is not None
    assert longer.grad.isfinite().all()
    assert padded(torch.zeros(2, 5, 8)).isfinite().all()
    # Images have no padding: positions of zeros count.
    plain = plugin.call({"features": 8, "classes": 3, "padding": False}, values).eval()
    plain.load_state_dict(padded.state_dict())
    assert not torch.allclose(plain(longer), padded(longer))
