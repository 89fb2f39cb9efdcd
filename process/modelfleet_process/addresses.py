"""Addresses of servers as options have them: HOST:PORT, an IPv6 host in brackets."""

from __future__ import annotations

from typing import Final

import typer

_ALL_INTERFACES: Final = ("0.0.0.0", "::")


def split_address(address: str) -> tuple[str, int]:
    """Host, without brackets, and port. ValueError says what was expected.

    "[::1]:80" -> ("::1", 80)
    """
    host, _, port = address.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if in_brackets else host
    # An IPv6 host without brackets could end anywhere: ::1:80 is an address as well.
    is_host = bool(host) and (in_brackets or ":" not in host) and not set("[]/@") & set(host)
    is_port = port.isascii() and port.isdecimal() and int(port) <= 65535
    if not is_host or not is_port:
        raise ValueError(
            f"expected HOST:PORT, like 127.0.0.1:8080 or [::1]:8080, found {address[:200]!r}"
        )
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """What `split_address` reads: ("::1", 80) -> "[::1]:80"."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def dialled_here(address: str) -> str:
    """Where this machine reaches a server that listens at the address: not at all interfaces."""
    host, port = split_address(address)
    return join_address("127.0.0.1" if host in _ALL_INTERFACES else host, port)


def checked_address(address: str) -> str:
    """For an option's `callback`: the same, BadParameter for what is none."""
    try:
        split_address(address)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return address


def checked_if_given(address: str) -> str:
    """`checked_address` for an option whose default is the empty string."""
    return checked_address(address) if address else ""
