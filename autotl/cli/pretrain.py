"""The ``pretrain`` command: train the weights of a backbone on source data."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from autotl.cli.common import (
    DATA_OPTION,
    PATH,
    PLUGIN,
    PRECISION,
    QUIET,
    SEED,
    SOURCE,
    TASK,
    Duration,
    device_option,
    given_options,
    interruptible,
)
from autotl.events import Stage

if TYPE_CHECKING:
    from autotl.engine import SourceTraining


@click.command()
@click.argument("source", metavar="DATA", type=SOURCE)
@click.option("--backbone", required=True, metavar="NAME", help="Model of timm to train.")
@click.option(
    "--out",
    type=PATH,
    metavar="DIR",
    help="Folder for the weights, which a search finds with --weights (default: weights).",
)
@click.option(
    "--method",
    metavar="NAME",
    help="Training method: supervised by the labels of DATA, or simclr, by views of images, or of "
    "a backbone of a plugin, such as mlm; the others need no labels (default: supervised).",
)
@click.option(
    "--from",
    "start",
    type=click.Choice(["scratch", "pretrained"]),
    help="Weights to start from: random or pretrained ones (default: scratch).",
)
@click.option(
    "--epochs",
    type=int,
    metavar="N",
    help="Number of epochs (default: 20, for simclr 100).",
)
@click.option(
    "--budget",
    type=Duration(),
    help="Wall-clock time, e.g. 90s, 10m or 1h30m; fewer epochs are trained if it is short "
    "(default: no limit).",
)
@click.option(
    "--size",
    "--image-size",
    "image_size",
    type=int,
    metavar="N",
    help="Side of the input images in pixels (default: the backbone's, less for small images).",
)
@click.option(
    "--in-chans",
    type=int,
    metavar="N",
    help="Number of channels of images (default: 3).",
)
@click.option(
    "--validation",
    type=float,
    metavar="FRACTION",
    help="Fraction of the images that is held out to score the model (default: 0.1).",
)
@TASK
@click.option(
    "--metric", metavar="NAME", help="Metric of the held-out score (default: that of the task)."
)
@click.option(
    "--lr",
    type=float,
    metavar="RATE",
    help="Learning rate of an Adam-like optimizer (default: 0.001).",
)
@click.option(
    "--batch-size",
    type=int,
    metavar="N",
    help="Number of images in a training step (default: 64).",
)
@click.option(
    "--augment",
    metavar="NAME",
    help="Augmentation (default: flip_crop, for simclr that of the same name).",
)
@click.option(
    "--licence",
    metavar="NAME",
    help="Licence of the weights, for their model card (default: unknown).",
)
@click.option(
    "--weights",
    type=PATH,
    metavar="DIR",
    help="Folder in which --from pretrained looks for weights first "
    "(default: installed packages, then the Hugging Face cache and hub).",
)
@SEED
@DATA_OPTION
@PLUGIN
@device_option()
@PRECISION
@QUIET
def pretrain(source: str, quiet: bool, **options: Any) -> None:
    """Train a backbone on DATA, so that a search on few other images can start from its weights.

    The weights are written to DIR/NAME.safetensors, and to DIR/NAME.md how they were trained.
    Ctrl-C keeps those of the last complete epoch. Use them with:
    autotl search OTHER --weights DIR --backbone source:NAME
    """
    began = time.monotonic()  # the budget includes the time to load the libraries
    from autotl import study
    from autotl.cli import progress_view
    from autotl.search import preflight

    settings = study.configure_source_training(source, given_options(options))
    preflight.check_names(settings.as_search())
    with interruptible(progress_view.print_progress(quiet)) as listener:
        listener(Stage("loading libraries"))
        from autotl import engine

        try:
            result = engine.pretrain(settings, listener, began=began)
        except KeyboardInterrupt:
            result = engine.SourceTraining({}, None, interrupted=True)
    if not quiet and result.file:
        _show(result)
    if result.interrupted:
        what = "the weights of the last complete epoch were kept"
        if result.file is None:
            what = "no epoch was complete, so no weights were written"
        click.echo(f"interrupted; {what}", err=True)
        sys.exit(130)


def _show(result: SourceTraining) -> None:
    """Print what was trained, the files, and how to use them."""
    from autotl.report.formatting import format_interval

    facts, file = result.facts, result.file
    assert file is not None
    epochs = f"{facts['epochs']} epoch{'s' * (facts['epochs'] > 1)}"
    method = "" if facts["method"] == "supervised" else f" by {facts['method']} without labels"
    size = f" at {facts['image_size']} px" if "image_size" in facts else ""
    text = (
        f"{facts.get('name', facts['backbone'])} was trained{method} for {epochs} on "
        f"{facts['train']} examples{size}, from {facts['started_from']}."
    )
    if facts["score"] is not None:
        score = format_interval(facts["score"], facts)
        before = facts.get("before")
        earlier = "" if before is None else f"; it was {before:.4f} before"
        text += (
            f" Its {facts['metric']} on {facts['scored']} held-out examples is {score}{earlier}."
        )
    click.echo(text)
    if file.is_dir():  # a family's own format
        click.echo(f"\n  {file}\n\nUse them:  autotl search DATA --backbone {facts['backbone']}")
        return
    click.echo(f"\n  {file}\n  {file.with_suffix('.md')}\n")
    click.echo(
        f"Use them:  autotl search DATA --weights {file.parent} --backbone "
        f"source:{facts['backbone']}"
    )
