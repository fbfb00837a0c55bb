"""The first tables: studies, trials, epochs, and each opening of a sealed test part.

The types are spelled out and not taken from ``tables.py``, which goes on changing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "autotl_study",
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("created", sa.DateTime, nullable=False),
        sa.Column("updated", sa.DateTime, nullable=False),
    )
    op.create_table(
        "autotl_trial",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("end", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("epochs", sa.Integer, nullable=False),
        sa.Column("parameters", sa.BigInteger),
        sa.Column("learned_parameters", sa.BigInteger),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("started", sa.DateTime, nullable=False),
    )
    op.create_table(
        "autotl_epoch",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("loss", sa.Double),
        sa.Column("score", sa.Double),
        sa.Column("seconds", sa.Double, nullable=False),
    )
    op.create_table(
        "autotl_test",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("study", sa.String(512), nullable=False, index=True),
        sa.Column("trial", sa.Integer, nullable=False),
        sa.Column("opened", sa.DateTime, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    for table in ("autotl_test", "autotl_epoch", "autotl_trial", "autotl_study"):
        op.drop_table(table)
