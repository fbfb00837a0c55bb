"""Sources of labelled texts: tables, folders and data sets of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotl_plugins.label_columns import (
    NO_LABELS,
    LabelColumns,
    LabelOptions,
    describe_binary_columns,
    find_binary_columns,
    name_classes,
    name_columns,
    read_cell,
    to_text,
)

from autotl import Example, Issue, Label, dataset
from autotl.errors import DataError, did_you_mean, shorten
from autotl.space import plugin
from autotl.space.plugin import UNLABELLED, GivenSplit, is_unlabelled_path

from .kind import TEXT_SUFFIXES, find_text_files, read_text_file, text
from .tables import SUFFIXES, Row, has_texts, map_columns, read_table, report_missing

SPLIT_WORDS: Mapping[str, GivenSplit] = {
    **plugin.SPLIT_WORDS,
    "dev": "validation",
    "unsupervised": "unlabelled",
}


@dataset(input=text.name, matches=[f"*{s}" for s in SUFFIXES], accepts=has_texts)
def text_table(
    source: str,
    needs_labels: bool = True,
    *,
    text_column: str = "",
    label_column: str = "",
    separator: str = "",
    labels: str = "",
    target: str = "",
    targets: str = "",
) -> list[Example | Issue]:
    """A table (CSV, TSV, JSON lines, Parquet) with a text, a label and maybe split and group.

    Columns are found by their names, such as review or sentiment, or given as options.

    Args:
        source: The table.
        needs_labels: Whether a table without labels is an error.
        text_column: The column of texts.
        label_column: The column of labels.
        separator: What stands between several labels in one cell, such as ``|``. JSON and Parquet
            may have a list instead.
        labels: The columns of 0 and 1 that say which labels an example has, e.g. ``cat,dog``. With
            ``separator``, the one column with labels.
        target: The column of a number, by any name.
        targets: The columns of several numbers, e.g. ``x,y``.
    """
    path = Path(source)
    columns, rows = read_table(path)
    named = name_columns(source, columns, LabelOptions(separator, labels, target, targets))
    others = [name for name in columns if named is None or name not in named.names]
    chosen = {"text": text_column, "label": label_column}
    mapped = map_columns(path, others, chosen, skipped=["label"] if named else [])
    label_columns = named or _find_labels(others, rows, mapped, separator)
    if label_columns is None and not needs_labels:
        label_columns = NO_LABELS
    if label_columns is None or "text" not in mapped:
        raise report_missing(path, others, mapped, has_labels=label_columns is not None)
    examples = [_read_row(path, row, mapped, label_columns) for row in rows]
    notes: list[Issue] = []
    if label_columns.form == "binary":
        examples = name_classes(examples)
        notes = [] if named else [describe_binary_columns(label_columns)]
    return [*examples, *notes, *_find_ignored(columns, {*mapped.values(), *label_columns.names})]


def _find_labels(
    columns: Sequence[str], rows: Sequence[Row], mapped: Mapping[str, str], separator: str
) -> LabelColumns | None:
    """Return the column of labels, or columns of 0 and 1; None if there are none."""
    if label := mapped.get("label"):
        return LabelColumns((label,), "several" if separator else "one", separator)
    others = [name for name in columns if name not in mapped.values() and name.strip()]
    return find_binary_columns(others, [row.cells for row in rows])


def _read_row(path: Path, row: Row, mapped: Mapping[str, str], labels: LabelColumns) -> Example:
    """Return the example in a row; raise DataError for an unknown split or a false label."""
    where = f"{path}: line {row.number}"
    cells = {content: to_text(row.cells.get(name)) for content, name in mapped.items()}
    word = cells.get("split", "").strip().lower()
    if word and word not in SPLIT_WORDS:
        raise DataError(
            f"{where}: unknown split {shorten(word)}; {did_you_mean(word, SPLIT_WORDS)}"
        )
    split = SPLIT_WORDS[word] if word else ""
    return Example(
        f"{path.name}:{row.number}",
        cells["text"],
        "" if split == UNLABELLED else labels.read(row.cells, where),
        split,
        cells.get("group", "").strip(),
    )


def _find_ignored(columns: Sequence[str], read: Collection[str]) -> Iterator[Issue]:
    """One issue about all columns that are not read."""
    ignored = [name for name in columns if name.strip() and name not in read]
    if ignored:
        yield Issue(
            ignored[0],
            f"columns of the table that are not read: {', '.join(ignored)}",
            "ignored; texts with one value of a column named group, such as of one author, stay in "
            "one split",
        )


def has_text_files(source: str) -> bool:
    """Whether there are text files anywhere below a folder, and no images."""
    from autotl.image_files import SUFFIXES as IMAGE_SUFFIXES

    any_texts = False
    for _, folders, files in os.walk(Path(source).expanduser()):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES):
                return False
            any_texts |= name.lower().endswith(TEXT_SUFFIXES)
    return any_texts


@dataset(input=text.name, matches=["*/"], accepts=has_text_files)
def text_folder(source: str, needs_labels: bool = True) -> list[Example | Issue]:
    """A folder with a subfolder of text files for each class, or such a folder for each split.

    Texts in a folder ``unlabelled`` beside these have no label.
    """
    root = Path(source)
    everything = find_text_files(root)
    files = [path for path in everything if not is_unlabelled_path(path)]
    if files and not needs_labels and not any(len(path.parts) > 1 for path in files):
        return [_read_file(root, path, "", "") for path in files]
    # A folder called 'train' is a split only if it contains class folders; it may be a class.
    has_splits = any(len(p.parts) > 2 and p.parts[0].lower() in SPLIT_WORDS for p in files)
    if not any(len(path.parts) > has_splits + 1 for path in files):
        raise DataError(
            f"{source}: no texts in class folders; put them in class/text.txt or "
            f"train/class/text.txt (texts end in {', '.join(TEXT_SUFFIXES)})"
        )
    items: list[Example | Issue] = []
    for path in everything:
        split, label = _read_folders(root, path, has_splits)
        items.append(_read_file(root, path, label, split))
    return items


def _read_file(root: Path, path: Path, label: str, split: GivenSplit) -> Example | Issue:
    try:
        content = read_text_file(root / path)
    except DataError as error:
        return Issue(path.as_posix(), str(error), "the text is left out")
    return Example(path.as_posix(), content, label, split)


def _read_folders(root: Path, path: Path, has_splits: bool) -> tuple[GivenSplit, str]:
    """The split and the class of a file by its folders."""
    if is_unlabelled_path(path):
        return UNLABELLED, ""
    *folders, _ = path.parts
    split: GivenSplit = ""
    if has_splits and folders:
        top = folders.pop(0)
        if top.lower() not in SPLIT_WORDS:
            raise DataError(
                f"{root}: {path.as_posix()} lies next to split folders, but {top!r} is not a "
                "split; move it into train, val or test, or out of the folder"
            )
        split = SPLIT_WORDS[top.lower()]
    return split, folders[0] if folders else ""


@dataset(input=text.name, matches=["hf:*"])
def hub_texts(
    source: str, *, text_column: str = "", label_column: str = ""
) -> list[Example | Issue]:
    """A data set of the Hugging Face hub: hf:NAME, or hf:NAME:CONFIGURATION (needs datasets)."""
    try:
        from datasets import DatasetDict, load_dataset
    except ImportError as error:
        raise DataError(f"{source} needs the package datasets: pip install datasets") from error
    _, name, *configuration = source.split(":", 2)
    try:
        loaded = load_dataset(name, *configuration)
    except Exception as error:  # the library has many errors, of the network and of the data
        raise DataError(
            f"{source} cannot be loaded ({type(error).__name__}: {shorten(str(error), 200)}); "
            "check the name, or write hf:NAME:CONFIGURATION"
        ) from error
    splits = loaded if isinstance(loaded, DatasetDict) else {"": loaded}
    chosen = {"text": text_column, "label": label_column}
    items: list[Example | Issue] = []
    for word, rows in splits.items():
        split = SPLIT_WORDS.get(word.lower(), "")
        if word and not split:
            items.append(Issue(word, "this is neither train, validation nor test", "left out"))
            continue
        items += _read_split(source, word, split, rows, chosen)
    return items


def _read_split(
    source: str, word: str, split: GivenSplit, rows: Any, chosen: Mapping[str, str]
) -> list[Example | Issue]:
    """The examples of one split; the hidden labels of a test split are -1."""
    mapped = map_columns(Path(source), rows.column_names, chosen)
    if not {"text", "label"} <= mapped.keys():
        raise report_missing(Path(source), rows.column_names, mapped, has_labels="label" in mapped)
    feature = rows.features[mapped["label"]]
    # A list of classes has the names in the feature of its elements.
    names = getattr(getattr(feature, "feature", feature), "names", None)
    labels = [_name_label(label, names) for label in rows[mapped["label"]]]
    if split != UNLABELLED and all(label == "" for label in labels):
        return [Issue(word, "no example of this split has a label", "left out")]
    texts = map(to_text, rows[mapped["text"]])
    return [
        Example(f"{word or 'data'}/{i}", content, label, split)
        for i, (content, label) in enumerate(zip(texts, labels, strict=True))
    ]


def _name_label(label: Any, names: Sequence[str] | None) -> Label:
    """The label by its name, or several labels by their names; empty for a hidden one."""
    if names is None:
        text: Label = read_cell(label)
        return text
    if isinstance(label, Sequence):
        return tuple(names[number] for number in label)
    name: str = names[label] if label in range(len(names)) else ""
    return name
