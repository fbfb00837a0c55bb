"""Tiny encoders with random weights, which transformers writes like pretrained ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

WORDS = ["the", "a", "cat", "dog", "bread", "rain", "piano", "liked", "with"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_encoder(
    folder: Path, architecture: str = "bert", words: Sequence[str] = WORDS, **options: object
) -> Path:
    """Save an encoder with random weights, and its tokenizer."""
    from autotl_text.pretrained import quiet
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["pad", "unk", "cls", "sep", "mask"]
    special = {f"{n}_token": token for n, token in zip(names, SPECIAL, strict=True)}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 40}
    layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "pad_token_id": 0}
    sizes |= {"vocab_size": len(vocabulary), **layers, **options}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model(architecture, **sizes)).save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder
