"""``search`` and ``train``: the commands that fine-tune."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click

from autotl.cli.common import FILE, PLUGIN, Span, asked, interruptible


@click.command()
@click.argument("source", metavar="DATA|STUDY.toml")
@click.option("--budget", type=Span(), help="Wall-clock time for everything: 90s, 10m, 1h30m.")
@click.option("--trials", type=int, metavar="N", help="Stop when the study has N trials.")
@click.option("--backbone", multiple=True, metavar="PATTERN", help="timm name or pattern.")
@click.option("--freeze", multiple=True, metavar="NAME", help="Freeze strategies to search.")
@click.option("--head", multiple=True, metavar="NAME", help="Heads to search.")
@click.option("--augment", multiple=True, metavar="NAME", help="Augmentations to search.")
@click.option("--optimizer", multiple=True, metavar="NAME", help="Optimizers to search.")
@click.option("--balance", multiple=True, metavar="NAME", help="Ways to balance classes.")
@click.option("--metric", help="accuracy, balanced_accuracy, macro_f1, auroc or log_loss.")
@click.option("--epochs", type=int, help="Epochs of a trial; fewer where time is short.")
@click.option("--batch-size", type=int, help="Pictures in a training step.")
@click.option("--ema", type=float, metavar="DECAY", help="Average the weights: 0.99 to 0.9999.")
@click.option(
    "--image-size",
    multiple=True,
    type=int,
    metavar="PIXELS",
    help="Side; default the backbone's; several are searched.",
)
@click.option("--max-parameters", metavar="N", help="Of a backbone: 500k, 30M.")
@click.option("--max-latency", metavar="TIME", help="For one picture: 20ms.")
@click.option("--licence", multiple=True, metavar="NAME", help="That weights may have.")
@click.option(
    "--validation",
    type=float,
    metavar="SHARE",
    help="To choose by; default a fifth, more of a small set.",
)
@click.option("--test", type=float, metavar="SHARE", help="Sealed until the end.")
@click.option(
    "--prefer",
    type=click.Choice(["accuracy", "cheap"]),
    help="Of those that are tied, the best or the cheapest to run.",
)
@click.option("--again", is_flag=True, default=None, help="Test a later winner too.")
@click.option(
    "--history/--no-history", default=None, help="Begin with what did best on similar data."
)
@click.option("--learn-from", metavar="DIR|FILE|URL", help="Where to look for it.")
@click.option("--cache-size", metavar="SIZE", help="Of what frozen parts computed: 20GB.")
@PLUGIN
@click.option("--study", metavar="NAME", help="Name of the study; default that of the data.")
@click.option("--storage", metavar="URL", help="Database; default OUT/autotl.db.")
@click.option("--weights", type=FILE, metavar="DIR", help="Pretrained weights by name.")
@click.option("--out", type=FILE, metavar="DIR", help="Where run folders go; default runs.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]))
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]))
@click.option("--seed", type=int)
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but warnings and errors.")
def search(source: str, quiet: bool, **options: Any) -> None:
    """Search for the best transfer configuration for DATA.

    DATA is a folder (class/*.jpg, or train|val|test/class/*), a CSV (path,label[,split][,group]),
    an .npz with MedMNIST's keys, or sklearn:digits. Without --budget and --trials the search
    takes ten minutes. The same command again goes on with the study.
    """
    began = time.monotonic()  # loading the libraries is part of the user's budget
    from autotl import study

    given = asked(options)
    settings = study.configure(source, given)
    from autotl import engine, report
    from autotl.cli import console
    from autotl.store import Store, default_url

    with console.view(quiet) as shown, interruptible(shown) as listener:
        command = shlex.join(["autotl", *sys.argv[1:]])
        result = engine.run(settings, listener, command=command, began=began)
    if not quiet:
        store = Store(settings.storage or default_url(settings.out))
        console.show_summary(
            result.summary,
            str(result.folder),
            report.top(store, settings.name),
            settings.plugin,
            more=True,
        )
    if result.interrupted:
        click.echo("interrupted; the same command goes on from here", err=True)
        sys.exit(130)


@click.command()
@click.argument("recipe", type=FILE)
@click.argument("source", metavar="[DATA]", required=False)
@click.option("--out", type=FILE, default=Path("runs"), metavar="DIR")
@click.option("--study", metavar="NAME", help="Name of the run; default the recipe's folder.")
@PLUGIN
@click.option("--weights", type=FILE, metavar="DIR", help="Pretrained weights by name.")
@click.option("--quiet", "-q", is_flag=True)
def train(recipe: Path, source: str | None, quiet: bool, **options: Any) -> None:
    """Train the one configuration of a recipe.toml again, on DATA or on what it was made for."""
    from autotl import engine, study
    from autotl.cli import console

    given = asked(options)
    settings = study.configure_recipe(recipe, source, given)
    with console.view(quiet) as shown, interruptible(shown) as listener:
        result = engine.run(settings, listener)
    if not quiet:
        console.show_summary(result.summary, str(result.folder), [], settings.plugin)
    if result.interrupted:
        sys.exit(130)
