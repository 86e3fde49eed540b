"""Checks of the settings: unknown names, and values that contradict each other."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any, Final, Literal

from penchant.service import settings as settings_of_server
from penchant.service.settings import DEFAULT_TENANT, Settings
from penchant.service.store.database import FILE_NAME


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        check: Name of the check.
        status: `failed` if a server could not start or serve, `warning` for a lesser problem, or `ok`.
        detail: Observation, without any secret, text or user.
        advice: What to do about a problem.
    """

    check: str
    status: Literal["ok", "warning", "failed"]
    detail: str
    advice: str = ""


_PREFIX: Final = "PENCHANT_"
_SDK_NAMES: Final = frozenset({"PENCHANT_BASE_URL"})
_SHORT_KEY_CHARS: Final = 16


def read_settings(options: Mapping[str, Any]) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, or None if they are invalid, and the findings about their names and values.

    Args:
        options: Settings in place of the environment's.
    """
    findings = [_report_unknown(name) for name in sorted(os.environ) if _is_unknown(name)]
    try:
        settings = settings_of_server.read_settings(**options)
    except settings_of_server.SettingsError as error:
        for place, fault in error.faults:
            advice = f"correct {_PREFIX}{place.partition('.')[0].upper()}"
            findings.append(Finding("settings", "failed", f"{place}: {fault}", advice))
        return None, findings
    findings += _check_contradictions(settings)
    if not findings:
        set_here = sum(name.startswith(_PREFIX) for name in os.environ)
        findings.append(Finding("settings", "ok", f"{set_here} set by the environment, all known"))
    return settings, findings


def _is_unknown(name: str) -> bool:
    if not name.upper().startswith(_PREFIX) or name in _SDK_NAMES:
        return False
    return name[len(_PREFIX) :].lower() not in Settings.model_fields


def _report_unknown(name: str) -> Finding:
    similar = get_close_matches(name[len(_PREFIX) :].lower(), Settings.model_fields, n=1)
    advice = f"did you mean {_PREFIX}{similar[0].upper()}?" if similar else "unset it"
    return Finding("settings", "warning", f"{name} is not a setting and has no effect", advice)


def _check_contradictions(settings: Settings) -> Iterator[Finding]:
    yield from _check_limits(settings)
    if settings.store_url is not None and (settings.data_dir / FILE_NAME).is_file():
        yield Finding(
            "settings",
            "warning",
            f"store_url is set, so {settings.data_dir / FILE_NAME} exists but is not used",
            "move its data with `penchant backup` and `penchant restore`, or remove it",
        )
    scale = {"relevance_mean", "relevance_std", "relevance_weight"} & settings.model_fields_set
    if settings.relevance_model is None and scale:
        yield Finding(
            "settings",
            "warning",
            f"{', '.join(sorted(scale))} has no effect without relevance_model",
            "set PENCHANT_RELEVANCE_MODEL, or unset it",
        )
    if settings.api_key is not None and DEFAULT_TENANT in settings.api_keys:
        yield Finding(
            "settings",
            "warning",
            f"api_key replaces the key of {DEFAULT_TENANT!r} in api_keys",
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
            "create one that cannot be guessed: openssl rand -hex 32",
        )
    traced = settings.tracing or (settings.tracing is None and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
    if traced and find_spec("opentelemetry") is None:
        yield Finding(
            "settings",
            "failed",
            "tracing is enabled, but OpenTelemetry is not installed",
            "pip install 'penchant[otel]', or set PENCHANT_TRACING=false",
        )


def _check_limits(settings: Settings) -> Iterator[Finding]:
    """Report limits that make other limits meaningless."""
    pairs = (
        ("max_candidates", "max_queued_texts", "the largest request finds no room beside others"),
        ("max_events", "max_queued_events", "the largest request finds no room beside others"),
        ("max_event_texts", "max_feedback_texts", "one event may judge more texts than a request may"),
        ("max_text_chars", "max_body_bytes", "no body can hold the longest text"),
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
