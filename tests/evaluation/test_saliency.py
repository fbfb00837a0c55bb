"""Saliency maps: they mark the regions that support a class, for any kind of backbone and head."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from autotl_plugins.tasks import Ordinal
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from toy import REGISTRY, model

from autotl import backbone
from autotl.errors import ArtifactError
from autotl.evaluation import saliency
from autotl.models import Model

pytest.importorskip("captum")

SIDE = 64
QUADRANTS = ((0, 0), (0, 1), (1, 0), (1, 1))


class Quadrants(nn.Module):
    """``images [B, 3, S, S]`` to the mean square of the pixels in each quadrant, ``[B, 4]``."""

    num_features = 4
    pretrained_cfg = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.25,) * 3}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * functional.adaptive_avg_pool2d(images**2, 2).mean(1).flatten(1)


@backbone
def quadrants() -> nn.Module:
    """Measures the contrast in each quadrant."""
    return Quadrants()


@pytest.fixture
def network() -> Model:
    """A model whose logit of class k is the contrast in quadrant k, for the first three."""
    network = model(backbone=quadrants)
    layer: Any = network.head[1]  # type: ignore[index]
    with torch.no_grad():
        layer.weight.copy_(torch.eye(3, 4))
    return network.eval()


def saliency_fraction(maps: np.ndarray, quadrant: int) -> np.ndarray:
    """Compute the fraction of the saliency that lies in a quadrant, ``[B]``."""
    y, x = QUADRANTS[quadrant]
    half = SIDE // 2
    inside = maps[:, y * half : (y + 1) * half, x * half : (x + 1) * half]
    return inside.sum((1, 2)) / maps.sum((1, 2))


def test_the_map_marks_the_region_that_determines_the_class(network: Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 3, SIDE, SIDE), dtype=np.uint8)
    for k in range(3):
        maps = saliency.compute_saliency(network, images, [k] * 10)
        assert maps.shape == (10, SIDE, SIDE)
        assert maps.dtype == np.float32
        np.testing.assert_allclose(maps.max((1, 2)), 1, rtol=1e-5)
        assert maps.min() >= 0
        assert saliency_fraction(maps, k).min() > 0.7, "windows at the border spread a little of it"


def test_each_image_is_explained_for_its_own_class(network: Model) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, SIDE, SIDE), dtype=np.uint8)
    classes = [0, 1, 2, 0, 1, 2, 0]
    maps = saliency.compute_saliency(network, images, classes)
    fractions = np.stack([saliency_fraction(maps, k) for k in range(4)])
    assert fractions.argmax(0).tolist() == classes


def test_the_map_is_0_if_nothing_supports_the_class(network: Model) -> None:
    dark = np.zeros((1, 3, SIDE, SIDE), dtype=np.uint8)
    assert saliency.compute_saliency(network, dark, [0]).max() == 0
    assert saliency.compute_saliency(network, dark[:0], []).shape == (0, SIDE, SIDE)


def test_regions_that_contradict_the_class_are_not_marked(network: Model) -> None:
    layer: Any = network.head[1]  # type: ignore[index]
    with torch.no_grad():
        layer.weight[0, 3] = -3
    images = np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE), dtype=np.uint8)
    assert saliency_fraction(saliency.compute_saliency(network, images, [0]), 3)[0] < 0.05


def test_the_blur_is_isotropic() -> None:
    point = torch.zeros(1, SIDE, SIDE)
    point[0, 20, 40] = 1
    blurred = saliency._blur(point)[0]
    assert blurred.sum().item() == pytest.approx(1)
    around = blurred[12:29, 32:49]
    torch.testing.assert_close(around, around.T)
    assert around.argmax().item() == around.numel() // 2


@pytest.mark.parametrize("head", ["linear", "gem", "stages", "attention"])
@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_resnet"])
def test_every_architecture_and_head_is_supported(name: str, head: str) -> None:
    network = model(
        backbone=REGISTRY.get_untrained("backbone", name),
        head=REGISTRY.get_untrained("head", head),
        size=SIDE,
    )
    images = np.random.default_rng(0).integers(0, 255, (1, 3, SIDE, SIDE), dtype=np.uint8)
    images = images.repeat(3, 0)
    network.train()
    maps = saliency.compute_saliency(network, images, [0, 1, 2])
    assert network.training
    assert all(p.grad is None for p in network.parameters())
    assert np.isfinite(maps).all()
    assert set(maps.max((1, 2)).round(5)) <= {0, 1}
    assert maps.max() == 1, "each region supports at least one of the classes"
    assert maps.std() > 0.01
    np.testing.assert_array_equal(maps, saliency.compute_saliency(network, images, [0, 1, 2]))


def test_the_overlay_colours_the_salient_region_of_the_image() -> None:
    image = np.full((32, 32, 3), 120, dtype=np.uint8)
    saliency_map = np.zeros((32, 32), dtype=np.float32)
    saliency_map[:, 16:] = 1
    kind, content = saliency.draw_overlay(image, saliency_map).split(",")
    assert kind == "data:image/jpeg;base64"
    overlay = np.array(Image.open(io.BytesIO(base64.b64decode(content)))).astype(int)
    assert overlay.shape == (32, 32, 3)
    np.testing.assert_allclose(overlay[:, :8].mean((0, 1)), [120] * 3, atol=4)
    red, _, blue = overlay[:, 24:].mean((0, 1))
    assert red > blue + 100


def test_without_captum_the_error_has_the_command_that_installs_it(
    network: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saliency, "find_spec", lambda name: None)
    assert not saliency.is_available()
    with pytest.raises(ArtifactError, match=r'pip install "autotl\[explain\]"'):
        saliency.compute_saliency(network, np.zeros((1, 3, SIDE, SIDE), dtype=np.uint8), [0])


def test_ordered_classes_are_explained_by_their_probabilities(network: Model) -> None:
    """There is one logit less than classes: the last class is supported by the last logit."""
    task = Ordinal(["1", "2", "3", "4"])
    images = np.random.default_rng(0).integers(0, 256, (4, 3, SIDE, SIDE), dtype=np.uint8)
    maps = saliency.compute_saliency(network, images, [3] * 4, task)
    assert (saliency_fraction(maps, 3) < 0.1).all()
    assert saliency.compute_saliency(network, images, [0] * 4, task).shape == maps.shape
