"""Heads in closed form: agreement with scikit-learn, special cases, saving and further training."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from autotl_plugins import closed_form
from head_helpers import FITTED, build_head, sample_clusters
from safetensors.torch import load, save
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional
from toy import config, job, model

from autotl.training import fine_tune

LINEAR = FITTED[:4]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def sample_features(classes: int, seed: int = 0, count: int = 120) -> tuple[Tensor, Tensor]:
    """Overlapping clusters of features with very different units and means, and labels."""
    torch.manual_seed(seed)
    features, labels = sample_clusters(count, classes, 12, noise=1.5)
    torch.manual_seed(5)
    return torch.logspace(-2, 3, 12) * (features + 5 * torch.randn(12)), labels


def fit_head(name: str, classes: int, **params: Any) -> Any:
    head = build_head(name, 12, classes, **params)
    head.fit(*sample_features(classes))
    return head


def predict(head: nn.Module, features: Tensor) -> Any:
    with torch.no_grad():
        return head.eval()(features).double().softmax(1).numpy()


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
def test_the_regression_of_a_gpu_is_that_of_scikit_learn(classes: int, C: float) -> None:
    features, labels = sample_features(classes)
    mean, std = closed_form._standardisation(features)
    standardised = (features.double() - mean) / std
    rows = closed_form.Rows(features, mean, std, classes)
    weight, bias = closed_form._minimise_logistic_loss(rows, labels, C)
    exact = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
    expected = exact.fit(standardised.numpy(), labels.numpy()).predict_proba(standardised.numpy())
    probabilities = (standardised @ weight.T + bias).softmax(1).numpy()
    assert probabilities == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("C", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("name", ["logistic_regression", "stages_logistic"])
def test_logistic_regression_agrees_with_scikit_learn(name: str, classes: int, C: float) -> None:
    features, labels = sample_features(classes)
    head = fit_head(name, classes, C=C)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=300))
    reference.fit(features.double().numpy(), labels.numpy())
    new, _ = sample_features(classes, seed=1)
    expected = reference.predict_proba(new.double().numpy())
    np.testing.assert_allclose(predict(head, new), expected, atol=1e-4)
    assert expected.std() > 0.005  # the predictions are not all the same


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("shrinkage", [0.01, 0.3, 1.0])
def test_lda_agrees_with_scikit_learn(classes: int, shrinkage: float) -> None:
    features, labels = sample_features(classes)
    labels = torch.where(torch.arange(120) < 40, 0, labels)  # classes of unequal size
    head = build_head("lda", 12, classes, shrinkage=shrinkage)
    head.fit(features, labels)
    solver = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    reference = make_pipeline(StandardScaler(), solver)
    reference.fit(features.double().numpy(), labels.numpy())
    new, _ = sample_features(classes, seed=1)
    expected = reference.predict_proba(new.double().numpy())
    np.testing.assert_allclose(predict(head, new), expected, atol=1e-4)
    assert expected.std() > 0.05


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 2.0])
def test_nearest_mean_agrees_with_scikit_learn(classes: int, threshold: float) -> None:
    features, labels = sample_features(classes)
    head = fit_head("nearest_mean", classes, threshold=threshold)
    reference = make_pipeline(StandardScaler(), NearestCentroid(shrink_threshold=threshold or None))
    reference.fit(features.double().numpy(), labels.numpy())
    new, _ = sample_features(classes, seed=1)
    scaled = torch.from_numpy(reference[0].transform(new.double().numpy()))
    distances = torch.cdist(scaled, torch.from_numpy(reference[1].centroids_))
    predicted = torch.from_numpy(predict(head, new)).argmax(1)
    own = distances.gather(1, predicted[:, None])[:, 0]  # there may be several nearest means
    torch.testing.assert_close(own, distances.amin(1), rtol=1e-5, atol=0)
    assert threshold == 2.0 or len(predicted.unique()) == classes


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (10, 0.05), (25, 1.0)])
def test_knn_agrees_with_scikit_learn(classes: int, k: int, temperature: float) -> None:
    features, labels = sample_features(classes)
    head = fit_head("knn", classes, k=k, temperature=temperature)

    def weights(distances: Any) -> Any:
        return np.exp((1 - distances) / temperature)

    votes = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute")
    reference = make_pipeline(StandardScaler(), votes)
    reference.fit(features.double().numpy(), labels.numpy())
    new, _ = sample_features(classes, seed=1)
    # One additional vote is shared equally by all classes.
    expected = (k * reference.predict_proba(new.double().numpy()) + 1 / classes) / (k + 1)
    np.testing.assert_allclose(predict(head, new), expected, atol=1e-4)


@pytest.mark.parametrize("separation", [0.3, 1.0, 4.0])
def test_nearest_mean_is_calibrated(separation: float) -> None:
    """On new examples, no other temperature has a much lower loss."""
    centres = separation * torch.randn(5, 1, 40) / 6
    common = torch.randn(40, 40) / 6  # features are correlated

    def sample(count: int) -> tuple[Tensor, Tensor]:
        features = centres + torch.randn(5, count, 40) @ common
        return features.flatten(0, 1), torch.arange(5).repeat_interleave(count)

    head = build_head("nearest_mean", 40, 5, threshold=0.0)
    head.fit(*sample(12))
    features, labels = sample(400)
    logits = head(features).detach()
    losses = {
        s: float(functional.cross_entropy(s * logits, labels))
        for s in (0.01, 0.1, 0.5, 0.7, 1, 1.4, 2)
    }
    assert losses[1] < 1.15 * min(losses.values())


def test_a_class_of_one_example_does_not_lower_the_confidence_of_nearest_mean() -> None:
    features, labels = sample_clusters(61, 3, noise=0.2)
    features[-1], labels[-1] = 3 * torch.randn(10), 3
    head = build_head("nearest_mean")
    head.fit(features, labels)
    assert (head(features).softmax(1).amax(1)[:-1] > 0.9).all()


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("before", [True, False])
def test_a_fitted_head_is_saved_and_loaded(name: str, before: bool) -> None:
    """Into a new head, or one that was fitted to another number of images."""
    head = nn.Sequential(nn.Identity(), fit_head(name, 3))
    target = nn.Sequential(nn.Identity(), build_head(name, 12, 3))
    if before:
        target[1].fit(*sample_features(3, seed=2, count=30))
    target.load_state_dict(load(save(head.state_dict())))
    features, _ = sample_features(3, seed=1)
    assert torch.equal(target(features), head(features))


def test_loading_a_knn_reports_the_tensor_that_does_not_match() -> None:
    state = fit_head("knn", 3).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for mean"):
        build_head("knn", 9, 3).load_state_dict(state)
    del state["directions"]
    with pytest.raises(RuntimeError, match=r"Missing key.*directions"):
        build_head("knn", 12, 3).load_state_dict(state)


@pytest.mark.parametrize("name", FITTED)
def test_fitting_again_replaces_the_first_fit(name: str) -> None:
    head, other = build_head(name, 12, 3), build_head(name, 12, 3)
    head.fit(*sample_features(3, seed=2, count=30))
    for each in (head, other):
        each.fit(*sample_features(3))
    features, _ = sample_features(3, seed=1)
    assert torch.equal(head(features), other(features))


@pytest.mark.parametrize("name", FITTED)
def test_a_head_has_finite_logits_before_it_is_fitted(name: str) -> None:
    logits = build_head(name, 12, 3)(torch.randn(5, 12))
    assert logits.shape == (5, 3)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", FITTED)
def test_fitting_does_not_change_the_features(name: str) -> None:
    features, labels = sample_features(3)
    before = features.clone()
    build_head(name, 12, 3).fit(features, labels)
    assert torch.equal(features, before)


@pytest.mark.parametrize("name", FITTED)
def test_constant_features_are_ignored(name: str) -> None:
    features, labels = sample_features(3)
    features[:, [2, 5]] = 7.0
    head = build_head(name, 12, 3)
    head.fit(features, labels)
    logits = head(features)
    assert logits.isfinite().all()
    features[:, 2] += 1e-3  # new images may differ slightly
    torch.testing.assert_close(head(features).softmax(1), logits.softmax(1), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", FITTED)
def test_a_class_without_images_is_never_predicted(name: str) -> None:
    features, labels = sample_clusters(120, 3, 12, noise=0.2)
    labels = torch.where(labels == 1, 4, labels)  # of five classes there are 0, 2 and 4
    head = build_head(name, 12, 5)
    head.fit(features, labels)
    predicted = predict(head, features)
    assert set(predicted.argmax(1)) == {0, 2, 4}
    assert predicted[:, [1, 3]].max() < 0.05
    middle = features.mean(0, keepdim=True)  # no class is likely here
    assert predict(head, middle)[:, [1, 3]].max() < 0.05
    reference = build_head(name, 12, 3)
    reference.fit(features, labels // 2)
    np.testing.assert_allclose(
        predicted[:, [0, 2, 4]] / predicted[:, [0, 2, 4]].sum(1, keepdims=True),
        predict(reference, features),
        atol=0.03 if name == "knn" else 1e-6,  # its additional vote is shared by more classes
    )


@pytest.mark.parametrize("name", FITTED)
def test_one_image_of_each_class_is_enough(name: str) -> None:
    features, labels = torch.randn(4, 10), torch.arange(4)
    head = build_head(name)
    head.fit(features, labels)
    assert (head(features).argmax(1) == labels).all()
    assert head(torch.randn(9, 10)).isfinite().all()


@pytest.mark.parametrize("name", LINEAR)
def test_linear_heads_can_be_trained_further(name: str) -> None:
    head = fit_head(name, 3)
    assert {n for n, _ in head.named_parameters()} == {"weight", "bias"} == set(head.state_dict())
    assert all(p.requires_grad for p in head.parameters())
    features, labels = sample_features(3)
    functional.cross_entropy(head(features), labels).backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_gradients_pass_through_a_knn() -> None:
    head = fit_head("knn", 3)
    features, labels = sample_features(3, seed=1)
    features.requires_grad_()
    loss = functional.cross_entropy(head(features), labels)
    loss.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    unit = features.detach().std(0)
    moved = features.detach() - 0.1 * unit * (unit * features.grad).sign()
    assert functional.cross_entropy(head(moved), labels) < loss


def test_a_knn_uses_at_most_as_many_neighbours_as_there_are_images() -> None:
    head = build_head("knn", 12, 3, k=100)
    head.fit(*sample_features(3, count=6))
    predicted = predict(head, torch.randn(5, 12))
    assert predicted.sum(1) == pytest.approx(1)


def test_a_regression_that_does_not_converge_is_used_without_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FewIterations(LogisticRegression):
        def fit(self, features: Any, labels: Any) -> Any:
            self.max_iter = 2
            return super().fit(features, labels)

    monkeypatch.setattr("sklearn.linear_model.LogisticRegression", FewIterations)
    features, labels = sample_features(3)
    with pytest.warns(ConvergenceWarning):
        FewIterations().fit(
            StandardScaler().fit_transform(features.double().numpy()), labels.numpy()
        )
    head = fit_head("logistic_regression", 3)  # warnings are errors here
    assert (head(features).argmax(1) == labels).float().mean() > 0.6


@pytest.mark.parametrize("name", FITTED)
def test_a_linear_probe_of_a_fitted_head_is_its_closed_form(name: str) -> None:
    network, run = model(head=name), job(3)
    epochs = list(fine_tune(network, config(head=name), run))
    assert len({e.score for e in epochs}) == 1
    assert epochs[0].score > 0.6
    reference = model(head=name)
    with torch.no_grad():
        features = torch.cat([reference.eval().features(images) for images, _ in run.train])
    reference.head.fit(features, torch.cat([labels for _, labels in run.train]))
    pairs = itertools.zip_longest(
        network.head.state_dict().values(), reference.head.state_dict().values()
    )
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_a_fitted_head_is_trained_with_the_backbone(name: str) -> None:
    probe, whole = model(head=name), model(head=name)
    list(fine_tune(probe, config(head=name), job(2)))
    for epoch in fine_tune(whole, config(head=name, freeze="full"), job(2)):
        assert math.isfinite(epoch.loss)
    moved = (whole.head.weight - probe.head.weight).abs().mean()
    assert 0 < moved < probe.head.weight.abs().mean()  # starting from the closed form


def test_importing_the_module_does_not_import_scikit_learn() -> None:
    code = "import autotl_plugins.closed_form, sys; print('sklearn' in sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "False"


def targets_for(name: str, labels: Tensor) -> Tensor:
    numbers = torch.stack([labels.double(), (2.0 * labels - 1).abs() ** 1.5], 1)
    return numbers.float() if name == "ridge" else labels


@pytest.mark.parametrize("name", [*FITTED, "ridge"])
def test_a_fit_in_blocks_is_the_fit_to_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = sample_features(4, count=300)
    outputs = 2 if name == "ridge" else 4
    whole, parts = build_head(name, 12, outputs), build_head(name, 12, outputs)
    whole.fit(features, targets_for(name, labels))
    monkeypatch.setattr(closed_form, "BLOCK_NUMBERS", 40 * 12)
    monkeypatch.setattr(closed_form, "MAX_WHOLE", 40 * 12)
    parts.fit(features, targets_for(name, labels))
    with torch.no_grad():
        expected, actual = whole.eval()(features), parts.eval()(features)
    if name != "ridge":
        expected, actual = expected.softmax(1), actual.softmax(1)
    # Scikit-learn, which gets all features at once, ends a little earlier.
    tolerance = 2e-3 if "logistic" in name else 1e-4
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["logistic_regression", "lda", "nearest_mean", "ridge"])
def test_features_are_never_there_in_float64_as_a_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = sample_features(4, count=300)
    monkeypatch.setattr(closed_form, "BLOCK_NUMBERS", 40 * 12)
    monkeypatch.setattr(closed_form, "MAX_WHOLE", 40 * 12)
    monkeypatch.setattr(closed_form, "MAX_CALIBRATED", 1)
    monkeypatch.setattr(closed_form, "FEWEST_CALIBRATED", 50)
    sizes = []
    convert = Tensor.double

    def double(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel() if tensor.ndim == 2 and tensor.shape[1] == 12 else 0)
        return convert(tensor)

    monkeypatch.setattr(Tensor, "double", double)
    head = build_head(name, 12, 2 if name == "ridge" else 4)
    head.fit(features, targets_for(name, labels))
    assert 0 < max(sizes) <= 50 * 12


def test_of_very_many_images_a_sample_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = sample_features(4, count=300)
    monkeypatch.setattr(closed_form, "MAX_STORED", 100 * 12)
    head = build_head("knn", 12, 4)
    head.fit(features, labels)
    assert head.directions.shape == (100, 12)
    monkeypatch.undo()
    every = build_head("knn", 12, 4)
    every.fit(features, labels)
    present = (head.directions[:, None] - every.directions[None]).abs().amax(2).amin(1)
    assert present.max() < 1e-6
    assert len(head.labels) == 100
    assert set(head.labels.tolist()) == {0, 1, 2, 3}


class OnMps(torch.Tensor):
    """A tensor that answers as one on an Apple GPU, which has no float64."""

    device: Any = torch.device("mps")

    def double(self, *_: Any) -> Tensor:  # type: ignore[override]
        raise TypeError("the MPS framework doesn't support float64")

    def cpu(self, *_: Any) -> Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_neighbours_are_found_on_an_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "BLOCK_NUMBERS", 40)  # features are many
    features, labels = torch.randn(30, 4), torch.arange(30) % 3
    one, other = (closed_form.NearestNeighbours(4, 3, 5, 0.1) for _ in range(2))
    one.fit(features.as_subclass(OnMps), labels)
    other.fit(features, labels)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.directions.as_subclass(torch.Tensor), other.directions)
