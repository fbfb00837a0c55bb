"""Tables of files with their labels, splits and groups.

``read_rows`` reads one, ``map_columns`` finds its columns, and ``read_row`` makes an example.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from csv import DictReader, Error
from pathlib import Path
from typing import Any

from autotl.errors import DataError, did_you_mean
from autotl.space.plugin import SPLIT_WORDS, UNLABELLED, Example, Issue

from .label_columns import ADVICE, LabelColumns, find_binary_columns

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img"),
        *("image_path", "image_file", "image_name", "img_path"),
    ),
    "label": ("label", "labels", "class", "class_name", "target", "category"),
    "split": ("split", "subset", "partition"),
    "group": ("group", "group_id"),
}
"""The columns of a table and the names that people give them; the first one takes precedence."""


Row = tuple[int, Mapping[Any, Any]]
"""The number of the last line of a row, and its cells by column."""


def read_rows(table: Path) -> tuple[list[str], list[Row]]:
    """Read a table; return the names of its columns, and the rows.

    Raises:
        DataError: It cannot be read.
    """
    try:
        require_file(table)
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            reader = DictReader(file, delimiter=max("\t;,", key=header.count))
            names = list(reader.fieldnames or ())
            rows: list[Row] = [(reader.line_num, cells) for cells in reader]
    except OSError as error:
        raise DataError(f"{table}: {error.strerror}; check the path") from error
    except (UnicodeDecodeError, Error) as error:
        raise DataError(f"{table}: not a UTF-8 table ({error}); save it as UTF-8") from error
    return names, rows


def find_first_path(table: Path) -> Path | None:
    """Return the path in the first row of a table; None if it has none.

    Raises:
        DataError: The table cannot be read.
    """
    header, rows = read_rows(table)
    columns = map_columns(str(table), header, has_labels=True)
    column = next((name for name, content in columns.items() if content == "path"), "")
    return Path(rows[0][1].get(column) or "") if rows else None


def require_file(path: Path) -> None:
    """Raise DataError for a pipe or device, because opening one may wait forever."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: not a file; check the path")


def map_columns(source: str, header: Sequence[str], has_labels: bool) -> dict[str, str]:
    """The standard name of each column of ``header`` that has one.

    Args:
        source: The table, for messages.
        header: The names of the columns.
        has_labels: Whether other columns have the labels.
    """
    names = {name: _normalise(name) for name in header}
    columns: dict[str, str] = {}
    for column, synonyms in COLUMNS.items():
        if has_labels and column == "label":
            continue
        matches = [name for name in header if names[name] in synonyms]
        exact = [name for name in matches if names[name] == synonyms[0]]
        if len(chosen := exact or matches) > 1:
            quoted = " and ".join(map(repr, chosen))
            raise DataError(
                f"{source}: the columns {quoted} may both be the {column}; name one of them "
                f"{column!r}"
            )
        columns.update(dict.fromkeys(chosen, column))
    return columns


def find_labels(
    header: Sequence[str], rows: Sequence[Row], columns: Mapping[str, str], separator: str
) -> LabelColumns | None:
    """Return the column of labels, or columns of 0 and 1; None if there are none."""
    if label := next((name for name, column in columns.items() if column == "label"), None):
        return LabelColumns((label,), "several" if separator else "one", separator)
    others = [name for name in header if name not in columns and name.strip()]
    return find_binary_columns(others, [cells for _, cells in rows])


def require_columns(
    source: str, header: Sequence[str], columns: Mapping[str, str], labels: LabelColumns | None
) -> LabelColumns:
    """Return the columns of labels; raise DataError if a table has none, or no paths."""
    missing = [] if "path" in columns.values() else ["path"]
    if labels is None:
        missing.append("label")
    if labels is None or missing:
        others = [name for name in header if name not in columns]
        near = (did_you_mean(_normalise(name), COLUMNS[missing[0]]) for name in others)
        hint = next((f"; {h}" for h in near if h.startswith("did you")), "")
        advice = ADVICE if "label" in missing else ""
        raise DataError(
            f"{source}: no column {' or '.join(missing)}; the first line must read "
            f"path,label[,split][,group]{hint}{advice}"
        )
    return labels


def _normalise(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def find_ignored(header: Sequence[str], columns: Collection[str]) -> Iterator[Issue]:
    """One issue about all columns that are not read."""
    ignored = [name.strip() for name in header if name not in columns and name.strip()]
    if ignored:
        hints = ((name, did_you_mean(name.lower(), COLUMNS)) for name in ignored)
        near = "".join(f"; {name}: {hint}" for name, hint in hints if hint.startswith("did"))
        yield Issue(
            ignored[0],
            f"columns of the table that are not read: {', '.join(ignored)}",
            "ignored; images with one value of a column named group, such as of one patient, stay "
            f"in one split{near}",
        )


def read_row(
    table: Path,
    line: int,
    cells: Mapping[Any, Any],
    columns: Mapping[str, str],
    labels: LabelColumns,
) -> Example:
    """Return the example in a row.

    Args:
        table: The file.
        line: The number of the line, for messages.
        cells: The cells of the row.
        columns: What ``map_columns`` returned.
        labels: The columns of labels.

    Raises:
        DataError: The row has no path, an unknown split or a label that cannot be read.
    """
    if None in cells:  # where DictReader puts cells without a header
        raise DataError(f"{table}: line {line}: more cells than columns; quote values with commas")
    row = {column: (cells[name] or "").strip() for name, column in columns.items()}
    word = row.get("split", "").lower()
    if word and word not in SPLIT_WORDS:
        near = did_you_mean(word, SPLIT_WORDS)
        raise DataError(f"{table}: line {line}: unknown split {word!r}; {near}")
    path = row["path"].replace("\\", "/")
    if not path:
        raise DataError(f"{table}: line {line}: no path; fill it in or remove the line")
    split = SPLIT_WORDS[word] if word else ""
    label = "" if split == UNLABELLED else labels.read(cells, f"{table}: line {line}")
    return Example(path, table.parent / path, label, split, row.get("group", ""))
