"""Which addresses a worker may fetch models from. Pure: no name is looked up here.

A source is written by all who may write a ModelDeployment, and a server may redirect anywhere: so
that neither makes a worker ask what only its network can reach, loopback, link-local and private
addresses are for the endpoints that the administrator lists.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

VARIABLE = "MODELFLEET_ALLOWED_ENDPOINTS"  # HOST[:PORT],...; unset: every address
REFUSED = (
    "it is at an address that is loopback, link-local or private, or redirects to one: the "
    f"administrator lists such endpoints (the chart's worker.allowedEndpoints, {VARIABLE})"
)

_ENTRY = re.compile(r"\[([0-9a-f:.]+)\](?::([0-9]+))?|([^:\[\]]+)(?::([0-9]+))?|([0-9a-f:.]+)")
# Networks whose addresses end in an IPv4 address, which is what they reach.
_OF_IPV4 = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96")))


@dataclass(frozen=True, slots=True)
class AllowedEndpoints:
    """`listed` are hosts with a port, or with None for any; None: nothing is refused."""

    listed: frozenset[tuple[str, int | None]] | None = None

    @classmethod
    def parse(cls, text: str | None) -> AllowedEndpoints:
        """The variable's value. What is no HOST[:PORT] allows nothing."""
        if text is None:
            return cls()
        entries = [_ENTRY.fullmatch(entry.strip().lower()) for entry in text.split(",")]
        return cls(
            frozenset(
                (_plain(m[1] or m[3] or m[5]), int(port) if (port := m[2] or m[4]) else None)
                for m in entries
                if m is not None
            )
        )

    @property
    def restricts(self) -> bool:
        """Whether anything is refused."""
        return self.listed is not None

    def allows(self, host: str, port: int, address: str) -> bool:
        """Whether `host` may be connected to at an address that its name has."""
        return self.listed is None or is_public(address) or self.lists(host, port)

    def lists(self, host: str, port: int) -> bool:
        """Whether the administrator named it."""
        name = _plain(host)
        return bool({(name, port), (name, None)} & (self.listed or frozenset()))


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet; False for what is no address."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _OF_IPV4):
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip.sixtofour is not None:
            ip = ip.sixtofour
    return ip.is_global and not ip.is_multicast


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")
