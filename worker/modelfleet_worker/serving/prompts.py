"""Requests and the ids of their prompts, made beside the event loop where that takes time."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from modelfleet_proto import worker_pb2 as pb

from .lifecycle import ServingModel
from .requests import GenerationRequest, prompt_ids, prompt_text, read_request

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
        self, request: pb.GenerateRequest, serving: ServingModel
    ) -> tuple[GenerationRequest, tuple[int, ...]]:
        """The request and its prompt's ids. Raises RefusalError."""
        tokenizer, limits = serving.tokenizer, serving.engine.limits

        def read() -> tuple[GenerationRequest, str | None]:
            asked = read_request(request, limits.vocab_size, serving.sampling_defaults)
            return asked, prompt_text(asked, tokenizer, limits)

        if is_quick(request):
            asked, text = read()
            return asked, prompt_ids(asked, text, tokenizer, limits)
        asked, text = await asyncio.get_running_loop().run_in_executor(self._thread, read)
        return asked, await asyncio.to_thread(prompt_ids, asked, text, tokenizer, limits)


def is_quick(request: pb.GenerateRequest) -> bool:
    """Whether reading its prompt holds up nothing."""
    match request.WhichOneof("input"):
        case "prompt":
            return len(request.prompt) <= _QUICK_CHARACTERS
        case "prompt_token_ids":
            return len(request.prompt_token_ids.ids) <= _QUICK_IDS
        case "chat":
            messages = request.chat.messages
            return (
                len(messages) <= _QUICK_MESSAGES
                and sum(len(m.content) for m in messages) <= _QUICK_CHARACTERS
            )
    return True
