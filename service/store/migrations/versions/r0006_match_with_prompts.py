"""The match of judged texts with their prompts, and the events that a bundle learned without it."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None

_COUNTS = ("events_unmatched", "events_partly_matched", "events_left_out")


def upgrade() -> None:
    """Add columns and an index. The match of logged judgements is computed when a bundle needs it."""
    op.add_column("judged_items", sa.Column("match", sa.LargeBinary()))
    op.add_column("judged_items", sa.Column("match_version", sa.String(16)))
    op.add_column("judged_items", sa.Column("prompt_key", sa.LargeBinary(16)))
    op.create_index("judged_items_by_prompt", "judged_items", ["tenant", "extractor", "prompt_key"])
    for name in _COUNTS:
        op.add_column("bundles", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop the columns and the index. The features of prompts go as well, because nothing would delete them later."""
    for name in reversed(_COUNTS):
        op.drop_column("bundles", name)
    op.drop_index("judged_items_by_prompt", "judged_items")
    op.execute(
        "DELETE FROM features WHERE NOT EXISTS (SELECT 1 FROM judged_items WHERE"
        " judged_items.tenant = features.tenant AND judged_items.extractor = features.extractor"
        " AND judged_items.feature_key = features.feature_key)"
    )
    for name in ("prompt_key", "match_version", "match"):
        op.drop_column("judged_items", name)
