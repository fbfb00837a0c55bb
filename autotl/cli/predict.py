"""``predict``: classes of new pictures, by a model folder."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from autotl.cli.common import FILE, PLUGIN, legible
from autotl.cli.models import DEVICE, Bar, pictures
from autotl.errors import DataError


@click.command()
@click.argument("model", type=FILE)
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    help="json is one object a line.",
)
@click.option("--top", type=click.IntRange(min=1), default=3, help="Classes shown of a picture.")
@PLUGIN
@DEVICE
def predict(
    model: Path, files: tuple[str, ...], form: str, top: int, plugin: tuple[Path, ...], device: str
) -> None:
    """Predict the classes of FILES: pictures, folders, glob patterns, or - for a list on stdin.

    Files that cannot be read are named on stderr, the others are predicted; the exit code is
    then 1.
    """
    names = list(pictures(files))
    if not names:
        raise DataError("no pictures: the list on stdin is empty")
    from autotl import models as models
    from autotl.artifact import model_folder
    from autotl.space import registry

    predictor = model_folder.load(model, registry.load(plugin), models.device(device))
    broken: list[str] = []

    def failed(place: int, reason: str) -> None:
        broken.append(names[place])
        bar.error(legible(reason))

    def rows() -> Ranked:
        for place, row in predictor.stream([Path(name) for name in names], failed):
            ranked = sorted(zip(predictor.classes, map(float, row), strict=True), key=_likelier)
            yield names[place], ranked[:top]
            bar.update(place + 1)

    write = {"table": _table, "csv": _csv, "json": _json}[form]
    # Answers on the same terminal would tear the bar, and are progress enough.
    with Bar("predicting", len(names), hidden=sys.stdout.isatty()) as bar:
        write(rows())
    if broken:
        sys.exit(1)


Ranked = Iterator[tuple[str, list[tuple[str, float]]]]


def _likelier(answer: tuple[str, float]) -> float:
    return -answer[1]


def _table(rows: Ranked) -> None:
    for file, ranked in rows:
        answers = "  ".join(f"{legible(name)} {p:.4f}" for name, p in ranked)
        click.echo(f"{legible(file)}  {answers}")


def _csv(rows: Ranked) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no Unicode
        sys.stdout.reconfigure(errors="surrogateescape")
    out = csv.writer(sys.stdout)
    out.writerow(["file", "rank", "class", "probability"])
    for file, ranked in rows:
        out.writerows([file, i, name, f"{p:.6f}"] for i, (name, p) in enumerate(ranked, start=1))


def _json(rows: Ranked) -> None:
    for file, ranked in rows:
        click.echo(json.dumps({"file": file, "classes": dict(ranked)}))
