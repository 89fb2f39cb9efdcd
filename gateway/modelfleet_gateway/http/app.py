"""The gateway's URLs."""

from __future__ import annotations

import asyncio
import functools
import time

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modelfleet_process.tracing import Tracing

from ..access.caller import caller_of
from ..anthropic_api.request import MessagesRequest
from ..batches.runner import Runner
from ..batches.storage import Storage
from ..errors import (
    BUG,
    GatewayError,
    InternalError,
    MethodNotAllowedError,
    UnknownUrlError,
    UnsupportedEndpointError,
    quoted,
)
from ..metrics import Metrics
from ..ollama_api.embed import EmbedRequest, OldEmbeddingsRequest
from ..ollama_api.request import ChatRequest as OllamaChat
from ..ollama_api.request import GenerateRequest as OllamaGenerate
from ..openai_api.chat import ChatRequest
from ..openai_api.completions import CompletionRequest
from ..openai_api.embeddings import EmbeddingsRequest, read_embeddings
from ..openai_api.fields import read_request
from ..openai_api.models import model_card, model_list
from ..openai_api.translated import read_translated
from ..options import Options
from ..responses_api.reader import ResponsesReader
from ..responses_api.store import ResponseStore
from ..routing.dispatch import Dispatcher
from .access_log import AccessLog
from .asgi import CloseOnDrain, KeyCheck, request_id
from .batches import BatchEndpoints
from .body import BodyReader, ByOwner
from .cors import with_cors
from .dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, dialect_of
from .embeddings import EmbeddingEndpoint
from .files import FileEndpoints
from .generation import GenerationEndpoint, Surroundings
from .in_process import InProcess
from .json_endpoint import JsonEndpoint
from .ollama import OllamaEndpoints
from .openapi import document
from .tokens import token_endpoints


