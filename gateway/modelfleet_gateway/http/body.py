"""Requests' bodies: read within a limit and the budget of all, and understood in slices."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from starlette.requests import Request

from ..errors import (
    BodyTooLargeError,
    InvalidRequestError,
    OverloadedError,
    UnsupportedMediaTypeError,
    quoted,
)
from ..openai_api.bulk import Bulk, cut

JSON_TYPE: Final = re.compile(
    r"\s*application/([\w.+-]+\+)?json\s*(;.*)?", re.ASCII | re.IGNORECASE
)
PIECE: Final = 256 * 1024  # bytes that are decoded at once
SMALL: Final = 64 * 1024  # bytes of a request that may use the last quarter of the budget
RETRY_AFTER: Final = 2.0  # seconds
ANY_WRAPPER: Final = 32 + zlib.MAX_WBITS  # zlib's: finds out whether it is gzip or zlib

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

# What a body asks for: given its JSON, when it came (seconds since the epoch) and what was cut out.
Read = Callable[[bytearray, float, Bulk | None], Result]


class OwnedRead(Protocol[Result_co]):
    """The same where it depends on whose request it is: `owner` is the tenant."""

    def __call__(
        self, body: bytearray, created: float, bulk: Bulk | None = None, *, owner: str
    ) -> Result_co:
        """As Read."""
        ...


@dataclass(frozen=True, slots=True)
class ByOwner(Generic[Result]):
    """Marks an OwnedRead."""

    read: OwnedRead[Result]


def read_for(read: Read[Result] | ByOwner[Result], owner: str) -> Read[Result]:
    """What reads a body of this tenant's."""
    return partial(read.read, owner=owner) if isinstance(read, ByOwner) else read


class ByteBudget:
    """Refuses requests that would exceed `limit` bytes in all.

    A quarter is kept for small ones, so that a few large requests cannot shut out all others.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def hold(self) -> Hold:
        """For one request; use it as a context manager."""
        return Hold(self)

    def check(self, size: int, more: int) -> None:
        """OverloadedError if a request of `size` bytes may not take `more` of them now."""
        limit = self._limit if size <= SMALL else self._limit - self._limit // 4
        if self.used + more > limit:
            raise OverloadedError(
                f"This gateway holds {self.used >> 20} MiB of requests, and {size} bytes more are "
                "too many now. Try again later.",
                retry_after=RETRY_AFTER,
            )


class Hold:
    """The bytes of one request; leaving its block gives them back."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.resize(0)

    def announce(self, size: int) -> None:
        """OverloadedError if a body of this size could not be held as it is now."""
        self._budget.check(size, size - self._size)

    def grow(self, more: int) -> None:
        """Its answer takes so many bytes more; OverloadedError when these are too many."""
        self._budget.check(self._size, more)
        self.add_unread(more)

    def add_unread(self, more: int) -> None:
        """So many bytes more, or fewer, wait for its client, which are few: not refused."""
        self._budget.used += more
        self._size += more

    def resize(self, size: int) -> None:
        """The request is now `size` bytes; OverloadedError when these are too many."""
        more = size - self._size
        if more > 0:
            self._budget.check(size, more)
        self._budget.used += more
        self._size = size


class BodyReader:
    """Reads requests' bodies; all of them together stay within one budget."""

    def __init__(self, *, max_body_bytes: int, max_held_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self.budget = ByteBudget(max_held_bytes)
        self._large = asyncio.Lock()  # of large bodies one at a time is understood

    def hold(self) -> Hold:
        """What a request takes of the budget; to be left at its end."""
        return self.budget.hold()

    async def read(
        self, request: Request, hold: Hold, *, any_content_type: bool = False
    ) -> bytearray:
        """The whole body, decoded.

        `any_content_type`: not only JSON, but from pages of browsers, whose requests without
        preflight are none of JSON.

        Raises UnsupportedMediaTypeError, BodyTooLargeError as soon as the limit is known to be
        exceeded, OverloadedError, InvalidRequestError. The server reads and drops the rest of the
        body, so that the client can read the response.
        """
        content_type = request.headers.get("content-type")
        if any_content_type and "origin" not in request.headers:
            content_type = None
        if content_type is not None and not JSON_TYPE.fullmatch(content_type):
            raise UnsupportedMediaTypeError(
                f"Expected the content-type application/json, found {quoted(content_type)}."
            )
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and len(declared) < 20:
            self._check_size(int(declared))
            hold.announce(int(declared))
        body = bytearray()
        if encoding == "identity":
            async for chunk in request.stream():
                self._check_size(len(body) + len(chunk))
                hold.resize(len(body) + len(chunk))
                body += chunk
        elif encoding in ("gzip", "x-gzip", "deflate"):
            await self._inflate(request, hold, body)
        else:
            raise UnsupportedMediaTypeError(
                f"Expected the content-encoding gzip, deflate or none, found {quoted(encoding)}."
            )
        if not body:
            raise InvalidRequestError("The body is empty: expected a JSON object.")
        return body

    async def understand(self, read: Read[Result], body: bytearray, created: float) -> Result:
        """What the body asks for; InvalidRequestError names the field and what was expected.

        A large body is cut and read beside the event loop, one at a time.
        """
        if len(body) <= SMALL:
            return read(body, created, None)
        async with self._large:
            bulk = await _in_slices(cut(body))
            return await asyncio.to_thread(read, bulk.skeleton, created, bulk)

    def _check_size(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise BodyTooLargeError(
                f"The body is larger than {self._max_body_bytes} bytes, the most that this "
                "gateway reads."
            )

    async def _inflate(self, request: Request, hold: Hold, body: bytearray) -> None:
        stream = zlib.decompressobj(ANY_WRAPPER)
        encoded = 0
        try:
            async for chunk in request.stream():
                encoded += len(chunk)
                self._check_size(encoded)  # an encoded body may never come to an end
                rest, is_more = chunk, bool(chunk)
                while is_more:
                    piece = stream.decompress(rest, PIECE)
                    self._check_size(len(body) + len(piece))
                    hold.resize(len(body) + len(piece))
                    body += piece
                    rest = stream.unconsumed_tail
                    is_more = not stream.eof and (bool(rest) or len(piece) == PIECE)
                    if is_more:
                        await asyncio.sleep(0)
        except zlib.error as error:
            raise InvalidRequestError(f"The body cannot be decoded: {error}.") from None
        if encoded and (not stream.eof or stream.unused_data):
            raise InvalidRequestError("The body cannot be decoded: its encoding ends elsewhere.")


async def _in_slices(work: Generator[None, None, Result]) -> Result:
    """Runs a generator to its end; between its slices the event loop does all else."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        await asyncio.sleep(0)
