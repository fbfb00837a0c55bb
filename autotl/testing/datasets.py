"""The checks of dataset plugins."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from autotl.data import IMAGES
from autotl.space.input_kind import InputKind
from autotl.space.plugin import AnyPlugin, Example, Issue
from autotl.testing.violations import Violations, describe, first_line

SPLITS = ("", "train", "validation", "test", "unlabelled")
"""Values that ``Example.split`` may have; empty leaves the choice to AutoTL."""


def check_dataset(
    plugin: AnyPlugin, source: str, violations: Violations, kind: InputKind = IMAGES
) -> None:
    """Check that a plugin declares what it reads, and the examples that it returns.

    Args:
        plugin: The plugin.
        source: A source to read; empty checks the declaration alone.
        violations: Where violations are added.
        kind: What its examples are.
    """
    if not plugin.matches:
        violations.add(
            "does not declare which sources it reads; write @dataset(matches=['*.tar']); the "
            "pattern of a folder ends in '/'"
        )
    if not source:
        return
    path = f"{source.rstrip('/')}/" if Path(source).is_dir() else source
    if not any(fnmatchcase(path.lower(), pattern.lower()) for pattern in plugin.matches):
        violations.add(
            f"matches {list(plugin.matches)}, but none of these patterns matches {path!r}; "
            "correct matches"
        )
    elif plugin.accepts and not plugin.accepts(source):
        violations.add(f"does not accept {source!r}; correct accepts, or give another source")
    items: Any = plugin.call({"source": source}, plugin.defaults)
    if not isinstance(items, list) or not all(isinstance(e, Example | Issue) for e in items):
        violations.add(
            f"returns {describe(items)}; return a list of autotl.Example, and autotl.Issue for "
            "what is left out"
        )
        return
    examples = [e for e in items if isinstance(e, Example)]
    if not _check_examples(examples, violations, kind):
        return
    repeated = plugin.call({"source": source}, plugin.defaults)
    if [e.name for e in items] != [e.name for e in repeated]:
        violations.add("returns different examples the second time; sort what you list")


def _check_examples(examples: list[Example], violations: Violations, kind: InputKind) -> bool:
    """Check examples; return whether all have a valid split and item."""
    names = [e.name for e in examples]
    if len(set(names)) < len(names):
        duplicate = max(names, key=names.count)
        violations.add(f"names several examples {duplicate!r}; a name is unique in its source")
    for example in examples:
        if example.split not in SPLITS:
            violations.add(
                f"gives {example.name!r} the split {example.split!r}; a split is one of {SPLITS}"
            )
            return False
        if problem := _find_problem(example.item, kind):
            violations.add(
                f"gives {example.name!r} the {kind.noun} {describe(example.item)}; {problem}"
            )
            return False
        if not _is_label(example.label):
            violations.add(
                f"gives {example.name!r} the label {example.label!r:.60}; a label is a text, a "
                "number, a list of texts, or numbers by name"
            )
            return False
    if len({repr(e.label) for e in examples if e.label != ""}) < 2:
        violations.add("returns examples of fewer than two classes; return at least two")
    return True


def _is_label(label: Any) -> bool:
    """Whether a label has one of the forms of ``autotl.Label``."""
    if isinstance(label, Mapping):
        return all(isinstance(value, int | float) for value in label.values())
    if isinstance(label, list | tuple | set | frozenset):
        return all(isinstance(name, str) for name in label)
    return isinstance(label, str | int | float)


def _find_problem(item: Any, kind: InputKind) -> str:
    """What is wrong with an item, and what to do; empty if it can be used."""
    if kind is IMAGES:
        return "" if _is_image(item) else "give a file that exists, or uint8 [H, W] or [H, W, C]"
    try:
        kind.content(item)
        kind.convert(item)
    except Exception as error:  # a plugin may raise anything
        return f"the {kind.name} input cannot read it: {first_line(error)}"
    return ""


def _is_image(image: Any) -> bool:
    if isinstance(image, str | Path):
        return Path(image).is_file()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        return False
    return image.ndim == 2 or (image.ndim == 3 and image.shape[2] > 0)
