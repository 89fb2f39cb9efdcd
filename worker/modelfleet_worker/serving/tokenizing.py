"""Text to token ids and back for callers: no slot, no load, nothing generated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from modelfleet_proto import worker_pb2 as pb

from ..errors import InvalidRequestError, NeverFitsError
from ..text.detokenizer import Detokenizer
from ..text.tokenizer import Tokenizer
from .lifecycle import Lifecycle
from .prompts import PromptReader, is_quick
from .requests import check_counts
from .serving_model import ServingModel

_QUICK_IDS: Final = 4096  # texts of so many ids are made sooner than a thread starts


class Tokenizing:
    """Answers Tokenize and Detokenize; of what takes long, one at a time."""

    def __init__(self, lifecycle: Lifecycle, prompts: PromptReader) -> None:
        self._lifecycle = lifecycle
        self._prompts = prompts
        self._long = asyncio.Lock()

    async def tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        """The ids of a request's prompt. Raises RefusalError."""
        serving = self._serving(request.request.model)
        check_counts(request.request, serving.engine.limits)
        if is_quick(request.request):
            return await self._tokenize(request, serving)
        async with self._long:
            return await self._tokenize(request, serving)

    async def detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        """The text of ids. Raises RefusalError."""
        serving = self._serving(request.model)
        limits = serving.engine.limits
        if len(request.ids) > limits.context_length:
            raise NeverFitsError(
                f"the request has {len(request.ids)} tokens, but the context holds"
                f" {limits.context_length}"
            )
        if wrong := [token_id for token_id in request.ids if token_id >= limits.vocab_size]:
            raise InvalidRequestError(
                f"token {wrong[0]} is not of the vocabulary, which has {limits.vocab_size} tokens"
            )
        if len(request.ids) <= _QUICK_IDS:
            return pb.DetokenizeResponse(text=text_of(request.ids, serving.tokenizer))
        async with self._long:
            text = await asyncio.to_thread(text_of, request.ids, serving.tokenizer)
        return pb.DetokenizeResponse(text=text)

    async def _tokenize(
        self, request: pb.TokenizeRequest, serving: ServingModel
    ) -> pb.TokenizeResponse:
        _, ids = await self._prompts.read(
            request.request, serving, special_tokens=not request.no_special_tokens
        )
        texts = [serving.tokenizer.piece(token_id) for token_id in ids]
        return pb.TokenizeResponse(
            ids=ids,
            context_length=serving.engine.limits.context_length,
            texts=texts if request.with_texts else (),
        )

    def _serving(self, model: str) -> ServingModel:
        serving = self._lifecycle.serving
        if serving is None or serving.spec.model != model:
            raise self._lifecycle.status.refusal(model)
        return serving


class _AsWritten:
    """Pieces of which special tokens are text, too."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def piece(self, token_id: int) -> bytes:
        """The token's own bytes."""
        return self._tokenizer.piece(token_id)

    def text_piece(self, token_id: int, *, first: bool) -> bytes:
        """What it adds to the text, which is nothing of special ones: then what it is written as.

        A token that is only the space before the first word adds nothing.
        """
        text = self._tokenizer.text_piece(token_id, first=first)
        if text:
            return text
        written = self._tokenizer.piece(token_id)
        return b"" if first and written.isspace() else written


def text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text that these ids are, special tokens as they are written."""
    detokenizer = Detokenizer(_AsWritten(tokenizer))
    return "".join(map(detokenizer.push, ids)) + detokenizer.flush()
