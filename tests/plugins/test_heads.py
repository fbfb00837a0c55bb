"""Heads: those that learn by gradients, and those that are computed in closed form."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional
from toy import REGISTRY, config, model, task

from autotl.space.registry import AnyPlugin
from autotl.training import fine_tune

HEADS = [plugin for plugin in REGISTRY if plugin.kind == "head"]
FITTED = ["logistic_regression", "lda", "nearest_mean", "knn"]
LINEAR = FITTED[:3]


def name_of(plugin: AnyPlugin) -> str:
    return plugin.name


def give_head(name: str, features: int = 10, classes: int = 4, **params: Any) -> Any:
    plugin = REGISTRY.get("head", name)
    given = {"features": features, "classes": classes}
    return plugin.call(given, {**plugin.defaults, **params})


def clouds(count: int, classes: int = 4, features: int = 10, noise: float = 0.3) -> Any:
    """Features ``[count, features]`` around a centre for each class, and the labels."""
    labels = torch.arange(count) % classes
    return torch.randn(classes, features)[labels] + noise * torch.randn(count, features), labels


def fed(plugin: AnyPlugin, features: Tensor) -> Tensor:
    """``features [B, F]`` as the head takes them; a map has them at each of five positions."""
    return features[:, None].repeat(1, 5, 1) if plugin.takes == "map" else features


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_a_head_learns_to_tell_clouds_apart(plugin: AnyPlugin) -> None:
    made = give_head(plugin.name)
    features, labels = clouds(64)
    features = fed(plugin, features)
    if hasattr(made, "fit"):
        made.fit(features, labels)
    else:
        steps = torch.optim.Adam(made.parameters(), lr=0.02)
        for _ in range(60):
            logits = made(features)
            steps.zero_grad()
            functional.cross_entropy(logits, labels).backward()
            steps.step()
        assert all(p.grad is not None for p in made.parameters())
    logits = made.eval()(features)
    assert logits.shape == (64, 4)
    assert (logits.argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_a_single_picture_is_answered(plugin: AnyPlugin, training: bool) -> None:
    made = give_head(plugin.name).train(training)
    logits = made(fed(plugin, torch.randn(1, 10)))
    assert logits.shape == (1, 4)
    assert logits.isfinite().all()


@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_bfloat16_makes_little_difference(plugin: AnyPlugin) -> None:
    made = give_head(plugin.name).eval()
    features, labels = clouds(64)
    features = fed(plugin, features + 5)
    if hasattr(made, "fit"):
        made.fit(features, labels)
    half = features.bfloat16().requires_grad_()
    exact = made(half.float()).softmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        logits = made(half)
    # In closed form, large numbers are taken from each other: that is done in float32.
    near = 1e-4 if plugin.name in FITTED else 0.05
    torch.testing.assert_close(logits.float().softmax(1), exact, atol=near, rtol=0)
    logits.float().square().sum().backward()
    assert half.grad is not None
    assert half.grad.isfinite().all()
    assert half.grad.any()


@pytest.mark.parametrize("plugin", HEADS, ids=name_of)
def test_a_head_can_be_exported(plugin: AnyPlugin) -> None:
    """With the number of pictures left open."""
    made = give_head(plugin.name)
    features, labels = clouds(24)
    features = fed(plugin, features)
    if hasattr(made, "fit"):
        made.fit(features, labels)
    made.eval()
    shapes = ({0: torch.export.Dim("B")},)
    program = torch.export.export(made, (features[:2],), dynamic_shapes=shapes).module()
    torch.testing.assert_close(program(features), made(features))


def test_an_mlp_is_as_deep_and_wide_as_it_says() -> None:
    def shapes(**params: Any) -> list[tuple[int, ...]]:
        layers = [m for m in give_head("mlp", **params) if isinstance(m, nn.Linear)]
        return [(m.in_features, m.out_features) for m in layers]

    assert shapes(depth=1, width=64, second=99) == [(10, 64), (64, 4)]
    assert shapes(depth=2, width=64, second=99) == [(10, 64), (64, 99), (99, 4)]
    layers = give_head("mlp", depth=2, dropout=0.3)
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.3] * 3


def test_a_cosine_sees_directions_only() -> None:
    made, features = give_head("cosine", scale=20.0), torch.randn(6, 10)
    torch.testing.assert_close(made(features), made(7 * features))
    assert made(features).abs().max() <= 20
    own = made(made.directions)  # each direction is nearest to its own class
    torch.testing.assert_close(own.diagonal(), torch.full((4,), 20.0))


def test_a_cosine_turns_as_fast_as_a_linear_layer_learns() -> None:
    """Adam's steps are of one length: long directions would hardly be turned by them."""
    wide, rate = 1280, 1e-3
    made = give_head("cosine", features=wide)
    before = functional.normalize(made.directions, dim=1).detach()
    step = torch.optim.Adam(made.parameters(), lr=rate)
    features, labels = clouds(32, features=wide)
    functional.cross_entropy(made(features), labels).backward()
    step.step()
    turned = (functional.normalize(made.directions, dim=1) * before).sum(1).acos()
    assert turned.min() > 0.5 * rate * math.sqrt(wide)


