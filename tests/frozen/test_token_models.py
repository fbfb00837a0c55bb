"""Split points of models of token ids, whose layers need a mask that is made from the ids."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from token_models import LENGTH, PAD, VOCABULARY, WIDTH, Encoder, TokenInput, make_ids, text_model
from torch import Tensor, nn
from torch.nn import functional

from autotl.frozen.split_point import HALF, HALF_TOLERANCE, SplitPoint, find_split_point
from autotl.models import Model
from autotl.tasks import numbered_classes
from autotl.training import set_trainable


def train_layers(network: Model, *names: str) -> None:
    """Make the head and the parameters named like ``names`` trainable."""
    named = network.backbone.named_parameters()
    params = [p for n, p in named if n.startswith(names)] if names else []
    assert bool(params) == bool(names)
    set_trainable(network, [{"params": [*network.head.parameters(), *params]}])


def find(make: type[Encoder], *names: str, padded: bool = True) -> SplitPoint | None:
    """The split point of an encoder with some trainable parameters, found on four texts."""
    network = text_model(make)
    train_layers(network, *names)
    return find_split_point(network, make_ids(4, padded=padded))


def assert_exact(split: SplitPoint) -> None:
    """Prefix and suffix compute the whole model's logits, also for other texts and batches."""
    network = split.model.eval()
    for count, seed, padded in ((4, 0, True), (1, 1, True), (7, 2, True), (5, 3, False)):
        ids = make_ids(count, seed, padded)
        with torch.no_grad():
            activations = split.prefix(ids)
            expected = network(ids)
            actual = split.suffix(activations.clone(), ids if split.needs_input else None)
            torch.testing.assert_close(actual, expected)
            order = torch.randperm(count)
            actual = split.suffix(activations[order], ids[order])
            torch.testing.assert_close(actual, expected[order])


DEPTHS = pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        (("layers.2", "final"), "layers.1"),
        (("layers.1", "layers.2"), "layers.0"),
        (("layers",), "embedding"),
        (("position",), "embedding"),
        (("final",), "layers.2"),
    ],
)


@DEPTHS
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
def test_the_suffix_gets_its_mask_from_the_token_ids(
    trainable: tuple[str, ...], expected: str, padded: bool
) -> None:
    split = find(Encoder, *trainable, padded=padded)
    assert split is not None
    assert (split.name, split.needs_input) == (expected, True)
    trained = {id(p) for p in split.model.parameters() if p.requires_grad}
    assert split.prefix_parameters
    assert not split.prefix_parameters & trained
    assert_exact(split)


def test_the_whole_backbone_needs_no_input() -> None:
    split = find(Encoder)
    assert split is not None
    assert (split.name, split.needs_input) == ("backbone", False)
    assert_exact(split)


def test_padding_alone_changes_what_the_suffix_computes() -> None:
    split = find(Encoder, "layers.2")
    assert split is not None
    split.model.eval()
    ids = make_ids(2, padded=False)
    shorter = ids.clone()
    shorter[:, 5:] = PAD
    with torch.no_grad():
        activations = split.prefix(ids)
        full, short = (split.features(activations.clone(), i) for i in (ids, shorter))
    assert not torch.allclose(full, short)


def test_features_without_the_input_that_they_need_are_refused() -> None:
    split = find(Encoder, "layers.2")
    assert split is not None
    with pytest.raises(ValueError, match=r"after layers\.1 need the model's input"):
        split.features(split.prefix(make_ids(2)))


@DEPTHS
def test_training_the_suffix_is_the_same_as_training_the_whole_model(
    trainable: tuple[str, ...], expected: str
) -> None:
    split = find(Encoder, *trainable)
    assert split is not None
    network, ids, labels = split.model, make_ids(6, 4), torch.arange(6) % 3

    def gradients(logits: Tensor) -> dict[str, Tensor]:
        network.zero_grad()
        functional.cross_entropy(logits, labels).backward()
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    network.train()
    whole = gradients(network(ids))
    with torch.inference_mode():
        activations = split.prefix(ids)
    torch.testing.assert_close(gradients(split.suffix(activations.clone(), ids)), whole)
    assert set(whole) == {n for n, p in network.named_parameters() if p.requires_grad}


