"""``predict``: classes of new pictures, by a model folder."""

from __future__ import annotations

import csv
import glob
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from autotl.cli.common import FILE, PLUGIN


@click.command()
@click.argument("model", type=FILE)
@click.argument("files", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--top", type=click.IntRange(min=1), default=3, help="Classes shown of a picture.")
@PLUGIN
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto")
def predict(
    model: Path, files: tuple[str, ...], form: str, top: int, plugin: tuple[Path, ...], device: str
) -> None:
    """Predict the classes of FILES: pictures, folders, glob patterns, or - for a list on stdin.

    Files that cannot be read are named on stderr, the others are predicted; the exit code is
    then 1.
    """
    pictures = list(_pictures(files))
    from autotl import artifact, registry
    from autotl import model as models

    predictor = artifact.load(model, registry.load(plugin), models.device(device))
    broken: list[str] = []

    def failed(file: str, reason: str) -> None:
        broken.append(file)
        click.echo(f"Error: {reason}", err=True)

    write = {"table": _table, "csv": _csv, "json": _json}[form]
    rows = (
        (file, sorted(zip(predictor.classes, map(float, p), strict=True), key=lambda c: -c[1]))
        for file, p in predictor.stream(pictures, failed)
    )
    write((file, ranked[:top]) for file, ranked in rows)
    if broken:
        sys.exit(1)


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _pictures(files: tuple[str, ...]) -> Iterator[str]:
    """Files, the pictures below folders, what patterns match, and lines of stdin for ``-``."""
    for name in files:
        if name == "-":
            yield from (line.strip() for line in sys.stdin if line.strip())
        elif Path(name).is_dir():
            inside = sorted(Path(name).rglob("*"))
            yield from (str(p) for p in inside if p.suffix.lower() in SUFFIXES)
        elif not Path(name).exists() and any(c in name for c in "*?["):
            yield from sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute ones too
        else:
            yield name


Ranked = Iterator[tuple[str, list[tuple[str, float]]]]


def _table(rows: Ranked) -> None:
    for file, ranked in rows:
        click.echo(f"{file}  " + "  ".join(f"{name} {p:.4f}" for name, p in ranked))


def _csv(rows: Ranked) -> None:
    out = csv.writer(sys.stdout)
    out.writerow(["file", "rank", "class", "probability"])
    for file, ranked in rows:
        out.writerows([file, i, name, f"{p:.6f}"] for i, (name, p) in enumerate(ranked, start=1))


def _json(rows: Ranked) -> None:
    for file, ranked in rows:
        click.echo(json.dumps({"file": file, "classes": dict(ranked)}))