@pytest.mark.parametrize("name", ["batch_norm", "stages"])
def test_normalised_features_have_no_scale(name: str) -> None:
    """Two heads with the same weights say the same of features in other units."""
    one, other = (give_head(name, dropout=0.0) for _ in range(2))
    other.load_state_dict(one.state_dict())
    units = torch.logspace(0, 4, 10)
    for features in torch.randn(8, 16, 10):
        found, same = one(features), other(units * features + 3)
        torch.testing.assert_close(found, same, atol=1e-3, rtol=1e-3)
    features = torch.randn(16, 10)
    found, same = one.eval()(features), other.eval()(units * features + 3)
    torch.testing.assert_close(found, same, atol=1e-3, rtol=1e-3)


def test_running_statistics_begin_as_those_of_all_batches() -> None:
    norm = give_head("batch_norm")[0]
    batches = 5 + 2 * torch.randn(6, 16, 10)
    for batch in batches:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(norm.running_var, batches.var(1).mean(0))
    for batch in batches.repeat(5, 1, 1) + 10:
        norm(batch)
    assert (norm.running_mean - 15).abs().max() < 1  # and later follow a backbone that learns


def test_a_picture_alone_is_normalised_as_in_use() -> None:
    norm = give_head("batch_norm", affine=True)[0]
    norm(5 + 2 * torch.randn(16, 10))
    norm.weight.data.uniform_(1, 2)
    before = {k: t.clone() for k, t in norm.state_dict().items()}
    one = torch.randn(1, 10)
    found = norm(one)
    assert all(torch.equal(t, norm.state_dict()[k]) for k, t in before.items())
    torch.testing.assert_close(found, norm.eval()(one))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_scales_only_if_asked(affine: bool) -> None:
    parameters = list(give_head("batch_norm", affine=affine).parameters())
    assert len(parameters) == (4 if affine else 2)


def test_more_dropout_masks_make_less_noise() -> None:
    features = torch.randn(1, 10).expand(4000, -1)
    spread = {}
    for samples in (1, 2, 8):
        made = give_head("multi_dropout", samples=samples, dropout=0.5)
        made.load_state_dict({"weight": torch.ones(4, 10), "bias": torch.arange(4.0)})
        with torch.no_grad():
            logits, plain = made(features), made.eval()(features)
        torch.testing.assert_close(plain, functional.linear(features, made.weight, made.bias))
        torch.testing.assert_close(logits.mean(0), plain[0], atol=0.3, rtol=0)
        spread[samples] = float(logits.var(0).mean())
    assert spread[1] / spread[2] == pytest.approx(2, rel=0.2)
    assert spread[1] / spread[8] == pytest.approx(8, rel=0.2)


