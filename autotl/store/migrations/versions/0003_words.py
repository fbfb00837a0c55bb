"""Columns of trials get the names that Optuna and the literature use."""

from alembic import op

revision = "0003"
down_revision = "0002"

RENAMED = {"end": "status", "learned_parameters": "trained_parameters"}


def upgrade() -> None:
    for old, new in RENAMED.items():
        op.alter_column("autotl_trial", old, new_column_name=new)


def downgrade() -> None:
    for old, new in RENAMED.items():
        op.alter_column("autotl_trial", new, new_column_name=old)
