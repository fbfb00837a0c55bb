"""The ``predict`` command: class probabilities of new images from a model folder."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from autotl.artifact.folder import read_kind, require_folder
from autotl.cli.common import PATH, PLUGIN, SOURCE, device_option, printable
from autotl.cli.inputs import find_images, read_items, write_note
from autotl.cli.progress_bar import ProgressBar
from autotl.errors import DataError
from autotl.space.input_kind import IMAGE

Predictions = Iterator[tuple[str, list[tuple[str, float]]]]
"""For each file its name and its classes with their probabilities, the most probable first."""


@click.command()
@click.argument("model", type=PATH)
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    help="Format of the output; json writes one object a line (default: table).",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1_000_000),
    default=3,
    metavar="N",
    help="Number of classes for each example, the most probable first (default: 3).",
)
@PLUGIN
@device_option("auto")
def predict(
    model: Path,
    files: tuple[str, ...],
    output_format: str,
    top: int,
    plugin: tuple[Path, ...],
    device: str,
) -> None:
    """Predict the classes of FILES: images, folders, glob patterns, or - for a list on stdin.

    A model for another kind of input takes what that kind reads, such as texts. Files that cannot
    be read are named on stderr and the others are predicted; the exit code is then 1.
    """
    require_folder(model)
    is_image = read_kind(model) == IMAGE
    names: list[str] = []
    items: list[Any] = []
    if is_image:  # they are found before PyTorch is loaded
        names = list(
            find_images([str(SOURCE.convert(file, None, None)) for file in files], write_note)
        )
        items = [Path(name) for name in names]
        if not names:
            raise DataError("no images: the list on stdin is empty")
    from autotl import models
    from autotl.artifact import model_folder
    from autotl.space import registry

    predictor = model_folder.load(
        model,
        registry.load(plugin),
        models.select_device(device),
        warn=lambda text: bar.print_note(text),
    )
    unreadable: list[str] = []

    def report_argument(argument: str, reason: str) -> None:
        unreadable.append(argument)
        click.echo(f"Error: {printable(reason)}", err=True)

    if not is_image:
        names, items = read_items(files, predictor.kind, report_argument)

    def report_unreadable(index: int, reason: str) -> None:
        unreadable.append(names[index])
        bar.print_error(printable(reason))

    def predictions() -> Predictions:
        for index, row in predictor.stream(items, report_unreadable):
            classes = zip(predictor.classes, map(float, row), strict=True)
            yield names[index], sorted(classes, key=lambda c: c[1], reverse=True)[:top]
            bar.update(index + 1)

    write = {"table": _write_table, "csv": _write_csv, "json": _write_json}[output_format]
    # Predictions on the same terminal would break the bar, and they show the progress themselves.
    with ProgressBar("predicting", len(names), hidden=sys.stdout.isatty()) as bar:
        write(predictions())
    if unreadable:
        sys.exit(1)


def _write_table(predictions: Predictions) -> None:
    for file, classes in predictions:
        columns = "  ".join(f"{printable(name)} {p:.4f}" for name, p in classes)
        click.echo(f"{printable(file)}  {columns}")


def _write_csv(predictions: Predictions) -> None:
    from autotl.data.spreadsheet import escape_formula

    writer = csv.writer(sys.stdout)
    writer.writerow(["file", "rank", "class", "probability"])
    for file, classes in predictions:
        for rank, (name, p) in enumerate(classes, 1):
            writer.writerow([escape_formula(file), rank, escape_formula(name), f"{p:.6f}"])


def _write_json(predictions: Predictions) -> None:
    for file, classes in predictions:
        click.echo(json.dumps({"file": file, "classes": dict(classes)}))
