"""The command line: commands parse and print, nothing else. Heavy imports stay inside them."""

from __future__ import annotations

import csv
import glob
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from autotl.errors import AutoTLError, StudyError, did_you_mean


class _Span(click.ParamType[float]):
    """A time span such as ``10m``."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from autotl import study

        try:
            return study.seconds(value)
        except StudyError as error:
            self.fail(str(error), param, ctx)


class _Lines(click.Group):
    """Turns our errors into one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except AutoTLError as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:  # the reader of our output has had enough
            sys.stderr.close()
            sys.exit(0)


CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}
FILE = click.Path(path_type=Path)


@click.group(cls=_Lines, context_settings=CONTEXT)
@click.version_option(package_name="autotl")
def main() -> None:
    """Find the best transfer of a pretrained model to your pictures.

    Start with: autotl search PHOTOS/ --budget 10m
    """
    # Threads that spin while they wait for each other take the time of whoever else computes here,
    # and then wait the longer: beside one busy process, training was 4 times faster without.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def _interruptible(listener: Any) -> Iterator[Any]:
    """A listener that raises a Ctrl-C, or what a scheduler sends instead, at its next event.

    There nothing is half done. Raised where it arrives, it could tear a write to the database, or
    fall into a finaliser, where Python drops it. Whoever asks twice is not kept waiting.
    """
    asked = False

    def interrupted(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def watch(event: Any) -> None:
        nonlocal asked
        listener(event)
        if asked:
            asked = False
            raise KeyboardInterrupt

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupted) for number in signals]
    try:
        yield watch
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@main.command()
@click.argument("source", metavar="DATA|STUDY.toml")
@click.option("--budget", type=_Span(), help="Wall-clock time for everything: 90s, 10m, 1h30m.")
@click.option("--trials", type=int, metavar="N", help="Stop when the study has N trials.")
@click.option("--backbone", multiple=True, metavar="PATTERN", help="timm name or pattern.")
@click.option("--freeze", multiple=True, metavar="NAME", help="Freeze strategies to search.")
@click.option("--head", multiple=True, metavar="NAME", help="Heads to search.")
@click.option("--augment", multiple=True, metavar="NAME", help="Augmentations to search.")
@click.option("--optimizer", multiple=True, metavar="NAME", help="Optimizers to search.")
@click.option("--metric", help="accuracy, balanced_accuracy, macro_f1, auroc or log_loss.")
@click.option("--epochs", type=int, help="Epochs of a trial; fewer where time is short.")
@click.option("--batch-size", type=int, help="Pictures in a training step.")
@click.option("--image-size", type=int, metavar="PIXELS", help="Side; default the backbone's.")
@click.option(
    "--validation",
    type=float,
    metavar="SHARE",
    help="To choose by; default a fifth, more of a small set.",
)
@click.option("--test", type=float, metavar="SHARE", help="Sealed until the end.")
@click.option("--plugin", multiple=True, type=FILE, help="A Python file with plugins.")
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

    given = {k: v for k, v in options.items() if v is not None and v != ()}
    settings = study.configure(source, given)
    from autotl import engine, live, report
    from autotl.store import Store, default_url

    with live.view(quiet) as shown, _interruptible(shown) as watch:
        command = shlex.join(["autotl", *sys.argv[1:]])
        result = engine.run(settings, watch, command=command, began=began)
    if not quiet:
        store = Store(settings.storage or default_url(settings.out))
        live.show_summary(result.summary, str(result.folder), report.top(store, settings.name))
    if result.interrupted:
        click.echo("interrupted; the same command goes on from here", err=True)
        sys.exit(130)


