"""A gRPC method's handler with another behaviour, or one that only refuses."""

from __future__ import annotations

import inspect
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def behavior_of(handler: Handler) -> Any:
    """What serves its calls: of four attributes the one that is set."""
    found: Any = handler
    if handler.request_streaming:
        return found.stream_stream if handler.response_streaming else found.stream_unary
    return found.unary_stream if handler.response_streaming else found.unary_unary


def is_generator(handler: Handler) -> bool:
    """Whether it yields its messages; others write them through the context."""
    return inspect.isasyncgenfunction(behavior_of(handler))


def remade(handler: Handler, behavior: Any) -> Handler:
    """The same kind of method, so that the caller's side of the stream fits."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    made: Handler = make(
        behavior,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


def refusing(handler: Handler, code: grpc.StatusCode, reason: str) -> Handler:
    """Answers only no."""

    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await context.abort(code, reason)

    async def refuse_stream(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await context.abort(code, reason)
        yield  # makes this an async generator, as a streaming method must be

    return remade(handler, refuse_stream if handler.response_streaming else refuse)
