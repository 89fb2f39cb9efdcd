"""The URLs that count tokens: they wake no model and are no load."""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp

from ..access.caller import Caller
from ..anthropic_api.request import CountTokensRequest
from ..openai_api.answer import Json
from ..openai_api.tokenize import DetokenizeRequest, TokenizeRequest
from ..openai_api.translated import TranslatedRequest, read_fields, read_prompt
from ..responses_api.reader import ResponsesReader
from ..routing.dispatch import Dispatcher
from ..routing.queue import ModelQueue
from ..routing.tokenizing import detokenize, tokenize
from .body import ByOwner
from .dialects import ANTHROPIC, OPENAI, RESPONSES
from .json_endpoint import MakeEndpoint


def token_endpoints(
    dispatcher: Dispatcher, responses: ResponsesReader, make: MakeEndpoint
) -> dict[str, ASGIApp]:
    """Their applications, by path; all are for POST."""

    async def queue_of(model: str, caller: Caller) -> ModelQueue:
        return dispatcher.queues[(await dispatcher.find(model, caller)).model]

    async def count(question: tuple[TranslatedRequest, str, bytes], caller: Caller) -> int:
        _, model, prompt = question
        return len((await tokenize(await queue_of(model, caller), prompt)).ids)

    async def count_message(question: tuple[TranslatedRequest, str, bytes], caller: Caller) -> Json:
        return {"input_tokens": await count(question, caller)}

    async def count_input(question: tuple[TranslatedRequest, str, bytes], caller: Caller) -> Json:
        return {"object": "response.input_tokens", "input_tokens": await count(question, caller)}

    async def list_tokens(question: tuple[TokenizeRequest, str, bytes], caller: Caller) -> Json:
        request, model, prompt = question
        response = await tokenize(
            await queue_of(model, caller),
            prompt,
            special_tokens=request.add_special_tokens is not False,
            texts=bool(request.return_token_strs),
        )
        return request.written(response)

    async def list_text(request: DetokenizeRequest, caller: Caller) -> Json:
        queue = await queue_of(request.model, caller)
        return {"prompt": await detokenize(queue, request.tokens)}

    return {
        "/v1/messages/count_tokens": make(
            partial(read_prompt, CountTokensRequest), count_message, ANTHROPIC
        ),
        "/v1/responses/input_tokens": make(ByOwner(responses.read_input), count_input, RESPONSES),
        "/tokenize": make(partial(read_prompt, TokenizeRequest), list_tokens, OPENAI),
        "/detokenize": make(partial(read_fields, DetokenizeRequest), list_text, OPENAI),
    }
