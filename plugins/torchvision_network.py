"""A network of torchvision as a backbone; the plugin imports this module when it builds one.

Shapes: B images in a batch, C channels, S the side in pixels, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .wrapped import WrappedBackbone, find_stages, record_outputs


class TorchvisionBackbone(WrappedBackbone):
    """A classifier of torchvision whose last layer is an identity.

    Args:
        network: The network.
        trunks: Attributes with the layers, one of which a network may have.
        in_chans: Number of channels C.
        size: Side of the images S; one of them is computed, to find the stages.

    Attributes:
        pretrained_cfg: The preprocessing; set by the plugin.
    """

    pretrained_cfg: Mapping[str, Any]

    def __init__(self, network: nn.Module, trunks: Sequence[str], in_chans: int, size: int) -> None:
        super().__init__(network)
        images = torch.zeros(1, in_chans, size, size)
        layers = _find_layers(network, trunks)
        with torch.no_grad(), record_outputs(self.eval(), layers) as outputs:
            pooled = self._pool(images)
        if outputs[layers[-1]].ndim == 3:
            self.num_prefix_tokens = 1  # the class token
        elif hasattr(network, "permute"):  # Swin
            self.output_fmt = "NHWC"
        self.feature_info = find_stages(outputs, self.output_fmt == "NHWC")
        self._map, self.num_features = self.feature_info[-1].values()
        self.head_hidden_size = pooled.shape[1]
        self.train()

    def _pool(self, images: Tensor) -> Tensor:
        return self.network(images).flatten(1)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """``images [B, C, S, S]`` to features ``[B, F]``."""
        return self._pool(images)

    def run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled features, and the map or the tokens."""
        with record_outputs(self, [self._map]) as outputs:
            pooled = self._pool(images)
        return pooled, outputs[self._map]


def _find_layers(network: Any, trunks: Sequence[str]) -> list[str]:
    """The names of the layers in order, of which some are stages."""
    if hasattr(network, "encoder"):  # a transformer, whose last map is normalised
        layers = [f"network.encoder.layers.{n}" for n, _ in network.encoder.layers.named_children()]
        return [*layers[:-1], "network.encoder"]
    trunk = next((name for name in trunks if hasattr(network, name)), "")
    children = network.get_submodule(trunk).named_children()
    prefix = f"network.{trunk}." if trunk else "network."
    skipped = (nn.AdaptiveAvgPool2d, nn.Linear, nn.Identity, nn.Dropout)
    return [prefix + name for name, child in children if not isinstance(child, skipped)]
