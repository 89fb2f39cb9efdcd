"""Token ids of prompts, and texts of token ids: from a worker that is there, which is no load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc

from modelfleet_proto import worker_pb2

from ..errors import NotReadyError
from .calls import failure_of
from .channels import METADATA
from .failover import NO_FAILURES, End, after_failure
from .queue import ModelQueue
from .workers import Worker

TIMEOUT: Final = 20.0  # seconds that a worker may take
RETRY_AFTER: Final = 5.0

Reply = TypeVar("Reply")
Send = Callable[[Worker], Awaitable[Reply]]


async def tokenize(
    queue: ModelQueue, prompt: bytes, *, special_tokens: bool = True, texts: bool = False
) -> worker_pb2.TokenizeResponse:
    """The ids of a prompt, a serialized GenerateRequest.

    Raises NotReadyError if no worker is ready, InvalidRequestError, ContextLengthExceededError.
    """
    request = worker_pb2.TokenizeRequest(no_special_tokens=not special_tokens, with_texts=texts)
    request.request.MergeFromString(prompt)
    request.request.model = queue.view.model
    return await _ask(
        queue, lambda worker: worker.stub.Tokenize(request, metadata=METADATA, timeout=TIMEOUT)
    )


async def detokenize(queue: ModelQueue, ids: list[int]) -> str:
    """The text of ids; raises as `tokenize`."""
    request = worker_pb2.DetokenizeRequest(model=queue.view.model, ids=ids)
    response = await _ask(
        queue, lambda worker: worker.stub.Detokenize(request, metadata=METADATA, timeout=TIMEOUT)
    )
    return response.text


async def _ask(queue: ModelQueue, send: Send[Reply]) -> Reply:
    """The answer of the first worker that gives one, the least loaded first."""
    ready = [worker for worker in queue.workers.values() if worker.ready]
    last = "none is ready now"
    for worker in sorted(ready, key=lambda worker: worker.outstanding):
        try:
            return await send(worker)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
        verdict = after_failure(failure, NO_FAILURES)
        if isinstance(verdict, End):
            raise verdict.error
        last = f"the last one said {failure.code.name}: {failure.details[:200]}"
    raise NotReadyError(
        f"Tokens of {queue.view.model} are counted by its workers, and none is started for that: "
        f"{last}. A request for an answer starts one.",
        retry_after=RETRY_AFTER,
    )
