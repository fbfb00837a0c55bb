"""``studies``, ``report`` and ``dashboard``: what has been searched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from autotl.cli.common import FILE
from autotl.errors import StudyError


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


@click.command()
@click.argument("study")
@_stored
def report(study: str, storage: str | None, out: Path) -> None:
    """Write summary.json and report.html of a study again, and show what it found."""
    from autotl import live
    from autotl import report as reports

    with _store(storage, out) as store:
        summary = reports.write(store, study, out / study)
        live.show_summary(summary, str(out / study), reports.top(store, study))


@click.command()
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