class App:
    """Answers HTTP: `api` is the ASGI application for clients, `probes` the one for operators."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        metrics: Metrics,
        options: Options,
        tracing: Tracing | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self.draining = asyncio.Event()
        self.stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.bodies = BodyReader(
            max_body_bytes=options.max_body_bytes, max_held_bytes=options.max_held_bytes
        )
        gateway = Surroundings(
            dispatcher=dispatcher,
            metrics=metrics,
            bodies=self.bodies,
            draining=self.draining,
            stop=self.stop,
            access_log=AccessLog(options.access_log) if options.access_log else None,
            tracing=tracing,
        )
        endpoint = functools.partial(GenerationEndpoint, gateway=gateway)
        embedding = functools.partial(EmbeddingEndpoint, gateway=gateway)
        make = functools.partial(JsonEndpoint, bodies=self.bodies, draining=self.draining)
        responses = ResponsesReader(
            ResponseStore(max_count=options.keep_responses, seconds=options.keep_responses_for)
            if options.keep_responses
            else None
        )
        ollama = OllamaEndpoints(dispatcher)
        self.direct: dict[str, ASGIApp] = {
            "/v1/chat/completions": endpoint(functools.partial(read_request, ChatRequest), OPENAI),
            "/v1/completions": endpoint(functools.partial(read_request, CompletionRequest), OPENAI),
            "/v1/embeddings": embedding(
                functools.partial(read_embeddings, EmbeddingsRequest), OPENAI
            ),
            "/v1/responses": endpoint(ByOwner(responses.read), RESPONSES),
            "/v1/messages": endpoint(
                functools.partial(read_translated, MessagesRequest), ANTHROPIC
            ),
            "/api/chat": endpoint(functools.partial(read_translated, OllamaChat), OLLAMA),
            "/api/generate": endpoint(functools.partial(read_translated, OllamaGenerate), OLLAMA),
            "/api/embed": embedding(functools.partial(read_embeddings, EmbedRequest), OLLAMA),
            "/api/embeddings": embedding(
                functools.partial(read_embeddings, OldEmbeddingsRequest), OLLAMA
            ),
            **token_endpoints(dispatcher, responses, make),
            **ollama.direct(make),
        }
        self.runner: Runner | None = None
        self.lines = InProcess(  # of batches
            self.direct, lambda key_id: dispatcher.keys.by_id(key_id, time.time())
        )
        batches = [
            Route(f"/v1/{name}{rest}", _no_batches, methods=["GET", "POST", "DELETE"])
            for name in ("files", "batches")
            for rest in ("", "/{rest:path}")
        ]
        if options.batch_dir is not None:
            storage = Storage(options.batch_dir, options.batches)
            self.runner = Runner(
                storage,
                dispatcher,
                self.lines,
                metrics,
                options.batches,
                gateway_id=options.gateway_id,
                draining=self.draining,
            )
            origins = frozenset(origin.lower() for origin in options.cors_origins)
            batches = [
                *FileEndpoints(storage, origins).routes(),
                *BatchEndpoints(storage, self.runner, self.bodies, origins).routes(),
            ]
        health = [Route("/healthz", self._healthz), Route("/readyz", self._readyz)]
        api = _application(
            *(Route(path, app, methods=["POST"]) for path, app in self.direct.items()),
            Route("/v1/responses/{rest:path}", _unsupported, methods=["GET", "POST", "DELETE"]),
            *batches,
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._model),
            Route("/openapi.json", self._openapi),
            *ollama.routes(),
            *health,
        )
        told = CloseOnDrain(api, self.draining, direct=self.direct)
        checked = KeyCheck(
            told,
            dispatcher.keys,
            self.draining,
            on_refused=functools.partial(metrics.count_response, ""),
        )
        self.api: ASGIApp = with_cors(checked, options.cors_origins)
        self.probes: ASGIApp = _application(Route("/metrics", self._serve_metrics), *health)

    async def _models(self, request: Request) -> Response:
        models = model_list(self._dispatcher.view_in_force(), caller_of(request.scope))
        return JSONResponse(models, headers={"x-request-id": request_id(request)})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        model = await self._dispatcher.find(name, caller_of(request.scope))
        card = model_card(name, model)
        return JSONResponse(card, headers={"x-request-id": request_id(request)})

    async def _openapi(self, request: Request) -> Response:
        described = document(batches=self.runner is not None)
        return JSONResponse(described, headers={"x-request-id": request_id(request)})

    async def _healthz(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readyz(self, _: Request) -> Response:
        if self.draining.is_set():
            return PlainTextResponse("draining\n", status_code=503)
        if self._dispatcher.view is None:
            return PlainTextResponse("waiting for the operator's first view\n", status_code=503)
        return PlainTextResponse("ready\n")

    async def _serve_metrics(self, request: Request) -> Response:
        content, content_type = self.exposition(request.headers.get("accept", ""))
        return Response(content, headers={"content-type": content_type})

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What Prometheus reads now, and its content type."""
        now = asyncio.get_running_loop().time()
        for queue in self._dispatcher.queues.values():
            queue.meter.publish_tokens()
            queue.meter.publish_waits()
            queue.meter.oldest_wait.set(queue.requests.oldest_wait(now))
            queue.meter.queue_depth.set(len(queue.requests))
            queue.meter.in_flight.set(queue.running)
            queue.meter.ready_workers.set(queue.ready_workers)
        self._metrics.set_batches(self.runner.counts() if self.runner is not None else ())
        self._metrics.set_workers(
            (name, worker.stats)
            for name, queue in self._dispatcher.queues.items()
            for worker in queue.workers.values()
            if worker.ready and worker.stats is not None
        )
        encode, content_type = choose_encoder(accept)
        return encode(self._metrics.registry), content_type


def _application(*routes: Route) -> Starlette:
    application = Starlette(
        routes=routes,
        exception_handlers={
            GatewayError: _gateway_error,
            HTTPException: _http_error,
            Exception: _bug,
        },
    )
    application.router.redirect_slashes = False  # a redirect would repeat the Host as it was sent
    return application


async def _no_batches(request: Request) -> Response:
    raise UnsupportedEndpointError(
        f"{quoted(request.scope['path'])} is not served here: this gateway keeps no files and "
        "batches (--batch-dir)."
    )


async def _unsupported(request: Request) -> Response:
    raise UnsupportedEndpointError(
        f"{quoted(request.scope['path'])} is not served here: of /v1/responses only its creation "
        "and /v1/responses/input_tokens are."
    )


def _error_response(error: GatewayError, request: Request) -> Response:
    dialect = dialect_of(request.scope["path"])
    headers = error.headers() | dict.fromkeys(dialect.id_headers, request_id(request))
    if "content-length" in request.headers or "transfer-encoding" in request.headers:
        headers["connection"] = "close"  # its body was not read
    return JSONResponse(dialect.error_body(error), status_code=error.status, headers=headers)


async def _gateway_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)  # noqa: S101 - registered for it
    return _error_response(error, request)


async def _bug(request: Request, _: Exception) -> Response:
    """The server logs it."""
    return _error_response(InternalError(BUG), request)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: only the router raises them here."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    asked = quoted(f"{request.method} {request.scope['path']}")
    if error.status_code == MethodNotAllowedError.status:
        response = _error_response(MethodNotAllowedError(f"Not allowed here: {asked}"), request)
        response.headers.update(error.headers or {})
        return response
    return _error_response(UnknownUrlError(f"Unknown request URL: {asked}"), request)
