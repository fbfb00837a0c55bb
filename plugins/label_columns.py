"""The labels in the rows of a table: one or several in a cell, columns of 0 and 1, or numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from autotl import Example, Issue, Label
from autotl.errors import DataError, did_you_mean, shorten

ONE, ZERO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
"""What stands in a cell for an example that has a label, and for one that lacks it."""

MISSING = ("", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")
"""What stands in a cell for a missing number."""

ADVICE = (
    "; or name columns of 0 and 1 with --data-option labels=A,B, or of numbers with --data-option "
    "targets=A,B"
)
"""What a table without a label column may have instead."""


class LabelOptions(NamedTuple):
    """The options of a plugin for tables that say where the labels are.

    Args:
        separator: What stands between several labels in one cell.
        labels: The columns of 0 and 1, with commas between them; with a separator, the one column
            of labels.
        target: The column of a number.
        targets: The columns of several numbers, with commas between them.
    """

    separator: str = ""
    labels: str = ""
    target: str = ""
    targets: str = ""


@dataclass(frozen=True)
class LabelColumns:
    """Where the labels of a table are.

    Attributes:
        names: The columns.
        form: What is in them: one label, several with a separator, 0 and 1, or numbers.
        separator: That of several labels.
    """

    names: tuple[str, ...]
    form: Literal["one", "several", "binary", "numbers"]
    separator: str = ""

    def read(self, cells: Mapping[str, Any], where: str) -> Label:
        """Return the label in a row; an empty text if it has none.

        Args:
            cells: The contents of the row by column.
            where: The file and the line, for messages.

        Raises:
            DataError: A cell has something else.
        """
        if not self.names:
            return ""
        if self.form in ("one", "several"):
            return read_cell(cells.get(self.names[0]), self.separator)
        texts = {name: to_text(cells.get(name)).strip() for name in self.names}
        if self.form == "binary":
            return tuple(n.strip() for n in self.names if _is_one(texts[n], n, where))
        if any(text.lower() in MISSING for text in texts.values()):
            return ""
        return {name.strip(): _to_number(text, name, where) for name, text in texts.items()}


NO_LABELS = LabelColumns((), "one")
"""Those of a table without labels."""


def name_columns(source: str, header: Sequence[str], options: LabelOptions) -> LabelColumns | None:
    """Return the columns that the user named; None if no option names any.

    Args:
        source: The table, for messages.
        header: The names of all columns.
        options: The options.

    Raises:
        DataError: There is no such column, or two options exclude each other.
    """
    given = {key: value for key, value in options._asdict().items() if value}
    if len(given.keys() - {"separator"}) > 1 or {"separator"} < given.keys() - {"labels"}:
        names = " and ".join(f"{key}={value}" for key, value in given.items())
        raise DataError(f"{source}: the options {names} exclude each other; give one of them")
    if options.target:
        return LabelColumns(_select(source, header, [options.target]), "numbers")
    if options.targets:
        return LabelColumns(_select(source, header, options.targets.split(",")), "numbers")
    if not options.labels:
        return None
    if not options.separator:
        return LabelColumns(_select(source, header, options.labels.split(",")), "binary")
    return LabelColumns(_select(source, header, [options.labels]), "several", options.separator)


def _select(source: str, header: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The columns with these names, where blanks around a name do not count."""
    by_name = {name.strip(): name for name in header}
    chosen = [name.strip() for name in names]
    if unknown := next((name for name in chosen if name not in by_name), None):
        raise DataError(f"{source}: no column {unknown!r}; {did_you_mean(unknown, by_name)}")
    return tuple(dict.fromkeys(by_name[name] for name in chosen))


def find_binary_columns(
    columns: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> LabelColumns | None:
    """Return the columns if there are several that have only 0 and 1; else None."""
    cells = (to_text(row.get(name)).strip().lower() for row in rows for name in columns)
    if len(columns) < 2 or not rows or not all(cell in (*ONE, *ZERO) for cell in cells):
        return None
    return LabelColumns(tuple(columns), "binary")


def describe_binary_columns(columns: LabelColumns) -> Issue:
    """Return a note about columns that nobody named as labels."""
    names = [name.strip() for name in columns.names]
    return Issue(
        names[0],
        f"there is no label column, but {len(names)} columns of 0 and 1: {', '.join(names)}",
        "each is a label that an example has or lacks; if that is wrong, name others with "
        "--data-option labels=A,B",
    )


def name_classes(examples: Sequence[Example]) -> list[Example]:
    """Return examples with 0 and 1 for each label; those with exactly one label each have classes.

    ``(label,)`` becomes ``label`` if all examples that are not unlabelled have one label.
    """
    if any(len(example.label) != 1 for example in examples if example.label != ""):
        return list(examples)
    return [replace(e, label=e.label[0]) if e.label else e for e in examples]


def to_text(cell: Any) -> str:
    """The text in a cell: 1.0 is ``1``, and nothing and NaN are empty."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else str(cell)


def read_cell(cell: Any, separator: str = "") -> Label:
    """The label in one cell, empty for none; JSON may have a list of labels, or numbers by name."""
    if isinstance(cell, Mapping):
        return dict(cell)
    if isinstance(cell, list | tuple):
        return tuple(map(to_text, cell))
    text = to_text(cell).strip()
    if not separator or not text:
        return text
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _is_one(text: str, column: str, where: str) -> bool:
    if text.lower() in (*ONE, *ZERO):
        return text.lower() in ONE
    raise DataError(
        f"{where}: {shorten(text)} in the column {column!r} is neither 0 nor 1; correct it, or "
        "name other columns"
    )


def _to_number(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{where}: {shorten(text)} in the column {column!r} is not a number; correct it, or "
            "leave the cell empty to leave the example out"
        )
    return value
