"""The gateway's URLs."""

from __future__ import annotations

import asyncio
import functools

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..errors import GatewayError, MethodNotAllowedError, UnknownUrlError
from ..metrics import Metrics
from ..openai_api.chat import ChatRequest
from ..openai_api.completions import CompletionRequest
from ..openai_api.models import model_card, model_list
from ..routing.dispatch import Dispatcher
from .asgi import request_id
from .generation import GenerationEndpoint


class App:
    """Answers HTTP; `starlette` is the ASGI application."""

    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, *, max_body_bytes: int) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self.draining = asyncio.Event()
        self.stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        endpoint = functools.partial(
            GenerationEndpoint,
            dispatcher=dispatcher,
            metrics=metrics,
            max_body_bytes=max_body_bytes,
            stop=self.stop,
        )
        chat = endpoint(ChatRequest)
        completions = endpoint(CompletionRequest)
        self.starlette = Starlette(
            routes=[
                Route("/v1/chat/completions", chat, methods=["POST"]),
                Route("/v1/completions", completions, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._serve_metrics),
            ],
            exception_handlers={GatewayError: _gateway_error, HTTPException: _http_error},
        )

    async def _models(self, request: Request) -> Response:
        models = model_list(self._dispatcher.view_in_force())
        return JSONResponse(models, headers={"x-request-id": request_id(request)})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        card = model_card(name, await self._dispatcher.find(name))
        return JSONResponse(card, headers={"x-request-id": request_id(request)})

    async def _healthz(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, _: Request) -> Response:
        if self.draining.is_set():
            return PlainTextResponse("draining\n", status_code=503)
        if self._dispatcher.view is None:
            return PlainTextResponse("waiting for the operator's first view\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def _serve_metrics(self, request: Request) -> Response:
        for queue in self._dispatcher.queues.values():
            queue.meter.queue_depth.set(len(queue.requests))
            queue.meter.in_flight.set(queue.running)
            queue.meter.ready_workers.set(queue.ready_workers)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._metrics.registry), headers={"content-type": content_type})


def _error_response(error: GatewayError, request: Request) -> Response:
    headers = error.headers() | {"x-request-id": request_id(request)}
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)  # noqa: S101 - registered for it
    return _error_response(error, request)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: only the router raises them here."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    asked = f"{request.method} {request.url.path}"
    if error.status_code == MethodNotAllowedError.status:
        response = _error_response(MethodNotAllowedError(f"Not allowed here: {asked}"), request)
        response.headers.update(error.headers or {})
        return response
    return _error_response(UnknownUrlError(f"Unknown request URL: {asked}"), request)