def test_multi_dropout_is_the_mean_of_the_logits_of_its_masks() -> None:
    made, features = give_head("multi_dropout", samples=3, dropout=0.4), torch.randn(5, 10)
    torch.manual_seed(1)
    found = made(features)
    torch.manual_seed(1)
    masks = functional.dropout(torch.ones(3, 5, 10), 0.4)
    each = [functional.linear(mask * features, made.weight, made.bias) for mask in masks]
    torch.testing.assert_close(found, torch.stack(each).mean(0))


# Heads that take a map.


def gem(exponent: float) -> nn.Module:
    pool: nn.Module = give_head("gem", exponent=exponent)[0]
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


def test_gem_treats_both_signs_alike() -> None:
    activations = torch.randn(6, 49, 10)
    torch.testing.assert_close(gem(3)(-activations), -gem(3)(activations))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exponent", [1.2, 8.0, 40.0])
def test_gem_stays_finite(dtype: torch.dtype, exponent: float) -> None:
    pool = gem(exponent)
    for scale in (0.0, 1e-8, 1.0, 1e6):
        activations = (scale * torch.randn(4, 49, 10)).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            found = pool(activations)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        found.sum().backward()
        assert activations.grad is not None
        assert activations.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pool.parameters())


def test_gem_learns_what_only_a_maximum_shows() -> None:
    """One position in 49 tells the class; the mean hardly sees it."""
    made = give_head("gem", exponent=3.0, dropout=0.0)
    before = made[0].exponent.item()
    activations, labels = torch.rand(64, 49, 10), torch.arange(64) % 4
    activations[range(64), torch.randint(49, (64,)), labels] += 3
    steps = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(100):
        steps.zero_grad()
        functional.cross_entropy(made(activations), labels).backward()
        steps.step()
    assert made[0].exponent.item() > before


@pytest.mark.parametrize(("features", "heads"), [(24, 8), (10, 4), (7, 8), (1280, 4)])
def test_attention_starts_from_the_mean_at_any_width(features: int, heads: int) -> None:
    pool = give_head("attention", features=features, heads=heads)[0]
    activations = torch.randn(3, 49, features)
    torch.testing.assert_close(pool(activations), activations.mean(1))
    assert len(pool.queries) == math.gcd(features, heads)


def test_attention_heads_look_for_themselves() -> None:
    pool = give_head("attention", features=8, heads=4)[0]
    activations = torch.randn(3, 5, 8)
    with torch.no_grad():
        pool.queries[2] = 1000 * pool.norm(activations[0, 3])  # the third looks at one position
    found = pool(activations)[0]
    torch.testing.assert_close(found[4:6], activations[0, 3, 4:6], atol=1e-3, rtol=1e-3)
    others = [0, 1, 2, 3, 6, 7]
    torch.testing.assert_close(found[others], activations[0].mean(0)[others])


def test_attention_does_not_care_for_the_order_of_positions() -> None:
    pool = give_head("attention")[0]
    nn.init.normal_(pool.queries, std=3)
    activations = torch.randn(3, 49, 10)
    shuffled = activations[:, torch.randperm(49)]
    torch.testing.assert_close(pool(activations), pool(shuffled))


def test_attention_finds_where_the_class_is() -> None:
    """A mark says which position tells the class; everywhere else there are other classes."""

    def maps(count: int) -> tuple[Tensor, Tensor]:
        labels, rows = torch.randint(4, (count,)), torch.arange(count)
        activations = functional.one_hot(torch.randint(4, (count, 49)), 8).float() * 2
        place = torch.randint(49, (count,))
        activations[rows, place] = functional.one_hot(labels, 8).float() * 2
        activations[rows, place, 7] = 3
        return activations, labels

    scores = []
    for learning in (True, False):
        made = give_head("attention", features=8, heads=1, dropout=0.0)
        made[0].queries.requires_grad = learning
        steps = torch.optim.Adam(made.parameters(), lr=0.05)
        for _ in range(150):
            activations, labels = maps(64)
            steps.zero_grad()
            functional.cross_entropy(made(activations), labels).backward()
            steps.step()
        activations, labels = maps(400)
        scores.append(float((made(activations).argmax(1) == labels).float().mean()))
    assert scores[0] > 0.95
    assert scores[1] < 0.8


