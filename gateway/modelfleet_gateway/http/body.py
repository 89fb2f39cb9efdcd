"""A request's body: read within its limit and the budget, decoded, and understood in slices."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Generator
from typing import Final, TypeVar

from starlette.requests import Request

from ..errors import BodyTooLargeError, InvalidRequestError, UnsupportedMediaTypeError, quoted
from ..openai_api.bulk import cut
from ..openai_api.fields import Asked, GenerationFields, read_request
from .budget import SMALL, ByteBudget, Hold

JSON_TYPE: Final = re.compile(
    r"\s*application/([\w.+-]+\+)?json\s*(;.*)?", re.ASCII | re.IGNORECASE
)
PIECE: Final = 256 * 1024  # bytes that are decoded at once
ANY_WRAPPER: Final = 32 + zlib.MAX_WBITS  # zlib's: finds out whether it is gzip or zlib

Result = TypeVar("Result")


class BodyReader:
    """Reads requests' bodies; all of them together stay within one budget."""

    def __init__(self, *, max_body_bytes: int, max_held_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        # One body of the largest size is always possible.
        self.budget = ByteBudget(max(max_held_bytes, 2 * max_body_bytes))
        self._large = asyncio.Lock()  # of large bodies one at a time is understood

    def hold(self) -> Hold:
        """What a request takes of the budget; to be left at its end."""
        return self.budget.hold()

    async def read(self, request: Request, hold: Hold) -> bytearray:
        """The whole body, decoded.

        Raises UnsupportedMediaTypeError, BodyTooLargeError as soon as the limit is known to be
        exceeded, OverloadedError, InvalidRequestError. The server reads and drops the rest of the
        body, so that the client can read the response.
        """
        content_type = request.headers.get("content-type")
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

    async def understand(
        self, kind: type[GenerationFields], body: bytearray, created: float
    ) -> Asked:
        """What the body asks for; InvalidRequestError names the field and what was expected.

        A large body is cut and read beside the event loop, one at a time.
        """
        if len(body) <= SMALL:
            return read_request(kind, body, created)
        async with self._large:
            bulk = await _in_slices(cut(body))
            return await asyncio.to_thread(read_request, kind, bulk.skeleton, created, bulk)

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
