"""One request on this worker, from its arrival to its last event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from modelfleet_process.tracing import Tracing
from modelfleet_proto import worker_pb2 as pb

from ..engine.messages import Abort, Add, RequestOutput, TokenLogprobs
from ..engine.request import FinishReason, Request
from ..errors import CallerLeftError, PreconditionError, RefusalError
from ..text.constraint import TokenConstraint
from ..text.detokenizer import Answer, Ending, PartedAnswer
from ..text.output.parts import Kind, Part
from ..text.tokenizer import Pieces, Tokenizer
from .formats import GrammarCompiler
from .lifecycle import Lifecycle
from .prompts import PromptReader
from .refused import log_refusal
from .requests import GenerationRequest, build_engine_request, check_counts
from .serving_model import ServingModel
from .streams import Stream
from .tracing import WorkerTrace

log = structlog.get_logger()

Event = pb.Accepted | pb.Tokens | pb.Finished
# Passes events on to the caller, and returns when more may come. Raises CallerLeftError.
Send = Callable[[Sequence[Event]], Awaitable[None]]

_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


class RequestHandler:
    """Serves requests, however they came."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        worker_id: str,
        prompts: PromptReader,
        tracing: Tracing | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._worker_id = worker_id
        self._prompts = prompts
        self._formats = GrammarCompiler()
        self._tracing = tracing

    async def serve(self, request: pb.GenerateRequest, send: Send) -> RefusalError | None:
        """Serves a request to its end; returns why it was refused or ended early.

        Cancelled, or if its caller leaves, it is aborted in the engine.
        """
        if self._tracing is None:
            return await self._serve(request, send, None)
        trace = WorkerTrace(self._tracing, request)
        try:
            error = await self._serve(request, send, trace)
        except BaseException:
            trace.end(None, cancelled=True)
            raise
        trace.end(error)
        return error

    async def _serve(
        self, request: pb.GenerateRequest, send: Send, trace: WorkerTrace | None
    ) -> RefusalError | None:
        lifecycle = self._lifecycle
        try:
            serving = lifecycle.serving
            if serving is None or serving.spec.model != request.model:
                raise lifecycle.status.refusal(request.model)
            await self._generate(request, serving, send, trace)
        except RefusalError as error:
            log_refusal(request, error)
            return error
        except asyncio.CancelledError:
            lifecycle.counters.cancelled += 1
            raise
        except CallerLeftError:
            lifecycle.counters.cancelled += 1
        return None

    async def _generate(
        self,
        request: pb.GenerateRequest,
        serving: ServingModel,
        send: Send,
        trace: WorkerTrace | None,
    ) -> None:
        started, request_id = time.monotonic(), request.request_id[:64]
        limits = serving.engine.limits
        if request.HasField("resume"):
            _check_continues(request.resume, serving)
        check_counts(request, limits)
        counters = self._lifecycle.counters
        prepares = request.resume.prepares
        with self._lifecycle.streams.take_slot(limits.max_sequences, prepares=prepares) as stream:
            asked, prompt_ids = await self._prompts.read(request, serving)
            if asked.prompt_bytes:
                counters.text_bytes += asked.prompt_bytes
                counters.text_tokens += len(prompt_ids)
            constraint = await self._constraint(asked, serving)
            engine_request = build_engine_request(
                asked, prompt_ids, stream.engine_id, serving.eos_ids, limits, constraint
            )
            answer = _new_answer(asked, engine_request, serving.tokenizer)
            for token_id in asked.resumed_ids:  # their text was sent by the worker that made them
                if answer.ending is None:
                    answer.push(token_id)
            if isinstance(answer, PartedAnswer):
                answer.take()
            if constraint is not None and constraint.is_complete:
                answer.complete()
            accepted = pb.Accepted(
                model_digest=serving.digest,
                worker_id=self._worker_id,
                prompt_tokens=len(prompt_ids),
            )
            last: list[Event] = [accepted]
            cached_tokens = 0
            if answer.ending is None:
                serving.engine.submit(Add(engine_request))
                if trace is not None:
                    trace.on_submitted(stream, len(prompt_ids))
                log.debug("admitted", request_id=request_id, prompt_tokens=len(prompt_ids))
                try:
                    await send([accepted])
                    last, cached_tokens = await _stream(stream, answer, serving.tokenizer, send)
                finally:
                    if not stream.finished:  # a stop string, a client that left, or a drain
                        serving.engine.submit(Abort(stream.engine_id))
            finished = _finished(answer, len(prompt_ids), cached_tokens)
            if trace is not None:
                trace.on_finished(finished)
            await send([*last, finished])
            counters.finished += not prepares
            log.debug(
                "finished",
                request_id=request_id,
                completion_tokens=finished.completion_tokens,
                cached_tokens=cached_tokens,
                seconds=round(time.monotonic() - started, 4),
            )

    async def _constraint(
        self, asked: GenerationRequest, serving: ServingModel
    ) -> TokenConstraint | None:
        """What the answer is held to, as far as it has come. Raises InvalidRequestError."""
        if asked.grammar is None:
            return None
        key = (asked.grammar, asked.reasoning)
        compiled = await self._formats.compile(serving.grammars, key)
        return compiled.start(asked.resumed_ids, obeys_eos=not asked.ignore_eos)


