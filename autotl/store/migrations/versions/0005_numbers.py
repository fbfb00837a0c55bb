"""Predictions may be numbers, in float32; contributions to the score are float32."""

from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

BYTES = sa.LargeBinary(2**24 - 1)
TRIAL = sa.table(
    "autotl_trial", sa.column("study"), sa.column("number"), sa.column("contributions", BYTES)
)
IMAGE = sa.table("autotl_image", sa.column("probability"))
PREDICTION = sa.table("autotl_prediction", sa.column("number_type"))
RENAMED: dict[str, tuple[str, sa.types.TypeEngine[Any]]] = {
    "classes": ("outputs", sa.Integer()),
    "probabilities": ("predictions", BYTES),
}


def upgrade() -> None:
    _convert_contributions("<f2", "<f4")
    for old, (new, kind) in RENAMED.items():
        _rename(old, new, kind)
    op.add_column(
        "autotl_prediction",
        sa.Column("number_type", sa.String(8), nullable=False, server_default="<f2"),
    )
    with op.batch_alter_table("autotl_image") as image:
        image.alter_column("probability", existing_type=sa.Double(), nullable=True)


def downgrade() -> None:
    """Restore the older columns; predictions of numbers are lost."""
    op.execute(IMAGE.update().where(IMAGE.c.probability.is_(None)).values(probability=0.0))
    with op.batch_alter_table("autotl_image") as image:
        image.alter_column("probability", existing_type=sa.Double(), nullable=False)
    op.execute(PREDICTION.delete().where(PREDICTION.c.number_type != "<f2"))
    op.drop_column("autotl_prediction", "number_type")
    for old, (new, kind) in RENAMED.items():
        _rename(new, old, kind)
    _convert_contributions("<f4", "<f2")


def _rename(old: str, new: str, kind: sa.types.TypeEngine[Any]) -> None:
    op.alter_column(
        "autotl_prediction", old, new_column_name=new, existing_type=kind, existing_nullable=False
    )


def _convert_contributions(old: str, new: str) -> None:
    connection = op.get_bind()
    stored = sa.select(TRIAL).where(TRIAL.c.contributions.is_not(None))
    for study, number, values in connection.execute(stored).all():
        converted = np.frombuffer(values, old).astype(new).tobytes()
        here = TRIAL.c.study == study, TRIAL.c.number == number
        connection.execute(TRIAL.update().where(*here).values(contributions=converted))
