"""What the tests share that feed texts: token ids, and a small encoder with an attention mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from toy import CPU, config

from autotl import backbone
from autotl.data import Batches
from autotl.models import Model
from autotl.space.input_kind import ModelInput
from autotl.tasks import numbered_classes

PAD, LENGTH, WIDTH, VOCABULARY, CLASSES = 0, 10, 16, 40, 3


def make_ids(count: int, seed: int = 0, padded: bool = True) -> Tensor:
    """Token ids ``int64 [count, LENGTH]``, of texts of various lengths unless not ``padded``."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (count, LENGTH), generator=random)
    lengths = torch.randint(2, LENGTH + 1, (count, 1), generator=random)
    lengths[0] = LENGTH
    return ids.where(torch.arange(LENGTH) < lengths, PAD) if padded else ids


class Layer(nn.Module):
    """A layer of a transformer with one head: ``hidden [B, L, F]`` and ``mask [B, L]``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = self.qkv(self.norm(hidden)).chunk(3, 2)
        scores = query @ key.mT / WIDTH**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -1e4)
        hidden = hidden + self.out(scores.softmax(2) @ value)
        return hidden + self.mlp(self.norm2(hidden))


class Encoder(nn.Module):
    """Three layers, whose mask is made from the token ids, and the mean of the tokens."""

    num_features = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.final = nn.LayerNorm(WIDTH)

    def make_mask(self, ids: Tensor) -> Tensor | None:
        return ids != PAD

    def forward(self, ids: Tensor) -> Tensor:
        mask = self.make_mask(ids)
        hidden = self.embedding(ids) + self.position[: ids.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.pool(self.final(hidden), ids)

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        mask = (ids != PAD)[..., None]
        return (hidden * mask).sum(1) / mask.sum(1)


class TokenInput(ModelInput):
    """Token ids, which the backbone gets as they are."""

    kind, size, shape, dtype, key = "tokens", LENGTH, (LENGTH,), "int64", "tokens"

    def encode(self, item: Any) -> Any:
        return item


@backbone
def encoder() -> nn.Module:
    """``Encoder``, always with the same weights, as if they were pretrained."""
    return build_encoder(Encoder)


def build_encoder(make: type[Encoder]) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return make()


def text_model(make: type[Encoder] = Encoder, seed: int = 0, **chosen: Any) -> Model:
    """A model of an encoder and the head of ``toy.config(**chosen)``, on the CPU."""
    head = config(backbone=encoder, **chosen)["head"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = head.plugin.call({"features": WIDTH, "classes": CLASSES}, head.params)
    return Model(build_encoder(make), classifier, TokenInput(), task=numbered_classes(3))


class TextBatches(Batches):
    """Batches of some of 36 texts; the class is the first token modulo the number of classes."""

    def __init__(self, indices: Sequence[int] = range(36), seed: int = 0, size: int = 12) -> None:
        self.ids = make_ids(36, seed)
        labels = (self.ids[:, 0] % CLASSES).numpy()
        packed: Any = SimpleNamespace(key=f"texts {seed}", array=self.ids.numpy())
        shuffle_seed = None if seed else 0
        chosen = np.array(indices)
        super().__init__(packed, labels, chosen, size, CPU.torch_device, shuffle_seed=shuffle_seed)

    def load(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        ids = (self.ids[self.indices[positions]] for positions in batches)
        return zip(ids, self.load_targets(batches), strict=True)
