"""The ``evaluate`` command: scores of a model folder on labelled images."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autotl.artifact.folder import require_folder
from autotl.cli.common import DATA_OPTION, FORMAT, PATH, PLUGIN, SOURCE, device_option, printable
from autotl.cli.inputs import load_examples, model_options
from autotl.cli.progress_bar import ProgressBar
from autotl.space.registry import require_source

if TYPE_CHECKING:
    from autotl.scoring.metrics import Metric
    from autotl.space.task import Task

MANY_DIGITS = 1e5
"""From here on, numbers have no decimals."""


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
        for line in _table(result, chosen, task, predictor.kind.nouns):
            click.echo(line)
    if result["unreadable"]:
        sys.exit(1)


def _table(
    result: Mapping[str, Any], metrics: Sequence[Metric], task: Task, nouns: str
) -> Iterator[str]:
    """Yield the lines of the scores, the table of classes and the notes."""
    yield f"{result['n']} {nouns}"
    yield ""
    yield from _metric_lines(result, metrics, task)
    if "ece" in result:
        yield f"{'calibration error':<18}  {result['ece']:.4f}  expected error, 0 is best"
    for name, score in result.get("at_thresholds", {}).items():
        if score is not None:
            yield f"{name:<18}  {score:.4f}  at the thresholds of the {task.nouns}"
    yield ""
    yield from _class_lines(result["per_class"], task, nouns)
    for note in result["notes"]:
        yield f"\nnote: {printable(note)}"


def _metric_lines(
    result: Mapping[str, Any], metrics: Sequence[Metric], task: Task
) -> Iterator[str]:
    """Yield a line for each metric: its score, the interval, and that of a constant prediction."""
    from autotl.tasks import Classification

    reason = "too few classes" if isinstance(task, Classification) else "on these labels"
    rows = [("", "score", "95 % interval", f"always {printable(result['majority_class'])}")]
    for metric in metrics:
        value = result["metrics"][metric.name]
        if value["score"] is None:
            rows.append((metric.name, f"undefined: {reason}", "", ""))
        else:
            score, low, high, constant = (
                _format_score(value[key], metric.has_unit)
                for key in ("score", "low", "high", "majority")
            )
            rows.append((metric.name, score, f"{low} to {high}", constant))
    widths = [
        max([fewest, *(len(row[i]) for row in rows if row[2])])
        for i, fewest in enumerate((18, 6, 16))
    ]
    for row in rows:
        padded = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        yield "  ".join((*padded, row[3])).rstrip()


def _format_score(value: float | None, has_unit: bool = False) -> str:
    if value is None:
        return "-"
    if not has_unit:
        return f"{value:z.4f}"
    return f"{value:.0f}" if abs(value) >= MANY_DIGITS else f"{value:#.5g}"


def _class_lines(rows: Sequence[Mapping[str, Any]], task: Task, nouns: str) -> Iterator[str]:
    """Yield a table with a line for each output of the model: a class, a label or a number."""
    names = [printable(row["class"]) for row in rows]
    keys = [key for key in rows[0] if key != "class"]
    renamed = {"n": nouns, "score": task.score_noun}
    titles = [renamed.get(key, key) for key in keys]
    cells = [[_format_cell(row[key], task.has_probabilities) for key in keys] for row in rows]
    width = max(map(len, [*names, task.noun]))
    widths = [max(6, *map(len, column)) for column in zip(titles, *cells, strict=True)]
    for name, line in zip((task.noun, *names), (titles, *cells), strict=True):
        padded = (f"{cell:>{wide}}" for cell, wide in zip(line, widths, strict=True))
        yield "  ".join((f"{name:<{width}}", *padded))
    if "coverage" in keys:
        yield "coverage: the fraction of true numbers within their prediction intervals"


def _format_cell(value: Any, is_fraction: bool) -> str:
    if is_fraction and isinstance(value, float):
        return f"{value:.3f}"
    return str(value) if isinstance(value, int) else _format_score(value, has_unit=True)
