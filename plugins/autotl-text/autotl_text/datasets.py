"""Sources of labelled texts: tables, folders and data sets of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotl import Example, Issue, dataset
from autotl.errors import DataError, did_you_mean, shorten
from autotl.space import plugin
from autotl.space.plugin import GivenSplit

from .kind import TEXT_SUFFIXES, find_text_files, read_text_file, text
from .tables import SUFFIXES, has_texts, map_columns, read_table, to_text

SPLIT_WORDS: Mapping[str, GivenSplit] = {**plugin.SPLIT_WORDS, "dev": "validation"}


@dataset(input=text.name, matches=[f"*{s}" for s in SUFFIXES], accepts=has_texts)
def text_table(
    source: str, *, text_column: str = "", label_column: str = ""
) -> list[Example | Issue]:
    """A table (CSV, TSV, JSON lines, Parquet) with a text, a label and maybe split and group.

    Columns are found by their names, such as review or sentiment, or given as options.
    """
    path = Path(source)
    columns, rows = read_table(path)
    chosen = {"text": text_column, "label": label_column}
    mapped = map_columns(path, columns, chosen, ["text", "label"])
    examples = []
    for number, cells in rows:
        row = {content: to_text(cells.get(name)) for content, name in mapped.items()}
        word = row.get("split", "").strip().lower()
        if word and word not in SPLIT_WORDS:
            near = did_you_mean(word, SPLIT_WORDS)
            raise DataError(f"{source}: line {number}: unknown split {shorten(word)}; {near}")
        split = SPLIT_WORDS[word] if word else ""
        name, group = f"{path.name}:{number}", row.get("group", "").strip()
        examples.append(Example(name, row["text"], row["label"].strip(), split, group))
    return [*examples, *_find_ignored(columns, mapped)]


def _find_ignored(columns: Sequence[str], mapped: Mapping[str, str]) -> Iterator[Issue]:
    """One issue about all columns that are not read."""
    ignored = [name for name in columns if name.strip() and name not in mapped.values()]
    if ignored:
        yield Issue(
            ignored[0],
            f"{len(ignored)} columns of the table are not read: {', '.join(ignored)}",
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
def text_folder(source: str) -> list[Example | Issue]:
    """A folder with a subfolder of text files for each class, or such a folder for each split."""
    root = Path(source)
    files = find_text_files(root)
    # A folder called 'train' is a split only if it contains class folders; it may be a class.
    has_splits = any(len(p.parts) > 2 and p.parts[0].lower() in SPLIT_WORDS for p in files)
    if not any(len(path.parts) > has_splits + 1 for path in files):
        raise DataError(
            f"{source}: no texts in class folders; put them in class/text.txt or "
            f"train/class/text.txt (texts end in {', '.join(TEXT_SUFFIXES)})"
        )
    items: list[Example | Issue] = []
    for path in files:
        split, label = _read_folders(root, path, has_splits)
        try:
            content = read_text_file(root / path)
        except DataError as error:
            items.append(Issue(path.as_posix(), str(error), "the text is left out"))
        else:
            items.append(Example(path.as_posix(), content, label, split))
    return items


def _read_folders(root: Path, path: Path, has_splits: bool) -> tuple[GivenSplit, str]:
    """The split and the class of a file by its folders."""
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
    mapped = map_columns(Path(source), rows.column_names, chosen, ["text", "label"])
    names = getattr(rows.features[mapped["label"]], "names", None)
    labels = [
        to_text(label) if names is None else names[label] if label in range(len(names)) else ""
        for label in rows[mapped["label"]]
    ]
    if not any(labels):
        return [Issue(word, "no example of this split has a label", "left out")]
    texts = map(to_text, rows[mapped["text"]])
    return [
        Example(f"{word or 'data'}/{i}", content, label, split)
        for i, (content, label) in enumerate(zip(texts, labels, strict=True))
    ]
