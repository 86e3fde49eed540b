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
    # What a cap, or little trust, left of the weight when it was logged; learning takes the product.
    Column("discount", Float, nullable=False, server_default="1"),
    Column("flags", String(64)),  # why: "capped", "burst", comma-separated
    Column("groups", Text),  # sizes of a choice's or ranking's tie groups, best first, JSON
    Column("target_event_id", String(128)),  # what a retraction takes back
    Column("source", String(64)),
    Column(
        "payload", Text, nullable=False
    ),  # the event as sent, JSON, a reference to a ranking being resolved
    Column("received_at", Float, nullable=False),
    Index("feedback_events_by_event_id", "tenant", "event_id", unique=True),
    Index("feedback_events_by_age", "tenant", "received_at"),
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

# Where a user's log stands. Whatever changes a log changes `version`; other than by adding events: drops the states too.
users: Final = Table(
    "users",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("feedback_events", Integer, nullable=False),  # in the log
    Column("last_seq", Integer, nullable=False),
    Column("information_day", Integer, nullable=False, server_default="0"),  # days since 1970, UTC
    Column("information", Float, nullable=False, server_default="0"),  # what the log told on that day
    Column("trust", Text),  # JSON; null: as of a new user
    Column("updated_at", Float, nullable=False),  # of the last event
    sqlite_with_rowid=False,
)

# What a bundle makes of a user's log up to `through_seq`. A cache: who needs more reads on in the log.
user_states: Final = Table(
    "user_states",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("bundle_version", String(128), primary_key=True),
    Column("half_life_days", Float),  # with which forgetting it was learned; null: none
    Column("through_seq", Integer, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("as_of", Float, nullable=False),  # when its evidence counts as it stands
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

# Who may call: what is presented is hashed and compared; the key itself is nowhere.
api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key_id", String(32), primary_key=True),  # public part of the key
    Column("key_hash", LargeBinary(32), nullable=False),
    Column("scopes", Text, nullable=False),  # JSON list
    Column("name", String(128), nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Index("api_keys_by_id", "key_id", unique=True),
)

# What differs from the server's settings for one tenant: retention, texts kept or not, limits.
tenants: Final = Table(
    "tenants",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("settings", Text, nullable=False),  # JSON object
    Column("updated_at", Float, nullable=False),
)

# What tenants used, by day (days since 1970, UTC).
tenant_usage: Final = Table(
    "tenant_usage",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(32), primary_key=True),
    Column("amount", Integer, nullable=False),
)

# Bundles that this installation ranks with, has ranked with, or makes ready to; tenant is "", for all.
bundles: Final = Table(
    "bundles",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("bundle_version", String(128), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("extractor", String(64), nullable=False),
    Column("archive", LargeBinary, nullable=False),  # its folder, as an uncompressed tar
    Column("status", String(16), nullable=False),  # preparing, ready, failed
    Column("users_total", Integer, nullable=False, server_default="0"),
    Column("users_done", Integer, nullable=False, server_default="0"),
    Column("message", Text, nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

# Which bundle ranks since when; the newest number holds. Going back is one more row.
activations: Final = Table(
    "activations",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("bundle_version", String(128), nullable=False),
    Column("activated_at", Float, nullable=False),
)

# What other servers of this store must hear of: keys, tenants, bundles, texts to be forgotten. Kept for a day.
changes: Final = Table(
    "changes",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # one sequence for all tenants
    Column("kind", String(16), nullable=False),
    Column("detail", Text, nullable=False),  # JSON; never a user's id
    Column("created_at", Float, nullable=False),
    Index("changes_by_number", "number", unique=True),
)
