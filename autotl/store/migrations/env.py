"""The script that Alembic runs to migrate AutoTL's tables, on the connection of ``migrate``."""

from __future__ import annotations

from typing import Any

from alembic import context

from autotl.store import migrations
from autotl.store.migrations import tables


def _is_autotl_table(name: str | None, kind: str, parents: Any) -> bool:
    """Whether Alembic may compare and change an object: not if it is a table of Optuna."""
    return kind != "table" or (name or "").startswith(tables.PREFIX)


def _run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=tables.METADATA,
        version_table=migrations.VERSION_TABLE,
        include_name=_is_autotl_table,
    )
    with context.begin_transaction():
        context.run_migrations()


# Alembic runs this file under another module name. Tools that import it by its own name, such as
# a collector of doctests, have no database to migrate.
if __name__ != "autotl.store.migrations.env":
    _run()
