"""Several processes may run the trials of a study."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("autotl_trial", sa.Column("worker", sa.Integer))
    op.create_table(
        "autotl_worker",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("host", sa.String(256), nullable=False),
        sa.Column("lock", sa.Text, nullable=False),
        sa.Column("device", sa.String(256), nullable=False),
        sa.Column("began", sa.Double, nullable=False),
        sa.Column("seen", sa.Double, nullable=False),
        sa.Column("ended", sa.Double),
    )
    op.create_table(
        "autotl_lease",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("worker", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("autotl_lease")
    op.drop_table("autotl_worker")
    op.drop_column("autotl_trial", "worker")
