"""The input of a text backbone: a text as the numbers of its tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl import ModelInput
from autotl.errors import WeightsError

from .kind import text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENIZER_FILE, TOKENS_FILE, CONFIG_FILE = "tokenizer.json", "tokens.json", "config.json"


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of tokens that are no part of a text.

    Args:
        pad: Fills up texts that are shorter than the input. It is not looked at by the backbone.
        replacement: Stands for a token that is hidden: the mask, or an unknown token.
        reserved: All ids that no augmentation may change, such as those of separators.
    """

    pad: int
    replacement: int
    reserved: tuple[int, ...]


class Tokens(ModelInput):
    """Encodes texts as token ids ``int32 [size]``, cut off or filled up at the end.

    Args:
        tokenizer: The content of a ``tokenizer.json``.
        special: The ids of special tokens.
        size: Number of tokens.
        configuration: What the backbone is built from: values of JSON.

    Attributes:
        special: The ids of special tokens.
        configuration: What the backbone is built from.
    """

    kind = text.name
    dtype = "int32"
    has_padding = True

    def __init__(
        self, tokenizer: str, special: SpecialTokens, size: int, configuration: Mapping[str, Any]
    ) -> None:
        from tokenizers import Tokenizer

        self.size, self.shape, self.special = size, (size,), special
        self.configuration = configuration
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.enable_truncation(size)
        self._tokenizer.enable_padding(
            length=size, pad_id=special.pad, pad_token=self._tokenizer.id_to_token(special.pad)
        )
        state = self._tokenizer.to_str() + json.dumps(asdict(special))
        self.key = f"text-{size}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"

    def __deepcopy__(self, memo: Any) -> Tokens:
        """Itself, because it never changes: a copy of a backbone shares the vocabulary."""
        return self

    def encode(self, item: str) -> NDArray[np.int32]:
        """Encode a text as ``int32 [size]``; one without tokens gets the replacement."""
        import numpy as np

        ids = np.array(self._tokenizer.encode(item).ids, np.int32)
        if ids[0] == self.special.pad:
            ids[0] = self.special.replacement
        return ids

    def count(self, item: str) -> int:
        """The number of tokens of a text, at most ``size``."""
        return sum(self._tokenizer.encode(item).attention_mask)

    def save(self, folder: Path) -> None:
        """Write the tokenizer, the special tokens and the configuration of the backbone."""
        self._tokenizer.save(str(folder / TOKENIZER_FILE), pretty=False)
        state = {**asdict(self.special), "size": self.size}
        for file, content in ((TOKENS_FILE, state), (CONFIG_FILE, self.configuration)):
            (folder / file).write_text(json.dumps(content, indent=1), encoding="utf-8")


def load_tokens(folder: Path, size: int | None) -> Tokens:
    """Load what ``Tokens.save`` wrote.

    Args:
        folder: The folder.
        size: Number of tokens; None for that with which it was saved.

    Raises:
        WeightsError: A file is missing or damaged.
    """
    try:
        state = json.loads((folder / TOKENS_FILE).read_text(encoding="utf-8"))
        reserved = tuple(map(int, state["reserved"]))
        special = SpecialTokens(int(state["pad"]), int(state["replacement"]), reserved)
        tokenizer = (folder / TOKENIZER_FILE).read_text(encoding="utf-8")
        configuration = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return Tokens(tokenizer, special, size or int(state["size"]), configuration)
    except Exception as error:  # the library raises plain exceptions for a damaged file
        raise WeightsError(
            f"{folder}: the tokenizer cannot be loaded ({type(error).__name__}: {error}); save the "
            "model again"
        ) from error
