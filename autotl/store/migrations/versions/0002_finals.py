"""What a trial measured beside its score, and the runs of the finals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("autotl_trial", sa.Column("facts", sa.JSON))
    op.create_table(
        "autotl_final",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("candidate", sa.String(64), primary_key=True),
        sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("trial", sa.Integer),
        sa.Column("score", sa.Double),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("autotl_final")
    op.drop_column("autotl_trial", "facts")
