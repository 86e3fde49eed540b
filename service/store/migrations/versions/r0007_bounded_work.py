"""What keeps every piece of work short: checkpoints, and indexes for what is deleted by. Ids that may be used again.

- The time that an event's age counts from, which may be earlier than its arrival.
- Ids of events are unique among the events that no later event has replaced.
- Checkpoints of users' states, from which a log is replayed in part. All states are learned again once.
- Which users a stored answer names, in a table with a key instead of a list that must be searched.
- The size of each ranking, for a tenant's quota.
- Changes of a user that are made in several transactions.
- Indexes of judged texts that start with the key.
"""

import orjson
import sqlalchemy as sa
from alembic import op

from penchant.service.timestamps import parse_rfc3339

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None

_ROWS_AT_ONCE = 1000
_KEYS = {"judged_items_by_feature": "feature_key", "judged_items_by_prompt": "prompt_key"}
_NOT_REPLACED = sa.text("replaced = 0")
_IS_RETRACTION = sa.text("target_event_id IS NOT NULL")
_IS_CHANGING = sa.text("pending IS NOT NULL")
_LIST_USERS = {
    "sqlite": "INSERT INTO answered_users (tenant, user_id, key)"
    " SELECT DISTINCT idempotency.tenant, u.value, idempotency.key FROM idempotency, json_each(users) AS u",
    "postgresql": "INSERT INTO answered_users (tenant, user_id, key)"
    " SELECT DISTINCT idempotency.tenant, u.value, idempotency.key"
    " FROM idempotency, json_array_elements_text(CAST(users AS json)) AS u(value)",
}
_JOIN_USERS = {
    "sqlite": "UPDATE idempotency SET users = coalesce((SELECT json_group_array(user_id) FROM answered_users AS a"
    " WHERE a.tenant = idempotency.tenant AND a.key = idempotency.key), '[]')",
    "postgresql": "UPDATE idempotency SET users = coalesce((SELECT CAST(json_agg(user_id) AS text)"
    " FROM answered_users AS a WHERE a.tenant = idempotency.tenant AND a.key = idempotency.key), '[]')",
}


def upgrade() -> None:
    """Add the columns, tables and indexes, and fill them from what is stored."""
    for name, key in _KEYS.items():
        op.drop_index(name, "judged_items")
        op.create_index(name, "judged_items", [key, "tenant", "extractor"])
    op.add_column("feedback_events", sa.Column("happened_at", sa.Float()))
    op.add_column("feedback_events", sa.Column("replaced", sa.Integer(), nullable=False, server_default="0"))
    op.drop_index("feedback_events_by_event_id", "feedback_events")
    op.create_index(
        "feedback_events_by_event_id",
        "feedback_events",
        ["tenant", "event_id"],
        unique=True,
        sqlite_where=_NOT_REPLACED,
        postgresql_where=_NOT_REPLACED,
    )
    op.create_index(
        "feedback_events_by_target",
        "feedback_events",
        ["tenant", "target_event_id"],
        sqlite_where=_IS_RETRACTION,
        postgresql_where=_IS_RETRACTION,
    )
    _read_timestamps()
    # Ages count from another time, and texts are described with other rounding. States are learned again from the log.
    op.execute("DELETE FROM user_states")
    op.create_table(
        "checkpoints",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(128), primary_key=True),
        sa.Column("bundle_version", sa.String(128), primary_key=True),
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("half_life_days", sa.Float()),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("as_of", sa.Float(), nullable=False),
        sqlite_with_rowid=False,
    )
    _list_users_of_answers()
    op.add_column("rankings", sa.Column("size", sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE rankings SET size = length(shown)")
    op.create_index("rankings_by_size", "rankings", ["tenant", "created_at", "size"])
    op.drop_index("rankings_by_user", "rankings")
    op.create_index("rankings_by_user", "rankings", ["tenant", "user_id", "size"])
    op.add_column("users", sa.Column("pending", sa.Text()))
    op.create_index(
        "users_by_pending",
        "users",
        ["tenant", "user_id"],
        sqlite_where=_IS_CHANGING,
        postgresql_where=_IS_CHANGING,
    )


def _read_timestamps() -> None:
    """Fill `happened_at` from the events' own timestamps."""
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            "SELECT tenant, user_id, seq, payload, received_at FROM feedback_events"
            " WHERE payload LIKE '%\"timestamp\"%'"
        )
    )
    update = sa.text(
        "UPDATE feedback_events SET happened_at = :at"
        " WHERE tenant = :tenant AND user_id = :user AND seq = :seq"
    )
    while some := rows.fetchmany(_ROWS_AT_ONCE):
        older = []
        for row in some:
            sent = orjson.loads(row.payload).get("timestamp")
            at = None if sent is None else parse_rfc3339(sent).timestamp()
            if at is not None and at < row.received_at:
                older.append({"tenant": row.tenant, "user": row.user_id, "seq": row.seq, "at": at})
        if older:
            connection.execute(update, older)