def test_the_suffix_computes_no_layer_of_the_prefix() -> None:
    split = find(Encoder, "layers.2")
    assert split is not None
    ids = make_ids(3)
    activations = split.prefix(ids)
    outputs: list[tuple[nn.Module, Tensor]] = []
    layers = [m for m in split.model.backbone.modules() if isinstance(m, nn.Linear | nn.Embedding)]
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: outputs.append((m, out)))
    split.suffix(activations, ids)
    computed = {m for m, out in outputs if any(out.stride())}  # the others are placeholders
    assert computed == {m for m in split.model.backbone.layers[2].modules() if m in layers}


class Skipping(Encoder):
    """Computes without a mask where no text of the batch is padded."""

    def make_mask(self, ids: Tensor) -> Tensor | None:
        mask = ids != PAD
        return None if mask.all() else mask

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        return hidden[:, 0]


class PadsWithOne(Skipping):
    """Has other ids, in which placeholders, zeros, are texts without padding."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(swap_zero_and_one(ids))


def swap_zero_and_one(ids: Tensor) -> Tensor:
    return torch.where(ids < 2, 1 - ids, ids)


def test_placeholders_are_not_taken_for_texts_without_padding() -> None:
    network = text_model(PadsWithOne)
    train_layers(network, "layers.2")
    network.eval()
    full, padded = (swap_zero_and_one(make_ids(4, padded=p)) for p in (False, True))
    split = find_split_point(network, full)
    assert split is not None
    assert (split.name, split.needs_input) == ("layers.1", True)
    with torch.no_grad():
        actual, expected = split.features(split.prefix(padded), padded), network.features(padded)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
def test_what_code_decides_by_the_token_ids_is_decided_again(padded: bool) -> None:
    split = find(Skipping, "layers.2", padded=padded)
    assert split is not None
    assert (split.name, split.needs_input) == ("layers.1", True)
    assert_exact(split)


class MaskModule(nn.Module):
    """Makes the mask."""

    def forward(self, ids: Tensor) -> Tensor:
        return ids != PAD


class WithMaskModule(Encoder):
    """Has a module that makes the mask for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.masking = MaskModule()

    def make_mask(self, ids: Tensor) -> Tensor | None:
        mask: Tensor = self.masking(ids)
        return mask


def test_a_module_without_parameters_is_computed_again() -> None:
    split = find(WithMaskModule, "layers.2")
    assert split is not None
    assert (split.name, split.needs_input) == ("layers.1", True)
    assert_exact(split)


class Unmasked(Encoder):
    """Does not tell padding from other tokens after the embedding."""

    def make_mask(self, ids: Tensor) -> Tensor | None:
        return None

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        return hidden.mean(1)


class MaskedOnce(Encoder):
    """Uses the mask in the first layer only."""

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.layers[0](self.embedding(ids), ids != PAD)
        for layer in self.layers[1:]:
            hidden = layer(hidden, None)
        features: Tensor = self.final(hidden).mean(1)
        return features


@pytest.mark.parametrize("make", [Unmasked, MaskedOnce])
def test_the_input_is_not_needed_where_nothing_uses_it(make: type[Encoder]) -> None:
    split = find(make, "layers.2")
    assert split is not None
    assert (split.name, split.needs_input) == ("layers.1", False)
    assert_exact(split)


class Shortening(Encoder):
    """Shortens its input to the longest text of the batch."""

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids[:, : int((ids != PAD).sum(1).max())])


class Sorting(Encoder):
    """Sorts the texts of a batch by length for its layers."""

    def forward(self, ids: Tensor) -> Tensor:
        order = (ids != PAD).sum(1).argsort(stable=True)
        return super().forward(ids[order])[order.argsort()]


