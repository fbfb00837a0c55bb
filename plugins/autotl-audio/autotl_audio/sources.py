"""Sources of recordings: class folders, and tables of sound files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotl_plugins import datasets, file_tables

from autotl import Example, Issue, dataset, image_files
from autotl.errors import AutoTLError, DataError
from autotl.space import plugin
from autotl_audio.sound import SUFFIXES, Clip, is_sound, list_sounds

UNREAD = frozenset({".aac", ".amr", ".m4a", ".m4b", ".mka", ".mp4", ".webm", ".wma"})
"""The suffixes of sound files that are not read."""


def _is_sound_folder(source: str) -> bool:
    try:
        listing = image_files.list_images(Path(source))
    except OSError:
        return False
    return bool(list_sounds(listing)) and not listing.images


@dataset(input="sound", matches=["*/"], accepts=_is_sound_folder)
def sound_folder(source: str, *, seconds: float = 0.0) -> list[Example | Issue]:
    """A folder with a subfolder of sound files for each class, or such a folder for each split.

    Sound files in a folder ``unlabelled`` beside these have no label.

    ``seconds`` is the duration that is used of each; 0 for the one that suits most of them.
    """
    root = Path(source)
    listing = image_files.list_images(root)
    sounds = list_sounds(listing)
    # A folder called 'train' is a split only if it contains class folders; it may be a class.
    own = [path for path in sounds if not plugin.is_unlabelled_path(path)]
    nested = {path.parts[0].lower() for path in own if len(path.parts) > 2}
    depth = 1 if nested & set(plugin.SPLIT_WORDS) else 0
    if not any(len(path.parts) > depth + 1 for path in own):
        raise DataError(
            f"{source}: no sound files in class folders; put them in class/sound.wav or "
            f"train/class/sound.wav (they end in {', '.join(SUFFIXES)})"
        )
    examples = [_make_example(root, path, depth) for path in sounds]
    return [*_use_seconds(examples, seconds), *_find_unread(listing)]


def _make_example(root: Path, path: Path, depth: int) -> Example:
    """The example of a file; ``depth`` is 1 if class folders are in folders of splits, else 0."""
    if plugin.is_unlabelled_path(path):
        return Example(path.as_posix(), root / path, "", plugin.UNLABELLED)
    split: Any = plugin.SPLIT_WORDS.get(path.parts[0].lower(), "") if depth else ""
    if depth and not split:
        raise DataError(
            f"{root}: {path.as_posix()} lies next to split folders, but {path.parts[0]!r} is not a "
            "split; move it into train, val or test, or out of the folder"
        )
    label = path.parts[depth] if len(path.parts) > depth + 1 else ""
    return Example(path.as_posix(), root / path, label, split)


def _use_seconds(examples: Iterable[Example | Issue], seconds: float) -> Iterator[Example | Issue]:
    for example in examples:
        if not seconds or isinstance(example, Issue):
            yield example
        else:
            yield replace(example, item=Clip(example.item, seconds))


def _find_unread(listing: image_files.Listing) -> Iterator[Issue]:
    """One issue for the files of each suffix that is not read."""
    counts = Counter(path.suffix.lower() for path in listing.others if not is_sound(path))
    for suffix, count in sorted(counts.items()):
        action = "not read: no suffix of a sound"
        if suffix in UNREAD:
            action = "not read; convert them, e.g. to FLAC with ffmpeg"
        yield Issue(f"*{suffix}" if suffix else "no suffix", f"{count} other files", action)
    for path, reason in listing.skipped:
        yield Issue(path.as_posix(), reason, "not read")


def _is_sound_table(source: str) -> bool:
    try:
        path = file_tables.find_first_path(Path(source))
    except AutoTLError:  # the plugin for tables of images will report it
        return False
    return path is not None and is_sound(path)


@dataset(input="sound", matches=["*.csv", "*.tsv"], accepts=_is_sound_table)
def sound_table(
    source: str,
    *,
    seconds: float = 0.0,
    separator: str = "",
    labels: str = "",
    target: str = "",
    targets: str = "",
) -> list[Example | Issue]:
    """A table with the columns path, label and optionally split and group; paths of sound files.

    ``seconds`` is the duration that is used of each; 0 for the one that suits most of them. The
    other options are those of tables of images: several labels in one cell, or columns of 0 and 1
    or of numbers.
    """
    options = {"separator": separator, "labels": labels, "target": target, "targets": targets}
    return list(_use_seconds(datasets.csv(source, **options), seconds))
