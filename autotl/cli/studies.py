"""``studies``, ``report`` and ``dashboard``: what has been searched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from autotl.cli.common import FILE


@click.group()
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
    from autotl.store import Store, default_url, existing_url

    if storage is None and not (out / "autotl.db").exists():
        raise StoreError(f"there is no {out / 'autotl.db'}; give --out DIR or --storage URL")
    yield Store(existing_url(storage or default_url(out)))


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
    """Show every trial of a study and why it ended, and what each backbone costs."""
    from autotl.cli import console

    with _store(storage, out) as store:
        console.show_trials(store.require(name).get("metric", "score"), store.trials(name))


@studies.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_stored
def delete_study(name: str, yes: bool, storage: str | None, out: Path) -> None:
    """Delete a study from the database. Its run folder stays."""
    from autotl.report import dashboard as pages

    with _store(storage, out) as store:
        store.require(name)
        if yes or click.confirm(f"delete study {name!r} and its trials from {store.url}?"):
            pages.forget(store, name, out / name)
            store.delete(name)
            click.echo(f"deleted {name}; its files are still in {out / name}")


@click.command()
@click.argument("study")
@_stored
def report(study: str, storage: str | None, out: Path) -> None:
    """Write summary.json and report.html of a study again, and show what it found."""
    from autotl import report as reports
    from autotl.cli import console
    from autotl.report import dashboard as pages

    with _store(storage, out) as store:
        summary = reports.write(store, study, out / study)
        pages.annotate(store, study, out / study, within=10.0)
        console.show_summary(summary, str(out / study), reports.top(store, study))


@click.command()
@click.argument("study")
@click.option("--port", type=click.IntRange(1, 65535), default=8080)
@_stored
def dashboard(study: str, port: int, storage: str | None, out: Path) -> None:
    """Serve Optuna Dashboard with the study, its notes and pictures, on this machine only."""
    from autotl.report import dashboard as pages

    with _store(storage, out) as store:
        pages.serve(store, study, out / study, port, click.echo)
