"""Prompts as text and as ids, made beside the event loop where that takes time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from modelfleet_proto import worker_pb2 as pb

from ..engine.request import EngineLimits
from ..errors import InvalidRequestError, NeverFitsError
from ..text.tokenizer import Tokenizer
from .chat_answers import plan_answer
from .chats import ChatPrompt
from .requests import GenerationRequest, read_request
from .serving_model import ServingModel

# What is read, rendered and tokenized sooner than a thread starts.
_QUICK_CHARACTERS: Final = 4096
_QUICK_MESSAGES: Final = 32
_QUICK_IDS: Final = 16_384


class PromptReader:
    """Reads requests; of long ones, one at a time in a thread of its own.

    Reading and rendering hold the GIL: two threads of it would take as long as one after the
    other, and the event loop and the engine would wait for each of them. Tokenizing lets go of
    the GIL, so that several prompts are tokenized at once.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")

    async def read(
        self, request: pb.GenerateRequest, serving: ServingModel, *, special_tokens: bool = True
    ) -> tuple[GenerationRequest, tuple[int, ...]]:
        """The request and its prompt's ids. Raises RefusalError.

        `special_tokens`: a text that is no chat gets those that the tokenizer puts around it.
        """
        tokenizer, limits = serving.tokenizer, serving.engine.limits

        def read() -> tuple[GenerationRequest, str | None]:
            asked = read_request(request, limits.vocab_size, serving.sampling_defaults)
            text = _prompt_text(asked, tokenizer, limits)
            if isinstance(asked.prompt, ChatPrompt) and text is not None:
                asked = plan_answer(asked, asked.prompt, text, tokenizer)
            return asked, text

        if is_quick(request):
            asked, text = read()
            return asked, _prompt_ids(asked, text, tokenizer, limits, special_tokens)
        asked, text = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        return asked, await asyncio.to_thread(
            _prompt_ids, asked, text, tokenizer, limits, special_tokens
        )


def is_quick(request: pb.GenerateRequest) -> bool:
    """Whether reading its prompt holds up nothing."""
    match request.WhichOneof("input"):
        case "prompt":
            return len(request.prompt) <= _QUICK_CHARACTERS
        case "prompt_token_ids":
            return len(request.prompt_token_ids.ids) <= _QUICK_IDS
        case "chat":
            chat, messages = request.chat, request.chat.messages
            return (
                len(messages) <= _QUICK_MESSAGES
                and len(chat.tools) + sum(len(m.content) + len(m.tool_calls) for m in messages)
                <= _QUICK_CHARACTERS
            )
    return True


def _prompt_text(
    asked: GenerationRequest, tokenizer: Tokenizer, limits: EngineLimits
) -> str | None:
    """The prompt's text; None if it came as ids.

    Raises NeverFitsError for a text that is far too long, and what the chat template raises.
    """
    match asked.prompt:
        case str(text):
            pass
        case ChatPrompt():
            text = tokenizer.render_chat(asked.prompt.chat)
        case _:
            return None
    least = tokenizer.least_tokens(text)
    if least > limits.context_length:
        raise NeverFitsError(
            f"the prompt is {len(text)} characters, at least {least} tokens, but the context "
            f"holds {limits.context_length}"
        )
    return text


def _prompt_ids(
    asked: GenerationRequest,
    text: str | None,
    tokenizer: Tokenizer,
    limits: EngineLimits,
    special_tokens: bool,
) -> tuple[int, ...]:
    """The ids of the prompt, whose text is given. Raises InvalidRequestError."""
    if text is None:
        return asked.prompt if isinstance(asked.prompt, tuple) else ()
    # A chat template writes the special tokens itself.
    is_chat = isinstance(asked.prompt, ChatPrompt)
    ids = tuple(tokenizer.encode(text, add_special_tokens=special_tokens and not is_chat))
    if not ids:
        raise InvalidRequestError("the prompt has no tokens: expected some text")
    if max(ids) >= limits.vocab_size:  # some checkpoints add tokens to the tokenizer alone
        raise InvalidRequestError(
            f"the prompt has token {max(ids)} of the tokenizer, but the model knows"
            f" {limits.vocab_size} tokens"
        )
    return ids
