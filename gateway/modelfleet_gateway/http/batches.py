"""`/v1/batches`: create, retrieve, list, cancel."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..batches.objects import BATCH, Batch, page
from ..batches.request import read_batch
from ..batches.runner import Runner
from ..batches.storage import Storage, Tables
from ..errors import InvalidRequestError, quoted
from .asgi import request_id
from .body import BodyReader
from .files import read_limit
from .generation import CLIENT_DISCONNECTED
from .owners import key_id_of, owner_of, refuse_pages

LISTED: Final = 20  # as OpenAI
MOST_LISTED: Final = 100


class BatchEndpoints:
    """Batches of one store, and the runner that is told of them."""

    def __init__(
        self, storage: Storage, runner: Runner, bodies: BodyReader, origins: frozenset[str]
    ) -> None:
        self._storage = storage
        self._runner = runner
        self._bodies = bodies
        self._origins = origins

    def routes(self) -> list[Route]:
        """Their URLs."""
        return [
            Route("/v1/batches", self._list, methods=["GET"]),
            Route("/v1/batches", self._create, methods=["POST"]),
            Route("/v1/batches/{id}", self._get, methods=["GET"]),
            Route("/v1/batches/{id}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _create(self, request: Request) -> Response:
        refuse_pages(request, self._origins)
        owner = owner_of(request)
        try:
            with self._bodies.hold() as hold:
                body = await self._bodies.read(request, hold)
                batch = await self._bodies.understand(read_batch, body, time.time())
        except ClientDisconnect:
            return Response(status_code=CLIENT_DISCONNECTED)
        batch = replace(batch, owner=owner, key_id=key_id_of(request))
        await self._storage.call(lambda tables: _add(tables, batch))
        self._runner.wake()
        return _json(request, batch)

    async def _get(self, request: Request) -> Response:
        batch_id, owner = request.path_params["id"], owner_of(request)
        return _json(request, await self._storage.call(lambda t: t.batches.get(batch_id, owner)))

    async def _list(self, request: Request) -> Response:
        asked, owner = request.query_params, owner_of(request)
        limit = read_limit(asked.get("limit"), LISTED, MOST_LISTED)
        batches, has_more = await self._storage.call(
            lambda t: t.batches.page(owner, after=asked.get("after"), limit=limit)
        )
        listed = page([batch.body() for batch in batches], has_more=has_more)
        return JSONResponse(listed, headers={"x-request-id": request_id(request)})

    async def _cancel(self, request: Request) -> Response:
        refuse_pages(request, self._origins)
        batch_id, owner, now = request.path_params["id"], owner_of(request), int(time.time())
        batch = await self._storage.call(lambda t: t.batches.cancel(batch_id, owner, now))
        self._runner.wake()
        return _json(request, batch)


def _add(tables: Tables, batch: Batch) -> None:
    file = tables.files.get(batch.input_file_id, batch.owner)
    if file.purpose != BATCH:
        raise InvalidRequestError(
            f"Invalid 'input_file_id': Expected a file of purpose {BATCH!r}, found "
            f"{quoted(file.purpose)}.",
            param="input_file_id",
        )
    tables.batches.add(batch)


def _json(request: Request, batch: Batch) -> Response:
    return JSONResponse(batch.body(), headers={"x-request-id": request_id(request)})
