"""One standing feedback each, claims by a clock that nobody sets, and in what order authors were forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "forgotten",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("client", sa.String(length=100), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_forgotten")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_forgotten_subject", "forgotten", ["subject"], unique=False)
    op.execute(
        "INSERT INTO forgotten (subject, client, at) "
        "SELECT subject, client, max(at) FROM receipts GROUP BY subject, client ORDER BY max(at)"
    )
    op.execute(
        "DELETE FROM feedback WHERE number NOT IN (SELECT max(number) FROM feedback GROUP BY decision_id, client)"
    )
    op.drop_index("ix_feedback_decision_id", table_name="feedback")
    op.create_index("ix_feedback_decision_id", "feedback", ["decision_id", "client"], unique=True)
    # Claims of before end here: the clock that they ran by was each host's own.
    op.add_column("items", sa.Column("lease", sa.Float(), nullable=True))
    op.add_column("items", sa.Column("lease_clock", sa.String(length=36), nullable=True))


def downgrade() -> None:
    op.drop_column("items", "lease_clock")
    op.drop_column("items", "lease")
    op.drop_index("ix_feedback_decision_id", table_name="feedback")
    op.create_index("ix_feedback_decision_id", "feedback", ["decision_id"], unique=False)
    op.drop_index("ix_forgotten_subject", table_name="forgotten")
    op.drop_table("forgotten")
