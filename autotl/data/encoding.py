"""Encode the item of an example for a backbone, with one kind of error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotl.data.image import read_error
from autotl.errors import DataError, shorten
from autotl.space.input_kind import InputKind, ModelInput


def encode(
    kind: InputKind, item: Any, expects: ModelInput, scales: Mapping[str, Any]
) -> NDArray[Any]:
    """Encode an item as the array that a backbone's input describes.

    Args:
        kind: What the item is.
        item: The item.
        expects: The input of the backbone.
        scales: Those of the data set.

    Returns:
        An array of the shape and type that ``expects`` names.

    Raises:
        DataError: The item cannot be read, or the plugin encodes it otherwise than it says.
    """
    try:
        encoded = np.asarray(kind.encode(item, expects, scales))
    except DataError:
        raise
    except Exception as error:  # decoders raise anything on broken files
        raise DataError(
            f"{shorten(str(item))}: {read_error(error)}; replace the {kind.noun} or remove it"
        ) from error
    if encoded.shape != tuple(expects.shape) or encoded.dtype != np.dtype(expects.dtype):
        raise DataError(
            f"{shorten(str(item))}: the {kind.name} input encodes it as {encoded.dtype} "
            f"{list(encoded.shape)} instead of {expects.dtype} {list(expects.shape)}; mend the "
            "plugin"
        )
    return encoded
