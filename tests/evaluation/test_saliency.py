"""Saliency: it lies where the evidence is, for every kind of backbone and head."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from toy import REGISTRY, config
from toy import model as built

from autotl import backbone
from autotl.errors import ArtifactError
from autotl.evaluation import saliency
from autotl.models import Model

pytest.importorskip("captum")

SIDE = 64
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


class Quarters(nn.Module):
    """``images [B, 3, S, S]`` to how much there is to see in each quarter, ``[B, 4]``."""

    num_features = 4
    pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.25,) * 3}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * functional.adaptive_avg_pool2d(images**2, 2).mean(1).flatten(1)


@backbone
def quarters() -> nn.Module:
    """Sees how much there is in a quarter."""
    return Quarters()


@pytest.fixture
def network() -> Model:
    """Class k is that there is much in quarter k; there are three classes and four quarters."""
    network = built(backbone=quarters)
    layer: Any = network.head[1]  # type: ignore[index]
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3, 4))
    return network.eval()


def share(maps: np.ndarray, quarter: int) -> np.ndarray:
    """The share of the saliency that lies in a quarter, ``[B]``."""
    y, x = CORNERS[quarter]
    half = SIDE // 2
    inside = maps[:, y * half : (y + 1) * half, x * half : (x + 1) * half]
    return inside.sum((1, 2)) / maps.sum((1, 2))


def test_it_lies_where_the_class_has_its_evidence(network: Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, SIDE, SIDE), dtype=np.uint8)
    for k in range(3):
        found = saliency.saliency(network, images, [k] * 10)
        assert found.shape == (10, SIDE, SIDE)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.max((1, 2)), 1, rtol=1e-5)
        assert found.min() >= 0
        assert share(found, k).min() > 0.7, "windows at its edges spread a little of it"


def test_each_picture_is_asked_for_its_own_class(network: Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, SIDE, SIDE), dtype=np.uint8)
    asked = [0, 1, 2, 0, 1, 2, 0]
    found = saliency.saliency(network, images, asked)
    assert [int(np.argmax([share(m[None], k)[0] for k in range(4)])) for m in found] == asked


def test_where_nothing_speaks_for_the_class_it_is_0(network: Model) -> None:
    dark = np.zeros((1, 3, SIDE, SIDE), dtype=np.uint8)
    assert saliency.saliency(network, dark, [0]).max() == 0
    assert saliency.saliency(network, dark[:0], []).shape == (0, SIDE, SIDE)


def test_what_speaks_against_is_not_shown(network: Model) -> None:
    layer: Any = network.head[1]  # type: ignore[index]
    with torch.no_grad():
        layer.weight[0, 3] = -3
    images = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE), dtype=np.uint8)
    assert share(saliency.saliency(network, images, [0]), 3)[0] < 0.05


def test_the_blur_is_round() -> None:
    point = torch.zeros(1, SIDE, SIDE)
    point[0, 20, 40] = 1
    blurred = saliency._smooth(point)[0]
    assert blurred.sum().item() == pytest.approx(1)
    around = blurred[12:29, 32:49]
    torch.testing.assert_close(around, around.T)
    assert around.argmax().item() == around.numel() // 2


@pytest.mark.parametrize("head", ["linear", "gem", "stages", "attention"])
@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet"])
def test_it_serves_every_architecture_and_head(name: str, head: str) -> None:
    chosen = REGISTRY.without_weights("head", head)
    network = built(backbone=REGISTRY.without_weights("backbone", name), head=chosen, size=SIDE)
    images = np.random.default_rng(0).integers(0, 255, (1, 3, SIDE, SIDE), dtype=np.uint8)
    images = images.repeat(3, 0)
    network.train()
    found = saliency.saliency(network, images, [0, 1, 2])
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert np.isfinite(found).all()
    assert set(found.max((1, 2)).round(5)) <= {0, 1}
    assert found.max() == 1, "what is taken away speaks for one of the classes"
    assert found.std() > 0.01
    np.testing.assert_array_equal(found, saliency.saliency(network, images, [0, 1, 2]))


def test_the_overlay_is_a_picture_with_heat_where_it_matters() -> None:
    image = np.full((32, 32, 3), 120, dtype=np.uint8)
    heat = np.zeros((32, 32), dtype=np.float32)
    heat[:, 16:] = 1
    head, data = saliency.overlay(image, heat).split(",")
    assert head == "data:image/jpeg;base64"
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
    assert shown.shape == (32, 32, 3)
    np.testing.assert_allclose(shown[:, :8].mean((0, 1)), [120] * 3, atol=4)
    red, _, blue = shown[:, 24:].mean((0, 1))
    assert red > blue + 100


def test_without_captum_it_says_how_to_get_it(
    network: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saliency, "find_spec", lambda name: None)
    assert not saliency.available()
    with pytest.raises(ArtifactError, match=r'pip install "autotl\[explain\]"'):
        saliency.saliency(network, np.zeros((1, 3, SIDE, SIDE), dtype=np.uint8), [0])
    assert config()  # nothing else needs it
