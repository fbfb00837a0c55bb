"""The ``search`` and ``train`` commands: fine-tune many configurations, or one."""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
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
    STORAGE,
    TASK,
    WEIGHTS,
    Duration,
    device_option,
    given_options,
    interruptible,
)
from autotl.errors import GpuError
from autotl.events import Stage

if TYPE_CHECKING:
    from autotl.engine import Result
    from autotl.study import StudyConfig

OUT = click.option(
    "--out", type=PATH, metavar="DIR", help="Parent folder of the run folders (default: runs)."
)
FOLDS = click.option(
    "--folds",
    type=click.IntRange(2, 20),
    metavar="K",
    help="Number of folds, 2 to 20, of a cross-validation by which trials are scored, "
    "for small data (default: none, a validation split).",
)


@click.command()
@click.argument("data", metavar="DATA|STUDY.toml", type=SOURCE)
@click.option(
    "--budget",
    type=Duration(),
    help="Wall-clock time for the whole search, e.g. 90s, 10m or 1h30m "
    "(default: 10m without --trials, otherwise no limit).",
)
@click.option(
    "--trials",
    type=int,
    metavar="N",
    help="Number of trials after which the search stops (default: no limit).",
)
@click.option(
    "--backbone",
    multiple=True,
    metavar="PATTERN",
    help="Name or glob pattern of timm models, or a set such as @small; repeatable "
    "(default: a set that suits the device and the budget).",
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="NAME",
    help="Freeze strategy to search; repeatable (default: all).",
)
@click.option(
    "--head", multiple=True, metavar="NAME", help="Head to search; repeatable (default: all)."
)
@click.option(
    "--augment",
    multiple=True,
    metavar="NAME",
    help="Augmentation to search; repeatable (default: all).",
)
@click.option(
    "--optimizer",
    multiple=True,
    metavar="NAME",
    help="Optimizer to search; repeatable (default: all).",
)
@click.option(
    "--balance",
    multiple=True,
    metavar="NAME",
    help="Method for unequal class sizes to search; repeatable "
    "(default: all if the classes are unequal, otherwise none).",
)
@click.option(
    "--unlabelled",
    multiple=True,
    metavar="NAME",
    help="Method for unlabelled examples to search; repeatable "
    "(default: all if the data have enough unlabelled examples, otherwise none).",
)
@click.option(
    "--loss",
    multiple=True,
    metavar="NAME",
    help="Loss to search; repeatable (default: that of the task alone).",
)
@TASK
@click.option(
    "--metric",
    metavar="NAME",
    help="Metric to optimize, such as accuracy, balanced_accuracy, macro_f1, auroc or log_loss "
    "(default: that of the task, accuracy for classes).",
)
@click.option(
    "--epochs",
    type=int,
    metavar="N",
    help="Maximum number of epochs of a trial, fewer if time is short (default: 12).",
)
@click.option(
    "--patience",
    type=int,
    metavar="N",
    help="Number of epochs without a better score after which a trial ends early "
    "(default: no limit).",
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Number of images in a training step (default: 32)."
)
@click.option(
    "--ema",
    type=float,
    metavar="DECAY",
    help="Decay of an exponential moving average of the weights, e.g. 0.99 to 0.9999 "
    "(default: 0, no average).",
)
@click.option(
    "--size",
    "--image-size",
    "image_size",
    multiple=True,
    type=int,
    metavar="N",
    help="Size of the inputs: the side of images in pixels, or in the unit of another kind; "
    "several values are searched (default: the backbone's).",
)
@click.option(
    "--in-chans",
    type=int,
    metavar="N",
    help="Number of channels of images: 1 for grey, other numbers for arrays with as many "
    "(default: 3).",
)
@click.option(
    "--max-parameters",
    metavar="N",
    help="Maximum number of backbone parameters, e.g. 500k or 30M (default: no limit).",
)
@click.option(
    "--max-latency",
    metavar="TIME",
    help="Maximum prediction time for one image on this device, e.g. 20ms (default: no limit).",
)
@click.option(
    "--licence",
    multiple=True,
    metavar="NAME",
    help="Allowed licence of pretrained weights, e.g. apache-2.0; repeatable (default: any).",
)
@click.option(
    "--validation",
    type=float,
    metavar="FRACTION",
    help="Fraction of the images for validation (default: 0.2, more for a small data set).",
)
@FOLDS
@click.option(
    "--test",
    type=float,
    metavar="FRACTION",
    help="Fraction of the images for the final test, unused before it (default: 0.2).",
)
@click.option(
    "--prefer",
    type=click.Choice(["accuracy", "cheap"]),
    help="Winner among statistically indistinguishable candidates: the best score, or the "
    "lowest cost of prediction (default: accuracy).",
)
@click.option(
    "--student",
    metavar="NAME",
    help="Backbone of a small model that the winner teaches at the end, which is saved beside it "
    "(default: none).",
)
@click.option(
    "--student-size",
    type=int,
    metavar="N",
    help="Size of the inputs of the student (default: that of the search, or the backbone's).",
)
@click.option(
    "--retest",
    is_flag=True,
    default=None,
    help="Test of a new winner, although the test split was used for an earlier one (default: no).",
)
@click.option(
    "--history/--no-history",
    default=None,
    help="Warm start with the best configurations of similar data sets (default: yes).",
)
@click.option(
    "--learn-from",
    metavar="DIR|FILE|URL",
    help="Database of earlier studies for the warm start (default: the database of this study).",
)
@click.option(
    "--cache-size",
    metavar="SIZE",
    help="Maximum disk space for cached features of frozen layers, e.g. 20GB, or 0 for no cache "
    "(default: 10GB, at most a tenth of the free space).",
)
@DATA_OPTION
@PLUGIN
@click.option("--study", metavar="NAME", help="Name of the study (default: the name of the data).")
@STORAGE
@WEIGHTS
@click.option(
    "--source",
    type=SOURCE,
    metavar="DATA",
    help="Other data on which the weights of the one --backbone are trained first, to be compared "
    "with random and public ones (default: none).",
)
@click.option(
    "--continue-pretraining",
    type=click.Choice(["simclr"]),
    help="Method by which the first pretrained backbone is trained on first, on the training and "
    "unlabelled images without labels, to be compared with its own weights (default: none).",
)
@click.option(
    "--target",
    type=SOURCE,
    metavar="DATA",
    help="Examples of another domain with the same classes, which are those that count: they are "
    "trained on without labels, and score (default: none).",
)
@OUT
@device_option()
@PRECISION
@SEED
@click.option(
    "--isolate",
    is_flag=True,
    help="Search in a process of its own: if it crashes, only the running trial fails "
    "(default: no).",
)
@click.option(
    "--workers",
    default="1",
    metavar="N|auto",
    help="Number of processes that run trials; auto is one for each GPU, or for four CPU cores "
    "(default: 1).",
)
@click.option(
    "--per-gpu",
    type=click.IntRange(1, 16),
    default=1,
    metavar="N",
    help="Number of workers on each GPU with --workers auto (default: 1).",
)
@click.option(
    "--ray",
    metavar="auto|ADDRESS",
    help="Ray cluster that runs the workers; auto is the one of this machine (default: none).",
)
@click.option(
    "--join",
    is_flag=True,
    help="Join the search if another process runs it, and leave a study that is done as it is, "
    "for several machines that run this command (default: no).",
)
@QUIET
def search(data: str, quiet: bool, isolate: bool, **options: Any) -> None:
    """Search for the best transfer configuration for DATA.

    DATA is a folder (class/*.jpg, or train|val|test/class/*), a CSV (path,label[,split][,group]),
    an .npz with MedMNIST's keys, or sklearn:digits. Without --budget and --trials the search
    takes ten minutes. Repeat the command to continue the study.
    """
    began = time.monotonic()  # the budget includes the time to load the libraries
    from autotl import study

    processes = {name: options.pop(name) for name in ("workers", "per_gpu", "ray", "join")}
    if processes["join"] and (isolate or processes["ray"]):
        raise click.UsageError("--join does not go with --isolate or --ray: leave one of them out.")
    settings = study.configure(data, given_options(options))
    if isolate:
        began = _isolate(settings, began)
    command = shlex.join(["autotl", *sys.argv[1:]])
    try:
        result = _run(settings, quiet, command, began, **processes)
    except GpuError as error:
        if isolate:  # the supervisor does what the user is advised to do
            raise GpuError(error.what) from error
        raise
    if not quiet:
        from autotl import report
        from autotl.cli import console
        from autotl.store import Store, default_url

        with closing(Store(settings.storage or default_url(settings.out))) as store:
            trials = report.top(store, settings.name)
        folder = str(result.folder)
        console.show_summary(result.summary, folder, trials, settings.plugin, resumable=True)
    if result.interrupted:
        click.echo("interrupted; repeat the command to continue", err=True)
        sys.exit(130)


