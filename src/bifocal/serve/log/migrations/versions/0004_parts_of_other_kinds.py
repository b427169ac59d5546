"""A column for what is kept of parts that have none of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("originals", sa.Column("parts", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("originals", "parts")
