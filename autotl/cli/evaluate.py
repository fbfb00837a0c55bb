"""The ``evaluate`` command: scores of a model folder on labelled images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from autotl.artifact.folder import require_folder
from autotl.cli.common import DATA_OPTION, FORMAT, PATH, PLUGIN, SOURCE, device_option, printable
from autotl.cli.inputs import load_examples, model_options
from autotl.cli.progress_bar import ProgressBar
from autotl.space.registry import require_source


@click.command()
@click.argument("model", type=PATH)
@click.argument("source", metavar="DATA", type=SOURCE)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Split of DATA to score, if DATA defines splits (default: all examples).",
)
@click.option(
    "--metric", multiple=True, metavar="NAME", help="Metric to report; repeatable (default: all)."
)
@FORMAT
@DATA_OPTION
@PLUGIN
@device_option("auto")
def evaluate(
    model: Path,
    source: str,
    split: str | None,
    metric: Sequence[str],
    output_format: str,
    data_options: Mapping[str, str] | None,
    plugin: Sequence[Path],
    device: str,
) -> None:
    """Score MODEL on DATA: labelled examples in any form that search accepts.

    Scores come with 95 % intervals. Those that cannot be read are named on stderr and left out;
    the exit code is then 1.
    """
    require_folder(model)
    require_source(source)
    from autotl import models
    from autotl.artifact import model_folder
    from autotl.evaluation.evaluate import evaluate as score_model
    from autotl.space import registry
    from autotl.tasks import find_metric, metrics_for

    plugins = registry.load(plugin)
    predictor = model_folder.load(
        model,
        plugins,
        models.select_device(device),
        warn=lambda text: None,  # it is in the notes
    )
    task = predictor.task
    suited = metrics_for(task, plugins)
    chosen = [find_metric(name, task, plugins) for name in metric] or list(suited.values())
    options = data_options or model_options(predictor, source, plugins)
    examples = load_examples(source, plugins, options)
    with ProgressBar("evaluating", len(examples)) as bar:
        result = score_model(
            predictor, examples, source, split, chosen, lambda done, _: bar.update(done)
        )
    for image in result["unreadable"]:
        # The reason names the image if it is a file, but not if it is an array.
        prefix = "" if image["name"] in image["reason"] else f"{printable(image['name'])}: "
        click.echo(f"Error: {prefix}{printable(image['reason'])}", err=True)
    if output_format == "json":
        click.echo(json.dumps({"model": str(model), "data": source, **result}, indent=2))
    else:
        for line in _table(result, predictor.kind.nouns):
            click.echo(line)
    if result["unreadable"]:
        sys.exit(1)


def _table(result: Mapping[str, Any], nouns: str) -> Iterator[str]:
    """Yield the lines of the scores, the table of classes and the notes."""
    yield f"{result['n']} {nouns}"
    yield ""
    majority = f"always {printable(result['majority_class'])}"
    yield f"{'':<18}  {'score':<6}  {'95 % interval':<16}  {majority}"
    for name, metric in result["metrics"].items():
        if metric["score"] is None:
            yield f"{name:<18}  undefined: too few classes"
        else:
            interval = f"{metric['low']:.4f} to {metric['high']:.4f}"
            baseline = "" if metric["majority"] is None else f"  {metric['majority']:.4f}"
            yield f"{name:<18}  {metric['score']:.4f}  {interval}{baseline}"
    yield f"{'calibration error':<18}  {result['ece']:.4f}  expected error, 0 is best"
    yield ""
    names = [printable(row["class"]) for row in result["per_class"]]
    width = max(map(len, [*names, "class"]))
    counted = max(len(nouns), 6)
    yield f"{'class':<{width}}  {nouns:>{counted}}  recall  precision  f1"
    for name, row in zip(names, result["per_class"], strict=True):
        recall, precision, f1 = (
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("recall", "precision", "f1")
        )
        yield f"{name:<{width}}  {row['n']:>{counted}}  {recall:>6}  {precision:>9}  {f1}"
    for note in result["notes"]:
        yield f"\nnote: {note}"
