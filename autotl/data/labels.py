"""Labels: one form of their characters, and names that are probably the same or several names."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set

from autotl.space.plugin import Issue
from autotl.space.task import Label, Task

MISSING = frozenset({"nan", "<na>", "#n/a"})
"""What programs write for a missing label, in lower case."""

COMMON_SEPARATORS = (";", "|", ",")
"""What stands between several labels of one example in most tables."""

SEPARATOR = ";"
"""Between several labels, or several numbers, in the text that a task has for them."""

SEPARATORS = (*COMMON_SEPARATORS, "/", "+", "&", " ")
"""What may stand between several labels of one example."""


def normalise_label(label: str) -> str:
    r"""The label in Unicode's composed form (NFC), or ``''`` if it stands for a missing one.

    >>> ascii(normalise_label("cafe\N{COMBINING ACUTE ACCENT}"))
    "'caf\\xe9'"
    >>> normalise_label("NaN")
    ''
    """
    text = unicodedata.normalize("NFC", label)
    return "" if text.strip().lower() in MISSING or not text.strip() else text


def is_several(label: object) -> bool:
    """Whether a label is a list of labels."""
    return isinstance(label, Sequence | Set) and not isinstance(label, str | bytes)


def parse_label(label: Label, task: Task) -> tuple[str, str]:
    """Return the text of a label, or '', and why it is no label of the task, or ''."""
    if isinstance(label, str):
        label = normalise_label(label)
    elif isinstance(label, float) and math.isnan(label):
        label = ""
    if label == "":
        return "", ""
    try:
        return task.parse(label), ""
    except ValueError as problem:
        return "", str(problem)


def find_same(name: str, names: Iterable[str]) -> str | None:
    """Return the first other name that differs only in case, blanks or the format of a number."""
    key = _comparison_key(name)
    return next((n for n in names if n != name and _comparison_key(n) == key), None)


def _comparison_key(name: str) -> str:
    """A text that is equal for names which people take for one.

    >>> [_comparison_key(name) for name in ("Cat ", "cat", "01", "1.0", "1")]
    ['cat', 'cat', '1', '1', '1']
    """
    text = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")  # such as a byte order mark
    if number := re.fullmatch(r"([+-]?)0*(\d+)(?:\.(\d*?)0*)?", text):
        sign, whole, decimals = number.groups()
        text = f"{sign.replace('+', '')}{whole}{'.' + decimals if decimals else ''}"
    return text


def check_labels(labels: Sequence[str]) -> list[Issue]:
    """Find labels that are probably one class written in two ways, or several labels in one.

    Args:
        labels: The normalised labels of all examples.
    """
    counts = Counter(label for label in labels if label)
    return [*_find_variants(counts), *_describe_composites(counts)]


def _find_variants(counts: Counter[str]) -> Iterator[Issue]:
    variants: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        variants[_comparison_key(name)].append(name)
    for names in variants.values():
        if len(names) > 1:
            quoted = [f"{name!r} ({counts[name]} examples)" for name in names]
            yield Issue(
                names[0],
                f"the classes {' and '.join(quoted)} differ only in case, blanks or number format",
                "they are different classes; rename one if they are the same",
            )


def find_composites(labels: Iterable[str], separator: str) -> dict[str, list[str]]:
    """Find labels that consist of others.

    Args:
        labels: The labels of all examples.
        separator: What stands between several labels.

    Returns:
        The parts of each such label.
    """
    names = set(labels)
    parts = {name: _split(name, separator) for name in names if separator in name.strip()}
    elsewhere = Counter(names)
    for several in parts.values():
        elsewhere.update(several)
    return {
        name: several
        for name, several in parts.items()
        if len(several) > 1 and all(elsewhere[part] > 1 for part in several)
    }


def _describe_composites(counts: Counter[str]) -> Iterator[Issue]:
    for separator in SEPARATORS:
        for name, several in sorted(find_composites(counts, separator).items()):
            quoted = " and ".join(map(repr, several))
            yield Issue(
                name,
                f"the label consists of the labels {quoted}",
                "it is a class of its own; for several labels of one example, separate them by "
                "semicolons, and give --task multilabel",
            )


def _split(name: str, separator: str) -> list[str]:
    """The parts of a label, without the brackets and quotes of a written list."""
    parts = (part.strip(" []()'\"") for part in name.strip(" []()").split(separator))
    return list(dict.fromkeys(part for part in parts if part))


def natural_key(text: str) -> tuple[list[str], str]:
    """A sort key that puts '2' before '10'; the text itself decides between '1' and '01'."""
    parts = re.split(r"(\d+)", text)
    for i in range(1, len(parts), 2):
        digits = parts[i].lstrip("0")
        parts[i] = f"{len(digits):09}{digits}"  # Python refuses integers of 5,000 digits
    return parts, text


def join_names(names: Sequence[str]) -> str:
    """The first five names, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
