"""Asks the operator for certificates: at once, and again long before one expires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc
import structlog

from ..certificates_pb2 import IssueRequest, IssueResponse
from ..certificates_pb2_grpc import CertificatesStub
from ..handshake import call_metadata
from .credentials import Certificate, Credentials, target
from .names import OPERATOR_NAME

TIMEOUT = 10.0  # seconds that the operator may take to answer
FIRST_PAUSE = 0.2  # seconds of the back-off, doubled up to the longest
LONGEST_PAUSE = 15.0
OPTIONS: Sequence[tuple[str, Any]] = (
    target(OPERATOR_NAME),
    ("grpc.enable_http_proxy", 0),  # traffic inside the fleet never goes through a proxy
    # Each channel has its own connection: it dies with the channel, and the next one is fresh.
    ("grpc.use_local_subchannel_pool", 1),
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """Where certificates come from, and what shows who asks."""

    address: str  # HOST:PORT of the operator's Certificates service
    token_file: Path  # the kubelet writes a new one before it expires
    authorities: Callable[[], bytes]  # PEM: whose certificate the operator must have at first


class Renewal:
    """Keeps `credentials` fresh until it is cancelled."""

    def __init__(self, part: str, issuer: Issuer, credentials: Credentials) -> None:
        """`part` is the caller's own name: gateway, worker."""
        self._part = part
        self._issuer = issuer
        self._credentials = credentials
        self._logged = ""

    async def run(self) -> NoReturn:
        """Asks, waits as long as the operator says, and asks again; failures are tried again."""
        pause = FIRST_PAUSE
        while True:
            try:
                seconds = await self._renew()
            except (grpc.aio.AioRpcError, OSError, ValueError) as error:
                self._log(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause, self._logged = FIRST_PAUSE, ""
            await asyncio.sleep(seconds)

    async def _renew(self) -> float:
        from .keys import expiry, key_pem, new_key, signing_request

        token = self._issuer.token_file.read_text().strip()
        key = new_key()
        request = IssueRequest(token=token, request=signing_request(key))
        trusted = self._trusted()
        credentials = grpc.ssl_channel_credentials(trusted)
        async with grpc.aio.secure_channel(self._issuer.address, credentials, OPTIONS) as channel:
            issued: IssueResponse = await CertificatesStub(channel).Issue(
                request, timeout=TIMEOUT, metadata=call_metadata(self._part)
            )
        expires_at = expiry(issued.chain)
        self._credentials.accepts_plaintext = issued.accepts_plaintext
        self._credentials.put(
            Certificate(
                key=key_pem(key),
                chain=issued.chain,
                authorities=issued.authorities,
                expires_at=expires_at,
            )
        )
        log.debug("a certificate was issued", renewed_after=issued.renew_after)
        return max(issued.renew_after, 1.0)

    def _trusted(self) -> bytes:
        """What the operator said last, and what the pod was given, which may be newer or older."""
        latest = self._credentials.certificate
        return (latest.authorities if latest else b"") + b"\n" + self._issuer.authorities()

    def _log(self, error: Exception) -> None:
        reason = str(error)
        if isinstance(error, grpc.aio.AioRpcError):
            reason = f"{error.code().name}: {error.details()}"
        if reason != self._logged:
            self._logged = reason
            log.warning("no certificate was issued", issuer=self._issuer.address, reason=reason)
