"""Who may call what: a server's rules by the role that the caller's certificate names."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, TypeAlias

import grpc

from ..handlers import Handler, behavior_of, is_generator, refusing, remade
from .credentials import Credentials
from .names import Identity, Role, parse_identity

Rules: TypeAlias = Mapping[str, Collection[Role]]  # "/package.Service/Method" -> who may
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]


def caller(context: _Context) -> Identity | None:
    """As its certificate names it; None: the connection has none."""
    found = list(context.auth_context().get("peer_spiffe_id") or ())
    return parse_identity(found[0].decode(errors="replace")) if len(found) == 1 else None


class RoleInterceptor(grpc.aio.ServerInterceptor):
    """Of a server that asks for certificates: what is not in the rules is PERMISSION_DENIED."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Lets through who may, or answers only no."""
        method = handler_call_details.method
        allowed = self._rules.get(method, ())
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if not allowed:
            why = f"no one may call {method}"
            return refusing(handler, grpc.StatusCode.PERMISSION_DENIED, why)
        return _checked(handler, method, allowed)


class PlaintextInterceptor(grpc.aio.ServerInterceptor):
    """Of a port without TLS beside one with it: serves everything only while that is accepted."""

    def __init__(self, always: Collection[str], credentials: Credentials) -> None:
        """`always`: names of services ("grpc.health.v1.Health") that are served to everybody."""
        self._always = frozenset(always)
        self._credentials = credentials

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Lets it through, or answers only no."""
        handler = await continuation(handler_call_details)
        service = handler_call_details.method.rpartition("/")[0].removeprefix("/")
        if handler is None or service in self._always or self._credentials.accepts_plaintext:
            return handler
        return refusing(
            handler, grpc.StatusCode.PERMISSION_DENIED, f"{service} is served with TLS only"
        )


def _checked(handler: Handler, method: str, allowed: Collection[Role]) -> Handler:
    def refusal(context: _Context) -> str:
        found = caller(context)
        if found is not None and found.role in allowed:
            return ""
        who = (
            f"{found.role} {found.namespace}/{found.pod}" if found else "a caller of no known name"
        )
        return f"{who} may not call {method}"

    async def refuse(context: _Context, why: str) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, why)

    inner = behavior_of(handler)
    # Each kind stays what it is: gRPC cancels a coroutine at its await as soon as the client has
    # left, and a generator only when its next value is asked for.
    if is_generator(handler):

        async def generated(request: Any, context: _Context) -> AsyncIterator[Any]:
            if why := refusal(context):
                await refuse(context, why)
            async with contextlib.aclosing(inner(request, context)) as messages:
                async for message in messages:
                    yield message

        return remade(handler, generated)

    async def answered(request: Any, context: _Context) -> Any:
        if why := refusal(context):
            await refuse(context, why)
        return await inner(request, context)

    return remade(handler, answered)
