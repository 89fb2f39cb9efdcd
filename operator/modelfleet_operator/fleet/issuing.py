"""The Certificates service: a pod that shows its token gets a certificate that names it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import grpc
import structlog
from typing_extensions import override

from modelfleet_proto import certificates_pb2 as pb
from modelfleet_proto import certificates_pb2_grpc
from modelfleet_proto.mtls.credentials import Certificate, Credentials
from modelfleet_proto.mtls.keys import expiry, key_pem, new_key
from modelfleet_proto.mtls.names import Identity

from ..decisions.authorities import Lifetimes
from ..errors import PassingError, RejectedError
from .authority import Authorities, BadRequestError, requested_key

PLAINTEXT_PAUSE = 60.0  # seconds between requests while plaintext is accepted: it may end
LONGEST_TOKEN = 16 * 1024  # characters

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[pb.IssueRequest, pb.IssueResponse]


class Issuing:
    """The authorities as this replica knows them, and what it signs with them."""

    def __init__(self, lifetimes: Lifetimes, clock: Callable[[], float] = time.time) -> None:
        self._lifetimes = lifetimes
        self._clock = clock
        self._authorities = Authorities(())
        self.credentials = Credentials()  # of this operator itself
        self._renew_at = 0.0

    @property
    def bundle(self) -> bytes:
        """PEM; empty: there are none yet."""
        return self._authorities.bundle

    def know(self, authorities: Authorities, itself: Identity) -> None:
        """Signs with these from now on; renews this operator's own certificate if it is time."""
        is_new = authorities != self._authorities
        self._authorities = authorities
        now = self._clock()
        if not is_new and now < self._renew_at:
            return
        key = new_key()
        chain = self.sign(key.public_key(), itself)
        if chain is None:
            return
        self._renew_at = now + self._lifetimes.renew_after
        self.credentials.put(
            Certificate(
                key=key_pem(key),
                chain=chain,
                authorities=self.bundle,
                expires_at=expiry(chain),
            )
        )

    def sign(self, public: object, identity: Identity) -> bytes | None:
        """None: there is no authority."""
        now = self._clock()
        signer = self._authorities.signer(now, self._lifetimes)
        if signer is None:
            return None
        return signer.sign(public, identity, now, self._lifetimes.leaf)


class CertificatesService(certificates_pb2_grpc.CertificatesServicer):
    """Every replica serves it: none of them needs to lead for it."""

    def __init__(
        self,
        issuing: Issuing,
        whose: Callable[[str], Awaitable[Identity]],
        lifetimes: Lifetimes,
        *,
        accepts_plaintext: bool,
    ) -> None:
        """`whose`: who has this token; RejectedError: nobody; PassingError: it is not known."""
        self._issuing = issuing
        self._whose = whose
        self._lifetimes = lifetimes
        self.accepts_plaintext = accepts_plaintext

    @override
    async def Issue(self, request: pb.IssueRequest, context: Context) -> pb.IssueResponse:
        """See certificates.proto."""
        if len(request.token) > LONGEST_TOKEN:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the token is too long")
        try:
            public = requested_key(request.request)
            identity = await self._whose(request.token)
        except BadRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the request: {error}")
        except RejectedError as error:
            log.warning("a certificate was refused", why=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        except PassingError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        chain = self._issuing.sign(public, identity)
        if chain is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "there is no authority yet")
        renew_after = self._lifetimes.renew_after
        if self.accepts_plaintext:
            renew_after = min(renew_after, PLAINTEXT_PAUSE)
        log.info("a certificate was issued", role=identity.role, pod=identity.pod)
        return pb.IssueResponse(
            chain=chain,
            authorities=self._issuing.bundle,
            renew_after=renew_after,
            accepts_plaintext=self.accepts_plaintext,
        )
