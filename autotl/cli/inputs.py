"""Find what a command gets as arguments: files of images, other items, or labelled examples."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotl import image_files
from autotl.cli.common import printable
from autotl.errors import DataError

if TYPE_CHECKING:
    from autotl.artifact.predictor import Predictor
    from autotl.space.input_kind import InputKind
    from autotl.space.plugin import Example
    from autotl.space.registry import Registry

WILDCARDS = "*?["


def find_images(names: Sequence[str], warn: Callable[[str], None]) -> Iterator[str]:
    """Yield the image files that are given as files, folders, glob patterns, or ``-`` for stdin.

    Args:
        names: The arguments of the command. ``-`` stands for the file names on stdin, one a line.
        warn: Called with a sentence on each kind of file in a folder that is not read.

    Raises:
        DataError: A name is empty, a folder has no images, or a pattern matches no file.
    """
    for name in names:
        if not name:
            raise DataError("the name of a file is empty; is a variable of the shell not set?")
        if name == "-":
            yield from _read_stdin()
        elif Path(name).is_dir():
            yield from _list_folder(name, warn)
        elif not Path(name).exists() and any(c in name for c in WILDCARDS):
            matches = _expand(name)
            if not matches:
                raise DataError(f"no file matches the pattern {name!r}; check the path")
            for match in matches:
                yield from _list_folder(match, warn) if Path(match).is_dir() else (match,)
        else:
            yield name


def _read_stdin() -> Iterator[str]:
    """Yield the lines of stdin that are not blank."""
    return (line.strip("\r\n") for line in sys.stdin if line.strip())


def read_items(
    arguments: Sequence[str], kind: InputKind, on_unreadable: Callable[[str, str], object]
) -> tuple[list[str], list[Any]]:
    """The names and the items that the arguments of a command stand for, of another kind.

    Args:
        arguments: What the kind reads; ``-`` stands for arguments on stdin, one a line.
        kind: What the items are.
        on_unreadable: Called with an argument that cannot be read, and the reason.

    Raises:
        DataError: An argument is empty, or the list on stdin.
    """
    names, items, failed = [], [], False
    for argument in arguments:
        if not argument.strip():
            raise DataError("an argument is empty; is a variable of the shell not set?")
        for each in _read_stdin() if argument == "-" else (argument,):
            try:
                for name, item in kind.read(each):
                    names.append(name)
                    items.append(item)
            except DataError as error:
                on_unreadable(each, str(error))
                failed = True
    if not names and not failed:
        raise DataError(f"no {kind.nouns}: the list on stdin is empty")
    return names, items


def _list_folder(name: str, warn: Callable[[str], None]) -> Iterator[str]:
    from autotl.artifact.image_inputs import list_folder

    listing = list_folder(Path(name))
    for issue in image_files.describe_unread(listing):
        warn("{}: {}: {} ({})".format(name, *issue))
    yield from (str(Path(name, path)) for path in listing.images)


def _expand(pattern: str) -> list[str]:
    """The files and folders that match a pattern, without hidden and system ones, sorted.

    Unlike ``glob.glob``, ``**`` does not follow links to folders, which may lead back.
    """
    path = Path(pattern).expanduser()
    parts = list(path.parts)
    first = next(i for i, part in enumerate(parts) if any(c in part for c in WILDCARDS))
    base, rest = Path(*parts[:first]), Path(*parts[first:])
    try:
        matches = list(base.glob(str(rest)))
    except ValueError as error:
        raise DataError(f"{pattern!r} is not a pattern: {error}") from None
    named = set(rest.parts)  # hidden only if the pattern does not name it
    return sorted(
        str(match)
        for match in matches
        if not any(map(image_files.is_hidden, {*match.relative_to(base).parts} - named))
    )


def load_examples(
    source: str, plugins: Registry, options: Mapping[str, str] | None = None
) -> list[Example]:
    """Read the examples of a data source, also those without a label.

    What the source leaves out is written to stderr.

    Args:
        source: The data source.
        plugins: The plugins.
        options: The values of keywords of the dataset plugin, as text.

    Raises:
        DataError: The source cannot be read.
        StudyError: The dataset plugin does not have these options.
    """
    from autotl.data import read_source

    read = read_source(source, plugins, options)
    for issue in read.issues:
        write_note(f"{issue.name}: {issue.problem} ({issue.action})")
    return [*read.examples, *read.unlabelled]


def model_options(predictor: Predictor, source: str, plugins: Registry) -> dict[str, str]:
    """Return the options with which the data of a model were read, if they fit a data source.

    Args:
        predictor: The model.
        source: The data source.
        plugins: The plugins.

    Returns:
        Those that the plugin that reads the data source has.

    Raises:
        DataError: No dataset plugin reads it.
    """
    options = predictor.config.get("data", {}).get("options", {})
    from autotl import data  # torch is loaded only when needed

    plugin = plugins.dataset(data.fetch(source), options)
    keywords = {*plugin.defaults, *plugin.settings}
    return {name: value for name, value in options.items() if name in keywords}


def write_note(text: str) -> None:
    """Write a note to stderr, in one line."""
    click.echo(f"note: {printable(text)}", err=True)
