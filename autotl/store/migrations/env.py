"""What Alembic runs to migrate our tables, on the connection that ``migrate`` hands it."""

from __future__ import annotations

from typing import Any

from alembic import context

from autotl.store import migrations
from autotl.store.migrations import tables


def _ours(name: str | None, kind: str, parents: Any) -> bool:
    """Keeps Alembic's eyes off Optuna's tables."""
    return kind != "table" or (name or "").startswith(tables.PREFIX)


def _run() -> None:
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=tables.METADATA,
        version_table=migrations.VERSION_TABLE,
        include_name=_ours,
    )
    with context.begin_transaction():
        context.run_migrations()


# Alembic runs this file by its path, under a name of its own. Whoever imports it by its name (a
# collector of doctests, a documentation tool) has no database to migrate.
if __name__ != "autotl.store.migrations.env":
    _run()
