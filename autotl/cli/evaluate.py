"""``evaluate``: how good a model folder is on labelled pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from autotl.cli.common import FILE, PLUGIN, legible
from autotl.cli.models import DEVICE, Bar, examples


@click.command()
@click.argument("model", type=FILE)
@click.argument("source", metavar="DATA")
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Only that part, where DATA says which is which.",
)
@click.option("--metric", multiple=True, metavar="NAME", help="Only these; default all.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table")
@PLUGIN
@DEVICE
def evaluate(
    model: Path,
    source: str,
    split: str | None,
    metric: Sequence[str],
    form: str,
    plugin: Sequence[Path],
    device: str,
) -> None:
    """Score MODEL on DATA: labelled pictures, as search takes them.

    Scores come with their 95 % intervals: Wilson's for accuracy, a bootstrap stratified by class
    for the others. Pictures that cannot be read are named on stderr and left out; the exit code
    is then 1.
    """
    from autotl import models as models
    from autotl.artifact import model_folder
    from autotl.evaluation.evaluate import evaluate as score_model
    from autotl.scoring import metrics
    from autotl.space import registry

    names = metric or tuple(metrics.METRICS)
    plugins = registry.load(plugin)
    predictor = model_folder.load(model, plugins, models.device(device))
    found = examples(source, plugins)
    with Bar("evaluating", len(found)) as bar:
        result = score_model(
            predictor, found, source, split, names, lambda done, _: bar.update(done)
        )
    for broken in result["unreadable"]:
        known = broken["name"] in broken["reason"]  # a reason names the file, but not an array
        which = "" if known else f"{legible(broken['name'])}: "
        click.echo(f"Error: {which}{legible(broken['reason'])}", err=True)
    if form == "json":
        click.echo(json.dumps({"model": str(model), "data": source, **result}, indent=2))
    else:
        for line in _table(result):
            click.echo(line)
    if result["unreadable"]:
        sys.exit(1)


def _table(result: Mapping[str, Any]) -> Iterator[str]:
    """The scores, the classes and what they do not cover, line by line."""
    yield f"{result['n']} pictures"
    yield ""
    for name, value in result["metrics"].items():
        if value["score"] is None:
            yield f"{name:<18}  not defined: too few classes"
        else:
            interval = f"95 % interval {value['low']:.4f} to {value['high']:.4f}"
            yield f"{name:<18}  {value['score']:.4f}  {interval}"
    yield f"{'calibration error':<18}  {result['ece']:.4f}  (expected, 0 is best)"
    yield ""
    names = [legible(row["class"]) for row in result["per_class"]]
    width = max(map(len, [*names, "class"]))
    yield f"{'class':<{width}}  pictures  recall  precision  f1"
    for name, row in zip(names, result["per_class"], strict=True):
        recall, precision, f1 = (
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("recall", "precision", "f1")
        )
        yield f"{name:<{width}}  {row['n']:>8}  {recall:>6}  {precision:>9}  {f1}"
    for note in result["notes"]:
        yield f"\nnote: {note}"