class TwoBranches(Encoder):
    """Adds what another embedding computes from the token ids after all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Embedding(VOCABULARY, WIDTH)

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        return super().pool(hidden + self.other(ids), ids)


class LeavesATrace(Encoder):
    """A layer of the prefix leaves something in a variable that is used later."""

    def forward(self, ids: Tensor) -> Tensor:
        mask = self.make_mask(ids)
        first = self.layers[0](self.embedding(ids), mask)
        hidden = self.layers[2](self.layers[1](first, mask), mask)
        return self.pool(self.final(hidden + first), ids)


@pytest.mark.parametrize("make", [Shortening, Sorting, TwoBranches])
def test_without_rows_of_their_own_for_the_texts_there_is_no_split_point(
    make: type[Encoder],
) -> None:
    assert find(make, "layers.2") is None


def test_texts_in_the_order_in_which_a_model_sorts_them_do_not_hide_that_it_sorts() -> None:
    network = text_model(Sorting)
    train_layers(network, "layers.2")
    ids = make_ids(8)
    lengths = (ids != PAD).sum(1)
    assert len(lengths.unique()) > 3
    assert find_split_point(network, ids[lengths.argsort(stable=True)]) is None


def test_a_split_point_that_another_path_bypasses_is_rejected_for_an_earlier_one() -> None:
    split = find(LeavesATrace, "layers.2")
    assert split is not None
    assert (split.name, split.needs_input) == ("layers.0", True)
    assert_exact(split)


def test_activations_may_be_cached_in_float16_where_the_features_stay() -> None:
    split = find(Encoder, "layers.2")
    assert split is not None
    ids = make_ids(6, 2)
    assert split.tolerates_float16(ids)
    with torch.no_grad():
        activations = split.prefix(ids)
        exact = split.features(activations.clone(), ids)
        rounded = split.features(activations.to(HALF).float(), ids)
        large = copy.deepcopy(split.model)
        large.backbone.position += 1e4
    error = (rounded - exact).square().mean().sqrt()
    assert 0 < error <= HALF_TOLERANCE * (exact - exact.mean(0)).square().mean().sqrt()
    train_layers(large, "layers.2")
    other = find_split_point(large, ids)
    assert other is not None
    assert not other.tolerates_float16(ids)


# Tensors that are not plain ones.


class FastPath(Encoder):
    """Has PyTorch's own layers, which in eval mode compute with nested tensors."""

    def __init__(self, nested: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=nested)
        del self.layers

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.encoder(self.embedding(ids), src_key_padding_mask=ids == PAD)
        return self.pool(hidden, ids)


class Recurrent(Encoder):
    """Has a recurrent layer, which gets the texts without their padding."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])

    def forward(self, ids: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(ids), (ids != PAD).sum(1), batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        features: Tensor = self.layers[2](self.layers[1](self.layers[0](hidden[-1])))
        return features


class Sparse(Encoder):
    """Multiplies by a sparse matrix."""

    def pool(self, hidden: Tensor, ids: Tensor) -> Tensor:
        neighbours = torch.eye(LENGTH).roll(1, 0).to_sparse()
        hidden = torch.stack([torch.sparse.mm(neighbours, x) for x in hidden])
        return super().pool(hidden, ids)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (partial(FastPath, True), "embedding"),
        (partial(FastPath, False), "encoder.layers.1"),
        (Recurrent, "layers.1"),
        (Sparse, "layers.1"),
    ],
)
def test_models_with_tensors_of_other_layouts_are_split(make: Any, expected: str) -> None:
    split = find(make, "encoder.layers.2", "layers.2")
    assert split is not None
    assert split.name == expected
    assert_exact(split)


# Encoders of another library.


class Pooled(nn.Module):
    """An encoder of transformers, and the mean of its tokens."""

    num_features = 32

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids != PAD
        output = self.encoder(input_ids=ids, attention_mask=mask)
        hidden: Tensor = output.last_hidden_state * mask[..., None]
        return hidden.sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("Bert", "encoder.layer"),
        ("DistilBert", "transformer.layer"),
        ("Roberta", "encoder.layer"),
        ("MPNet", "encoder.layer"),
        ("DebertaV2", "encoder.layer"),
        ("ModernBert", "layers"),
    ],
)
def test_encoders_of_transformers_are_split_after_a_layer(name: str, layers: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=2 * LENGTH,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    backbone = Pooled(getattr(transformers, f"{name}Model")(config))
    network = Model(backbone, nn.Linear(32, 3), TokenInput(), task=numbered_classes(3))
    train_layers(network, f"encoder.{layers}.2.")
    for padded in (True, False):
        split = find_split_point(network, make_ids(4, padded=padded))
        assert split is not None
        assert (split.name, split.needs_input) == (f"encoder.{layers}.1", True)
        assert_exact(split)
