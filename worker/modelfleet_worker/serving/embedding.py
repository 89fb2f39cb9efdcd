"""One Embed call on this worker, from its arrival to its vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from modelfleet_proto import worker_pb2 as pb

from ..engine.embedding import Job, Vector
from ..errors import InvalidRequestError, NeverFitsError, RefusalError
from ..task import Task
from ..threads import post
from .lifecycle import Lifecycle
from .refused import log_refusal
from .requests import MAX_REQUEST_ID
from .serving_model import ServingEncoder
from .streams import Stream

MAX_INPUTS: Final = 256  # of one call
MAX_INPUT_BYTES: Final = 16 << 20  # of all its texts together
_QUICK_CHARACTERS: Final = 4096  # that are tokenized sooner than a thread starts
_BYTES_PER_TOKEN: Final = 128  # no text has so many of them for each of its tokens, but for spaces


class EmbeddingHandler:
    """Serves Embed."""

    def __init__(self, lifecycle: Lifecycle, worker_id: str) -> None:
        self._lifecycle = lifecycle
        self._worker_id = worker_id

    async def serve(self, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """The vectors of all inputs. Raises RefusalError."""
        lifecycle = self._lifecycle
        try:
            serving = lifecycle.embedding
            if serving is None or serving.spec.model != request.model:
                raise lifecycle.status.refusal(request.model, Task.EMBED)
            response = await self._embed(request, serving)
        except RefusalError as error:
            log_refusal(request, error)
            raise
        except asyncio.CancelledError:
            lifecycle.counters.cancelled += 1
            raise
        lifecycle.counters.finished += 1
        return response

    async def _embed(self, request: pb.EmbedRequest, serving: ServingEncoder) -> pb.EmbedResponse:
        check_request(request, serving)
        with self._lifecycle.streams.take_slot(serving.engine.limits.max_sequences) as stream:
            characters = sum(len(one.text) for one in request.inputs)
            if characters <= _QUICK_CHARACTERS:
                inputs = read_inputs(request, serving)
            else:
                inputs = await asyncio.to_thread(read_inputs, request, serving)
            vectors = await _computed(inputs, serving, stream)
        if 0 < request.dimensions < serving.engine.limits.dimensions:
            vectors = [shortened(v, request.dimensions, serving.normalize) for v in vectors]
        counters = self._lifecycle.counters
        if characters:
            counters.text_bytes += characters
            counters.text_tokens += sum(map(len, inputs))
        return pb.EmbedResponse(
            weights_digest=serving.weights_digest,
            worker_id=self._worker_id,
            embeddings=[
                pb.Embedding(vector=vector, tokens=len(ids))
                for vector, ids in zip(vectors, inputs, strict=True)
            ],
        )


def check_request(request: pb.EmbedRequest, serving: ServingEncoder) -> None:
    """Raises InvalidRequestError or NeverFitsError, before anything is made of the inputs."""
    limits = serving.engine.limits
    if len(request.request_id) > MAX_REQUEST_ID:
        raise InvalidRequestError(f"request_id is longer than {MAX_REQUEST_ID} characters")
    if not 0 < len(request.inputs) <= MAX_INPUTS:
        raise InvalidRequestError(f"expected 1 to {MAX_INPUTS} inputs, found {len(request.inputs)}")
    size = request.ByteSize()
    if size > MAX_INPUT_BYTES:
        raise NeverFitsError(f"the inputs have {size} bytes, of {MAX_INPUT_BYTES} at most")
    dimensions = request.dimensions or limits.dimensions
    if dimensions > limits.dimensions:
        raise InvalidRequestError(
            f"dimensions is {dimensions}, but {request.model} has {limits.dimensions}"
        )
    if dimensions < limits.dimensions and not serving.may_be_cut:
        raise InvalidRequestError(
            f"dimensions is {dimensions}, but vectors of {request.model} may not be cut: it was"
            f" not trained for that (its config.json says nothing of Matryoshka); leave it out, or"
            f" send {limits.dimensions}"
        )


def read_inputs(request: pb.EmbedRequest, serving: ServingEncoder) -> list[list[int]]:
    """The ids of each input. Raises InvalidRequestError and NeverFitsError, which name it."""
    tokenizer, limits = serving.tokenizer, serving.engine.limits
    most, longest = limits.context_length, _BYTES_PER_TOKEN * limits.context_length
    kinds = [one.WhichOneof("input") for one in request.inputs]
    texts: list[str] = []
    for number, (one, kind) in enumerate(
        zip(request.inputs, kinds, strict=True), request.first_input
    ):
        if kind is None:
            raise InvalidRequestError(f"input {number} is neither a text nor token ids")
        if kind != "text":
            continue
        if not one.text:
            raise InvalidRequestError(f"input {number} is empty: expected some text")
        # Of a text that is cut anyway, no more is looked at than may come to count.
        texts.append(one.text[:longest] if request.truncate else one.text)
    encoded = iter(tokenizer.encode(texts))
    inputs = []
    for number, (one, kind) in enumerate(
        zip(request.inputs, kinds, strict=True), request.first_input
    ):
        ids = next(encoded) if kind == "text" else list(one.token_ids.ids)
        if not ids:
            raise InvalidRequestError(f"input {number} has no tokens: expected at least one")
        if max(ids) >= limits.vocab_size:
            raise InvalidRequestError(
                f"input {number} has token {max(ids)}, but the model knows {limits.vocab_size}"
                " tokens"
            )
        if len(ids) > most and not request.truncate:
            raise NeverFitsError(
                f"input {number} has {len(ids)} tokens, but {request.model} takes {most} at most"
            )
        inputs.append(tokenizer.cut(ids, most) if kind == "text" else ids[:most])
    return inputs


def shortened(vector: Vector, dimensions: int, normalize: bool) -> Vector:
    """The first numbers of a vector, of length 1 again if the model's vectors are."""
    first = np.frombuffer(vector, "<f4", dimensions)
    if normalize:
        first = first / max(float(np.linalg.norm(first)), 1e-12)
    return first.astype("<f4").tobytes()


async def _computed(
    inputs: Sequence[Sequence[int]], serving: ServingEncoder, stream: Stream
) -> list[Vector]:
    """Raises what ended the stream: a drain that hands over, or a failure of the engine."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[Vector]] = loop.create_future()

    def deliver(vectors: list[Vector]) -> None:
        if not done.done():
            done.set_result(vectors)

    job = Job(inputs, lambda vectors: post(loop, deliver, vectors))
    ended = asyncio.create_task(stream.next())
    serving.engine.submit(job)
    try:
        either: set[asyncio.Future[Any]] = {done, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            ended.result()
        return done.result()
    finally:
        ended.cancel()
        if not done.done():
            serving.engine.drop(job)
