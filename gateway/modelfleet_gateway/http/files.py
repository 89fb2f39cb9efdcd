"""`/v1/files`: upload, list, retrieve, content, delete."""

from __future__ import annotations

import functools
import time
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ..batches.objects import page
from ..batches.request import read_file
from ..batches.storage import Storage
from ..errors import InvalidRequestError, OverloadedError, quoted
from .asgi import request_id
from .generation import CLIENT_DISCONNECTED
from .owners import owner_of, refuse_pages
from .uploads import FormReader, form_reader, pieces

MOST_LISTED: Final = 10_000  # as OpenAI
RETRY_AFTER: Final = 5.0  # seconds


class FileEndpoints:
    """Files of one store."""

    def __init__(self, storage: Storage, origins: frozenset[str]) -> None:
        self._storage = storage
        self._origins = origins
        self._uploads = 0

    def routes(self) -> list[Route]:
        """Their URLs."""
        return [
            Route("/v1/files", self._list, methods=["GET"]),
            Route("/v1/files", self._upload, methods=["POST"]),
            Route("/v1/files/{id}", self._get, methods=["GET"]),
            Route("/v1/files/{id}", self._delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self._content, methods=["GET"]),
        ]

    async def _upload(self, request: Request) -> Response:
        """Memory stays at a piece for each upload, whatever their sizes are."""
        refuse_pages(request, self._origins)
        limits, owner = self._storage.limits, owner_of(request)
        reader = form_reader(request, limits.file_bytes)
        if self._uploads >= limits.uploads:
            raise OverloadedError(
                f"{self._uploads} files are being uploaded, the most at once. Try again later.",
                retry_after=RETRY_AFTER,
            )
        self._uploads += 1
        try:
            declared = request.headers.get("content-length", "0")
            size = int(declared) if declared.isdecimal() else 0
            await self._storage.call(lambda t: t.files.check_room(owner, size))
            return await self._receive(request, owner, reader)
        except ClientDisconnect:
            return Response(status_code=CLIENT_DISCONNECTED)
        finally:
            self._uploads -= 1

    async def _receive(self, request: Request, owner: str, reader: FormReader) -> Response:
        storage, contents = self._storage, self._storage.contents
        new = await storage.disk(contents.create)
        try:
            async for piece in pieces(request, reader):
                await storage.disk(functools.partial(new.write, piece))
            form, seconds = reader.finish(), storage.limits.file_seconds
            file = read_file(
                form.fields,
                form.filename,
                new.size,
                owner=owner,
                now=int(time.time()),
                seconds=seconds,
            )
            await storage.disk(functools.partial(contents.keep, new, file.id))
            try:
                await storage.call(lambda t: t.files.add(file))
            except BaseException:
                contents.delete([file.id])
                raise
        finally:
            new.discard()
        return _json(request, file.body())

    async def _list(self, request: Request) -> Response:
        asked, owner = request.query_params, owner_of(request)
        purpose, order = asked.get("purpose"), asked.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequestError("Expected asc or desc.", param="order")
        limit = read_limit(asked.get("limit"), MOST_LISTED, MOST_LISTED)
        files, has_more = await self._storage.call(
            lambda t: t.files.page(
                owner,
                purpose=purpose,
                after=asked.get("after"),
                limit=limit,
                newest_first=order == "desc",
            )
        )
        return _json(request, page([file.body() for file in files], has_more=has_more))

    async def _get(self, request: Request) -> Response:
        file_id, owner = request.path_params["id"], owner_of(request)
        file = await self._storage.call(lambda t: t.files.get(file_id, owner))
        return _json(request, file.body())

    async def _delete(self, request: Request) -> Response:
        file_id, owner = request.path_params["id"], owner_of(request)
        contents = self._storage.contents
        await self._storage.call(lambda t: t.files.delete(file_id, owner))
        await self._storage.disk(lambda: contents.delete([file_id]))
        return _json(request, {"id": file_id, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        file_id, owner = request.path_params["id"], owner_of(request)
        file = await self._storage.call(lambda t: t.files.get(file_id, owner))
        path = self._storage.contents.path(file.id)
        status = await self._storage.disk(path.stat)
        return FileResponse(
            path,
            stat_result=status,
            media_type="application/octet-stream",
            headers={"x-request-id": request_id(request)},
        )


def read_limit(given: str | None, default: int, most: int) -> int:
    """A list's `limit`; InvalidRequestError."""
    if given is None:
        return default
    if not given.isdecimal() or len(given) > 6 or not 1 <= int(given) <= most:
        raise InvalidRequestError(
            f"Invalid 'limit': Expected 1 to {most}, found {quoted(given)}.", param="limit"
        )
    return int(given)


def _json(request: Request, body: dict[str, object]) -> Response:
    return JSONResponse(body, headers={"x-request-id": request_id(request)})
