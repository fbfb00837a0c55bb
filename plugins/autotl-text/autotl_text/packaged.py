"""Models whose weights are in a distribution, and what the families of backbones share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from autotl_plugins.hub import HUB

from autotl import Incompatible
from autotl.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from .networks import TextBackbone
    from .tokens import Tokens

    Backbone = TypeVar("Backbone", bound=TextBackbone)

DEFAULT_SIZE = 128
"""Number of tokens of the input, unless a model takes fewer."""

SMALLEST_SIZE = 4
"""Number of tokens, two of which may be separators."""


class Packaged(NamedTuple):
    """A model whose weights are in a distribution, which is not imported.

    Args:
        distribution: The distribution.
        licence: The licence of the weights.
        hub: The name of the same model on the Hugging Face hub; may be empty.
    """

    distribution: str
    licence: str
    hub: str = ""

    @property
    def origin(self) -> str:
        """Name and version of the installed distribution."""
        return f"package {self.distribution} {metadata.version(self.distribution)}"

    @property
    def missing(self) -> str:
        """What to do if the distribution is not installed."""
        return f"not installed: pip install {self.distribution}"

    def find(self, file: str) -> Path | None:
        """Find a file of the distribution by its name; None if it is not installed."""
        try:
            files = metadata.distribution(self.distribution).files or ()
        except metadata.PackageNotFoundError:
            return None
        paths = (Path(str(f.locate())) for f in files if f.name == file)
        return next((path for path in paths if path.is_file()), None)


def match(patterns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that patterns match, in the order of the patterns and without duplicates.

    Raises:
        PluginError: A pattern matches none, but resembles one; a name of the hub may.
    """
    matched = {p: [name for name in names if fnmatchcase(name, p)] for p in patterns}
    for pattern in (p for p in patterns if not matched[p] and not p.startswith(HUB)):
        if (hint := did_you_mean(pattern, names)).startswith("did"):
            raise PluginError(f"no text backbone is called {pattern!r}; {hint}")
    return list(dict.fromkeys(name for p in patterns for name in matched[p]))


def refuse_others(pattern: str, names: Iterable[str]) -> None:
    """Refuse a pattern that matches none of the names.

    Raises:
        PluginError: It matches none.
    """
    if not match([pattern], names):
        near = did_you_mean(pattern, names)
        raise PluginError(f"no text backbone is called {pattern!r}; {near}")


def require_size(name: str, size: int, limit: int | None = None) -> None:
    """Check the number of tokens that a backbone is to be built for.

    Raises:
        Incompatible: It is too small, or larger than the limit of the model.
    """
    if size < SMALLEST_SIZE:
        raise Incompatible(f"{name} needs texts of at least {SMALLEST_SIZE} tokens, not {size}")
    if limit is not None and size > limit:
        raise Incompatible(f"{name} accepts texts of at most {limit} tokens, not {size}")


def expect(network: Backbone, tokens: Tokens) -> Backbone:
    """Set the input of a network; return the network."""
    network.expects = tokens
    return network