# Heads in closed form.


def examples(classes: int, seed: int = 0, count: int = 120) -> tuple[Tensor, Tensor]:
    """Overlapping clouds with features of very different units and means."""
    torch.manual_seed(seed)
    features, labels = clouds(count, classes, 12, noise=1.5)
    torch.manual_seed(5)
    return torch.logspace(-2, 3, 12) * (features + 5 * torch.randn(12)), labels


def fitted(name: str, classes: int, **params: Any) -> Any:
    made = give_head(name, 12, classes, **params)
    made.fit(*examples(classes))
    return made


def probabilities(made: nn.Module, features: Tensor) -> Any:
    with torch.no_grad():
        return made.eval()(features).double().softmax(1).numpy()


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
def test_logistic_regression_is_scikit_learns(classes: int, C: float) -> None:
    features, labels = examples(classes)
    made = fitted("logistic_regression", classes, C=C)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=300))
    theirs.fit(features.double().numpy(), labels.numpy())
    new, _ = examples(classes, seed=1)
    expected = theirs.predict_proba(new.double().numpy())
    np.testing.assert_allclose(probabilities(made, new), expected, atol=1e-4)
    assert expected.std() > 0.005  # there was something to agree on


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_lda_is_scikit_learns(classes: int, shrinkage: float) -> None:
    features, labels = examples(classes)
    labels = torch.where(torch.arange(120) < 40, 0, labels)  # classes of unequal size
    made = give_head("lda", 12, classes, shrinkage=shrinkage)
    made.fit(features, labels)
    solver = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    theirs = make_pipeline(StandardScaler(), solver)
    theirs.fit(features.double().numpy(), labels.numpy())
    new, _ = examples(classes, seed=1)
    expected = theirs.predict_proba(new.double().numpy())
    np.testing.assert_allclose(probabilities(made, new), expected, atol=1e-4)
    assert expected.std() > 0.05


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
def test_nearest_mean_is_scikit_learns(classes: int, threshold: float) -> None:
    features, labels = examples(classes)
    made = fitted("nearest_mean", classes, threshold=threshold)
    theirs = make_pipeline(StandardScaler(), NearestCentroid(shrink_threshold=threshold or None))
    theirs.fit(features.double().numpy(), labels.numpy())
    new, _ = examples(classes, seed=1)
    scaled = torch.from_numpy(theirs[0].transform(new.double().numpy()))
    distances = torch.cdist(scaled, torch.from_numpy(theirs[1].centroids_))
    answers = torch.from_numpy(probabilities(made, new)).argmax(1)
    own = distances.gather(1, answers[:, None])[:, 0]  # which may be one of several nearest
    torch.testing.assert_close(own, distances.amin(1), rtol=1e-5, atol=0)
    assert threshold == 2.0 or len(answers.unique()) == classes


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (10, 0.05), (25, 1.0)])
def test_knn_is_scikit_learns(classes: int, k: int, temperature: float) -> None:
    features, labels = examples(classes)
    made = fitted("knn", classes, k=k, temperature=temperature)

    def weights(distances: Any) -> Any:
        return np.exp((1 - distances) / temperature)

    votes = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    theirs = make_pipeline(StandardScaler(), votes)
    theirs.fit(features.double().numpy(), labels.numpy())
    new, _ = examples(classes, seed=1)
    # One more neighbour has voted for all classes alike.
    expected = (k * theirs.predict_proba(new.double().numpy()) + 1 / classes) / (k + 1)
    np.testing.assert_allclose(probabilities(made, new), expected, atol=1e-4)


