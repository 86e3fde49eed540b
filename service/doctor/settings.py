"""Are the settings what was meant? Names that nobody reads, and values that do not go together."""

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Final

from pydantic import ValidationError

from penchant.service.doctor.findings import Finding
from penchant.service.settings import DEFAULT_TENANT, Settings
from penchant.service.store.database import FILE_NAME

_PREFIX: Final = "PENCHANT_"
_OF_THE_SDK: Final = frozenset({"PENCHANT_BASE_URL"})
_SHORT_KEY_CHARS: Final = 16


def read_settings(given: Mapping[str, Any]) -> tuple[Settings | None, list[Finding]]:
    """The settings, None where they cannot be read, and what is to be said of their names and values.

    Args:
        given: Settings in place of the environment's.
    """
    found = [_unknown(name) for name in sorted(os.environ) if _is_unknown(name)]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            place = ".".join(map(str, fault["loc"])) or "all"
            advice = f"correct {_PREFIX}{place.partition('.')[0].upper()}"
            found.append(Finding("settings", "failed", f"{place}: {fault['msg']}", advice))
        return None, found
    found += _contradictions(settings)
    if not found:
        set_here = sum(name.startswith(_PREFIX) for name in os.environ)
        found.append(Finding("settings", "ok", f"{set_here} set by the environment, all known"))
    return settings, found


def _is_unknown(name: str) -> bool:
    if not name.upper().startswith(_PREFIX) or name in _OF_THE_SDK:
        return False
    return name[len(_PREFIX) :].lower() not in Settings.model_fields


def _unknown(name: str) -> Finding:
    meant = get_close_matches(name[len(_PREFIX) :].lower(), Settings.model_fields, n=1)
    advice = f"did you mean {_PREFIX}{meant[0].upper()}?" if meant else "unset it"
    return Finding("settings", "warning", f"{name} is no setting: it has no effect", advice)


def _contradictions(settings: Settings) -> Iterator[Finding]:
    yield from _limits(settings)
    if settings.store_url is not None and (settings.data_dir / FILE_NAME).is_file():
        yield Finding(
            "settings",
            "warning",
            f"store_url is set, so {settings.data_dir / FILE_NAME} is not used, though it is there",
            "move what it holds with `penchant backup` and `penchant restore`, or remove it",
        )
    if settings.api_key is not None and DEFAULT_TENANT in settings.api_keys:
        yield Finding(
            "settings",
            "warning",
            f"api_key takes the place of the key that api_keys has for {DEFAULT_TENANT!r}",
            "keep one of them",
        )
    keys = settings.get_tenant_keys()
    if len(set(keys.values())) < len(keys):
        yield Finding(
            "settings", "failed", "two tenants have the same key", "give each tenant a key of its own"
        )
    for tenant in sorted(tenant for tenant, key in keys.items() if len(key) < _SHORT_KEY_CHARS):
        yield Finding(
            "settings",
            "warning",
            f"the key of {tenant!r} has fewer than {_SHORT_KEY_CHARS} characters",
            "make one that cannot be guessed: openssl rand -hex 32",
        )
    traced = settings.tracing or (settings.tracing is None and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    if traced and find_spec("opentelemetry") is None:
        yield Finding(
            "settings",
            "failed",
            "traces are asked for, and OpenTelemetry is not installed",
            "pip install 'penchant[otel]', or set PENCHANT_TRACING=false",
        )


def _limits(settings: Settings) -> Iterator[Finding]:
    """Limits of which one makes another meaningless."""
    pairs = (
        ("max_candidates", "max_queued_texts", "a request of as many candidates finds no room beside others"),
        ("max_events", "max_queued_events", "a request of as many events finds no room beside others"),
        ("max_event_texts", "max_feedback_texts", "one event may judge more texts than a request may"),
        ("max_text_chars", "max_body_bytes", "no body can hold a text so long"),
        ("body_timeout_seconds", "request_timeout_seconds", "a body may take longer than its request"),
    )
    for smaller, larger, consequence in pairs:
        if getattr(settings, smaller) > getattr(settings, larger):
            yield Finding(
                "settings",
                "warning",
                f"{smaller} is more than {larger}: {consequence}",
                f"raise {_PREFIX}{larger.upper()} or lower {_PREFIX}{smaller.upper()}",
            )
