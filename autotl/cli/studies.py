"""The ``studies``, ``report`` and ``dashboard`` commands: results of earlier searches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autotl.cli.common import PATH, SOURCE, STORAGE

if TYPE_CHECKING:
    from autotl.store import Store

OUT = click.option(
    "--out",
    type=PATH,
    default=Path("runs"),
    metavar="DIR",
    help="Folder that holds the run folders and their database (default: runs).",
)
NOTES_SECONDS = 10.0
"""The maximum time in which ``report`` writes notes for Optuna Dashboard, in seconds."""


@click.group()
def studies() -> None:
    """List, show and delete studies."""


@contextmanager
def _open_store(storage: str | None, out: Path) -> Iterator[Store]:
    """Open an existing database; none is created."""
    from autotl.errors import StoreError
    from autotl.store import Store, default_url, existing_url

    if storage is None and not (out / "autotl.db").exists():
        raise StoreError(f"there is no {out / 'autotl.db'}; give --out DIR or --storage URL")
    store = Store(existing_url(storage or default_url(out)))
    with closing(store), store.convert_errors():
        yield store


@studies.command("list")
@STORAGE
@OUT
def list_studies(storage: str | None, out: Path) -> None:
    """List the studies in the database with their best scores."""
    from autotl import report

    with _open_store(storage, out) as store:
        for name in store.studies():
            summary = report.summarise(store, name)
            best = summary["best"]
            score = "no result"
            if best:
                mean = report.format_score(best["validation"]["mean"], summary["decimals"])
                score = f"{summary['metric']} {mean}"
            click.echo(f"{name}  {sum(summary['trials'].values())} trials  {score}")


@studies.command("show")
@click.argument("name", type=SOURCE)
@STORAGE
@OUT
def show_study(name: str, storage: str | None, out: Path) -> None:
    """Show every trial of a study with its status, and the cost of each backbone."""
    from autotl.cli import console

    with _open_store(storage, out) as store:
        console.show_trials(store.study(name), store.trials(name))


@studies.command("delete")
@click.argument("name", type=SOURCE)
@click.option(
    "--yes", is_flag=True, help="Deletion without confirmation (default: confirmation first)."
)
@STORAGE
@OUT
def delete_study(name: str, yes: bool, storage: str | None, out: Path) -> None:
    """Delete a study from the database. Its run folder stays."""
    from autotl.errors import StudyError
    from autotl.store import living

    with _open_store(storage, out) as store:
        store.study(name)
        with store.lock(name, out / name, "stop it before you delete the study"):
            if workers := living(store, name):
                where = f"worker {workers[0].number} on {workers[0].host}"
                raise StudyError(f"study {name!r} is being run by {where}; stop it first")
            if not (
                yes or click.confirm(f"delete study {name!r} and its trials from {store.url}?")
            ):
                return
            store.delete(name)
            store.lock_file(name, out / name).unlink(missing_ok=True)
            click.echo(f"deleted {name}; its files are still in {out / name}")


@click.command()
@click.argument("study", type=SOURCE)
@STORAGE
@OUT
def report(study: str, storage: str | None, out: Path) -> None:
    """Rewrite summary.json and report.html of a study, and print its result."""
    from autotl import report as reports
    from autotl.cli import console
    from autotl.report import dashboard
    from autotl.study import check_places

    with _open_store(storage, out) as store:
        check_places(out / study, store.study(study).data.source)
        summary = reports.write(store, study, out / study)
        dashboard.annotate(store, study, out / study, within=NOTES_SECONDS)
        console.show_summary(summary, str(out / study), reports.top(store, study))


@click.command("dashboard")
@click.argument("study", type=SOURCE)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8080,
    metavar="N",
    help="Port of the web server on this machine (default: 8080).",
)
@STORAGE
@OUT
def dashboard_command(study: str, port: int, storage: str | None, out: Path) -> None:
    """Serve Optuna Dashboard for a study, with notes, on this machine only."""
    from autotl.report import dashboard

    with _open_store(storage, out) as store:
        dashboard.serve(store, study, out / study, port, click.echo)
