"""The version handshake: parts one minor version apart work together, others refuse each other.

A client names its part and version in the metadata of every call, and the server refuses it by name
if it must. The rule is symmetric, so one side checking is enough.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Awaitable, Callable

import grpc

from .handlers import Handler, refusing

VERSION_KEY = "modelfleet-version"
VERSION = importlib.metadata.version("modelfleet")


def incompatibility(ours: str, theirs: str) -> str | None:
    """Why two parts ("gateway/0.1.0") must not work together; None when they may.

    The same major version and at most one minor version apart are compatible.
    """
    mine, other = _minor_version(ours), _minor_version(theirs)
    if other is None:
        return f"expected {VERSION_KEY} like {ours!r}, found {theirs!r}"
    if mine is None:
        raise ValueError(f"our own version is malformed: {ours!r}")
    if mine[0] == other[0] and abs(mine[1] - other[1]) <= 1:
        return None
    return (
        f"{ours} and {theirs} are more than one minor version apart: "
        "upgrade one of them one minor version at a time"
    )


def _minor_version(part: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"[a-z]+/(\d+)\.(\d+)(\..*)?", part)
    return (int(match[1]), int(match[2])) if match else None


def call_metadata(part: str, version: str = VERSION) -> tuple[tuple[str, str], ...]:
    """The metadata that a client of the given part sends with every call."""
    return ((VERSION_KEY, f"{part}/{version}"),)


class VersionInterceptor(grpc.aio.ServerInterceptor):
    """Refuses callers of an incompatible version."""

    def __init__(self, part: str, version: str = VERSION) -> None:
        self._ours = f"{part}/{version}"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Lets the call through, or replaces its method by one that only refuses."""
        handler = await continuation(handler_call_details)
        theirs = dict(handler_call_details.invocation_metadata or ()).get(VERSION_KEY)
        if handler is None or theirs is None:
            return handler
        reason = incompatibility(self._ours, str(theirs))
        if reason is None:
            return handler
        return refusing(handler, grpc.StatusCode.FAILED_PRECONDITION, reason)
