"""Tables of texts: CSV, TSV, JSON lines, JSON and Parquet, with the column names people use."""

from __future__ import annotations

import csv
import json
import mimetypes
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from autotl_plugins.label_columns import ADVICE, to_text

from autotl.errors import DataError, did_you_mean

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")

LONGEST_CELL = 2**31 - 1
"""Number of characters; Python's own limit for CSV is 131,072."""

TEXT = (
    *("text", "sentence", "review", "content", "body", "comment", "message", "tweet", "post"),
    *("document", "article", "description", "abstract", "headline", "title", "utterance"),
    *("question", "query", "sms", "email", "review_text", "review_body", "comment_text"),
    *("tweet_text", "post_text", "message_text", "texts", "sentences"),
)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": TEXT,
    "label": (
        *("label", "labels", "class", "class_name", "target", "category", "sentiment"),
        *("intent", "topic", "label_text"),
    ),
    "split": ("split", "subset", "partition"),
    "group": ("group", "group_id"),
}
"""The columns of a table and the names that people give them; the first one takes precedence."""

PATHS = frozenset(
    f"{left}{right}"
    for left in ("", "file", "file_", "image", "image_", "img", "img_", "audio", "audio_")
    for right in ("path", "file", "name", "")
) - {"", "name"}
"""Names of columns that may have the paths of images or recordings."""

SAMPLE = 20
"""Number of rows by which it is decided what a table contains."""


class Row(NamedTuple):
    """A row of a table: the number of its line, or of the row itself, from 1; and its cells."""

    number: int
    cells: Mapping[str, Any]


class Table(NamedTuple):
    """The names of the columns, and the rows."""

    columns: list[str]
    rows: list[Row]


def read_table(path: Path, limit: int | None = None) -> Table:
    """Read a table, whose format is known by its suffix.

    Args:
        path: The file.
        limit: Number of rows to read; None for all.

    Raises:
        DataError: It cannot be read.
    """
    if path.exists() and not path.is_file():  # opening a pipe may wait forever
        raise DataError(f"{path}: not a file; check the path")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return _read_parquet(path, limit)
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in (".csv", ".tsv"):
                return _read_csv(path, file, limit)
            records = list(islice(_read_json(path, file), limit))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; check the path") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 table ({error}); save it as UTF-8") from error
    return Table(list(dict.fromkeys(name for row in records for name in row.cells)), records)


