"""Read the examples of a data source with the dataset plugin that matches it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from autotl import image_files
from autotl.data.image_kind import IMAGES, find_kind
from autotl.data.remote import fetch
from autotl.data.unlabelled import divide
from autotl.errors import AutoTLError, DataError, StudyError, is_machine_fault
from autotl.space.input_kind import InputKind
from autotl.space.narrowing import check_keywords, check_values
from autotl.space.plugin import SPLIT_WORDS, UNLABELLED, AnyPlugin, Example, Issue
from autotl.space.plugin_modules import error_line
from autotl.space.registry import Registry
from autotl.space.task import Task
from autotl.tasks import CLASSIFICATION


class Source(NamedTuple):
    """What a dataset plugin returned: the examples, the problems it reported, and their kind.

    ``task`` is what is predicted of the examples, which is chosen later. Examples without a label
    are ``unlabelled``, and not among the ``examples``. With a second domain, ``target`` is what the
    user called it, see ``domains``.
    """

    examples: list[Example]
    issues: list[Issue]
    kind: InputKind
    task: Task = CLASSIFICATION
    unlabelled: tuple[Example, ...] = ()
    target: str = ""
    validation_has_labels: bool = True


def read_source(
    source: str,
    plugins: Registry,
    options: Mapping[str, str] | None = None,
    needs_labels: bool = True,
) -> Source:
    """Read the examples of a data source; no example is opened.

    Args:
        source: A folder, a file, a URL of one, or another source that an installed dataset plugin
            reads.
        plugins: The plugins.
        options: The values of keywords of the dataset plugin, as text.
        needs_labels: Whether a table must have labels; not all dataset plugins can do without.

    Raises:
        DataError: The source cannot be read, or no dataset plugin reads it.
        StudyError: The dataset plugin does not have these options.
    """
    if source.startswith("~"):
        source = str(Path(source).expanduser())
    source = fetch(source)
    plugin = plugins.dataset(source, options or ())
    kind = find_kind(plugin.input, plugins)
    keywords = parse_options(plugin, options or {})
    try:
        items = list(plugin.call({"source": source, "needs_labels": needs_labels}, keywords))
    except AutoTLError:
        raise
    except Exception as error:  # a plugin may raise anything
        if is_machine_fault(error):
            raise
        line = error_line(error, inspect.getsourcefile(plugin.function))
        raise DataError(
            f"{source} cannot be read: the dataset plugin {plugin.name!r}{line} raises "
            f"{type(error).__name__}: {error}"
        ) from error
    issues = [item for item in items if isinstance(item, Issue)]
    labelled, unlabelled = divide([item for item in items if not isinstance(item, Issue)])
    return Source(labelled, issues, kind, unlabelled=tuple(unlabelled))


def read_target(
    target: str, source: Source, plugins: Registry, options: Mapping[str, str] | None = None
) -> Source:
    """Read the examples of another domain, as those of a source; in a plain folder they are files.

    Args:
        target: The data source of the other domain. The files of a folder without subfolders have
            no label.
        source: The examples of the first domain.
        plugins: The plugins.
        options: The values of keywords of the dataset plugin, as text.

    Raises:
        DataError: The target cannot be read, or no dataset plugin reads it.
        StudyError: The dataset plugin does not have these options.
    """
    folder, kind = Path(target).expanduser(), source.kind
    is_plain = folder.is_dir() and not any(
        path.is_dir() and not image_files.is_hidden(path.name) for path in folder.iterdir()
    )
    plain: Source | None = None
    if is_plain and kind is IMAGES:
        plain = _read_images(folder)
    elif is_plain:
        plain = Source([Example(name, item, "") for name, item in kind.read(str(folder))], [], kind)
    if plain is None or not plain.examples:
        return read_source(target, plugins, options)  # which explains it
    unlabelled = tuple(replace(example, split=UNLABELLED) for example in plain.examples)
    return plain._replace(examples=[], unlabelled=unlabelled)


def read_without_labels(
    source: str, plugins: Registry, options: Mapping[str, str] | None = None
) -> Source:
    """Read the examples of a data source that need no labels; labels that there are come with them.

    A folder of images without classes has all images below it, in whatever folders; folders at the
    top that are called like splits are these splits.

    Args:
        source: As in ``read_source``.
        plugins: The plugins.
        options: The values of keywords of the dataset plugin, as text.

    Raises:
        DataError: The source cannot be read, or no dataset plugin reads it.
        StudyError: The dataset plugin does not have these options.
    """
    plain = None if options else _read_images(Path(source).expanduser())
    return plain or read_source(source, plugins, options, needs_labels=False)


def _read_images(root: Path) -> Source | None:
    """Read all images below a folder, without labels; None if there are none, or classes.

    Folders at the top that are called like splits are these splits.
    """
    listing = None
    with suppress(OSError):  # the dataset plugin explains it
        listing = image_files.list_images(root) if root.is_dir() else None
    if listing is None or not listing.images or _has_classes(listing.images):
        return None
    tops = {path.parts[0] if len(path.parts) > 1 else "" for path in listing.images}
    are_splits = all(top.lower() in SPLIT_WORDS for top in tops)
    examples = [
        Example(
            path.as_posix(),
            root / path,
            "",
            SPLIT_WORDS[path.parts[0].lower()] if are_splits else "",
        )
        for path in listing.images
    ]
    issues = [Issue(*problem) for problem in image_files.describe_unread(listing)]
    return Source(examples, issues, IMAGES)


def _has_classes(images: Sequence[Path]) -> bool:
    """Whether the folders of images are classes, or splits with classes; paths are relative.

    One folder is none, and neither are those that are called like splits without folders in them.
    """
    tops = {path.parts[0] for path in images if len(path.parts) > 1}
    splits = {top for top in tops if top.lower() in SPLIT_WORDS}
    is_nested = any(len(path.parts) > 2 and path.parts[0] in splits for path in images)
    return is_nested or len(tops) > max(1, len(splits))


def parse_options(plugin: AnyPlugin, options: Mapping[str, str]) -> dict[str, Any]:
    """Parse the values of a dataset plugin's keywords by their types.

    Args:
        plugin: The dataset plugin.
        options: The values of its keywords, as text.

    Raises:
        StudyError: The plugin has no such keyword, or the keyword cannot have the value.
    """
    try:
        check_keywords(plugin, options)
        types = {name: type(value) for name, value in plugin.settings.items()}
        values = {
            name: _parse(name, options[name], types[name]) for name in options if name in types
        }
        for h in plugin.hyperparameters:
            if h.name in options:
                choices = {_text(choice): choice for choice in h.choices or ()}
                text = options[h.name]
                values[h.name] = (
                    choices.get(text, text) if choices else _parse(h.name, text, h.type)
                )
        check_values(plugin, values)
    except StudyError as error:
        raise StudyError(f"--data-option: {error}") from None
    return values


def _text(value: object) -> str:
    """A value as the text of an option."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _parse(name: str, text: str, kind: type) -> Any:
    """Parse the text of an option whose default, or domain, is of the type ``kind``."""
    if kind in (str, type(None)):
        return text
    if kind not in (int, float):
        raise StudyError(f"{name} is a {kind.__name__}, which has no form as text")
    try:
        return kind(text)
    except ValueError:
        raise StudyError(f"{name} = {text!r:.60} is not a valid {kind.__name__}") from None
