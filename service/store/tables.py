"""The tables. The feedback log is the truth; everything else can be rebuilt from it or expires.

A tenant is part of every primary key. Times are Unix seconds. Migrations create what is declared here; a test
compares.
"""

from typing import Final

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata: Final = MetaData()

# Append-only, except that deleting a user removes the user's rows.
feedback_events: Final = Table(
    "feedback_events",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),  # 1, 2, … per user
    Column("event_id", String(128), nullable=False),
    Column("content_hash", LargeBinary(16), nullable=False),
    Column("type", String(16), nullable=False),
    Column("value", Float),  # vote ±1; rating in [-1, 1]; null for all others
    Column("weight", Float, nullable=False),  # all that scales it: weight, strength, how much an edit changed
    Column("groups", Text),  # sizes of a choice's or ranking's tie groups, best first, JSON
    Column("target_event_id", String(128)),  # what a retraction takes back
    Column("source", String(64)),
    Column(
        "payload", Text, nullable=False
    ),  # the event as sent, JSON, a reference to a ranking being resolved
    Column("received_at", Float, nullable=False),
    Index("feedback_events_by_event_id", "tenant", "event_id", unique=True),
    sqlite_with_rowid=False,
)

# Which texts an event judged, winner first, in the representation of one feature extractor.
judged_items: Final = Table(
    "judged_items",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("extractor", String(64), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("feature_key", LargeBinary(16), nullable=False),
    Column("item_key", LargeBinary(16), nullable=False),
    Index("judged_items_by_feature", "tenant", "extractor", "feature_key"),
    sqlite_with_rowid=False,
)

# Features of judged texts, kept as long as a judgement needs them.
features: Final = Table(
    "features",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("extractor", String(64), primary_key=True),
    Column("feature_key", LargeBinary(16), primary_key=True),
    Column("vector", LargeBinary, nullable=False),  # float16, little-endian
    Column("tokens", Integer, nullable=False),
    Column("truncated", Integer, nullable=False),
)

user_states: Final = Table(
    "user_states",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("feedback_events", Integer, nullable=False),
    Column("bundle_version", String(128), nullable=False),
    Column("half_life_days", Float),  # with which forgetting it was learned; null: none
    Column("state", LargeBinary, nullable=False),
    Column("as_of", Float, nullable=False, server_default="0"),  # when its evidence counts as it stands
    Column("updated_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

# What was shown, so that feedback can refer to it for a day.
rankings: Final = Table(
    "rankings",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("rank_id", String(64), primary_key=True),
    Column("user_id", String(128)),
    Column("shown", LargeBinary, nullable=False),  # JSON {prompts: […], texts: […]}
    Column("created_at", Float, nullable=False),
    Index("rankings_by_user", "tenant", "user_id"),
    Index("rankings_by_age", "created_at"),
)

# Answers to requests that bore an idempotency key.
idempotency: Final = Table(
    "idempotency",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_hash", LargeBinary(16), nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("users", Text, nullable=False),  # JSON list of the users whom the answer names
    Column("created_at", Float, nullable=False),
    Index("idempotency_by_age", "created_at"),
)

# Facts of this installation, such as the salt of hashed user ids in its logs.
installation: Final = Table(
    "installation",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
