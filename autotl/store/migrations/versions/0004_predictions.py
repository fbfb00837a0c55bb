"""Trials store their predictions for the validation split and their contributions to the score."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

BYTES = sa.LargeBinary(2**24 - 1)


def upgrade() -> None:
    op.add_column("autotl_trial", sa.Column("contributions", BYTES))
    op.create_table(
        "autotl_prediction",
        sa.Column("study", sa.String(512), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("classes", sa.Integer, nullable=False),
        sa.Column("probabilities", BYTES, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("autotl_prediction")
    op.drop_column("autotl_trial", "contributions")
