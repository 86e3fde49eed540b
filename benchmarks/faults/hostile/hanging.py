"""A PostgreSQL server behind a network that acknowledges and forwards nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import httpx

from benchmarks.faults.hostile.cases import Sizes
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.processes import Server
from benchmarks.faults.proxy import FreezableProxy, Lost
from benchmarks.faults.stores import Store

HEALING_SECONDS: Final = 15.0
"""Limit of the time from the moment when new connections work to the next acknowledged vote, and to readiness."""

_STOP_MARGIN_SECONDS: Final = 6.0
"""Time beyond the server's setting to write what is pending, and to log what has not ended."""

_PAUSE_SECONDS: Final = 0.1
_OK: Final = 200
_UNAVAILABLE: Final = 503


def hanging(store: Store, sizes: Sizes, outcome: Outcome) -> None:
    """Let connections hang in four ways, and record how long the server needs to heal, and to stop.

    It has healed when a vote is acknowledged and /readyz succeeds.

    Args:
        store: A PostgreSQL store.
        sizes: The server's limits of time.
        outcome: Outcome to which the figures and faults are added.
    """
    with _proxied(store) as proxy:
        settings = {
            "PENCHANT_STORE_URL": proxy.url,
            "PENCHANT_STORE_TIMEOUT_SECONDS": str(sizes.store_timeout_seconds),
            "PENCHANT_SHUTDOWN_TIMEOUT_SECONDS": str(sizes.shutdown_seconds),
        }
        with store.launcher().serving(**settings) as server:
            _vote_until_accepted(server)
            lost: tuple[Lost, ...] = ("requests", "answers")
            for lose in lost:
                proxy.freeze(lose)
                _heal(server, outcome, f"healed_seconds_after_lost_{lose}")
            proxy.freeze(new=True)
            _wait_for_readiness(server, _UNAVAILABLE, outcome)
            proxy.lose_new = "nothing"
            _heal(server, outcome, "healed_seconds_after_an_outage")
            proxy.freeze(new=True)
            _stop(server, sizes.shutdown_seconds + _STOP_MARGIN_SECONDS, outcome)


@contextmanager
def _proxied(store: Store) -> Iterator[FreezableProxy]:
    if store.url is None:
        raise ValueError("only a PostgreSQL store has connections that can hang")
    proxy = FreezableProxy(store.url)
    try:
        yield proxy
    finally:
        proxy.close()


def _heal(server: Server, outcome: Outcome, name: str) -> None:
    started = time.monotonic()
    _vote_until_accepted(server)
    _wait_for_readiness(server, _OK, outcome)
    seconds = round(time.monotonic() - started, 1)
    outcome.figures[name] = seconds
    if seconds > HEALING_SECONDS:
        outcome.faults.append(f"{name} is {seconds}")


def _vote_until_accepted(server: Server) -> None:
    """Send a vote as a client does: again, unchanged, while the store cannot be reached."""
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1, "event_id": f"{time.monotonic_ns()}"}
    with server.client(timeout=2 * HEALING_SECONDS) as client:
        until = time.monotonic() + 4 * HEALING_SECONDS
        while client.post("/v1/feedback", json=vote).status_code != _OK and time.monotonic() < until:
            time.sleep(_PAUSE_SECONDS)


def _wait_for_readiness(server: Server, status: int, outcome: Outcome) -> None:
    """Wait until /readyz answers with a status."""
    until = time.monotonic() + HEALING_SECONDS
    with server.client() as client:
        while client.get("/readyz").status_code != status:
            if time.monotonic() > until:
                outcome.faults.append(f"/readyz did not answer {status} within {HEALING_SECONDS} s")
                return
            time.sleep(_PAUSE_SECONDS)


def _stop(server: Server, limit_seconds: float, outcome: Outcome) -> None:
    """Ask the server to stop while a vote waits for the database."""
    vote = {"type": "vote", "user": "u", "text": "t", "value": 1}
    with server.client(timeout=1.0) as client, suppress(httpx.TimeoutException):
        client.post("/v1/feedback", json=vote)
    started = time.monotonic()
    server.stop()
    seconds = round(time.monotonic() - started, 1)
    outcome.figures["stopped_seconds"] = seconds
    if seconds > limit_seconds:
        outcome.faults.append(f"the server stopped after {seconds} s")
