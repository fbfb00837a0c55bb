"""Encode the item of an example for a backbone, with one kind of error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.data.image import read_error
from autotl.errors import DataError, shorten
from autotl.space.input_kind import InputKind, ModelInput


def encode(
    kind: InputKind, item: Any, expects: ModelInput, scales: Mapping[str, Any], name: str = ""
) -> NDArray[Any]:
    """Encode an item as the array that a backbone's input describes.

    Args:
        kind: What the item is.
        item: The item.
        expects: The input of the backbone.
        scales: Those of the data set.
        name: The name of the example, for messages about items that are neither files nor texts.

    Returns:
        An array of the shape and type that ``expects`` names.

    Raises:
        DataError: The item cannot be read, or the plugin encodes it otherwise than it says.
    """
    place = shorten(name if name and not isinstance(item, str | Path) else str(item))
    try:
        encoded = np.asarray(kind.encode(item, expects, scales))
    except DataError:
        raise
    except Exception as error:  # decoders raise anything on broken files
        raise DataError(
            f"{place}: {read_error(error)}; replace the {kind.noun} or remove it"
        ) from error
    if encoded.shape != tuple(expects.shape) or encoded.dtype != np.dtype(expects.dtype):
        raise DataError(
            f"{place}: the {kind.name} input encodes it as {encoded.dtype} "
            f"{list(encoded.shape)} instead of {expects.dtype} {list(expects.shape)}; mend the "
            "plugin"
        )
    return encoded
