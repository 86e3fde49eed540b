"""The tables. Everything that users have taught is in the feedback log. States and features are computed from it.

A tenant is part of every primary key. Times are Unix seconds. Migrations create what is declared here, which a test
verifies.
"""

from typing import Final

from sqlalchemy import (
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata: Final = MetaData()

_NOT_REPLACED: Final = text("replaced = 0")
_IS_RETRACTION: Final = text("target_event_id IS NOT NULL")
_IS_CHANGING: Final = text("pending IS NOT NULL")

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
    Column("weight", Float, nullable=False),  # product of weight, strength, and the extent of an edit
    # Factor by which a cap or low trust reduced the weight when the event was logged. Learning uses the product.
    Column("discount", Float, nullable=False, server_default="1"),
    Column("flags", String(64)),  # comma-separated reasons for the discount: "capped", "burst"
    Column("groups", Text),  # sizes of a choice's or ranking's tie groups, best first, JSON
    Column("target_event_id", String(128)),  # event that a retraction withdraws
    Column("source", String(64)),
    Column(
        "payload", Text, nullable=False
    ),  # the event as sent, JSON, with a reference to a ranking resolved
    Column("received_at", Float, nullable=False),
    Column("happened_at", Float),  # time that its age counts from; null if that is `received_at`
    # 1 if a later event has the same id, and for the retractions of such an event. Their ids name nothing any more.
    Column("replaced", Integer, nullable=False, server_default="0"),
    Index(
        "feedback_events_by_event_id",
        "tenant",
        "event_id",
        unique=True,
        sqlite_where=_NOT_REPLACED,
        postgresql_where=_NOT_REPLACED,
    ),
    Index(
        "feedback_events_by_target",
        "tenant",
        "target_event_id",
        sqlite_where=_IS_RETRACTION,
        postgresql_where=_IS_RETRACTION,
    ),
    Index("feedback_events_by_age", "tenant", "received_at"),
    sqlite_with_rowid=False,
)

# The texts that an event judged, winner first, as keys of one feature extractor.
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
    # Match features of the text with the event's prompt, float16, little-endian. Null if unknown.
    Column("match", LargeBinary),
    Column("match_version", String(16)),
    Column("prompt_key", LargeBinary(16)),  # the prompt's features; null if it is blank or unknown
    # The keys come first, so that `drop_unneeded` finds them without the tenant.
    Index("judged_items_by_feature", "feature_key", "tenant", "extractor"),
    Index("judged_items_by_prompt", "prompt_key", "tenant", "extractor"),
    sqlite_with_rowid=False,
)

# Features of judged texts and of their prompts, kept while a judgement needs them.
features: Final = Table(
    "features",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("extractor", String(64), primary_key=True),
    Column("feature_key", LargeBinary(16), primary_key=True),
    Column("vector", LargeBinary, nullable=False),  # float16, little-endian; see `pack_features`
    Column("tokens", Integer, nullable=False),
    Column("truncated", Integer, nullable=False),
)

# Users with feedback. Every change to a log raises `version`. A change other than an appended event drops the states.
users: Final = Table(
    "users",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("feedback_events", Integer, nullable=False),  # in the log
    Column("last_seq", Integer, nullable=False),
    Column("information_day", Integer, nullable=False, server_default="0"),  # UTC days since 1970
    Column("information", Float, nullable=False, server_default="0"),  # information counted on that day
    Column("trust", Text),  # JSON; null for the trust of a new user
    Column("updated_at", Float, nullable=False),  # time of the last event
    # A change of the user that is made in several transactions, JSON. Until it is done, the log takes no events.
    Column("pending", Text),
    Index(
        "users_by_pending",
        "tenant",
        "user_id",
        sqlite_where=_IS_CHANGING,
        postgresql_where=_IS_CHANGING,
    ),
    sqlite_with_rowid=False,
)

# What a bundle learned from a user's log up to `through_seq`. This is a cache: later events are read from the log.
user_states: Final = Table(
    "user_states",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("bundle_version", String(128), primary_key=True),
    Column("half_life_days", Float),  # half-life with which it was learned; null for no forgetting
    Column("through_seq", Integer, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("as_of", Float, nullable=False),  # time at which the evidence has its stored weight
    sqlite_with_rowid=False,
)

# Earlier states of users with long logs, from which a log is replayed in part. A cache, like `user_states`.
checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("bundle_version", String(128), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),  # last event that the state covers
    Column("half_life_days", Float),
    Column("state", LargeBinary, nullable=False),
    Column("as_of", Float, nullable=False),
    sqlite_with_rowid=False,
)

# Rankings, so that feedback can refer to them for a day.
rankings: Final = Table(
    "rankings",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("rank_id", String(64), primary_key=True),
    Column("user_id", String(128)),
    Column("shown", LargeBinary, nullable=False),  # JSON {prompts: […], texts: […]}
    Column("created_at", Float, nullable=False),
    # Bytes of `shown`. It is in the indexes because reading it from a row reads all of `shown` before it.
    Column("size", Integer, nullable=False, server_default="0"),
    Index("rankings_by_user", "tenant", "user_id", "size"),
    Index("rankings_by_age", "created_at"),
    Index("rankings_by_size", "tenant", "created_at", "size"),
)

# Answers to requests with an idempotency key.
idempotency: Final = Table(
    "idempotency",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_hash", LargeBinary(16), nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("idempotency_by_age", "created_at"),
)

# The users that a stored answer names. After a merge, an answer that named the merged user names the remaining one, too.
answered_users: Final = Table(
    "answered_users",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("user_id", String(128), primary_key=True),
    Column("key", String(255), primary_key=True),
    ForeignKeyConstraint(["tenant", "key"], ["idempotency.tenant", "idempotency.key"], ondelete="CASCADE"),
    Index("answered_users_by_key", "tenant", "key"),
    sqlite_with_rowid=False,
)

# Facts of this installation, such as the salt of hashed user ids in its logs.
installation: Final = Table(
    "installation",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# API keys. Only the hash of a key is stored.
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

# Settings of single tenants that differ from the server's: retention, whether texts are kept, limits.
tenants: Final = Table(
    "tenants",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("settings", Text, nullable=False),  # JSON object
    Column("updated_at", Float, nullable=False),
)

# Usage of tenants by day, in UTC days since 1970.
tenant_usage: Final = Table(
    "tenant_usage",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(32), primary_key=True),
    Column("amount", Integer, nullable=False),
)

# Bundles that this installation ranks with, has ranked with, or prepares. The tenant is "".
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
    # Events that were learned for it without a match with their prompt, with a part of it, and not at all.
    Column("events_unmatched", Integer, nullable=False, server_default="0"),
    Column("events_partly_matched", Integer, nullable=False, server_default="0"),
    Column("events_left_out", Integer, nullable=False, server_default="0"),
    Column("message", Text, nullable=False, server_default=""),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

# Activations of bundles. The one with the highest number is in force. A rollback adds a row.
activations: Final = Table(
    "activations",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("bundle_version", String(128), nullable=False),
    Column("activated_at", Float, nullable=False),
)

# Changes that other servers of this store must learn of: keys, tenants, bundles, deleted texts. Kept for a day.
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
