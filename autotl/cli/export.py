"""``export``: a model folder as one file for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotl.cli.common import FILE, PLUGIN
from autotl.cli.models import examples, pictures
from autotl.errors import ArtifactError, AutoTLError, DataError

if TYPE_CHECKING:
    from autotl.artifact.export import Exported
    from autotl.artifact.model_folder import Predictor
    from autotl.space.plugin import Example
    from autotl.space.registry import Registry

FEW, MANY = 64, 2000
"""Pictures to compare on: so many of a float32 file, at most so many of an int8 file."""


@click.command()
@click.argument("model", type=FILE)
@click.option(
    "--to",
    required=True,
    type=click.Choice(["onnx", "onnx-int8", "torch-export"]),
    help="The format.",
)
@click.option(
    "--data",
    "source",
    metavar="DATA",
    help="Pictures to compare on, best with labels; default those it was made from.",
)
@click.option("--out", type=FILE, metavar="FILE", help="Default MODEL/model.onnx and the like.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@PLUGIN
def export(
    model: Path,
    to: str,
    source: str | None,
    out: Path | None,
    form: str,
    plugin: Sequence[Path],
) -> None:
    """Export MODEL to one file that takes uint8 pictures and gives probabilities.

    The file is compared with the model on real pictures; one whose probabilities differ by more
    than 0.001 is not kept. An int8 file always differs: what it costs is measured, in accuracy
    where DATA has labels. A .pt2 file is loaded by unpickling, so load only those you trust.
    """
    from autotl import models as models
    from autotl.artifact import export as room
    from autotl.artifact import model_folder
    from autotl.space import registry

    room.require(to)
    plugins = registry.load(plugin)
    predictor = model_folder.load(model, plugins, models.device("cpu"))
    file = out or model / f"model{room.SUFFIXES[to]}"
    if not file.parent.is_dir():
        raise ArtifactError(f"there is no folder {file.parent} to export to; make it first")
    origin, found = _found(source, predictor, plugins, to)
    most = MANY if to == "onnx-int8" else FEW
    images, labels = room.pictures_of(predictor, found, most, _warn)
    if found and not len(images):
        raise DataError(f"{origin}: none of its pictures can be read")
    if not found:
        origin, images = "random ones, as none are at hand", room.noise(predictor, FEW)
    result = room.export(predictor, file, to, images, labels if found else None)
    if form == "json":
        click.echo(
            json.dumps({**vars(result), "file": str(file), "to": to, "data": origin}, indent=2)
        )
    else:
        _tell(result, predictor, to, origin)


def _warn(reason: str) -> None:
    click.echo(f"warning: {reason}", err=True)


def _found(
    source: str | None, predictor: Predictor, plugins: Registry, to: str
) -> tuple[str, list[Example]]:
    """The pictures to compare on and where they come from; none where there are none."""
    if source is not None:
        return source, _any_pictures(source, plugins)
    origin = predictor.about.get("data", {}).get("source", "")
    try:
        return origin, examples(origin, plugins)
    except AutoTLError:
        if to == "onnx-int8":
            raise DataError(
                "an int8 model needs pictures to set its ranges by, and those it was made from "
                f"are no longer at {origin!r}; give some with --data"
            ) from None
        return "", []


def _any_pictures(source: str, plugins: Registry) -> list[Example]:
    """Labelled pictures, or a folder's pictures without labels."""
    from autotl.space.plugin import Example

    try:
        return examples(source, plugins)
    except DataError:
        if not Path(source).is_dir():
            raise
        return [Example(file, Path(file), "") for file in pictures([source])]


def _tell(result: Exported, predictor: Predictor, to: str, origin: str) -> None:
    from autotl.artifact.export import TOLERANCE

    size = predictor.network.expects.size
    classes = len(predictor.classes)
    click.echo(f"{result.file}  {result.bytes / 1e6:.1f} MB")
    click.echo(f"  takes images, uint8 [batch, 3, {size}, {size}]: RGB, resized as a whole")
    click.echo(f"  gives probabilities, float32 [batch, {classes}], calibrated as the model is")
    allowed = "" if to == "onnx-int8" else f", {TOLERANCE} allowed"
    click.echo(
        f"  compared on {result.pictures} pictures ({origin}): the same answer on "
        f"{result.agreement:.2%}, probabilities differ by at most {result.difference:.2g}{allowed}"
    )
    if to == "onnx-int8":
        click.echo(f"  its ranges were set by {result.calibrated} other pictures of these")
    if result.accuracy and result.loss and to == "onnx-int8":
        before, after = result.accuracy
        lost, low, high = result.loss
        click.echo(
            f"  accuracy {after:.4f}, the model's is {before:.4f}: lost {lost:.4f} "
            f"(95 % interval {low:.4f} to {high:.4f})"
        )
        if predictor.made_from(origin):
            click.echo(
                "  it has learned from some of these pictures: on others both are less accurate, "
                "and the loss may be larger; give some with --data"
            )
    if to == "torch-export":
        click.echo("  torch.export.load unpickles: load such a file only if you trust its source")
