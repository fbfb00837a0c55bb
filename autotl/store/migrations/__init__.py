"""AutoTL's tables and their migrations; Optuna migrates its tables in the same database itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from autotl.errors import StoreError
from autotl.store.migrations import tables

VERSION_TABLE = "autotl_alembic_version"  # Optuna's is alembic_version


def migrate(engine: sa.Engine, label: str) -> None:
    """Migrate AutoTL's tables to the newest schema, in one transaction.

    Args:
        engine: The engine of the database.
        label: The database, for messages.

    Raises:
        StoreError: The database has a newer schema than this version of AutoTL.
    """
    settings = config()
    steps = ScriptDirectory.from_config(settings)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        heads = set(context.get_current_heads())
    if newer := heads - {step.revision for step in steps.walk_revisions()}:
        raise StoreError(
            f"the database {label} was created by a newer version of AutoTL: its schema is "
            f"{', '.join(newer)}, this version supports {steps.get_current_head()}; upgrade with "
            "'pip install -U autotl', or choose another database with --storage"
        )
    if heads == set(steps.get_heads()):
        return  # without writing, because the database may be read-only
    with tables.write_transaction(engine) as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


def config() -> Config:
    """Return Alembic's settings; ``env.py`` uses the connection in their ``attributes``."""
    settings = Config()
    settings.set_main_option("script_location", "autotl.store:migrations")
    return settings
