"""All open connections: whether there is room for another one, and which have been too slow."""

import asyncio
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, Protocol

from penchant.service.connections.limits import ConnectionLimits
from penchant.service.connections.refusals import Reason, Refusals
from penchant.service.telemetry.metrics import Telemetry

_PREFIX_BITS: Final = 64
"""Bits of an IPv6 address that one customer of a provider has in common."""


class Connection(Protocol):
    """An open connection, as the registry needs it."""

    peer: str
    """Group of addresses that the client belongs to. Empty if it has no address."""

    @property
    def idle_since(self) -> float | None:
        """Time at which its last request was answered, on a clock of its own. None while a request is in progress."""

    def check(self, now: float) -> None:
        """Close the connection if it has been too slow."""

    def give_way(self, reason: Reason) -> None:
        """Close the connection, because another one needs its place."""


class _Group:
    """Connections that share a limit.

    Attributes:
        members: All of them.
        silent: Those that have never sent a whole request, oldest first.
    """

    def __init__(self) -> None:
        self.members: set[Connection] = set()
        self.silent: OrderedDict[Connection, None] = OrderedDict()

    def find_idle(self) -> Connection | None:
        """Return the connection that can be closed with the least harm, or None if all have requests in progress."""
        if self.silent:
            return next(iter(self.silent))
        idle = (
            (since, id(member), member) for member in self.members if (since := member.idle_since) is not None
        )
        return min(idle, default=(0.0, 0, None))[2]


class ConnectionRegistry:
    """All open connections.

    When a limit is met, the new connection takes the place of one that has no request in progress: of the one that has
    been silent longest, or else of the one that has been idle longest. It is refused if there is none.

    Args:
        limits: The limits.
        telemetry: Counts connections and refusals.

    Cost: constant for each connection, and about 0.2 µs for each in every sweep. If a limit is met and no connection is
    silent, linear in the number of connections.
    """

    def __init__(self, limits: ConnectionLimits, telemetry: Telemetry) -> None:
        self.limits = limits
        self.refusals = Refusals(telemetry)
        self._telemetry = telemetry
        self._all = _Group()
        self._peers: dict[str, _Group] = {}
        self._is_sweeping = False

    def admit(self, connection: Connection) -> Reason | None:
        """Register a new connection. If there is no room for it, return why."""
        limits = self.limits
        peer = self._peers.get(connection.peer)
        if (
            connection.peer
            and peer is not None
            and 0 < limits.connections_per_peer <= len(peer.members)
            and not self._make_room(peer, Reason.TOO_MANY_OF_PEER)
        ):
            return Reason.TOO_MANY_OF_PEER
        if len(self._all.members) >= limits.connections and not self._make_room(self._all, Reason.TOO_MANY):
            return Reason.TOO_MANY
        for group in (self._all, self._peers.setdefault(connection.peer, _Group())):
            group.members.add(connection)
            group.silent[connection] = None
        self._telemetry.connections.set(len(self._all.members))
        if not self._is_sweeping:
            self._is_sweeping = True
            self._schedule_sweep()
        return None

    def hear(self, connection: Connection) -> None:
        """Note that a connection has sent its first whole request."""
        for group in (self._all, self._peers.get(connection.peer)):
            if group is not None:
                group.silent.pop(connection, None)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that was closed. It may have been forgotten before."""
        self.hear(connection)
        self._all.members.discard(connection)
        peer = self._peers.get(connection.peer)
        if peer is not None:
            peer.members.discard(connection)
            if not peer.members:
                del self._peers[connection.peer]
        self._telemetry.connections.set(len(self._all.members))

    def _make_room(self, group: _Group, reason: Reason) -> bool:
        idle = group.find_idle()
        if idle is None:
            return False
        self.remove(idle)
        idle.give_way(reason)
        return True

    def _schedule_sweep(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self.limits.sweep_seconds, self._sweep, loop)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in list(self._all.members):
            connection.check(now)
        self._is_sweeping = bool(self._all.members)
        if self._is_sweeping:
            self._schedule_sweep()


def group_peer(address: str | None) -> str:
    """Return the group that an address is counted with: itself, or the network of 64 bits of an IPv6 address."""
    if not address or ":" not in address:
        return address or ""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(ip_network((parsed, _PREFIX_BITS), strict=False))
    return str(getattr(parsed, "ipv4_mapped", parsed))
