"""What the operator itself asks of a worker: to load the model of whoever claimed it."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from modelfleet_proto import worker_pb2, worker_pb2_grpc
from modelfleet_proto.handshake import call_metadata
from modelfleet_proto.mtls.credentials import Credentials, target

from .api.formats import parse_quantity
from .errors import PassingError, RejectedError

# Seconds. A worker answers at once, and loads afterwards; where many start on few processors, one
# that answers late is still the first to be ready, and a pod in its place would slow all of them.
TIMEOUT = 20.0

_PASSING = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_TEXTS = {
    "model": "model",
    "source": "source",
    "revision": "revision",
    "dtype": "dtype",
    "generation-defaults": "generation_defaults",
    "tool-parser": "tool_parser",
    "reasoning-parser": "reasoning_parser",
    "task": "task",
}
_COUNTS = {
    "context-length": "context_length",
    "max-sequences": "max_sequences",
    "max-batch-tokens": "max_batch_tokens",
}
_SWITCHES = {"no-prefix-caching": "disable_prefix_caching", "deterministic": "deterministic"}


def model_spec(flags: Sequence[str]) -> worker_pb2.ModelSpec:
    """What `views.model_flags` told a worker of its own, as LoadModel tells it.

    Read from the flags, since those of old revisions are kept, and the objects are not. ValueError
    for a flag that is none of the model's.
    """
    spec = worker_pb2.ModelSpec()
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if name in _TEXTS:
            setattr(spec, _TEXTS[name], value)
        elif name in _COUNTS:
            setattr(spec, _COUNTS[name], int(value))
        elif name in _SWITCHES:
            setattr(spec, _SWITCHES[name], True)
        elif name == "kv-cache-memory":
            spec.kv_cache_bytes = parse_quantity(value)
        elif name == "weights":
            spec.quantization.weights = value
        elif name == "group-size":
            spec.quantization.group_size = int(value)
        elif name == "override":
            modules, _, weights = value.rpartition("=")
            spec.quantization.overrides.add(modules=modules, weights=weights)
        elif name == "kv-cache":
            spec.quantization.kv_cache = value
        else:
            raise ValueError(f"expected a flag that says which model it is, found {flag}")
    return spec


async def load_model(
    address: str,
    flags: Sequence[str],
    credentials: Credentials | None = None,
    server_name: str = "",
) -> None:
    """Has the worker begin to load it; one that does already goes on.

    With credentials, of this operator, the worker must have a certificate of that name.
    PassingError when it does not answer, RejectedError when it will not.
    """
    request = worker_pb2.LoadModelRequest(spec=model_spec(flags))
    async with _channel(address, credentials, server_name) as channel:
        stub = worker_pb2_grpc.WorkerStub(channel)
        try:
            await stub.LoadModel(request, timeout=TIMEOUT, metadata=call_metadata("operator"))
        except grpc.aio.AioRpcError as error:
            message = f"asking {address} to load {request.spec.model}: {error.details()}"
            if error.code() in _PASSING:
                raise PassingError(message) from error
            raise RejectedError(message) from error


def _channel(address: str, credentials: Credentials | None, server_name: str) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address)
    # Traffic inside the fleet never goes through the proxy that the environment names.
    options = (target(server_name), ("grpc.enable_http_proxy", 0))
    return grpc.aio.secure_channel(address, credentials.channel, options)
