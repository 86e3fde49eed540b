"""Feedback by its age, for tenants that keep none so old."""

from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds an index."""
    op.create_index("feedback_events_by_age", "feedback_events", ["tenant", "received_at"])


def downgrade() -> None:
    """Drops it."""
    op.drop_index("feedback_events_by_age", "feedback_events")
