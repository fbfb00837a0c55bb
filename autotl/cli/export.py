"""The ``export`` command: a model folder as one file for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotl.artifact.folder import require_folder
from autotl.cli.common import FORMAT, PATH, PLUGIN, SOURCE
from autotl.cli.inputs import find_images, load_examples, model_options, write_note
from autotl.errors import ArtifactError, AutoTLError, DataError

if TYPE_CHECKING:
    from autotl.artifact.export import ExportResult
    from autotl.artifact.predictor import Predictor
    from autotl.space.plugin import Example
    from autotl.space.registry import Registry

FLOAT32_IMAGES, INT8_IMAGES = 64, 2000
"""The number of images on which a float32 file, and the maximum on which an int8 file is compared.
"""


@click.command()
@click.argument("model", type=PATH)
@click.option(
    "--to",
    required=True,
    type=click.Choice(["onnx", "onnx-int8", "torch-export"]),
    help="Format of the exported file.",
)
@click.option(
    "--data",
    "source",
    metavar="DATA",
    type=SOURCE,
    help="Images to compare the file with the model on, preferably labelled "
    "(default: the data that the model was trained on).",
)
@click.option(
    "--out",
    type=PATH,
    metavar="FILE",
    help="Path of the exported file (default: MODEL/model with the ending of the format).",
)
@FORMAT
@PLUGIN
def export(
    model: Path,
    to: str,
    source: str | None,
    out: Path | None,
    output_format: str,
    plugin: Sequence[Path],
) -> None:
    """Export MODEL to one file that maps uint8 images to probabilities, or to numbers.

    The file is compared with the model on real images; a float32 file whose probabilities differ
    by more than 0.001, or numbers by 0.001 standard deviations, is deleted. An int8 file always
    differs: its loss of accuracy is measured if DATA has labels that are classes. A .pt2 file is
    loaded by unpickling, so load only files that you trust.
    """
    require_folder(model)
    from autotl import models
    from autotl.artifact import export as exporter
    from autotl.artifact import export_formats, model_folder, replacement
    from autotl.space import registry

    export_formats.check_requirements(to)
    plugins = registry.load(plugin)
    predictor = model_folder.load(model, plugins, models.select_device("cpu"), _warn)
    file = out or replacement.current(model) / f"model{export_formats.SUFFIXES[to]}"
    if not file.parent.is_dir():
        raise ArtifactError(f"there is no folder {file.parent} to export to; create it first")
    exporter.check_file(file, to)
    origin, examples = _comparison_examples(source, predictor, plugins, to)
    nouns = predictor.kind.nouns
    limit = INT8_IMAGES if to == "onnx-int8" else FLOAT32_IMAGES
    images, labels = exporter.decode_examples(predictor, examples, limit, _warn)
    _require_readable(source, origin, examples, len(images), nouns)
    if not examples:
        origin = f"made-up {nouns}, because the training data are not available"
        images = exporter.toy_examples(predictor, FLOAT32_IMAGES)
    result = exporter.export(predictor, file, to, images, labels if examples else None)
    if output_format == "json":
        click.echo(
            json.dumps({**vars(result), "file": str(file), "to": to, "data": origin}, indent=2)
        )
    else:
        _print_result(result, predictor, to, origin)


def _require_readable(
    source: str | None, origin: str, examples: Sequence[Example], readable: int, nouns: str
) -> None:
    """Raise DataError if data that the user gave has no examples, or none that can be read."""
    if source is not None and not examples:
        raise DataError(f"{source}: there are no {nouns} in it")
    if examples and not readable:
        raise DataError(f"{origin}: none of its {nouns} can be read")


def _warn(reason: str) -> None:
    click.echo(f"warning: {reason}", err=True)


def _comparison_examples(
    source: str | None, predictor: Predictor, plugins: Registry, to: str
) -> tuple[str, list[Example]]:
    """Return the source of the examples to compare on, and the examples; both may be empty."""
    from autotl.data import read_source

    if source is not None:
        return source, _load_with_or_without_labels(source, predictor, plugins)
    origin = predictor.data_source
    try:
        options = model_options(predictor, origin, plugins)
        read = read_source(origin, plugins, options)
        return origin, [*read.examples, *read.unlabelled]
    except AutoTLError:
        if to == "onnx-int8":
            raise DataError(
                "an int8 model needs images to calibrate its value ranges, and the training images "
                f"are no longer at {origin!r}; give images with --data"
            ) from None
        return "", []


def _load_with_or_without_labels(
    source: str, predictor: Predictor, plugins: Registry
) -> list[Example]:
    """Load labelled examples, or the images of a folder with empty labels."""
    from autotl.space.plugin import Example

    try:
        return load_examples(source, plugins, model_options(predictor, source, plugins))
    except DataError:
        if not Path(source).is_dir():
            raise
        return [Example(file, Path(file), "") for file in find_images([source], write_note)]


def _print_result(result: ExportResult, predictor: Predictor, to: str, origin: str) -> None:
    from autotl.artifact.export import TOLERANCE, unit_of_difference
    from autotl.artifact.export_formats import describe_images
    from autotl.artifact.standalone import output_name
    from autotl.data import ImageInput

    task = predictor.task
    expects, nouns = predictor.network.expects, predictor.kind.nouns
    classes = len(predictor.classes)
    click.echo(f"{result.file}  {result.num_bytes / 1e6:.1f} MB")
    if isinstance(expects, ImageInput):
        shape = f"{describe_images(expects)}, resized without cropping"
    else:
        shape = f"{expects.dtype} {['batch', *expects.shape]}"
    click.echo(f"  input: {nouns}, {shape}")
    what = output_name(task)
    calibrated = ", calibrated like the model's" if task.has_probabilities else ""
    click.echo(f"  output: {what}, float32 [batch, {classes}]{calibrated}")
    allowed = "" if to == "onnx-int8" else f", {TOLERANCE} allowed"
    same = "" if result.agreement is None else f"the same class on {result.agreement:.2%}, "
    click.echo(
        f"  compared on {result.num_images} {nouns} ({origin}): {same}{what} differ by at most "
        f"{result.max_difference:.2g}{unit_of_difference(task)}{allowed}"
    )
    if to == "onnx-int8":
        click.echo(
            f"  value ranges calibrated on {result.num_calibration_images} other images of the data"
        )
    if result.accuracy and result.accuracy_loss and to == "onnx-int8":
        model_accuracy, file_accuracy = result.accuracy
        lost, low, high = result.accuracy_loss
        click.echo(
            f"  accuracy {file_accuracy:.4f}, the model's is {model_accuracy:.4f}: lost {lost:.4f} "
            f"(95 % interval {low:.4f} to {high:.4f})"
        )
        if predictor.was_trained_on(origin):
            click.echo(
                "  the model was trained on some of these images: on new ones both accuracies are "
                "lower and the loss may be larger; give new images with --data"
            )
    if to == "torch-export":
        click.echo("  torch.export.load unpickles the file: load it only if you trust its source")
