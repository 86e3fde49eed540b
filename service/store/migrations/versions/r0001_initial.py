"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "feedback_events",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("event_id", sa.String(128), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(16), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("value", sa.Float()),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("source", sa.String(64)),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_index("feedback_events_by_event_id", "feedback_events", ["tenant", "event_id"], unique=True)
    op.create_table(
        "judged_items",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("extractor", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("feature_key", sa.LargeBinary(16), nullable=False),
        sa.Column("item_key", sa.LargeBinary(16), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id", "seq", "extractor", "position"),
        sqlite_with_rowid=False,
    )
    op.create_index("judged_items_by_feature", "judged_items", ["tenant", "extractor", "feature_key"])
    op.create_table(
        "features",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("extractor", sa.String(64), nullable=False),
        sa.Column("feature_key", sa.LargeBinary(16), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("truncated", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "extractor", "feature_key"),
    )
    op.create_table(
        "user_states",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("feedback_events", sa.Integer(), nullable=False),
        sa.Column("bundle_version", sa.String(128), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rankings",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("rank_id", sa.String(64), nullable=False),
        sa.Column("user_id", sa.String(128)),
        sa.Column("shown", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "rank_id"),
    )
    op.create_index("rankings_by_user", "rankings", ["tenant", "user_id"])
    op.create_index("rankings_by_age", "rankings", ["created_at"])
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("request_hash", sa.LargeBinary(16), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=False),
        sa.Column("users", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key"),
    )
    op.create_index("idempotency_by_age", "idempotency", ["created_at"])
    op.create_table(
        "installation",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name"),
    )


def downgrade() -> None:
    """Drop all tables."""
    for table in (
        "installation",
        "idempotency",
        "rankings",
        "user_states",
        "features",
        "judged_items",
        "feedback_events",
    ):
        op.drop_table(table)
