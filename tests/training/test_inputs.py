"""What a model is fed: balanced classes, fitted heads and their inputs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu
from torch import Tensor, nn
from toy import CPU, batches, config, job, model, squares
from training_helpers import TOP

from autotl import Balance, backbone, balance, head
from autotl.data import resident
from autotl.errors import Incompatible
from autotl.frozen import FeatureCache
from autotl.testing.toy import convnet
from autotl.training import fine_tune
from autotl.training.inputs import Inputs

# Balance.


def test_a_balance_plugin_gets_the_number_of_images_of_each_class() -> None:
    received: list[list[int]] = []
    recording = balance(name="recording")(lambda counts: received.append(counts) or Balance())
    Inputs(model(), config(balance=recording), job(train=batches(squares()[:31])))
    assert received == [[11, 10, 10]]


def test_sampling_draws_classes_by_their_probabilities() -> None:
    train = batches(squares(40))
    drawn: list[int] = []
    for epoch in range(20):
        for _, labels in train.epoch(epoch, [1.0, 0.0, 3.0]):
            drawn += labels.tolist()
    assert len(drawn) == 20 * 120
    assert 1 not in drawn
    assert sum(c == 2 for c in drawn) / len(drawn) == pytest.approx(0.75, abs=0.04)
    repeated = [np.concatenate(train.epoch_indices(3, [1.0, 0.0, 3.0])) for _ in range(2)]
    assert np.array_equal(*repeated)


# Heads that are fitted.


class Means(nn.Module):
    """Scores by the nearest class mean; records how often it was fitted."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(features, classes)
        self.fits: list[tuple[int, ...]] = []

    def fit(self, features: Tensor, labels: Tensor) -> None:
        self.fits.append(tuple(features.shape))
        for c in range(self.layer.out_features):
            mean = features[labels == c].mean(0)
            self.layer.weight[c] = mean
            self.layer.bias[c] = -mean.square().sum() / 2

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layer(features)
        return logits


@head
def means(features: int, classes: int) -> nn.Module:
    """The nearest class mean."""
    return Means(features, classes)


def test_a_fitted_head_on_a_frozen_backbone_is_not_trained() -> None:
    network = model(head=means)
    epochs = list(fine_tune(network, config(head=means, augment="flip_crop"), job(3)))
    assert network.head.fits == [(36, 24)]
    images = torch.cat([i for i, _ in batches(squares())])
    labels = torch.cat([y for _, y in batches(squares())])
    with torch.no_grad():
        features = network.eval().features(images)
    expected = torch.stack([features[labels == c].mean(0) for c in range(3)])
    torch.testing.assert_close(network.head.layer.weight.detach(), expected)
    assert len({e.score for e in epochs}) == 1
    assert epochs[0].score > 0.6
    assert epochs[0].trained_parameters == 24 * 3 + 3


def test_features_that_do_not_fit_beside_resident_data_are_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch, memory=1 << 20)
    compute, attempts = Inputs._compute_head_inputs, list[int]()

    def run_out(self: Inputs, *args: Any) -> Any:
        for part in compute(self, *args):
            attempts.append(resident.resident_bytes(CPU.torch_device))
            if len(attempts) == 1:
                raise torch.OutOfMemoryError("no memory for all features")
            yield part

    monkeypatch.setattr(Inputs, "_compute_head_inputs", run_out)
    network, run = model(head=means), job(1, cache=FeatureCache(0, memory=0))
    list(fine_tune(network, config(head=means), run))
    assert attempts[0] > 0
    assert network.head.fits == [(36, 24)]


@pytest.mark.parametrize("chosen", ["full", TOP, ("lp_ft", {"probe_fraction": 0.5})])
def test_a_fitted_head_is_trained_further_where_the_backbone_is(chosen: Any) -> None:
    network = model(head=means)
    before = copy.deepcopy(network.backbone.state_dict())
    fitted: list[Tensor] = []
    for epoch in fine_tune(network, config(head=means, freeze=chosen), job(2)):
        if epoch.number == 1:
            fitted.append(network.head.layer.weight.detach().clone())
    assert network.head.fits == [(36, 24)]
    assert not torch.equal(network.head.layer.weight, fitted[0])
    assert any(not torch.equal(v, before[k]) for k, v in network.backbone.state_dict().items())


# Head inputs.


@pytest.mark.parametrize("takes", ["map", "stages"])
@pytest.mark.parametrize("strategy", ["linear_probe", TOP, "full"])
def test_heads_can_take_maps_and_stages(takes: Any, strategy: Any) -> None:
    shapes: set[tuple[int, ...]] = set()

    class Recording(nn.Linear):
        def forward(self, features: Tensor) -> Tensor:
            shapes.add(tuple(features.shape[1:]))
            return super().forward(features if features.ndim == 2 else features.mean(1))

    plugin = head(name="recording", takes=takes)(
        lambda features, classes: Recording(features, classes)
    )
    chosen: dict[str, Any] = {"backbone": convnet, "head": plugin, "freeze": strategy}
    network = model(**chosen)
    epochs = list(fine_tune(network, config(**chosen), job(2)))
    assert len(epochs) == 2
    [shape] = shapes
    assert len(shape) == (2 if takes == "map" else 1)
    assert shape[-1] == network.head.in_features


def test_a_backbone_without_a_map_is_incompatible_with_a_head_that_takes_one() -> None:
    class Bare(nn.Module):
        num_features, pretrained_cfg = 3, {"input_size": (3, 16, 16)}

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    bare = backbone(name="bare")(lambda: Bare())
    chosen = head(name="h", takes="map")(lambda features, classes: nn.Linear(features, classes))
    with pytest.raises(Incompatible, match=r"bare .* map"):
        model(backbone=bare, head=chosen)
