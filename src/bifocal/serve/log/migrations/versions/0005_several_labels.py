"""What each of several labels answers, and what is said of each; null in rows of before, of runs of one label."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("decisions", "feedback"):
        op.add_column(table, sa.Column("labels", sa.JSON(), nullable=True))


def downgrade() -> None:
    for table in ("decisions", "feedback"):
        op.drop_column(table, "labels")
