"""Read the examples of a data source with the dataset plugin that matches it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from autotl.data.image_kind import find_kind
from autotl.space.input_kind import InputKind
from autotl.space.plugin import Example, Issue
from autotl.space.registry import Registry


class Source(NamedTuple):
    """What a dataset plugin returned: the examples, the problems it reported, and their kind."""

    examples: list[Example]
    issues: list[Issue]
    kind: InputKind


def read_source(source: str, plugins: Registry) -> Source:
    """Read the examples of a data source; no example is opened.

    Args:
        source: A folder, a file, or another source that an installed dataset plugin reads.
        plugins: The plugins.

    Raises:
        DataError: The source cannot be read.
        PluginError: No dataset plugin reads it.
    """
    if source.startswith("~"):
        source = str(Path(source).expanduser())
    plugin = plugins.dataset(source)
    kind = find_kind(plugin.input, plugins)
    items = list(plugin.call({"source": source}, {}))
    issues = [item for item in items if isinstance(item, Issue)]
    return Source([item for item in items if not isinstance(item, Issue)], issues, kind)
