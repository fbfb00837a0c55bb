"""The toy backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autotl.testing import toy


@pytest.mark.parametrize("make", [toy.ConvNet, toy.Transformer])
def test_the_toys_implement_the_interface_of_timm(make: Callable[[], Any]) -> None:
    network = make().eval()
    images = torch.rand(2, 3, toy.SIDE, toy.SIDE)
    last, maps = network.forward_intermediates(images, indices=2)
    assert [m.shape for m in maps] == [(2, toy.WIDTH, 4, 4)] * 2
    torch.testing.assert_close(network.forward_head(last), network(images))
    torch.testing.assert_close(last, network.forward_features(images))
