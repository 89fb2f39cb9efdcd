"""Ollama's URLs that tell of models, and those that are refused by name."""

from __future__ import annotations

from functools import partial
from typing import Final

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from modelfleet_proto import worker_pb2
from modelfleet_proto.handshake import VERSION

from ..access.caller import Caller, caller_of
from ..errors import UnsupportedEndpointError
from ..ollama_api.models import API_VERSION, running, shown, tag, without_tag
from ..openai_api.answer import Json
from ..openai_api.translated import STRICT, read_fields
from ..routing.dispatch import Dispatcher
from .asgi import request_id
from .dialects import OLLAMA
from .json_endpoint import MakeEndpoint

DEPLOYMENTS: Final = "models are ModelDeployments, which come and go with the objects of this name."
REFUSED: Final = {
    "/api/pull": DEPLOYMENTS,
    "/api/push": DEPLOYMENTS,
    "/api/create": DEPLOYMENTS,
    "/api/copy": DEPLOYMENTS,
    "/api/delete": DEPLOYMENTS,
}


class Named(BaseModel):
    """A body that names a model."""

    model_config = STRICT

    model: str


class OllamaEndpoints:
    """What is known of models, without waking any."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def direct(self, make: MakeEndpoint) -> dict[str, ASGIApp]:
        """Applications by path, for POST."""
        return {"/api/show": make(partial(read_fields, Named), self._show, OLLAMA)}

    def routes(self) -> list[Route]:
        """All others."""
        anything = ["GET", "POST", "PUT", "DELETE"]
        return [
            Route("/api/tags", self._tags),
            Route("/api/ps", self._ps),
            Route("/api/version", self._version),
            *(Route(path, self._refuse, methods=anything) for path in REFUSED),
        ]

    async def _tags(self, request: Request) -> Response:
        view = self._dispatcher.view_in_force()
        models = [
            tag(name, view.resolve(name), self._stats(view.names[name]))
            for name in view.names_for(caller_of(request.scope))
        ]
        return _written(request, {"models": models})

    async def _ps(self, request: Request) -> Response:
        view = self._dispatcher.view_in_force()
        models = [
            running(name, stats)
            for name in view.names_for(caller_of(request.scope))
            if (stats := self._stats(view.names[name])) is not None
        ]
        return _written(request, {"models": models})

    async def _version(self, request: Request) -> Response:
        return _written(request, {"version": API_VERSION, "server": f"modelfleet/{VERSION}"})

    async def _refuse(self, request: Request) -> Response:
        path = request.scope["path"]
        raise UnsupportedEndpointError(f"{path} is not served here: {REFUSED[path]}")

    async def _show(self, asked: Named, caller: Caller) -> Json:
        model = await self._dispatcher.find(without_tag(asked.model), caller)
        return shown(model, self._stats(model.model))

    def _stats(self, model: str) -> worker_pb2.Stats | None:
        """Those of one of the workers that serve it, if there is one."""
        queue = self._dispatcher.queues.get(model)
        workers = queue.workers.values() if queue is not None else ()
        return next((worker.stats for worker in workers if worker.ready), None)


def _written(request: Request, body: Json) -> Response:
    return JSONResponse(body, headers={"x-request-id": request_id(request)})
