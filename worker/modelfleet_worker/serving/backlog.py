"""What a slow reader has not read yet, in a tenth of the memory of its objects."""

from __future__ import annotations

from array import array

from ..engine.messages import RequestOutput, TokenLogprobs
from ..engine.request import FinishReason

TOKENS = 256  # that one part holds; so many are sent in one message at most


class Part:
    """Outputs of one stream, one after another: with 20 logprobs some 200 bytes a token."""

    def __init__(self) -> None:
        self._request_id = ""
        self._ids, self._chosen = array("I"), array("f")  # as float32, which is what is sent
        self._tops, self._top_ids, self._top = array("H"), array("I"), array("f")
        self._cached_tokens = 0
        self._finished: FinishReason | None = None

    @property
    def full(self) -> bool:
        """Whether the next output belongs into another part."""
        return len(self._ids) >= TOKENS

    def add(self, output: RequestOutput) -> None:
        """Appends what a step brought."""
        self._request_id = output.request_id
        self._ids.extend(output.ids)
        for logprobs in output.logprobs:
            self._chosen.append(logprobs.chosen)
            self._tops.append(len(logprobs.top))
            for token_id, logprob in logprobs.top:
                self._top_ids.append(token_id)
                self._top.append(logprob)
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        self._finished = output.finished

    def whole(self) -> RequestOutput:
        """All of it as one output."""
        tops = iter(zip(self._top_ids, self._top, strict=True))
        return RequestOutput(
            request_id=self._request_id,
            ids=tuple(self._ids),
            logprobs=tuple(
                TokenLogprobs(chosen, tuple(next(tops) for _ in range(count)))
                for chosen, count in zip(self._chosen, self._tops, strict=True)
            ),
            cached_tokens=self._cached_tokens,
            finished=self._finished,
        )