def _list_users_of_answers() -> None:
    """Create `answered_users`, and move the lists of `idempotency.users` into it."""
    op.create_table(
        "answered_users",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("user_id", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.ForeignKeyConstraint(
            ["tenant", "key"], ["idempotency.tenant", "idempotency.key"], ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("answered_users_by_key", "answered_users", ["tenant", "key"])
    op.execute(_LIST_USERS[op.get_bind().dialect.name])
    op.drop_column("idempotency", "users")


def downgrade() -> None:
    """Drop all of it. Events whose ids were used again get new ids, because ids were unique before."""
    op.drop_index("users_by_pending", "users")
    op.drop_column("users", "pending")
    op.drop_index("rankings_by_user", "rankings")
    op.create_index("rankings_by_user", "rankings", ["tenant", "user_id"])
    op.drop_index("rankings_by_size", "rankings")
    op.drop_column("rankings", "size")
    op.add_column("idempotency", sa.Column("users", sa.Text(), nullable=False, server_default="[]"))
    op.execute(_JOIN_USERS[op.get_bind().dialect.name])
    op.drop_table("answered_users")
    op.drop_table("checkpoints")
    op.drop_index("feedback_events_by_target", "feedback_events")
    op.drop_index("feedback_events_by_event_id", "feedback_events")
    _make_ids_unique()
    op.create_index("feedback_events_by_event_id", "feedback_events", ["tenant", "event_id"], unique=True)
    op.drop_column("feedback_events", "replaced")
    op.drop_column("feedback_events", "happened_at")
    for name, key in _KEYS.items():
        op.drop_index(name, "judged_items")
        op.create_index(name, "judged_items", ["tenant", "extractor", key])


def _make_ids_unique() -> None:
    """Give each replaced event, and what retracts it, an id of its own."""
    connection = op.get_bind()
    replaced = connection.execute(
        sa.text(
            "SELECT tenant, user_id, seq, event_id, target_event_id FROM feedback_events"
            " WHERE replaced = 1 ORDER BY tenant, user_id, seq"
        )
    ).all()
    rename = sa.text(
        "UPDATE feedback_events SET event_id = :id, target_event_id = :target"
        " WHERE tenant = :tenant AND user_id = :user AND seq = :seq"
    )
    renamed: dict[tuple[str, str, str], str] = {}  # a retraction follows what it retracts
    for row in replaced:
        name = f"replaced_{row.seq}_{row.event_id}"[:128]
        target = renamed.get((row.tenant, row.user_id, row.target_event_id or ""), row.target_event_id)
        renamed[row.tenant, row.user_id, row.event_id] = name
        parameters = {"tenant": row.tenant, "user": row.user_id, "seq": row.seq}
        connection.execute(rename, parameters | {"id": name, "target": target})
