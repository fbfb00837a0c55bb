"""The ``predict`` command: predictions of new images by a model folder."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotl.artifact.folder import read_kind, require_folder
from autotl.cli.common import PATH, PLUGIN, SOURCE, device_option, printable
from autotl.cli.inputs import find_images, read_items, write_note
from autotl.cli.progress_bar import ProgressBar
from autotl.errors import DataError
from autotl.space.input_kind import IMAGE

if TYPE_CHECKING:
    from autotl.artifact.predictor import Predictor
    from autotl.space.task import Task

Predictions = Iterator[tuple[str, dict[str, Any]]]
"""For each file its name and what ``Predictor.describe`` returns."""

TOP_CLASSES = 3
"""The number of classes that are shown for each example unless another is given."""


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
    metavar="N",
    help="Number of classes for each example, the most probable first (default: 3); for several "
    "labels, the number whose probabilities the table shows (default: none).",
)
@PLUGIN
@device_option("auto")
def predict(
    model: Path,
    files: tuple[str, ...],
    output_format: str,
    top: int | None,
    plugin: tuple[Path, ...],
    device: str,
) -> None:
    """Predict FILES: images, folders, glob patterns, or - for a list on stdin.

    The result has the most probable classes; the labels whose probabilities reach their thresholds;
    or numbers with the limits of their 95 % intervals, if these were measured. A model for another
    kind of input takes what that kind reads, such as texts. Files that cannot be read are named on
    stderr and the others are predicted; the exit code is then 1.
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
    _check_top(top, predictor.task)
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
            yield names[index], predictor.describe(row)
            bar.update(index + 1)

    # Predictions on the same terminal would break the bar, and they show the progress themselves.
    with ProgressBar("predicting", len(names), hidden=sys.stdout.isatty()) as bar:
        _write(predictions(), output_format, predictor, top)
    if unreadable:
        sys.exit(1)


def _check_top(top: int | None, task: Task) -> None:
    if top and not task.has_probabilities:
        raise click.UsageError(f"--top is for models of classes; this one predicts {task.nouns}.")


def _write(
    predictions: Predictions, output_format: str, predictor: Predictor, top: int | None
) -> None:
    from autotl.tasks import Classification

    if isinstance(predictor.task, Classification):
        _write_classes(predictions, output_format, top or TOP_CLASSES)
    elif output_format == "table":
        _write_table(predictions, top)
    elif output_format == "csv":
        _write_csv(predictions, predictor)
    else:
        for file, described in predictions:
            click.echo(json.dumps({"file": file, **described}))


def _write_classes(predictions: Predictions, output_format: str, top: int) -> None:
    """Write the most probable classes of each example."""
    from autotl.data.spreadsheet import escape_formula

    writer = csv.writer(sys.stdout)
    if output_format == "csv":
        writer.writerow(["file", "rank", "class", "probability"])
    for file, described in predictions:
        ranked = sorted(described.items(), key=lambda pair: pair[1], reverse=True)
        classes = ranked[:top]
        if output_format == "table":
            columns = "  ".join(f"{printable(name)} {p:.4f}" for name, p in classes)
            click.echo(f"{printable(file)}  {columns}")
        elif output_format == "json":
            click.echo(json.dumps({"file": file, "classes": dict(classes)}))
        else:
            for rank, (name, p) in enumerate(classes, 1):
                writer.writerow([escape_formula(file), rank, escape_formula(name), f"{p:.6f}"])


def _write_table(predictions: Predictions, top: int | None) -> None:
    """Write what is predicted in one line, and the most probable outputs if ``top`` is given."""
    for file, described in predictions:
        parts = [printable(file), *_describe(described)]
        if top:
            probabilities = described["probabilities"].items()
            ranked = sorted(probabilities, key=lambda pair: pair[1], reverse=True)
            parts += [f"{printable(name)} {p:.4f}" for name, p in ranked[:top]]
        click.echo("  ".join(parts))


def _describe(described: Mapping[str, Any]) -> Iterator[str]:
    """Describe labels in one text, and numbers in one each, with the limits of their intervals."""
    prediction = described["prediction"]
    if isinstance(prediction, list):
        yield ", ".join(map(printable, prediction)) or "(none)"
        return
    for name, cells in _group_by_output(described).items():
        value = printable(_format(cells.pop("prediction")))
        limits = f" ({_format(cells['low'])} to {_format(cells['high'])})" if "low" in cells else ""
        yield f"{printable(name)} {value}{limits}".lstrip()


def _group_by_output(described: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return ``prediction`` and what has the same form, such as limits, by the names of numbers.

    What is predicted without names has the name ''.
    """
    prediction = described["prediction"]
    values = {key: value for key, value in described.items() if key != "probabilities"}
    if not isinstance(prediction, Mapping):
        return {"": values}
    return {name: {key: value[name] for key, value in values.items()} for name in prediction}


def _write_csv(predictions: Predictions, predictor: Predictor) -> None:
    """Write a row for each file; the prediction is written as a label, which can be read again."""
    from autotl.data.spreadsheet import escape_formula

    task, writer = predictor.task, csv.writer(sys.stdout)
    # The header is written without a prediction too.
    header = [name for name, _ in _cells(predictor.describe_blank(), task)]
    writer.writerow(["file", *map(escape_formula, header)])
    for file, described in predictions:
        cells = [escape_formula(text) for _, text in _cells(described, task)]
        writer.writerow([escape_formula(file), *cells])


def _cells(described: Mapping[str, Any], task: Task) -> list[tuple[str, str]]:
    """Return the columns of a prediction and their texts.

    They are ``prediction``, ``low`` and ``high``, or ``x``, ``x_low``, ``x_high`` of numbers with
    names, and the probability of each output.
    """
    cells = []
    for name, values in _group_by_output(described).items():
        for key, value in values.items():
            column = "_".join(part for part in (name, key) if part)
            is_named = name and key == "prediction"
            text = task.parse(value) if isinstance(value, list) else _format(value)
            cells.append((name if is_named else column, text))
    probabilities = described.get("probabilities", {})
    return cells + [(name, f"{p:.6f}") for name, p in probabilities.items()]


def _format(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
