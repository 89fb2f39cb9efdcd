"""What a gateway is started with."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .errors import StartupError

DEFAULT_MAX_BODY_BYTES: Final = 8 * 1024 * 1024


class LogFormat(enum.StrEnum):
    """How log lines look."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that a gateway's user can choose."""

    operator: str  # HOST:PORT of the Fleet service
    listen: str = "127.0.0.1:8080"  # HOST:PORT; port 0 picks one
    gateway_id: str = "gateway"
    address_file: Path | None = None  # gets the actual HOST:PORT once requests are accepted
    linger: float = 0.0  # seconds after SIGTERM in which requests are still taken
    drain_timeout: float = 30.0  # seconds that running requests may take after that
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES


def split_address(address: str, flag: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "[IPv6]:PORT"; StartupError names the flag."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise StartupError(f"{flag}: expected HOST:PORT (like 127.0.0.1:8080), found {address!r}")
    return host, int(port)
