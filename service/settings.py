"""All settings of the server. They are read at start, and every limit has its unit in its name."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableSettingError

DEFAULT_TENANT: Final = "default"

# Names that rerank clients send by default. All of them stand for the loaded bundle.
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
    """Settings of a server. Each is read from the environment variable `PENCHANT_` + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix="PENCHANT_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # the input may be a key, or an address with a password
    )

    # Address, data and logs.
    host: str = "127.0.0.1"
    port: int = Field(default=8642, ge=0, le=65535)
    data_dir: Path = Path(".penchant")
    store_url: SecretStr | None = Field(
        default=None,
        description="Database: postgresql://user:password@host/database. Several servers can share it.",
    )
    store_readers: int = Field(default=4, gt=0, description="Threads, and connections, that read the store.")
    store_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest wait for an answer of PostgreSQL, or for another process that writes to SQLite.",
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    tracing: bool | None = Field(
        default=None, description="Send traces by OTLP. None: only if OTEL_EXPORTER_OTLP_ENDPOINT is set."
    )

    # API keys. Without any key, every caller is the tenant `default`.
    api_key: SecretStr | None = None
    api_keys: dict[str, SecretStr] = Field(
        default_factory=dict, description="Keys by tenant, as a JSON object."
    )
    allow_open: bool = Field(
        default=False, description="Allow serving without a key on an address other than loopback."
    )

    # The model. `bundle` None: the active or shipped bundle; `encoder` None: the encoder that the bundle names.
    bundle: Path | None = None
    encoder: str | None = None
    encoder_device: str = "auto"
    encoder_backend: Literal["auto", "torch", "openvino"] = "auto"
    encoder_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    encoder_threads: int | None = Field(
        default=None, gt=0, description="Cores of the encoder. None: all that are available."
    )
    model_aliases: tuple[str, ...] = CLIENT_MODEL_NAMES

    # Rankings.
    personalization: float = Field(
        default=1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Strength of personalization of requests that set none: 0 is the population, 1 the user.",
    )

    # The signal `relevance`: scores of a cross-encoder, as a declared part of every text's utility.
    relevance_model: str | None = Field(
        default=None,
        min_length=1,
        description="Cross-encoder, by folder or by name on the Hugging Face hub. None: no such signal.",
    )
    relevance_mean: float = Field(
        default=0.0, allow_inf_nan=False, description="Score of an ordinary answer, which adds nothing."
    )
    relevance_std: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="Standard deviation of the scores of answers."
    )
    relevance_weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="Utility (logits) of one standard deviation."
    )

    # Limits of connections, which hold before any key is checked.
    max_connections: int = Field(
        default=2000, gt=0, description="Open connections. Fewer, if the process may not open so many files."
    )
    max_connections_per_peer: int = Field(
        default=512,
        ge=0,
        description="Open connections of one address, or of one /64 network of IPv6. 0: no limit of their own.",
    )
    max_header_bytes: int = Field(
        default=64 * 2**10, ge=1024, description="Request line and all headers of a request together."
    )
    first_byte_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Time from the opening of a connection to its first byte."
    )
    header_timeout_seconds: float = Field(
        default=10.0, gt=0, description="Time from the first byte of a request to the end of its headers."
    )
    answer_read_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Time in which a client must take the next 64 KiB of its answer."
    )

    # Limits of a request.
    max_body_bytes: int = Field(default=8 * 2**20, gt=0)
    max_body_values: int = Field(
        default=200_000, gt=0, description="JSON values of a body: texts, numbers, lists, objects and so on."
    )
    max_body_depth: int = Field(
        default=64, ge=4, le=200, description="Lists and objects of a body within each other."
    )
    max_candidates: int = Field(default=1000, gt=0)
    max_scores: int = Field(default=100_000, gt=0, description="Texts × users of a request.")
    max_text_chars: int = Field(default=1_000_000, gt=0)
    max_events: int = Field(default=100, gt=0)
    max_event_texts: int = Field(default=50, ge=2, description="Texts in one choice or ranking.")
    max_feedback_texts: int = Field(
        default=1000, gt=0, description="Texts judged by all events of a request together."
    )
    max_edit_chars: int = Field(
        default=100_000, gt=0, description="Characters in each of the two texts of an edit."
    )
    max_metadata_bytes: int = Field(default=4096, gt=0)
    max_metadata_depth: int = Field(
        default=32, gt=0, le=200, description="Lists and objects of metadata within each other."
    )
    max_page_items: int = Field(default=100, gt=0)
    max_page_bytes: int = Field(
        default=8 * 2**20, gt=0, description="Events in a page of a user's log. A page has at least one."
    )
    max_exports: int = Field(default=4, gt=0, description="Exports of users that are sent at the same time.")
    body_timeout_seconds: float = Field(default=30.0, gt=0)
    request_timeout_seconds: float = Field(
        default=60.0, gt=0, description="Time from the arrival of a request to the start of its answer."
    )

    # Limits of a tenant. None: no limit. `penchant tenants set` overrides those named `tenant_` for one tenant.
    tenant_requests_per_minute: int | None = Field(default=None, gt=0)
    key_requests_per_minute: int | None = Field(
        default=None, gt=0, description="Requests with each key of a tenant."
    )
    tenant_candidates_per_day: int | None = Field(default=None, gt=0)
    tenant_events_per_day: int | None = Field(default=None, gt=0)
    tenant_users: int | None = Field(default=None, gt=0, description="Users with feedback.")
    tenant_ranking_bytes: int = Field(
        default=2**30,
        gt=0,
        description="Bytes of stored rankings. The oldest ones beyond it can no longer be referred to by feedback.",
    )

    # Limits of what is learned from one user. `service/feedback/trust.py` applies them.
    max_daily_information: float | None = Field(
        default=300.0,
        gt=0,
        allow_inf_nan=False,
        description="Sum of the weights learned from a user per UTC day. Further judgements are only logged.",
    )
    burst_events: int = Field(
        default=250, gt=0, description="Judgements of a user that may arrive in one burst."
    )
    sustained_events_per_minute: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Rate at which a user may judge for any length of time.",
    )

    # Queues, batches and caches.
    max_queued_texts: int = Field(default=2048, gt=0)
    max_queue_seconds: float = Field(
        default=4.0,
        gt=0,
        description="Longest expected wait for the encoder. A request that would wait longer is refused.",
    )
    max_batch_texts: int = Field(default=1024, gt=0)
    max_batch_tokens: int = Field(default=65_536, gt=0)
    batch_seconds: float = Field(
        default=0.1,
        gt=0,
        description="Target duration of a batch, which is about how long a new request waits for its turn.",
    )
    max_queued_events: int = Field(default=4096, gt=0)
    max_queued_event_bytes: int = Field(
        default=64 * 2**20, gt=0, description="Feedback that waits to be written."
    )
    max_group_events: int = Field(default=256, gt=0)
    max_group_bytes: int = Field(
        default=8 * 2**20, gt=0, description="Feedback in one transaction, and as many bytes of rankings."
    )
    max_queued_rankings: int = Field(default=10_000, gt=0)
    max_queued_ranking_bytes: int = Field(
        default=32 * 2**20,
        gt=0,
        description="Rankings that wait to be written. Feedback cannot refer to one beyond it for long.",
    )
    feature_cache_bytes: int = Field(default=128 * 2**20, ge=0)
    item_cache_bytes: int = Field(default=64 * 2**20, ge=0)
    relevance_cache_bytes: int = Field(
        default=16 * 2**20, ge=0, description="Memory of scores of the relevance model, 300 bytes each."
    )
    ranking_cache_bytes: int = Field(default=32 * 2**20, ge=0)
    max_cached_users: int = Field(default=50_000, gt=0)

    # Times.
    forgetting_half_life_days: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Age at which a judgement counts half. None: judgements do not lose weight.",
    )
    rank_ttl_hours: float = Field(default=24.0, gt=0)
    idempotency_ttl_hours: float = Field(default=24.0, gt=0)
    expiry_interval_seconds: float = Field(default=600.0, gt=0)
    expiry_grace_hours: float = Field(
        default=24.0,
        gt=0,
        allow_inf_nan=False,
        description="Jump of the clock that removal by age follows at once. It follows a larger one after this uptime.",
    )
    change_poll_seconds: float = Field(
        default=1.0, gt=0, description="Interval at which changes by other servers and commands are read."
    )
    ranking_write_delay_seconds: float = Field(default=0.1, ge=0)
    keep_alive_seconds: int = Field(default=75, gt=0)
    shutdown_timeout_seconds: int = Field(default=30, gt=0)
    drain_seconds: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Time after a stop signal in which the server fails /readyz and still serves.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _normalise_log_level(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("store_url")
    @classmethod
    def _check_store_url(cls, value: SecretStr | None) -> SecretStr | None:
        schemes = ("postgresql://", "postgresql+psycopg://")
        if value is not None and not value.get_secret_value().startswith(schemes):
            raise ValueError(
                "store_url must start with postgresql:// (leave it unset to use a file in data_dir)"
            )
        return value

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().strip():
            raise ValueError("an API key must not be blank")
        return value

    @field_validator("api_keys")
    @classmethod
    def _check_api_keys(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for tenant, key in value.items():
            if not 1 <= len(tenant) <= 64 or not key.get_secret_value().strip():
                raise ValueError(
                    "API keys must be a JSON object from tenant names (1 to 64 characters) to keys that are not blank"
                )
        return value

    def get_tenant_keys(self) -> dict[str, str]:
        """Return the configured keys by tenant, from `api_keys` and `api_key`."""
        keys = {tenant: key.get_secret_value() for tenant, key in self.api_keys.items()}
        if self.api_key is not None:
            keys[DEFAULT_TENANT] = self.api_key.get_secret_value()
        return keys

    def is_loopback(self) -> bool:
        """Return whether `host` can only be reached from this machine."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


class SettingsError(ValueError):
    """Some settings are invalid.

    Args:
        faults: Name of each invalid setting, and what is wrong with it, without its value.
    """

    def __init__(self, *faults: tuple[str, str]) -> None:
        super().__init__("settings: " + "; ".join(f"{name}: {fault}" for name, fault in faults))
        self.faults = faults


def read_settings(**options: Any) -> Settings:  # noqa: ANN401 - of any setting's type
    """Return the settings of the environment.

    Args:
        options: Settings in place of the environment's.

    Raises:
        SettingsError: If a setting is invalid.
    """
    try:
        return Settings(**options)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        raise SettingsError(
            *((".".join(map(str, fault["loc"])) or "all", fault["msg"]) for fault in faults)
        ) from None
    except UnreadableSettingError as error:  # its message names the field
        name = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "all")
        raise SettingsError((name, "the value is not valid JSON")) from None
