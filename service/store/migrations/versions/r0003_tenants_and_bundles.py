"""API keys, tenants and their usage; bundles and their activations; the change feed."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant", sa.String(64), primary_key=True)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "api_keys",
        _tenant(),
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("key_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("name", sa.String(128), nullable=False, server_default=""),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("revoked_at", sa.Float()),
    )
    op.create_index("api_keys_by_id", "api_keys", ["key_id"], unique=True)
    op.create_table(
        "tenants",
        _tenant(),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "tenant_usage",
        _tenant(),
        sa.Column("day", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("amount", sa.Integer(), nullable=False),
    )
    op.create_table(
        "bundles",
        _tenant(),
        sa.Column("bundle_version", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("extractor", sa.String(64), nullable=False),
        sa.Column("archive", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("users_total", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("users_done", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("message", sa.Text(), nullable=False, server_default=""),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "activations",
        _tenant(),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("bundle_version", sa.String(128), nullable=False),
        sa.Column("activated_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "changes",
        _tenant(),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_index("changes_by_number", "changes", ["number"], unique=True)


def downgrade() -> None:
    """Drop the tables, and with them every key."""
    for table in ("changes", "activations", "bundles", "tenant_usage", "tenants", "api_keys"):
        op.drop_table(table)