def _isolate(settings: StudyConfig, began: float) -> float:
    """Supervise the search in a child process; in the child, return the begin of the budget."""
    from autotl.cli import isolation
    from autotl.search import preflight

    if isolation.is_child():
        return began - isolation.spent_before()
    preflight.check(settings)
    sys.exit(isolation.run(settings, sys.argv[1:], began))


@click.command()
@click.argument("recipe", type=PATH)
@click.argument("source", metavar="[DATA]", required=False, type=SOURCE)
@OUT
@click.option(
    "--study",
    metavar="NAME",
    help="Name of the study (default: that of the recipe's folder with -retrained, or the name of "
    "a recipe that is not called recipe.toml).",
)
@FOLDS
@DATA_OPTION
@PLUGIN
@WEIGHTS
@QUIET
def train(recipe: Path, source: str | None, quiet: bool, **options: Any) -> None:
    """Train the single configuration of RECIPE, on DATA or on the data that RECIPE names."""
    from autotl import study

    settings = study.configure_recipe(recipe, source, given_options(options))
    result = _run(settings, quiet)
    if not quiet:
        from autotl.cli import console

        console.show_summary(result.summary, str(result.folder), [], settings.plugin)
    if result.interrupted:
        sys.exit(130)


def _run(
    settings: StudyConfig,
    quiet: bool,
    command: str = "",
    began: float | None = None,
    *,
    workers: str = "1",
    per_gpu: int = 1,
    ray: str | None = None,
    join: bool = False,
) -> Result:
    """Run the search of ``settings`` and show its progress on the terminal."""
    from autotl.cli import local_workers, progress_view, ray_workers
    from autotl.search import preflight

    # An error is shown at once, and not after torch is loaded.
    preflight.check(settings, may_run=join)
    with ExitStack() as stack:
        view = stack.enter_context(progress_view.show_progress(quiet, settings.name))
        if not ray and (workers != "1" or per_gpu > 1):
            plan = local_workers.plan(settings, workers, per_gpu)
            settings = settings.model_copy(update={"device": plan.devices[0]})
            stack.enter_context(local_workers.start(settings, plan, view))
        listener = stack.enter_context(interruptible(view))
        if ray:
            return ray_workers.run(settings, ray, workers, per_gpu, command, view, listener)
        listener(Stage("loading libraries"))
        from autotl import engine

        run = engine.run_or_join if join else engine.run
        return run(settings, listener, command=command, began=began)
