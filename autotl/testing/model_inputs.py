"""The checks of what a backbone expects: how it encodes items, its key, and its saved files."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autotl import models
from autotl.data import ImageInput
from autotl.models import Model
from autotl.space.input_kind import ModelInput
from autotl.space.space import Choice
from autotl.testing.configurations import Params
from autotl.testing.harness import SIZES, PluginHarness
from autotl.testing.violations import describe, first_line

KEY = re.compile(r"[\w.=+-]{1,100}")
"""What a key may be: it is a part of file names."""


def check_model_input(harness: PluginHarness, model: Model, params: Params) -> bool:
    """Check how the backbone under test encodes items, and that its key identifies that.

    The input of images is AutoTL's own and not checked.

    Returns:
        Whether the encoded items can be used.
    """
    expects, violations = model.expects, harness.violations
    if isinstance(expects, ImageInput):
        return True
    items = _toy_items(harness)
    encoded = _encode(harness, expects, items)
    for array in encoded:
        if array.shape != tuple(expects.shape) or array.dtype != np.dtype(expects.dtype):
            declared = f"{np.dtype(expects.dtype)} {list(expects.shape)}"
            violations.add(
                f"encodes an item as {describe(array)}, and expects says {declared}; return what "
                "expects.shape and expects.dtype say",
                params,
            )
            return False
        if not np.isfinite(array).all():
            violations.add("encodes an item as numbers that are not finite", params)
            return False
    if not _are_equal(encoded, _encode(harness, expects, items[::-1])[::-1]):
        violations.add(
            "encodes an item differently the second time or after other items; keep nothing "
            "between calls of encode, and use no random numbers",
            params,
        )
        return False
    if not _check_key(harness, expects, params):
        return False
    _check_description(harness, expects, params)
    try:
        with torch.no_grad():
            model.features(models.blank_batch(expects, 2, model.device))
    except Exception as error:  # a plugin may raise anything
        violations.add(
            f"cannot compute inputs of ones ({type(error).__name__}: {first_line(error)}), with "
            "which its speed is measured; accept them",
            params,
        )
    return True


def check_saved_input(harness: PluginHarness, model: Model, params: Params) -> None:
    """Check that the input that is built from the files of ``expects.save`` encodes equally."""
    expects, violations = model.expects, harness.violations
    if isinstance(expects, ImageInput):
        return
    choice = Choice(harness.plugin, params)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expects.save(folder)
        if any(folder.iterdir()) and not harness.plugin.takes_argument("saved"):
            violations.add(
                "saves files of its input but does not take saved; take it and read the files from "
                "that folder unless it is None",
                params,
            )
            return
        _, loaded = models.build_backbone(choice, expects.size, saved=folder)
    items = _toy_items(harness)
    same_key = loaded.key == expects.key
    if not same_key or not _are_equal(
        _encode(harness, expects, items), _encode(harness, loaded, items)
    ):
        violations.add(
            "encodes items differently, or has another key, when it is built with the files of "
            "expects.save and with the size in expects.size; save all that encode depends on",
            params,
        )


def _check_key(harness: PluginHarness, expects: ModelInput, params: Params) -> bool:
    """Check that the key is valid, the same for an equal input, and another for another size.

    Returns:
        Whether the input is always the same.
    """
    violations, choice = harness.violations, Choice(harness.plugin, params)
    if not isinstance(expects.key, str) or not KEY.fullmatch(expects.key):
        violations.add(
            f"has the key {expects.key!r}, which is a part of file names; use 1 to 100 letters, "
            "digits and ._=+-",
            params,
        )
        return True
    _, same = models.build_backbone(choice, harness.size, 1)
    items = _toy_items(harness)
    if same.key != expects.key or not _are_equal(
        _encode(harness, same, items), _encode(harness, expects, items)
    ):
        violations.add(
            "encodes items differently, or has another key, when it is built a second time",
            params,
        )
        return False
    for size in SIZES:
        try:
            _, other = models.build_backbone(choice, size)
        except Exception:  # it may refuse a size in any way
            continue
        differs = (other.size, tuple(other.shape)) != (expects.size, tuple(expects.shape))
        if differs and other.key == expects.key:
            violations.add(
                f"has the key {other.key!r} for the size {expects.size} and for {other.size}, so "
                "that examples of the wrong size are read from the cache; let it depend on the "
                "size",
                params,
            )
        if differs:
            break
    return True


def _check_description(harness: PluginHarness, expects: ModelInput, params: Params) -> None:
    description: Any = expects.describe()
    try:
        json.dumps(description, allow_nan=False)
        is_complete = {"size", "key"} <= set(description)
    except (TypeError, ValueError):
        is_complete = False
    if not is_complete:
        harness.violations.add(
            "has a description that is no JSON or lacks size or key; let expects.describe() return "
            "them, and strings, numbers, lists and dicts alone",
            params,
        )


def _toy_items(harness: PluginHarness) -> list[Any]:
    return [example.item for example in harness.kind.toy((2, 2, 2), 3)]


def _encode(
    harness: PluginHarness, expects: ModelInput, items: Sequence[Any]
) -> list[NDArray[Any]]:
    """Encode items; copied, because an input may return the same memory each time."""
    return [np.array(harness.kind.encode(item, expects, harness.scales)) for item in items]


def _are_equal(ones: Sequence[NDArray[Any]], others: Sequence[NDArray[Any]]) -> bool:
    return all(map(np.array_equal, ones, others))