@pytest.mark.parametrize("separation", [0.3, 1.0, 4.0])
def test_nearest_mean_is_as_sure_as_it_is_right(separation: float) -> None:
    """On new pictures, no other temperature would be much better."""
    centres = separation * torch.randn(5, 1, 40) / 6
    common = torch.randn(40, 40) / 6  # features depend on each other

    def draw(count: int) -> tuple[Tensor, Tensor]:
        features = centres + torch.randn(5, count, 40) @ common
        return features.flatten(0, 1), torch.arange(5).repeat_interleave(count)

    made = give_head("nearest_mean", 40, 5, threshold=0.0)
    made.fit(*draw(12))
    features, labels = draw(400)
    logits = made(features).detach()
    losses = {
        s: float(functional.cross_entropy(s * logits, labels))
        for s in (0.01, 0.1, 0.5, 0.7, 1, 1.4, 2)
    }
    assert losses[1] < 1.15 * min(losses.values())


def test_a_class_of_one_does_not_make_nearest_mean_unsure() -> None:
    features, labels = clouds(61, 3, noise=0.2)
    features[-1], labels[-1] = 3 * torch.randn(10), 3
    made = give_head("nearest_mean")
    made.fit(features, labels)
    assert (made(features).softmax(1).amax(1)[:-1] > 0.9).all()


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("before", [True, False])
def test_a_fitted_head_is_saved_and_loaded(name: str, before: bool) -> None:
    """Into a fresh one, or one fitted to another number of pictures."""
    made = nn.Sequential(nn.Identity(), fitted(name, 3))
    fresh = nn.Sequential(nn.Identity(), give_head(name, 12, 3))
    if before:
        fresh[1].fit(*examples(3, seed=2, count=30))
    fresh.load_state_dict(load(save(made.state_dict())))
    features, _ = examples(3, seed=1)
    assert torch.equal(fresh(features), made(features))


def test_a_knn_says_which_tensor_does_not_fit() -> None:
    state = fitted("knn", 3).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for mean"):
        give_head("knn", 9, 3).load_state_dict(state)
    del state["known"]
    with pytest.raises(RuntimeError, match=r"Missing key.*known"):
        give_head("knn", 12, 3).load_state_dict(state)


@pytest.mark.parametrize("name", FITTED)
def test_the_last_fit_counts(name: str) -> None:
    made, other = give_head(name, 12, 3), give_head(name, 12, 3)
    made.fit(*examples(3, seed=2, count=30))
    for head in (made, other):
        head.fit(*examples(3))
    features, _ = examples(3, seed=1)
    assert torch.equal(made(features), other(features))


