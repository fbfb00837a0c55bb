"""Our tables and their history. Optuna's, in the same database, have a history of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from autotl.errors import StoreError
from autotl.store.migrations import tables

VERSION_TABLE = "autotl_alembic_version"  # Optuna's is alembic_version


def migrate(engine: sa.Engine, place: str) -> None:
    """Bring our tables in the database at ``place`` to the newest schema, in one transaction.

    Raises:
        StoreError: The schema is one that this program does not know.
    """
    settings = config()
    steps = ScriptDirectory.from_config(settings)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        heads = set(context.get_current_heads())
    if newer := heads - {step.revision for step in steps.walk_revisions()}:
        raise StoreError(
            f"the database {place} was made by a newer autotl: its schema is {', '.join(newer)}, "
            f"this program knows {steps.get_current_head()}; upgrade with "
            "'pip install -U autotl', or name another database with --storage"
        )
    if heads == set(steps.get_heads()):
        return  # nothing was written, so that a read-only database can still be reported on
    with tables.write(engine) as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


def config() -> Config:
    """Alembic's settings; ``env.py`` wants the connection to use in ``attributes``."""
    settings = Config()
    settings.set_main_option("script_location", "autotl.store:migrations")
    return settings