def _read_csv(path: Path, file: TextIO, limit: int | None) -> Table:
    header = file.readline()
    file.seek(0)
    with _long_cells():
        rows = csv.DictReader(file, delimiter=max("\t;,", key=header.count))
        columns = list(rows.fieldnames or ())
        records: list[Row] = []
        begin = rows.line_num + 1
        for cells in islice(rows, limit):
            if None in cells:  # where DictReader puts cells without a header
                raise DataError(
                    f"{path}: line {begin}: more cells than columns; quote texts with commas"
                )
            records.append(Row(begin, cells))
            begin = rows.line_num + 1
    return Table(columns, records)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow cells of any length; the limit is one of the whole process."""
    before = csv.field_size_limit(LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_json(path: Path, file: TextIO) -> Iterator[Row]:
    """Yield the objects of JSON lines, or of one list in a ``.json``."""
    if path.suffix.lower() == ".json":
        first = file.read(1)
        while first.isspace():
            first = file.read(1)
        file.seek(0)
        if first == "[":
            yield from _number(path, enumerate(_parse(path, file.read(), 1), start=1))
            return
    lines = ((n, line) for n, line in enumerate(file, start=1) if line.strip())
    yield from _number(path, ((n, _parse(path, line, n)) for n, line in lines))


def _number(path: Path, records: Iterable[tuple[int, Any]]) -> Iterator[Row]:
    for number, record in records:
        if not isinstance(record, dict):
            raise DataError(
                f"{path}: record {number} is no JSON object; write one like "
                '{"text": "...", "label": "..."} in each line'
            )
        yield Row(number, record)


def _parse(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: line {line}: not valid JSON ({error}); write one object in each line"
        ) from error


def _read_parquet(path: Path, limit: int | None) -> Table:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=min(limit or 2**14, 2**14))
            cells = (row for batch in batches for row in batch.to_pylist())
            rows = [Row(n, row) for n, row in enumerate(islice(cells, limit), start=1)]
            return Table(list(file.schema_arrow.names), rows)
    except ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def map_columns(
    path: Path,
    columns: Sequence[str],
    chosen: Mapping[str, str],
    skipped: Collection[str] = (),
) -> dict[str, str]:
    """Find the columns that are read.

    Args:
        path: The file, for messages.
        columns: The names of the columns of the table.
        chosen: Names that the user gave, by what the columns contain; empty ones are looked for.
        skipped: Contents that are not looked for.

    Returns:
        The name of the column of ``text``, ``label``, ``split`` and ``group`` where the table has
        one.

    Raises:
        DataError: A chosen one is missing, or several may be meant.
    """
    mapped: dict[str, str] = {}
    for content, synonyms in COLUMNS.items():
        if name := chosen.get(content, ""):
            if name not in columns:
                raise DataError(f"{path}: no column {name!r}; {did_you_mean(name, columns)}")
            mapped[content] = name
            continue
        names = [name for name in columns if normalise(name) in synonyms]
        exact = [name for name in names if normalise(name) == synonyms[0]]
        if content in skipped or not (candidates := exact or names):
            continue
        if len(candidates) > 1:
            quoted = " and ".join(map(repr, candidates))
            raise DataError(
                f"{path}: the columns {quoted} may both be the {content}; name one of them "
                f"{content!r}, or give the option {content}_column={candidates[0]}"
            )
        mapped[content] = candidates[0]
    return mapped


def report_missing(
    path: Path, columns: Sequence[str], mapped: Mapping[str, str], has_labels: bool
) -> DataError:
    """Return the error of a table without a column of texts, or without labels.

    Args:
        path: The file.
        columns: The names of the columns of the table.
        mapped: What ``map_columns`` returned.
        has_labels: Whether it has labels, or needs none.
    """
    missing = [] if "text" in mapped else ["text"]
    if not has_labels:
        missing.append("label")
    others = [name for name in columns if name not in mapped.values()]
    return DataError(
        f"{path}: no column {' or '.join(missing)}; name one of its columns "
        f"({', '.join(map(repr, others)) or 'there are none'}) {missing[0]!r}, or give the "
        f"option {missing[0]}_column=NAME{'' if has_labels else ADVICE}"
    )


def normalise(name: str) -> str:
    """The name of a column as it is compared: ``Review Text`` is ``review_text``."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def read_texts(path: Path) -> list[tuple[int, str]]:
    """Read the texts in a table without labels, with the numbers of their rows.

    Raises:
        DataError: It cannot be read, or has several columns of which none is known as the text.
    """
    columns, rows = read_table(path)
    mapped = {"text": columns[0]} if len(columns) == 1 else map_columns(path, columns, {})
    if "text" not in mapped:
        raise report_missing(path, columns, mapped, has_labels=True)
    return [(row.number, to_text(row.cells.get(mapped["text"]))) for row in rows]


def has_texts(source: str) -> bool:
    """Whether a table has texts as examples, and not the paths of images or recordings.

    Only kinds of input with texts have tables in JSON and Parquet that cannot be read.
    """
    path = Path(source).expanduser()
    is_csv = path.suffix.lower() in (".csv", ".tsv")
    try:
        columns, rows = read_table(path, SAMPLE)
    except DataError:
        return not is_csv
    names = {name: normalise(name) for name in columns}
    paths = [name for name in columns if names[name] in PATHS]
    if any(_is_media(row.cells.get(name)) for row in rows for name in paths):
        return False
    return not set(names.values()).isdisjoint(TEXT) or not (is_csv or paths)


def _is_media(cell: Any) -> bool:
    media_type = mimetypes.guess_type(cell)[0] if isinstance(cell, str) else None
    return (media_type or "").startswith(("image/", "audio/", "video/"))
