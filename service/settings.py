"""Everything that can be configured, in one place. Read once, at start; every limit names its unit."""

from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_TENANT: Final = "default"

# Names that rerank clients send unasked; all of them mean the loaded bundle.
CLIENT_MODEL_NAMES: Final = (
    "penchant",
    "rerank-v4.0-pro",
    "rerank-v4.0-fast",
    "rerank-v3.5",
    "rerank-english-v3.0",
    "rerank-multilingual-v3.0",
    "rerank-english-v2.0",
    "rerank-multilingual-v2.0",
    "jina-reranker-v3",
    "jina-reranker-v2-base-multilingual",
    "jina-reranker-v1-base-en",
    "jina-reranker-m0",
    "BAAI/bge-reranker-large",
    "BAAI/bge-reranker-base",
    "BAAI/bge-reranker-v2-m3",
)


class Settings(BaseSettings):
    """Settings of one server; each is read from `PENCHANT_` + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="PENCHANT_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # it may be a key, or an address with a password
    )

    # Where it listens and what it keeps.
    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, le=65535)
    data_dir: Path = Path(".penchant")
    store_url: SecretStr | None = Field(
        default=None, description="postgresql://user:password@host/database, which several servers may share"
    )
    store_readers: int = Field(default=4, gt=0, description="threads and connections that read the store")
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    tracing: bool | None = Field(
        default=None, description="send traces by OTLP; None: where OTEL_EXPORTER_OTLP_ENDPOINT is set"
    )

    # Who may call. With no key at all every caller is the tenant `default`.
    api_key: SecretStr | None = None
    api_keys: dict[str, SecretStr] = Field(default_factory=dict, description="tenant → key, as a JSON object")
    allow_open: bool = Field(default=False, description="serve beyond loopback without a key")

    # What it ranks with; None takes the shipped bundle, and the encoder that the bundle names.
    bundle: Path | None = None
    encoder: str | None = None
    encoder_device: str = "auto"
    encoder_backend: Literal["auto", "torch", "openvino"] = "auto"
    encoder_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    encoder_threads: int | None = Field(default=None, gt=0, description="cores; None: all that it may use")
    model_aliases: tuple[str, ...] = CLIENT_MODEL_NAMES

    # What a caller may send.
    max_body_bytes: int = Field(default=8 * 2**20, gt=0)
    max_candidates: int = Field(default=1000, gt=0)
    max_scores: int = Field(default=100_000, gt=0, description="texts × users of a request")
    max_text_chars: int = Field(default=1_000_000, gt=0)
    max_events: int = Field(default=100, gt=0)
    max_event_texts: int = Field(default=50, ge=2, description="texts in one choice or ranking")
    max_feedback_texts: int = Field(default=1000, gt=0, description="judged by all events of a request")
    max_edit_chars: int = Field(default=100_000, gt=0, description="in each of an edit's two texts")
    max_metadata_bytes: int = Field(default=4096, gt=0)
    max_page_items: int = Field(default=100, gt=0)
    body_timeout_seconds: float = Field(default=30.0, gt=0)
    request_timeout_seconds: float = Field(
        default=60.0, gt=0, description="from its first byte to its answer"
    )

    # What a tenant may use; None: as much as it likes. `penchant tenants set` says otherwise for one tenant.
    tenant_requests_per_minute: int | None = Field(default=None, gt=0)
    key_requests_per_minute: int | None = Field(default=None, gt=0, description="for each key of a tenant")
    tenant_candidates_per_day: int | None = Field(default=None, gt=0)
    tenant_events_per_day: int | None = Field(default=None, gt=0)
    tenant_users: int | None = Field(default=None, gt=0, description="users with feedback")

    # How much of one user's feedback is believed; `trust` says what follows.
    max_daily_information: float | None = Field(
        default=300.0,
        gt=0,
        allow_inf_nan=False,
        description="judgement weights learned of a user per UTC day; more is logged, and learned no more",
    )
    burst_events: int = Field(default=250, gt=0, description="judgements of a user that may come at once")
    sustained_events_per_minute: float = Field(
        default=30.0, gt=0, allow_inf_nan=False, description="of a user, for however long"
    )

    # What the server holds.
    max_queued_texts: int = Field(default=2048, gt=0)
    max_queue_seconds: float = Field(
        default=4.0, gt=0, description="that a text may wait for the encoder, or its request is refused"
    )
    max_batch_texts: int = Field(default=1024, gt=0)
    max_batch_tokens: int = Field(default=65_536, gt=0)
    batch_seconds: float = Field(
        default=0.1, gt=0, description="that a batch is to take: as long may a newcomer wait for its turn"
    )
    max_queued_events: int = Field(default=4096, gt=0)
    max_group_events: int = Field(default=256, gt=0)
    max_queued_rankings: int = Field(default=10_000, gt=0)
    feature_cache_bytes: int = Field(default=128 * 2**20, ge=0)
    item_cache_bytes: int = Field(default=64 * 2**20, ge=0)
    ranking_cache_bytes: int = Field(default=32 * 2**20, ge=0)
    max_cached_users: int = Field(default=50_000, gt=0)

    # How long things last.
    forgetting_half_life_days: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="after so long a judgement counts half; None: it counts for ever",
    )
    rank_ttl_hours: float = Field(default=24.0, gt=0)
    idempotency_ttl_hours: float = Field(default=24.0, gt=0)
    expiry_interval_seconds: float = Field(default=600.0, gt=0)
    change_poll_seconds: float = Field(
        default=1.0, gt=0, description="how soon it hears of other servers and of commands"
    )
    ranking_write_delay_seconds: float = Field(default=0.1, ge=0)
    keep_alive_seconds: int = Field(default=75, gt=0)
    shutdown_timeout_seconds: int = Field(default=30, gt=0)
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="told to stop, it first fails /readyz for so long and goes on serving, for load balancers",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("store_url")
    @classmethod
    def _postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("postgresql://", "postgresql+psycopg://")
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise ValueError(
                "the store's address begins with postgresql:// (without one it is a file in data_dir)"
            )
        return value

    @field_validator("api_key")
    @classmethod
    def _not_blank(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("an API key must not be blank")
        return value

    @field_validator("api_keys")
    @classmethod
    def _named_and_not_blank(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for tenant, key in value.items():
            if not 1 <= len(tenant) <= 64 or not key.get_secret_value().strip():
                raise ValueError(
                    "API keys are a JSON object from tenant (1 to 64 characters) to a key that is not blank"
                )
        return value

    def tenant_keys(self) -> dict[str, str]:
        """Tenant → key of all that may call; empty means open."""
        keys = {tenant: key.get_secret_value() for tenant, key in self.api_keys.items()}
        if self.api_key is not None:
            keys[DEFAULT_TENANT] = self.api_key.get_secret_value()
        return keys

    def is_loopback(self) -> bool:
        """Whether `host` can be reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
