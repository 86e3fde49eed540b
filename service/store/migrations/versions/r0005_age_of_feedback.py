"""An index of feedback by age, for tenants with a retention limit."""

from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an index."""
    op.create_index("feedback_events_by_age", "feedback_events", ["tenant", "received_at"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("feedback_events_by_age", "feedback_events")
