"""Choices, rankings, edits and retractions in the log; forgetting in the states."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, and mark all states as outdated because their form has changed."""
    op.add_column("feedback_events", sa.Column("groups", sa.Text()))
    op.add_column("feedback_events", sa.Column("target_event_id", sa.String(128)))
    op.add_column("user_states", sa.Column("half_life_days", sa.Float()))
    op.add_column("user_states", sa.Column("as_of", sa.Float(), nullable=False, server_default="0"))
    op.execute("UPDATE user_states SET bundle_version = ''")


def downgrade() -> None:
    """Drop the columns, and with them their data of logged events."""
    for table, column in (
        ("user_states", "as_of"),
        ("user_states", "half_life_days"),
        ("feedback_events", "target_event_id"),
        ("feedback_events", "groups"),
    ):
        op.drop_column(table, column)
