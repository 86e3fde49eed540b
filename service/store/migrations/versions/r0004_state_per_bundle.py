"""Users apart from the states that bundles learn; the discount of an event's weight."""

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Copy users and usable states. Other states are learned again from the log when they are needed."""
    op.add_column("feedback_events", sa.Column("discount", sa.Float(), nullable=False, server_default="1"))
    op.add_column("feedback_events", sa.Column("flags", sa.String(64)))
    op.create_table(
        "users",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("feedback_events", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("information_day", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("information", sa.Float(), nullable=False, server_default="0"),
        sa.Column("trust", sa.Text()),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO users (tenant, user_id, version, feedback_events, last_seq, updated_at)"
        " SELECT tenant, user_id, version, feedback_events, feedback_events, updated_at FROM user_states"
    )
    op.create_table(
        "user_states_by_bundle",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(128), primary_key=True),
        sa.Column("bundle_version", sa.String(128), primary_key=True),
        sa.Column("half_life_days", sa.Float()),
        sa.Column("through_seq", sa.Integer(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("as_of", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO user_states_by_bundle"
        " (tenant, user_id, bundle_version, half_life_days, through_seq, state, as_of)"
        " SELECT tenant, user_id, bundle_version, half_life_days, feedback_events, state, as_of"
        " FROM user_states WHERE bundle_version <> ''"
    )
    op.drop_table("user_states")
    op.rename_table("user_states_by_bundle", "user_states")


def downgrade() -> None:
    """Empty all states, which the next start learns from the log. Discounted events count in full again."""
    op.create_table(
        "user_states_of_one_bundle",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(128), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("feedback_events", sa.Integer(), nullable=False),
        sa.Column("bundle_version", sa.String(128), nullable=False),
        sa.Column("half_life_days", sa.Float()),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("as_of", sa.Float(), nullable=False, server_default="0"),
        sa.Column("updated_at", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "INSERT INTO user_states_of_one_bundle"
            " (tenant, user_id, version, feedback_events, bundle_version, state, updated_at)"
            " SELECT tenant, user_id, version, last_seq, '', :nothing, updated_at FROM users"
        ).bindparams(sa.bindparam("nothing", b"", type_=sa.LargeBinary()))
    )
    op.drop_table("user_states")
    op.rename_table("user_states_of_one_bundle", "user_states")
    op.drop_table("users")
    op.drop_column("feedback_events", "flags")
    op.drop_column("feedback_events", "discount")