@pytest.mark.parametrize("name", FITTED)
def test_a_head_answers_before_it_is_fitted(name: str) -> None:
    logits = give_head(name, 12, 3)(torch.randn(5, 12))
    assert logits.shape == (5, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", FITTED)
def test_fitting_leaves_the_features_alone(name: str) -> None:
    features, labels = examples(3)
    before = features.clone()
    give_head(name, 12, 3).fit(features, labels)
    assert torch.equal(features, before)


@pytest.mark.parametrize("name", FITTED)
def test_features_that_are_constant_say_nothing(name: str) -> None:
    features, labels = examples(3)
    features[:, [2, 5]] = 7.0
    made = give_head(name, 12, 3)
    made.fit(features, labels)
    logits = made(features)
    assert logits.isfinite().all()
    features[:, 2] += 1e-3  # in use it may differ a little
    torch.testing.assert_close(made(features).softmax(1), logits.softmax(1), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", FITTED)
def test_a_class_without_pictures_is_never_the_answer(name: str) -> None:
    features, labels = clouds(120, 3, 12, noise=0.2)
    labels = torch.where(labels == 1, 4, labels)  # of five classes there are 0, 2 and 4
    made = give_head(name, 12, 5)
    made.fit(features, labels)
    found = probabilities(made, features)
    assert set(found.argmax(1)) == {0, 2, 4}
    assert found[:, [1, 3]].max() < 0.05
    middle = features.mean(0, keepdim=True)  # where no class is likely, and yet one must be
    assert probabilities(made, middle)[:, [1, 3]].max() < 0.05
    alone = give_head(name, 12, 3)
    alone.fit(features, labels // 2)
    np.testing.assert_allclose(
        found[:, [0, 2, 4]] / found[:, [0, 2, 4]].sum(1, keepdims=True),
        probabilities(alone, features),
        atol=0.03 if name == "knn" else 1e-6,  # whose extra vote goes to more classes
    )


@pytest.mark.parametrize("name", FITTED)
def test_one_picture_of_each_class_is_enough(name: str) -> None:
    features, labels = torch.randn(4, 10), torch.arange(4)
    made = give_head(name)
    made.fit(features, labels)
    assert (made(features).argmax(1) == labels).all()
    assert made(torch.randn(9, 10)).isfinite().all()


@pytest.mark.parametrize("name", LINEAR)
def test_linear_heads_go_on_learning(name: str) -> None:
    made = fitted(name, 3)
    assert {n for n, _ in made.named_parameters()} == {"weight", "bias"} == set(made.state_dict())
    assert all(p.requires_grad for p in made.parameters())
    features, labels = examples(3)
    functional.cross_entropy(made(features), labels).backward()
    assert all(p.grad is not None and p.grad.any() for p in made.parameters())


def test_a_backbone_can_learn_below_a_knn() -> None:
    made = fitted("knn", 3)
    features, labels = examples(3, seed=1)
    features.requires_grad_()
    loss = functional.cross_entropy(made(features), labels)
    loss.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    unit = features.detach().std(0)
    better = features.detach() - 0.1 * unit * (unit * features.grad).sign()
    assert functional.cross_entropy(made(better), labels) < loss


def test_a_knn_asks_no_more_neighbours_than_there_are() -> None:
    made = give_head("knn", 12, 3, k=100)
    made.fit(*examples(3, count=6))
    found = probabilities(made, torch.randn(5, 12))
    assert found.sum(1) == pytest.approx(1)


def test_a_regression_that_does_not_converge_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Impatient(LogisticRegression):
        def fit(self, features: Any, labels: Any) -> Any:
            self.max_iter = 2
            return super().fit(features, labels)

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", Impatient)
    features, labels = examples(3)
    with pytest.warns(ConvergenceWarning):
        Impatient().fit(StandardScaler().fit_transform(features.double().numpy()), labels.numpy())
    made = fitted("logistic_regression", 3)  # warnings are errors here
    assert (made(features).argmax(1) == labels).float().mean() > 0.6


@pytest.mark.parametrize("name", FITTED)
def test_a_linear_probe_is_the_closed_form_alone(name: str) -> None:
    network, run = model(head=name), task(3)
    epochs = list(fine_tune(network, config(head=name), run))
    assert len({e.score for e in epochs}) == 1
    assert epochs[0].score > 0.6
    by_hand = model(head=name)
    with torch.no_grad():
        features = torch.cat([by_hand.eval().features(images) for images, _ in run.train])
    by_hand.head.fit(features, torch.cat([labels for _, labels in run.train]))
    pairs = itertools.zip_longest(
        network.head.state_dict().values(), by_hand.head.state_dict().values()
    )
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_a_fitted_head_learns_with_the_backbone(name: str) -> None:
    probe, whole = model(head=name), model(head=name)
    list(fine_tune(probe, config(head=name), task(2)))
    for epoch in fine_tune(whole, config(head=name, freeze="full"), task(2)):
        assert math.isfinite(epoch.loss)
    moved = (whole.head.weight - probe.head.weight).abs().mean()
    assert 0 < moved < probe.head.weight.abs().mean()  # from where the closed form left it


def test_listing_heads_does_not_load_scikit_learn() -> None:
    code = "import autotl_plugins.closed_form, sys; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
