"""Backbones for texts as networks: ``ids int [B, L] -> features [B, F]``.

Shapes: B texts in a batch, L tokens of the input, F features. Padding is found by its id, so that
one tensor is the whole input. Maps are zeros at positions of padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .tokens import Tokens

LAST = 99999
"""Where timm sorts in the parameters that belong to the block before them."""


class TextBackbone(nn.Module):
    """What all backbones for texts have: the mean over the tokens of a text as its features.

    Args:
        pad: The id of padding.
        width: Number of features F.

    Attributes:
        expects: The input; set by the plugin.
        num_features: Number of features F.
    """

    expects: Tokens

    def __init__(self, pad: int, width: int) -> None:
        super().__init__()
        self.pad, self.num_features = pad, width

    def mask(self, ids: Tensor) -> Tensor:
        """Which positions are tokens and not padding, ``bool [B, L]``."""
        return ids != self.pad

    def compute_map(self, ids: Tensor) -> Tensor:
        """``ids [B, L]`` to a map ``[B, L, F]``, with any numbers at positions of padding."""
        raise NotImplementedError

    def forward_features(self, ids: Tensor) -> Tensor:
        """``ids [B, L]`` to the map ``[B, L, F]``, with zeros at positions of padding."""
        return self.compute_map(ids).masked_fill(~self.mask(ids)[..., None], 0)

    def pool(self, features: Tensor, ids: Tensor) -> Tensor:
        """The mean of a map ``[B, L, F]`` over the tokens of each text, ``[B, F]``."""
        mask = self.mask(ids)[..., None]
        return features.masked_fill(~mask, 0).sum(1) / mask.sum(1).clamp(min=1)

    def forward(self, ids: Tensor) -> Tensor:
        """``ids [B, L]`` to features ``[B, F]``."""
        return self.pool(self.compute_map(ids), ids)


class StaticEmbeddings(TextBackbone):
    """A vector for each token, which does not depend on the other tokens of its text."""

    def __init__(self, pad: int, vectors: int, width: int) -> None:
        super().__init__(pad, width)
        self.embedding = nn.Embedding(vectors, width)

    def compute_map(self, ids: Tensor) -> Tensor:
        """``ids [B, L]`` to the map ``[B, L, F]``."""
        features: Tensor = self.embedding(ids)
        return features


class TransformerEncoder(TextBackbone):
    """An encoder, or a decoder, of the library transformers.

    Args:
        encoder: The model, without a pooling layer.
        pad: The id of padding.
        width: Number of features F.

    Attributes:
        lr_scale: Transformers of texts are fine-tuned at 1e-5 to 1e-4 or little more (Devlin et al.
            2018, arXiv:1810.04805), a tenth of the rates that strategies have by default.
        layers: The name of the list of layers; empty if there is none.
        feature_info: The names of the layers and their numbers of features, as timm has them.
    """

    lr_scale = 0.1

    def __init__(self, encoder: nn.Module, pad: int, width: int) -> None:
        super().__init__(pad, width)
        self.encoder = encoder
        self.layers = _find_layers(self)
        count = len(self._layer_list) if self.layers else 0
        self.feature_info = [
            {"module": f"{self.layers}.{i}", "num_chs": width, "reduction": 1} for i in range(count)
        ]

    @property
    def _layer_list(self) -> nn.ModuleList:
        layers = self.get_submodule(self.layers)
        assert isinstance(layers, nn.ModuleList)
        return layers

    def group_matcher(self, coarse: bool = False) -> Callable[[str], tuple[int, ...]]:
        """The block of a parameter by its name: embeddings, then each layer.

        Raises:
            ValueError: The model has no list of layers.
        """
        if not self.layers:
            raise ValueError("the model has no list of layers")
        prefix, count = f"{self.layers}.", len(self._layer_list)
        names = [name for name, _ in self.named_parameters()]
        first = next(i for i, name in enumerate(names) if name.startswith(prefix))
        before = set(names[:first])

        def find_block(name: str) -> tuple[int, ...]:
            if name.startswith(prefix):
                return 1, int(name.removeprefix(prefix).partition(".")[0])
            # Relative positions are used by every layer, wherever a model defines them.
            is_first = name in before or "embed" in name or "relative" in name
            return (0,) if is_first else (1, count - 1, LAST)

        return find_block

    def compute_map(self, ids: Tensor) -> Tensor:
        """``ids [B, L]`` to the map ``[B, L, F]``."""
        mask = self.mask(ids).long()
        features: Tensor = self.encoder(input_ids=ids.long(), attention_mask=mask)[0]
        return features

    def forward_intermediates(
        self, ids: Tensor, indices: int | list[int] | None = None, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Pooled features of the whole model and of its layers.

        Args:
            ids: ``[B, L]``.
            indices: Number of last layers, or their indices; None for all.
            norm: Ignored: layers have their own normalisation.

        Returns:
            The features ``[B, F]``, and the means over the tokens as maps ``[B, F, 1, 1]``.
        """
        outputs: list[Tensor] = []

        def collect(module: nn.Module, args: Any, output: Any) -> None:
            outputs.append(output if isinstance(output, Tensor) else output[0])

        handles = [layer.register_forward_hook(collect) for layer in self._layer_list]
        try:
            features = self.forward(ids)
        finally:
            for handle in handles:
                handle.remove()
        if isinstance(indices, int):
            indices = list(range(len(outputs) - indices, len(outputs)))
        chosen = outputs if indices is None else [outputs[i] for i in indices]
        return features, [self.pool(output, ids)[..., None, None] for output in chosen]

    def forward_head(self, features: Tensor) -> Tensor:
        """What ``forward_intermediates`` returned first, which is pooled already."""
        return features


def _find_layers(model: nn.Module) -> str:
    """The name of the list of modules with the most parameters; empty if there is none."""
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in lists}
    return max(sizes, key=lambda name: sizes[name], default="")
