"""Loading of pretrained models by the library transformers, silently and without running code.

Only safetensors are read, never pickles, and no code that comes with a model is executed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autotl_plugins.hub import build_model, explain_failure, load_model, quiet

from autotl.errors import WeightsError

from .tokens import TOKENIZER_FILE, SpecialTokens

if TYPE_CHECKING:
    from torch import nn

    from .networks import TransformerEncoder

LOADED_AT_ONCE = 4
"""Number of models that stay in memory, from which backbones are copied."""

UNLIMITED = 10**6
"""What tokenizers without a limit give as their maximum is larger."""


class Vocabulary(NamedTuple):
    """A tokenizer.

    Args:
        tokenizer: The content of its ``tokenizer.json``.
        special: The ids of special tokens.
        limit: Maximum number of tokens of an input; None if there is none.
    """

    tokenizer: str
    special: SpecialTokens
    limit: int | None


class Pretrained(NamedTuple):
    """A loaded model, which is to be copied, its vocabulary, and its configuration as JSON."""

    network: TransformerEncoder
    vocabulary: Vocabulary
    configuration: Mapping[str, Any]


@functools.lru_cache(LOADED_AT_ONCE)
def load(source: str) -> Pretrained:
    """Load a model from a folder or from the hub; a second call returns the same object.

    Raises:
        WeightsError: It cannot be downloaded or read, its weights are incomplete, or it is no model
            of texts.
    """
    with quiet(), _explain_failure(source):
        configuration = _load_configuration(source)
        return _complete(source, load_model(source, configuration), configuration)


def load_untrained(source: str) -> Pretrained:
    """Like ``load``, with random weights."""
    with quiet(), _explain_failure(source):
        configuration = _load_configuration(source)
        return _complete(source, build_model(configuration), configuration)


def _complete(source: str, model: Any, configuration: Any) -> Pretrained:
    vocabulary = _load_vocabulary(source, model, configuration)
    network = _wrap(model, vocabulary.special.pad)
    return Pretrained(network, vocabulary, configuration.to_diff_dict())


def build(folder: Path, pad: int) -> TransformerEncoder:
    """Build the network that the ``config.json`` in a folder describes, with random weights.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    with quiet(), _explain_failure(str(folder)):
        return _wrap(build_model(_load_configuration(str(folder))), pad)


def count_parameters(source: str) -> int:
    """Count the parameters of a model without loading its weights."""
    import torch

    with quiet(), _explain_failure(source):
        configuration = _load_configuration(source)
        with torch.device("meta"):  # its tensors have no memory
            encoder = build_model(configuration)
    return sum(p.numel() for p in _take_encoder(encoder).parameters())


def _load_configuration(source: str) -> Any:
    from transformers import AutoConfig

    configuration = AutoConfig.from_pretrained(source, trust_remote_code=False)
    configuration.use_cache = False  # of decoders, for generating texts
    return configuration


def _explain_failure(source: str) -> AbstractContextManager[None]:
    advice = (
        "give a folder that save_pretrained of a model and of its tokenizer wrote, or another model"
    )
    context: AbstractContextManager[None] = explain_failure(source, "texts", advice)
    return context


def _take_encoder(model: Any) -> nn.Module:
    encoder: nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model
    return encoder


def _wrap(model: Any, pad: int) -> TransformerEncoder:
    """Make a backbone; a short text is computed to find the number of features."""
    import torch

    from .networks import TransformerEncoder

    encoder = _take_encoder(model)
    ids = torch.ones(1, 4, dtype=torch.long)
    with torch.no_grad():
        width = encoder.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))[0].shape[-1]
    return TransformerEncoder(encoder.train(), pad, width)


def _load_vocabulary(source: str, model: nn.Module, configuration: Any) -> Vocabulary:
    tokenizer = load_tokenizer(source)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise WeightsError("its tokenizer cannot be converted to a tokenizer.json")
    pad = _first(tokenizer.pad_token_id, configuration.pad_token_id, tokenizer.eos_token_id, 0)
    replacement = _first(tokenizer.mask_token_id, tokenizer.unk_token_id, pad)
    added = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    reserved = tuple(sorted({pad, replacement, *tokenizer.all_special_ids, *added}))
    limit = find_limit(tokenizer, model, configuration)
    return Vocabulary(backend.to_str(), SpecialTokens(pad, replacement, reserved), limit)


def find_limit(tokenizer: Any, model: nn.Module, configuration: Any) -> int | None:
    """The maximum number of tokens of an input; None if there is none."""
    limits = [
        tokenizer.model_max_length,
        getattr(configuration, "max_position_embeddings", None),
        *_count_positions(model),
    ]
    return min((n for n in limits if n and 0 < n < UNLIMITED), default=None)


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer of a model from a folder or from the hub, without running code."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if Path(source).is_dir() and not Path(source, TOKENIZER_FILE).is_file():
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    try:  # its tokenizer.json describes a tokenizer completely
        return PreTrainedTokenizerFast.from_pretrained(source)
    except Exception:  # the hub has none for this model; the library converts older formats
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _first(*ids: int | None) -> int:
    return next(i for i in ids if i is not None)


def _count_positions(model: nn.Module) -> Iterator[int]:
    """The number of positions of each table of positions; some begin after the id of padding."""
    from torch import nn

    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            pad = module.padding_idx
            yield module.num_embeddings - (0 if pad is None else pad + 1)