def _new_answer(asked: GenerationRequest, request: Request, tokenizer: Tokenizer) -> Answer:
    if asked.new_parser is None:
        return Answer(
            tokenizer,
            stops=asked.stop_strings,
            stop_ids=request.stop_token_ids,
            max_tokens=request.max_tokens,
        )
    return PartedAnswer(
        tokenizer,
        asked.new_parser(),
        stops=asked.stop_strings,
        stop_ids=request.stop_token_ids,
        max_tokens=request.max_tokens,
        marks=tokenizer.mark_ids,
    )


async def _stream(
    stream: Stream, answer: Answer, pieces: Pieces, send: Send
) -> tuple[list[Event], int]:
    """Sends batches until the answer ends.

    Returns the last one, which its end belongs to, and the prompt tokens that the cache had.
    """
    cached_tokens = 0
    while True:
        outputs = await stream.next()
        cached_tokens = max(cached_tokens, *(output.cached_tokens for output in outputs))
        tokens = _batch(outputs, answer, pieces)
        events: list[Event] = [tokens] if tokens.ids else []
        if answer.ending is not None:
            return events, cached_tokens
        if events:
            await send(events)


def _check_continues(resume: pb.Resume, serving: ServingModel) -> None:
    """Raises PreconditionError unless the stream may go on here, exactly or not."""
    if resume.model_digest == serving.digest:
        return
    if not resume.weights_digest or resume.weights_digest != serving.weights_digest:
        raise PreconditionError(
            "the stream began on a worker with model digest"
            f" {resume.model_digest[:64]}; this one's is {serving.digest}"
        )


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
        if output.finished is FinishReason.STOP:
            answer.complete()
        elif output.finished is not None and answer.ending is None:
            answer.ending = Ending(output.finished)
    tokens.text = "".join(text)
    if isinstance(answer, PartedAnswer):
        tokens.parts.extend(map(_part, answer.take()))
    return tokens


def _part(part: Part) -> pb.OutputPart:
    match part.kind:
        case Kind.TEXT:
            return pb.OutputPart(text=part.text)
        case Kind.REASONING:
            return pb.OutputPart(reasoning=part.text)
        case Kind.CALL:
            call = pb.ToolCallPart(index=part.index, name=part.name, arguments=part.text)
            return pb.OutputPart(tool_call=call)


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
    parts = answer.take() if isinstance(answer, PartedAnswer) else ()
    return pb.Finished(
        reason=_REASONS[answer.ending.reason],
        text=text,
        stop_string=answer.ending.stop_string,
        prompt_tokens=prompt_tokens,
        completion_tokens=answer.tokens,
        cached_tokens=cached_tokens,
        parts=map(_part, parts),
        failed_calls=answer.failed_calls if isinstance(answer, PartedAnswer) else 0,
    )
