"""The HTTP of all remote sources: only to allowed addresses, answers of a bounded size.

Addresses are checked where a connection is made, so that neither a redirect nor a name that changes
its address goes around it. What a server says never gets into a message: a source may name a server
that its author could not read otherwise.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import httpx2
import structlog
from typing_extensions import override

from ..errors import ModelError
from .endpoints import REFUSED, VARIABLE, AllowedEndpoints

log = structlog.get_logger()

_LARGEST_ERROR = 1 << 20  # bytes of an answer that is a redirect or an error
_LARGEST_LIST = 64 << 20  # of one that lists files
_PATIENCE = 120.0  # seconds for such an answer, from its first byte on

# Bytes that an answer may have; None: its reader counts.
_limit: ContextVar[int | None] = ContextVar("limit", default=_LARGEST_LIST)


def guard(client: httpx2.Client) -> httpx2.Client:
    """The same client, which keeps to the rules of this module from now on."""
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], _watch],
        "response": [*hooks["response"], _bound],
    }
    # A compressed answer could be a thousand times as long as what is counted.
    client.headers["Accept-Encoding"] = "identity"
    return client


def is_guarded(client: httpx2.Client) -> bool:
    """Whether `guard` had it."""
    return _watch in client.event_hooks["request"]


@contextlib.contextmanager
def answers_up_to(limit: int | None) -> Iterator[None]:
    """Answers to what this thread asks in the block have at most so many bytes; None: any."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


def allowed_endpoints() -> AllowedEndpoints:
    """As the environment says now."""
    return AllowedEndpoints.parse(os.environ.get(VARIABLE))


def reason(error: BaseException) -> str:
    """Why there was no answer: in our words or the system's, never in the answer's."""
    match error:
        case httpx2.TimeoutException():
            return "it does not answer in time"
        case httpx2.NetworkError():
            return str(error) or type(error).__name__
        case httpx2.ProxyError():
            return "the proxy refuses"
        case httpx2.ProtocolError():
            return "the connection ended early, or what answers does not speak HTTP"
    return type(error).__name__


def _watch(request: httpx2.Request) -> None:
    allowed = allowed_endpoints()
    if not allowed.restricts:
        return
    host = request.url.host
    # Connections are checked below, but a proxy would make this one for us.
    if _is_address(host) or host.lower().rstrip(".") == "localhost":
        port = request.url.port or (80 if request.url.scheme == "http" else 443)
        _check(allowed, host, port, "127.0.0.1" if host.startswith("local") else host)
    # A redirect's request has a copy of this dictionary, and a connection of its own.
    request.extensions = {**request.extensions, "trace": _Connecting(allowed)}


class _Connecting:
    """What httpcore calls at each step of a request, with what the step takes and returns."""

    def __init__(self, allowed: AllowedEndpoints) -> None:
        self._allowed = allowed
        self._host, self._port = "", 0

    def __call__(self, step: str, info: dict[str, Any]) -> None:
        if step.endswith("connect_tcp.started"):
            self._host, self._port = str(info["host"]), int(info["port"])
            # Before a connection is tried: else its failure would tell which ports are open.
            with contextlib.suppress(OSError, UnicodeError):  # connecting will say it
                for found in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM):
                    _check(self._allowed, self._host, self._port, str(found[4][0]))
        elif step.endswith("connect_tcp.complete"):
            stream = info["return_value"]
            try:
                # Before a byte is sent: the name may have got another address meanwhile.
                address = str(stream.get_extra_info("server_addr")[0])
                _check(self._allowed, self._host, self._port, address)
            except (OSError, ModelError):
                stream.close()
                raise


def _check(allowed: AllowedEndpoints, host: str, port: int, address: str) -> None:
    if not allowed.allows(host, port, address):
        log.warning("endpoint refused", host=host[:100], port=port, variable=VARIABLE)
        raise ModelError(REFUSED)


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _bound(response: httpx2.Response) -> None:
    limit = _limit.get() if response.is_success else _LARGEST_ERROR
    if limit is None:
        return
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise ModelError("what answers compresses its answer, which was not asked for")
    response.stream = _Bounded(response.stream, limit)


class _Bounded(httpx2.SyncByteStream):
    """A body that is read up to its limit, and no further."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    @override
    def __iter__(self) -> Iterator[bytes]:
        read, until = 0, time.monotonic() + _PATIENCE
        for chunk in self._stream:
            read += len(chunk)
            if read > self._limit:
                raise ModelError(f"expected an answer of at most {self._limit} bytes, found more")
            if time.monotonic() > until:
                raise ModelError(f"expected a whole answer within {_PATIENCE:.0f} seconds")
            yield chunk

    @override
    def close(self) -> None:
        self._stream.close()