@main.command()
@click.argument("model", type=FILE)
@click.argument("files", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--top", type=click.IntRange(min=1), default=3, help="Classes shown of a picture.")
@click.option("--plugin", multiple=True, type=FILE, help="A Python file with plugins.")
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


@main.command()
@click.argument("recipe", type=FILE)
@click.argument("source", metavar="DATA", required=False)
@click.option("--out", type=FILE, default=Path("runs"), metavar="DIR")
@click.option("--study", metavar="NAME", help="Name of the run; default the recipe's folder.")
@click.option("--plugin", multiple=True, type=FILE, help="A Python file with plugins.")
@click.option("--weights", type=FILE, metavar="DIR", help="Pretrained weights by name.")
@click.option("--quiet", "-q", is_flag=True)
def train(recipe: Path, source: str | None, quiet: bool, **options: Any) -> None:
    """Train the one configuration of a recipe.toml again, on DATA or on what it was made for."""
    from autotl import engine, live, study

    given = {k: v for k, v in options.items() if v is not None and v != ()}
    settings = study.rerun(recipe, source, given)
    with live.view(quiet) as shown, _interruptible(shown) as watch:
        result = engine.run(settings, watch)
    if not quiet:
        live.show_summary(result.summary, str(result.folder), [])
    if result.interrupted:
        sys.exit(130)


@main.group()
def data() -> None:
    """Look at a data set."""


@data.command("check")
@click.argument("source", metavar="DATA")
@click.option("--plugin", multiple=True, type=FILE, help="A Python file with plugins.")
def check_data(source: str, plugin: tuple[Path, ...]) -> None:
    """Open every picture of DATA once and say what is wrong with it."""
    from autotl import data as rooms
    from autotl import registry

    examples = registry.load(plugin).dataset(source).give({"source": source}, {})
    dataset = rooms.check(examples, source)
    for issue in dataset.issues:
        click.echo(f"{issue.name}: {issue.problem} ({issue.action})")
    parts = {part: len(dataset.indices(part)) for part in ("train", "validation", "test")}
    click.echo(
        f"{len(dataset.examples)} pictures of {len(dataset.classes)} classes can be used: "
        + ", ".join(f"{n} {part}" for part, n in parts.items())
    )
    for i, name in enumerate(dataset.classes):
        click.echo(f"  {name}: {int((dataset.labels == i).sum())}")


@main.group()
def plugins() -> None:
    """List what can be searched."""


@plugins.command("list")
@click.option("--plugin", multiple=True, type=FILE, help="A Python file with plugins.")
def list_plugins(plugin: tuple[Path, ...]) -> None:
    """List every plugin: kind, name, what it is, where it comes from."""
    from autotl import registry

    found = registry.load(plugin)
    for p in found:
        lacks = registry.missing(p)
        note = f"  (missing: pip install {' '.join(lacks)})" if lacks else ""
        click.echo(f"{p.kind:9}  {p.name:14}  {p.summary}  [{p.origin}]{note}")
    for broken in found.broken:
        click.echo(f"warning: {broken.name} is left out: {broken.reason}", err=True)


@plugins.command("show")
@click.argument("name")
@click.option("--plugin", multiple=True, type=FILE, help="A Python file with plugins.")
def show_plugin(name: str, plugin: tuple[Path, ...]) -> None:
    """Show all there is to know about the plugins called NAME."""
    import inspect

    from autotl import registry
    from autotl.errors import PluginError

    found = list(registry.load(plugin))
    named = [p for p in found if p.name == name]
    if not named:
        raise PluginError(
            f"no plugin is called {name!r}; {did_you_mean(name, (p.name for p in found))}"
        )
    for p in named:
        click.echo(f"{p.kind} {p.name}, from {p.origin}\n\n{inspect.getdoc(p.function)}\n")
        for h in p.hyperparameters:
            asked = f", asked when {h.when.conditions}" if h.when else ""
            click.echo(f"  {h.name} = {h.default}  searched: {h.space}{asked}")
        for setting, default in p.settings.items():
            click.echo(f"  {setting} = {default}  a setting")


@main.group()
def studies() -> None:
    """List, show and delete studies."""


STORAGE = (
    click.option("--storage", metavar="URL", help="Database; default OUT/autotl.db."),
    click.option("--out", type=FILE, default=Path("runs"), metavar="DIR"),
)


def _stored(command: Any) -> Any:
    for option in reversed(STORAGE):
        command = option(command)
    return command


@contextmanager
def _store(storage: str | None, out: Path) -> Iterator[Any]:
    """The database that is there; a look at it makes none."""
    from autotl.errors import StoreError
    from autotl.store import Store

    if storage is None and not (out / "autotl.db").exists():
        raise StoreError(f"there is no {out / 'autotl.db'}; give --out DIR or --storage URL")
    yield Store(storage or f"sqlite:///{out / 'autotl.db'}")


@studies.command("list")
@_stored
def list_studies(storage: str | None, out: Path) -> None:
    """List the studies in the database."""
    from autotl import report

    with _store(storage, out) as store:
        for name in store.studies():
            summary = report.summarise(store, name)
            best = summary["best"]
            score = f"{summary['metric']} {best['validation']['mean']:.4f}" if best else "no result"
            click.echo(f"{name}  {sum(summary['trials'].values())} trials  {score}")


@studies.command("show")
@click.argument("name")
@_stored
def show_study(name: str, storage: str | None, out: Path) -> None:
    """Show every trial of a study."""
    from autotl import report as reports

    with _store(storage, out) as store:
        store.require(name)
        for row in store.trials(name):
            score = "" if row.score is None else f"{row.score:.4f}"
            line = f"{row.number:4}  {row.end:13} {score:7} {row.seconds:7.1f} s  "
            click.echo(
                line + reports.recipe_line(row.config) + (f"  {row.reason}" * bool(row.reason))
            )


@studies.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_stored
def delete_study(name: str, yes: bool, storage: str | None, out: Path) -> None:
    """Delete a study from the database. Its run folder stays."""
    with _store(storage, out) as store:
        store.require(name)
        if yes or click.confirm(f"delete study {name!r} and its trials?"):
            store.delete(name)
            click.echo(f"deleted {name}; its files are still in {out / name}")


@main.command()
@click.argument("study")
@_stored
def report(study: str, storage: str | None, out: Path) -> None:
    """Write summary.json and report.html of a study again, and show what it found."""
    from autotl import live
    from autotl import report as reports

    with _store(storage, out) as store:
        summary = reports.write(store, study, out / study)
        live.show_summary(summary, str(out / study), reports.top(store, study))


@main.command()
@click.argument("study")
@click.option("--port", type=int, default=8080)
@_stored
def dashboard(study: str, port: int, storage: str | None, out: Path) -> None:
    """Serve Optuna Dashboard with the study, on this machine only."""
    try:
        import optuna_dashboard
    except ImportError:
        raise StudyError("the dashboard is missing: pip install 'autotl[dashboard]'") from None
    with _store(storage, out) as store:
        store.require(study)
        click.echo(f"http://127.0.0.1:{port}/dashboard, until Ctrl-C")
        optuna_dashboard.run_server(store.storage, host="127.0.0.1", port=port)
