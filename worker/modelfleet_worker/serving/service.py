"""The Worker service: the calls of worker.proto, and each request from its arrival to its end."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import grpc
import structlog
from typing_extensions import override

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from modelfleet_proto.refusals import refusal_metadata

from ..engine.messages import Abort, Add, RequestOutput, TokenLogprobs
from ..engine.request import FinishReason
from ..errors import AllSlotsTakenError, InvalidRequestError, PreconditionError, RefusalError
from ..spec import ModelSpec
from ..text.detokenizer import Answer, Ending
from ..text.tokenizer import Pieces
from .lifecycle import Lifecycle, ServingModel
from .prompts import PromptReader
from .requests import build_engine_request, check_counts
from .stats import build_stats
from .streams import Stream

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]

_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}
_HEARTBEAT = 1.0  # seconds between Stats at most: gateways take a silent worker for a stopped one
_CHECK = 0.1  # seconds between checks for a change of load


class WorkerService(worker_pb2_grpc.WorkerServicer):
    """All calls of worker.proto. A RefusalError becomes the status it names."""

    def __init__(self, lifecycle: Lifecycle, worker_id: str) -> None:
        self._lifecycle = lifecycle
        self._worker_id = worker_id
        self._instance_id = uuid.uuid4().hex
        self._closing = False
        self._prompts = PromptReader()

    def close(self) -> None:
        """Ends the Stats streams."""
        self._closing = True
        self._lifecycle.changed.notify()

    # Written through the context, not yielded: a coroutine is cancelled at its await as soon as
    # the client leaves, a generator only when its next value is asked for.
    @override
    async def Generate(self, request: pb.GenerateRequest, context: Context) -> None:  # type: ignore[override]
        """Refuses before the first message, or serves to the end."""
        lifecycle = self._lifecycle
        try:
            serving = lifecycle.serving
            if serving is None or serving.spec.model != request.model:
                raise lifecycle.status.refusal(request.model)
            await self._generate(request, serving, context)
        except RefusalError as error:
            # A full worker refuses often: not worth a log line.
            if not isinstance(error, AllSlotsTakenError):
                log.info(
                    "refused or handed over",
                    model=request.model[:200],
                    request_id=request.request_id[:64],
                    status=error.status.name,
                    reason=str(error)[:500],
                )
            await _abort(context, error)
        except asyncio.CancelledError:
            lifecycle.counters.cancelled += 1
            raise
        except grpc.aio.InternalError:  # raised by a write if the client has left
            lifecycle.counters.cancelled += 1

    async def _generate(
        self, request: pb.GenerateRequest, serving: ServingModel, context: Context
    ) -> None:
        """Serves one request. Raises RefusalError; aborts it in the engine if it is cancelled."""
        started, request_id = time.monotonic(), request.request_id[:64]
        limits = serving.engine.limits
        if request.HasField("resume") and request.resume.model_digest != serving.digest:
            raise PreconditionError(
                "the stream began on a worker with model digest"
                f" {request.resume.model_digest[:64]}; this one's is {serving.digest}"
            )
        check_counts(request, limits)
        counters = self._lifecycle.counters
        with self._lifecycle.streams.take_slot(limits.max_sequences) as stream:
            asked, prompt_ids = await self._prompts.read(request, serving)
            if asked.prompt_bytes:
                counters.text_bytes += asked.prompt_bytes
                counters.text_tokens += len(prompt_ids)
            engine_request = build_engine_request(
                asked, prompt_ids, stream.engine_id, serving.eos_ids, limits
            )
            answer = Answer(
                serving.tokenizer,
                stops=asked.stop_strings,
                stop_ids=engine_request.stop_token_ids,
                max_tokens=engine_request.max_tokens,
            )
            for token_id in asked.resumed_ids:  # their text was sent by the worker that made them
                if answer.ending is None:
                    answer.push(token_id)
            accepted = pb.Accepted(
                model_digest=serving.digest,
                worker_id=self._worker_id,
                prompt_tokens=len(prompt_ids),
            )
            cached_tokens = 0
            if answer.ending is None:
                serving.engine.submit(Add(engine_request))
                log.debug("admitted", request_id=request_id, prompt_tokens=len(prompt_ids))
                try:
                    await context.write(pb.GenerateResponse(accepted=accepted))
                    cached_tokens = await _stream(stream, answer, serving.tokenizer, context)
                finally:
                    if not stream.finished:  # a stop string, a client that left, or a drain
                        serving.engine.submit(Abort(stream.engine_id))
            else:
                await context.write(pb.GenerateResponse(accepted=accepted))
            finished = _finished(answer, len(prompt_ids), cached_tokens)
            await context.write(pb.GenerateResponse(finished=finished))
            counters.finished += 1
            log.debug(
                "finished",
                request_id=request_id,
                completion_tokens=finished.completion_tokens,
                cached_tokens=cached_tokens,
                seconds=round(time.monotonic() - started, 4),
            )

    @override
    async def LoadModel(
        self, request: pb.LoadModelRequest, context: Context
    ) -> pb.LoadModelResponse:
        """Starts loading."""
        try:
            self._lifecycle.load(ModelSpec.from_proto(request.spec))
        except RefusalError as error:
            await _abort(context, error)
        return pb.LoadModelResponse()

    @override
    async def UnloadModel(
        self, request: pb.UnloadModelRequest, context: Context
    ) -> pb.UnloadModelResponse:
        """Returns when the memory is free."""
        try:
            await self._lifecycle.unload(_deadline(request.deadline_seconds))
        except RefusalError as error:
            await _abort(context, error)
        return pb.UnloadModelResponse()

    @override
    async def Drain(self, request: pb.DrainRequest, context: Context) -> pb.DrainResponse:
        """Returns at once."""
        try:
            running = self._lifecycle.drain(_deadline(request.deadline_seconds))
        except RefusalError as error:
            await _abort(context, error)
        return pb.DrainResponse(running=running)

    @override
    async def GetStats(self, request: pb.StatsRequest, context: Context) -> pb.Stats:
        """As of now."""
        return self._stats()

    @override
    async def WatchStats(
        self, request: pb.StatsRequest, context: Context
    ) -> AsyncIterator[pb.Stats]:
        """At once, on each change, and every second."""
        loop = asyncio.get_running_loop()
        changed = self._lifecycle.changed
        while not self._closing:
            seen = changed.count
            stats = self._stats()
            yield stats
            sent = loop.time()
            while changed.count == seen and loop.time() - sent < _HEARTBEAT - _CHECK:
                try:
                    async with asyncio.timeout(_CHECK):
                        await changed.wait_after(seen)
                except TimeoutError:
                    if _load_key(self._stats()) != _load_key(stats):
                        break

    def _stats(self) -> pb.Stats:
        return build_stats(self._lifecycle, self._worker_id, self._instance_id)


def _load_key(stats: pb.Stats) -> tuple[int, int, str, float]:
    """What makes another Stats worth sending before the heartbeat."""
    return stats.running, stats.waiting, stats.load.phase, round(stats.load.percent)


def _deadline(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InvalidRequestError(f"deadline_seconds must be 0 or more, found {seconds}")
    return seconds


async def _abort(context: Context, error: RefusalError) -> NoReturn:
    await context.abort(error.status, error.details, refusal_metadata(error.mark))


async def _stream(stream: Stream, answer: Answer, pieces: Pieces, context: Context) -> int:
    """Writes batches until the answer ends; returns the prompt tokens that the cache had."""
    cached_tokens = 0
    while answer.ending is None:
        outputs = await stream.next()
        cached_tokens = max(cached_tokens, *(output.cached_tokens for output in outputs))
        tokens = _batch(outputs, answer, pieces)
        if tokens.ids:
            await context.write(pb.GenerateResponse(tokens=tokens))
    return cached_tokens


def _batch(outputs: Sequence[RequestOutput], answer: Answer, pieces: Pieces) -> pb.Tokens:
    """What the outputs add to the answer; ids beyond its end are discarded."""
    tokens = pb.Tokens()
    text: list[str] = []
    for output in outputs:
        for i, token_id in enumerate(output.ids):
            if answer.ending is not None:
                break
            text.append(answer.push(token_id))
            tokens.ids.append(token_id)
            if output.logprobs:
                tokens.logprobs.append(_logprobs(token_id, output.logprobs[i], pieces))
        if output.finished is not None and answer.ending is None:
            answer.ending = Ending(output.finished)
    tokens.text = "".join(text)
    return tokens


def _logprobs(token_id: int, logprobs: TokenLogprobs, pieces: Pieces) -> pb.TokenLogprobs:
    def entry(token_id: int, logprob: float) -> pb.TokenLogprob:
        return pb.TokenLogprob(id=token_id, token=pieces.piece(token_id), logprob=logprob)

    return pb.TokenLogprobs(
        chosen=entry(token_id, logprobs.chosen), top=[entry(*top) for top in logprobs.top]
    )


def _finished(answer: Answer, prompt_tokens: int, cached_tokens: int) -> pb.Finished:
    text = answer.close()
    if answer.ending is None:
        raise AssertionError("an answer is closed before its end")
    return pb.Finished(
        reason=_REASONS[answer.ending.reason],
        text=text,
        stop_string=answer.ending.stop_string,
        prompt_tokens=prompt_tokens,
        completion_tokens=answer.tokens,
        cached_tokens=cached_tokens,
    )
