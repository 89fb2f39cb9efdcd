"""The keys that the operator knows, and whose request one belongs to."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping
from typing import Final

from modelfleet_proto import fleet_pb2

from ..errors import NotReadyError, UnauthorizedError
from .caller import ANONYMOUS, Caller, Limits

BEARER: Final = b"bearer "
# Where clients put a key, the first one counts: OpenAI's and most others, Anthropic's, Azure's.
HEADERS: Final = (b"authorization", b"x-api-key", b"api-key")
NO_HASH: Final = bytes(hashlib.sha256().digest_size)
MISSING: Final = (
    "This gateway asks for an API key, and none was sent: send it as 'Authorization: Bearer KEY'."
)
# Also of a key that was revoked or has expired: nobody learns that it was one.
WRONG: Final = "The API key is not valid here."

Headers = Iterable[tuple[bytes, bytes]]  # as ASGI has them: lower-case names


class KeyRing:
    """Knows hashes only. `required`: no key is no access, whatever the operator says.

    Keys are random and long (the operator refuses short ones), so their plain SHA-256 can be
    neither guessed nor searched, and looking one up by its hash tells nothing by its time: what
    is compared byte by byte is the hash of what was sent, which its sender cannot choose.
    """

    def __init__(self, *, required: bool = False) -> None:
        self._is_known = False  # whether an operator has said which keys there are
        self.required = required
        self._by_hash: dict[bytes, tuple[bytes, Caller]] = {}
        self.callers: Mapping[str, Caller] = {}  # by key id

    def take(self, message: fleet_pb2.ApiKeys) -> None:
        """All keys that are valid from now on. That keys are asked for is never taken back."""
        callers = {key.id: read_key(key) for key in message.keys}
        self.callers = callers
        self._by_hash = {
            digest: (digest, callers[key.id]) for key in message.keys for digest in key.hashes
        }
        self._is_known = True
        self.required = self.required or message.required

    def admit(self, headers: Headers, now: float) -> Caller:
        """Whose request has these headers; `now` in seconds since the epoch.

        UnauthorizedError: it has no valid key, and one is required; the steps are the same for
        each reason. NotReadyError: no operator has said yet which keys there are.
        """
        key = sent_key(headers)
        digest = hashlib.sha256(key).digest()
        known, caller = self._by_hash.get(digest, (NO_HASH, ANONYMOUS))
        is_valid = now < caller.expires
        if hmac.compare_digest(known, digest) and is_valid:
            return caller
        if not self.required:
            return ANONYMOUS  # clients send something where no key is needed
        if not self._is_known:
            raise NotReadyError(
                "This gateway does not know its keys yet: it waits for its operator.",
                retry_after=1,
            )
        raise UnauthorizedError(WRONG if key else MISSING)

    def by_id(self, key_id: str, now: float) -> Caller | None:
        """Who has this id now; None: it was revoked, has expired, or must not be anonymous."""
        if not key_id:
            return None if self.required else ANONYMOUS
        caller = self.callers.get(key_id)
        return caller if caller is not None and now < caller.expires else None


def sent_key(headers: Headers) -> bytes:
    """The key among the headers; empty: there is none.

    [(b"authorization", b"Bearer mf-1")] -> b"mf-1"
    """
    found = {name: value for name, value in headers if name in HEADERS}
    for name in HEADERS:
        value = found.get(name, b"")
        if name == b"authorization":
            is_bearer = value[: len(BEARER)].lower() == BEARER
            value = value[len(BEARER) :] if is_bearer else b""
        if value := value.strip():
            return value
    return b""


def read_key(message: fleet_pb2.ApiKey) -> Caller:
    """What one key grants, as the operator said it."""
    return Caller(
        key_id=message.id,
        name=message.name,
        tenant=message.tenant or message.id,
        tags=tuple(message.tags),
        models=None if message.any_model else tuple(message.models),
        limits=Limits(
            requests_per_minute=message.requests_per_minute or None,
            tokens_per_minute=message.tokens_per_minute or None,
            max_concurrent=message.max_concurrent or None,
            queue_share=message.queue_share or None,
        ),
        priority=message.priority or "interactive",
        expires=message.expires or math.inf,
    )
