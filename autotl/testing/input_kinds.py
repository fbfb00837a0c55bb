"""The checks of a kind of input, on its own toy examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from autotl import data, models
from autotl.data import ImageInput, encode
from autotl.errors import DataError
from autotl.space.input_kind import (
    ANY_INPUT,
    IMAGE,
    InputKind,
    ModelInput,
    Preview,
    WeightedText,
)
from autotl.space.plugin import AnyPlugin, Example
from autotl.space.space import Choice
from autotl.testing.violations import Violations, describe

COUNTS = (4, 3, 2)
"""The numbers of toy examples that are asked for."""

MAX_PREVIEW_BYTES = 200_000
"""The largest preview; a report has dozens of them."""

MISSING = "no/such/folder/no_such_file.none"

IMAGE_INPUT = ImageInput(32, (0.5,) * 3, (0.2,) * 3, "bilinear")
"""The input of a backbone of images, for kinds that become images."""


def check_kind(kind: InputKind, backbone: AnyPlugin | None, violations: Violations) -> None:
    """Check a kind of input.

    Args:
        kind: The kind.
        backbone: A backbone whose input the items are encoded for; None if images suffice, or to
            leave that out.
        violations: Where violations are added.
    """
    if not _check_names(kind, violations):
        return
    examples = _make_toys(kind, violations)
    if not examples or not _check_content(kind, examples, violations):
        return
    for check in (_check_previews, _check_explanation):
        with violations.catch():
            check(kind, examples, violations)
    with violations.catch():
        _check_reading(kind, violations)
    with violations.catch():
        expects = _find_input(kind, backbone)
        _check_encoding(kind, examples, expects, violations)


def _check_names(kind: InputKind, violations: Violations) -> bool:
    for attribute in ("name", "noun", "nouns", "unit"):
        value = getattr(kind, attribute, None)
        if not isinstance(value, str) or not value.strip():
            violations.add(f"has no {attribute}; set it to a word")
            return False
    if kind.name in (IMAGE, ANY_INPUT):
        violations.add(f"is called {kind.name!r}, which is AutoTL's own name; choose another one")
        return False
    if not isinstance(kind.becomes, str) or kind.becomes == kind.name:
        violations.add("becomes itself; leave becomes empty, or name another kind")
        return False
    return True


def _make_toys(kind: InputKind, violations: Violations) -> list[Example]:
    """The toy examples; none after a violation."""
    examples: Any = kind.toy(COUNTS)
    if not isinstance(examples, list) or not all(isinstance(e, Example) for e in examples):
        violations.add(f"has toy examples {describe(examples)}; return a list of autotl.Example")
        return []
    counts = Counter(example.label for example in examples)
    if sorted(counts.values()) != sorted(COUNTS):
        violations.add(
            f"has toy examples {dict(counts)} for the counts {COUNTS}; return so many of each of "
            "three classes"
        )
        return []
    if any(len(kind.toy(part, 1)) != sum(part) for part in ((2, 0, 0), (1, 1, 1), (2,))):
        violations.add("has another number of toy examples than asked for; follow counts")
        return []
    return examples


def _check_content(kind: InputKind, examples: Sequence[Example], violations: Violations) -> bool:
    """Check that content identifies items; return whether all items have one."""
    contents: list[Any] = [kind.content(example.item) for example in examples]
    for content in contents:
        if not isinstance(content, bytes) or not content:
            violations.add(
                f"has the content {content!r:.50} of a toy example; return bytes, not empty"
            )
            return False
    repeated = [kind.content(example.item) for example in reversed(kind.toy(COUNTS))]
    if contents != repeated[::-1]:
        violations.add(
            "gives other bytes as content of the same toy examples; let toy depend on its seed "
            "alone, and content on the item alone"
        )
        return False
    labels: dict[bytes, str] = {}
    for content, example in zip(contents, examples, strict=True):
        if labels.setdefault(content, example.label) != example.label:
            violations.add(
                "gives equal bytes as content of toy examples of two classes, which are then "
                "copies; return all that distinguishes items"
            )
            return False
    return True


def _check_previews(kind: InputKind, examples: Sequence[Example], violations: Violations) -> None:
    scales = kind.measure([example.item for example in examples])
    for example in examples:
        preview: Any = kind.show(example.item, scales)
        if not isinstance(preview, Preview) or not isinstance(preview.content, bytes):
            violations.add(f"shows {describe(preview)}; return an autotl.Preview of bytes")
            return
        kind_of_media = preview.media_type.partition("/")[0]
        if preview.media_type != "text/plain" and kind_of_media not in ("image", "audio"):
            violations.add(
                f"shows {preview.media_type!r}, which reports do not show; use text/plain, "
                "image/... or audio/..."
            )
            return
        if kind_of_media == "text":
            preview.content.decode()
        if not 0 < len(preview.content) <= MAX_PREVIEW_BYTES:
            violations.add(
                f"shows {len(preview.content):,} bytes; return between 1 and "
                f"{MAX_PREVIEW_BYTES:,} bytes, because a report has dozens of previews"
            )
            return


def _check_explanation(
    kind: InputKind, examples: Sequence[Example], violations: Violations
) -> None:
    """Check an explanation of a model to which all classes are equally probable."""
    explained: Any = kind.explain(
        examples[0].item, 0, lambda items: np.full((len(items), 3), 1 / 3, np.float32)
    )
    if explained is None:
        return
    if not isinstance(explained, WeightedText) or not all(
        isinstance(text, str) and -1 <= weight <= 1 for text, weight in explained.parts
    ):
        violations.add(
            f"explains a prediction by {describe(explained)}; return an autotl.WeightedText with "
            "weights from -1 to 1, or None"
        )


def _check_reading(kind: InputKind, violations: Violations) -> None:
    """Check what is read of a file that does not exist.

    A kind whose arguments may be the items themselves, such as sentences, reads it as one.
    """
    try:
        pairs: list[Any] = list(kind.read(MISSING))
    except DataError:
        return
    except Exception as error:  # a plugin may raise anything
        violations.add(
            f"raises {type(error).__name__} where a file to read does not exist; raise "
            "autotl.errors.DataError, whose message is shown to the user"
        )
        return
    try:
        is_readable = bool(pairs) and all(
            isinstance(name, str) and kind.content(item) for name, item in pairs
        )
    except Exception:  # a plugin may raise anything
        is_readable = False
    if not is_readable:
        violations.add(
            "reads a file that does not exist without an error; raise autotl.errors.DataError"
        )


def _find_input(kind: InputKind, backbone: AnyPlugin | None) -> ModelInput | None:
    if kind.backbone_input == IMAGE:
        return IMAGE_INPUT
    return models.build_backbone(Choice(backbone, backbone.defaults), None)[1] if backbone else None


def _check_encoding(
    kind: InputKind,
    examples: Sequence[Example],
    expects: ModelInput | None,
    violations: Violations,
) -> None:
    items = [example.item for example in examples]
    for item in items:
        kind.convert(item)
    scales: Any = kind.measure(items)
    try:
        data.scale.from_json({name: list(pair) for name, pair in scales.items()})
    except (AttributeError, TypeError, ValueError):
        violations.add(
            f"measures {scales!r:.100}; return names with a low and a higher number each, such as "
            "{'seconds': (0.0, 4.5)}"
        )
        return
    if expects is None:
        return
    try:
        encoded = [encode(kind, item, expects, scales) for item in items]
    except DataError as error:
        violations.add(f"cannot be encoded for a backbone of {expects.kind} inputs: {error}")
        return
    repeated = [encode(kind, item, expects, scales) for item in reversed(items)]
    if not all(map(np.array_equal, encoded, reversed(repeated))):
        violations.add("encodes an item differently the second time; keep nothing between calls")
        return
    size = kind.useful_size(items, expects)
    if size is not None and (not isinstance(size, int) or size < 1):
        violations.add(f"has the useful size {size!r}; return a whole number above 0, or None")
    first = {example.label: array for example, array in zip(examples, encoded, strict=True)}
    one, *others = first.values()
    if any(np.array_equal(one, other) for other in others):
        violations.add("encodes toy examples of different classes equally; are they too large?")
