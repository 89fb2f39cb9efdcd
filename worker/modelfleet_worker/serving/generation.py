"""One request from its arrival to its last token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from modelfleet_proto import worker_pb2 as pb

from ..engine.messages import Abort, Add, RequestOutput, TokenLogprobs
from ..engine.request import EngineLimits, FinishReason, Request
from ..errors import InvalidRequestError, NeverFitsError, PreconditionError
from ..text.answer import Answer, Ending
from ..text.tokenizer import Pieces, Tokenizer
from .counters import Counters
from .lifecycle import ServingModel
from .requests import ChatPrompt, GenerationRequest, read_request
from .streams import Stream, Streams

Write = Callable[[pb.GenerateResponse], Awaitable[None]]

_QUICK_BYTES = 4096  # a shorter prompt is tokenized sooner than a thread starts
_REASONS = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


async def generate(
    request: pb.GenerateRequest,
    serving_model: ServingModel,
    streams: Streams,
    counters: Counters,
    worker_id: str,
    write: Write,
) -> None:
    """Serves one request through `write`. Raises RefusalError; aborts the engine if cancelled."""
    loaded, limits = serving_model.loaded, serving_model.engine.limits
    asked = read_request(request, limits.vocab_size)
    if asked.resumed_digest not in (None, loaded.digest):
        raise PreconditionError(
            f"the stream began on a worker with model digest {asked.resumed_digest}; "
            f"this one's is {loaded.digest}"
        )
    with streams.take_slot(limits.max_sequences) as stream:
        prompt_ids = await _tokenize(asked, loaded.tokenizer, limits)
        if asked.prompt_bytes:
            counters.text_bytes += asked.prompt_bytes
            counters.text_tokens += len(prompt_ids)
        engine_request = _plan(asked, prompt_ids, stream.engine_id, loaded.eos_ids, limits)
        answer = Answer(
            loaded.tokenizer,
            stops=asked.stop_strings,
            stop_ids=engine_request.stop_token_ids,
            max_tokens=engine_request.max_tokens,
        )
        for token_id in asked.resumed_ids:  # their text was sent by the worker that made them
            if answer.ending is None:
                answer.push(token_id)
        accepted = pb.Accepted(
            model_digest=loaded.digest, worker_id=worker_id, prompt_tokens=len(prompt_ids)
        )
        cached_tokens = 0
        if answer.ending is None:
            serving_model.engine.submit(Add(engine_request))
            try:
                await write(pb.GenerateResponse(accepted=accepted))
                cached_tokens = await _stream(stream, answer, loaded.tokenizer, write)
            finally:
                if not stream.finished:  # a stop string, a client that went, a drain
                    serving_model.engine.submit(Abort(stream.engine_id))
        else:
            await write(pb.GenerateResponse(accepted=accepted))
        finished = _finished(answer, len(prompt_ids), cached_tokens)
        await write(pb.GenerateResponse(finished=finished))
        counters.finished += 1


async def _tokenize(
    asked: GenerationRequest, tokenizer: Tokenizer, limits: EngineLimits
) -> tuple[int, ...]:
    """Raises NeverFitsError for a text that is far too long, without tokenizing it."""
    prompt = asked.prompt
    if isinstance(prompt, tuple):
        return prompt

    def encode() -> tuple[int, ...]:
        is_chat = isinstance(prompt, ChatPrompt)
        text = prompt if isinstance(prompt, str) else _render(prompt, asked.created, tokenizer)
        least = tokenizer.least_tokens(text)
        if least > limits.context_length:
            raise NeverFitsError(
                f"the prompt is {len(text)} characters, at least {least} tokens, but the context "
                f"holds {limits.context_length}"
            )
        # A chat template writes the special tokens itself.
        return tuple(tokenizer.encode(text, add_special_tokens=not is_chat))

    ids = encode() if asked.prompt_bytes <= _QUICK_BYTES else await asyncio.to_thread(encode)
    if not ids:
        raise InvalidRequestError("the prompt has no tokens: expected some text")
    if max(ids) >= limits.vocab_size:  # some checkpoints add tokens to the tokenizer alone
        raise InvalidRequestError(
            f"the prompt has token {max(ids)} of the tokenizer, but the model knows"
            f" {limits.vocab_size} tokens"
        )
    return ids


def _render(prompt: ChatPrompt, created: float, tokenizer: Tokenizer) -> str:
    return tokenizer.render_chat(
        prompt.messages, created=created, add_generation_prompt=prompt.add_generation_prompt
    )


def _plan(
    asked: GenerationRequest,
    prompt_ids: tuple[int, ...],
    engine_id: str,
    eos_ids: frozenset[int],
    limits: EngineLimits,
) -> Request:
    """What the engine is asked for. Raises NeverFitsError with the numbers."""
    room = min(limits.context_length, limits.kv_tokens) - len(prompt_ids)
    max_tokens = asked.max_tokens or max(room, 1)
    reason = limits.check_fits(len(prompt_ids), max_tokens)
    if reason is not None:
        raise NeverFitsError(reason)
    return Request(
        request_id=engine_id,
        prompt_ids=prompt_ids,
        resumed_ids=asked.resumed_ids,
        sampling=asked.sampling,
        max_tokens=max_tokens,
        stop_token_ids=asked.stop_token_ids | (frozenset() if asked.ignore_eos else eos_ids),
    )


async def _stream(stream: Stream, answer: Answer, pieces: Pieces, write: Write) -> int:
    """Writes batches until the answer ends; returns the prompt tokens that the cache had."""
    cached_tokens = 0
    while answer.ending is None:
        outputs = await stream.next()
        cached_tokens = max(cached_tokens, *(output.cached_tokens for output in outputs))
        tokens = _batch(outputs, answer, pieces)
        if tokens.ids:
            await write(pb.GenerateResponse(tokens=tokens))
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
